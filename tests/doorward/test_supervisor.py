"""The supervisor, with real workers, the real PostgreSQL and nats-server, and real signals."""

import asyncio
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import asyncpg
import pytest
import trustme

from doorward.embedded.postgres import EmbeddedPostgres
from doorward.embedded.process import EmbeddedError, Failure, RunningProcess
from doorward.supervisor import BackOff, Supervised, Supervisor, Worker, data_folder_lock

REPOSITORY = Path(__file__).parents[2]
QUICK = BackOff(first=0.02, ceiling=0.1, calm_after=30.0)

# argv: folder, name. The file `mode` says how the next worker behaves; `events` gets a line of what it does.
WORKER = """
import os, signal, sys, time
folder, name = sys.argv[1:]
def tell(what):
    with open(folder + "/events", "a") as events:
        events.write(f"{name} {os.getpid()} {what}\\n")
def drain(*_):
    tell("drained")
    sys.exit(0)
mode = open(folder + "/mode").read()
tell("began")
if mode == "dies":
    sys.exit(3)
if mode == "deaf":
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
else:
    signal.signal(signal.SIGTERM, drain)
if mode != "silent":
    tell("ready")
    os.write(int(os.environ["DOORWARD_READY_FD"]), b"ready\\n")
while mode in ("silent", "hangs"):
    time.sleep(60)
while True:
    time.sleep(0.1)
    os.write(int(os.environ["DOORWARD_READY_FD"]), b".")
"""

# argv: folder with the certificates, then five ports. A whole node, as `doorward serve` makes it.
NODE = """
import asyncio, sys
from pathlib import Path
from doorward.embedded.nats import EmbeddedNats
from doorward.embedded.nats_config import NatsListen
from doorward.embedded.postgres import EmbeddedPostgres
from doorward.embedded.process import EmbeddedError
from doorward.supervisor import Supervisor, Worker, data_folder_lock

folder, ports, worker = Path(sys.argv[1]), [int(port) for port in sys.argv[2:6]], sys.argv[6]

async def ready():
    print("ready", flush=True)

async def main():
    data = folder / "data"
    with data_folder_lock(data):
        postgres = EmbeddedPostgres(data, durable_init=False)
        nats = EmbeddedNats(data, NatsListen("127.0.0.1", *ports), server_certificate=folder / "server.pem",
            server_key=folder / "server.key", client_anchors=folder / "root.pem", callout_issuer="A" * 56)
        command = [sys.executable, "-I", "-S", "-c", worker, str(folder)]
        workers = [Worker(name, [*command, name]) for name in ("worker-1", "worker-2")]
        await Supervisor([postgres, nats], workers, on_ready=ready).run()
    print("stopped", flush=True)

try:
    asyncio.run(main())
except EmbeddedError as error:
    sys.exit(f"{error.kind}: {error}")
"""


@pytest.fixture
def folder() -> Iterator[Path]:
    made = Path(tempfile.mkdtemp(prefix="ew-"))
    (made / "mode").write_text("works")
    (made / "events").touch()
    yield made
    shutil.rmtree(made)


@pytest.fixture
def start_node(folder: Path) -> Iterator[Callable[[], "Node"]]:
    """Starts nodes in the folder, and ends what a failed test left of them."""
    nodes: list[Node] = []

    def start() -> Node:
        nodes.append(Node(folder))
        return nodes[-1]

    yield start
    for node in nodes:
        node.discard()


async def until(condition: Callable[[], object], what: str = "", seconds: float = 10.0) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, f"not in time: {what}"
        await asyncio.sleep(0.01)


async def connected(dsn: str) -> asyncpg.Connection:
    """A connection, as soon as there can be one."""
    for _ in range(500):
        with suppress(OSError, asyncpg.CannotConnectNowError):
            return await asyncpg.connect(dsn)
        await asyncio.sleep(0.01)
    raise AssertionError("no connection in time")


def events(folder: Path, what: str = "", name: str = "") -> list[tuple[str, int, str]]:
    lines = [line.split() for line in (folder / "events").read_text().splitlines()]
    told = [(who, int(pid), happened) for who, pid, happened in lines]
    return [each for each in told if what in each[2] and name in each[0]]


def is_gone(pid: int) -> bool:
    return RunningProcess.read(pid) is None


def worker(
    folder: Path,
    name: str = "worker-1",
    *,
    ready_seconds: float = 10.0,
    drain_seconds: float = 10.0,
    silent_seconds: float = 10.0,
) -> Worker:
    command = [sys.executable, "-I", "-S", "-c", WORKER, str(folder), name]
    return Worker(
        name,
        command,
        ready_seconds=ready_seconds,
        drain_seconds=drain_seconds,
        silent_seconds=silent_seconds,
    )


@asynccontextmanager
async def running(
    workers: Sequence[Worker],
    services: Sequence[Supervised] = (),
    on_ready: Callable[[], Awaitable[None]] | None = None,
) -> AsyncIterator[Supervisor]:
    supervisor = Supervisor(services, workers, on_ready=on_ready, back_off=QUICK)
    run = asyncio.create_task(supervisor.run())
    try:
        yield supervisor
    finally:
        supervisor.stop()
        await run


class Node:
    """`NODE` in a process of its own."""

    def __init__(self, folder: Path) -> None:
        self.seen: list[RunningProcess] = []
        if not (folder / "root.pem").exists():
            root = trustme.CA()
            pair = root.issue_cert("localhost", "127.0.0.1")
            root.cert_pem.write_to_path(str(folder / "root.pem"))
            pair.cert_chain_pems[0].write_to_path(str(folder / "server.pem"))
            pair.private_key_pem.write_to_path(str(folder / "server.key"))
            sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(4)]
            (folder / "ports").write_text(" ".join(str(each.getsockname()[1]) for each in sockets))
            for each in sockets:
                each.close()
        ports = (folder / "ports").read_text().split()
        self.process = subprocess.Popen(
            [sys.executable, "-c", NODE, str(folder), *ports, WORKER],
            cwd=REPOSITORY,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    async def says(self, line: str) -> None:
        assert self.process.stdout is not None
        said = await asyncio.to_thread(self.process.stdout.readline)
        assert said == line + "\n", self.process.stderr.read() if self.process.stderr else ""

    def children(self) -> list[RunningProcess]:
        task = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children")
        found = [RunningProcess.read(int(pid)) for pid in task.read_text().split()]
        self.seen = [each for each in found if each is not None]
        return self.seen

    def discard(self) -> None:
        for each in self.seen:
            if RunningProcess.read(each.pid) == each:
                os.kill(each.pid, signal.SIGKILL)
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()

    async def end(self, how: signal.Signals) -> int:
        self.process.send_signal(how)
        return await self.ended()

    async def ended(self) -> int:
        await until(lambda: self.process.poll() is not None, "the node ends")
        for stream in (self.process.stdout, self.process.stderr):
            assert stream is not None
            stream.close()
        return int(self.process.returncode)


async def test_a_whole_node_starts_stops_and_survives_kill_9_of_its_supervisor(
    start_node: Callable[[], Node], folder: Path
) -> None:
    node = start_node()
    await node.says("ready")
    children = node.children()
    names = sorted(Path(each.arguments[0]).name for each in children)
    assert names == sorted(["postgres", "nats-server", "nats-server", *[Path(sys.executable).name] * 2])
    assert all(os.getsid(each.pid) == each.pid for each in children), "the terminal's Ctrl-C is ours alone"

    await node.end(signal.SIGKILL)
    await until(lambda: all(is_gone(each.pid) for each in children), "children end with their parent", 5.0)

    node = start_node()
    await node.says("ready")
    children = node.children()
    assert await node.end(signal.SIGINT) == 0
    assert all(is_gone(each.pid) for each in children)
    assert len(events(folder, "drained")) == 2


async def test_what_a_killed_node_left_running_does_not_stop_the_next(start_node: Callable[[], Node]) -> None:
    node = start_node()
    await node.says("ready")
    left = [each for each in node.children() if Path(each.arguments[0]).name in {"postgres", "nats-server"}]
    for each in left:
        os.kill(each.pid, signal.SIGSTOP)  # so that they cannot follow their parent
    await node.end(signal.SIGKILL)
    assert len(left) == 3
    assert not any(is_gone(each.pid) for each in left)
    node = start_node()
    await node.says("ready")
    assert all(is_gone(each.pid) for each in left)
    assert await node.end(signal.SIGTERM) == 0


async def test_a_second_supervisor_is_refused_with_the_number_of_the_first(
    start_node: Callable[[], Node], folder: Path
) -> None:
    with data_folder_lock(folder / "data"):
        node = start_node()
        assert node.process.stderr is not None
        said = await asyncio.wait_for(asyncio.to_thread(node.process.stderr.readline), 20)
        assert await node.ended() == 1
        assert said.startswith("locked: ")
        assert f"process {os.getpid()}" in said
        with pytest.raises(EmbeddedError) as refused, data_folder_lock(folder / "data"):
            pass
        assert refused.value.kind is Failure.LOCKED
    with data_folder_lock(folder / "data"):
        pass


async def test_on_ready_comes_once_all_are_ready(folder: Path) -> None:
    seen: list[int] = []

    async def on_ready() -> None:
        seen.append(len(events(folder, "ready")))

    async with running([worker(folder, f"worker-{number}") for number in range(3)], on_ready=on_ready):
        await until(lambda: seen, "on_ready")
    assert seen == [3]
    assert len(events(folder, "drained")) == 3


async def test_a_killed_worker_is_replaced(folder: Path) -> None:
    async with running([worker(folder)]):
        for times in range(1, 4):
            await until(lambda times=times: len(events(folder, "ready")) == times, f"worker {times}")  # type: ignore[misc]
            os.kill(events(folder, "ready")[-1][1], signal.SIGKILL)
        await until(lambda: len(events(folder, "ready")) == 4, "the last worker")
    assert [happened for _, _, happened in events(folder)][-1] == "drained"


async def test_a_worker_that_was_stopped_is_killed_and_replaced(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    async with running([worker(folder, silent_seconds=1.0)]):
        await until(lambda: events(folder, "ready"), "the worker")
        await asyncio.sleep(1.5)
        assert len(events(folder, "began")) == 1, "one that shows signs of life is left alone"
        pid = events(folder, "ready")[0][1]
        os.kill(pid, signal.SIGSTOP)
        await until(lambda: len(events(folder, "ready")) == 2, "another one", 5.0)
        assert is_gone(pid)
    assert "worker-1: was silent for 1 s and was killed" in caplog.text


async def test_a_worker_that_hangs_is_killed_and_replaced(folder: Path) -> None:
    (folder / "mode").write_text("hangs")
    async with running([worker(folder, silent_seconds=0.5)]):
        await until(lambda: len(events(folder, "ready")) == 2, "another one", 5.0)
        assert is_gone(events(folder, "ready")[0][1])
        (folder / "mode").write_text("works")


async def test_a_worker_that_always_dies_is_started_for_ever_and_recovers(folder: Path) -> None:
    (folder / "mode").write_text("dies")
    async with running([worker(folder)]):
        await until(lambda: len(events(folder, "began")) >= 6, "six tries")
        (folder / "mode").write_text("works")
        await until(lambda: events(folder, "ready"), "the worker recovers")


def test_the_pause_doubles_up_to_its_ceiling_and_is_forgotten_after_a_calm_run() -> None:
    back_off = BackOff(first=0.5, ceiling=3.0, calm_after=30.0)
    pauses: list[float | None] = [None]
    for _ in range(6):
        pauses.append(back_off.pause(pauses[-1], lived=1.0))
    assert pauses[1:] == [0.0, 0.5, 1.0, 2.0, 3.0, 3.0]
    assert back_off.pause(3.0, lived=30.0) == 0.0


async def test_a_worker_that_is_never_ready_is_killed_and_tried_again(folder: Path) -> None:
    (folder / "mode").write_text("silent")
    async with running([worker(folder, ready_seconds=0.3)]):
        await until(lambda: len(events(folder, "began")) == 2, "the second try")
        assert is_gone(events(folder, "began")[0][1])
        (folder / "mode").write_text("works")
        await until(lambda: events(folder, "ready"), "the worker recovers")


async def test_a_roll_replaces_one_at_a_time_and_the_new_one_is_ready_before_the_old_one_drains(
    folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with running([worker(folder, "worker-1"), worker(folder, "worker-2")]) as supervisor:
        await until(lambda: len(events(folder, "ready")) == 2, "the first two")
        old = {name: pid for name, pid, _ in events(folder, "ready")}
        started = len(events(folder))
        os.kill(os.getpid(), signal.SIGHUP)
        await until(lambda: len(events(folder, "drained")) == 2, "the roll")
        rolled = [(name, happened, pid == old[name]) for name, pid, happened in events(folder)[started:]]
        assert rolled == [
            (name, happened, was_there)
            for name in ("worker-1", "worker-2")
            for happened, was_there in (("began", False), ("ready", False), ("drained", True))
        ]
        await asyncio.sleep(0.1)
        assert "starting it again" not in caplog.text, "a worker that was replaced did not fail"
        # The one that took the place is watched like the first.
        os.kill(events(folder, "ready", "worker-1")[-1][1], signal.SIGKILL)
        await until(lambda: len(events(folder, "ready", "worker-1")) == 3, "its successor")
        supervisor.roll()
        supervisor.roll()
        await until(lambda: len(events(folder, "drained")) == 4, "one more roll, and only one")


async def test_a_roll_ends_at_the_first_worker_that_does_not_become_ready(folder: Path) -> None:
    async with running([worker(folder, "worker-1"), worker(folder, "worker-2")]) as supervisor:
        await until(lambda: len(events(folder, "ready")) == 2, "the first two")
        old = [pid for _, pid, _ in events(folder, "ready")]
        (folder / "mode").write_text("dies")
        supervisor.roll()
        await until(lambda: len(events(folder, "began")) == 3, "one try")
        await asyncio.sleep(0.2)
        assert len(events(folder, "began")) == 3
        assert not any(is_gone(pid) for pid in old)


async def test_a_deaf_worker_is_killed_at_its_deadline(folder: Path) -> None:
    (folder / "mode").write_text("deaf")
    async with running([worker(folder, drain_seconds=0.3)]):
        await until(lambda: events(folder, "ready"), "the worker")
    assert is_gone(events(folder, "ready")[0][1])


async def test_a_second_signal_hurries(folder: Path) -> None:
    (folder / "mode").write_text("deaf")
    began = time.monotonic()
    async with running([worker(folder, drain_seconds=60.0)]):
        await until(lambda: events(folder, "ready"), "the worker")
        os.kill(os.getpid(), signal.SIGINT)
        await asyncio.sleep(0.2)
        assert not is_gone(events(folder, "ready")[0][1])
        os.kill(os.getpid(), signal.SIGINT)
        await until(lambda: is_gone(events(folder, "ready")[0][1]), "the kill")
    assert time.monotonic() - began < 10


async def test_a_stop_while_a_worker_starts_leaves_none(folder: Path) -> None:
    (folder / "mode").write_text("silent")
    async with running([worker(folder)]):
        await until(lambda: events(folder, "began"), "the worker")
    assert is_gone(events(folder, "began")[0][1])


async def test_a_killed_postgres_is_started_again_and_a_service_that_cannot_start_stops_the_node(folder: Path) -> None:
    postgres = EmbeddedPostgres(folder / "data", durable_init=False)
    addresses = await postgres.start()
    async with running([worker(folder)], [postgres]):
        await until(lambda: events(folder, "ready"), "the node")
        first = postgres.process
        assert first is not None
        os.kill(first.pid, signal.SIGKILL)
        await until(lambda: postgres.process is not first and postgres.alive, "the next PostgreSQL")
        connection = await connected(addresses.node_dsn)
        assert await connection.fetchval("SELECT 1") == 1
        await connection.close()
        assert len(events(folder, "began")) == 1, "the worker was left alone"
    assert not postgres.alive

    (folder / "data" / "postgres" / "cluster" / "PG_VERSION").write_text("9\n")
    before = len(events(folder))
    with pytest.raises(EmbeddedError) as refused:
        await Supervisor([postgres], [worker(folder)]).run()
    assert refused.value.kind is Failure.INCOMPATIBLE
    assert len(events(folder)) == before, "no worker was started"

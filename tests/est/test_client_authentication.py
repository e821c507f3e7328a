"""Our client with what a label may want beside a certificate: secrets, tokens, an operator's decision."""

import asyncio
import os
import pty
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from est.client import (
    BasicSecret,
    BearerToken,
    DeviceFolder,
    EstFailure,
    Failure,
    Server,
    Wish,
    enrol,
    until_approved,
)
from est.client.keys import public_bytes
from est.profiles import Approval, Settings, Way
from tests.est.test_authentication import BY_OPERATOR, BY_SECRET, BY_TOKEN, ENROLMENTS, decide, make, waiting
from tests.est.world import EstWorld

NAME = "meter-001"
Done = subprocess.CompletedProcess[str]


@pytest.fixture
def folder(est: EstWorld, tmp_path: Path) -> DeviceFolder:
    """A device that came out of the factory with nothing but its name."""
    made = DeviceFolder(tmp_path)
    made.keep_identifier(NAME)
    made.keep_roots(est.root_file.read_bytes())
    return made


async def run(step: Callable[..., Any], *arguments: Any, **more: Any) -> Any:
    return await asyncio.to_thread(step, *arguments, **more)


async def failure_of(folder: DeviceFolder, server: Server) -> EstFailure:
    with pytest.raises(EstFailure) as failed:
        await run(enrol, folder, server, Wish())
    return failed.value


async def test_a_secret(est: EstWorld, folder: DeviceFolder) -> None:
    await est.label("meters", settings=BY_SECRET)
    secret = (await make(est, {"device_identifier": NAME}))["secret"]
    for wrong in (None, BasicSecret("meters", "wrong")):
        failed = await failure_of(folder, Server(est.url, "meters", wrong))
        assert (failed.failure, failed.status) == (Failure.REFUSED, 401)
    await run(enrol, folder, Server(est.url, "meters", BasicSecret("meters", secret)), Wish())
    assert folder.is_pair()


async def test_a_secret_on_the_command_line(est: EstWorld, folder: DeviceFolder) -> None:
    await est.label("meters", settings=BY_SECRET)
    file = folder.path / "secret"
    file.write_text((await make(est, {"device_identifier": NAME}))["secret"] + "\n")
    done = await run(command, est, folder, "--label", "meters", "--secret-file", str(file))
    assert (done.returncode, folder.is_pair()) == (0, True), done.stderr
    renewed = await run(command, est, folder, name="renew")  # the label is remembered
    assert renewed.returncode == 0, renewed.stderr


async def test_a_token(est: EstWorld, folder: DeviceFolder) -> None:
    await est.label("meters", settings=BY_TOKEN)
    headers = await est.world.identity(est.world.system.id, ENROLMENTS, [NAME])
    failed = await failure_of(folder, Server(est.url, "meters", BearerToken("nobody")))
    assert (failed.failure, failed.status) == (Failure.REFUSED, 401)
    token = BearerToken(headers["Authorization"].partition(" ")[2])
    await run(enrol, folder, Server(est.url, "meters", token), Wish())
    assert folder.is_pair()


async def test_a_certificate_and_a_token(est: EstWorld, folder: DeviceFolder) -> None:
    await est.label("meters", settings=Settings(ways=(Way.CERTIFICATE, Way.TOKEN)))
    bootstrap = await est.bootstrap(NAME)
    headers = await est.world.identity(est.world.system.id, ENROLMENTS, [NAME])
    server = Server(est.url, "meters", BearerToken(headers["Authorization"].partition(" ")[2]))
    assert (await failure_of(folder, server)).status == 401
    folder.bootstrap.certificate.write_bytes(bootstrap.certificate_file.read_bytes())
    folder.bootstrap.key.write_bytes(bootstrap.key_file.read_bytes())
    await run(enrol, folder, server, Wish())
    assert folder.is_pair()


async def test_an_operators_decision_is_waited_for(est: EstWorld, folder: DeviceFolder) -> None:
    await est.label("meters", settings=BY_OPERATOR)
    asked = asyncio.Event()
    decided = asyncio.Event()
    loop = asyncio.get_running_loop()
    pauses: list[float] = []

    def wait(pause: timedelta, failure: EstFailure) -> None:
        assert failure.failure is Failure.PENDING
        pauses.append(pause.total_seconds())
        loop.call_soon_threadsafe(asked.set)
        asyncio.run_coroutine_threadsafe(decided.wait(), loop).result(30)

    server = Server(est.url, "meters")
    enrolling = asyncio.create_task(run(until_approved, lambda: enrol(folder, server, Wish()), wait=wait))
    await asked.wait()
    key = folder.pending()
    (request,) = await waiting(est, "?filter=state[eq]pending")
    await decide(est, "approve", request["id"])
    decided.set()
    await enrolling
    assert key is not None
    assert (public_bytes(folder.key()), folder.is_pair(), pauses) == (public_bytes(key), True, [60.0])


@pytest.mark.parametrize("proves", [True, False])
async def test_an_interrupted_wait_goes_on_with_the_same_key(est: EstWorld, folder: DeviceFolder, proves: bool) -> None:
    await est.label("meters", settings=BY_OPERATOR)
    wish, server = Wish(proves_possession=proves), Server(est.url, "meters")
    for _ in range(3):
        assert (await failure_of(folder, server)).failure is Failure.PENDING
    (request,) = await waiting(est, "?filter=state[eq]pending")  # one, however often it was asked
    await decide(est, "approve", request["id"])
    await run(enrol, folder, server, wish)
    assert folder.is_pair()


async def test_a_decision_against_is_told(est: EstWorld, folder: DeviceFolder) -> None:
    await est.label("meters", settings=BY_OPERATOR)
    assert (await failure_of(folder, Server(est.url, "meters"))).failure is Failure.PENDING
    (request,) = await waiting(est, "?filter=state[eq]pending")
    await decide(est, "reject", request["id"])
    failed = await failure_of(folder, Server(est.url, "meters"))
    assert (failed.failure, failed.status) == (Failure.REFUSED, 403)


def command(est: EstWorld, folder: DeviceFolder, *options: str, name: str = "enroll") -> Done:
    arguments = [*program(est, folder, name), *options]
    return subprocess.run(arguments, capture_output=True, text=True, check=False, timeout=60)


def interrupted(arguments: list[str]) -> tuple[int, bytes, bytes]:
    """Run a command on a terminal, and press Ctrl-C while it waits; return its status, what it showed, its output."""
    main, follower = pty.openpty()
    process = subprocess.Popen(arguments, stdout=subprocess.PIPE, stderr=follower)
    os.close(follower)
    shown = read_until(main, b"waits for approval")
    process.send_signal(signal.SIGINT)
    shown += read_until(main, b"goes on where this one was")
    output, _ = process.communicate(timeout=20)
    os.close(main)
    return process.returncode, shown, output


def program(est: EstWorld, folder: DeviceFolder, name: str = "enroll") -> list[str]:
    return [sys.executable, "-m", "doorward", "device", name, "--url", est.url, "--out", str(folder.path)]


async def test_waiting_on_the_command_line(est: EstWorld, folder: DeviceFolder) -> None:
    await est.label(
        "meters", settings=Settings(ways=(Way.APPROVAL,), approval=Approval(retry_after=timedelta(seconds=1)))
    )
    label = ("--label", "meters")
    done = await run(command, est, folder, *label)
    assert (done.returncode, "An operator has to approve it" in done.stderr) == (3, True)
    done = await run(command, est, folder, *label, "--wait", "1s")
    assert (done.returncode, "Asking again in 1 s" in done.stderr) == (3, True)

    status, shown, output = await run(interrupted, [*program(est, folder), *label, "--wait"])
    assert (status, NAME.encode() in shown, output) == (130, True, b"")
    (request,) = await waiting(est, "?filter=state[eq]pending")
    again = asyncio.create_task(run(command, est, folder, *label, "--wait", "--json"))
    await asyncio.sleep(1)
    await decide(est, "approve", request["id"])
    done = await again
    assert (done.returncode, folder.is_pair()) == (0, True), done.stderr


def read_until(terminal: int, words: bytes) -> bytes:
    read, deadline = b"", time.monotonic() + 20
    while words not in read and time.monotonic() < deadline:
        read += os.read(terminal, 4096)
    return read

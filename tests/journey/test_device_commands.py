"""`doorward device`, against a whole node: exit statuses, JSON, and a daemon that is killed at the worst moment."""

import json
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import trustme
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding, load_pem_private_key

from certs.pem import fingerprint_sha256
from doorward.commands.device.options import KEY_KINDS
from est.client import KeyKind
from est.client.folder import DeviceFolder
from tests.journey.conftest import RunningNode

SECONDS = 20.0


@pytest.fixture
def folder(node: RunningNode, tmp_path: Path) -> Path:
    """A device out of the factory."""
    made = tmp_path / "device"
    node.command("device", "bootstrap", "--id", f"pump-{tmp_path.name}", "--out", str(made))
    return made


def device(node: RunningNode, name: str, folder: Path, *options: str, status: int = 0, url: str | None = None) -> Any:
    """Run a command with --json; return what it printed."""
    place = () if name == "status" else ("--url", url or node.est)
    done = node.command("device", name, "--out", str(folder), "--json", *place, *options, check=False)
    assert done.returncode == status, (done.returncode, done.stdout, done.stderr)
    return json.loads(done.stdout) if done.stdout else None


def certificate(folder: Path) -> x509.Certificate:
    return x509.load_pem_x509_certificate((folder / "device.pem").read_bytes())


def assert_is_pair(folder: Path) -> None:
    key = load_pem_private_key((folder / "device.key").read_bytes(), None)
    assert certificate(folder).public_key() == key.public_key()
    assert (folder / "device.key").stat().st_mode & 0o777 == 0o600


def test_the_kinds_of_keys_are_the_librarys() -> None:
    assert tuple(KeyKind) == KEY_KINDS


def test_from_nothing_to_renewed(node: RunningNode, folder: Path) -> None:
    assert device(node, "status", folder, status=8)["state"] == "none"
    first = device(node, "enroll", folder)
    assert set(first) == {"certificate", "key", "serial", "notAfter"}
    assert_is_pair(folder)
    stands = device(node, "status", folder)
    assert (stands["state"], stands["serial"], stands["keyFits"]) == ("valid", first["serial"], True)
    key = (folder / "device.key").read_bytes()
    second = device(node, "renew", folder)
    assert (second["serial"] != first["serial"], (folder / "device.key").read_bytes()) == (True, key)
    device(node, "renew", folder, "--rekey", "--key-type", "P-384", "--prove")
    assert_is_pair(folder)
    assert (folder / "device.key").read_bytes() != key
    generation = (folder / "pair").readlink().name
    assert sorted(one.name for one in folder.iterdir()) == [
        ".lock",
        "bootstrap.key",
        "bootstrap.pem",
        "device.id",
        "device.key",
        "device.pem",
        "est.json",
        "pair",
        generation,
        "root.pem",
    ]


def test_a_root_by_its_fingerprint(node: RunningNode, tmp_path: Path) -> None:
    root = x509.load_pem_x509_certificate(node.root.read_bytes())
    fingerprint = fingerprint_sha256(root.public_bytes(Encoding.DER)).lower()
    shown = device(node, "cacerts", tmp_path, "--fingerprint", fingerprint)
    assert [one["sha256"] for one in shown["authorities"] if one["isRoot"]] == [fingerprint.upper()]
    assert (tmp_path / "root.pem").read_bytes() == node.root.read_bytes()
    wrong = device(node, "cacerts", tmp_path, "--fingerprint", "00" * 32, status=5)
    assert wrong["failure"] == "untrusted"


def test_what_a_request_should_hold(node: RunningNode, folder: Path) -> None:
    shown = device(node, "csrattrs", folder)
    assert set(shown) == {"proofOfPossession", "key", "signature", "subject", "extensions", "unknown"}


@pytest.mark.parametrize(
    ("options", "url", "status", "failure"),
    [
        (("--label", "nowhere"), None, 1, "refused"),
        ((), "https://127.0.0.1:9", 4, "unreachable"),
        ((), "http://127.0.0.1:9", 1, "folder"),
        (("--root", "other.pem"), None, 5, "untrusted"),
        (("--root", "missing.pem"), None, 1, "folder"),
        (("--id", "a/b"), None, 1, "folder"),
        (("--secret-file", "missing"), None, 1, "folder"),
    ],
)
def test_failures_say_what_to_do(
    node: RunningNode, folder: Path, options: tuple[str, ...], url: str | None, status: int, failure: str
) -> None:
    folder.joinpath("other.pem").write_bytes(trustme.CA().cert_pem.bytes())
    given = [str(folder / one) if one.endswith((".pem", "missing")) else one for one in options]
    told = device(node, "enroll", folder, *given, status=status, url=url)
    assert set(told) == {"failure", "status", "detail", "retryAfter", "next"}
    assert (told["failure"], bool(told["detail"])) == (failure, True)
    assert not (folder / "device.pem").exists()


def test_a_command_line_that_is_not_understood(node: RunningNode, folder: Path) -> None:
    assert node.command("device", "renew", "--out", str(folder), "--before", "soon", check=False).returncode == 2


def test_a_first_enrolment_needs_something_to_show(node: RunningNode, folder: Path) -> None:
    (folder / "bootstrap.pem").unlink()
    assert device(node, "enroll", folder, status=1)["detail"] == "Present a client certificate."
    assert "enrol first" in device(node, "renew", folder, status=1)["detail"]


def test_a_key_that_waits_is_asked_with_again(node: RunningNode, folder: Path) -> None:
    device(node, "enroll", folder, status=4, url="https://127.0.0.1:9")
    assert not (folder / "next.key").exists()
    device(node, "enroll", folder)
    device(node, "renew", folder, "--rekey", status=4, url="https://127.0.0.1:9")
    assert_is_pair(folder)


class Daemon:
    """`renew --watch` in a process of its own."""

    def __init__(self, node: RunningNode, folder: Path, *options: str) -> None:
        command = [sys.executable, "-m", "doorward", "device", "renew", "--watch", "--json", "--url", node.est]
        self.process = subprocess.Popen(
            [*command, "--out", str(folder), *options],
            env=node.environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def event(self, name: str) -> dict[str, Any]:
        """Wait for an event."""
        assert self.process.stdout is not None
        deadline = time.monotonic() + SECONDS
        while time.monotonic() < deadline:
            line = self.process.stdout.readline()
            assert line, self.process.stderr and self.process.stderr.read()
            told: dict[str, Any] = json.loads(line)
            if told["event"] == name:
                return told
        raise AssertionError(f"no {name}")

    def send(self, number: int) -> None:
        self.process.send_signal(number)

    def end(self, number: int = signal.SIGTERM) -> int:
        self.process.send_signal(number)
        status = self.process.wait(SECONDS)
        for pipe in (self.process.stdout, self.process.stderr):
            assert pipe is not None
            pipe.close()
        return status


def test_the_daemon_renews_and_runs_its_command(node: RunningNode, folder: Path, tmp_path: Path) -> None:
    first = device(node, "enroll", folder)
    told = tmp_path / "told"
    script = f"{sys.executable} -c \"import os, pathlib; pathlib.Path('{told}').write_text(repr(dict(os.environ)))\""
    daemon = Daemon(node, folder, "--rekey", "--exec", script)
    assert daemon.event("watching")["serial"] == first["serial"]
    daemon.send(signal.SIGHUP)
    renewed = daemon.event("renewed")
    assert daemon.event("command-ran")["serial"] == renewed["serial"] != first["serial"]
    assert_is_pair(folder)
    environment = eval(told.read_text())  # noqa: S307 - what this test wrote
    assert environment["DOORWARD_CERTIFICATE"] == str(folder / "device.pem")
    assert environment["DOORWARD_SERIAL"] == renewed["serial"]
    watch = device(node, "status", folder)["watch"]
    assert (watch["state"], watch["failures"], watch["commandFailed"]) == ("waiting", 0, None)
    assert daemon.end() == 0


def test_a_command_is_no_shells(node: RunningNode, folder: Path, tmp_path: Path) -> None:
    device(node, "enroll", folder)
    device(node, "renew", folder, "--exec", f"touch {tmp_path}/a;b {tmp_path}/$HOME")
    assert (tmp_path / "a;b").exists()
    device(node, "renew", folder, "--exec-shell", f'touch "{tmp_path}/$DOORWARD_SERIAL"; exit 3', status=1)
    assert (tmp_path / f"{certificate(folder).serial_number:032x}").exists()


@pytest.mark.parametrize("delay", [0.0, 0.03, 0.06, 0.1, 0.2])
def test_a_daemon_killed_while_it_renews_loses_nothing(node: RunningNode, folder: Path, delay: float) -> None:
    device(node, "enroll", folder)
    daemon = Daemon(node, folder, "--rekey")
    daemon.event("watching")
    daemon.send(signal.SIGHUP)
    time.sleep(delay)
    daemon.end(signal.SIGKILL)
    for file in folder.glob("*.key"):
        load_pem_private_key(file.read_bytes(), None)
        assert file.stat().st_mode & 0o777 == 0o600
    device(node, "renew", folder)  # whatever was under way is found again: nothing is locked out
    assert_is_pair(folder)
    assert not (folder / "next.key").exists()


@pytest.mark.parametrize("delay", [0.3, 0.4, 0.45, 0.5, 0.6])
def test_an_enrolment_killed_loses_nothing(node: RunningNode, folder: Path, delay: float) -> None:
    asks = subprocess.Popen(
        [sys.executable, "-m", "doorward", "device", "enroll", "--url", node.est, "--out", str(folder)],
        env=node.environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    time.sleep(delay)
    asks.kill()
    asks.wait(SECONDS)
    begun = (folder / "next.key").read_bytes() if (folder / "next.key").exists() else None
    device(node, "enroll", folder)
    assert_is_pair(folder)
    assert begun in {None, (folder / "device.key").read_bytes()}


def test_enrolling_twice_gives_the_same_certificate(node: RunningNode, folder: Path) -> None:
    first = device(node, "enroll", folder)
    assert device(node, "enroll", folder) == first
    assert "replacement" in device(node, "enroll", folder, "--start-over", status=1)["detail"]
    assert_is_pair(folder)
    assert device(node, "status", folder)["keyIsWaiting"] is True
    device(node, "renew", folder, "--start-over")
    assert device(node, "status", folder)["keyIsWaiting"] is False


def test_one_process_at_a_time(node: RunningNode, folder: Path) -> None:
    device(node, "enroll", folder)
    with DeviceFolder(folder).lock():
        assert "another process" in device(node, "renew", folder, status=1)["detail"].lower()
    device(node, "renew", folder)


def test_a_daemon_goes_on_after_a_failure(node: RunningNode, folder: Path) -> None:
    device(node, "enroll", folder)
    daemon = Daemon(node, folder, "--url", "https://127.0.0.1:9")
    daemon.event("watching")
    daemon.send(signal.SIGHUP)
    assert daemon.event("failed")["failure"] == "unreachable"
    watch = device(node, "status", folder)["watch"]
    assert (watch["state"], watch["failures"]) == ("failing", 1)
    assert daemon.end() == 0
    again = Daemon(node, folder)
    again.event("watching")
    again.send(signal.SIGHUP)
    again.event("renewed")
    assert device(node, "status", folder)["watch"]["failures"] == 0
    assert again.end(signal.SIGINT) == 0

"""A device's folder through every crash, and when it renews."""

import json
import os
import signal
import subprocess
import sys
import textwrap
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.hashes import SHA256
from hypothesis import given
from hypothesis import strategies as st

from doorward.cli import main
from est.client import EstFailure, Failure, enrolment_request, make_key
from est.client.client import EstClient
from est.client.device import check_renewable, until_approved
from est.client.files import FolderBusy, write_whole
from est.client.folder import DeviceFolder, FolderUnusable, is_for
from est.client.keys import KeyKind, PrivateKey, read_key, write_key
from est.client.renewal import Moment, Window, life, wait_after_failure, wait_for_approval
from est.client.trust import succeeding_roots

NOW = datetime(2026, 6, 1, tzinfo=UTC)
DAY = timedelta(days=1)


def certificate(
    key: PrivateKey, *, begins: datetime = NOW, ends: datetime = NOW + 90 * DAY, serial: int = 7, name: str = "pump-7"
) -> x509.Certificate:
    subject = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, name)])
    builder = x509.CertificateBuilder().subject_name(subject).issuer_name(subject).public_key(key.public_key())
    builder = builder.serial_number(serial).not_valid_before(begins).not_valid_after(ends)
    return builder.sign(key, SHA256())  # type: ignore[arg-type] - P-256 all of them


@pytest.fixture
def folder(tmp_path: Path) -> DeviceFolder:
    made = DeviceFolder(tmp_path / "pump")
    made.path.mkdir()
    return made


def holds(folder: DeviceFolder) -> set[str]:
    """Name what is in a folder, beside what a pair consists of (`test_client_pair.py`)."""
    return {one.name for one in folder.path.iterdir() if one.name.partition("-")[0] != "pair"}


def test_a_private_file_is_private_from_its_first_moment(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        write_whole(tmp_path / "key", b"secret", 0o600)
    finally:
        os.umask(before)
    assert ((tmp_path / "key").stat().st_mode & 0o777, holds(DeviceFolder(tmp_path))) == (0o600, {"key"})


def test_a_link_in_the_way_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / ".key.new").symlink_to(tmp_path / "elsewhere")
    write_whole(tmp_path / "key", b"secret", 0o600)
    assert not (tmp_path / "elsewhere").exists()


def test_the_first_pair(folder: DeviceFolder) -> None:
    key = folder.begin(KeyKind.P256)
    assert write_key(folder.begin(KeyKind.P384)) == write_key(key)  # the one that waits
    assert not folder.is_pair()
    folder.finish(certificate(key))
    assert (folder.is_pair(), holds(folder)) == (True, {"device.key", "device.pem"})


def test_an_answer_for_no_key_is_put_aside(folder: DeviceFolder) -> None:
    key = folder.begin(KeyKind.P256)
    folder.finish(certificate(key))
    folder.finish(certificate(make_key(), serial=9))
    assert (folder.is_pair(), holds(folder)) == (True, {"device.key", "device.pem", "stray.pem"})


def test_the_very_same_request_is_sent_again(folder: DeviceFolder) -> None:
    key = folder.begin(KeyKind.P256)
    first = folder.resume(enrolment_request(key, "pump-7"))
    assert folder.resume(enrolment_request(key, "pump-7")) == first
    assert folder.resume(enrolment_request(key, "pump-8")) != first
    proving = enrolment_request(key, "pump-7").proving()
    assert folder.resume(proving) is proving
    assert folder.give_up()
    assert not folder.give_up()
    assert holds(folder) == set()


def test_the_folder_is_one_processes(folder: DeviceFolder) -> None:
    with folder.lock(), pytest.raises(FolderBusy), DeviceFolder(folder.path).lock():
        pass
    with pytest.raises(FolderUnusable), DeviceFolder(folder.path / "none").lock():
        pass


@pytest.mark.parametrize(
    ("file", "content", "words"),
    [
        ("device.pem", b"nonsense", "holds no certificate"),
        ("device.key", b"nonsense", "not a private key"),
        (
            "device.key",
            b"-----BEGIN ENCRYPTED PRIVATE KEY-----\nAAA=\n",
            "without a",
        ),
    ],
)
def test_what_cannot_be_used_is_named(folder: DeviceFolder, file: str, content: bytes, words: str) -> None:
    folder.finish(certificate(folder.begin(KeyKind.P256)))
    (folder.path / file).write_bytes(content)
    with pytest.raises(FolderUnusable, match=words) as unusable:
        folder.is_pair()
    assert file in str(unusable.value)


WRITER = """
import sys
from pathlib import Path
from est.client.folder import DeviceFolder
from est.client.keys import KeyKind
from tests.est.test_client_folder import certificate

folder = DeviceFolder(Path(sys.argv[1]))
serial = 100
while True:
    folder.recover()
    key = folder.begin(KeyKind.P256)
    folder.finish(certificate(key, serial=serial))
    serial += 1
    print(serial, flush=True)
"""


def test_killed_again_and_again_while_it_writes(folder: DeviceFolder) -> None:
    for round_ in range(12):
        writes = subprocess.Popen(
            [sys.executable, "-c", textwrap.dedent(WRITER), str(folder.path)], stdout=subprocess.PIPE
        )
        assert writes.stdout is not None
        writes.stdout.readline()
        time.sleep(0.003 * round_)
        writes.send_signal(signal.SIGKILL)
        writes.wait(10)
        writes.stdout.close()
        for key in folder.path.glob("*.key"):
            read_key(key.read_bytes())
            assert key.stat().st_mode & 0o777 == 0o600
        folder.recover()
        assert folder.is_pair()


# --- When it renews -------------------------------------------------------------------------------------------------


def test_the_last_third_and_a_little_chance() -> None:
    dues = {life(certificate(make_key(), serial=serial), Window()).due for serial in range(1, 40)}
    assert NOW + 60 * DAY <= min(dues) < max(dues) <= NOW + 63 * DAY
    assert max(dues) - min(dues) > DAY  # spread, and not all at once
    one = certificate(make_key())
    assert life(one, Window()) == life(one, Window())


def test_so_many_days_before() -> None:
    one = certificate(make_key())
    assert life(one, Window(10 * DAY, jitter=0)).due == NOW + 80 * DAY
    assert life(one, Window(900 * DAY, jitter=0)).due == NOW + 9 * DAY  # never in its first tenth


@pytest.mark.parametrize(
    ("at", "moment"),
    [
        (-DAY, Moment.NOT_BEGUN),
        (timedelta(0), Moment.VALID),
        (64 * DAY, Moment.DUE),
        (90 * DAY, Moment.EXPIRED),
        (9000 * DAY, Moment.EXPIRED),
    ],
)
def test_where_a_certificate_stands(at: timedelta, moment: Moment) -> None:
    assert life(certificate(make_key()), Window()).moment(NOW + at) is moment


@given(
    failures=st.integers(1, 10**6),
    left=st.timedeltas(-3000 * DAY, 3000 * DAY),
    chance=st.floats(0, 1, exclude_max=True),
    retry_after=st.none() | st.integers(0, 10**12),
)
def test_the_wait_is_bounded(failures: int, left: timedelta, chance: float, retry_after: int | None) -> None:
    wait = wait_after_failure(failures, left, chance, retry_after)
    assert timedelta(seconds=30) <= wait <= DAY
    if left > 4 * timedelta(minutes=1):
        assert wait <= left / 2  # there is always another attempt before the end
    if retry_after is not None and timedelta(seconds=min(retry_after, 10**6)) <= min(DAY, left / 2):
        assert wait >= timedelta(seconds=retry_after)


def test_the_wait_doubles() -> None:
    waits = [wait_after_failure(count, 80 * DAY, 0.0, None).total_seconds() for count in range(1, 12)]
    assert waits == [60, 120, 240, 480, 960, 1920, 3840, 7680, 15360, 21600, 21600]
    assert wait_after_failure(1, 80 * DAY, 0.999, None) < timedelta(seconds=31)


def test_approval_is_asked_for_when_told() -> None:
    waits = [wait_for_approval(left, after).total_seconds() for left, after in ((None, None), (None, 5), (DAY, 0))]
    assert waits == [60, 5, 1]


def test_waiting_for_approval() -> None:
    answers = [Failure.PENDING, Failure.UNREACHABLE, Failure.BUSY, Failure.PENDING]
    waits: list[float] = []

    def ask() -> str:
        if answers:
            raise EstFailure(answers.pop(0), "not yet", retry_after=7)
        return "certificate"

    def wait(pause: timedelta, _failure: EstFailure) -> None:
        waits.append(pause.total_seconds())

    assert (until_approved(ask, wait=wait), waits) == ("certificate", [7.0] * 4)
    answers = [Failure.PENDING] * 9
    waits.clear()
    with pytest.raises(EstFailure, match="not yet"):
        until_approved(ask, wait=wait, at_most=timedelta(seconds=20))
    assert waits == [7, 7, 6]


@pytest.mark.parametrize("failure", [Failure.UNREACHABLE, Failure.BUSY, Failure.REFUSED, Failure.UNTRUSTED])
def test_what_is_not_pending_is_not_waited_for(failure: Failure) -> None:
    def ask() -> None:
        raise EstFailure(failure, "no")

    with pytest.raises(EstFailure):
        until_approved(ask, wait=lambda *_: pytest.fail("waited"))


def test_a_successor_is_believed_and_the_old_stays_until_its_end() -> None:
    old, new = (certificate(make_key(), name=name) for name in ("old", "new"))
    key = make_key()
    issued = x509.CertificateBuilder().subject_name(new.subject).issuer_name(old.subject).public_key(key.public_key())
    linked = issued.serial_number(3).not_valid_before(NOW).not_valid_after(NOW + DAY).sign(make_key(), SHA256())
    assert succeeding_roots([old], [new, linked, old], NOW) == (old, new)
    assert succeeding_roots([old], [new], NOW + 100 * DAY) == (old, new)  # nothing else was trusted
    ended = certificate(make_key(), name="ended", ends=NOW + DAY)
    assert succeeding_roots([ended, old], [new], NOW + 2 * DAY) == (old, new)


# --- What the status says -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("begins", "ends", "state", "status"),
    [(-1, 89, "valid", 0), (-80, 10, "due", 7), (-91, -1, "expired", 8), (1, 91, "not-begun", 8)],
)
def test_status(
    folder: DeviceFolder, capsys: pytest.CaptureFixture[str], begins: int, ends: int, state: str, status: int
) -> None:
    now = datetime.now(UTC)
    folder.finish(certificate(folder.begin(KeyKind.P256), begins=now + begins * DAY, ends=now + ends * DAY))
    assert main(["device", "status", "--out", str(folder.path), "--json"]) == status
    shown = json.loads(capsys.readouterr().out)
    assert (shown["state"], shown["deviceIdentifier"], shown["keyFits"]) == (state, "pump-7", True)
    assert main(["device", "status", "--out", str(folder.path)]) == status
    assert f"state             {state}" in capsys.readouterr().out


def test_a_status_without_the_key(folder: DeviceFolder, capsys: pytest.CaptureFixture[str]) -> None:
    now = datetime.now(UTC)
    folder.finish(certificate(folder.begin(KeyKind.P256), begins=now - DAY, ends=now + 80 * DAY))
    folder.own.key.unlink()
    assert main(["device", "status", "--out", str(folder.path), "--json"]) == 8
    shown = json.loads(capsys.readouterr().out)
    assert (shown["state"], shown["keyFits"]) == ("valid", False)
    with pytest.raises(FolderUnusable, match=r"device\.key is not there"):
        check_renewable(folder)


def test_is_for() -> None:
    key = make_key()
    assert is_for(certificate(key), key)
    assert not is_for(certificate(key), make_key())


def test_the_library_is_typed() -> None:
    assert Path(EstClient.__init__.__code__.co_filename).parents[1].joinpath("py.typed").exists()

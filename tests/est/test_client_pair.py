"""Certificate and key of a device are replaced as one, whatever is killed at whatever step."""

import os
import shutil
import subprocess
import sys
import textwrap
import threading
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_pem_private_key

from est.client import DeviceFolder, make_key, write_key
from est.client.files import write_whole
from est.client.folder import is_for
from est.client.keys import KeyKind
from est.client.pair import KEY, Pair
from tests.est.test_client_folder import certificate

KILLER = """
import os, shutil, signal, sys
from itertools import count
from pathlib import Path
from cryptography import x509
from est.client.folder import DeviceFolder

template, work = Path(sys.argv[1]), Path(sys.argv[2])
EVENTS = {"open", "os.rename", "os.remove", "os.symlink", "os.mkdir", "os.rmdir", "os.chmod"}
for step in count():
    folder = work / str(step)
    shutil.copytree(template, folder, symlinks=True)
    child = os.fork()
    if child == 0:
        left = step
        def kill(event, arguments):
            global left
            if event in EVENTS and event != "open" or event == "open" and (arguments[2] or 0) & os.O_CREAT:
                if left == 0:
                    os.kill(os.getpid(), signal.SIGKILL)
                left -= 1
        answer = x509.load_pem_x509_certificate((template / "answer").read_bytes())
        device = DeviceFolder(folder)
        sys.addaudithook(kill)
        device.finish(answer)
        os._exit(0)
    if os.waitpid(child, 0)[1] == 0:
        break
print(step)
"""


def as_a_program_in_c_finds_it(folder: Path) -> x509.Certificate:
    """Read the pair by its two names, with nothing of ours, and return the certificate."""
    found = x509.load_pem_x509_certificate((folder / "device.pem").read_bytes())
    key = load_pem_private_key((folder / "device.key").read_bytes(), None)
    form = (Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    assert found.public_key().public_bytes(*form) == key.public_key().public_bytes(*form)
    assert (folder / "device.key").stat().st_mode & 0o777 == 0o600
    return found


def plain(folder: DeviceFolder) -> None:
    """Make of a folder what it was before there were generations, or is when it was filled by hand."""
    for name in ("device.pem", "device.key"):
        content = (folder.path / name).read_bytes()
        (folder.path / name).unlink()
        write_whole(folder.path / name, content, 0o600)
    shutil.rmtree(folder.path / (folder.path / "pair").readlink())
    (folder.path / "pair").unlink()


def copied(folder: DeviceFolder, *, is_linked: bool) -> None:
    """Make of a folder what a copy is that followed links: all of them, or only the one to the generation."""
    generation = folder.path / (folder.path / "pair").readlink()
    (folder.path / "pair").unlink()
    shutil.copytree(generation, folder.path / "pair")
    if not is_linked:
        for name in ("device.pem", "device.key"):
            (folder.path / name).unlink()
            shutil.copy2(generation / name, folder.path / name)


@pytest.mark.parametrize("start", ["pair", "plain files", "renewed by hand", "a copy", "a copy with links", "nothing"])
@pytest.mark.parametrize("rekey", [True, False])
def test_killed_at_every_step(tmp_path: Path, start: str, rekey: bool) -> None:
    template = DeviceFolder(tmp_path / "template")
    template.path.mkdir()
    old = template.begin(KeyKind.P256)
    if start != "nothing":
        template.finish(certificate(old))
    if start == "plain files":
        plain(template)
    if start.startswith("a copy"):
        copied(template, is_linked=start == "a copy with links")
    if start == "renewed by hand":
        write_whole(template.own.certificate, certificate(old, serial=8).public_bytes(Encoding.PEM))
    before = template.certificate()
    new = template.begin(KeyKind.P256) if rekey or start == "nothing" else old
    answer = certificate(new, serial=9)
    (template.path / "answer").write_bytes(answer.public_bytes(Encoding.PEM))

    work = tmp_path / "work"
    work.mkdir()
    command = [sys.executable, "-c", textwrap.dedent(KILLER), str(template.path), str(work)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 0, done.stderr
    steps = int(done.stdout)
    assert steps > 10

    for step in range(steps + 1):
        folder = DeviceFolder(work / str(step))
        if before is not None:
            assert as_a_program_in_c_finds_it(folder.path) in {before, answer}
        elif (folder.path / "device.pem").exists() and (folder.path / "device.key").exists():
            assert as_a_program_in_c_finds_it(folder.path) == answer
        told = (folder.path / "next.pem").exists() or folder.certificate() == answer
        folder.recover()
        if told:
            assert as_a_program_in_c_finds_it(folder.path) == answer
            assert folder.pending() is None
        else:  # the answer was not on the disk yet: the same key asks again
            assert folder.certificate() == before
            assert is_for(answer, folder.pending() or old)
            folder.finish(answer)
        assert (folder.is_pair(), folder.certificate()) == (True, answer)
        left = {one.name for one in folder.path.iterdir()} - {"answer"}
        assert left == {"device.key", "device.pem", "pair", (folder.path / "pair").readlink().name}


def test_a_key_that_was_replaced_is_not_kept(tmp_path: Path) -> None:
    folder = DeviceFolder(tmp_path)
    for serial in (7, 8, 9):
        folder.finish(certificate(folder.begin(KeyKind.P256), serial=serial))
    assert len(list(tmp_path.rglob("*.key"))) == 2  # the link, and what it leads to


def test_a_generation_is_as_open_as_its_folder(tmp_path: Path) -> None:
    for mode in (0o700, 0o755):
        path = tmp_path / f"{mode:o}"
        path.mkdir()
        path.chmod(mode)
        before = os.umask(0o77)
        try:
            folder = DeviceFolder(path)
            folder.finish(certificate(folder.begin(KeyKind.P256)))
        finally:
            os.umask(before)
        assert path.joinpath("pair").stat().st_mode & 0o777 == mode
        assert path.joinpath("device.key").stat().st_mode & 0o777 == 0o600


def test_what_is_left_of_a_generation_is_not_taken_for_one(tmp_path: Path) -> None:
    pair, key = Pair(tmp_path), make_key()
    content = (certificate(key).public_bytes(Encoding.PEM), KEY, write_key(key))
    pair.replace(*content)
    (tmp_path / "pair" / "device.key").write_bytes(b"")  # a disk that lost it
    pair.replace(*content)
    as_a_program_in_c_finds_it(tmp_path)


def test_a_reader_never_sees_two_generations(tmp_path: Path) -> None:
    """A status that is asked for again and again while the pair is replaced."""
    folder = DeviceFolder(tmp_path)
    folder.finish(certificate(folder.begin(KeyKind.P256)))
    over = threading.Event()

    def replace() -> None:
        for serial in range(100, 160):
            folder.finish(certificate(folder.begin(KeyKind.P256), serial=serial))
        over.set()

    writer = threading.Thread(target=replace)
    writer.start()
    while not over.is_set():
        assert DeviceFolder(tmp_path).is_pair()
    writer.join()

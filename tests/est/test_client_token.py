"""A device's own key in a token (SoftHSM 2): it signs the request, and never leaves. Each use is a process."""

import asyncio
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from certs.pem import write_certificates
from est.client import DeviceFolder, Token, write_key
from est.profiles import ProofOfPossession
from tests.ca.softhsm import LABEL, PIN, make_token, needs_softhsm
from tests.est.world import EstWorld

pytestmark = needs_softhsm
NAME = "meter-001"


class Device:
    """A device out of the factory, with an empty token."""

    def __init__(self, est: EstWorld, folder: DeviceFolder, module: Path) -> None:
        self.est, self.folder, self.module = est, folder, module
        self.pin = folder.path / "pin"
        self.pin.write_text(f"{PIN}\n")

    def run(self, name: str, *options: str, status: int = 0) -> Any:
        command = [sys.executable, "-m", "doorward", "device", name, "--out", str(self.folder.path), "--json"]
        server = () if name == "status" else ("--url", self.est.url)
        done = subprocess.run([*command, *server, *options], capture_output=True, text=True, check=False, timeout=60)
        assert done.returncode == status, (done.stdout, done.stderr)
        return json.loads(done.stdout)

    async def enrol(self, *options: str, status: int = 0, pin: Path | None = None, token: str = LABEL) -> Any:
        where = (
            "--pkcs11-module",
            str(self.module),
            "--pkcs11-token",
            token,
            "--pkcs11-pin-file",
            str(pin or self.pin),
        )
        return await asyncio.to_thread(self.run, "enroll", *where, *options, status=status)

    def certificate(self) -> x509.Certificate:
        found = self.folder.certificate()
        assert found is not None
        return found


@pytest.fixture
async def device(est: EstWorld, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Device:
    folder = DeviceFolder(tmp_path)
    bootstrap = await est.bootstrap(NAME)
    folder.keep_identifier(NAME)
    folder.keep_roots(est.root_file.read_bytes())
    folder.bootstrap.certificate.write_bytes(write_certificates([bootstrap.certificate]))
    folder.bootstrap.key.write_bytes(write_key(bootstrap.key))
    return Device(est, folder, make_token(tmp_path / "softhsm", monkeypatch))


@pytest.mark.parametrize("kind", ["P-256", "P-384", "RSA-2048"])
async def test_the_key_is_in_the_token_and_the_certificate_is_its(device: Device, kind: str) -> None:
    await device.est.label("linked", proof_of_possession=ProofOfPossession.REQUIRED)
    made = await device.enrol("--key-type", kind, "--label", "linked")
    assert made["key"].endswith("device.uri")
    assert not any((device.folder.path / name).exists() for name in ("device.key", "next.key"))
    key = device.folder.token_key()
    assert key is not None
    assert (key.token, key.label) == (Token(device.module, LABEL, device.pin), f"doorward {NAME}")
    public = device.certificate().public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    assert len(public) > 64
    status = await asyncio.to_thread(device.run, "status")
    assert (status["state"], status["keyFits"]) == ("valid", True)


async def test_the_same_key_is_asked_with_again(device: Device) -> None:
    first = await device.enrol()
    (device.folder.path / "device.pem").unlink()
    assert await device.enrol() == first


async def test_nothing_lets_the_key_out(device: Device) -> None:
    await device.enrol()
    tool = ["pkcs11-tool", "--module", str(device.module), "--token-label", LABEL, "--login", "--pin", PIN]
    try:
        done = await asyncio.to_thread(subprocess.run, [*tool, "-O"], capture_output=True, text=True, check=True)
    except FileNotFoundError:
        pytest.skip("pkcs11-tool is not installed (Debian: opensc)")
    private = done.stdout.partition("Private Key Object")[2]
    assert "never extractable" in private
    assert "always sensitive" in private


async def test_the_same_key_renews(device: Device) -> None:
    await device.enrol()
    before, key = device.certificate(), device.folder.token_key()
    await asyncio.to_thread(device.run, "renew")
    after = device.certificate()
    assert (after.serial_number != before.serial_number, after.public_key()) == (True, before.public_key())
    assert device.folder.token_key() == key


async def test_a_key_file_takes_the_tokens_place_if_that_is_wanted(device: Device) -> None:
    await device.enrol()
    await device.est.world.execute("UPDATE device SET replacement_allowed = true")
    await asyncio.to_thread(device.run, "enroll", "--start-over")
    assert (device.folder.is_pair(), device.folder.uri.exists()) == (True, False)
    await asyncio.to_thread(device.run, "renew")


@pytest.mark.parametrize("wrong", ["PIN", "token", "kind", "option"])
async def test_what_is_wrong_with_a_token_is_told(device: Device, wrong: str) -> None:
    if wrong == "PIN":
        other = device.folder.path / "other"
        other.write_text("000000")
        told = await device.enrol(status=1, pin=other)
    elif wrong == "token":
        told = await device.enrol(status=1, token="another")
    elif wrong == "kind":
        told = await device.enrol("--key-type", "Ed25519", status=1)
    else:
        told = await asyncio.to_thread(device.run, "enroll", "--pkcs11-module", str(device.module), status=1)
    assert (told["failure"], bool(told["detail"])) == ("folder", True)
    assert PIN not in told["detail"]
    assert not device.folder.own.certificate.exists()

"""A device with a key in a token that renews by itself, and shows its PIN to nobody."""

import asyncio
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec

from est.client import Watch, Window, Wish
from est.client.watch import read_status
from tests.ca.softhsm import LABEL, PIN, needs_softhsm
from tests.est.tokens import Device, factory_new, soft_token
from tests.est.world import EstWorld

pytestmark = needs_softhsm


@pytest.fixture
async def device(est: EstWorld, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Device]:
    with soft_token(tmp_path / "softhsm", monkeypatch) as soft:
        (tmp_path / "device").mkdir()
        yield Device(est, await factory_new(est, tmp_path / "device"), soft)


class Watched:
    """A watch on the world's clock, stepped by hand."""

    def __init__(self, device: Device, *, rekey: bool = False) -> None:
        self.told: list[tuple[str, dict[str, object]]] = []
        self.watch = Watch(
            device.folder,
            device.server,
            Wish(),
            rekey=rekey,
            window=Window(timedelta(days=81), jitter=0.0),
            command=None,
            report=lambda event, about: self.told.append((event, about)),
            chance=lambda: 0.0,
        )
        self.watch._begin()

    @property
    def events(self) -> list[str]:
        return [event for event, _ in self.told]


async def test_it_renews_by_itself(device: Device) -> None:
    await device.enrol()
    first = device.key()
    watched = await asyncio.to_thread(Watched, device, rekey=True)
    await asyncio.to_thread(watched.watch.step)
    device.est.world.clock.move(timedelta(days=10))
    await asyncio.to_thread(watched.watch.step)
    assert watched.events == ["watching", "renewed"]
    assert device.key() != first
    device.assert_has_only(device.key())


async def test_a_wrong_pin_is_told_at_once_and_mended_later(device: Device) -> None:
    await device.enrol()
    device.soft.pin_file.write_text("000000\n")
    watched = await asyncio.to_thread(Watched, device)
    assert watched.events == ["watching", "key-unusable"]
    watched.watch.renew_now()
    await asyncio.to_thread(watched.watch.step)
    status = read_status(device.folder)
    assert status is not None
    assert (status.state, status.failure) == ("failing", "unusable")
    assert PIN not in device.folder.status.read_text()
    device.soft.pin_file.write_text(PIN)
    watched.watch.renew_now()
    await asyncio.to_thread(watched.watch.step)
    assert watched.events[-1] == "renewed"


def started(command: list[str]) -> subprocess.Popen[str]:
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def visible(process: int) -> str:
    """Return what others see of a process."""
    return "".join(Path(f"/proc/{process}/{name}").read_text() for name in ("cmdline", "environ"))


async def test_the_daemon_shows_its_pin_to_nobody(device: Device) -> None:
    """`renew --watch` as a process of its own: told to renew, told to end, its command line and output without PIN."""
    await device.enrol()
    before = device.serial()
    command = [sys.executable, "-m", "doorward", "device", "renew", "--watch", "--rekey", "--json"]
    command += ["--out", str(device.folder.path), "--url", device.est.url]
    script = f"{sys.executable} -c 'import os; print(os.environ)' > {device.folder.path}/environment"
    process = started([*command, "--exec-shell", script])
    lines: list[str] = []

    def event() -> Any:
        assert process.stdout is not None
        lines.append(process.stdout.readline())
        return json.loads(lines[-1])["event"]

    assert await asyncio.to_thread(event) == "watching"
    shown = visible(process.pid)
    await asyncio.sleep(0.5)
    os.kill(process.pid, signal.SIGHUP)
    assert await asyncio.to_thread(event) == "renewed"
    assert await asyncio.to_thread(event) == "command-ran"
    os.kill(process.pid, signal.SIGTERM)
    _, errors = await asyncio.to_thread(process.communicate, timeout=20)
    assert (process.returncode, device.serial() != before) == (0, True)
    environment = (device.folder.path / "environment").read_text()
    assert "device.uri" in environment
    for text in (shown, errors, environment, *lines, *(one.read_text() for one in device.folder.path.glob("*.json"))):
        assert PIN not in text
    assert PIN not in device.key().uri()
    device.assert_has_only(device.key())


async def test_what_the_status_says(device: Device, tmp_path: Path) -> None:
    await device.enrol()

    def status() -> Any:
        command = [sys.executable, "-m", "doorward", "device", "status", "--out", str(device.folder.path), "--json"]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        return json.loads(done.stdout)

    device.soft.pin_file.unlink()  # a status needs no PIN
    assert (await asyncio.to_thread(status))["keyFits"] is True
    (tmp_path / "softhsm" / "tokens").rename(tmp_path / "softhsm" / "away")
    assert (await asyncio.to_thread(status))["keyFits"] is None


async def test_a_renewal_is_quick_enough(device: Device) -> None:
    await device.enrol()
    began = time.monotonic()
    await device.renew()
    assert time.monotonic() - began < 5
    present = device.folder.certificate()
    assert present is not None
    assert isinstance(present.public_key(), ec.EllipticCurvePublicKey)
    assert device.key().token.label == LABEL

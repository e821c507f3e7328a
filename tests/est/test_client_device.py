"""A device's steps against the real listener: what the server wants, keys that it makes, and renewing by itself."""

import asyncio
import json
import os
import sys
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes

from certs.csrattrs import WantedExtension, WantedKey, WantedName, WantedRequest
from certs.keys import KeyAlgorithm
from certs.pem import read_certificates, write_certificates
from est.client import (
    Command,
    DeviceFolder,
    EstFailure,
    Failure,
    KeyKind,
    Server,
    Watch,
    Window,
    Wish,
    enrol,
    enrolment_request,
    make_key,
    renew,
    write_key,
)
from est.client.device import have_key_made
from est.client.folder import FolderUnusable, is_for
from est.client.keys import kind_of
from est.client.opening import Opener, SecretOpener, opener_of
from est.client.wanted import as_wanted, wanted_kind
from est.client.watch import read_status, serial_of
from est.decryption_keys import DecryptionKey
from est.profiles import CsrAttributes, ProofOfPossession, ServerKey
from est.store.decryption_keys import KeyHolder
from tests.est.test_authorities import roll_over
from tests.est.test_client_hostile import Villain, whole
from tests.est.test_server_keys import register
from tests.est.world import EstWorld

NAME = "meter-001"


@pytest.fixture
async def folder(est: EstWorld, tmp_path: Path) -> DeviceFolder:
    """The folder of a device out of the factory."""
    folder = DeviceFolder(tmp_path)
    bootstrap = await est.bootstrap(NAME)
    folder.keep_identifier(NAME)
    folder.keep_roots(est.root_file.read_bytes())
    folder.bootstrap.certificate.write_bytes(write_certificates([bootstrap.certificate]))
    folder.bootstrap.key.write_bytes(write_key(bootstrap.key))
    return folder


async def run(step: Callable[..., Any], *arguments: Any, **more: Any) -> Any:
    return await asyncio.to_thread(step, *arguments, **more)


# --- What the server wants ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("form", CsrAttributes)
@pytest.mark.parametrize("possession", ProofOfPossession)
async def test_what_the_label_wants_is_in_the_request(
    est: EstWorld, folder: DeviceFolder, form: CsrAttributes, possession: ProofOfPossession
) -> None:
    await est.label("wanting", csr_attributes=form, proof_of_possession=possession)
    server = Server(est.url, "wanting")
    assert is_for(await run(enrol, folder, server, Wish()), folder.key())
    assert is_for(await run(renew, folder, server, Wish(), rekey=True), folder.key())
    assert folder.is_pair()
    if possession is ProofOfPossession.REQUIRED:
        with pytest.raises(EstFailure) as failed:
            await run(renew, folder, server, Wish(proves_possession=False))
        assert failed.value.failure is Failure.REFUSED


EC = WantedKey(None)
USAGE = x509.KeyUsage(True, *[False] * 8).public_bytes()


@pytest.mark.parametrize(
    ("key", "kind"),
    [
        (None, None),
        (EC, KeyKind.P256),
        (WantedKey(KeyAlgorithm.P384), KeyKind.P384),
        (WantedKey(KeyAlgorithm.ED25519), KeyKind.ED25519),
        (WantedKey(KeyAlgorithm.RSA), KeyKind.RSA2048),
        (WantedKey(KeyAlgorithm.RSA, 2500), KeyKind.RSA3072),
        (WantedKey(KeyAlgorithm.RSA, 4096), KeyKind.RSA4096),
        (WantedKey(KeyAlgorithm.ML_DSA_65), KeyKind.ML_DSA_65),
    ],
)
def test_the_kind_of_key_that_is_wanted(key: WantedKey | None, kind: KeyKind | None) -> None:
    assert wanted_kind(key) is kind


def test_a_key_that_nobody_makes() -> None:
    with pytest.raises(EstFailure, match="16384 bits"):
        wanted_kind(WantedKey(KeyAlgorithm.RSA, 16384))


def test_extensions_and_names_as_they_are_wanted() -> None:
    template = enrolment_request(make_key(), NAME)
    ours = template.extensions[0]
    other = replace(ours, value=b"\x30\x00")
    usage = WantedExtension(x509.KeyUsage.oid, None, critical=True)
    unknown = WantedExtension(x509.ObjectIdentifier("2.5.29.99"), None)
    serial = WantedName(x509.NameOID.SERIAL_NUMBER, None)
    company = WantedName(x509.NameOID.ORGANIZATION_NAME, "North")
    name = WantedName(x509.NameOID.COMMON_NAME, None)
    wanted = WantedRequest(challenge_password=True, extensions=(usage, unknown, other), subject=(company, serial, name))
    first = as_wanted(template, wanted, names_are_fixed=False)
    assert first.extensions == (other, replace(usage, value=USAGE))
    assert (first.subject.rfc4514_string(), first.proves_possession) == (f"CN={NAME},O=North", True)
    renewed = as_wanted(template, wanted, names_are_fixed=True)
    assert (renewed.extensions[0], renewed.subject) == (ours, template.subject)


def test_a_name_that_cannot_be() -> None:
    wanted = WantedRequest(subject=(WantedName(x509.NameOID.COUNTRY_NAME, "Utopia"),))
    with pytest.raises(EstFailure, match="a name that cannot be"):
        as_wanted(enrolment_request(make_key(), NAME), wanted, names_are_fixed=False)


async def test_what_the_owner_says_counts_more(est: EstWorld, folder: DeviceFolder) -> None:
    await run(enrol, folder, Server(est.url), Wish(KeyKind.ED25519))
    assert kind_of(folder.key().public_key()) is KeyKind.ED25519
    await run(renew, folder, Server(est.url), Wish(), rekey=True)
    assert kind_of(folder.key().public_key()) is KeyKind.ED25519  # as the one before


@pytest.mark.parametrize("status", [b"204 No Content", b"404 Not Found", b"501 Not Implemented"])
def test_a_server_that_wants_nothing(status: bytes) -> None:
    villain = Villain()
    villain.answer = whole(b"", b"", status)
    assert villain.client().csrattrs() == WantedRequest()
    villain.close()


@pytest.mark.parametrize("content", [b"", b"AAAA", b"MAMCAQA="])
def test_csrattrs_that_cannot_be_read(content: bytes) -> None:
    villain = Villain()
    villain.answer = whole(b"Content-Type: application/csrattrs\r\n", content)
    with pytest.raises(EstFailure) as failed:
        villain.client().csrattrs()
    assert failed.value.failure is Failure.MALFORMED
    villain.close()


# --- Keys that the server makes -------------------------------------------------------------------------------------

SECRET = SecretOpener(b"line-7", os.urandom(32))
RSA, CURVE = opener_of(make_key(KeyKind.RSA2048)), opener_of(make_key(KeyKind.P384))


@pytest.mark.parametrize("opener", [None, SECRET, RSA, CURVE], ids=["plain", "secret", "RSA", "curve"])
@pytest.mark.parametrize("kind", [ServerKey.P256, ServerKey.ED25519])
async def test_a_key_that_the_server_makes(
    est: EstWorld, folder: DeviceFolder, opener: Opener | None, kind: ServerKey
) -> None:
    await est.label("made", server_key_generation=kind, encrypted_server_keys_only=opener is not None)
    if isinstance(opener, SecretOpener):
        await register(est, KeyHolder(label="made"), opener.identifier, DecryptionKey(secret=opener.secret))
    elif opener is not None:
        holder = DecryptionKey(certificate=recipient(opener.key))
        await register(est, KeyHolder(label="made"), opener.identifier, holder)
    await run(have_key_made, folder, Server(est.url, "made"), Wish(), opener)
    assert (folder.is_pair(), str(kind_of(folder.key().public_key()))) == (True, kind.value)
    assert folder.own.key.stat().st_mode & 0o777 == 0o600
    await run(renew, folder, Server(est.url, "made"), Wish(), rekey=True)
    assert folder.is_pair()


def recipient(key: Any) -> x509.Certificate:
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, NAME)])
    now = datetime.now(UTC)
    builder = x509.CertificateBuilder().subject_name(name).issuer_name(name).public_key(key.public_key())
    builder = builder.serial_number(5).not_valid_before(now).not_valid_after(now + timedelta(days=1))
    return builder.sign(key, hashes.SHA256())


# --- Renewing by itself ---------------------------------------------------------------------------------------------


class Watched:
    """A watch on the world's clock, stepped by hand."""

    def __init__(self, est: EstWorld, folder: DeviceFolder, *, url: str | None = None, script: str = "pass") -> None:
        self.events: list[str] = []
        self.told: list[dict[str, object]] = []
        self.ran = folder.path / "ran"
        program = f"import os, pathlib\nran = pathlib.Path({str(self.ran)!r})\n{script}\nran.open('a').write('x')"
        self.watch = Watch(
            folder,
            Server(url or est.url, clock=est.world.clock, timeout_seconds=5),
            Wish(),
            window=Window(timedelta(days=81), jitter=0.0),
            command=Command((sys.executable, "-c", program)),
            report=self.report,
            chance=lambda: 0.0,
        )
        self.watch._begin()

    def report(self, event: str, about: dict[str, object]) -> None:
        self.events.append(event)
        self.told.append(about)

    def runs(self) -> int:
        return len(self.ran.read_text()) if self.ran.exists() else 0


@pytest.fixture
async def enrolled(est: EstWorld, folder: DeviceFolder) -> DeviceFolder:
    await run(enrol, folder, Server(est.url), Wish())
    return folder


async def test_it_renews_when_due_and_runs_its_command_once(est: EstWorld, enrolled: DeviceFolder) -> None:
    first = enrolled.certificate()
    watched = await run(Watched, est, enrolled)
    assert timedelta(days=8) < await run(watched.watch.step) < timedelta(days=10)
    assert (watched.events, watched.runs()) == (["watching"], 0)
    est.world.clock.move(timedelta(days=10))
    await run(watched.watch.step)
    await run(watched.watch.step)
    assert (watched.events, watched.runs()) == (["watching", "renewed", "command-ran"], 1)
    second = enrolled.certificate()
    assert first is not None
    assert second is not None
    assert serial_of(second) != serial_of(first)
    status = read_status(enrolled)
    assert status is not None
    assert (status.state, status.serial, status.commandRanFor) == ("waiting", serial_of(second), serial_of(second))


async def test_it_backs_off_and_a_restart_forgets_nothing(est: EstWorld, enrolled: DeviceFolder) -> None:
    est.world.clock.move(timedelta(days=10))
    away = "https://127.0.0.1:9"
    watched = await run(Watched, est, enrolled, url=away)
    waits = []
    for _ in range(3):
        waits.append(round((await run(watched.watch.step)).total_seconds()))
        est.world.clock.move(timedelta(seconds=waits[-1] + 1))
    assert (watched.events[1:], waits) == (["failed"] * 3, [60, 120, 240])
    again = await run(Watched, est, enrolled)
    before = read_status(enrolled)
    assert before is not None
    assert (before.state, before.failures, before.failure) == ("failing", 3, "unreachable")
    await run(again.watch.step)
    assert again.events == ["watching", "renewed", "command-ran"]
    after = read_status(enrolled)
    assert after is not None
    assert (after.state, after.failures, after.failure, after.nextAttempt) == ("waiting", 0, None, None)


async def test_a_restart_does_not_ask_sooner(est: EstWorld, enrolled: DeviceFolder) -> None:
    est.world.clock.move(timedelta(days=10))
    await run((await run(Watched, est, enrolled, url="https://127.0.0.1:9")).watch.step)
    again = await run(Watched, est, enrolled)
    assert await run(again.watch.step) > timedelta(seconds=40)
    assert again.events == ["watching"]
    again.watch.renew_now()
    await run(again.watch.step)
    assert again.events == ["watching", "renewed", "command-ran"]


async def test_a_clock_that_was_set_back_does_not_stop_it(est: EstWorld, enrolled: DeviceFolder) -> None:
    est.world.clock.move(timedelta(days=10))
    await run((await run(Watched, est, enrolled, url="https://127.0.0.1:9")).watch.step)
    stored = json.loads(enrolled.status.read_bytes())
    stored["nextAttempt"] = "2999-01-01T00:00:00+00:00"
    enrolled.status.write_text(json.dumps(stored))
    again = await run(Watched, est, enrolled)
    await run(again.watch.step)
    assert again.events == ["watching", "renewed", "command-ran"]


async def test_a_certificate_of_the_future_is_left_alone(est: EstWorld, enrolled: DeviceFolder) -> None:
    watched = await run(Watched, est, enrolled)
    est.world.clock.move(timedelta(days=-10))
    await run(watched.watch.step)
    assert watched.events == ["watching"]


async def test_a_command_that_failed_or_was_lost_runs_later(est: EstWorld, enrolled: DeviceFolder) -> None:
    watched = await run(Watched, est, enrolled, script="if not ran.with_name('go').exists(): raise SystemExit('busy')")
    watched.watch.renew_now()
    await run(watched.watch.step)
    assert watched.events == ["watching", "renewed", "command-failed"]
    status = read_status(enrolled)
    assert status is not None
    assert status.commandFailed == "status 1: busy"
    again = await run(Watched, est, enrolled)  # as after a kill
    enrolled.path.joinpath("go").touch()
    await run(again.watch.step)
    await run(again.watch.step)
    assert (again.events, again.runs()) == (["watching", "command-ran"], 1)


async def test_a_clock_far_ahead_is_named_and_costs_nothing(est: EstWorld, enrolled: DeviceFolder) -> None:
    first = enrolled.own.certificate.read_bytes()
    watched = await run(Watched, est, enrolled)
    est.world.clock.move(timedelta(days=300))
    await run(watched.watch.step)
    assert watched.events == ["watching", "failed"]
    assert (watched.told[-1]["failure"], "look at this device's clock" in str(watched.told[-1]["detail"])) == (
        "untrusted",
        True,
    )
    est.world.clock.move(timedelta(days=-290))
    again = await run(Watched, est, enrolled)
    again.watch.renew_now()
    await run(again.watch.step)
    assert again.events == ["watching", "renewed", "command-ran"]
    assert enrolled.own.certificate.read_bytes() != first


@pytest.mark.parametrize("follows", [True, False])
async def test_the_successor_of_the_root_is_taken_in(est: EstWorld, enrolled: DeviceFolder, follows: bool) -> None:
    old = read_certificates(enrolled.root.read_bytes())
    await roll_over(est, "root")
    await run(renew, enrolled, Server(est.url), Wish(follows_roots=follows))
    found = read_certificates(enrolled.root.read_bytes())
    new = est.world.authorities.find("root").certificate
    assert found == ((*old, new) if follows else old)


@pytest.mark.parametrize("broken", ["status.json", "device.pem"])
async def test_a_folder_that_cannot_be_used_for_a_while_does_not_end_it(
    est: EstWorld, enrolled: DeviceFolder, broken: str
) -> None:
    watched = await run(Watched, est, enrolled)
    place = enrolled.path / broken
    kept = place.read_bytes()
    place.unlink()
    if broken == "status.json":
        place.mkdir()
    watched.watch.renew_now()
    assert await run(watched.watch.step) == timedelta(minutes=1)
    assert (watched.events[-1], watched.told[-1]["failure"]) == ("failed", "folder")
    if broken == "status.json":
        place.rmdir()
    else:
        place.write_bytes(kept)
    watched.watch.renew_now()
    await run(watched.watch.step)
    assert "renewed" in watched.events
    assert enrolled.is_pair()


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b'{"state": "odd"}', b'{"more": 1}'])
async def test_a_status_that_cannot_be_read_is_begun_anew(
    est: EstWorld, enrolled: DeviceFolder, content: bytes
) -> None:
    enrolled.status.write_bytes(content)
    await run(Watched, est, enrolled)
    assert read_status(enrolled) is not None


async def test_there_is_nothing_to_watch(est: EstWorld, folder: DeviceFolder) -> None:
    with pytest.raises(FolderUnusable, match="enrol first"):
        await run(Watched, est, folder)


async def test_retry_after_is_a_least(est: EstWorld, enrolled: DeviceFolder) -> None:
    villain = Villain()
    enrolled.keep_roots(villain.authority.cert_pem.bytes())
    villain.answer = whole(b"Content-Type: text/plain\r\nRetry-After: 1800\r\n", b"Later.", b"503 Busy")
    watched = await run(Watched, est, enrolled, url=f"https://127.0.0.1:{villain.port}")
    watched.watch.renew_now()
    wait = await run(watched.watch.step)
    assert timedelta(seconds=1790) < wait <= timedelta(seconds=1800)
    assert watched.told[-1]["failure"] == "busy"
    villain.close()

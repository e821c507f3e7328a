"""pkilint and zlint read what is issued and published: every finding is a failure unless a table here explains it."""

import asyncio
import json
import shutil
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from importlib.resources import files
from ipaddress import ip_address
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding

from ca.inventory import RevocationReason
from ca.issue import SERIAL_BYTES, device, encoded_key
from ca.partition import WHOLE, Partition
from ca.wishes import KeyWish
from certs.keys import KeyAlgorithm
from certs.names import device_identifier
from iam.store.database import EVERYWHERE
from tests.ca.test_ocsp import altered, leaf, ready, request, revoke
from tests.ca.world import World

START = datetime(2026, 1, 1, tzinfo=UTC)

EXPLAINED = {
    # RFC 7093 2, method 4: SHA-256 of the SubjectPublicKeyInfo, cut to 160 bits; pkilint knows the SHA-1 of RFC 5280.
    "pkix.unknown_subject_key_identifier_calculation_method",
}
EXPLAINED_OF_DEVICES = {
    # A URN is a URI (RFC 3986 1.1.2, RFC 8141); pkilint's check knows URLs alone.
    "pkix.invalid_uri_syntax",
}


def findings(program: str, *arguments: str | Path) -> set[str]:
    found = subprocess.run(
        [Path(sys.executable).with_name(program), "lint", *arguments], capture_output=True, text=True, check=False
    )
    assert not found.stderr, found.stderr
    return {line.split()[0] for line in found.stdout.splitlines() if line.startswith("    ")}


async def certificate_of(world: World, kind: str) -> bytes:
    match kind:
        case "server":
            made = await world.service.server_certificate(["est.example.com"], [ip_address("127.0.0.1")])
            return made.chain
        case "bootstrap":
            return (await world.service.issue_bootstrap("meter-001", actor="test")).chain
        case "responder":
            await world.responders.renew()
            der = await world.value("SELECT certificate FROM certificate WHERE profile = 'responder' LIMIT 1")
            return x509.load_der_x509_certificate(der).public_bytes(Encoding.PEM)
        case "device":
            key = ec.generate_private_key(ec.SECP256R1()).public_key()
            issuing = world.authorities.by_name("issuing")
            holder = device(device_identifier("meter-001"), encoded_key(key))
            issued = world.authorities.template(issuing, "device").issue(holder, world.clock(), b"\x80" * SERIAL_BYTES)
            return x509.load_der_x509_certificate(issued.der).public_bytes(Encoding.PEM)
        case _:
            return world.authorities.by_name(kind).certificate.public_bytes(Encoding.PEM)


PROFILES = sorted(one.name.removesuffix(".toml") for one in (files("certs") / "profiles").iterdir())


@pytest.mark.parametrize("kind", PROFILES)
async def test_certificates(world: World, tmp_path: Path, kind: str) -> None:
    leaf = x509.load_pem_x509_certificate(await certificate_of(world, kind))
    (tmp_path / "certificate.pem").write_bytes(leaf.public_bytes(Encoding.PEM))
    explained = EXPLAINED | EXPLAINED_OF_DEVICES if kind == "device" else EXPLAINED
    assert await asyncio.to_thread(findings, "lint_pkix_cert", tmp_path / "certificate.pem") - explained == set()


# What browsers and their programmes ask for beyond the RFCs: nobody whom we certify is on the public web.
NOT_OURS = "Apple,CABF_BR,CABF_CS_BR,CABF_EV,CABF_SMIME_BR,Chrome,ETSI_ESI,Mozilla"


def findings_of_zlint(file: Path) -> set[str]:
    command = ["zlint", "-excludeSources", NOT_OURS, file]
    done = subprocess.run(command, capture_output=True, check=True)
    verdicts = {name: one["result"] for name, one in json.loads(done.stdout).items()}
    assert "pass" in verdicts.values(), done.stderr
    return {name for name, verdict in verdicts.items() if verdict in {"warn", "error", "fatal"}}


needs_zlint = pytest.mark.skipif(shutil.which("zlint") is None, reason="zlint is not installed here")


@needs_zlint
@pytest.mark.parametrize("kind", PROFILES)
async def test_certificates_by_zlint(world: World, tmp_path: Path, kind: str) -> None:
    leaf = x509.load_pem_x509_certificate(await certificate_of(world, kind))
    (tmp_path / "certificate.pem").write_bytes(leaf.public_bytes(Encoding.PEM))
    assert await asyncio.to_thread(findings_of_zlint, tmp_path / "certificate.pem") == set()


@needs_zlint
def test_that_zlint_finds_something_at_all(tmp_path: Path) -> None:
    key, name = ec.generate_private_key(ec.SECP256R1()), x509.Name([])
    made = x509.CertificateBuilder(name, name, key.public_key(), 1, START, START + timedelta(days=1))
    (tmp_path / "certificate.pem").write_bytes(made.sign(key, SHA256()).public_bytes(Encoding.PEM))
    assert findings_of_zlint(tmp_path / "certificate.pem")


@pytest.mark.parametrize("line", ["root", "issuing"])
async def test_certificates_of_a_rollover(world: World, tmp_path: Path, line: str) -> None:
    access = await world.access(world.system.id)
    key = KeyWish(KeyAlgorithm.RSA, 3072)
    new = await world.administration.roll_over(access, world.system, line, key, None)
    assert new.links is not None
    for der in (new.der, new.links.new_with_old, new.links.old_with_new):
        pem = x509.load_der_x509_certificate(der).public_bytes(Encoding.PEM)
        (tmp_path / "certificate.pem").write_bytes(pem)
        assert await asyncio.to_thread(findings, "lint_pkix_cert", tmp_path / "certificate.pem") - EXPLAINED == set()


async def test_that_pkilint_finds_something_at_all(world: World, tmp_path: Path) -> None:
    made = await world.service.server_certificate(["not_a_name"], [])
    leaf = x509.load_pem_x509_certificate(made.chain)
    (tmp_path / "certificate.pem").write_bytes(leaf.public_bytes(Encoding.PEM))
    assert await asyncio.to_thread(findings, "lint_pkix_cert", tmp_path / "certificate.pem") - EXPLAINED


@pytest.mark.parametrize("revoked", [0, 3])
@pytest.mark.parametrize(
    ("authority", "partition", "is_delta"),
    [
        ("root", WHOLE, False),
        ("factory", WHOLE, False),
        ("factory", WHOLE, True),
        ("factory", Partition(2, 0), False),
        ("factory", Partition(2, 1), True),
    ],
)
async def test_revocation_lists(
    world: World, tmp_path: Path, revoked: int, authority: str, partition: Partition, *, is_delta: bool
) -> None:
    await world.publisher.set_partitions(world.authorities.by_name("factory"), 2, actor="test")
    await world.publisher.publish_lists()
    reasons = [RevocationReason.UNSPECIFIED, RevocationReason.KEY_COMPROMISE, RevocationReason.CERTIFICATE_HOLD]
    for reason in reasons[:revoked]:
        for _ in range(8):  # so that there is one in each half
            made = await world.service.issue_bootstrap("meter-001", actor="test")
            await world.revocation.revoke(EVERYWHERE, made.serial, reason, actor="test")
    if revoked:
        await world.revocation.release(EVERYWHERE, made.serial, actor="test")
    await world.publisher.publish_lists()
    content = await world.shelf.current_list(world.authorities.by_name(authority), partition, is_delta=is_delta)
    published = x509.load_der_x509_crl(content.der)
    assert bool(len(published)) is (bool(revoked) and authority != "root")
    (tmp_path / "list.pem").write_bytes(published.public_bytes(Encoding.PEM))
    kind = ["-t", "CRL", "-p", "PKIX"]
    assert await asyncio.to_thread(findings, "lint_crl", *kind, tmp_path / "list.pem") - EXPLAINED == set()
    if shutil.which("zlint") is not None:
        assert await asyncio.to_thread(findings_of_zlint, tmp_path / "list.pem") == set()


@pytest.mark.parametrize("kind", ["good", "revoked", "held", "unknown", "nonce", "several", "malformed"])
async def test_ocsp_answers(world: World, tmp_path: Path, kind: str) -> None:
    one = await ready(world)
    asked = request(world, one, bytes(32) if kind == "nonce" else None)
    match kind:
        case "revoked":
            await revoke(world, one, RevocationReason.KEY_COMPROMISE)
        case "held":
            await revoke(world, one, RevocationReason.CERTIFICATE_HOLD)
        case "unknown":
            asked = request(world, one, of=world.authorities.by_name("issuing").certificate)
        case "several":
            asked = altered(asked, asked=[request(world, await leaf(world))])
        case "malformed":
            asked = b""
    (tmp_path / "answer.der").write_bytes((await world.status.answer(asked)).der)
    found = await asyncio.to_thread(findings, "lint_ocsp_response", tmp_path / "answer.der")
    assert found - EXPLAINED == set()

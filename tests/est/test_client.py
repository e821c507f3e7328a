"""Our own client against the real listener."""

import asyncio
import subprocess
from base64 import b64encode
from dataclasses import replace
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from OpenSSL import SSL

from certs.csrattrs import WantedExtension
from certs.errors import CertificateRefused
from certs.pem import write_certificates
from est.client import (
    BasicSecret,
    BearerToken,
    EstClient,
    EstFailure,
    Failure,
    Identification,
    KeyKind,
    enrolment_request,
    make_key,
    make_request,
    read_key,
    renewal_request,
    write_key,
)
from est.client.keys import kind_of, public_bytes
from est.client.tls import _context
from est.profiles import ProofOfPossession
from tests.est.world import EstWorld, Holder


def client_of(est: EstWorld, holder: Holder | None = None, *, label: str | None = None) -> EstClient:
    identification = Identification(holder.certificate_file, holder.key_file) if holder else None
    return EstClient(est.url, anchors=est.root_file.read_bytes(), label=label, identification=identification)


async def failure_of(call: object, *arguments: object) -> EstFailure:
    with pytest.raises(EstFailure) as failed:
        await asyncio.to_thread(call, *arguments)  # type: ignore[arg-type]
    return failed.value


def fingerprint(est: EstWorld, name: str = "root") -> str:
    return sha256(est.world.authorities.by_name(name).der).hexdigest()


async def test_enrol_and_renew(est: EstWorld) -> None:
    key = make_key()
    asks = client_of(est, await est.bootstrap("meter-001"))
    first = await asyncio.to_thread(asks.enroll, make_request(key, "meter-001"))
    held = est.hold([first], key)
    assert held.key_file.read_bytes() == write_key(key)
    next_key = make_key()
    second = await asyncio.to_thread(client_of(est, held).reenroll, make_request(next_key, "meter-001"))
    assert (second.public_key(), second.subject) == (next_key.public_key(), first.subject)


async def test_under_a_label(est: EstWorld) -> None:
    await est.label("meters", identifier_pattern="meter-*")
    asks = client_of(est, await est.bootstrap("batch"), label="meters")
    assert await asyncio.to_thread(asks.enroll, make_request(make_key(), "meter-007"))
    assert (await failure_of(client_of(est, label="none").cacerts)).status == 404


async def test_the_root_is_recognised_by_its_fingerprint(est: EstWorld) -> None:
    spelt = [fingerprint(est), ":".join(fingerprint(est)[at : at + 2] for at in range(0, 64, 2)).upper()]
    for text in spelt:
        found = await asyncio.to_thread(EstClient(est.url, root_sha256=text).cacerts)
        assert est.world.authorities.by_name("root").certificate in found


async def test_a_fingerprint_that_the_server_does_not_know(est: EstWorld) -> None:
    failed = await failure_of(EstClient(est.url, root_sha256="00" * 32).cacerts)
    assert (failed.failure, str(failed)) == (
        Failure.UNTRUSTED,
        "the server does not know the root of that fingerprint",
    )


async def test_a_fingerprint_that_is_not_a_roots(est: EstWorld) -> None:
    failed = await failure_of(EstClient(est.url, root_sha256=fingerprint(est, "issuing")).cacerts)
    assert (failed.failure, str(failed)) == (Failure.UNTRUSTED, "the certificate of that fingerprint is not a root")


async def test_a_server_of_another_root_is_told_nothing(est: EstWorld) -> None:
    bootstrap = await est.bootstrap("meter-001")
    other = write_certificates([est.world.authorities.by_name("factory").certificate])
    identification = Identification(bootstrap.certificate_file, bootstrap.key_file)
    asks = EstClient(est.url, anchors=other, identification=identification)
    before = await est.written()
    assert (await failure_of(asks.enroll, make_request(make_key(), "meter-001"))).failure is Failure.UNTRUSTED
    assert await est.written() == before


async def test_a_server_of_another_name_is_told_nothing(est: EstWorld) -> None:
    asks = EstClient(est.url.replace("127.0.0.1", "127.0.0.2"), anchors=est.root_file.read_bytes())
    assert (await failure_of(asks.cacerts)).failure in {Failure.UNREACHABLE, Failure.UNTRUSTED}


async def test_refusals_are_told_in_words(est: EstWorld) -> None:
    failed = await failure_of(client_of(est).enroll, make_request(make_key(), "meter-001"))
    assert (failed.failure, failed.status, str(failed)) == (
        Failure.REFUSED,
        401,
        "Present a client certificate.",
    )
    bootstrap = await est.bootstrap("meter-002")
    failed = await failure_of(client_of(est, bootstrap).enroll, make_request(make_key(), "meter-001"))
    assert (failed.failure, failed.status) == (Failure.REFUSED, 403)


async def answering(response: bytes) -> asyncio.Server:
    """Answer everything on a plain socket; only for answers that our own server never gives."""

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(response)
        await writer.drain()
        writer.close()

    return await asyncio.start_server(answer, "127.0.0.1", 0)


async def test_nobody_there(est: EstWorld) -> None:
    asks = EstClient("https://127.0.0.1:9", anchors=est.root_file.read_bytes())
    assert (await failure_of(asks.cacerts)).failure is Failure.UNREACHABLE


async def test_a_server_without_tls(est: EstWorld) -> None:
    server = await answering(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
    async with server:
        port = server.sockets[0].getsockname()[1]
        asks = EstClient(f"https://127.0.0.1:{port}", anchors=est.root_file.read_bytes())
        assert (await failure_of(asks.cacerts)).failure is Failure.UNREACHABLE


@pytest.mark.parametrize("wrong", ["http://127.0.0.1", "127.0.0.1", "ftp://x"])
def test_urls_that_are_none(wrong: str) -> None:
    with pytest.raises(ValueError, match="https"):
        EstClient(wrong, root_sha256="00" * 32)


@pytest.mark.parametrize("trust", [{}, {"anchors": b"", "root_sha256": "00" * 32}, {"root_sha256": "00"}])
def test_trust_is_explicit(trust: dict[str, str]) -> None:
    with pytest.raises(ValueError, match=r"either|64"):
        EstClient("https://127.0.0.1", **trust)  # type: ignore[arg-type]


async def test_empty_anchors_are_no_trust(est: EstWorld) -> None:
    assert (await failure_of(EstClient(est.url, anchors=b"").cacerts)).failure is Failure.UNTRUSTED


def test_a_request_names_a_device_or_is_not_made() -> None:
    with pytest.raises(CertificateRefused):
        make_request(ec.generate_private_key(ec.SECP256R1()), "meter/+")
    assert write_key(make_key()).startswith(b"-----BEGIN PRIVATE KEY-----")


@pytest.mark.parametrize("version", [SSL.TLS1_2_VERSION, SSL.TLS1_3_VERSION], ids=["TLS 1.2", "TLS 1.3"])
async def test_a_label_that_wants_possession_proved(
    est: EstWorld, monkeypatch: pytest.MonkeyPatch, version: int
) -> None:
    def context(*arguments: Any) -> SSL.Context:
        made = _context(*arguments)
        made.set_max_proto_version(version)
        return made

    monkeypatch.setattr("est.client.tls._context", context)
    await est.label("linked", proof_of_possession=ProofOfPossession.REQUIRED)
    key, bootstrap = make_key(), await est.bootstrap("meter-001")
    asks = client_of(est, bootstrap, label="linked")
    template = enrolment_request(key, "meter-001")
    assert (await failure_of(asks.enroll, template)).status == 403
    first = await asyncio.to_thread(asks.enroll, template.proving())
    renews = client_of(est, est.hold([first], key), label="linked")
    next_key = make_key(KeyKind.P384)
    second = await asyncio.to_thread(renews.reenroll, renewal_request(next_key, first).proving())
    assert (second.public_key(), second.subject) == (next_key.public_key(), first.subject)


@pytest.mark.parametrize("kind", KeyKind)
async def test_every_kind_of_key(est: EstWorld, kind: KeyKind) -> None:
    key = make_key(kind)
    asks = client_of(est, await est.bootstrap("meter-001"))
    first = await asyncio.to_thread(asks.enroll, enrolment_request(key, "meter-001").proving())
    held = est.hold([first], key)
    assert public_bytes(read_key(held.key_file.read_bytes())) == public_bytes(key)
    assert kind_of(key.public_key()) is kind
    second = await asyncio.to_thread(client_of(est, held).reenroll, renewal_request(key, first).proving())
    assert second.serial_number != first.serial_number


@pytest.mark.parametrize("kind", [kind for kind in KeyKind if not kind.startswith("ML-DSA")])
def test_requests_are_what_openssl_reads(kind: KeyKind, tmp_path: Path) -> None:
    file = tmp_path / "request.der"
    template = enrolment_request(make_key(kind), "meter-001").proving()
    signs = WantedExtension(x509.KeyUsage.oid, x509.KeyUsage(True, *[False] * 8).public_bytes(), critical=True)
    template = replace(template, extensions=(*template.extensions, signs))
    file.write_bytes(template.sign(b"\x01" * 32))
    said = openssl("req", "-in", file, "-inform", "DER", "-noout", "-verify", "-text")
    for line in ("CN = meter-001", "URI:urn:doorward:device:meter-001", "Digital Signature", "challengePassword"):
        assert line in said, said
    assert b64encode(b"\x01" * 32).decode() in said


def openssl(*arguments: str | Path) -> str:
    return subprocess.run(["openssl", *map(str, arguments)], capture_output=True, check=True).stdout.decode()


def test_a_proof_needs_a_connection() -> None:
    with pytest.raises(ValueError, match="needs a connection"):
        enrolment_request(make_key(), "meter-001").proving().sign()


@pytest.mark.parametrize("wrong", ["", "a b", "a\r\nX: y", "ü"])
def test_what_is_no_bearer_token(wrong: str) -> None:
    with pytest.raises(ValueError, match="bearer"):
        EstClient("https://127.0.0.1", root_sha256="00" * 32, authorization=BearerToken(wrong))


@pytest.mark.parametrize(("user", "secret"), [("a:b", "c"), ("a", "b\r\nX: y"), ("a\0", "b")])
def test_what_basic_cannot_carry(user: str, secret: str) -> None:
    with pytest.raises(ValueError, match="control"):
        EstClient("https://127.0.0.1", root_sha256="00" * 32, authorization=BasicSecret(user, secret))


def test_secrets_do_not_show() -> None:
    assert "hunter2" not in repr((BasicSecret("meter-001", "hunter2"), BearerToken("hunter2")))


def spoil_file(file: Path, content: bytes | None) -> None:
    if content is None:
        file.unlink()
    else:
        file.write_bytes(content)


@pytest.mark.parametrize("spoil", ["certificate_file", "key_file"])
@pytest.mark.parametrize("content", [None, b"", b"nonsense"])
async def test_what_is_to_be_shown_cannot_be_used(est: EstWorld, spoil: str, content: bytes | None) -> None:
    bootstrap = await est.bootstrap("meter-001")
    file: Path = getattr(bootstrap, spoil)
    spoil_file(file, content)
    failed = await failure_of(client_of(est, bootstrap).enroll, make_request(make_key(), "meter-001"))
    assert (failed.failure, str(file) in str(failed)) == (Failure.UNUSABLE, True)


async def test_the_key_of_another_certificate(est: EstWorld) -> None:
    one, other = await est.bootstrap("meter-001"), await est.bootstrap("meter-002")
    mixed = replace(one, key_file=other.key_file)
    failed = await failure_of(client_of(est, mixed).enroll, make_request(make_key(), "meter-001"))
    assert failed.failure is Failure.UNUSABLE

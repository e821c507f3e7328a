"""What strangers send to the listener: each a clear refusal in plain text, nothing written, and the server goes on."""

import asyncio
import ssl
import warnings
from base64 import b64encode
from collections.abc import Awaitable, Callable
from datetime import timedelta
from urllib.parse import urlsplit

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from ca.inventory import AuthorityKind, RevocationReason
from est.refusals import Refusal
from iam import guard
from iam.store.database import EVERYWHERE
from tests.est.world import DAY, EstWorld, Holder, b64, request

FACTORY, ISSUING = AuthorityKind.FACTORY, AuthorityKind.ISSUING
Made = Callable[[EstWorld], Awaitable[Holder | None]]


def new_key() -> ec.EllipticCurvePrivateKey:
    return ec.generate_private_key(ec.SECP256R1())


async def nobody(_: EstWorld) -> None:
    return None


async def foreign(est: EstWorld) -> Holder:
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "Somebody Else")])
    return est.signed_by((name, new_key()), "meter-001")


def signed(kind: AuthorityKind, **how: object) -> Made:
    async def make(est: EstWorld) -> Holder:
        return est.signed_by(est.authority(kind), "meter-001", **how)  # type: ignore[arg-type]

    return make


def impostor(kind: AuthorityKind) -> Made:
    async def make(est: EstWorld) -> Holder:
        return est.signed_by(est.impostor(kind), "meter-001")

    return make


async def revoked_bootstrap(est: EstWorld) -> Holder:
    holder = await est.bootstrap("meter-001")
    await est.world.revocation.revoke(EVERYWHERE, holder.serial, RevocationReason.UNSPECIFIED, actor="test")
    return holder


async def revoked_device(est: EstWorld) -> Holder:
    holder = await est.enrolled("meter-001")
    await est.world.revocation.revoke(EVERYWHERE, holder.serial, RevocationReason.UNSPECIFIED, actor="test")
    return holder


async def superseded_device(est: EstWorld) -> Holder:
    holder = await est.enrolled("meter-001")
    await est.service.reenrol("default", (holder.der,), b64(request(new_key(), "meter-001")))
    return holder


async def own_device(est: EstWorld) -> Holder:
    return await est.enrolled("meter-001")


async def own_bootstrap(est: EstWorld) -> Holder:
    return await est.bootstrap("meter-001")


async def other_bootstrap(est: EstWorld) -> Holder:
    return await est.bootstrap("meter-002")


async def other_device(est: EstWorld) -> Holder:
    return await est.enrolled("meter-002")


LATER = {"begins": DAY, "ends": 2 * DAY}
EARLIER = {"begins": -2 * DAY, "ends": -timedelta(seconds=2)}

PEERS: list[tuple[str, str, Made, Refusal]] = [
    ("simpleenroll", "no certificate", nobody, Refusal.NO_CERTIFICATE),
    ("simpleenroll", "a foreign one", foreign, Refusal.FOREIGN),
    ("simpleenroll", "one of an authority of our factory's name", impostor(FACTORY), Refusal.FOREIGN),
    ("simpleenroll", "a device's own", own_device, Refusal.FOREIGN),
    ("simpleenroll", "one not valid yet", signed(FACTORY, **LATER), Refusal.NOT_YET_VALID),
    ("simpleenroll", "an expired one", signed(FACTORY, **EARLIER), Refusal.EXPIRED),
    ("simpleenroll", "one without extended key usage", signed(FACTORY, usage=None), Refusal.NOT_FOR_CLIENTS),
    (
        "simpleenroll",
        "a server's",
        signed(FACTORY, usage=ExtendedKeyUsageOID.SERVER_AUTH),
        Refusal.NOT_FOR_CLIENTS,
    ),
    ("simpleenroll", "an authority's", signed(FACTORY, is_authority=True), Refusal.UNUSABLE),
    ("simpleenroll", "a revoked one", revoked_bootstrap, Refusal.REVOKED),
    ("simpleenroll", "another device's", other_bootstrap, Refusal.NOT_NAMED),
    ("simplereenroll", "no certificate", nobody, Refusal.NO_CERTIFICATE),
    ("simplereenroll", "a foreign one", foreign, Refusal.FOREIGN),
    ("simplereenroll", "one of an authority of our name", impostor(ISSUING), Refusal.FOREIGN),
    ("simplereenroll", "a bootstrap certificate", own_bootstrap, Refusal.FOREIGN),
    ("simplereenroll", "one not valid yet", signed(ISSUING, **LATER), Refusal.NOT_YET_VALID),
    ("simplereenroll", "an expired one", signed(ISSUING, **EARLIER), Refusal.EXPIRED),
    ("simplereenroll", "one without extended key usage", signed(ISSUING, usage=None), Refusal.NOT_FOR_CLIENTS),
    ("simplereenroll", "one not on record", signed(ISSUING), Refusal.NOT_ON_RECORD),
    ("simplereenroll", "a revoked one", revoked_device, Refusal.REVOKED),
    ("simplereenroll", "a superseded one", superseded_device, Refusal.SUPERSEDED),
    ("simplereenroll", "another device's", other_device, Refusal.NAMES_DIFFER),
]


@pytest.mark.parametrize(
    ("operation", "make", "refusal"),
    [pytest.param(operation, make, refusal, id=f"{operation}-{name}") for operation, name, make, refusal in PEERS],
)
async def test_a_peer_that_may_not(est: EstWorld, operation: str, make: Made, refusal: Refusal) -> None:
    holder = await make(est)
    before = await est.written()
    answer = await est.enrol(operation, holder, b64(request(new_key(), "meter-001")))
    assert (answer.status, answer.body.decode()) == (guard.STATUS[refusal.kind], f"{refusal.sentence}\n")
    assert answer.headers["Content-Type"] == "text/plain"
    assert answer.headers.get("WWW-Authenticate") == ('Basic realm="doorward"' if holder is None else None)
    assert await est.written() == before


def raw_request(*subject: tuple[x509.ObjectIdentifier, str], names: list[x509.GeneralName] | None = None) -> bytes:
    with warnings.catch_warnings(action="ignore"):  # of lengths that no certificate may have
        attributes = [x509.NameAttribute(oid, value, _validate=False) for oid, value in subject]
    builder = x509.CertificateSigningRequestBuilder().subject_name(x509.Name(attributes))
    if names:
        builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=False)
    return builder.sign(new_key(), hashes.SHA256()).public_bytes(Encoding.DER)


def named(text: str) -> bytes:
    return raw_request((NameOID.COMMON_NAME, text))


def small_rsa() -> bytes:
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "meter-001")])
    key = rsa.generate_private_key(65537, 1024)  # noqa: S505 - weak, to be refused
    builder = x509.CertificateSigningRequestBuilder().subject_name(subject)
    return builder.sign(key, hashes.SHA256()).public_bytes(Encoding.DER)


def broken_signature() -> bytes:
    good = bytearray(request(new_key(), "meter-001"))
    good[-3] ^= 1
    return bytes(good)


GOOD = request(new_key(), "meter-001")
URI = x509.UniformResourceIdentifier

BODIES: list[tuple[str, bytes, int]] = [
    ("nothing", b"", 400),
    ("no base64", b"\x00\x01\x02", 400),
    ("base64 of another alphabet", b64encode(GOOD).replace(b"/", b"_").replace(b"+", b"-") + b"_", 400),
    ("half a base64", b64encode(GOOD)[:-3], 400),
    ("base64 of nothing", b"\n", 400),
    ("no DER", b64(b"hello, world"), 400),
    ("DER cut short", b64(GOOD[:-10]), 400),
    ("DER with a tail", b64(GOOD + b"\0"), 400),
    ("a certificate", b64(b"\x30\x03\x02\x01\x00"), 400),
    ("a broken signature", b64(broken_signature()), 400),
    ("an RSA key of 1024 bits", b64(small_rsa()), 403),
    ("no name", b64(raw_request()), 400),
    ("two names", b64(raw_request((NameOID.COMMON_NAME, "meter-001"), (NameOID.COMMON_NAME, "meter-002"))), 400),
    *[
        (f"the identifier {text!a}", b64(named(text)), 400)
        for text in (
            "+",
            "meter/001",
            "meter+001",
            "meter#001",
            "meter*",
            "meter>",
            "meter 001",
            "meter\n001",
            "meter-001\n",
            "meter\x00001",
            "m\u00e9ter",
            ".meter",
            "-meter",
            "$SYS",
            "m" * 65,
            "m" * 129,
            "",
            "idt-0198c5f0-0000-7000-8000-000000000000",
        )
    ],
    ("another device's identifier", b64(named("meter-002")), 403),
    (
        "the URI of another device",
        b64(raw_request((NameOID.COMMON_NAME, "meter-001"), names=[URI("urn:doorward:device:meter-002")])),
        403,
    ),
    ("a DNS name", b64(raw_request((NameOID.COMMON_NAME, "meter-001"), names=[x509.DNSName("meter-001")])), 403),
    (
        "a wildcard",
        b64(
            raw_request(
                (NameOID.COMMON_NAME, "meter-001"),
                names=[URI("urn:doorward:device:meter-001"), x509.DNSName("*.example")],
            )
        ),
        403,
    ),
    ("32 KiB and one byte", b"A" * (32 * 1024 + 1), 413),
    ("a megabyte", b"A" * 1_000_000, 413),
]


@pytest.mark.parametrize("operation", ["simpleenroll", "simplereenroll"])
async def test_bodies_that_are_no_request(est: EstWorld, operation: str) -> None:
    if operation == "simpleenroll":
        holder = await est.bootstrap("meter-001")
    else:
        holder = await est.enrolled("meter-001")
    before = await est.written()
    for name, body, status in BODIES:
        answer = await est.enrol(operation, holder, body)
        if operation == "simplereenroll" and status in {400, 403}:
            assert answer.status in {400, 403}, name  # names that differ from the certificate's are found out first
        else:
            assert answer.status == status, (name, answer)
        assert answer.headers["Content-Type"] == "text/plain", name
        assert answer.body.count(b"\n") == 1, name
        assert b"Traceback" not in answer.body, name
    assert await est.written() == before
    good = await est.enrol(operation, holder, b64(GOOD))
    assert good.status == 200, good.body


@pytest.mark.parametrize(
    ("header", "status"),
    [
        ("Content-Type: application/json", 415),
        ("Content-Type: application/pkcs7-mime", 415),
        ("Content-Type:", 415),
        ("Content-Type: application/pkcs10; charset=x", 200),
        ("Content-Type: application/pkcs10", 200),
    ],
)
async def test_content_types(est: EstWorld, header: str, status: int) -> None:
    holder = await est.bootstrap("meter-001")
    answer = await est.curl("/simpleenroll", "-H", header, holder=holder, body=b64(GOOD))
    assert answer.status == status, answer


@pytest.mark.parametrize(
    "body",
    [
        b64encode(GOOD),
        b64encode(GOOD) + b"\r\n",
        b" \t" + b"\r\n".join(b64encode(GOOD)[at : at + 7] for at in range(0, len(b64encode(GOOD)), 7)),
    ],
)
async def test_base64_is_taken_however_it_is_wrapped(est: EstWorld, body: bytes) -> None:
    answer = await est.enrol("simpleenroll", await est.bootstrap("meter-001"), body)
    assert answer.status == 200, answer


async def test_a_dripped_body_is_cut_and_the_server_goes_on(est: EstWorld, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(guard, "BODY_DEADLINE_SECONDS", 0.3)
    holder = await est.bootstrap("meter-001")
    context = ssl.create_default_context(cafile=est.root_file)
    context.load_cert_chain(holder.certificate_file, holder.key_file)
    parts = urlsplit(est.url)
    reader, writer = await asyncio.open_connection(parts.hostname, parts.port, ssl=context)
    writer.write(
        b"POST /.well-known/est/simpleenroll HTTP/1.1\r\nHost: x\r\n"
        b"Content-Type: application/pkcs10\r\nContent-Length: 1000\r\n\r\nMIIB"
    )
    async with asyncio.timeout(5):
        status = await reader.readline()
    writer.close()
    assert status.startswith(b"HTTP/1.1 408 ")
    assert (await est.enrol("simpleenroll", holder, b64(GOOD))).status == 200


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("POST", "/serverkeygen", 501),
        ("POST", "/fullcmc", 501),
        ("POST", "/default/serverkeygen", 501),
        ("GET", "/simpleenroll", 405),
        ("POST", "/cacerts", 405),
        ("GET", "/no-such-label/cacerts", 404),
        ("GET", "/no-such-label/csrattrs", 404),
        ("POST", "/no-such-label/fullcmc", 404),
        ("GET", "/default/nothing", 404),
        ("GET", "/nothing", 404),
        ("GET", "/%00/cacerts", 404),
        ("GET", "/..%2fdefault/cacerts", 404),
        ("GET", "/a/b/cacerts", 404),
    ],
)
async def test_paths(est: EstWorld, method: str, path: str, status: int) -> None:
    answer = await est.curl(path, "-X", method, "--path-as-is")
    assert (answer.status, answer.headers["Content-Type"]) == (status, "text/plain"), answer
    assert "Location" not in answer.headers


async def test_an_unknown_label_enrols_nobody(est: EstWorld) -> None:
    holder = await est.bootstrap("meter-001")
    assert (await est.enrol("simpleenroll", holder, b64(GOOD), label="none")).status == 404


async def test_the_store_gone_means_503_and_nothing_said(est: EstWorld) -> None:
    holder = await est.bootstrap("meter-001")
    await est.service.cacerts("default")
    await est.world.pool.close()
    answer = await est.enrol("simpleenroll", holder, b64(GOOD))
    assert (answer.status, answer.headers["Retry-After"]) == (503, "2")

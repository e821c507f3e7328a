"""Peers and paths that strangers try: each a clear refusal in plain text, nothing written, and the server goes on.

What they send in good form is in `test_hostile_requests.py`; what they send in none, in `test_hostile_wire.py`.
"""

import asyncio
import ssl
from base64 import b64encode
from collections.abc import Awaitable, Callable
from datetime import timedelta
from urllib.parse import urlsplit

import pytest
from cryptography import x509
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from ca.inventory import AuthorityKind, RevocationReason
from est.refusals import Refusal
from iam import responses
from iam.store.database import EVERYWHERE
from tests.est.world import DAY, EstWorld, Holder, b64, new_key, request

FACTORY, ISSUING = AuthorityKind.FACTORY, AuthorityKind.ISSUING
Made = Callable[[EstWorld], Awaitable[Holder | None]]


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
    assert (answer.status, answer.body.decode()) == (responses.STATUS[refusal.kind], f"{refusal.sentence}\n")
    assert answer.headers["Content-Type"] == "text/plain"
    assert answer.headers.get("WWW-Authenticate") == ('Basic realm="doorward"' if holder is None else None)
    assert await est.written() == before


GOOD = request(new_key(), "meter-001")


@pytest.mark.parametrize(
    ("header", "status"),
    [
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
    monkeypatch.setattr("iam.bodies.BODY_DEADLINE_SECONDS", 0.3)
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
        ("POST", "/serverkeygen", 415),
        ("POST", "/fullcmc", 501),
        ("POST", "/default/serverkeygen", 415),
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

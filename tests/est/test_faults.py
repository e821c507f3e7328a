"""What fails in the middle: the signer, the store, the line to the client. Over real TLS, with the real store.

Whatever fails, a device ends with the certificate that it had, or with the one that is on record; never with neither.
"""

import asyncio
import ssl
from base64 import b64decode
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any
from urllib.parse import urlsplit

import asyncpg
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import NameOID

from ca.issue import Template
from doorward.embedded.postgres import PostgresAddresses
from est.rules import Refusal
from iam.errors import Kind, Refused
from tests.ca.world import database_url
from tests.est.hostile.wire import PATH, sized
from tests.est.world import DAY, EstWorld, Holder, b64, new_key, only, request

Factory = tuple[x509.Name, ec.EllipticCurvePrivateKey]


@asynccontextmanager
async def superuser(est: EstWorld, postgres: PostgresAddresses) -> AsyncIterator[Any]:
    """The database's own administrator, who can break what a node cannot."""
    name = urlsplit(est.world.url).path.removeprefix("/")
    connection = await asyncpg.connect(database_url(postgres.superuser_dsn, name))
    try:
        yield connection
    finally:
        await connection.close()


def factory_of(name: str, est: EstWorld) -> tuple[Factory, bytes]:
    """An authority of a manufacturer's, and its certificate in DER."""
    subject, key = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)]), new_key()
    now = est.world.clock()
    builder = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - DAY)
        .not_valid_after(now + DAY)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .add_extension(
            x509.KeyUsage(
                digital_signature=False,
                content_commitment=False,
                key_encipherment=False,
                data_encipherment=False,
                key_agreement=False,
                key_cert_sign=True,
                crl_sign=True,
                encipher_only=False,
                decipher_only=False,
            ),
            critical=True,
        )
    )
    return (subject, key), builder.sign(key, hashes.SHA256()).public_bytes(Encoding.DER)


async def standing(est: EstWorld, identifier: str) -> list[tuple[str, bytes]]:
    """The certificates of a device, with their status."""
    rows = await est.world.rows(
        "SELECT status, certificate FROM certificate WHERE device_identifier = $1 AND identity_id IS NOT NULL"
        " ORDER BY issued_at",
        identifier,
    )
    return [(row["status"], row["certificate"]) for row in rows]


async def test_two_authorities_of_one_subject_are_told_apart_by_their_keys(est: EstWorld) -> None:
    (one, one_der), (other, other_der) = factory_of("Factory", est), factory_of("Factory", est)
    await est.label("one", bootstrap_anchors=(one_der,))
    await est.label("other", bootstrap_anchors=(other_der,))
    await est.label("both", bootstrap_anchors=(one_der, other_der))
    holders = {"meter-1": est.signed_by(one, "meter-1"), "meter-2": est.signed_by(other, "meter-2")}

    async def enrol(label: str, device: str) -> tuple[int, str]:
        answer = await est.enrol("simpleenroll", holders[device], b64(request(new_key(), device)), label=label)
        return answer.status, answer.body.decode() if answer.status != 200 else ""

    foreign = (403, f"{Refusal.FOREIGN.sentence}\n")
    assert await enrol("other", "meter-1") == foreign
    assert await enrol("one", "meter-2") == foreign
    assert await enrol("one", "meter-1") == (200, "")
    assert await enrol("both", "meter-2") == (200, "")


async def test_a_renewal_by_another_devices_certificate_is_none(est: EstWorld) -> None:
    mine, theirs = await est.enrolled("meter-001"), await est.enrolled("meter-002")
    before = await est.written()
    for key in (theirs.key, mine.key, new_key()):
        answer = await est.enrol("simplereenroll", mine, b64(request(key, "meter-002")))
        assert (answer.status, answer.body.decode()) == (403, f"{Refusal.NAMES_DIFFER.sentence}\n")
    assert await est.written() == before
    assert [status for status, _ in await standing(est, "meter-002")] == ["active"]


@pytest.mark.parametrize("operation", ["simpleenroll", "simplereenroll"])
async def test_a_signer_that_fails_leaves_everything_as_it_was(
    est: EstWorld, operation: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    device = await (est.enrolled if operation == "simplereenroll" else est.bootstrap)("meter-001")
    before = await est.written()

    def gone(*_: object) -> None:
        raise Refused(Kind.UNAVAILABLE, "The key is not at hand.", reason="the token was pulled out")

    body = b64(request(new_key(), "meter-001"))
    with monkeypatch.context() as patched:
        patched.setattr(Template, "issue", gone)
        answer = await est.enrol(operation, device, body)
        assert (answer.status, answer.headers["Content-Type"]) == (503, "text/plain")
    assert await est.written() == before
    assert (await est.enrol(operation, device, body)).status == 200


# Where the store fails: as it would for a full disk, in the middle of the one statement that records an enrolment.
FAILS = """
    CREATE FUNCTION fails() RETURNS trigger LANGUAGE plpgsql AS
        $$ BEGIN RAISE EXCEPTION 'could not extend file' USING ERRCODE = '{code}'; END $$;
    CREATE TRIGGER fails BEFORE INSERT ON {table} FOR EACH ROW EXECUTE FUNCTION fails()"""
MENDED = "DROP TRIGGER fails ON {table}; DROP FUNCTION fails()"


@pytest.mark.parametrize("operation", ["simpleenroll", "simplereenroll"])
@pytest.mark.parametrize("table", ["certificate", "outbox", "audit_pending", "device_key"])
@pytest.mark.parametrize("code", ["53100", "58030"])
async def test_a_store_that_fails_half_way_leaves_the_old_certificate_in_force(
    est: EstWorld, postgres: PostgresAddresses, operation: str, table: str, code: str
) -> None:
    device = await (est.enrolled if operation == "simplereenroll" else est.bootstrap)("meter-001")
    before, stood = await est.written(), await standing(est, "meter-001")
    body = b64(request(new_key(), "meter-001"))
    async with superuser(est, postgres) as administrator:
        await administrator.execute(FAILS.format(table=table, code=code))
        answer = await est.enrol(operation, device, body)
        assert (answer.status, answer.headers["Retry-After"]) == (503, "2"), answer
        assert (await est.written(), await standing(est, "meter-001")) == (before, stood)
        await administrator.execute(MENDED.format(table=table))
    assert (await est.enrol(operation, device, body)).status == 200


SLOW = """
    CREATE FUNCTION slow() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN PERFORM pg_sleep(30); RETURN NEW; END $$;
    CREATE TRIGGER slow BEFORE INSERT ON outbox FOR EACH ROW EXECUTE FUNCTION slow()"""
KILL = """
    SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity
    WHERE datname = current_database() AND query LIKE '%enrol_device%' AND pid <> pg_backend_pid()"""


@pytest.mark.parametrize("operation", ["simpleenroll", "simplereenroll"])
async def test_a_connection_to_the_store_that_is_cut_half_way(
    est: EstWorld, postgres: PostgresAddresses, operation: str
) -> None:
    device = await (est.enrolled if operation == "simplereenroll" else est.bootstrap)("meter-001")
    before = await est.written()
    body = b64(request(new_key(), "meter-001"))
    async with superuser(est, postgres) as administrator:
        await administrator.execute(SLOW)
        asked = asyncio.create_task(est.enrol(operation, device, body))
        async with asyncio.timeout(10):
            while not await administrator.fetchval(KILL):  # noqa: ASYNC110 - PostgreSQL sends no event for it
                await asyncio.sleep(0.02)
        assert (await asked).status == 503
        await administrator.execute("DROP TRIGGER slow ON outbox")
    assert await est.written() == before
    assert (await est.enrol(operation, device, body)).status == 200


async def ask_and_vanish(est: EstWorld, operation: str, device: Holder, body: bytes) -> None:
    """Send a request over TLS and cut TCP without having read a byte of the answer."""
    context = ssl.create_default_context(cafile=est.root_file)
    context.load_cert_chain(device.certificate_file, device.key_file)
    parts = urlsplit(est.url)
    _, writer = await asyncio.open_connection(parts.hostname, parts.port, ssl=context)
    path = PATH.replace(b"simpleenroll", operation.encode())
    writer.write(sized(body=body, start=b"POST " + path + b" HTTP/1.1"))
    await writer.drain()
    writer.transport.abort()


@pytest.mark.parametrize("operation", ["simpleenroll", "simplereenroll"])
@pytest.mark.parametrize("signed_anew", [False, True])
async def test_an_answer_that_was_lost_after_the_commit_is_given_again(
    est: EstWorld, operation: str, *, signed_anew: bool
) -> None:
    device = await (est.enrolled if operation == "simplereenroll" else est.bootstrap)("meter-001")
    stood = await standing(est, "meter-001")
    key = new_key()
    body = b64(request(key, "meter-001"))
    async with asyncio.timeout(20):
        while len(found := await standing(est, "meter-001")) == len(stood):  # a server may see the cut first: again
            await ask_and_vanish(est, operation, device, body)
            await asyncio.sleep(0.1)
    assert [status for status, _ in found] == ["superseded"] * len(stood) + ["active"]
    written = await est.written()
    again = await est.enrol(operation, device, b64(request(key, "meter-001")) if signed_anew else body)
    assert again.status == 200
    assert only(b64decode(again.body)).public_bytes(Encoding.DER) == found[-1][1]
    assert await est.written() == written

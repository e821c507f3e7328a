"""Certificates from before their authority was here, and those that mean nothing any more."""

from base64 import b64encode
from collections.abc import AsyncIterator
from datetime import datetime, timedelta
from os import urandom
from typing import Any
from uuid import uuid4

import pytest
from aiohttp import web
from aiohttp.test_utils import TestClient
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from ca.authority import Authority, AuthorityStep
from ca.http import certificates
from ca.intake import Offer
from ca.inventory import AuthorityKind, RevocationReason, stored_serial
from ca.record_keeping import RecordKeeping
from ca.search import CertificateSearch
from iam.errors import Refused
from tests.ca.test_intake import Maker
from tests.ca.world import EVERYTHING, World, serving

CERTIFICATES = "/api/ca/v1/certificates"

Client = TestClient[web.Request, web.Application]


def leaf(  # what a certificate may be made of
    world: World,
    maker: Maker,
    name: str = "meter-001",
    *,
    key: Any = None,
    signer: Any = None,
    began: timedelta = timedelta(hours=-1),
    lasts: timedelta = timedelta(days=30),
    serial: int | None = None,
    is_authority: bool = False,
) -> x509.Certificate:
    now = world.clock()
    builder = (
        x509.CertificateBuilder()
        .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)]))
        .issuer_name(maker.name)
        .public_key((key or ec.generate_private_key(ec.SECP256R1())).public_key())
        .serial_number(serial or x509.random_serial_number())
        .not_valid_before(now + began)
        .not_valid_after(now + began + lasts)
        .add_extension(x509.BasicConstraints(is_authority, None), critical=True)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.CLIENT_AUTH]), critical=False)
    )
    return builder.sign(signer or maker.key, hashes.SHA256())


def pem(certificate: x509.Certificate) -> str:
    return certificate.public_bytes(Encoding.PEM).decode()


def routes(world: World) -> list[Any]:
    keeping = RecordKeeping(world.pool, world.authorities, world.clock)
    return certificates.routes(CertificateSearch(world.pool, world.clock), world.revocation, world.authorities, keeping)


@pytest.fixture
async def client(world: World) -> AsyncIterator[Client]:
    async with serving(world, routes(world)) as running:
        yield running


async def corporate(world: World) -> tuple[Maker, Authority]:
    maker = Maker(world, "Corporate")
    access = await world.access(world.system.id)
    offer = Offer(certificate=maker.certificate, key=maker.key, line="corporate")
    return maker, await world.intake.take_in(access, world.system, offer)


async def imported(
    client: Client, headers: dict[str, str], certificate: x509.Certificate | str, **said: Any
) -> tuple[int, Any]:
    text = certificate if isinstance(certificate, str) else pem(certificate)
    answer = await client.post(f"{CERTIFICATES}/import", headers=headers, json={"certificate": text, **said})
    return answer.status, await answer.json()


async def deleted(client: Client, headers: dict[str, str], serial: str) -> tuple[int, str]:
    answer = await client.delete(f"{CERTIFICATES}/{serial}", headers=headers)
    return answer.status, "" if answer.status == 204 else (await answer.json())["detail"]


async def test_what_an_authority_issued_before_it_was_here_is_found_and_revoked(world: World, client: Client) -> None:
    headers = await world.identity(world.system.id, EVERYTHING)
    maker, authority = await corporate(world)
    certificate = leaf(world, maker)
    status, body = await imported(client, headers, certificate, metadata={"from": "the old system"})
    assert (status, body["status"], body["profile"]) == (201, "ACTIVE", "imported")
    assert body["issuer_metadata"]["id"] == str(authority.id)
    assert (body["metadata"], body["subject"]["common_name"]) == ({"from": "the old system"}, "meter-001")
    assert int(body["serial_number"], 16) == certificate.serial_number
    recorded = await world.rows("SELECT subject, data FROM audit_pending WHERE kind = 'certificate.imported'")
    assert [one["subject"] for one in recorded] == [body["serial_number"]]

    of_authority = f"/api/ca/v1/cas/corporate/certificates/{body['serial_number']}"
    assert (await (await client.get(of_authority, headers=headers)).json())["serial_number"] == body["serial_number"]
    of_another = f"/api/ca/v1/cas/issuing/certificates/{body['serial_number']}"
    assert (await client.get(of_another, headers=headers)).status == 404

    path, change = f"{CERTIFICATES}/{body['serial_number']}/status", {"status": "REVOKED"}
    assert (await client.put(path, headers=headers, json=change)).status == 200
    await world.publisher.publish_lists()
    found = x509.load_der_x509_crl((await world.shelf.current_list(authority)).der)
    assert found.get_revoked_certificate_by_serial_number(certificate.serial_number) is not None


async def test_what_is_taken_in_proves_nobody(world: World, client: Client) -> None:
    headers = await world.identity(world.system.id, EVERYTHING)
    top = Maker(world, "Top")
    maker = Maker(world, "Corporate", top)
    offer = Offer(certificate=maker.certificate, chain=(top.certificate,), key=maker.key, line="corporate")
    await world.intake.take_in(await world.access(world.system.id), world.system, offer)
    certificate = leaf(world, maker)
    chain = [one.public_bytes(Encoding.DER) for one in (certificate, maker.certificate)]
    for reason in ("not one that was recorded here", "proves no identity"):
        with pytest.raises(Refused) as refused:
            await world.prover.identity_of_certificate(chain)
        assert reason in refused.value.reason
        await imported(client, headers, certificate)


@pytest.mark.parametrize("shape", ["base64", "external", "expired"])
async def test_other_shapes(world: World, client: Client, shape: str) -> None:
    headers = await world.identity(world.system.id, EVERYTHING)
    maker = Maker(world, "Corporate")
    access = await world.access(world.system.id)
    key = None if shape == "external" else maker.key
    await world.intake.take_in(access, world.system, Offer(certificate=maker.certificate, key=key, line="corporate"))
    began = timedelta(hours=-20) if shape == "expired" else timedelta(hours=-1)
    lasts = timedelta(hours=10) if shape == "expired" else timedelta(days=1)
    text = pem(leaf(world, maker, began=began, lasts=lasts))
    sent = b64encode(text.encode()).decode() if shape == "base64" else text
    status, body = await imported(client, headers, sent)
    assert (status, body["status"]) == (201, "EXPIRED" if shape == "expired" else "ACTIVE")


async def test_what_is_not_taken_in(world: World, client: Client) -> None:
    headers = await world.identity(world.system.id, EVERYTHING)
    maker, _ = await corporate(world)
    stranger = Maker(world, "Stranger")
    weak = rsa.generate_private_key(65537, 1024)  # noqa: S505 - what is refused
    compromised = ec.generate_private_key(ec.SECP256R1())
    shipped = await world.service.issue_bootstrap("pump-1", compromised.public_key(), actor="test")
    await world.revocation.revoke(world.system.id, shipped.serial, RevocationReason.KEY_COMPROMISE, actor="test")
    own = await world.service.issue_bootstrap("pump-2", actor="test")
    once = leaf(world, maker)
    assert (await imported(client, headers, once))[0] == 201
    before = await world.value("SELECT count(*) FROM certificate")
    for status, reason, sent in (
        (409, "serial number is taken", once),
        (409, "serial number is taken", leaf(world, maker, serial=once.serial_number)),
        (409, "authority's, or was compromised", leaf(world, maker, key=maker.key)),
        (409, "authority's, or was compromised", leaf(world, maker, key=compromised)),
        (422, "No authority that came from elsewhere", leaf(world, stranger)),
        (
            422,
            "No authority that came from elsewhere",
            own.chain.decode().partition("-----END")[0] + "-----END CERTIFICATE-----\n",
        ),
        (422, "does not verify", leaf(world, maker, signer=stranger.key)),
        (422, "an authority is taken in as one", leaf(world, maker, is_authority=True)),
        (422, "1024 bits", leaf(world, maker, key=weak)),
        (422, "control character", leaf(world, maker, "meter\n001")),
        (400, "neither PEM", "no certificate"),
        (400, "cannot be read", "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"),
        (400, "is one certificate", pem(leaf(world, maker)) + pem(leaf(world, maker))),
        (400, "Some fields are wrong", "x" * 40_000),
    ):
        answer = await imported(client, headers, sent)
        assert (answer[0], reason in answer[1]["detail"]) == (status, True), (reason, answer)
    large = await imported(client, headers, leaf(world, maker), metadata={"x": "y" * 70_000})
    assert large[0] in (413, 422)
    assert await world.value("SELECT count(*) FROM certificate") == before


async def test_a_revoked_authority_has_issued_nothing_that_is_taken_in(world: World, client: Client) -> None:
    headers = await world.identity(world.system.id, EVERYTHING)
    maker, authority = await corporate(world)
    access = await world.access(world.system.id)
    await world.administration.set_status(
        access, world.system, str(authority.id), AuthorityStep.REVOKE, RevocationReason.KEY_COMPROMISE
    )
    status, body = await imported(client, headers, leaf(world, maker))
    assert (status, "is revoked" in body["detail"]) == (409, True)


async def test_another_group_takes_in_nothing_of_an_authority_that_is_not_its_own(world: World, client: Client) -> None:
    maker, _ = await corporate(world)
    acme = await world.tenant("acme")
    theirs = await world.identity(acme, EVERYTHING)
    status, body = await imported(client, theirs, leaf(world, maker))
    assert (status, "No authority" in body["detail"]) == (422, True)
    narrow = await world.identity(world.system.id, EVERYTHING, ["meter-001"])
    assert (await imported(client, narrow, leaf(world, maker)))[0] == 403


async def shipped(world: World, name: str) -> str:
    return (await world.service.issue_bootstrap(name, actor="test")).serial.hex()


async def ended(world: World, serial: str) -> datetime:
    """Let the clock come past the end of a certificate."""
    end: datetime = await world.value("SELECT not_after FROM certificate WHERE serial = $1", bytes.fromhex(serial))
    world.clock.move(end - world.clock() + timedelta(minutes=1))
    return end


async def test_only_what_has_ended_is_deleted(world: World, client: Client) -> None:
    headers = await world.identity(world.system.id, EVERYTHING)
    serial = await shipped(world, "meter-001")
    status, detail = await deleted(client, headers, serial)
    assert (status, "has not ended for a day" in detail) == (409, True)
    await world.execute(
        "UPDATE certificate SET not_after = now() - interval '2 days' WHERE serial = $1", bytes.fromhex(serial)
    )
    reader = await world.identity(world.system.id, '[{"resource": "*", "actions": ["read", "update"]}]')
    assert (await deleted(client, reader, serial))[0] == 403
    acme = await world.identity(await world.tenant("acme"), EVERYTHING)
    assert (await deleted(client, acme, serial))[0] == 404
    elsewhere = await world.identity(world.system.id, EVERYTHING, ["meter-002"])
    assert (await deleted(client, elsewhere, serial))[0] == 404
    assert await deleted(client, headers, serial) == (204, "")
    assert (await deleted(client, headers, serial))[0] == 404
    assert await world.value("SELECT subject FROM audit_pending WHERE kind = 'certificate.deleted'") == serial


async def test_what_was_revoked_stays_until_a_list_after_its_end_has_named_it(world: World, client: Client) -> None:
    headers = await world.identity(world.system.id, EVERYTHING)
    maker, authority = await corporate(world)
    certificate = leaf(world, maker, lasts=timedelta(hours=3))
    serial = (await imported(client, headers, certificate))[1]["serial_number"]
    await world.publisher.publish_lists()
    await world.revocation.revoke(
        world.system.id, bytes.fromhex(serial), RevocationReason.CESSATION_OF_OPERATION, actor="test"
    )
    assert (await deleted(client, headers, serial))[0] == 409
    await ended(world, serial)
    await world.publisher.publish_lists()  # the one that says so after its end
    status, detail = await deleted(client, headers, serial)
    assert (status, "has not ended for a day" in detail) == (409, True)  # the clock may be ahead
    world.clock.move(timedelta(days=1))
    await world.publisher.publish_lists()
    status, detail = await deleted(client, headers, serial)
    assert (status, "lists still name it" in detail) == (409, True)
    world.clock.move(timedelta(days=1))
    await world.publisher.publish_lists()
    assert await world.value("SELECT count(*) FROM revocation WHERE authority_id = $1", authority.id) == 0
    assert await deleted(client, headers, serial) == (204, "")


async def test_what_still_means_something_stays(world: World, client: Client) -> None:
    headers = await world.identity(world.system.id, EVERYTHING)
    serial, compromised = await shipped(world, "meter-001"), await shipped(world, "meter-002")
    identity = (await world.access(world.system.id)).identity.id
    await world.execute("UPDATE certificate SET identity_id = $2 WHERE serial = $1", bytes.fromhex(serial), identity)
    await world.revocation.revoke(
        world.system.id, bytes.fromhex(compromised), RevocationReason.KEY_COMPROMISE, actor="test"
    )
    await world.execute("DELETE FROM revocation")  # as when its lists have said so
    issuing = world.authorities.current(AuthorityKind.ISSUING)
    own = stored_serial(issuing.certificate.serial_number)
    await world.execute("UPDATE certificate SET not_after = now() - interval '2 days'")
    for one, reason in (
        (serial, "newest of its device"),
        (compromised, "was compromised"),
        (own.hex(), "an authority's"),
    ):
        status, detail = await deleted(client, headers, one)
        assert (status, reason in detail) == (409, True), detail
    assert await world.value("SELECT count(*) FROM outbox WHERE kind = 'certificate.deleted'") == 0


async def test_what_came_after_it_still_says_so(world: World, client: Client) -> None:
    headers = await world.identity(world.system.id, EVERYTHING)
    before, after = await shipped(world, "meter-001"), await shipped(world, "meter-001")
    await world.execute(
        "UPDATE certificate SET supersedes = $2 WHERE serial = $1", bytes.fromhex(after), bytes.fromhex(before)
    )
    await world.execute(
        "UPDATE certificate SET status = 'superseded', superseded_at = now(), not_after = now() - interval '2 days'"
        " WHERE serial = $1",
        bytes.fromhex(before),
    )
    assert await deleted(client, headers, before) == (204, "")
    shown = await (await client.get(f"{CERTIFICATES}/{after}", headers=headers)).json()
    assert shown["supersedes"] == before
    assert (await client.delete(f"{CERTIFICATES}/{uuid4().hex}", headers=headers)).status == 404
    assert (await client.delete(f"{CERTIFICATES}/{urandom(30).hex()}", headers=headers)).status == 400

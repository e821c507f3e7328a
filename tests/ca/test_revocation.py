"""Revoking, and the lists that say so: I4 of the invariants, also when all of it happens at once."""

import asyncio
import subprocess
from datetime import timedelta
from pathlib import Path
from uuid import uuid4

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from ca.inventory import RevocationReason
from ca.list_publishing import ListTerms
from iam.errors import Kind, Refused
from iam.store.database import EVERYWHERE
from tests.ca.world import World

LIFE = ListTerms().life


async def bootstrap(world: World) -> bytes:
    return (await world.service.issue_bootstrap("meter-001", actor="test")).serial


async def revoke(world: World, serial: bytes, reason: RevocationReason = RevocationReason.UNSPECIFIED) -> None:
    await world.revocation.revoke(EVERYWHERE, serial, reason, actor="test")


async def published(world: World, name: str = "factory") -> x509.CertificateRevocationList:
    content = await world.shelf.current_list(world.authorities.by_name(name))
    return x509.load_der_x509_crl(content.der)


def openssl(*arguments: str) -> str:
    return subprocess.run(["openssl", *arguments], check=True, capture_output=True, text=True).stderr


def number_of(one: x509.CertificateRevocationList) -> int:
    return one.extensions.get_extension_for_class(x509.CRLNumber).value.crl_number


async def test_the_first_lists_are_empty_and_verify(world: World, tmp_path: Path) -> None:
    assert await world.publisher.publish_lists() == 3
    for one in world.authorities.all:
        found = await published(world, one.name)
        assert found.is_signature_valid(one.certificate.public_key())  # type: ignore[arg-type]
        assert (len(found), number_of(found)) == (0, 1)
        (tmp_path / "list").write_bytes(found.public_bytes(Encoding.DER))
        (tmp_path / "authority").write_bytes(one.certificate.public_bytes(Encoding.PEM))
        checked = ["-inform", "DER", "-in", tmp_path / "list", "-noout", "-CAfile", tmp_path / "authority"]
        assert "verify OK" in await asyncio.to_thread(openssl, "crl", *map(str, checked))


async def test_nothing_new_makes_no_list(world: World) -> None:
    await world.publisher.publish_lists()
    assert await world.publisher.publish_lists() == 0


async def test_a_revocation_is_in_the_next_list_with_its_reason(world: World) -> None:
    await world.publisher.publish_lists()
    serial = await bootstrap(world)
    await revoke(world, serial, RevocationReason.KEY_COMPROMISE)
    assert await world.publisher.publish_lists() == 1
    found = await published(world)
    entry = found.get_revoked_certificate_by_serial_number(int.from_bytes(serial))
    assert entry is not None
    assert entry.extensions.get_extension_for_class(x509.CRLReason).value.reason is x509.ReasonFlags.key_compromise
    assert number_of(found) == 2


async def test_an_unspecified_reason_is_said_by_silence(world: World) -> None:
    serial = await bootstrap(world)
    await revoke(world, serial)
    await world.publisher.publish_lists()
    entry = (await published(world)).get_revoked_certificate_by_serial_number(int.from_bytes(serial))
    assert entry is not None
    assert len(entry.extensions) == 0


async def test_a_new_list_is_made_at_half_of_its_life(world: World) -> None:
    await world.publisher.publish_lists()
    world.clock.move(LIFE / 2 - timedelta(minutes=1))
    await world.publisher.publish_lists()
    assert number_of(await published(world)) == 1
    world.clock.move(timedelta(minutes=2))
    await world.publisher.publish_lists()
    assert number_of(await published(world)) > 1
    assert number_of(await published(world, "root")) == 1  # the root's lives longer


async def test_an_ended_certificate_stays_for_one_list_and_leaves(world: World) -> None:
    serial = await bootstrap(world)
    await revoke(world, serial)
    await world.publisher.publish_lists()
    end = await world.value("SELECT not_after FROM certificate WHERE serial = $1", serial)
    world.clock.move(end - world.clock() + timedelta(minutes=1))
    await world.publisher.publish_lists()
    assert len(await published(world)) == 1
    world.clock.move(LIFE)
    await world.publisher.publish_lists()
    assert len(await published(world)) == 0


async def test_a_revocation_that_was_acknowledged_is_in_the_list_made_next(world: World) -> None:
    """Revocations and lists at the same time: each list holds all that was acknowledged before it was begun."""
    serials = [await bootstrap(world) for _ in range(24)]
    acknowledged: set[int] = set()

    async def revoke_one(serial: bytes) -> None:
        await revoke(world, serial)
        acknowledged.add(int.from_bytes(serial))

    async def publish() -> None:
        for _ in range(8):
            before = set(acknowledged)
            await world.publisher.publish_lists()
            listed = {one.serial_number for one in await published(world)}
            assert before <= listed

    await asyncio.gather(publish(), publish(), *map(revoke_one, serials))
    await world.publisher.publish_lists()
    assert {one.serial_number for one in await published(world)} == acknowledged


async def test_numbers_rise_by_one_whoever_publishes(world: World) -> None:
    for expected in range(1, 6):
        await revoke(world, await bootstrap(world))
        await asyncio.gather(*(world.publisher.publish_lists() for _ in range(6)))
        assert number_of(await published(world)) == expected


async def test_of_lists_that_have_not_ended_what_a_delta_needs_is_kept(world: World) -> None:
    for _ in range(6):
        await revoke(world, await bootstrap(world))
        await world.publisher.publish_lists()
    factory = world.authorities.by_name("factory").id
    query = "SELECT number, crl IS NULL AS is_empty, base_number FROM revocation_list WHERE authority_id = $1"
    kept = await world.rows(query + " ORDER BY base_number IS NOT NULL, number", factory)
    complete = [(number, number < 6, None) for number in range(1, 7)]
    assert [tuple(one.values()) for one in kept] == [*complete, (6, False, 1)]
    world.clock.move(LIFE + timedelta(minutes=1))
    await world.publisher.publish_lists()
    kept = await world.rows(query + " ORDER BY base_number IS NOT NULL, number", factory)
    assert [tuple(one.values()) for one in kept] == [(7, False, None), (7, False, 7)]


async def test_what_is_revoked_is_not_revoked_again(world: World) -> None:
    serial = await bootstrap(world)
    await revoke(world, serial)
    with pytest.raises(Refused) as refused:
        await revoke(world, serial, RevocationReason.KEY_COMPROMISE)
    assert refused.value.kind is Kind.CONFLICT
    assert await world.value("SELECT revocation_reason FROM certificate WHERE serial = $1", serial) == "unspecified"


async def test_of_ten_at_once_one_revokes(world: World) -> None:
    serial = await bootstrap(world)
    done = await asyncio.gather(*(revoke(world, serial) for _ in range(10)), return_exceptions=True)
    assert done.count(None) == 1
    assert await world.value("SELECT count(*) FROM outbox WHERE kind = 'certificate.revoked'") == 1


async def test_another_tenants_certificate_is_not_found(world: World) -> None:
    serial = await bootstrap(world)
    acme = await world.tenant("acme")
    for tenant in (acme, uuid4()):
        with pytest.raises(Refused) as refused:
            await world.revocation.revoke(tenant, serial, RevocationReason.UNSPECIFIED, actor="test")
        assert refused.value.kind is Kind.NOT_FOUND
    assert await world.value("SELECT status FROM certificate WHERE serial = $1", serial) == "active"


async def test_a_clock_that_was_ahead_takes_no_entry_away(world: World) -> None:
    """It saw certificates end that have not: what it left out is in the list again, as soon as the clock is right."""
    serial = await bootstrap(world)
    await revoke(world, serial)
    await world.publisher.publish_lists()
    end = await world.value("SELECT not_after FROM certificate WHERE serial = $1", serial)
    ahead = end - world.clock() + timedelta(hours=3)
    world.clock.move(ahead)
    await world.publisher.publish_lists()
    world.clock.move(timedelta(hours=13))
    await world.publisher.publish_lists()
    assert len(await published(world)) == 0
    before = number_of(await published(world))
    world.clock.move(-ahead - timedelta(hours=13))
    await world.publisher.publish_lists()
    found = await published(world)
    assert [one.serial_number for one in found] == [int.from_bytes(serial)]
    assert number_of(found) > before

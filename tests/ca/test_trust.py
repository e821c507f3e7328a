"""What is believed of keys: by whom, after a deletion, after an upgrade; on a real store."""

import asyncio
from os import urandom
from pathlib import Path
from uuid import UUID, uuid4

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from ca.authorities import Authorities
from ca.authority import AuthorityStep
from ca.intake import Offer
from ca.inventory import RevocationReason
from ca.keystore import Backend, Keystore
from ca.kms import Description, KeyService
from ca.trust import Distrust, DistrustedKey
from ca.wishes import KeyWish, Wish
from certs.keys import KeyAlgorithm
from doorward.database import Pool, migrate
from doorward.embedded.postgres import PostgresAddresses
from iam.errors import Kind, Refused
from iam.service.foundation import lay_foundation
from iam.store.database import EVERYWHERE
from tests.ca.test_intake import Maker
from tests.ca.test_key_migration import database_before
from tests.ca.world import BASE_URL, MASTER_KEY, Clock, World

FIRST_WITH_DISTRUST = 15
COMPROMISE = RevocationReason.KEY_COMPROMISE


def test_who_distrusts_what_was_deleted() -> None:
    top, below, other, now = uuid4(), uuid4(), uuid4(), Clock()()
    said = DistrustedKey(b"external", below, was_ours=False, authority="maker", deleted=now)
    ours = DistrustedKey(b"ours", other, was_ours=True, authority="plant", deleted=now)
    distrust = Distrust.of([], [said, ours])
    for path, reaches in (((), False), ((top,), False), ((top, below), True), ((top, other), False)):
        assert distrust.reaches(b"external", path) is reaches
        assert (distrust.was_deleted(b"external", path) is said) is reaches
        assert distrust.reaches(b"ours", path)
        assert distrust.was_deleted(b"ours", path) is ours
        assert not distrust.reaches(b"unknown", path)
    assert not Distrust().reaches(b"ours", (top,))


async def test_the_key_of_a_revoked_authority_that_was_deleted_becomes_no_authoritys_again(world: World) -> None:
    """Though the key is here still, since it was there before the authority."""
    access = await world.access(world.system.id)
    keys = KeyService(world.pool, world.keystore, world.clock, urandom)
    said = Description("first", (), {})
    key = await keys.create(world.system.id, KeyAlgorithm.P256, 256, Backend.SEALED, said, actor="test")
    wish = Wish({"common_name": "First"}, line="first", key=KeyWish(existing=key.id))
    await world.administration.create(access, world.system, wish)
    await world.administration.set_status(access, world.system, "first", AuthorityStep.REVOKE, COMPROMISE)
    await world.administration.delete(access, world.system, "first")
    again = Wish({"common_name": "Again"}, line="again", key=KeyWish(existing=key.id))
    for act in (
        world.administration.create(access, world.system, again),
        world.administration.roll_over(access, world.system, "issuing", again.key, None),
        world.intake.request(access, world.system, "asked", {"common_name": "Asked"}, again.key, {}),
    ):
        with pytest.raises(Refused, match="was revoked") as caught:
            await act
        assert caught.value.kind is Kind.CONFLICT
    assert await world.value("SELECT count(*) FROM authority") == 3


async def test_a_stored_certificate_that_is_no_authoritys_takes_nothing_from_the_others(
    world: World, caplog: pytest.LogCaptureFixture
) -> None:
    """Nothing stores such a one; should it stand there all the same, it must not end the platform."""
    maker, access = Maker(world, "Maker"), await world.access(world.system.id)
    await world.intake.take_in(access, world.system, Offer(maker.certificate, line="maker"))
    leaf = (await world.service.issue_bootstrap("meter-001", actor="test")).chain
    der = x509.load_pem_x509_certificates(leaf)[0].public_bytes(Encoding.DER)
    await world.execute("UPDATE authority SET certificate = $1 WHERE name = 'maker'", der)
    await world.execute("UPDATE authority_standing SET revision = revision + 1 WHERE line = 'maker'")
    await world.authorities.refresh()
    assert world.authorities.by_name("issuing").is_trusted
    with pytest.raises(Refused, match="no such authority"):
        world.authorities.by_name("maker")
    assert "the authority maker" in caplog.text


async def test_of_two_who_take_the_same_certificate_in_at_once_one_does(world: World) -> None:
    access, maker = await world.access(world.system.id), Maker(world, "Maker")
    offers = (Offer(maker.certificate, line=name) for name in ("one", "other"))
    ended = await asyncio.gather(
        *(world.intake.take_in(access, world.system, offer) for offer in offers), return_exceptions=True
    )
    (refused,) = [one for one in ended if isinstance(one, Refused)]
    assert refused.kind is Kind.CONFLICT
    assert "The key is" in refused.detail
    assert await world.value("SELECT count(*) FROM authority") == 4


async def test_another_tenant_is_not_told_whose_key_was_revoked(world: World) -> None:
    await world.tenant("acme")
    maker, tenant = Maker(world, "Maker"), await world.named_tenant("acme")
    own, access = await world.access(world.system.id), await world.access(tenant.id)
    await world.intake.take_in(own, world.system, Offer(maker.certificate, key=maker.key, line="secret-plant"))
    await world.administration.set_status(own, world.system, "secret-plant", AuthorityStep.REVOKE, COMPROMISE)
    await world.administration.delete(own, world.system, "secret-plant")
    for who, whose, says in ((own, world.system, True), (access, tenant, False)):
        with pytest.raises(Refused, match="The key was revoked") as caught:
            await world.intake.take_in(who, whose, Offer(maker.certificate, line="again"))
        assert ("secret-plant" in caught.value.detail) is says


async def test_what_was_distrusted_is_seen_by_its_tenant_alone(world: World) -> None:
    acme = await world.tenant("acme")
    tenant, access = await world.named_tenant("acme"), await world.access(acme)
    await world.intake.take_in(access, tenant, Offer(Maker(world, "Maker").certificate, line="maker"))
    await world.administration.set_status(access, tenant, "maker", AuthorityStep.REVOKE, COMPROMISE)
    await world.administration.delete(access, tenant, "maker")
    for whose, seen in ((acme, 1), (world.system.id, 0)):
        async with world.pool.transaction(whose) as transaction:
            assert len(await transaction.fetch("SELECT FROM distrusted_key")) == seen


async def test_an_upgrade_keeps_what_was_taken_in_and_what_was_revoked_and_deleted(
    world: World, postgres: PostgresAddresses, tmp_path: Path
) -> None:
    clock, maker, gone = Clock(), Maker(world, "Maker"), Maker(world, "Gone")
    root = world.authorities.by_name("root")
    async with database_before(FIRST_WITH_DISTRUST, postgres) as (owner, node):
        pool = await Pool.connect(node, clock, urandom, size=2)
        try:
            system = await lay_foundation(pool, clock, urandom)
            keystore = Keystore(tmp_path, MASTER_KEY, urandom)
            await _take_in_as_before(pool, system.id, "root", "root", "MANAGED", root.der, root.spki_sha256)
            await _take_in_as_before(
                pool, system.id, "maker", "external", "EXTERNAL", maker.certificate.public_bytes(Encoding.DER), b"m"
            )
            await _revoke_as_before(pool, system.id, b"gone", gone.certificate.public_bytes(Encoding.DER))
            await migrate(owner, "doorward_node")
            authorities = Authorities(pool, keystore, clock, urandom, base_url=BASE_URL)
            await authorities.refresh()
            assert authorities.by_name("maker").spki_sha256 == b"m"
            assert authorities.by_name("root").spki_sha256 == root.spki_sha256
            assert authorities.is_claimed(b"m", system.path)
            assert authorities.distrust.by_all == {b"gone"}
            await authorities.ensure()
            async with pool.transaction(EVERYWHERE) as transaction:
                unnoted = "SELECT count(*) FROM authority_standing WHERE serial_number IS NULL OR not_before IS NULL"
                assert await transaction.fetchval(unnoted) == 0
        finally:
            await pool.close()


async def _take_in_as_before(
    pool: Pool, tenant: UUID, name: str, kind: str, origin: str, certificate: bytes, spki_sha256: bytes
) -> None:
    async with pool.transaction(EVERYWHERE) as transaction:
        identifier = uuid4()
        await transaction.execute(
            "INSERT INTO authority (id, name, kind, certificate, spki_sha256, created_at)"
            " VALUES ($1, $2, $3, $4, $5, now())",
            identifier,
            name,
            kind,
            certificate,
            spki_sha256,
        )
        await transaction.execute(
            "INSERT INTO authority_standing (authority_id, tenant_id, origin, line, generation, status,"
            " issuance_profile, common_name, not_after) VALUES ($1, $2, $3, $4, 1, 'active', 'device', $4, now())",
            identifier,
            tenant,
            origin,
            name,
        )


async def _revoke_as_before(pool: Pool, tenant: UUID, spki_sha256: bytes, certificate: bytes) -> None:
    async with pool.transaction(EVERYWHERE) as transaction:
        for number, profile in enumerate(("issuing", "server"), start=1):
            await transaction.execute(
                "INSERT INTO certificate (serial, authority_id, tenant_id, profile, subject, spki_sha256, not_before,"
                " not_after, certificate, status, issued_at, revoked_at, revocation_reason)"
                " SELECT $1, id, $2, $3, 'CN=Gone', $4, now(), now(), $5, 'revoked', now(), now(), 'keyCompromise'"
                " FROM authority WHERE name = 'root'",
                bytes([number]) * 16,
                tenant,
                profile,
                spki_sha256 if profile == "issuing" else b"server",
                certificate,
            )


async def test_a_root_that_a_tenant_above_took_in_too_stands_below_nobody(world: World) -> None:
    acme = await world.tenant("acme")
    maker, tenant = Maker(world, "Maker"), await world.named_tenant("acme")
    own, access = await world.access(world.system.id), await world.access(acme)
    await world.intake.take_in(own, world.system, Offer(maker.certificate, line="above"))
    one = await world.intake.take_in(access, tenant, Offer(maker.certificate, line="below"))
    assert (one.parent, one.is_self_signed) == (None, True)
    again = await world.intake.renew(access, tenant, "below", maker.certificate, ())
    assert again.parent is None

"""Revoking an authority revokes its key: every certificate that was ever made for it here, in the list and in OCSP."""

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.ocsp import OCSPCertStatus, OCSPRequestBuilder, load_der_ocsp_response

from ca.authority import Authority, AuthorityStatus, AuthorityStep
from ca.inventory import RevocationReason, stored_serial
from certs.pem import read_certificate
from iam.errors import Kind, Refused
from iam.store.database import EVERYWHERE
from tests.ca.test_hierarchies import made
from tests.ca.test_rollover import rolled_over
from tests.ca.world import World

COMPROMISE = RevocationReason.KEY_COMPROMISE


async def is_listed(world: World, issuer: Authority, one: x509.Certificate) -> bool:
    published = x509.load_der_x509_crl((await world.shelf.current_list(issuer)).der)
    return published.get_revoked_certificate_by_serial_number(one.serial_number) is not None


async def status_of(world: World, issuer: Authority, one: x509.Certificate) -> OCSPCertStatus:
    builder = OCSPRequestBuilder().add_certificate(one, issuer.certificate, hashes.SHA256())
    given = await world.status.answer(builder.build().public_bytes(Encoding.DER))
    return load_der_ocsp_response(given.der).certificate_status


async def set_status(world: World, one: Authority, step: AuthorityStep) -> None:
    access = await world.access(world.system.id)
    await world.administration.set_status(access, world.system, str(one.id), step, COMPROMISE)


async def test_every_certificate_of_the_key_is_revoked_with_an_event_each(world: World) -> None:
    top = await made(world, "top", path_length=3)
    first = await made(world, "below", "top", path_length=0)
    access = await world.access(world.system.id)
    again = await world.administration.reissue(access, world.system, "below", None)
    new = await rolled_over(world, "below")
    assert new.links is not None
    old_with_new, new_with_old = (read_certificate(one) for one in (new.links.old_with_new, new.links.new_with_old))
    await world.responders.renew()
    world.changes.clear()
    await set_status(world, again, AuthorityStep.REVOKE)
    await world.status.look()
    await world.publisher.publish_lists()
    of_the_key = ((top, first.certificate), (top, again.certificate), (new, old_with_new))
    for issuer, one in of_the_key:
        assert await is_listed(world, issuer, one)
        assert await status_of(world, issuer, one) is OCSPCertStatus.REVOKED
    for issuer, one in ((top, new.certificate), (again, new_with_old)):
        assert not await is_listed(world, issuer, one)
        assert await status_of(world, issuer, one) is OCSPCertStatus.GOOD
    told = [one for one in world.changes if one.kind == "certificate.revoked"]
    expected = sorted(one.serial_number.to_bytes(16).hex() for _, one in of_the_key)
    assert [one.subject for one in told] == expected  # in the one order in which all are locked
    assert {one.data["reason"] for one in told} == {"keyCompromise"}
    rows = await world.rows(
        "SELECT DISTINCT revocation_reason FROM certificate WHERE spki_sha256 = $1", first.spki_sha256
    )
    assert rows == [{"revocation_reason": "keyCompromise"}]


async def test_the_link_to_a_key_that_is_revoked_is_revoked_by_the_key_before(world: World) -> None:
    top = await made(world, "top", path_length=3)
    old = await made(world, "below", "top", path_length=0)
    new = await rolled_over(world, "below")
    assert new.links is not None
    await set_status(world, new, AuthorityStep.REVOKE)
    await world.publisher.publish_lists()
    assert await is_listed(world, old, read_certificate(new.links.new_with_old))
    assert await is_listed(world, top, new.certificate)
    assert not await is_listed(world, new, read_certificate(new.links.old_with_new))
    assert not await is_listed(world, top, old.certificate)


@pytest.mark.parametrize("before", ["held", "revoked"])
async def test_what_was_held_is_revoked_and_what_was_revoked_stays_as_it_was(world: World, before: str) -> None:
    first = await made(world, "below", "root")
    access = await world.access(world.system.id)
    await world.administration.reissue(access, world.system, "below", None)
    await world.execute(
        "UPDATE certificate SET status = 'revoked', revoked_at = now(), revocation_reason = $2 WHERE serial = $1",
        first.certificate.serial_number.to_bytes(16),
        "certificateHold" if before == "held" else "superseded",
    )
    world.changes.clear()
    await set_status(world, first, AuthorityStep.REVOKE)
    rows = await world.rows(
        "SELECT revocation_reason AS why FROM certificate WHERE spki_sha256 = $1", first.spki_sha256
    )
    kept = "keyCompromise" if before == "held" else "superseded"
    assert sorted(one["why"] for one in rows) == sorted([kept, "keyCompromise"])
    told = [one for one in world.changes if one.kind == "certificate.revoked"]
    assert len(told) == (2 if before == "held" else 1)


async def test_deactivating_revokes_nothing(world: World) -> None:
    below = await made(world, "below", "root")
    await set_status(world, below, AuthorityStep.DEACTIVATE)
    assert await world.value("SELECT count(*) FROM certificate WHERE status = 'revoked'") == 0


async def test_an_authority_is_not_put_on_hold(world: World) -> None:
    below = await made(world, "below", "root")
    access = await world.access(world.system.id)
    with pytest.raises(Refused, match="Deactivate it") as caught:
        await world.administration.set_status(
            access, world.system, "below", AuthorityStep.REVOKE, RevocationReason.CERTIFICATE_HOLD
        )
    assert caught.value.kind is Kind.INVALID
    assert world.authorities.by_id(below.id).is_trusted
    assert await world.value("SELECT count(*) FROM certificate WHERE status = 'revoked'") == 0


async def test_what_was_revoked_by_its_certificate_is_not_certified_anew_and_is_deleted_as_revoked(
    world: World,
) -> None:
    """Such as by an earlier version of `doorward ca revoke`."""
    access = await world.access(world.system.id)
    plant = await made(world, "plant")
    await world.revocation.revoke(
        EVERYWHERE, stored_serial(plant.certificate.serial_number), RevocationReason.KEY_COMPROMISE, actor="test"
    )
    with pytest.raises(Refused, match="is revoked") as caught:
        await world.administration.reissue(access, world.system, "plant", None)
    assert caught.value.kind is Kind.CONFLICT
    assert world.authorities.by_id(plant.id).status is AuthorityStatus.REVOKED
    await world.administration.delete(access, world.system, "plant")
    assert world.authorities.distrust.reaches(plant.spki_sha256, ())

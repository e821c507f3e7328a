"""Certificates on hold: they authenticate nothing, and do so again once released."""

import asyncio
from uuid import uuid4

import pytest
from cryptography.hazmat.primitives.asymmetric import ec

from ca.inventory import RevocationReason
from iam.errors import Kind, Refused
from iam.store.database import EVERYWHERE
from tests.est.test_proof import hears, is_refused, prove
from tests.est.world import EstWorld, Holder, b64, request


async def hold(est: EstWorld, holder: Holder) -> None:
    await est.world.revocation.revoke(EVERYWHERE, holder.serial, RevocationReason.CERTIFICATE_HOLD, actor="test")


async def release(est: EstWorld, holder: Holder) -> None:
    await est.world.revocation.release(EVERYWHERE, holder.serial, actor="test")


async def enrolment_is_refused(est: EstWorld, operation: str, holder: Holder) -> bool:
    """Enrol or re-enrol by it with a new key, and tell whether that is refused with nothing written."""
    csr = b64(request(ec.generate_private_key(ec.SECP256R1()), "meter-001"))
    act = est.service.enrol if operation == "enrol" else est.service.reenrol
    before = await est.written()
    (answer,) = await asyncio.gather(act("default", (holder.der,), csr), return_exceptions=True)
    if isinstance(answer, Refused):
        assert (answer.kind, await est.written()) == (Kind.FORBIDDEN, before)
        return True
    return False


async def test_a_held_certificate_proves_nobody_until_it_is_released(est: EstWorld) -> None:
    hears(est)
    device = await est.enrolled("meter-001")
    await prove(est, device)
    await hold(est, device)
    assert await is_refused(est, device)
    assert await enrolment_is_refused(est, "reenrol", device)
    await release(est, device)
    assert await prove(est, device)
    assert not await enrolment_is_refused(est, "reenrol", device)


async def test_a_held_bootstrap_certificate_enrols_nothing_until_it_is_released(est: EstWorld) -> None:
    bootstrap = await est.bootstrap("meter-001")
    await hold(est, bootstrap)
    assert await enrolment_is_refused(est, "enrol", bootstrap)
    await release(est, bootstrap)
    assert not await enrolment_is_refused(est, "enrol", bootstrap)


async def test_holding_cuts_connections_and_releasing_cuts_none(est: EstWorld) -> None:
    device = await est.enrolled("meter-001")
    await hold(est, device)
    await release(est, device)
    identity = await est.world.value("SELECT identity_id FROM device")
    held, released = [one for one in est.world.changes if one.kind in {"certificate.held", "certificate.released"}]
    assert held.data["affects"] == [["identity", identity]]
    assert "affects" not in released.data
    assert await est.world.value("SELECT status FROM device") == "ACTIVE"


async def test_what_is_held_can_be_revoked_and_keeps_its_date(est: EstWorld) -> None:
    device = await est.enrolled("meter-001")
    await hold(est, device)
    query = "SELECT revoked_at FROM certificate WHERE serial = $1"
    held_at = await est.world.value(query, device.serial)
    await est.world.revocation.revoke(EVERYWHERE, device.serial, RevocationReason.KEY_COMPROMISE, actor="test")
    assert await est.world.value(query, device.serial) == held_at
    assert await est.world.value("SELECT status FROM device") == "REVOKED"
    for step in (hold, release):
        with pytest.raises(Refused) as refused:
            await step(est, device)
        assert refused.value.kind is Kind.CONFLICT


async def test_what_has_been_replaced_meanwhile_is_not_released(est: EstWorld) -> None:
    device = await est.enrolled("meter-001")
    await hold(est, device)
    await est.world.execute(
        "INSERT INTO certificate (serial, authority_id, tenant_id, profile, device_identifier, identity_id, subject,"
        " spki_sha256, not_before, not_after, certificate, status, issued_at)"
        " SELECT substr(sha256(serial), 1, 16), authority_id, tenant_id, profile, device_identifier, identity_id,"
        " subject, spki_sha256, not_before, not_after, certificate, 'active', issued_at"
        " FROM certificate WHERE serial = $1",
        device.serial,
    )
    with pytest.raises(Refused) as refused:
        await release(est, device)
    assert refused.value.kind is Kind.CONFLICT
    assert await is_refused(est, device)


async def test_a_device_taken_out_of_service_loses_what_was_held_for_good(est: EstWorld) -> None:
    device = await est.enrolled("meter-001")
    await hold(est, device)
    identity = await est.world.value("SELECT identity_id FROM device")
    async with est.world.pool.transaction(EVERYWHERE) as transaction:
        await est.world.revocation.withdraw(transaction, identity, "test")
    with pytest.raises(Refused):
        await release(est, device)
    reason = await est.world.value("SELECT revocation_reason FROM certificate WHERE serial = $1", device.serial)
    assert reason == "cessationOfOperation"


async def test_of_ten_at_once_one_holds_and_one_releases(est: EstWorld) -> None:
    device = await est.enrolled("meter-001")
    for step in (hold, release):
        done = await asyncio.gather(*(step(est, device) for _ in range(10)), return_exceptions=True)
        assert done.count(None) == 1


async def test_another_tenant_holds_and_releases_nothing(est: EstWorld) -> None:
    device = await est.enrolled("meter-001")
    revocation = est.world.revocation
    for attempt in (
        revocation.revoke(uuid4(), device.serial, RevocationReason.CERTIFICATE_HOLD, actor="test"),
        revocation.release(uuid4(), device.serial, actor="test"),
    ):
        with pytest.raises(Refused) as refused:
            await attempt
        assert refused.value.kind is Kind.NOT_FOUND

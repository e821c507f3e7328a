"""Whether what a live connection was let in by still holds, as the store says: certificates, their heirs, sessions."""

from os import urandom

import pytest
from cryptography.hazmat.primitives.asymmetric import ec

from ca.authority import AuthorityStep
from ca.inventory import RevocationReason
from ca.lasting import LastingProofs
from iam.access import Proof, ProofKind
from iam.identifiers import uuid7
from iam.store.database import EVERYWHERE
from iam.store.sessions import Session, insert_session, revoke_session
from tests.est.test_distrust import step
from tests.est.world import EstWorld, Holder, b64, new_key, only, request


def proof(holder: Holder) -> Proof:
    return Proof(ProofKind.CERTIFICATE, holder.serial)


async def renewed(est: EstWorld, holder: Holder, key: ec.EllipticCurvePrivateKey) -> Holder:
    answer = await est.service.reenrol("default", (holder.der,), b64(request(key, "meter-001")))
    return est.hold([only(answer)], key)


async def ended(est: EstWorld, *proofs: Proof) -> frozenset[Proof]:
    return await LastingProofs(est.world.pool, est.world.authorities).ended(proofs)


async def revoke(est: EstWorld, holder: Holder, reason: RevocationReason) -> None:
    await est.world.revocation.revoke(EVERYWHERE, holder.serial, reason, actor="test")


@pytest.mark.parametrize("reason", [RevocationReason.KEY_COMPROMISE, RevocationReason.CERTIFICATE_HOLD])
async def test_a_certificate_holds_until_it_is_revoked_or_held(est: EstWorld, reason: RevocationReason) -> None:
    device, other = await est.enrolled("meter-001"), await est.enrolled("meter-002")
    assert await ended(est, proof(device), proof(other)) == frozenset()
    await revoke(est, device, reason)
    assert await ended(est, proof(device), proof(other)) == {proof(device)}


async def test_one_that_was_renewed_lasts_as_long_as_its_key(est: EstWorld) -> None:
    first = await est.enrolled("meter-001")
    second = await renewed(est, first, first.key)
    assert await ended(est, proof(first), proof(second)) == frozenset()
    third = await renewed(est, second, new_key())
    assert await ended(est, proof(first), proof(second), proof(third)) == {proof(first), proof(second)}


async def test_one_that_was_renewed_ends_with_its_heir(est: EstWorld) -> None:
    first = await est.enrolled("meter-001")
    second = await renewed(est, first, first.key)
    await revoke(est, second, RevocationReason.KEY_COMPROMISE)
    assert await ended(est, proof(first), proof(second)) == {proof(first), proof(second)}


async def test_none_outlasts_the_trust_in_its_issuer(est: EstWorld) -> None:
    device = await est.enrolled("meter-001")
    await step(est, est.world.authorities.by_name("issuing"), AuthorityStep.DEACTIVATE)
    assert await ended(est, proof(device)) == {proof(device)}


async def test_what_nobody_knows_does_not_hold_and_many_are_asked_for_at_once(est: EstWorld) -> None:
    device = await est.enrolled("meter-001")
    unknown = [Proof(ProofKind.CERTIFICATE, urandom(16)) for _ in range(1500)]
    unknown += [Proof(ProofKind.SESSION, urandom(16)) for _ in range(1500)]
    assert await ended(est, *unknown, proof(device)) == set(unknown)


async def test_a_session_holds_until_it_is_ended(est: EstWorld) -> None:
    now, access = est.world.clock(), await est.world.access(est.world.system.id)
    session = uuid7(now, urandom)
    async with est.world.pool.transaction(EVERYWHERE) as transaction:
        await insert_session(
            transaction, Session(session, access.identity.id, access.tenant.id, "doorward", ("pwd",), now, now)
        )
    shown = Proof(ProofKind.SESSION, session.bytes)
    assert await ended(est, shown) == frozenset()
    async with est.world.pool.transaction(EVERYWHERE) as transaction:
        await revoke_session(transaction, session)
    assert await ended(est, shown) == {shown}

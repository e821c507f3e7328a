"""Whom a certificate proves, from memory and from the store: a revocation counts at once wherever it is heard of."""

import asyncio
from collections.abc import Sequence
from datetime import timedelta

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec

from ca.inventory import AuthorityKind, ProvedCertificate, RevocationReason
from iam.errors import Kind, Refused
from iam.store.database import EVERYWHERE, Change
from tests.est.world import DAY, EstWorld, Holder, b64, only, request


async def prove(est: EstWorld, holder: Holder) -> ProvedCertificate:
    return await est.world.prover.identity_of_certificate((holder.der,))


async def is_refused(est: EstWorld, holder: Holder) -> bool:
    (answer,) = await asyncio.gather(prove(est, holder), return_exceptions=True)
    return isinstance(answer, Refused) and answer.kind is Kind.UNAUTHENTICATED


def hears(est: EstWorld) -> None:
    """Wire announcements to the prover, as the composition root does."""

    def hear(changes: Sequence[Change]) -> None:
        for one in changes:
            est.world.prover.hear(one.kind, one.data)

    est.world.pool.announce_to(hear)


async def test_a_device_is_proved(est: EstWorld) -> None:
    device = await est.enrolled("meter-001")
    proved = await prove(est, device)
    assert proved.identity == await est.world.value("SELECT identity_id FROM device")
    assert (proved.serial, proved.not_after) == (device.serial, device.certificate.not_valid_after_utc)


async def test_the_second_answer_comes_from_memory(est: EstWorld) -> None:
    device = await est.enrolled("meter-001")
    first = await prove(est, device)
    await est.world.pool.close()
    assert await prove(est, device) == first


async def test_who_is_not_proved(est: EstWorld) -> None:
    stranger = (x509.Name([]), ec.generate_private_key(ec.SECP256R1()))
    for holder in (
        await est.bootstrap("meter-001"),
        est.signed_by(est.authority(AuthorityKind.ISSUING), "meter-001"),
        est.signed_by(est.authority(AuthorityKind.FACTORY), "meter-001"),
        est.signed_by(est.impostor(AuthorityKind.ISSUING), "meter-001"),
        est.signed_by(stranger, "meter-001"),
        est.signed_by(est.authority(AuthorityKind.ISSUING), "meter-001", usage=None),
    ):
        assert await is_refused(est, holder)
    with pytest.raises(Refused):
        await est.world.prover.identity_of_certificate(())
    with pytest.raises(Refused):
        await est.world.prover.identity_of_certificate((b"no certificate",))


async def test_a_server_certificate_proves_nobody(est: EstWorld) -> None:
    made = await est.world.service.server_certificate(["localhost"], [])
    leaf = x509.load_pem_x509_certificates(made.chain)[0]
    assert await is_refused(est, est.hold([leaf], ec.generate_private_key(ec.SECP256R1())))


@pytest.mark.parametrize("by", [-DAY, 100 * DAY])
async def test_time_counts_also_in_memory(est: EstWorld, by: timedelta) -> None:
    device = await est.enrolled("meter-001")
    await prove(est, device)
    est.world.fresh_for[0] = 1000 * DAY
    est.world.clock.move(by)
    assert await is_refused(est, device) is (by > timedelta(0))


async def test_a_revocation_that_is_heard_counts_at_once(est: EstWorld) -> None:
    hears(est)
    device = await est.enrolled("meter-001")
    await prove(est, device)
    await est.world.revocation.revoke(EVERYWHERE, device.serial, RevocationReason.UNSPECIFIED, actor="test")
    assert await is_refused(est, device)


async def test_a_revocation_that_is_not_heard_counts_when_the_answer_is_no_longer_fresh(est: EstWorld) -> None:
    device = await est.enrolled("meter-001")
    await prove(est, device)
    await est.world.execute("UPDATE certificate SET status = 'revoked', revoked_at = now()")
    assert not await is_refused(est, device)
    est.world.fresh_for[0] = timedelta(seconds=2)
    est.world.clock.move(timedelta(seconds=2))
    assert await is_refused(est, device)


async def test_a_renewed_certificate_connects_no_more_and_its_successor_does(est: EstWorld) -> None:
    hears(est)
    device = await est.enrolled("meter-001")
    await prove(est, device)
    answer = await est.service.reenrol("default", (device.der,), b64(request(device.key, "meter-001")))
    assert await is_refused(est, device)
    assert (await prove(est, est.hold([only(answer)], device.key))).identity


async def test_what_was_looked_up_before_a_revocation_is_not_remembered_after_it(
    est: EstWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    device = await est.enrolled("meter-001")
    identity = await est.world.value("SELECT identity_id FROM device")
    looked_up, go_on = asyncio.Event(), asyncio.Event()
    look_up = est.world.prover._look_up

    async def slowly(*arguments: object) -> ProvedCertificate:
        found = await look_up(*arguments)  # type: ignore[arg-type]
        looked_up.set()
        await go_on.wait()
        return found

    monkeypatch.setattr(est.world.prover, "_look_up", slowly)
    asking = asyncio.create_task(prove(est, device))
    await looked_up.wait()
    est.world.prover.forget(identity)
    go_on.set()
    await asking
    assert not est.world.prover._remembered


async def test_memory_is_bounded(est: EstWorld) -> None:
    est.world.prover._capacity = 2
    for number in range(4):
        await prove(est, await est.enrolled(f"meter-{number}"))
    assert (len(est.world.prover._remembered), len(est.world.prover._of_identity)) == (2, 2)

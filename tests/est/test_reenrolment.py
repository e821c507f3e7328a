"""simplereenroll: renewing and rekeying over real TLS, and what stands against it."""

import asyncio
from base64 import b64decode
from datetime import timedelta

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec

from ca.inventory import AuthorityKind, RevocationReason
from ca.store import lock_certificate, revoke_certificate
from est.rules import Refusal
from iam.errors import Refused
from iam.store.database import EVERYWHERE
from tests.est.world import DAY, EstWorld, Holder, b64, only, request


def new_key() -> ec.EllipticCurvePrivateKey:
    return ec.generate_private_key(ec.SECP256R1())


async def renewed(est: EstWorld, holder: Holder, key: ec.EllipticCurvePrivateKey, label: str = "default") -> Holder:
    answer = await est.service.reenrol(label, (holder.der,), b64(request(key, "meter-001")))
    return est.hold([only(answer)], key)


async def refusal_of(est: EstWorld, holder: Holder, csr: bytes | None = None, label: str = "default") -> str:
    """Re-enrol below the wire, see it refused and nothing written, and return the log's word for it."""
    before = await est.written()
    with pytest.raises(Refused) as refused:
        await est.service.reenrol(label, (holder.der,), b64(csr or request(new_key(), "meter-001")))
    assert await est.written() == before
    return refused.value.reason.partition(":")[0]


async def status_of(est: EstWorld, holder: Holder) -> str:
    return str(await est.world.value("SELECT status FROM certificate WHERE serial = $1", holder.serial))


@pytest.mark.parametrize("rekey", [False, True])
async def test_curl_renews(est: EstWorld, *, rekey: bool) -> None:
    device = await est.enrolled("meter-001")
    key = new_key() if rekey else device.key
    answer = await est.enrol("simplereenroll", device, b64(request(key, "meter-001")))
    assert (answer.status, answer.headers["Content-Type"]) == (
        200,
        "application/pkcs7-mime; smime-type=certs-only",
    )
    certificate = only(b64decode(answer.body))
    assert certificate.public_key() == key.public_key()
    assert (certificate.subject, certificate.serial_number == device.certificate.serial_number) == (
        device.certificate.subject,
        False,
    )
    (new,) = await est.world.rows("SELECT * FROM certificate WHERE status = 'active' AND profile = 'device'")
    assert (new["supersedes"], new["serial"]) == (device.serial, certificate.serial_number.to_bytes(16))
    assert await status_of(est, device) == "superseded"
    assert await est.world.value("SELECT count(*) FROM device_key") == 1 + rekey


async def test_a_renewal_touches_nobodys_access(est: EstWorld) -> None:
    device = await est.enrolled("meter-001")
    await renewed(est, device, new_key())
    (event,) = [one for one in est.world.changes if one.kind == "device.renewed"]
    assert event.data == {"identity": await est.world.value("SELECT identity_id FROM device")}
    recorded = await est.world.value("SELECT data::text FROM outbox WHERE kind = 'device.renewed'")
    assert "affects" not in recorded


async def test_the_same_request_again_gets_the_same_certificate(est: EstWorld) -> None:
    device = await est.enrolled("meter-001")
    csr = b64(request(new_key(), "meter-001"))
    first = await est.service.reenrol("default", (device.der,), csr)
    before = await est.written()
    assert await est.service.reenrol("default", (device.der,), csr) == first
    assert await est.written() == before


async def test_twenty_times_the_same_request_at_once_is_one_certificate(est: EstWorld) -> None:
    device = await est.enrolled("meter-001")
    csr = b64(request(new_key(), "meter-001"))
    answers = await asyncio.gather(*(est.service.reenrol("default", (device.der,), csr) for _ in range(20)))
    assert len(set(answers)) == 1


async def test_of_twenty_successors_at_once_one_wins(est: EstWorld) -> None:
    device = await est.enrolled("meter-001")
    answers = await asyncio.gather(
        *(est.service.reenrol("default", (device.der,), b64(request(new_key(), "meter-001"))) for _ in range(20)),
        return_exceptions=True,
    )
    lost = [one.reason.partition(":")[0] for one in answers if isinstance(one, Refused)]
    assert lost == [Refusal.SUPERSEDED.name] * 19
    live = "SELECT count(*) FROM certificate WHERE profile = 'device' AND status = 'active'"
    assert await est.world.value(live) == 1


async def test_a_superseded_certificate_renews_nothing_more(est: EstWorld) -> None:
    device = await est.enrolled("meter-001")
    await renewed(est, device, new_key())
    assert await refusal_of(est, device) == Refusal.SUPERSEDED.name


async def test_grace_lets_the_previous_certificate_renew_for_a_while(est: EstWorld) -> None:
    await est.label("meters", previous_grace=timedelta(hours=1))
    device = await est.enrolled("meter-001", label="meters")
    lost = await renewed(est, device, new_key(), "meters")
    est.world.clock.move(timedelta(minutes=59))
    await renewed(est, device, new_key(), "meters")
    assert (await status_of(est, lost), await status_of(est, device)) == ("superseded", "superseded")
    est.world.clock.move(timedelta(minutes=2))
    assert await refusal_of(est, device, label="meters") == Refusal.SUPERSEDED.name


async def test_grace_does_not_outlive_a_revocation(est: EstWorld) -> None:
    await est.label("meters", previous_grace=timedelta(hours=1))
    device = await est.enrolled("meter-001", label="meters")
    await renewed(est, device, new_key(), "meters")
    await est.world.revocation.revoke(EVERYWHERE, device.serial, RevocationReason.KEY_COMPROMISE, actor="test")
    assert await refusal_of(est, device, label="meters") == Refusal.REVOKED.name


async def test_a_revoked_certificate_never(est: EstWorld) -> None:
    device = await est.enrolled("meter-001")
    await est.world.revocation.revoke(EVERYWHERE, device.serial, RevocationReason.CERTIFICATE_HOLD, actor="test")
    assert await refusal_of(est, device) == Refusal.REVOKED.name


async def test_an_expired_one_only_where_the_label_says_so(est: EstWorld) -> None:
    device = await est.enrolled("meter-001")
    await est.label("late", expired_may_renew=True)
    est.world.clock.move(100 * DAY)
    assert await refusal_of(est, device) == Refusal.EXPIRED.name
    await renewed(est, device, new_key(), "late")


async def test_an_expired_and_revoked_one_not_even_there(est: EstWorld) -> None:
    device = await est.enrolled("meter-001")
    await est.label("late", expired_may_renew=True)
    await est.world.revocation.revoke(EVERYWHERE, device.serial, RevocationReason.UNSPECIFIED, actor="test")
    est.world.clock.move(100 * DAY)
    assert await refusal_of(est, device, label="late") == Refusal.REVOKED.name


async def test_what_we_signed_and_did_not_record_is_nothing(est: EstWorld) -> None:
    unknown = est.signed_by(est.authority(AuthorityKind.ISSUING), "meter-001")
    assert await refusal_of(est, unknown) == Refusal.NOT_ON_RECORD.name


async def test_the_record_is_compared_byte_for_byte(est: EstWorld) -> None:
    device = await est.enrolled("meter-001")
    other = est.signed_by(est.authority(AuthorityKind.ISSUING), "meter-001")
    await est.world.execute("UPDATE certificate SET serial = $2 WHERE serial = $1", device.serial, other.serial)
    assert await refusal_of(est, other) == Refusal.NOT_ON_RECORD.name


async def test_a_bootstrap_certificate_renews_nothing(est: EstWorld) -> None:
    await est.enrolled("meter-001")
    assert await refusal_of(est, await est.bootstrap("meter-001")) == Refusal.FOREIGN.name


async def test_names_must_be_identical(est: EstWorld) -> None:
    device = await est.enrolled("meter-001")
    uri = x509.UniformResourceIdentifier("urn:doorward:device:meter-001")
    for csr in (
        request(new_key(), "meter-002"),
        request(new_key(), "meter-001", alternative_names=[]),
        request(new_key(), "meter-001", alternative_names=[uri, x509.DNSName("meter-001")]),
        request(
            new_key(),
            "meter-001",
            alternative_names=[x509.UniformResourceIdentifier("urn:doorward:device:meter-002")],
        ),
    ):
        assert await refusal_of(est, device, csr) == Refusal.NAMES_DIFFER.name


async def test_the_key_of_another_device_is_refused(est: EstWorld) -> None:
    device, other = await est.enrolled("meter-001"), await est.enrolled("meter-002")
    assert await refusal_of(est, device, request(other.key, "meter-001")) == Refusal.KEY_TAKEN.name


async def test_going_back_to_an_older_key_is_allowed_unless_it_was_compromised(est: EstWorld) -> None:
    first = await est.enrolled("meter-001")
    second = await renewed(est, first, new_key())
    third = await renewed(est, second, first.key)
    await est.world.revocation.revoke(EVERYWHERE, second.serial, RevocationReason.KEY_COMPROMISE, actor="test")
    assert await refusal_of(est, third, request(second.key, "meter-001")) == Refusal.KEY_COMPROMISED.name


@pytest.mark.parametrize(
    ("change", "refusal"),
    [
        ("UPDATE device SET status = 'DECOMMISSIONED'", Refusal.DECOMMISSIONED),
        ("UPDATE identity SET status = 'suspended' WHERE type = 'device'", Refusal.IDENTITY_SUSPENDED),
        ("UPDATE device SET identity_id = NULL", Refusal.NOT_THE_DEVICE),
        ("DELETE FROM device", Refusal.NOT_THE_DEVICE),
        ("UPDATE tenant SET status = 'blocked' WHERE name = 'acme'", Refusal.TENANT_BLOCKED),
    ],
)
async def test_device_and_identity_must_be_in_good_standing(est: EstWorld, change: str, refusal: Refusal) -> None:
    await est.world.device("meter-001", await est.world.tenant("acme"))
    device = await est.enrolled("meter-001")
    await est.world.execute(change)
    assert await refusal_of(est, device) == refusal.name


async def test_a_label_of_another_tenant_renews_nothing_of_ours(est: EstWorld) -> None:
    device = await est.enrolled("meter-001")
    await est.label("acme-meters", await est.world.tenant("acme"))
    assert await refusal_of(est, device, label="acme-meters") == Refusal.OTHER_TENANT.name


async def test_revoking_and_renewing_at_once_never_leaves_the_old_one_alive(est: EstWorld) -> None:
    for round_ in range(5):
        await est.world.execute("UPDATE device SET replacement_allowed = true")
        device = await est.enrolled("meter-001")
        csr = b64(request(new_key(), "meter-001"))
        answer, revoked = await asyncio.gather(
            est.service.reenrol("default", (device.der,), csr),
            est.world.revocation.revoke(EVERYWHERE, device.serial, RevocationReason.UNSPECIFIED, actor="test"),
            return_exceptions=True,
        )
        assert await status_of(est, device) == "revoked", (round_, answer, revoked)
        assert isinstance(answer, bytes | Refused), answer
        assert isinstance(answer, bytes) or answer.reason.startswith(Refusal.REVOKED.name)


async def test_revoking_and_renewing_wait_for_each_other_in_one_order(est: EstWorld) -> None:
    """Both hold the device before its certificates; in any other order PostgreSQL would break the deadlock."""
    device = await est.enrolled("meter-001")
    csr = b64(request(new_key(), "meter-001"))
    async with est.world.pool.transaction(EVERYWHERE) as transaction:
        found = await lock_certificate(transaction, device.serial)
        renewing = asyncio.create_task(est.service.reenrol("default", (device.der,), csr))
        await asyncio.sleep(0.2)
        assert not renewing.done()
        await revoke_certificate(transaction, found, RevocationReason.UNSPECIFIED)
    with pytest.raises(Refused) as refused:
        await renewing
    assert refused.value.reason.startswith(Refusal.REVOKED.name)

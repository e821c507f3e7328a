"""simplereenroll: renewing and rekeying over real TLS, and what stands against it."""

import asyncio
import json
from base64 import b64decode
from datetime import timedelta
from uuid import uuid4

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec

from ca.inventory import AuthorityKind, RevocationReason
from ca.store.certificates import lock_certificate, revoke_certificate
from est.profiles import Renewal, Settings
from est.refusals import Refusal
from iam.errors import Kind, Refused
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


@pytest.mark.parametrize("rekey", [False, True])
async def test_a_new_key_touches_its_connections_and_the_same_key_nobody(est: EstWorld, *, rekey: bool) -> None:
    device = await est.enrolled("meter-001")
    await renewed(est, device, new_key() if rekey else device.key)
    (event,) = [one for one in est.world.changes if one.kind == "device.renewed"]
    identity = await est.world.value("SELECT identity_id FROM device")
    affected = {"affects": [["identity", identity]]} if rekey else {}
    assert event.data == {"identity": identity, **affected}
    recorded = json.loads(await est.world.value("SELECT data::text FROM outbox WHERE kind = 'device.renewed'"))
    assert recorded.get("affects", []) == affected.get("affects", [])


async def test_the_same_request_again_gets_the_same_certificate(est: EstWorld) -> None:
    device = await est.enrolled("meter-001")
    csr = b64(request(new_key(), "meter-001"))
    first = await est.service.reenrol("default", (device.der,), csr)
    before = await est.written()
    assert await est.service.reenrol("default", (device.der,), csr) == first
    assert await est.written() == before


@pytest.mark.parametrize("rekey", [False, True])
async def test_a_lost_answer_is_given_again_for_the_same_key_signed_anew(est: EstWorld, *, rekey: bool) -> None:
    device = await est.enrolled("meter-001")
    key = new_key() if rekey else device.key
    first = await est.service.reenrol("default", (device.der,), b64(request(key, "meter-001")))
    before = await est.written()
    assert await est.service.reenrol("default", (device.der,), b64(request(key, "meter-001"))) == first
    assert await est.written() == before
    successor = est.hold([only(first)], key)
    assert await est.service.reenrol("default", (successor.der,), b64(request(key, "meter-001"))) != first


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


@pytest.mark.parametrize("is_held", [False, True])
async def test_grace_brings_no_device_back_that_was_put_out(est: EstWorld, *, is_held: bool) -> None:
    await est.label("meters", previous_grace=timedelta(hours=1))
    device = await est.enrolled("meter-001", label="meters")
    successor = await renewed(est, device, new_key(), "meters")
    revocation, serial = est.world.revocation, successor.serial
    if is_held:
        await revocation.revoke(EVERYWHERE, serial, RevocationReason.CERTIFICATE_HOLD, actor="test")
    else:
        await revocation.revoke(EVERYWHERE, serial, RevocationReason.KEY_COMPROMISE, actor="test")
    assert await refusal_of(est, device, label="meters") == Refusal.SUPERSEDED.name
    if is_held:
        await revocation.release(EVERYWHERE, serial, actor="test")
        await renewed(est, device, new_key(), "meters")


async def test_a_revoked_certificate_never(est: EstWorld) -> None:
    device = await est.enrolled("meter-001")
    await est.world.revocation.revoke(EVERYWHERE, device.serial, RevocationReason.UNSPECIFIED, actor="test")
    assert await refusal_of(est, device) == Refusal.REVOKED.name


async def test_an_expired_one_only_where_the_label_says_so(est: EstWorld) -> None:
    await est.label("late", expired_may_renew=True)
    device, strict = await est.enrolled("meter-001", label="late"), await est.enrolled("meter-002")
    est.world.clock.move(100 * DAY)
    csr = request(new_key(), "meter-002")
    assert await refusal_of(est, strict, csr) == Refusal.EXPIRED.name
    assert await refusal_of(est, strict, csr, "late") == Refusal.OTHER_LABEL.name
    await renewed(est, device, new_key(), "late")


@pytest.mark.parametrize("other", ["default", "lax"])
async def test_a_device_renews_under_its_own_label_and_no_other(est: EstWorld, other: str) -> None:
    await est.label("lax", previous_grace=timedelta(hours=1))
    own = "lax" if other == "default" else "default"
    device = await est.enrolled("meter-001", label=own)
    assert await refusal_of(est, device, label=other) == Refusal.OTHER_LABEL.name
    await renewed(est, device, new_key(), own)
    assert await refusal_of(est, device, label=other) == Refusal.OTHER_LABEL.name


async def test_after_its_label_was_deleted_a_device_renews_under_another_by_the_strictest_rules(est: EstWorld) -> None:
    await est.label("meters")
    await est.label("lax", previous_grace=timedelta(hours=1), expired_may_renew=True)
    device = await est.enrolled("meter-001", label="meters")
    await est.world.execute("DELETE FROM enrolment_profile WHERE name = 'meters'")
    successor = await renewed(est, device, new_key(), "lax")
    assert await refusal_of(est, device, label="lax") == Refusal.SUPERSEDED.name
    est.world.clock.move(100 * DAY)
    assert await refusal_of(est, successor, label="lax") == Refusal.EXPIRED.name


async def test_an_expired_and_revoked_one_not_even_there(est: EstWorld) -> None:
    await est.label("late", expired_may_renew=True)
    device = await est.enrolled("meter-001", label="late")
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


async def test_a_key_that_was_compromised_renews_nothing_under_any_certificate(est: EstWorld) -> None:
    first = await est.enrolled("meter-001")
    second = await renewed(est, first, first.key)
    await est.world.revocation.revoke(EVERYWHERE, first.serial, RevocationReason.KEY_COMPROMISE, actor="test")
    assert await refusal_of(est, second) == Refusal.REVOKED.name


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


# --- What a label says of renewing ----------------------------------------------------------------------------------


async def test_a_window_opens_some_time_before_the_end(est: EstWorld) -> None:
    await est.label("meters", settings=Settings(renewal=Renewal(opens=30 * DAY)))
    device = await est.enrolled("meter-001", label="meters")
    assert await refusal_of(est, device, label="meters") == Refusal.TOO_EARLY.name
    est.world.clock.move(device.certificate.not_valid_after_utc - 29 * DAY - est.world.clock())
    key = new_key()
    successor = await renewed(est, device, key, "meters")
    again = await est.service.reenrol("meters", (device.der,), b64(request(key, "meter-001")))
    assert only(again) == successor.certificate  # a lost answer is given again, though its successor is young
    assert await refusal_of(est, successor, label="meters") == Refusal.TOO_EARLY.name


async def test_a_label_may_want_new_keys_only_or_the_same_one(est: EstWorld) -> None:
    await est.label("fresh", settings=Settings(renewal=Renewal(with_same_key=False)))
    await est.label("fixed", settings=Settings(renewal=Renewal(with_new_key=False)))
    fresh, fixed = await est.enrolled("meter-001", label="fresh"), await est.enrolled("meter-002", label="fixed")
    same = request(fresh.key, "meter-001")
    assert await refusal_of(est, fresh, same, "fresh") == Refusal.KEY_MUST_CHANGE.name
    assert await refusal_of(est, fixed, request(new_key(), "meter-002"), "fixed") == Refusal.KEY_MUST_STAY.name
    await renewed(est, fresh, new_key(), "fresh")
    assert only(await est.service.reenrol("fixed", (fixed.der,), b64(request(fixed.key, "meter-002"))))


async def test_a_predecessor_is_revoked_when_its_grace_is_over(est: EstWorld) -> None:
    terms = Settings(renewal=Renewal(revokes_previous=True))
    await est.label("meters", settings=terms, previous_grace=timedelta(hours=1))
    device = await est.enrolled("meter-001", label="meters")
    key = new_key()
    successor = await renewed(est, device, key, "meters")
    assert await est.profiles.revoke_predecessors() == 0
    est.world.clock.move(timedelta(hours=1))
    assert await est.profiles.revoke_predecessors() == 1
    assert (await status_of(est, device), await status_of(est, successor)) == ("revoked", "active")
    (found,) = await est.world.rows("SELECT revocation_reason FROM certificate WHERE status = 'revoked'")
    assert found == {"revocation_reason": "superseded"}
    assert await est.profiles.revoke_predecessors() == 0
    assert await refusal_of(est, device, label="meters") == Refusal.REVOKED.name


async def test_a_lost_answer_is_given_again_before_the_predecessor_is_revoked(est: EstWorld) -> None:
    await est.label("meters", settings=Settings(renewal=Renewal(revokes_previous=True)))
    device = await est.enrolled("meter-001", label="meters")
    csr = b64(request(new_key(), "meter-001"))
    first = await est.service.reenrol("meters", (device.der,), csr)
    assert await est.profiles.revoke_predecessors() == 0
    assert await est.service.reenrol("meters", (device.der,), csr) == first
    est.world.clock.move(timedelta(minutes=1))
    assert await est.profiles.revoke_predecessors() == 1


async def test_a_label_that_keeps_predecessors_revokes_none(est: EstWorld) -> None:
    device = await est.enrolled("meter-001")
    await renewed(est, device, new_key())
    est.world.clock.move(DAY)
    assert await est.profiles.revoke_predecessors() == 0
    assert await status_of(est, device) == "superseded"


async def test_additional_authorities_renew_what_is_on_record(est: EstWorld) -> None:
    """As after a change of the authority that issues: what the earlier one issued is on record, and renews."""
    earlier = est.world.authorities.by_name("issuing")
    await est.label("meters")
    device = await est.enrolled("meter-001", label="meters")
    factory = est.world.authorities.by_name("factory")
    await est.world.execute("UPDATE enrolment_profile SET authority_id = $1 WHERE name = 'meters'", factory.id)
    est.world.clock.move(timedelta(seconds=2))
    assert await refusal_of(est, device, label="meters") == Refusal.FOREIGN.name
    await est.world.execute("UPDATE enrolment_profile SET additional_anchors = $1", [earlier.der])
    est.world.clock.move(timedelta(seconds=2))
    unknown = est.signed_by(est.authority(AuthorityKind.ISSUING), "meter-001")
    assert await refusal_of(est, unknown, label="meters") == Refusal.NOT_ON_RECORD.name
    await renewed(est, device, new_key(), "meters")


async def test_a_renewal_that_fails_half_way_leaves_the_old_certificate_valid(
    est: EstWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Issuing, recording and superseding are one statement: where its last part fails, none of it has happened."""
    device = await est.enrolled("meter-001")
    before = await est.written()
    outbox = "INSERT INTO outbox SELECT $1, $2, now(), '', '', '', '{}'"
    taken = uuid4()
    await est.world.execute(outbox, taken, est.world.system.id)  # the change cannot be recorded: its id is taken
    monkeypatch.setattr("est.service.uuid7", lambda *_: taken)
    with pytest.raises(Refused) as refused:
        await est.service.reenrol("default", (device.der,), b64(request(new_key(), "meter-001")))
    assert refused.value.kind is Kind.UNAVAILABLE
    await est.world.execute("DELETE FROM outbox WHERE id = $1", taken)
    assert await est.written() == before
    assert await status_of(est, device) == "active"
    monkeypatch.undo()
    await renewed(est, device, new_key())

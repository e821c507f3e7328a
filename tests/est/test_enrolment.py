"""simpleenroll over real TLS, with curl and openssl as clients."""

import asyncio
import json
import subprocess
import threading
from base64 import b64decode
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from pathlib import Path
from uuid import uuid4

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from cryptography.x509.oid import ExtendedKeyUsageOID

from ca.inventory import AuthorityKind, RevocationReason
from ca.signers import SoftwareSigner
from certs.conformance import Conformance
from certs.profile import load_profile
from est.profiles import Bootstrap, EnrolmentMode, Settings
from est.refusals import Refusal
from est.store.profiles import BootstrapBinding, IssuerAndSerial, bind_bootstrap
from iam.errors import Refused
from iam.store.database import EVERYWHERE
from tests.est.world import DAY, Answer, EstWorld, Holder, b64, makers_chain, only, request


def new_key() -> ec.EllipticCurvePrivateKey:
    return ec.generate_private_key(ec.SECP256R1())


def openssl(*arguments: str | Path) -> bytes:
    return subprocess.run(["openssl", *arguments], check=True, capture_output=True).stdout


def certificate_in(answer: Answer) -> x509.Certificate:
    assert answer.status == 200, answer.body
    return only(b64decode(answer.body))


async def refusal_of(est: EstWorld, label: str, holder: Holder, csr: bytes) -> str:
    """Enrol below the wire, see it refused and nothing written, and return the log's word for it."""
    before = await est.written()
    with pytest.raises(Refused) as refused:
        await est.service.enrol(label, (holder.der,), b64(csr))
    assert await est.written() == before
    return refused.value.reason.partition(":")[0]


async def bind_serial(est: EstWorld, serial: bytes) -> None:
    """Bind meter-001 to the certificate of our factory that has this serial number."""
    factory = est.world.authorities.by_name("factory").spki_sha256
    async with est.world.pool.transaction(EVERYWHERE) as transaction:
        binding = BootstrapBinding(None, IssuerAndSerial(factory, serial))
        await bind_bootstrap(transaction, "meter-001", est.world.system.id, binding)


async def test_openssl_and_curl_alone_enrol_a_device(est: EstWorld, tmp_path: Path) -> None:
    bootstrap = await est.bootstrap("meter-001")
    csr = tmp_path / "device.csr"
    key: list[str | Path] = [
        "-newkey",
        "ec",
        "-pkeyopt",
        "ec_paramgen_curve:P-256",
        "-nodes",
        "-keyout",
        tmp_path / "device.key",
    ]
    name = ["-subj", "/CN=meter-001", "-addext", "subjectAltName=URI:urn:doorward:device:meter-001"]
    openssl("req", "-new", *key, *name, "-outform", "DER", "-out", csr)
    body = openssl("base64", "-in", csr)
    answer = await est.enrol("simpleenroll", bootstrap, body)
    assert answer.status == 200, answer.body
    (tmp_path / "answer").write_bytes(answer.body)
    openssl("base64", "-d", "-in", tmp_path / "answer", "-out", tmp_path / "answer.p7")
    leaf = openssl("pkcs7", "-inform", "DER", "-in", tmp_path / "answer.p7", "-print_certs")
    assert leaf.count(b"BEGIN CERTIFICATE") == 1
    (tmp_path / "leaf.pem").write_bytes(leaf)
    issuing = tmp_path / "issuing.pem"
    issuing.write_bytes(est.world.authorities.by_name("issuing").certificate.public_bytes(Encoding.PEM))
    strictly: list[str | Path] = [
        "-x509_strict",
        "-purpose",
        "sslclient",
        "-CAfile",
        est.root_file,
        "-untrusted",
        issuing,
    ]
    openssl("verify", *strictly, tmp_path / "leaf.pem")


async def test_the_answer_is_as_clients_depend_on_it(est: EstWorld) -> None:
    bootstrap = await est.bootstrap("meter-001")
    answer = await est.enrol("simpleenroll", bootstrap, b64(request(new_key(), "meter-001")))
    assert answer.headers["Content-Type"] == "application/pkcs7-mime; smime-type=certs-only"
    assert answer.headers["Content-Transfer-Encoding"] == "base64"
    assert int(answer.headers["Content-Length"]) == len(answer.body)
    assert "Transfer-Encoding" not in answer.headers
    lines = answer.body.split(b"\n")
    assert lines[-1] == b""
    assert {len(line) for line in lines[:-2]} == {64}


async def test_what_is_written_is_one_device_whole(est: EstWorld) -> None:
    bootstrap = await est.bootstrap("meter-001")
    key = new_key()
    certificate = certificate_in(await est.enrol("simpleenroll", bootstrap, b64(request(key, "meter-001"))))
    assert certificate.public_key() == key.public_key()
    issuing = est.world.authorities.by_name("issuing").certificate
    Conformance(load_profile("device"), issuing).check(certificate)
    (device,) = await est.world.rows("SELECT * FROM device")
    (identity,) = await est.world.rows("SELECT * FROM identity WHERE type = 'device'")
    (stored,) = await est.world.rows("SELECT * FROM certificate WHERE profile = 'device'")
    (bound,) = await est.world.rows("SELECT * FROM device_key")
    roles = await est.world.rows(
        "SELECT r.name FROM identity_role h JOIN role r ON r.id = h.role_id WHERE h.identity_id = $1", identity["id"]
    )
    assert (device["status"], device["identity_id"], device["tenant_id"]) == (
        "ACTIVE",
        identity["id"],
        est.world.system.id,
    )
    assert (identity["name"], identity["status"], identity["devices"]) == ("meter-001", "active", [])
    assert stored["certificate"] == certificate.public_bytes(Encoding.DER)
    assert stored["serial"] == certificate.serial_number.to_bytes(16)
    assert (stored["identity_id"], stored["status"]) == (identity["id"], "active")
    assert (bound["device_identifier"], bound["spki_sha256"]) == ("meter-001", stored["spki_sha256"])
    assert [role["name"] for role in roles] == ["device"]


async def test_the_change_is_recorded_and_announced(est: EstWorld) -> None:
    await est.enrolled("meter-001")
    (event,) = await est.world.rows("SELECT * FROM outbox WHERE kind = 'device.enrolled'")
    (audited,) = await est.world.rows("SELECT * FROM audit_pending WHERE kind = 'device.enrolled'")
    assert event == audited
    identity = await est.world.value("SELECT identity_id FROM device")
    announced = [one for one in est.world.changes if one.kind == "device.enrolled"]
    assert [(one.subject, one.actor, one.data) for one in announced] == [
        ("meter-001", identity, {"identity": identity})  # nobody's access changes: he was never heard of
    ]


async def test_extensions_of_the_request_do_not_get_through(est: EstWorld) -> None:
    bootstrap = await est.bootstrap("meter-001")
    asked = [x509.BasicConstraints(True, None), x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH])]
    csr = request(new_key(), "meter-001", extensions=asked)
    certificate = certificate_in(await est.enrol("simpleenroll", bootstrap, b64(csr)))
    Conformance(load_profile("device")).check(certificate)


async def test_the_first_enrolment_is_one_statement(est: EstWorld, monkeypatch: pytest.MonkeyPatch) -> None:
    bootstrap = await est.bootstrap("meter-001")
    await est.service.cacerts("default")  # the label is held from here on
    asked = []
    statement = est.world.pool.statement

    async def counted(query: str, *values: object, **rest: object) -> object:
        asked.append(query)
        return await statement(query, *values, **rest)  # type: ignore[arg-type]

    monkeypatch.setattr(est.world.pool, "statement", counted)
    monkeypatch.setattr(est.world.pool, "transaction", None)
    await est.service.enrol("default", (bootstrap.der,), b64(request(new_key(), "meter-001")))
    assert len(asked) == 1


# --- The same request again -----------------------------------------------------------------------------------------


async def test_the_same_request_again_gets_the_same_certificate(est: EstWorld) -> None:
    bootstrap = await est.bootstrap("meter-001")
    csr = b64(request(new_key(), "meter-001"))
    first = certificate_in(await est.enrol("simpleenroll", bootstrap, csr))
    before = await est.written()
    assert certificate_in(await est.enrol("simpleenroll", bootstrap, csr)) == first
    assert await est.written() == before


async def test_a_lost_answer_is_given_again_for_the_same_key_signed_anew(est: EstWorld) -> None:
    bootstrap, key = await est.bootstrap("meter-001"), new_key()
    first = await est.service.enrol("default", (bootstrap.der,), b64(request(key, "meter-001")))
    before = await est.written()
    assert await est.service.enrol("default", (bootstrap.der,), b64(request(key, "meter-001"))) == first
    assert await est.written() == before


async def test_an_allowed_replacement_with_the_same_key_is_a_new_certificate(est: EstWorld) -> None:
    bootstrap, key = await est.bootstrap("meter-001"), new_key()
    first = await est.service.enrol("default", (bootstrap.der,), b64(request(key, "meter-001")))
    await est.world.execute("UPDATE device SET replacement_allowed = true")
    assert await est.service.enrol("default", (bootstrap.der,), b64(request(key, "meter-001"))) != first


async def test_twenty_times_the_same_request_at_once_is_one_certificate(est: EstWorld) -> None:
    bootstrap = await est.bootstrap("meter-001")
    csr = b64(request(new_key(), "meter-001"))
    answers = await asyncio.gather(*(est.service.enrol("default", (bootstrap.der,), csr) for _ in range(20)))
    assert len(set(answers)) == 1
    assert await est.world.value("SELECT count(*) FROM certificate WHERE profile = 'device'") == 1
    assert await est.world.value("SELECT count(*) FROM identity WHERE type = 'device'") == 1


async def test_of_twenty_requests_for_one_device_at_once_one_wins(est: EstWorld) -> None:
    bootstrap = await est.bootstrap("meter-001")
    answers = await asyncio.gather(
        *(est.service.enrol("default", (bootstrap.der,), b64(request(new_key(), "meter-001"))) for _ in range(20)),
        return_exceptions=True,
    )
    won = [one for one in answers if isinstance(one, bytes)]
    lost = [one.reason.partition(":")[0] for one in answers if isinstance(one, Refused)]
    assert (len(won), lost) == (1, [Refusal.HAS_IDENTITY.name] * 19)
    assert await est.world.value("SELECT count(*) FROM certificate WHERE profile = 'device'") == 1


async def test_of_two_devices_with_one_key_at_once_one_wins(est: EstWorld) -> None:
    key = new_key()
    holders = {name: await est.bootstrap(name) for name in ("meter-001", "meter-002", "meter-003")}
    answers = await asyncio.gather(
        *(est.service.enrol("default", (one.der,), b64(request(key, name))) for name, one in holders.items()),
        return_exceptions=True,
    )
    lost = [one.reason.partition(":")[0] for one in answers if isinstance(one, Refused)]
    assert lost == [Refusal.KEY_TAKEN.name] * 2
    assert await est.world.value("SELECT count(*) FROM device") == 1


# --- Whose device it is ---------------------------------------------------------------------------------------------


async def test_a_registered_device_keeps_its_tenant(est: EstWorld) -> None:
    acme = await est.world.tenant("acme")
    await est.world.device("meter-001", acme)
    await est.enrolled("meter-001")
    (found,) = await est.world.rows(
        "SELECT d.tenant_id AS device, i.tenant_id AS identity, c.tenant_id AS certificate, d.status FROM device d"
        " JOIN identity i ON i.id = d.identity_id JOIN certificate c ON c.identity_id = i.id"
    )
    assert found == {"device": acme, "identity": acme, "certificate": acme, "status": "ACTIVE"}


async def test_a_label_of_one_tenant_enrols_no_device_of_another(est: EstWorld) -> None:
    acme, other = await est.world.tenant("acme"), await est.world.tenant("other")
    await est.label("acme-meters", acme)
    await est.world.device("meter-001", other)
    bootstrap = await est.bootstrap("meter-001")
    csr = request(new_key(), "meter-001")
    assert await refusal_of(est, "acme-meters", bootstrap, csr) == Refusal.OTHER_TENANT.name
    bootstrap = await est.bootstrap("meter-002")
    await est.service.enrol("acme-meters", (bootstrap.der,), b64(request(new_key(), "meter-002")))
    found = await est.world.value("SELECT tenant_id FROM device WHERE device_identifier = 'meter-002'")
    assert found == acme


async def test_a_label_serves_the_tenants_below_its_own(est: EstWorld) -> None:
    acme = await est.world.tenant("acme")
    below = await est.world.tenant("acme-north", acme)
    await est.label("acme-meters", acme)
    await est.world.device("meter-001", below)
    await est.enrolled("meter-001", label="acme-meters")
    assert await est.world.value("SELECT tenant_id FROM identity WHERE type = 'device'") == below


async def test_a_device_that_was_registered_for_a_label_enrols_under_no_other(est: EstWorld) -> None:
    await est.label("meters")
    await est.world.device("meter-001", est.world.system.id)
    await est.world.execute("UPDATE device SET enrolment_profile = 'meters'")
    csr = request(new_key(), "meter-001")
    assert await refusal_of(est, "default", await est.bootstrap("meter-001"), csr) == Refusal.REGISTERED_ELSEWHERE.name
    await est.enrolled("meter-001", label="meters")


async def test_a_tenant_below_a_blocked_one_is_blocked(est: EstWorld) -> None:
    acme = await est.world.tenant("acme")
    below = await est.world.tenant("acme-north", acme)
    await est.world.device("meter-001", below)
    await est.world.execute("UPDATE tenant SET status = 'blocked' WHERE id = $1", acme)
    csr = request(new_key(), "meter-001")
    assert await refusal_of(est, "default", await est.bootstrap("meter-001"), csr) == Refusal.TENANT_BLOCKED.name


async def test_a_group_without_the_role_is_told(est: EstWorld) -> None:
    await est.label("odd", role_name="no-such-role")
    csr = request(new_key(), "meter-001")
    assert await refusal_of(est, "odd", await est.bootstrap("meter-001"), csr) == Refusal.NO_ROLE.name


async def test_a_name_that_somebody_else_of_the_group_has(est: EstWorld) -> None:
    await est.world.execute(
        "INSERT INTO identity (id, tenant_id, type, name, status, created_at)"
        " VALUES ('idt-x', $1, 'gateway', 'meter-001', 'active', now())",
        est.world.system.id,
    )
    csr = request(new_key(), "meter-001")
    assert await refusal_of(est, "default", await est.bootstrap("meter-001"), csr) == Refusal.NAME_TAKEN.name


async def test_the_loop_does_not_wait_for_an_issuer_whose_key_makes_wait(
    est: EstWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    bootstrap = await est.bootstrap("meter-001")
    issuing = est.world.authorities.by_name("issuing")
    template = est.world.authorities.template(issuing, "device")
    is_signing, may_sign = threading.Event(), threading.Event()

    class Busy(SoftwareSigner):
        thread = ThreadPoolExecutor(1)

        def sign(self, data: bytes) -> bytes:
            is_signing.set()
            assert may_sign.wait(5), "the loop waited for the key"
            return issuing.signing().sign(data)

    busy = Busy(new_key())
    busy.algorithm = issuing.signing().algorithm
    monkeypatch.setattr(template, "_signer", busy)
    csr = b64(request(new_key(), "meter-001"))
    enrolling = asyncio.create_task(est.service.enrol("default", (bootstrap.der,), csr))
    assert await asyncio.to_thread(is_signing.wait, 10)
    assert not enrolling.done()
    may_sign.set()
    only(await enrolling).verify_directly_issued_by(issuing.certificate)
    Busy.thread.shutdown()


# --- Taking over ----------------------------------------------------------------------------------------------------


async def test_a_device_with_an_identity_is_not_taken_over(est: EstWorld) -> None:
    await est.enrolled("meter-001")
    csr = request(new_key(), "meter-001")
    assert await refusal_of(est, "default", await est.bootstrap("meter-001"), csr) == Refusal.HAS_IDENTITY.name


async def test_not_even_after_its_certificate_was_revoked(est: EstWorld) -> None:
    device = await est.enrolled("meter-001")
    await est.world.revocation.revoke(EVERYWHERE, device.serial, RevocationReason.UNSPECIFIED, actor="test")
    csr = request(new_key(), "meter-001")
    assert await refusal_of(est, "default", await est.bootstrap("meter-001"), csr) == Refusal.HAS_IDENTITY.name


async def test_an_allowed_replacement_counts_once_and_revokes_what_was(est: EstWorld) -> None:
    old = await est.enrolled("meter-001")
    identity = await est.world.value("SELECT identity_id FROM device")
    await est.world.execute("UPDATE device SET replacement_allowed = true")
    bootstrap = await est.bootstrap("meter-001")
    csr = b64(request(new_key(), "meter-001"))
    await est.world.publisher.publish_lists()
    new = only(await est.service.enrol("default", (bootstrap.der,), csr))
    (revoked,) = await est.world.rows("SELECT status, revocation_reason FROM certificate WHERE serial = $1", old.serial)
    assert revoked == {"status": "revoked", "revocation_reason": "superseded"}
    assert await est.world.value("SELECT identity_id FROM device") == identity
    assert await est.world.value("SELECT replacement_allowed FROM device") is False
    assert only(await est.service.enrol("default", (bootstrap.der,), csr)) == new
    again = request(new_key(), "meter-001")
    assert await refusal_of(est, "default", bootstrap, again) == Refusal.HAS_IDENTITY.name
    assert await est.world.publisher.publish_lists() == 1
    issuing = est.world.authorities.by_name("issuing")
    listed = x509.load_der_x509_crl((await est.world.shelf.current_list(issuing)).der)
    entry = listed.get_revoked_certificate_by_serial_number(old.certificate.serial_number)
    assert entry is not None


async def test_a_replacement_is_told_to_whoever_holds_the_replaced_one(est: EstWorld) -> None:
    old = await est.enrolled("meter-001")
    identity = await est.world.value("SELECT identity_id FROM device")
    await est.world.execute("UPDATE device SET replacement_allowed = true")
    await est.enrolled("meter-001")
    data = {"reason": "superseded", "device": "meter-001", "identity": identity, "affects": [["identity", identity]]}
    announced = [one for one in est.world.changes if one.kind == "certificate.revoked"]
    assert [(one.subject, one.actor, dict(one.data)) for one in announced] == [(old.serial.hex(), identity, data)]
    for journal in ("outbox", "audit_pending"):
        query = f"SELECT subject, data::text FROM {journal} WHERE kind = 'certificate.revoked'"  # noqa: S608 - from the line above
        (recorded,) = await est.world.rows(query)
        assert (recorded["subject"], json.loads(recorded["data"])) == (old.serial.hex(), data)


async def test_a_replacement_is_taken_under_the_devices_own_label_and_no_other(est: EstWorld) -> None:
    await est.label("strict")
    await est.enrolled("meter-001", label="strict")
    await est.world.execute("UPDATE device SET replacement_allowed = true")
    bootstrap, csr = await est.bootstrap("meter-001"), request(new_key(), "meter-001")
    assert await refusal_of(est, "default", bootstrap, csr) == Refusal.REGISTERED_ELSEWHERE.name
    assert await est.world.value("SELECT replacement_allowed FROM device")
    await est.world.execute("DELETE FROM enrolment_profile WHERE name = 'strict'")
    assert only(await est.service.enrol("default", (bootstrap.der,), b64(csr)))  # nobody else can serve it now
    assert await est.world.value("SELECT enrolment_profile FROM device") == "default"


async def test_of_many_replacements_at_once_one_counts(est: EstWorld) -> None:
    await est.enrolled("meter-001")
    await est.world.execute("UPDATE device SET replacement_allowed = true")
    bootstrap = await est.bootstrap("meter-001")
    answers = await asyncio.gather(
        *(est.service.enrol("default", (bootstrap.der,), b64(request(new_key(), "meter-001"))) for _ in range(10)),
        return_exceptions=True,
    )
    assert len([one for one in answers if isinstance(one, bytes)]) == 1
    live = "SELECT count(*) FROM certificate WHERE profile = 'device' AND status = 'active'"
    assert await est.world.value(live) == 1


@pytest.mark.parametrize("allowed", [False, True])
async def test_a_decommissioned_device_stays_so(est: EstWorld, *, allowed: bool) -> None:
    await est.enrolled("meter-001")
    await est.world.execute("UPDATE device SET status = 'DECOMMISSIONED', replacement_allowed = $1", allowed)
    csr = request(new_key(), "meter-001")
    assert await refusal_of(est, "default", await est.bootstrap("meter-001"), csr) == Refusal.DECOMMISSIONED.name


async def test_a_suspended_identity_gets_nothing_not_even_again(est: EstWorld) -> None:
    bootstrap = await est.bootstrap("meter-001")
    csr = request(new_key(), "meter-001")
    await est.service.enrol("default", (bootstrap.der,), b64(csr))
    await est.world.execute("UPDATE identity SET status = 'suspended' WHERE type = 'device'")
    assert await refusal_of(est, "default", bootstrap, csr) == Refusal.IDENTITY_SUSPENDED.name


# --- Keys -----------------------------------------------------------------------------------------------------------


async def test_a_key_of_another_device_is_refused(est: EstWorld) -> None:
    first = await est.enrolled("meter-001")
    csr = request(first.key, "meter-002")
    assert await refusal_of(est, "default", await est.bootstrap("meter-002"), csr) == Refusal.KEY_TAKEN.name


async def test_a_key_stays_bound_when_its_device_is_deleted(est: EstWorld) -> None:
    first = await est.enrolled("meter-001")
    await est.world.execute("DELETE FROM device")
    csr = request(first.key, "meter-002")
    assert await refusal_of(est, "default", await est.bootstrap("meter-002"), csr) == Refusal.KEY_TAKEN.name


async def test_the_key_of_an_authority_is_refused(est: EstWorld) -> None:
    _, key = est.authority(AuthorityKind.FACTORY)
    csr = request(key, "meter-001")
    assert await refusal_of(est, "default", await est.bootstrap("meter-001"), csr) == Refusal.KEY_TAKEN.name


async def test_a_compromised_key_does_not_come_back(est: EstWorld) -> None:
    first = await est.enrolled("meter-001")
    await est.world.revocation.revoke(EVERYWHERE, first.serial, RevocationReason.KEY_COMPROMISE, actor="test")
    await est.world.execute("UPDATE device SET replacement_allowed = true")
    csr = request(first.key, "meter-001")
    assert await refusal_of(est, "default", await est.bootstrap("meter-001"), csr) == Refusal.KEY_COMPROMISED.name


# --- Labels ---------------------------------------------------------------------------------------------------------


async def test_a_bootstrap_key_that_was_compromised_enrols_nothing_under_any_certificate(est: EstWorld) -> None:
    first = await est.bootstrap("meter-001")
    made = await est.world.service.issue_bootstrap("meter-001", first.key.public_key(), actor="test")
    second = est.hold(x509.load_pem_x509_certificates(made.chain), first.key)
    await est.world.revocation.revoke(EVERYWHERE, first.serial, RevocationReason.KEY_COMPROMISE, actor="test")
    assert await refusal_of(est, "default", second, request(new_key(), "meter-001")) == Refusal.REVOKED.name


async def test_a_pattern_lets_one_bootstrap_certificate_enrol_many(est: EstWorld) -> None:
    await est.label("meters", identifier_pattern="meter-*")
    batch = await est.bootstrap("batch-2026")
    for name in ("meter-001", "meter-002"):
        await est.service.enrol("meters", (batch.der,), b64(request(new_key(), name)))
    csr = request(new_key(), "gateway-001")
    assert await refusal_of(est, "meters", batch, csr) == Refusal.NOT_NAMED.name


async def test_pre_registered_devices_enrol_by_what_they_are_bound_to(est: EstWorld) -> None:
    await est.label("strict", mode=EnrolmentMode.PRE_REGISTERED)
    batch, other = await est.bootstrap("batch-2026"), await est.bootstrap("meter-001")
    csr = request(new_key(), "meter-001")
    assert await refusal_of(est, "strict", batch, csr) == Refusal.NOT_REGISTERED.name
    await est.world.device("meter-001", est.world.system.id)
    assert await refusal_of(est, "strict", batch, csr) == Refusal.NOT_BOUND.name
    await bind_serial(est, batch.serial)
    assert await refusal_of(est, "strict", other, csr) == Refusal.NOT_BOUND.name
    await est.service.enrol("strict", (batch.der,), b64(csr))


async def test_a_serial_number_of_another_factory_is_not_what_was_bound(est: EstWorld) -> None:
    """RFC 5280 4.1.2.2: a serial number is unique for one issuer only."""
    issuing, factory = (est.world.authorities.by_name(name) for name in ("issuing", "factory"))
    await est.label("both", mode=EnrolmentMode.PRE_REGISTERED, bootstrap_anchors=(issuing.der, factory.der))
    bound = await est.bootstrap("meter-001")
    await est.world.device("meter-001", est.world.system.id)
    await bind_serial(est, bound.serial)
    forged = est.signed_by(est.authority(AuthorityKind.ISSUING), "meter-001", serial=bound.certificate.serial_number)
    csr = request(new_key(), "meter-001")
    assert await refusal_of(est, "both", forged, csr) == Refusal.NOT_BOUND.name
    await est.service.enrol("both", (bound.der,), b64(csr))


async def test_a_binding_by_key_outlives_the_bootstrap_certificate(est: EstWorld) -> None:
    await est.label("strict", mode=EnrolmentMode.PRE_REGISTERED)
    first = await est.bootstrap("meter-001")
    await est.world.device("meter-001", est.world.system.id)
    spki = first.key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    bind = (
        "INSERT INTO bootstrap_binding (device_identifier, tenant_id, spki_sha256) VALUES ('meter-001', $1, sha256($2))"
    )
    await est.world.execute(bind, est.world.system.id, spki)
    made = await est.world.service.issue_bootstrap("meter-001", first.key.public_key(), actor="test")
    second = est.hold(x509.load_pem_x509_certificates(made.chain), first.key)
    assert await refusal_of(est, "strict", await est.bootstrap("meter-001"), request(new_key(), "meter-001"))
    await est.service.enrol("strict", (second.der,), b64(request(new_key(), "meter-001")))


async def test_a_binding_counts_under_any_mode(est: EstWorld) -> None:
    await est.world.device("meter-001", est.world.system.id)
    await bind_serial(est, (await est.bootstrap("meter-001")).serial)
    csr = request(new_key(), "meter-001")
    assert await refusal_of(est, "default", await est.bootstrap("meter-001"), csr) == Refusal.NOT_BOUND.name


async def test_a_label_says_how_far_below_an_anchor_a_bootstrap_certificate_may_be(est: EstWorld) -> None:
    maker, below, leaf = makers_chain(est)
    for level in (1, 2):
        bootstrap = Bootstrap(longest_path=level)
        await est.label(f"level-{level}", bootstrap_anchors=(maker.der,), settings=Settings(bootstrap=bootstrap))
    chain, csr = (leaf.der, below.der), b64(request(new_key(), "meter-001"))
    with pytest.raises(Refused) as refused:
        await est.service.enrol("level-1", chain, csr)
    assert refused.value.reason.startswith(Refusal.PATH_TOO_LONG.name)
    assert only(await est.service.enrol("level-2", chain, csr))


async def test_a_bootstrap_certificate_that_has_ended_enrols_only_where_the_label_says_so(est: EstWorld) -> None:
    ended = {"begins": -3 * DAY, "ends": -2 * DAY}
    holder = est.signed_by(est.authority(AuthorityKind.FACTORY), "meter-001", **ended)
    csr = request(new_key(), "meter-001")
    assert await refusal_of(est, "default", holder, csr) == Refusal.EXPIRED.name
    await est.label("late", settings=Settings(bootstrap=Bootstrap(expired_is_allowed=True)))
    assert only(await est.service.enrol("late", (holder.der,), b64(csr)))


async def test_a_label_that_replaces_none_does_not_even_where_an_operator_allows_it(est: EstWorld) -> None:
    await est.label("once", settings=Settings(replaces=False))
    await est.enrolled("meter-001", label="once")
    await est.world.execute("UPDATE device SET replacement_allowed = true")
    csr = request(new_key(), "meter-001")
    assert await refusal_of(est, "once", await est.bootstrap("meter-001"), csr) == Refusal.NEVER_REPLACED.name


async def test_a_change_of_a_label_takes_effect_within_two_seconds(est: EstWorld) -> None:
    await est.label("meters", identifier_pattern="meter-*")
    batch = await est.bootstrap("batch-2026")
    await est.service.enrol("meters", (batch.der,), b64(request(new_key(), "meter-001")))
    await est.world.execute("UPDATE enrolment_profile SET identifier_pattern = NULL WHERE name = 'meters'")
    est.world.clock.move(timedelta(seconds=2))
    csr = request(new_key(), "meter-002")
    assert await refusal_of(est, "meters", batch, csr) == Refusal.NOT_NAMED.name


async def test_facts_that_are_missing_are_not_those_that_were_expected(est: EstWorld) -> None:
    """Nothing equals NULL, and what equals nothing would be taken for what was expected."""
    unknown = uuid4()
    (found,) = await est.world.rows(
        "SELECT is_written, facts->>'is_within_label' AS is_within_label"
        " FROM enrol_device(NULL, now(), 'meter-001', $1,"
        " 'default', 'device', '{}', '{}', NULL, NULL, NULL, NULL, NULL, '', '', '', $1, '', '', now(), now(), '',"
        " 'idt', $1)",
        unknown,
    )
    assert found == {"is_written": False, "is_within_label": "false"}

"""OCSP: what is answered to which request, and how long it is kept."""

import asyncio
import logging
from collections.abc import Sequence
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest
from asn1crypto import ocsp
from asn1crypto.x509 import GeneralName
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.ocsp import (
    OCSPCertStatus,
    OCSPRequestBuilder,
    OCSPResponse,
    OCSPResponseStatus,
    load_der_ocsp_response,
)
from cryptography.x509.oid import ExtendedKeyUsageOID

from ca.authority import Authority, AuthorityOrigin
from ca.inventory import RevocationReason
from ca.ocsp import CERTIFICATES_MAXIMUM, issuer_names
from ca.responders import ResponderTerms
from ca.responding import BLIND_SECONDS, StatusService
from certs.der import OCTET_STRING, SEQUENCE, encode, encode_integer, encode_object_identifier
from iam.errors import Kind, Refused
from iam.store.database import EVERYWHERE, Change
from tests.ca.world import World

MALFORMED, TRY_LATER, UNAUTHORIZED = (
    OCSPResponseStatus.MALFORMED_REQUEST,
    OCSPResponseStatus.TRY_LATER,
    OCSPResponseStatus.UNAUTHORIZED,
)
LIFE = timedelta(hours=1)


async def leaf(world: World) -> x509.Certificate:
    made = await world.service.issue_bootstrap("meter-001", actor="test")
    return x509.load_pem_x509_certificate(made.chain)


def issuer(world: World) -> x509.Certificate:
    return world.authorities.by_name("factory").certificate


def request(
    world: World,
    one: x509.Certificate,
    nonce: bytes | None = None,
    *,
    algorithm: hashes.HashAlgorithm | None = None,
    of: x509.Certificate | None = None,
) -> bytes:
    hashed = algorithm or hashes.SHA1()  # noqa: S303 - what most clients name issuers by
    builder = OCSPRequestBuilder().add_certificate(one, issuer(world), hashed)
    if of is not None:
        name = issuer_names(of)[0]
        builder = OCSPRequestBuilder().add_certificate_by_hash(name.name_hash, name.key_hash, one.serial_number, hashed)
    if nonce:
        builder = builder.add_extension(x509.OCSPNonce(nonce), critical=False)
    return builder.build().public_bytes(Encoding.DER)


def altered(der: bytes, *, asked: Sequence[bytes] = (), extensions: Sequence[dict[str, Any]] = ()) -> bytes:
    """Ask in one request what several ask, with these extensions."""
    read = ocsp.OCSPRequest.load(der)["tbs_request"]
    others = [ocsp.OCSPRequest.load(one)["tbs_request"]["request_list"][0] for one in asked]
    fields: dict[str, Any] = {"request_list": [*read["request_list"], *others]}
    if extensions:
        fields["request_extensions"] = list(extensions)
    made: bytes = ocsp.OCSPRequest({"tbs_request": fields}).dump()
    return made


async def ask(world: World, der: bytes) -> OCSPResponse:
    return load_der_ocsp_response((await world.status.answer(der)).der)


async def ready(world: World) -> x509.Certificate:
    await world.responders.renew()
    await world.status.look()
    return await leaf(world)


async def revoke(world: World, one: x509.Certificate, reason: RevocationReason) -> None:
    await world.revocation.revoke(EVERYWHERE, one.serial_number.to_bytes(16), reason, actor="test")


@pytest.mark.parametrize("algorithm", [hashes.SHA1(), hashes.SHA256(), hashes.SHA384(), hashes.SHA512()])  # noqa: S303 - as above
async def test_a_certificate_is_good_by_a_responder_of_its_authority(
    world: World, algorithm: hashes.HashAlgorithm
) -> None:
    one = await ready(world)
    answer = await ask(world, request(world, one, algorithm=algorithm))
    assert (answer.certificate_status, answer.serial_number) == (OCSPCertStatus.GOOD, one.serial_number)
    assert answer.hash_algorithm.name == algorithm.name
    (responder,) = answer.certificates
    responder.verify_directly_issued_by(issuer(world))
    key = responder.public_key()
    assert isinstance(key, ec.EllipticCurvePublicKey)
    key.verify(answer.signature, answer.tbs_response_bytes, ec.ECDSA(hashes.SHA256()))
    assert answer.responder_key_hash == x509.SubjectKeyIdentifier.from_public_key(key).digest
    usages = responder.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
    assert list(usages) == [ExtendedKeyUsageOID.OCSP_SIGNING]
    assert responder.extensions.get_extension_for_class(x509.OCSPNoCheck)
    assert answer.next_update_utc == answer.this_update_utc + LIFE
    assert answer.produced_at_utc == answer.this_update_utc <= world.clock()


@pytest.mark.parametrize(
    ("reason", "flag"),
    [
        (RevocationReason.UNSPECIFIED, None),
        (RevocationReason.KEY_COMPROMISE, x509.ReasonFlags.key_compromise),
        (RevocationReason.CERTIFICATE_HOLD, x509.ReasonFlags.certificate_hold),
        (RevocationReason.PRIVILEGE_WITHDRAWN, x509.ReasonFlags.privilege_withdrawn),
    ],
)
async def test_a_revoked_certificate_has_its_time_and_reason(
    world: World, reason: RevocationReason, flag: x509.ReasonFlags | None
) -> None:
    one = await ready(world)
    await revoke(world, one, reason)
    answer = await ask(world, request(world, one))
    assert (answer.certificate_status, answer.revocation_reason) == (OCSPCertStatus.REVOKED, flag)
    revoked = await world.value("SELECT revoked_at FROM certificate WHERE status = 'revoked'")
    assert answer.revocation_time_utc == revoked.replace(microsecond=0)


async def test_what_is_held_is_revoked_until_it_is_released(world: World) -> None:
    one = await ready(world)
    await revoke(world, one, RevocationReason.CERTIFICATE_HOLD)
    assert (await ask(world, request(world, one))).certificate_status is OCSPCertStatus.REVOKED
    await world.revocation.release(EVERYWHERE, one.serial_number.to_bytes(16), actor="test")
    await world.status.look()
    assert (await ask(world, request(world, one))).certificate_status is OCSPCertStatus.GOOD


async def test_what_the_authority_never_issued_is_unknown_and_not_kept(world: World) -> None:
    one = await ready(world)
    theirs = request(world, one, of=world.authorities.by_name("issuing").certificate)
    assert (await ask(world, theirs)).certificate_status is OCSPCertStatus.UNKNOWN
    assert (await world.status.answer(theirs)).fresh_until is None


async def test_other_issuers_are_not_spoken_for(world: World) -> None:
    one = await ready(world)
    asked = request(world, one)
    stranger = asked.replace(x509.SubjectKeyIdentifier.from_public_key(issuer(world).public_key()).digest, bytes(20))  # type: ignore[arg-type]
    assert stranger != asked
    assert (await ask(world, stranger)).response_status is UNAUTHORIZED
    theirs = request(world, one, of=world.authorities.by_name("issuing").certificate)
    for mixed in (altered(asked, asked=[stranger]), altered(asked, asked=[theirs])):
        assert (await ask(world, mixed)).response_status is UNAUTHORIZED


async def test_several_are_answered_in_order(world: World) -> None:
    one, other = await ready(world), await leaf(world)
    await revoke(world, other, RevocationReason.SUPERSEDED)
    answer = await ask(world, altered(request(world, one), asked=[request(world, other)]))
    found = [(each.serial_number, each.certificate_status) for each in answer.responses]
    assert found == [
        (one.serial_number, OCSPCertStatus.GOOD),
        (other.serial_number, OCSPCertStatus.REVOKED),
    ]
    many = [request(world, one)] * CERTIFICATES_MAXIMUM
    assert (await ask(world, altered(many[0], asked=many[1:]))).response_status is OCSPResponseStatus.SUCCESSFUL
    assert (await ask(world, altered(many[0], asked=many))).response_status is MALFORMED


@pytest.mark.parametrize(("octets", "echoed"), [(1, 0), (15, 0), (16, 1), (32, 1), (33, 0), (128, 0)])
async def test_a_nonce_is_echoed_or_ignored(world: World, octets: int, *, echoed: int) -> None:
    one = await ready(world)
    nonce = bytes(range(octets))
    answer = await ask(world, request(world, one, nonce))
    found = [each.value.nonce for each in answer.extensions if isinstance(each.value, x509.OCSPNonce)]
    assert found == ([nonce] if echoed else [])
    assert ((await world.status.answer(request(world, one, nonce))).fresh_until is None) is bool(echoed)


def nonce_of(octets: int) -> dict[str, Any]:
    return {"extn_id": "nonce", "critical": False, "extn_value": ocsp.OctetString(bytes(octets))}


@pytest.mark.parametrize(
    "extensions",
    [
        [nonce_of(0)],
        [nonce_of(129)],
        [nonce_of(16), nonce_of(16)],
        [{"extn_id": "1.2.3", "critical": True, "extn_value": b"\x05\x00"}],
        [{"extn_id": "1.3.6.1.5.5.7.48.1.2", "critical": False, "extn_value": b"\x02\x01\x00"}],
    ],
)
async def test_extensions_that_are_refused(world: World, extensions: list[dict[str, Any]]) -> None:
    one = await ready(world)
    if isinstance(extensions[0]["extn_value"], bytes):
        plain = altered(request(world, one), extensions=[nonce_of(16)])
        oid, value = extensions[0]["extn_id"], extensions[0]["extn_value"]
        extension = {"extn_id": oid, "critical": extensions[0]["critical"]}
        made = x509.UnrecognizedExtension(x509.ObjectIdentifier(oid), value)
        builder = OCSPRequestBuilder().add_certificate(one, issuer(world), hashes.SHA256())
        asked = builder.add_extension(made, critical=extension["critical"]).build().public_bytes(Encoding.DER)
        assert asked != plain
    else:
        asked = altered(request(world, one), extensions=extensions)
    assert (await ask(world, asked)).response_status is MALFORMED


async def test_an_unknown_extension_that_is_not_critical_is_passed_over(world: World) -> None:
    one = await ready(world)
    builder = OCSPRequestBuilder().add_certificate(one, issuer(world), hashes.SHA256())
    made = x509.UnrecognizedExtension(x509.ObjectIdentifier("1.2.3"), b"\x05\x00")
    asked = builder.add_extension(made, critical=False).build().public_bytes(Encoding.DER)
    assert (await ask(world, asked)).certificate_status is OCSPCertStatus.GOOD


@pytest.mark.parametrize(
    "der", [b"", b"\x30", b"\x30\x00", b"\x30\x80", b"\x02\x01\x00", b"\x30\x03\x30\x01\x00", bytes(500), b"\xff" * 99]
)
async def test_what_is_no_request(world: World, der: bytes) -> None:
    assert (await ask(world, der)).response_status is MALFORMED


async def test_a_request_that_is_cut_or_goes_on_is_none(world: World) -> None:
    asked = request(world, await ready(world))
    for der in [*(asked[:length] for length in range(len(asked))), asked + b"\x00"]:
        assert (await ask(world, der)).response_status is MALFORMED


async def test_an_answer_is_made_once_for_all_until_half_of_its_life(world: World) -> None:
    asked = request(world, await ready(world))
    first = await world.status.answer(asked)
    assert await world.status.answer(asked) is first
    world.clock.move(LIFE / 2 - timedelta(minutes=1))
    assert await world.status.answer(asked) is first
    world.clock.move(timedelta(minutes=2))
    second = await world.status.answer(asked)
    assert second.der != first.der
    assert load_der_ocsp_response(second.der).this_update_utc > load_der_ocsp_response(first.der).this_update_utc


async def test_a_revocation_drops_what_was_prepared_wherever_it_was_made(world: World) -> None:
    one, other = await ready(world), await leaf(world)
    kept = await world.status.answer(request(world, other))
    assert (await ask(world, request(world, one))).certificate_status is OCSPCertStatus.GOOD
    await world.execute(
        "UPDATE certificate SET status = 'revoked', revoked_at = now() WHERE serial = $1",
        one.serial_number.to_bytes(16),
    )
    await world.status.look()
    assert (await ask(world, request(world, one))).certificate_status is OCSPCertStatus.REVOKED
    assert await world.status.answer(request(world, other)) is kept


async def test_a_revocation_that_is_announced_counts_at_once(world: World) -> None:
    one = await ready(world)
    await ask(world, request(world, one))

    def hear(changes: Sequence[Change]) -> None:
        for each in changes:
            world.status.hear(each.kind, each.subject)

    world.pool.announce_to(hear)
    await revoke(world, one, RevocationReason.UNSPECIFIED)
    assert (await ask(world, request(world, one))).certificate_status is OCSPCertStatus.REVOKED


async def test_what_was_looked_up_before_a_revocation_is_not_kept_after_it(world: World) -> None:
    one = await ready(world)
    asked = request(world, one)
    answering = asyncio.create_task(world.status.answer(asked))
    while not answering.done():
        world.status.forget(one.serial_number.to_bytes(16))
        await asyncio.sleep(0)
    assert await world.status.answer(asked) is not answering.result()


async def test_so_many_answers_are_kept(world: World) -> None:
    await ready(world)
    service = StatusService(
        world.pool, world.authorities, world.responders, world.clock, life=LIFE, monotonic=lambda: 0.0, capacity=2
    )
    await service.look()
    asked = [request(world, await leaf(world)) for _ in range(3)]
    kept = [await service.answer(one) for one in asked]
    assert [await service.answer(one) for one in asked[1:]] == kept[1:]
    assert (len(service._kept), len(service._about)) == (2, 2)


def with_requestor(der: bytes, name: str) -> bytes:
    read = ocsp.OCSPRequest.load(der)
    read["tbs_request"]["requestor_name"] = GeneralName("rfc822_name", name)
    made: bytes = read.dump(force=True)
    return made


def with_parameters(der: bytes, parameters: bytes) -> bytes:
    """Ask as by SHA-1, whose parameters are another value than NULL."""
    asked = ocsp.OCSPRequest.load(der)["tbs_request"]["request_list"][0]["req_cert"]
    algorithm = encode(SEQUENCE, encode_object_identifier("1.3.14.3.2.26"), encode(OCTET_STRING, parameters))
    hashed = (encode(OCTET_STRING, asked[name].native) for name in ("issuer_name_hash", "issuer_key_hash"))
    certificate_id = encode(SEQUENCE, algorithm, *hashed, encode_integer(asked["serial_number"].native))
    return encode(SEQUENCE, encode(SEQUENCE, encode(SEQUENCE, encode(SEQUENCE, certificate_id))))


async def test_a_strangers_variants_take_no_memory_and_nobodys_place(world: World) -> None:
    one = await ready(world)
    asked = request(world, one)
    first = await world.status.answer(asked)
    for number in range(50):
        assert await world.status.answer(with_requestor(asked, f"{number}{'a' * 15_000}")) is first
        other = await world.status.answer(with_parameters(asked, bytes([number])))
        assert other.fresh_until is None
        assert ocsp.OCSPResponse.load(other.der)["response_status"].native == "successful"
    assert list(world.status._kept) == [asked]
    assert await world.status.answer(asked) is first


async def test_what_a_variant_was_answered_with_serves_the_plain_request(world: World) -> None:
    asked = request(world, await ready(world), algorithm=hashes.SHA256())
    first = await world.status.answer(with_requestor(asked, "somebody"))
    assert await world.status.answer(asked) is first
    assert list(world.status._kept) == [asked]


async def test_without_the_store_nothing_old_is_said(world: World) -> None:
    one = await ready(world)
    now = [0.0]
    service = StatusService(
        world.pool, world.authorities, world.responders, world.clock, life=LIFE, monotonic=lambda: now[0]
    )
    await service.look()
    first = await service.answer(request(world, one))
    await world.pool.close()
    now[0] = BLIND_SECONDS - 0.1
    assert await service.answer(request(world, one)) is first
    now[0] = BLIND_SECONDS
    answer = await service.answer(request(world, one))
    assert load_der_ocsp_response(answer.der).response_status is TRY_LATER
    with pytest.raises(Refused):
        await service.look()


async def test_a_responder_is_made_for_each_authority_and_renewed_at_half_of_its_life(world: World) -> None:
    assert await world.responders.renew() == 3
    assert await world.responders.renew() == 0
    first = (await ask(world, request(world, await ready(world)))).certificates
    world.clock.move(ResponderTerms().life / 2)
    assert await world.responders.renew() == 2  # the root's lives longer
    await world.status.look()
    answer = await ask(world, request(world, await leaf(world)))
    assert answer.certificates != first
    stored = await world.rows("SELECT profile, identity_id, status FROM certificate WHERE profile = 'responder'")
    assert [tuple(one.values()) for one in stored] == [("responder", None, "active")] * 5


async def test_of_many_who_renew_at_once_one_does(world: World) -> None:
    assert sum(await asyncio.gather(*(world.responders.renew() for _ in range(5)))) == 3
    assert await world.value("SELECT count(*) FROM status_responder") == 3


async def test_no_answer_outlives_its_responder(world: World) -> None:
    one = await ready(world)
    world.clock.move(ResponderTerms().life - timedelta(minutes=10))
    answer = await ask(world, request(world, one))
    (responder,) = answer.certificates
    assert answer.next_update_utc == responder.not_valid_after_utc


async def test_without_a_responder_one_is_asked_to_come_later(world: World, caplog: pytest.LogCaptureFixture) -> None:
    one = await leaf(world)
    assert (await ask(world, request(world, one))).response_status is TRY_LATER
    await world.responders.renew()
    world.keystore.root_file.unlink()
    world.clock.move(ResponderTerms().offline_life + timedelta(hours=1))
    with caplog.at_level(logging.WARNING, "ca.responders"):
        assert [await world.responders.renew() for _ in range(3)] == [2, 0, 0]
    said = "authority root gets no new OCSP responder: its key is away"
    assert [each.message for each in caplog.records].count(said) == 1
    issuing = world.authorities.by_name("issuing").certificate
    of_root = request(world, issuing, of=world.authorities.by_name("root").certificate)
    assert (await ask(world, of_root)).response_status is TRY_LATER
    assert (await ask(world, request(world, one))).certificate_status is OCSPCertStatus.GOOD


async def test_an_authority_that_cannot_sign_keeps_no_other_from_its_responder_and_lists(
    world: World, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    class Gone:
        algorithm = b""
        public_key = None
        thread = None

        def sign(self, data: bytes) -> bytes:
            raise Refused(Kind.UNAVAILABLE, "gone", reason=f"the token was taken out before {len(data)} bytes")

    def with_root_key(one: Authority) -> Authority:
        return replace(one, signer=Gone()) if one.name == "issuing" else one  # type: ignore[arg-type]

    monkeypatch.setattr(world.authorities, "with_root_key", with_root_key)
    with caplog.at_level(logging.WARNING):
        assert [await world.responders.renew() for _ in range(2)] == [1, 0]
        assert [await world.publisher.publish_lists() for _ in range(2)] == [1, 0]
    assert sum("the token was taken out" in each.message for each in caplog.records) == 2


async def test_an_authority_whose_period_is_over_gets_neither(world: World) -> None:
    world.clock.move(timedelta(days=365 * 6))
    assert await world.responders.renew() == 2  # not the issuing one
    assert await world.publisher.publish_lists() == 2


async def test_an_authority_that_is_only_known_by_its_certificate_is_not_spoken_for(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = await ready(world)
    known = replace(world.authorities.by_name("factory"), origin=AuthorityOrigin.EXTERNAL)
    monkeypatch.setattr(type(world.authorities), "all", (known,))
    assert (await ask(world, request(world, one))).response_status is UNAUTHORIZED


async def test_a_clock_that_was_wrong_leaves_no_answer_from_the_future(world: World) -> None:
    one = await leaf(world)
    world.clock.move(timedelta(days=1))
    await world.responders.renew()
    await world.status.look()
    await ask(world, request(world, one))
    world.clock.move(-timedelta(days=1))
    assert await world.responders.renew() == 3
    answer = await ask(world, request(world, one))
    assert answer.this_update_utc <= world.clock()
    (responder,) = answer.certificates
    assert responder.not_valid_before_utc <= world.clock()

"""Authorities from elsewhere, and requests for certificates from there."""

from datetime import timedelta
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat
from cryptography.x509.oid import NameOID

from ca.authority import Authority, AuthorityOrigin, AuthorityStep
from ca.importing import read_one_certificate, read_private_key
from ca.intake import Offer
from ca.inventory import AuthorityKind, RevocationReason
from ca.store.authority_requests import RequestStatus
from ca.wishes import KeyWish
from certs.chain import Purpose, validate_chain
from certs.keys import KeyAlgorithm
from certs.pem import read_certificate
from iam.errors import Kind, Refused
from tests.ca.test_rollover import leaf_of
from tests.ca.world import World

Key = ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey


class Maker:
    """An authority elsewhere, which may do things wrong."""

    def __init__(self, world: World, name: str, above: "Maker | None" = None, **how: Any) -> None:
        self.key: Key = how.get("key") or ec.generate_private_key(ec.SECP256R1())
        public_key = how.get("public_key") or self.key.public_key()
        self.name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        signer = above or self
        now = world.clock()
        builder = (
            x509.CertificateBuilder()
            .subject_name(self.name)
            .issuer_name(signer.name)
            .public_key(public_key)
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - timedelta(days=1))
            .not_valid_after(now + how.get("lasts", timedelta(days=365)))
            .add_extension(x509.BasicConstraints(how.get("ca", True), how.get("path_length")), critical=True)
        )
        if how.get("usage", True):
            builder = builder.add_extension(usage(crl_sign=how.get("crl_sign", True)), critical=True)
        if how.get("named", True):
            builder = builder.add_extension(x509.SubjectKeyIdentifier.from_public_key(public_key), critical=False)
        self.certificate = builder.sign(how.get("signed_by") or signer.key, hashes.SHA256())


def usage(*, crl_sign: bool) -> x509.KeyUsage:
    return x509.KeyUsage(False, False, False, False, False, True, crl_sign, False, False)


async def taken(world: World, **offer: Any) -> Authority:
    access = await world.access(world.system.id)
    return await world.intake.take_in(access, world.system, Offer(**offer))


async def refusal(world: World, **offer: Any) -> Refused:
    before = await world.value("SELECT count(*) FROM authority")
    with pytest.raises(Refused) as caught:
        await taken(world, **offer)
    assert await world.value("SELECT count(*) FROM authority") == before
    assert await world.value("SELECT count(*) FROM kms_key") == 3
    return caught.value


async def test_a_root_with_its_key_issues(world: World) -> None:
    corporate = Maker(world, "Corporate", key=rsa.generate_private_key(65537, 3072))
    one = await taken(world, certificate=corporate.certificate, key=corporate.key, line="corporate")
    assert (one.kind, one.origin) == (AuthorityKind.ROOT, AuthorityOrigin.IMPORTED)
    leaf = leaf_of(world, one)
    validate_chain(leaf, [], [one.anchor], world.clock(), purpose=Purpose.CLIENT_AUTH)
    assert await world.publisher.publish_lists() == 3  # its own is there


async def test_a_chain_with_the_key_is_validated_and_published(world: World) -> None:
    top = Maker(world, "Top")
    middle = Maker(world, "Middle", top)
    below = Maker(world, "Below", middle, path_length=0)
    chain = (middle.certificate, top.certificate)
    one = await taken(world, certificate=below.certificate, chain=chain, key=below.key, line="below")
    assert one.kind is AuthorityKind.ISSUING
    published = [read_certificate(each) for each in world.authorities.published_chain(one.id)]
    assert published == [below.certificate, middle.certificate, top.certificate]
    access = await world.access(world.system.id)
    with pytest.raises(Refused, match="certified elsewhere"):
        await world.administration.reissue(access, world.system, "below", None)


async def test_an_imported_root_keeps_its_key_identifier_when_it_is_certified_anew(world: World) -> None:
    corporate = Maker(world, "Corporate")
    before = await taken(world, certificate=corporate.certificate, key=corporate.key, line="corporate")
    access = await world.access(world.system.id)
    after = await world.administration.reissue(access, world.system, "corporate", timedelta(days=1000))
    named = x509.SubjectKeyIdentifier
    assert after.certificate.extensions.get_extension_for_class(named).value == (
        before.certificate.extensions.get_extension_for_class(named).value
    )
    after.certificate.verify_directly_issued_by(before.certificate)
    new = await world.administration.roll_over(access, world.system, "corporate", None, None)
    assert new.links is not None
    read_certificate(new.links.new_with_old).verify_directly_issued_by(after.certificate)


async def test_a_certificate_alone_is_trusted_and_signs_nothing(world: World) -> None:
    maker = Maker(world, "Maker of meters")
    one = await taken(world, certificate=maker.certificate, line="maker")
    assert (one.kind, one.origin, one.signer) == (AuthorityKind.EXTERNAL, AuthorityOrigin.EXTERNAL, None)
    assert world.authorities.anchors([one.id]) == (one.anchor,)
    assert one.anchor not in world.authorities.device_anchors
    with pytest.raises(Refused, match="key of the authority maker is not here"):
        world.authorities.issuer(one.id)
    access = await world.access(world.system.id)
    for act in (
        world.administration.reissue(access, world.system, "maker", None),
        world.administration.roll_over(access, world.system, "maker", None, None),
    ):
        with pytest.raises(Refused, match="key is not here"):
            await act
    await world.administration.delete(access, world.system, "maker")
    assert world.authorities.anchors([one.id]) == ()


async def test_two_of_one_name_are_told_apart_by_their_keys(world: World) -> None:
    one, other = Maker(world, "Maker"), Maker(world, "Maker")
    first = await taken(world, certificate=one.certificate, key=one.key, line="one")
    second = await taken(world, certificate=other.certificate, key=other.key, line="other")
    leaf = leaf_of(world, second)
    validate_chain(leaf, [], [first.anchor, second.anchor], world.clock(), purpose=Purpose.CLIENT_AUTH)
    with pytest.raises(Exception, match="another key than the authority's of that name"):
        validate_chain(leaf, [], [first.anchor], world.clock(), purpose=Purpose.CLIENT_AUTH)


async def test_what_is_not_taken_in(world: World) -> None:
    top, stranger = Maker(world, "Top"), Maker(world, "Stranger")
    short = Maker(world, "Short", path_length=0)
    weak = rsa.generate_private_key(65537, 1024)  # noqa: S505 - what is refused
    for reason, offer in (
        ("is not the key in the certificate", {"certificate": top.certificate, "key": stranger.key}),
        ("basicConstraints CA is not set", {"certificate": Maker(world, "Leaf", ca=False).certificate}),
        ("expired", {"certificate": Maker(world, "Old", lasts=timedelta(hours=-1)).certificate}),
        ("does not verify", {"certificate": Maker(world, "Forged", signed_by=stranger.key).certificate}),
        ("1024 bits", {"certificate": Maker(world, "Weak", key=weak).certificate}),
    ):
        found = await refusal(world, line="it", **offer)
        assert reason in found.detail, found.detail
        assert found.kind is Kind.INVALID
    for reason, how in (
        ("basicConstraints CA is not set", {"ca": False}),
        ("expired", {"lasts": timedelta(hours=-1)}),
    ):  # alone, without its key
        found = await refusal(world, line="it", certificate=Maker(world, "Below", stranger, **how).certificate)
        assert reason in found.detail, found.detail
    await world.authorities.refresh()  # nothing of it was kept that would keep others from being read
    for reason, maker, chain in (
        ("no trusted authority", Maker(world, "Below", top), ()),
        ("signed by another key", Maker(world, "Below", top, signed_by=stranger.key), (top.certificate,)),
        ("allows 0 authorities", Maker(world, "Below", short), (short.certificate,)),
        ("subject key identifier", Maker(world, "Nameless", named=False), ()),
        ("subject key identifier", Maker(world, "Useless", usage=False), ()),
        ("lacks cRLSign", Maker(world, "Listless", crl_sign=False), ()),
        ("has nothing above it", Maker(world, "Alone"), (top.certificate,)),
    ):
        found = await refusal(world, line="it", certificate=maker.certificate, chain=chain, key=maker.key)
        assert reason in found.detail, found.detail


async def test_a_key_that_is_known_is_not_taken_in(world: World) -> None:
    maker = Maker(world, "Maker")
    await world.service.issue_bootstrap("meter-001", maker.key.public_key(), actor="test")
    assert (await refusal(world, certificate=maker.certificate, key=maker.key)).kind is Kind.CONFLICT
    assert (await refusal(world, certificate=maker.certificate)).kind is Kind.CONFLICT
    root = world.authorities.by_name("root").certificate
    assert (await refusal(world, certificate=root)).kind is Kind.CONFLICT
    other = Maker(world, "Other")
    await taken(world, certificate=other.certificate, line="other")
    with pytest.raises(Refused) as caught:
        await taken(world, certificate=other.certificate, key=other.key, line="again")
    assert caught.value.kind is Kind.CONFLICT


async def test_a_request_is_answered_elsewhere(world: World) -> None:
    access = await world.access(world.system.id)
    wish = KeyWish(KeyAlgorithm.P384)
    asked = await world.intake.request(access, world.system, "ours", {"common_name": "Ours"}, wish, {"a": 1})
    request = x509.load_der_x509_csr(asked.request)
    assert request.is_signature_valid
    assert request.extensions.get_extension_for_class(x509.BasicConstraints).value.ca
    corporate = Maker(world, "Corporate")
    await taken(world, certificate=corporate.certificate, line="corporate")
    answer = certified(world, corporate, request.subject, request.public_key())
    wrong = certified(world, corporate, corporate_name("Other"), request.public_key())
    with pytest.raises(Refused, match="not for the key and the name"):
        await taken(world, certificate=wrong, request=asked.id)
    one = await taken(world, certificate=answer, request=asked.id)
    assert (one.name, one.origin) == ("ours", AuthorityOrigin.REQUESTED)
    assert one.parent == world.authorities.by_name("corporate").id
    assert leaf_of(world, one)
    assert (await world.intake.get_request(world.system, asked.id)).status is RequestStatus.ISSUED
    with pytest.raises(Refused) as caught:
        await taken(world, certificate=answer, request=asked.id)
    assert caught.value.kind is Kind.CONFLICT
    with pytest.raises(Refused, match="was answered"):
        await world.intake.withdraw_request(access, world.system, asked.id)


async def test_a_request_can_be_withdrawn_with_its_key(world: World) -> None:
    access = await world.access(world.system.id)
    asked = await world.intake.request(access, world.system, None, {"common_name": "Ours"}, KeyWish(), {})
    assert await world.value("SELECT count(*) FROM kms_key") == 4
    await world.intake.withdraw_request(access, world.system, asked.id)
    assert await world.value("SELECT count(*) FROM kms_key") == 3
    with pytest.raises(Refused):
        await world.intake.get_request(world.system, asked.id)


def corporate_name(name: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])


def certified(world: World, by: Maker, subject: x509.Name, key: Any) -> x509.Certificate:
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(by.name)
        .public_key(key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(world.clock() - timedelta(days=1))
        .not_valid_after(world.clock() + timedelta(days=100))
        .add_extension(x509.BasicConstraints(True, 0), critical=True)
        .add_extension(usage(crl_sign=True), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key), critical=False)
        .sign(by.key, hashes.SHA256())
    )


def test_keys_and_certificates_are_read_as_pem_or_as_lamassu_sends_them() -> None:
    key = ec.generate_private_key(ec.SECP256R1())
    plain = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode()
    assert read_private_key(plain).public_key() == key.public_key()
    public = key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo).decode()
    for text in ("", "AAAA", "not base64!", public, "-----BEGIN PRIVATE KEY-----\nAA\n-----END PRIVATE KEY-----\n"):
        with pytest.raises(Refused):
            read_private_key(text)
        with pytest.raises(Refused):
            read_one_certificate(text, "certificate")


async def test_with_an_authority_that_was_asked_for_its_request_and_its_key_are_deleted(world: World) -> None:
    access = await world.access(world.system.id)
    asked = await world.intake.request(access, world.system, "ours", {"common_name": "Ours"}, KeyWish(), {})
    request, corporate = x509.load_der_x509_csr(asked.request), Maker(world, "Corporate")
    answer = certified(world, corporate, request.subject, request.public_key())
    await taken(world, certificate=answer, chain=(corporate.certificate,), request=asked.id)
    await world.administration.set_status(
        access, world.system, "ours", AuthorityStep.REVOKE, RevocationReason.SUPERSEDED
    )
    await world.administration.delete(access, world.system, "ours")
    assert await world.value("SELECT count(*) FROM authority_request") == 0
    assert await world.value("SELECT count(*) FROM kms_key") == 3
    await world.intake.request(access, world.system, "ours", {"common_name": "Ours"}, KeyWish(), {})

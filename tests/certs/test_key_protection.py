"""How a request says under what its private key is to be encrypted, and what is chosen of what it understands."""

from collections.abc import Sequence
from contextlib import suppress

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from hypothesis import given
from hypothesis import strategies as st

from certs.cms import KeyAgreed, KeyTransport, SharedSecret
from certs.cms_algorithms import ContentCipher, KeyAgreement, KeyWrap
from certs.csr import parse_keyless_request, parse_request
from certs.der import encode
from certs.errors import CertificateRefused, RefusalKind
from certs.key_protection import (
    KEY_IDENTIFIER_MAXIMUM_BYTES,
    SMIME_CAPABILITIES,
    Capability,
    WantedProtection,
)
from tests.certs.requests import (
    AES_128_WRAP,
    AES_256_CBC,
    AES_256_GCM,
    AES_256_WRAP,
    ECDH_SHA256,
    OAEP,
    RSA_V15,
    attribute,
    capabilities,
    keyless_request,
    named_key,
)
from tests.certs.test_cms import certificate

KEY = ec.generate_private_key(ec.SECP256R1())
SECRET = named_key(b"line-7")
PUBLIC = named_key(b"line-7", is_asymmetric=True)
WHOLE = keyless_request("meter-001", SECRET, capabilities(AES_256_WRAP, (ECDH_SHA256, AES_128_WRAP)), key=KEY)


def wanted(*oids: str, wrap: str | None = None) -> WantedProtection:
    return WantedProtection(b"line-7", is_asymmetric=False, capabilities=tuple(Capability(one, wrap) for one in oids))


def test_a_request_without_an_identifier_wants_the_key_as_it_is() -> None:
    assert parse_keyless_request(keyless_request("meter-001")).protection is None
    assert parse_keyless_request(keyless_request("meter-001", capabilities(AES_256_CBC))).protection is None


@pytest.mark.parametrize(("named", "is_asymmetric"), [(SECRET, False), (PUBLIC, True)])
def test_an_identifier_is_read_with_what_is_understood(named: bytes, *, is_asymmetric: bool) -> None:
    request = keyless_request("meter-001", named, capabilities(AES_256_CBC, (ECDH_SHA256, AES_128_WRAP)))
    assert parse_keyless_request(request).protection == WantedProtection(
        b"line-7", is_asymmetric, (Capability(AES_256_CBC, None), Capability(ECDH_SHA256, AES_128_WRAP))
    )


@pytest.mark.parametrize(
    "attributes",
    [
        [SECRET],
        [PUBLIC],
        [SECRET, PUBLIC, capabilities(AES_256_WRAP)],
        [SECRET, SECRET, capabilities(AES_256_WRAP)],
        [SECRET, capabilities(AES_256_WRAP), capabilities(AES_256_WRAP)],
        [named_key(b""), capabilities(AES_256_WRAP)],
        [named_key(bytes(KEY_IDENTIFIER_MAXIMUM_BYTES + 1)), capabilities(AES_256_WRAP)],
        [named_key(b"line-7", tag=0x0C), capabilities(AES_256_WRAP)],
        [SECRET, capabilities(*[AES_256_WRAP] * 65)],
        [SECRET, attribute(SMIME_CAPABILITIES.dotted_string, encode(0x30, encode(0x30, encode(0x06, b"\x7f" * 4000))))],
        [SECRET, attribute(SMIME_CAPABILITIES.dotted_string, encode(0x30, encode(0x30)))],
        [SECRET, attribute(SMIME_CAPABILITIES.dotted_string, encode(0x30, encode(0x31)))],
        [SECRET, attribute(SMIME_CAPABILITIES.dotted_string, encode(0x30, b"\x1f\x81\x00\x00"))],
        [SECRET, attribute(SMIME_CAPABILITIES.dotted_string)],
    ],
)
def test_what_does_not_say_it_clearly_is_malformed(attributes: Sequence[bytes]) -> None:
    with pytest.raises(CertificateRefused) as refused:
        parse_keyless_request(keyless_request("meter-001", *attributes))
    assert refused.value.kind is RefusalKind.MALFORMED


def test_key_and_signature_are_ignored_and_nothing_else() -> None:
    broken = bytearray(keyless_request("meter-001"))
    broken[-1] ^= 1  # the signature
    with pytest.raises(CertificateRefused):
        parse_request(bytes(broken))
    assert parse_keyless_request(bytes(broken)).subject.rfc4514_string() == "CN=meter-001"
    weak = keyless_request("meter-001", key=rsa.generate_private_key(65537, 1024))  # noqa: S505 - weak on purpose
    with pytest.raises(CertificateRefused):
        parse_request(weak)
    assert parse_keyless_request(weak).subject.rfc4514_string() == "CN=meter-001"
    with pytest.raises(CertificateRefused):
        parse_keyless_request(keyless_request("meter\n001"))
    with pytest.raises(CertificateRefused):
        parse_keyless_request(keyless_request("meter-001") + b"\0")


def test_the_key_that_is_made_stands_in_the_request() -> None:
    made = ec.generate_private_key(ec.SECP256R1()).public_key()
    request = parse_keyless_request(keyless_request("meter-001")).with_key(made)
    assert request.public_key == made
    assert request.spki_sha256 != parse_request(request.der).spki_sha256


@pytest.mark.parametrize(
    ("listed", "cipher"),
    [
        ([AES_256_CBC, AES_256_GCM], ContentCipher.AES_256_CBC),
        ([AES_256_GCM], ContentCipher.AES_256_GCM),
        (["2.16.840.1.101.3.4.1.2"], ContentCipher.AES_128_CBC),
        ([AES_256_WRAP], ContentCipher.AES_256_CBC),
        (["2.16.840.1.101.3.4.1.22"], None),  # AES-192-CBC, which is not offered
    ],
)
def test_the_content_cipher(listed: Sequence[str], cipher: ContentCipher | None) -> None:
    if cipher is None:
        with pytest.raises(CertificateRefused):
            wanted(*listed).cipher()
    else:
        assert wanted(*listed).cipher() is cipher


def test_a_secret_is_used_by_the_wrap_of_its_length_if_that_is_understood() -> None:
    assert wanted(AES_128_WRAP).to_secret(bytes(16)) == SharedSecret(b"line-7", bytes(16))
    with pytest.raises(CertificateRefused):
        wanted(AES_128_WRAP).to_secret(bytes(32))


def test_how_an_rsa_key_is_used() -> None:
    holder = certificate(rsa.generate_private_key(65537, 2048))
    assert wanted(RSA_V15, OAEP).to_certificate(holder) == KeyTransport(holder, b"line-7", is_oaep=True)
    assert wanted(RSA_V15).to_certificate(holder) == KeyTransport(holder, b"line-7", is_oaep=False)
    with pytest.raises(CertificateRefused):
        wanted(AES_256_WRAP).to_certificate(holder)


def test_how_a_key_on_a_curve_is_used() -> None:
    holder = certificate(ec.generate_private_key(ec.SECP384R1()))
    given = wanted(ECDH_SHA256, wrap=AES_128_WRAP).to_certificate(holder)
    assert given == KeyAgreed(holder, b"line-7", KeyAgreement.SHA256, KeyWrap.AES_128)
    fitting = wanted(AES_128_WRAP, AES_256_WRAP).to_certificate(holder)
    assert fitting == KeyAgreed(holder, b"line-7", KeyAgreement.SHA384, KeyWrap.AES_256)
    with pytest.raises(CertificateRefused):
        wanted(ECDH_SHA256).to_certificate(holder)


def test_a_key_that_only_signs_is_no_recipient() -> None:
    with pytest.raises(CertificateRefused):
        wanted(AES_256_WRAP, OAEP).to_certificate(certificate(ed25519.Ed25519PrivateKey.generate()))


@given(st.lists(st.binary(max_size=60) | st.sampled_from([SECRET, PUBLIC, capabilities(AES_256_WRAP)]), max_size=4))
def test_any_attributes_are_read_or_refused(attributes: list[bytes]) -> None:
    with suppress(CertificateRefused):
        parse_keyless_request(keyless_request("meter-001", *attributes, key=KEY))


@given(st.integers(0, 400), st.integers(1, 255))
def test_any_request_is_read_or_refused(position: int, change: int) -> None:
    der = bytearray(WHOLE)
    der[position % len(der)] ^= change
    with suppress(CertificateRefused):
        parse_keyless_request(bytes(der))

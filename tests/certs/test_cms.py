"""Private keys in CMS: OpenSSL opens every envelope of EnvelopedData, and verifies who made the key."""

import os
import subprocess
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from asn1crypto.cms import ContentInfo
from cryptography import x509
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.keywrap import aes_key_unwrap
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID

from certs.cms import (
    KeyAgreed,
    KeyTransport,
    Recipient,
    SharedSecret,
    SigningIdentity,
    SigningKey,
    check_recipient,
    envelop,
    recipient_identifier,
    signed_key_package,
)
from certs.cms_algorithms import ContentCipher, KeyAgreement, KeyWrap
from certs.der import CONTEXT_0, SEQUENCE, encode, encode_object_identifier
from certs.errors import CertificateRefused

EC_KEYS = {curve.name: ec.generate_private_key(curve) for curve in (ec.SECP256R1(), ec.SECP384R1(), ec.SECP521R1())}
RSA_KEY = rsa.generate_private_key(65537, 2048)
CBC = [one for one in ContentCipher if not one.is_authenticated]
GCM = [one for one in ContentCipher if one.is_authenticated]
PRIVATE_KEY = ec.generate_private_key(ec.SECP256R1()).private_bytes(Encoding.DER, PrivateFormat.PKCS8, NoEncryption())


def certificate(
    key: SigningKey | ed25519.Ed25519PrivateKey, *, usage: str | None = None, names_key: bool = True
) -> x509.Certificate:
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "meter-001")])
    now = datetime.now(UTC)
    builder = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=1))
    )
    if names_key:
        identifier = x509.SubjectKeyIdentifier.from_public_key(key.public_key())
        builder = builder.add_extension(identifier, critical=False)
    if usage is not None:
        all_usages = (
            "digital_signature content_commitment key_encipherment data_encipherment key_agreement key_cert_sign"
            " crl_sign encipher_only decipher_only"
        )
        values = {one: one == usage for one in all_usages.split()}
        builder = builder.add_extension(x509.KeyUsage(**values), critical=True)
    return builder.sign(key, None if isinstance(key, ed25519.Ed25519PrivateKey) else hashes.SHA256())


SIGNED = signed_key_package(PRIVATE_KEY, SigningIdentity((certificate(RSA_KEY),), RSA_KEY))


def decrypted(envelope: bytes, folder: Path, *arguments: str | Path) -> bytes:
    sent, opened = folder / "envelope.der", folder / "opened.der"
    sent.write_bytes(envelope)
    command = ["openssl", "cms", "-decrypt", "-inform", "DER", "-in", sent, "-out", opened, *arguments]
    subprocess.run(command, check=True, capture_output=True)
    return opened.read_bytes()


def opened_by(key: SigningKey, holder: x509.Certificate, envelope: bytes, folder: Path) -> bytes:
    certificate_file, key_file = folder / "recipient.pem", folder / "recipient.key"
    certificate_file.write_bytes(holder.public_bytes(Encoding.PEM))
    key_file.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    return decrypted(envelope, folder, "-recip", certificate_file, "-inkey", key_file)


@pytest.mark.parametrize("key", [*EC_KEYS.values(), RSA_KEY])
def test_openssl_verifies_who_made_the_key(key: SigningKey, tmp_path: Path) -> None:
    signer = certificate(key)
    signed = signed_key_package(PRIVATE_KEY, SigningIdentity((signer,), key))
    wrapped = encode(SEQUENCE, encode_object_identifier("1.2.840.113549.1.7.2"), encode(CONTEXT_0, signed))
    message, anchor, content = tmp_path / "signed.der", tmp_path / "signer.pem", tmp_path / "content.der"
    message.write_bytes(wrapped)
    anchor.write_bytes(signer.public_bytes(Encoding.PEM))
    command = ["openssl", "cms", "-verify", "-inform", "DER", "-in", message, "-CAfile", anchor, "-out", content]
    subprocess.run(command, check=True, capture_output=True)
    assert content.read_bytes() == encode(SEQUENCE, PRIVATE_KEY)  # RFC 5958 2: an AsymmetricKeyPackage of one
    parsed = ContentInfo.load(wrapped, strict=True)["content"]
    assert parsed["encap_content_info"]["content_type"].dotted == "2.16.840.1.101.2.1.2.78.5"
    message.write_bytes(wrapped.replace(PRIVATE_KEY[-8:], bytes(8)))
    assert subprocess.run(command, check=False, capture_output=True).returncode != 0


@pytest.mark.parametrize("cipher", CBC)
@pytest.mark.parametrize("length", [16, 24, 32])
def test_openssl_opens_what_a_shared_secret_wraps(cipher: ContentCipher, length: int, tmp_path: Path) -> None:
    secret = os.urandom(length)
    envelope = envelop(SIGNED, SharedSecret(b"line-7", secret), cipher, os.urandom)
    arguments = ("-secretkey", secret.hex(), "-secretkeyid", b"line-7".hex())
    assert decrypted(envelope, tmp_path, *arguments) == SIGNED
    with pytest.raises(subprocess.CalledProcessError):
        decrypted(envelope, tmp_path, "-secretkey", bytes(length).hex(), "-secretkeyid", b"line-7".hex())


@pytest.mark.parametrize("names_key", [True, False])
@pytest.mark.parametrize("is_oaep", [True, False])
@pytest.mark.parametrize("cipher", CBC)
def test_openssl_opens_what_is_encrypted_to_an_rsa_key(
    cipher: ContentCipher, *, is_oaep: bool, names_key: bool, tmp_path: Path
) -> None:
    holder = certificate(RSA_KEY, names_key=names_key)
    recipient = KeyTransport(holder, recipient_identifier(holder), is_oaep)
    assert opened_by(RSA_KEY, holder, envelop(SIGNED, recipient, cipher, os.urandom), tmp_path) == SIGNED


@pytest.mark.parametrize("names_key", [True, False])
@pytest.mark.parametrize("agreement", KeyAgreement)
@pytest.mark.parametrize("wrap", KeyWrap)
@pytest.mark.parametrize("curve", EC_KEYS)
def test_openssl_opens_what_a_key_on_a_curve_agrees_on(
    curve: str, wrap: KeyWrap, agreement: KeyAgreement, *, names_key: bool, tmp_path: Path
) -> None:
    holder = certificate(EC_KEYS[curve], names_key=names_key)
    recipient = KeyAgreed(holder, recipient_identifier(holder), agreement, wrap)
    envelope = envelop(SIGNED, recipient, ContentCipher.AES_256_CBC, os.urandom)
    assert opened_by(EC_KEYS[curve], holder, envelope, tmp_path) == SIGNED


@pytest.mark.parametrize("cipher", GCM)
def test_an_authenticated_envelope_opens_and_shows_a_change(cipher: ContentCipher) -> None:
    """OpenSSL does not read authenticated attributes, which RFC 5083 2.1 demands here: asn1crypto does."""
    secret = os.urandom(32)
    information = ContentInfo.load(envelop(SIGNED, SharedSecret(b"line-7", secret), cipher, os.urandom), strict=True)
    assert information["content_type"].native == "authenticated_enveloped_data"
    data = information["content"]
    content = data["auth_encrypted_content_info"]
    assert (content["content_type"].native, len(data["auth_attrs"])) == ("signed_data", 1)
    nonce, tag_bytes = content["content_encryption_algorithm"]["parameters"].native.values()
    assert (len(nonce), tag_bytes, len(data["mac"].native)) == (12, 16, 16)
    wrapped = data["recipient_infos"][0].chosen["encrypted_key"].native
    key = aes_key_unwrap(secret, wrapped)
    assert len(key) == cipher.key_bytes
    authenticated = data["auth_attrs"].untag().dump()
    sealed = content["encrypted_content"].native + data["mac"].native
    assert AESGCM(key).decrypt(nonce, sealed, authenticated) == SIGNED
    with pytest.raises(InvalidTag):
        AESGCM(key).decrypt(nonce, sealed, b"")


VERSIONS: list[tuple[Callable[[], Recipient], int]] = [
    (lambda: SharedSecret(b"line-7", bytes(16)), 2),
    (lambda: KeyTransport(certificate(RSA_KEY), recipient_identifier(certificate(RSA_KEY)), True), 2),
    (lambda: KeyTransport(certificate(RSA_KEY, names_key=False), b"any", True), 0),
]


@pytest.mark.parametrize(("recipient", "version"), VERSIONS)
def test_the_version_follows_the_recipient(recipient: Callable[[], Recipient], version: int) -> None:
    """RFC 5652 6.1."""
    data = ContentInfo.load(envelop(SIGNED, recipient(), ContentCipher.AES_128_CBC, os.urandom))["content"]
    assert int(data["version"]) == version
    assert data["encrypted_content_info"]["content_type"].native == "signed_data"


@pytest.mark.parametrize(
    ("key", "usage", "is_allowed"),
    [
        (RSA_KEY, None, True),
        (RSA_KEY, "key_encipherment", True),
        (RSA_KEY, "digital_signature", False),
        (RSA_KEY, "key_agreement", False),
        (EC_KEYS["secp256r1"], None, True),
        (EC_KEYS["secp256r1"], "key_agreement", True),
        (EC_KEYS["secp256r1"], "digital_signature", False),
        (ed25519.Ed25519PrivateKey.generate(), None, False),
    ],
)
def test_a_key_takes_part_only_if_its_usage_allows(
    key: SigningKey | ed25519.Ed25519PrivateKey, usage: str | None, *, is_allowed: bool
) -> None:
    holder = certificate(key, usage=usage)
    if is_allowed:
        check_recipient(holder)
    else:
        with pytest.raises(CertificateRefused):
            check_recipient(holder)


def test_no_secret_is_shown() -> None:
    shown = repr(SharedSecret(b"line-7", b"\x5a" * 16)) + repr(SigningIdentity((certificate(RSA_KEY),), RSA_KEY))
    assert "5a" not in shown.replace("meter", "")
    assert "ZZZZ" not in shown
    assert "private_key" not in shown


def test_a_secret_of_another_length_wraps_nothing() -> None:
    with pytest.raises(ValueError, match="20 bytes"):
        envelop(SIGNED, SharedSecret(b"line-7", bytes(20)), ContentCipher.AES_128_CBC, os.urandom)

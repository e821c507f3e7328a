"""A private key that the server made, taken out of its envelope (RFC 7030 4.4.2; RFC 5652, 5083, 5753, 5958).

1. A device names one secret or one private key of its own, and what it understands; the envelope is opened with that
   and with nothing else.
2. Inside is SignedData that holds one AsymmetricKeyPackage of one key. The signature must be that of a certificate that
   comes with it. Who that is, TLS has said already: the signature shows that the key came through whole.
3. Whatever is not so is malformed, and no key.

Read is DER, as this package's server writes it and most do.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field
from hashlib import sha1
from typing import Final, Protocol

from cryptography import x509
from cryptography.exceptions import InvalidSignature, InvalidTag, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from cryptography.hazmat.primitives.ciphers import Cipher
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.ciphers.algorithms import AES
from cryptography.hazmat.primitives.ciphers.modes import CBC
from cryptography.hazmat.primitives.kdf.x963kdf import X963KDF
from cryptography.hazmat.primitives.keywrap import InvalidUnwrap, aes_key_unwrap
from cryptography.hazmat.primitives.padding import PKCS7
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_der_private_key

from certs.cms_algorithms import (
    ASYMMETRIC_DECRYPT_KEY_IDENTIFIER,
    AUTH_ENVELOPED_DATA,
    DECRYPT_KEY_IDENTIFIER,
    DIGESTS,
    ENVELOPED_DATA,
    MESSAGE_DIGEST,
    RSAES_OAEP,
    SHA256,
    SMIME_CAPABILITIES,
    ContentCipher,
    KeyAgreement,
    KeyWrap,
)
from certs.der import (
    BIT_STRING,
    CONTEXT_0,
    CONTEXT_0_PRIMITIVE,
    CONTEXT_1,
    CONTEXT_2,
    OCTET_STRING,
    SEQUENCE,
    SET,
    Element,
    encode,
    encode_object_identifier,
    read_elements,
)
from certs.errors import UNREADABLE, CertificateRefused
from est.client.failure import EstFailure, Failure
from est.client.keys import KeyUnusable, PrivateKey, known_key
from est.client.request import Attribute

_CBC: Final = tuple(one.oid for one in ContentCipher if not one.is_authenticated)
_GCM: Final = tuple(one.oid for one in ContentCipher if one.is_authenticated)
_WRAPS: Final = {one.oid: one.key_bytes for one in KeyWrap}
_AGREEMENTS: Final = {one.oid: one.hash_algorithm for one in KeyAgreement}
_BITS: Final = 8
_BLOCK_BITS: Final = 128

_WRONG = (
    *UNREADABLE,
    CertificateRefused,
    IndexError,
    InvalidSignature,
    InvalidTag,
    InvalidUnwrap,
    KeyError,
    KeyUnusable,
    StopIteration,
    UnsupportedAlgorithm,
)


class Opener(Protocol):
    """What a device opens an envelope with."""

    def attributes(self) -> tuple[Attribute, ...]:
        """Return what a request says of it (RFC 7030 4.4.1)."""

    def content_key(self, recipient: Element) -> bytes | None:
        """Return the content's key from a RecipientInfo; None if that is of another kind."""


@dataclass(frozen=True, slots=True)
class SecretOpener:
    """A secret of 16, 24 or 32 bytes that the server knows by an identifier (RFC 7030 4.4.1.1)."""

    identifier: bytes
    secret: bytes = field(repr=False)

    def attributes(self) -> tuple[Attribute, ...]:
        """Return its identifier, and the key wrap that the secret has."""
        wraps = [oid for oid, length in _WRAPS.items() if length == len(self.secret)]
        if not wraps:
            raise ValueError("a secret to wrap keys under has 16, 24 or 32 bytes")
        return _named(DECRYPT_KEY_IDENTIFIER, self.identifier, [*_CBC, *_GCM, *wraps])

    def content_key(self, recipient: Element) -> bytes | None:
        """Unwrap it (RFC 5652 6.2.3)."""
        if recipient.tag != CONTEXT_2:
            return None
        *_, wrapped = recipient.holds(CONTEXT_2)
        return aes_key_unwrap(self.secret, wrapped.value(OCTET_STRING))


@dataclass(frozen=True, slots=True)
class PrivateKeyOpener:
    """An RSA key or a key on a curve, whose public half the server knows by an identifier (RFC 7030 4.4.1.2)."""

    identifier: bytes
    key: rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey = field(repr=False)

    def attributes(self) -> tuple[Attribute, ...]:
        """Return its identifier, and how keys can be encrypted to it."""
        ways = [RSAES_OAEP] if isinstance(self.key, rsa.RSAPrivateKey) else [*_AGREEMENTS, *_WRAPS]
        return _named(ASYMMETRIC_DECRYPT_KEY_IDENTIFIER, self.identifier, [*_CBC, *_GCM, *ways])

    def content_key(self, recipient: Element) -> bytes | None:
        """Decrypt it, or agree on what it is wrapped under."""
        if isinstance(self.key, rsa.RSAPrivateKey):
            return _transported(self.key, recipient) if recipient.tag == SEQUENCE else None
        return _agreed(self.key, recipient) if recipient.tag == CONTEXT_1 else None


def opener_of(key: PrivateKey, certificate: x509.Certificate | None = None) -> PrivateKeyOpener:
    """Return the opener that a private key is.

    Args:
        certificate: By whose subject key identifier the server knows it, if it has one; else by the hash of the key.

    Raises:
        KeyUnusable: Nothing can be encrypted to a key of this kind.
    """
    if not isinstance(key, rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey):
        raise KeyUnusable("keys are encrypted to RSA keys and to keys on curves only")
    if certificate is not None:
        try:
            named = certificate.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value
            return PrivateKeyOpener(named.digest, key)
        except x509.ExtensionNotFound:
            pass
    public = key.public_key()
    if isinstance(public, rsa.RSAPublicKey):
        bits = public.public_bytes(Encoding.DER, PublicFormat.PKCS1)
    else:
        bits = public.public_bytes(Encoding.X962, PublicFormat.UncompressedPoint)
    return PrivateKeyOpener(sha1(bits, usedforsecurity=False).digest(), key)  # RFC 5280 4.2.1.2, method 1


def open_key(der: bytes, opener: Opener) -> PrivateKey:
    """Return the private key in an envelope; raise `EstFailure` (malformed)."""
    try:
        return _key_in(_signed_content(_decrypted(der, opener)))
    except _WRONG as error:
        words = str(error) or type(error).__name__
        raise EstFailure(Failure.MALFORMED, f"the server's key cannot be taken out of its envelope: {words}") from error


def plain_key(der: bytes) -> PrivateKey:
    """Return a private key that came as PKCS #8; raise `EstFailure` (malformed)."""
    try:
        return known_key(load_der_private_key(der, None))
    except (ValueError, TypeError, UnsupportedAlgorithm, KeyUnusable) as error:
        raise EstFailure(Failure.MALFORMED, f"the server's key cannot be read: {error}") from error


def _decrypted(der: bytes, opener: Opener) -> bytes:
    kind, content = read_elements(der)[0].holds(SEQUENCE)
    (envelope,) = content.holds(CONTEXT_0)
    parts = envelope.holds(SEQUENCE)
    recipients = next(one for one in parts if one.tag == SET).holds(SET)
    keys = (opener.content_key(one) for one in recipients)
    key = next((one for one in keys if one is not None), None)
    if key is None:
        raise ValueError("it is for somebody else")
    encrypted = next(one for one in parts if one.tag == SEQUENCE)
    _, algorithm, sealed = encrypted.holds(SEQUENCE)
    cipher, parameters = algorithm.holds(SEQUENCE)
    oid = cipher.object_identifier().dotted_string
    data = sealed.value(CONTEXT_0_PRIMITIVE)
    match kind.object_identifier().dotted_string:
        case name if name == ENVELOPED_DATA and oid in _CBC:
            return _unpadded(key, parameters.value(OCTET_STRING), data)
        case name if name == AUTH_ENVELOPED_DATA and oid in _GCM:
            attributes = [one.content for one in parts if one.tag == CONTEXT_1]
            nonce = parameters.holds(SEQUENCE)[0].value(OCTET_STRING)
            # RFC 5083 2.2: the attributes are authenticated as a SET OF
            return AESGCM(key).decrypt(nonce, data + parts[-1].value(OCTET_STRING), encode(SET, *attributes))
        case _:
            raise ValueError("it is encrypted in a way that was not offered")


def _unpadded(key: bytes, vector: bytes, data: bytes) -> bytes:
    decryptor = Cipher(AES(key), CBC(vector)).decryptor()
    unpadder = PKCS7(_BLOCK_BITS).unpadder()
    return unpadder.update(decryptor.update(data) + decryptor.finalize()) + unpadder.finalize()


def _transported(key: rsa.RSAPrivateKey, recipient: Element) -> bytes:
    """Return the content's key that was encrypted to an RSA key (RFC 5652 6.2.1, RFC 4055 4.1)."""
    _, _, algorithm, encrypted = recipient.holds(SEQUENCE)
    kind, parameters = algorithm.holds(SEQUENCE)
    if kind.object_identifier().dotted_string != RSAES_OAEP:
        raise ValueError("its key is encrypted in a way that was not offered")
    if encode_object_identifier(SHA256) not in parameters.encoded:
        raise ValueError("its key is encrypted by OAEP without SHA-256")
    sha256 = hashes.SHA256()
    return key.decrypt(encrypted.value(OCTET_STRING), padding.OAEP(padding.MGF1(sha256), sha256, None))


def _agreed(key: ec.EllipticCurvePrivateKey, recipient: Element) -> bytes:
    """Return the content's key that was wrapped under what two keys on a curve agree on (RFC 5753 3.1.1)."""
    _, originator, *rest = recipient.holds(CONTEXT_1)
    encrypted = rest[-1].holds(SEQUENCE)[0].holds(SEQUENCE)[1].value(OCTET_STRING)
    scheme, wrap = rest[-2].holds(SEQUENCE)
    user_material = [one.encoded for one in rest[:-2]]
    _, point = originator.holds(CONTEXT_0)[0].holds(CONTEXT_1)
    ephemeral = ec.EllipticCurvePublicKey.from_encoded_point(key.curve, point.value(BIT_STRING)[1:])
    length = _WRAPS[wrap.holds(SEQUENCE)[0].object_identifier().dotted_string]
    # RFC 5753 7.2: ECC-CMS-SharedInfo, with the length of the wrapping key in bits
    bits = encode(CONTEXT_2, encode(OCTET_STRING, (length * _BITS).to_bytes(4)))
    material = [encode(CONTEXT_0, read_elements(one)[0].content) for one in user_material]
    shared = encode(SEQUENCE, wrap.encoded, *material, bits)
    hash_algorithm = _AGREEMENTS[scheme.object_identifier().dotted_string]
    wrapping_key = X963KDF(hash_algorithm, length, shared).derive(key.exchange(ec.ECDH(), ephemeral))
    return aes_key_unwrap(wrapping_key, encrypted)


def _signed_content(der: bytes) -> bytes:
    """Return the content of SignedData whose one signature holds, by rule 2 (RFC 5652 5)."""
    _, _, encapsulated, *rest, signers = read_elements(der)[0].holds(SEQUENCE)
    _, content = encapsulated.holds(SEQUENCE)
    octets = content.holds(CONTEXT_0)[0].value(OCTET_STRING)
    (signer,) = signers.holds(SET)
    _, _, digest, attributes, _, signature = signer.holds(SEQUENCE)
    hash_algorithm = DIGESTS[digest.holds(SEQUENCE)[0].object_identifier().dotted_string]
    hasher = hashes.Hash(hash_algorithm)
    hasher.update(octets)
    stated = {
        kind.object_identifier().dotted_string: values.holds(SET)[0]
        for kind, values in (one.holds(SEQUENCE) for one in attributes.holds(CONTEXT_0))
    }
    if stated[MESSAGE_DIGEST].value(OCTET_STRING) != hasher.finalize():
        raise ValueError("its digest is another")
    held = [one for group in rest if group.tag == CONTEXT_0 for one in group.holds(CONTEXT_0)]
    certificates = [x509.load_der_x509_certificate(one.encoded) for one in held]
    signed = encode(SET, attributes.content)  # RFC 5652 5.4: signed as a SET OF
    if not any(_verifies(one, signature.value(OCTET_STRING), signed, hash_algorithm) for one in certificates):
        raise ValueError("its signature is not that of a certificate that came with it")
    return octets


def _verifies(
    certificate: x509.Certificate, signature: bytes, signed: bytes, hash_algorithm: hashes.HashAlgorithm
) -> bool:
    try:
        match certificate.public_key():
            case ec.EllipticCurvePublicKey() as key:
                key.verify(signature, signed, ec.ECDSA(hash_algorithm))
            case rsa.RSAPublicKey() as key:
                key.verify(signature, signed, padding.PKCS1v15(), hash_algorithm)
            case _:
                return False
    except InvalidSignature:
        return False
    return True


def _key_in(package: bytes) -> PrivateKey:
    """Return the one key of an AsymmetricKeyPackage (RFC 5958 2)."""
    (key,) = read_elements(package)[0].holds(SEQUENCE)
    return plain_key(key.encoded)


def _named(kind: str, identifier: bytes, understood: Iterable[str]) -> tuple[Attribute, ...]:
    listed = [encode(SEQUENCE, encode_object_identifier(oid)) for oid in understood]
    return (
        Attribute(encode_object_identifier(kind), encode(OCTET_STRING, identifier)),
        Attribute(encode_object_identifier(SMIME_CAPABILITIES), encode(SEQUENCE, *listed)),
    )

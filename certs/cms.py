"""A private key on its way to its holder: signed by who made it, and encrypted to who may have it, in CMS.

1. The key is an AsymmetricKeyPackage of one PKCS #8 (RFC 5958 2), inside of SignedData that says who made it (RFC 7030
   4.4.2), inside of an envelope. The signed attributes are there because the content is not plain data (RFC 5652 5.3).
2. The envelope is EnvelopedData with AES-CBC (RFC 3565), or AuthEnvelopedData with AES-GCM (RFC 5083, RFC 5084) for
   those who can read it; its authenticated attributes name the content's type, since it is not plain data (RFC 5083
   2.1).
3. The content's key is made for this envelope alone, and reaches one recipient: wrapped under a secret that both know
   (KEKRecipientInfo, RFC 3394); encrypted to an RSA key (RSAES-OAEP with SHA-256, RFC 4055, or PKCS #1 v1.5, RFC 3370);
   or wrapped under what an ephemeral key agrees on with an EC key (RFC 5753 3.1.1).
4. A certificate's key takes part only if its key usage, where there is one, allows it (RFC 7030 4.4.1.2).

Everything here is DER. Randomness is an argument, except for ephemeral keys and RSA padding, which the library makes.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from hashlib import sha1
from typing import Final, Protocol

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, padding
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey, RSAPublicKey
from cryptography.hazmat.primitives.ciphers import Cipher as LibraryCipher
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.ciphers.algorithms import AES
from cryptography.hazmat.primitives.ciphers.modes import CBC
from cryptography.hazmat.primitives.kdf.x963kdf import X963KDF
from cryptography.hazmat.primitives.keywrap import aes_key_wrap
from cryptography.hazmat.primitives.padding import PKCS7
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from cryptography.x509.oid import SignatureAlgorithmOID

from certs.cms_algorithms import (
    AUTH_ENVELOPED_DATA,
    CONTENT_TYPE,
    EC_PUBLIC_KEY,
    ENVELOPED_DATA,
    KEY_PACKAGE,
    MESSAGE_DIGEST,
    MGF1,
    RSA_ENCRYPTION,
    RSAES_OAEP,
    SHA256,
    SHA384,
    SHA512,
    SIGNED_DATA,
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
    NULL,
    OCTET_STRING,
    SEQUENCE,
    SET,
    encode,
    encode_integer,
    encode_object_identifier,
    read_certificate_layout,
)
from certs.errors import CertificateRefused, RefusalKind

Random = Callable[[int], bytes]
SigningKey = ec.EllipticCurvePrivateKey | RSAPrivateKey

_GCM_NONCE_BYTES: Final = 12
_GCM_TAG_BYTES: Final = 16
_CBC_BLOCK_BYTES: Final = 16
_BITS: Final = 8


@dataclass(frozen=True)
class SigningIdentity:
    """Who signs: certificates, the signer's own first, and its private key."""

    certificates: tuple[x509.Certificate, ...]
    private_key: SigningKey = field(repr=False)


class Recipient(Protocol):
    """Who may have the content: it makes the RecipientInfo that brings him its key."""

    @property
    def version(self) -> int:
        """The version of the RecipientInfo (RFC 5652 6.2)."""

    def information(self, content_key: bytes) -> bytes:
        """Return the RecipientInfo that holds `content_key`."""


@dataclass(frozen=True)
class SharedSecret:
    """A recipient who knows a secret by an identifier (RFC 5652 6.2.3)."""

    identifier: bytes
    secret: bytes = field(repr=False)

    version = 4

    @property
    def wrap(self) -> KeyWrap:
        """The one key wrap that takes a secret of this length; raises `ValueError` if none does."""
        for one in KeyWrap:
            if one.key_bytes == len(self.secret):
                return one
        raise ValueError(f"a secret of {len(self.secret)} bytes wraps no keys")

    def information(self, content_key: bytes) -> bytes:
        """Return the KEKRecipientInfo."""
        return encode(
            CONTEXT_2,
            encode_integer(self.version),
            encode(SEQUENCE, encode(OCTET_STRING, self.identifier)),
            _algorithm(self.wrap.oid),
            encode(OCTET_STRING, aes_key_wrap(self.secret, content_key)),
        )


@dataclass(frozen=True)
class KeyTransport:
    """A recipient with an RSA key (RFC 5652 6.2.1)."""

    certificate: x509.Certificate
    identifier: bytes
    is_oaep: bool

    @property
    def version(self) -> int:
        """2 if he is named by a subject key identifier, else 0."""
        return 2 if _bears(self.certificate, self.identifier) else 0

    def information(self, content_key: bytes) -> bytes:
        """Return the KeyTransRecipientInfo."""
        key = self.certificate.public_key()
        if not isinstance(key, RSAPublicKey):
            raise TypeError("key transport needs an RSA key")
        sha256 = hashes.SHA256()
        scheme = padding.OAEP(padding.MGF1(sha256), sha256, None) if self.is_oaep else padding.PKCS1v15()
        name = (
            encode(CONTEXT_0_PRIMITIVE, self.identifier)
            if _bears(self.certificate, self.identifier)
            else _issuer_and_serial(self.certificate)
        )
        algorithm = _OAEP_SHA256 if self.is_oaep else _algorithm(RSA_ENCRYPTION, NULL)
        encrypted = key.encrypt(content_key, scheme)
        return encode(SEQUENCE, encode_integer(self.version), name, algorithm, encode(OCTET_STRING, encrypted))


@dataclass(frozen=True)
class KeyAgreed:
    """A recipient with a key on an elliptic curve (RFC 5652 6.2.2, RFC 5753 3.1.1)."""

    certificate: x509.Certificate
    identifier: bytes
    agreement: KeyAgreement
    wrap: KeyWrap

    version = 3

    def information(self, content_key: bytes) -> bytes:
        """Return the KeyAgreeRecipientInfo."""
        key = self.certificate.public_key()
        if not isinstance(key, ec.EllipticCurvePublicKey):
            raise TypeError("key agreement needs a key on an elliptic curve")
        ephemeral = ec.generate_private_key(key.curve)
        wrap = _algorithm(self.wrap.oid)
        # RFC 5753 7.2: ECC-CMS-SharedInfo, with the length of the wrapping key in bits
        length = encode(OCTET_STRING, (self.wrap.key_bytes * _BITS).to_bytes(4))
        shared = encode(SEQUENCE, wrap, encode(CONTEXT_2, length))
        derivation = X963KDF(self.agreement.hash_algorithm, self.wrap.key_bytes, shared)
        wrapping_key = derivation.derive(ephemeral.exchange(ec.ECDH(), key))
        name = (
            encode(CONTEXT_0, encode(OCTET_STRING, self.identifier))
            if _bears(self.certificate, self.identifier)
            else _issuer_and_serial(self.certificate)
        )
        wrapped = encode(SEQUENCE, name, encode(OCTET_STRING, aes_key_wrap(wrapping_key, content_key)))
        point = ephemeral.public_key().public_bytes(Encoding.X962, PublicFormat.UncompressedPoint)
        originator = encode(CONTEXT_1, _algorithm(EC_PUBLIC_KEY), encode(BIT_STRING, b"\0", point))
        return encode(
            CONTEXT_1,
            encode_integer(self.version),
            encode(CONTEXT_0, originator),
            _algorithm(self.agreement.oid, wrap),
            encode(SEQUENCE, wrapped),
        )


def signed_key_package(private_key: bytes, signer: SigningIdentity) -> bytes:
    """Return the SignedData that holds a private key (PKCS #8 in DER), by rule 1; without a ContentInfo around it.

    Raises:
        CertificateRefused: POLICY, if the signer's key is of a kind that does not sign here.
    """
    package = encode(SEQUENCE, private_key)
    sign, signature_algorithm, digest, hash_algorithm = _signing(signer.private_key)
    hasher = hashes.Hash(hash_algorithm)
    hasher.update(package)
    attributes = sorted(
        (
            _attribute(CONTENT_TYPE, encode_object_identifier(KEY_PACKAGE)),
            _attribute(MESSAGE_DIGEST, encode(OCTET_STRING, hasher.finalize())),
        )
    )
    signer_information = encode(
        SEQUENCE,
        encode_integer(1),
        _issuer_and_serial(signer.certificates[0]),
        _algorithm(digest),
        encode(CONTEXT_0, *attributes),
        signature_algorithm,
        encode(OCTET_STRING, sign(encode(SET, *attributes))),  # RFC 5652 5.4: signed as a SET OF
    )
    return encode(
        SEQUENCE,
        encode_integer(3),  # RFC 5652 5.1: since the content is not plain data
        encode(SET, _algorithm(digest)),
        encode(SEQUENCE, encode_object_identifier(KEY_PACKAGE), encode(CONTEXT_0, encode(OCTET_STRING, package))),
        encode(CONTEXT_0, *sorted(one.public_bytes(Encoding.DER) for one in signer.certificates)),
        encode(SET, signer_information),
    )


def envelop(signed_data: bytes, recipient: Recipient, cipher: ContentCipher, random: Random) -> bytes:
    """Return the ContentInfo of an envelope around SignedData, by rules 2 and 3."""
    key = random(cipher.key_bytes)
    recipients = encode(SET, recipient.information(key))
    if cipher.is_authenticated:
        return _content_info(AUTH_ENVELOPED_DATA, _authenticated(signed_data, recipients, cipher, key, random))
    vector = random(_CBC_BLOCK_BYTES)
    padder = PKCS7(_CBC_BLOCK_BYTES * _BITS).padder()
    padded = padder.update(signed_data) + padder.finalize()
    encryptor = LibraryCipher(AES(key), CBC(vector)).encryptor()
    encrypted = encryptor.update(padded) + encryptor.finalize()
    version = 0 if recipient.version == 0 else 2  # RFC 5652 6.1
    content = _encrypted_content(_algorithm(cipher.oid, encode(OCTET_STRING, vector)), encrypted)
    return _content_info(ENVELOPED_DATA, encode(SEQUENCE, encode_integer(version), recipients, content))


def recipient_identifier(certificate: x509.Certificate) -> bytes:
    """Return what names a certificate's key: its subject key identifier, or that of RFC 5280 4.2.1.2, method 1."""
    try:
        return certificate.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value.digest
    except x509.ExtensionNotFound:
        key = certificate.public_key()
        if isinstance(key, ec.EllipticCurvePublicKey):
            bits = key.public_bytes(Encoding.X962, PublicFormat.UncompressedPoint)
        else:
            bits = key.public_bytes(Encoding.DER, PublicFormat.PKCS1)
        return sha1(bits, usedforsecurity=False).digest()


def check_recipient(certificate: x509.Certificate) -> None:
    """Check that keys may be encrypted to a certificate, by rule 4.

    Raises:
        CertificateRefused: POLICY.
    """
    key = certificate.public_key()
    try:
        usage = certificate.extensions.get_extension_for_class(x509.KeyUsage).value
    except x509.ExtensionNotFound:
        usage = None
    match key:
        case RSAPublicKey():
            is_allowed = usage is None or usage.key_encipherment
        case ec.EllipticCurvePublicKey():
            is_allowed = usage is None or usage.key_agreement
        case _:
            raise CertificateRefused(RefusalKind.POLICY, "keys are encrypted to RSA keys and to elliptic curves only")
    if not is_allowed:
        raise CertificateRefused(RefusalKind.POLICY, "the certificate's key usage does not allow to encrypt keys to it")


def _authenticated(content: bytes, recipients: bytes, cipher: ContentCipher, key: bytes, random: Random) -> bytes:
    nonce = random(_GCM_NONCE_BYTES)
    attributes = _attribute(CONTENT_TYPE, encode_object_identifier(SIGNED_DATA))
    sealed = AESGCM(key).encrypt(nonce, content, encode(SET, attributes))  # RFC 5083 2.2: authenticated as a SET OF
    parameters = encode(SEQUENCE, encode(OCTET_STRING, nonce), encode_integer(_GCM_TAG_BYTES))
    return encode(
        SEQUENCE,
        encode_integer(0),
        recipients,
        _encrypted_content(_algorithm(cipher.oid, parameters), sealed[:-_GCM_TAG_BYTES]),
        encode(CONTEXT_1, attributes),
        encode(OCTET_STRING, sealed[-_GCM_TAG_BYTES:]),
    )


def _encrypted_content(algorithm: bytes, encrypted: bytes) -> bytes:
    content_type = encode_object_identifier(SIGNED_DATA)
    return encode(SEQUENCE, content_type, algorithm, encode(CONTEXT_0_PRIMITIVE, encrypted))


def _signing(key: SigningKey) -> tuple[Callable[[bytes], bytes], bytes, str, hashes.HashAlgorithm]:
    """Return how a key signs: the act, its AlgorithmIdentifier, and the digest before it with its OID."""
    match key:
        case ec.EllipticCurvePrivateKey():
            algorithm, digest, hash_algorithm = _ECDSA.get(key.curve.name, _ECDSA["secp256r1"])
            return (lambda data: key.sign(data, ec.ECDSA(hash_algorithm))), algorithm, digest, hash_algorithm
        case RSAPrivateKey():
            scheme, sha256 = padding.PKCS1v15(), hashes.SHA256()
            algorithm = _algorithm(SignatureAlgorithmOID.RSA_WITH_SHA256.dotted_string, NULL)
            return (lambda data: key.sign(data, scheme, sha256)), algorithm, SHA256, sha256
        case _:
            raise CertificateRefused(RefusalKind.POLICY, "a key of this kind does not sign CMS here")


def _content_info(content_type: str, content: bytes) -> bytes:
    return encode(SEQUENCE, encode_object_identifier(content_type), encode(CONTEXT_0, content))


def _algorithm(oid: str, parameters: bytes = b"") -> bytes:
    return encode(SEQUENCE, encode_object_identifier(oid), parameters)


def _attribute(oid: str, value: bytes) -> bytes:
    return encode(SEQUENCE, encode_object_identifier(oid), encode(SET, value))


def _issuer_and_serial(certificate: x509.Certificate) -> bytes:
    issuer = read_certificate_layout(certificate.public_bytes(Encoding.DER)).issuer
    return encode(SEQUENCE, issuer, encode_integer(certificate.serial_number))


def _bears(certificate: x509.Certificate, identifier: bytes) -> bool:
    """Tell whether a certificate says of itself that this is its subject key identifier: so its holder finds it."""
    try:
        return certificate.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value.digest == identifier
    except x509.ExtensionNotFound:
        return False


_ECDSA: Final[dict[str, tuple[bytes, str, hashes.HashAlgorithm]]] = {
    "secp256r1": (
        _algorithm(SignatureAlgorithmOID.ECDSA_WITH_SHA256.dotted_string),
        SHA256,
        hashes.SHA256(),
    ),
    "secp384r1": (
        _algorithm(SignatureAlgorithmOID.ECDSA_WITH_SHA384.dotted_string),
        SHA384,
        hashes.SHA384(),
    ),
    "secp521r1": (
        _algorithm(SignatureAlgorithmOID.ECDSA_WITH_SHA512.dotted_string),
        SHA512,
        hashes.SHA512(),
    ),
}
_OAEP_SHA256: Final = _algorithm(
    RSAES_OAEP,
    encode(
        SEQUENCE,
        encode(CONTEXT_0, _algorithm(SHA256, NULL)),
        encode(CONTEXT_1, _algorithm(MGF1, _algorithm(SHA256, NULL))),
    ),
)

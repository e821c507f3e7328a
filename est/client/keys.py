"""Keys of a device: which kinds there are, how they sign a request, and how they stand in a file.

1. A key signs with the hash that belongs to it: SHA-256, for P-384 SHA-384, for P-521 SHA-512; Ed25519 and ML-DSA hash
   by themselves.
2. In a file it is PEM, PKCS #8, without a password: the file's mode protects it (`est.client.files`).
3. Whatever can sign may hold the key, a token for one: `Signer` is all that a request needs of it.
"""

from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from typing import Protocol

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, mldsa, padding, rsa
from cryptography.hazmat.primitives.hashes import SHA256, SHA384, SHA512, HashAlgorithm
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_pem_private_key,
)

from certs.der import NULL, SEQUENCE, encode, encode_object_identifier
from certs.errors import CertificateRefused
from certs.keys import KeyAlgorithm, key_algorithm

PrivateKey = (
    ec.EllipticCurvePrivateKey
    | ed25519.Ed25519PrivateKey
    | rsa.RSAPrivateKey
    | mldsa.MLDSA44PrivateKey
    | mldsa.MLDSA65PrivateKey
    | mldsa.MLDSA87PrivateKey
)

_RSA_EXPONENT = 65537


class KeyKind(StrEnum):
    """The kinds of keys that are made here."""

    P256 = "P-256"
    P384 = "P-384"
    P521 = "P-521"
    ED25519 = "Ed25519"
    RSA2048 = "RSA-2048"
    RSA3072 = "RSA-3072"
    RSA4096 = "RSA-4096"
    ML_DSA_44 = "ML-DSA-44"
    ML_DSA_65 = "ML-DSA-65"
    ML_DSA_87 = "ML-DSA-87"


class KeyUnusable(Exception):
    """A key that cannot be read, or of a kind that nothing here uses; the sentence says which."""


class Signer(Protocol):
    """A key that can sign, wherever it is."""

    @property
    def spki(self) -> bytes:
        """The public key, as DER of SubjectPublicKeyInfo."""

    @property
    def algorithm(self) -> bytes:
        """The signature's AlgorithmIdentifier, in DER."""

    def sign(self, data: bytes) -> bytes:
        """Return the signature of `data`, as it stands in a certification request."""


_SIGNATURES = {
    KeyAlgorithm.P256: "1.2.840.10045.4.3.2",  # RFC 5758 3.2
    KeyAlgorithm.P384: "1.2.840.10045.4.3.3",
    KeyAlgorithm.P521: "1.2.840.10045.4.3.4",
    KeyAlgorithm.RSA: "1.2.840.113549.1.1.11",  # RFC 4055 5
    KeyAlgorithm.ED25519: "1.3.101.112",  # RFC 8410 3
    KeyAlgorithm.ML_DSA_44: "2.16.840.1.101.3.4.3.17",  # RFC 9881 3
    KeyAlgorithm.ML_DSA_65: "2.16.840.1.101.3.4.3.18",
    KeyAlgorithm.ML_DSA_87: "2.16.840.1.101.3.4.3.19",
}
_HASHES: dict[str, HashAlgorithm] = {"secp256r1": SHA256(), "secp384r1": SHA384(), "secp521r1": SHA512()}


def signature_algorithm(algorithm: KeyAlgorithm) -> bytes:
    """Return the AlgorithmIdentifier by which such a key signs a request, in DER."""
    # RFC 4055 5: the parameters of RSA are NULL; those of the others are absent.
    parameters = NULL if algorithm is KeyAlgorithm.RSA else b""
    return encode(SEQUENCE, encode_object_identifier(_SIGNATURES[algorithm]), parameters)


@dataclass(frozen=True, slots=True)
class SoftwareSigner:
    """A key in memory."""

    key: PrivateKey

    @property
    def spki(self) -> bytes:
        """The public key, as DER of SubjectPublicKeyInfo."""
        return public_bytes(self.key)

    @property
    def algorithm(self) -> bytes:
        """The signature's AlgorithmIdentifier, in DER."""
        return signature_algorithm(key_algorithm(self.key.public_key()))

    def sign(self, data: bytes) -> bytes:
        """Return the signature of `data`, by rule 1."""
        match self.key:
            case ec.EllipticCurvePrivateKey():
                return self.key.sign(data, ec.ECDSA(_HASHES[self.key.curve.name]))
            case rsa.RSAPrivateKey():
                return self.key.sign(data, padding.PKCS1v15(), SHA256())
            case _:
                return self.key.sign(data)


_MAKERS: dict[KeyKind, Callable[[], PrivateKey]] = {
    KeyKind.P256: lambda: ec.generate_private_key(ec.SECP256R1()),
    KeyKind.P384: lambda: ec.generate_private_key(ec.SECP384R1()),
    KeyKind.P521: lambda: ec.generate_private_key(ec.SECP521R1()),
    KeyKind.ED25519: ed25519.Ed25519PrivateKey.generate,
    KeyKind.RSA2048: lambda: rsa.generate_private_key(_RSA_EXPONENT, 2048),
    KeyKind.RSA3072: lambda: rsa.generate_private_key(_RSA_EXPONENT, 3072),
    KeyKind.RSA4096: lambda: rsa.generate_private_key(_RSA_EXPONENT, 4096),
    KeyKind.ML_DSA_44: mldsa.MLDSA44PrivateKey.generate,
    KeyKind.ML_DSA_65: mldsa.MLDSA65PrivateKey.generate,
    KeyKind.ML_DSA_87: mldsa.MLDSA87PrivateKey.generate,
}


def make_key(kind: KeyKind = KeyKind.P256) -> PrivateKey:
    """Return a new key."""
    return _MAKERS[kind]()


def write_key(key: PrivateKey) -> bytes:
    """Return a key as PEM, by rule 2."""
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())


def read_key(pem: bytes) -> PrivateKey:
    """Read a key from PEM without a password.

    Raises:
        KeyUnusable: It cannot be read, or is of another kind.
    """
    try:
        return known_key(load_pem_private_key(pem, None))
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:
        raise KeyUnusable(f"not a private key in PEM without a password: {error}") from error


def known_key(key: object) -> PrivateKey:
    """Return a key that is of a kind used here; raise `KeyUnusable` otherwise."""
    if isinstance(key, PrivateKey):
        try:
            key_algorithm(key.public_key())
        except CertificateRefused as refusal:
            raise KeyUnusable(refusal.reason) from refusal
        return key
    raise KeyUnusable(f"devices have keys of {', '.join(KeyKind)}")


def kind_of(key: object) -> KeyKind:
    """Return the kind of which another key would be made in the place of this public key's.

    Of RSA it is one no smaller, if there is.
    """
    if isinstance(key, rsa.RSAPublicKey):
        sizes = {2048: KeyKind.RSA2048, 3072: KeyKind.RSA3072}
        return next((kind for bits, kind in sizes.items() if key.key_size <= bits), KeyKind.RSA4096)
    return KeyKind(key_algorithm(key).value)


def public_bytes(key: PrivateKey) -> bytes:
    """Return the public key of a key, as DER of SubjectPublicKeyInfo."""
    return key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)

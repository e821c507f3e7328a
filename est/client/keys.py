"""Keys of a device: which kinds there are, how they sign a request, and how they stand in a file.

1. A key signs with the hash that belongs to it: SHA-256, for P-384 SHA-384, for Ed25519 none of its own.
2. In a file it is PEM, PKCS #8, without a password: the file's mode protects it (`est.client.files`).
3. Whatever can sign may hold the key, a token for one: `Signer` is all that a request needs of it.
"""

from dataclasses import dataclass
from enum import StrEnum
from typing import Protocol

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, padding, rsa
from cryptography.hazmat.primitives.hashes import SHA256, SHA384
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_pem_private_key,
)

from certs.der import OBJECT_IDENTIFIER, SEQUENCE, encode

PrivateKey = ec.EllipticCurvePrivateKey | ed25519.Ed25519PrivateKey | rsa.RSAPrivateKey

_RSA_EXPONENT = 65537
_NULL = b"\x05\x00"


class KeyKind(StrEnum):
    """The kinds of keys that are made here."""

    P256 = "P-256"
    P384 = "P-384"
    ED25519 = "Ed25519"
    RSA2048 = "RSA-2048"
    RSA3072 = "RSA-3072"
    RSA4096 = "RSA-4096"


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
    "secp256r1": bytes.fromhex("2a8648ce3d040302"),  # RFC 5758 3.2: ecdsa-with-SHA256
    "secp384r1": bytes.fromhex("2a8648ce3d040303"),  # ecdsa-with-SHA384
    "rsa": bytes.fromhex("2a864886f70d01010b"),  # RFC 4055 5: sha256WithRSAEncryption
    "ed25519": bytes.fromhex("2b6570"),  # RFC 8410 3
}


def signature_algorithm(name: str) -> bytes:
    """Return the AlgorithmIdentifier by which a key of this curve, or of `rsa` or `ed25519`, signs."""
    # RFC 4055 5: the parameters of RSA are NULL; RFC 5758 3.2 and RFC 8410 3: absent for the others.
    parameters = _NULL if name == "rsa" else b""
    return encode(SEQUENCE, encode(OBJECT_IDENTIFIER, _SIGNATURES[name]) + parameters)


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
        match self.key:
            case ec.EllipticCurvePrivateKey():
                return signature_algorithm(self.key.curve.name)
            case rsa.RSAPrivateKey():
                return signature_algorithm("rsa")
            case _:
                return signature_algorithm("ed25519")

    def sign(self, data: bytes) -> bytes:
        """Return the signature of `data`, by rule 1."""
        match self.key:
            case ec.EllipticCurvePrivateKey():
                return self.key.sign(data, ec.ECDSA(SHA384() if self.key.curve.name == "secp384r1" else SHA256()))
            case rsa.RSAPrivateKey():
                return self.key.sign(data, padding.PKCS1v15(), SHA256())
            case _:
                return self.key.sign(data)


def make_key(kind: KeyKind = KeyKind.P256) -> PrivateKey:
    """Return a new key."""
    match kind:
        case KeyKind.P256:
            return ec.generate_private_key(ec.SECP256R1())
        case KeyKind.P384:
            return ec.generate_private_key(ec.SECP384R1())
        case KeyKind.ED25519:
            return ed25519.Ed25519PrivateKey.generate()
        case _:
            return rsa.generate_private_key(_RSA_EXPONENT, int(kind.removeprefix("RSA-")))


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
    if isinstance(key, ec.EllipticCurvePrivateKey) and key.curve.name in _SIGNATURES:
        return key
    if isinstance(key, ed25519.Ed25519PrivateKey | rsa.RSAPrivateKey):
        return key
    raise KeyUnusable(f"devices have keys of {', '.join(KeyKind)}")


def kind_of(key: PrivateKey) -> KeyKind:
    """Return the kind of which another key would be made in this one's place."""
    match key:
        case ec.EllipticCurvePrivateKey():
            return KeyKind.P384 if key.curve.name == "secp384r1" else KeyKind.P256
        case rsa.RSAPrivateKey():
            sizes = (KeyKind.RSA2048, KeyKind.RSA3072)
            return next((one for one in sizes if key.key_size <= int(one.removeprefix("RSA-"))), KeyKind.RSA4096)
        case _:
            return KeyKind.ED25519


def public_bytes(key: PrivateKey) -> bytes:
    """Return the public key of a key, as DER of SubjectPublicKeyInfo."""
    return key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)

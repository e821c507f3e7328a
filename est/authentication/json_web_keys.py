"""Public keys of an issuer as JSON Web Keys (RFC 7517, 7518 6), and signatures by them.

The rules:

1. A key fits an algorithm by its kind and curve, and says nothing else about itself by `alg` or `use`.
2. RSA has 2048 to 8192 bits and an exponent of at least 65537. Signatures of elliptic curves have their fixed length.
3. What cannot be read is left out: an issuer may have keys that are of no use here.
"""

import binascii
from base64 import urlsafe_b64decode
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, padding, rsa
from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature
from cryptography.hazmat.primitives.hashes import SHA256, SHA384, HashAlgorithm

MOST_KEYS: Final = 64

_RSA_BITS: Final = range(2048, 8193)
_LEAST_EXPONENT: Final = 65_537

WebKey = rsa.RSAPublicKey | ec.EllipticCurvePublicKey | ed25519.Ed25519PublicKey


@dataclass(frozen=True, slots=True)
class _Algorithm:
    kind: str
    curve: str | None
    verify: Callable[[Any, bytes, bytes], None]


@dataclass(frozen=True, slots=True)
class PublicWebKey:
    """A public key of an issuer."""

    kid: str | None
    kind: str
    curve: str | None
    algorithm: str | None
    public: WebKey

    def fits(self, algorithm: str) -> bool:
        """Tell whether a token may be signed so by this key (rule 1)."""
        known = ALGORITHMS[algorithm]
        return (self.kind, self.curve) == (known.kind, known.curve) and self.algorithm in (None, algorithm)

    def verifies(self, algorithm: str, signature: bytes, signed: bytes) -> bool:
        """Tell whether this key made the signature."""
        try:
            ALGORITHMS[algorithm].verify(self.public, signature, signed)
        except (InvalidSignature, ValueError):
            return False
        return True


def read_keys(document: dict[str, Any]) -> tuple[PublicWebKey, ...]:
    """Return the keys of a set that can be used here (rule 3)."""
    listed = document.get("keys")
    if not isinstance(listed, list):
        return ()
    keys = [_read_key(one) for one in listed[:MOST_KEYS] if isinstance(one, dict)]
    return tuple(key for key in keys if key is not None)


def _read_key(raw: dict[str, Any]) -> PublicWebKey | None:
    kid, algorithm, kind, curve = (raw.get(name) for name in ("kid", "alg", "kty", "crv"))
    if raw.get("use", "sig") != "sig" or any(not isinstance(one, str | None) for one in (kid, algorithm, kind, curve)):
        return None
    try:
        public = _read_public(raw)
    except (ValueError, TypeError, KeyError, binascii.Error):
        return None
    if public is None:
        return None
    return PublicWebKey(kid, str(kind), None if kind == "RSA" else curve, algorithm, public)


def _read_public(raw: dict[str, Any]) -> WebKey | None:
    match raw.get("kty"), raw.get("crv"):
        case "RSA", _:
            numbers = rsa.RSAPublicNumbers(_number(raw["e"]), _number(raw["n"]))
            if numbers.n.bit_length() not in _RSA_BITS or numbers.e < _LEAST_EXPONENT:
                return None
            return numbers.public_key()
        case "EC", "P-256":
            return ec.EllipticCurvePublicNumbers(_number(raw["x"]), _number(raw["y"]), ec.SECP256R1()).public_key()
        case "EC", "P-384":
            return ec.EllipticCurvePublicNumbers(_number(raw["x"]), _number(raw["y"]), ec.SECP384R1()).public_key()
        case "OKP", "Ed25519":
            return ed25519.Ed25519PublicKey.from_public_bytes(_bytes(raw["x"]))
        case _:
            return None


def _bytes(text: str) -> bytes:
    return urlsafe_b64decode(text + "=" * (-len(text) % 4))


def _number(text: str) -> int:
    return int.from_bytes(_bytes(text), "big")


def _verify_ecdsa(size: int, hashed: HashAlgorithm) -> Callable[[Any, bytes, bytes], None]:
    def verify(public: ec.EllipticCurvePublicKey, signature: bytes, signed: bytes) -> None:
        if len(signature) != 2 * size:  # RFC 7518 3.4: R and S, each of the curve's length
            raise InvalidSignature
        pair = encode_dss_signature(int.from_bytes(signature[:size], "big"), int.from_bytes(signature[size:], "big"))
        public.verify(pair, signed, ec.ECDSA(hashed))

    return verify


def _verify_pkcs1(public: rsa.RSAPublicKey, signature: bytes, signed: bytes) -> None:
    public.verify(signature, signed, padding.PKCS1v15(), SHA256())


def _verify_pss(public: rsa.RSAPublicKey, signature: bytes, signed: bytes) -> None:
    public.verify(signature, signed, padding.PSS(padding.MGF1(SHA256()), padding.PSS.DIGEST_LENGTH), SHA256())


def _verify_ed25519(public: ed25519.Ed25519PublicKey, signature: bytes, signed: bytes) -> None:
    public.verify(signature, signed)


ALGORITHMS: Final = {
    "ES256": _Algorithm("EC", "P-256", _verify_ecdsa(32, SHA256())),
    "ES384": _Algorithm("EC", "P-384", _verify_ecdsa(48, SHA384())),
    "RS256": _Algorithm("RSA", None, _verify_pkcs1),
    "PS256": _Algorithm("RSA", None, _verify_pss),
    "EdDSA": _Algorithm("OKP", "Ed25519", _verify_ed25519),
}
"""What an issuer may sign by: never `none`, never a shared secret."""

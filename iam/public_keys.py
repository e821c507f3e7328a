"""Keys that identities prove themselves with: which are accepted, in which notations, and when a signature holds.

The rules:

1. A key is Ed25519 (RFC 8032) or ECDSA on P-256 (FIPS 186-5). Nothing else, and each type of identity has its one.
2. A public key may be written as its raw bytes, as SubjectPublicKeyInfo in DER, or as an OpenSSH blob, each in base64
   (standard or URL-safe, padded or not); as an OpenSSH line or PEM, as they are or in base64. However it is written,
   one key becomes one SubjectPublicKeyInfo, so that it has one fingerprint.
3. A P-256 point is on the curve. An Ed25519 point is canonical, on the curve and in the subgroup of prime order: for a
   point of small order one signature holds for many messages.
4. A signature has one spelling: 64 bytes for Ed25519; for ES256 64 bytes r || s (RFC 7518 3.4) or else strict DER. One
   of 64 bytes is never read as DER.
5. A private key that somebody sends is refused with a sentence that tells him to stop using it.
"""

import binascii
from dataclasses import dataclass
from typing import Final

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ec import (
    ECDSA,
    SECP256R1,
    EllipticCurvePrivateKey,
    EllipticCurvePublicKey,
)
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature, encode_dss_signature
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    PublicFormat,
    load_der_public_key,
    load_pem_private_key,
    load_pem_public_key,
    load_ssh_private_key,
)
from nacl.bindings import crypto_core_ed25519_is_valid_point
from nacl.exceptions import BadSignatureError
from nacl.signing import VerifyKey

from certs.errors import quoted
from iam.errors import Kind, Refused, malformed
from iam.model import KEY_ALGORITHM, IdentityType, KeyAlgorithm

LONGEST_PUBLIC_KEY: Final = 4096
"""In characters, as sent."""

_ACCEPTED: Final = "Accepted are Ed25519 and P-256 keys: raw, SubjectPublicKeyInfo, OpenSSH or PEM, in base64."
_LEAKED: Final = "This is a private key. Nobody else may see it: make a new one, and send its public half."

_KEY_NAME: Final = {KeyAlgorithm.ED25519: "an Ed25519 key", KeyAlgorithm.P256: "a P-256 key"}
_ES256: Final = ECDSA(SHA256())
_ED25519_BYTES: Final = 32
_COORDINATE_BYTES: Final = 32
_COMPRESSED_BYTES: Final = 1 + _COORDINATE_BYTES
_UNCOMPRESSED_BYTES: Final = 1 + 2 * _COORDINATE_BYTES
_SIGNATURE_BYTES: Final = 64
_PEM_MARK: Final = b"-----BEGIN "
_SSH_ED25519: Final = b"ssh-ed25519"
_SSH_P256: Final = b"ecdsa-sha2-nistp256"


@dataclass(frozen=True, slots=True)
class PublicKey:
    """A checked public key.

    Attributes:
        spki: SubjectPublicKeyInfo in DER, in the one encoding that every notation of this key leads to.
    """

    algorithm: KeyAlgorithm
    spki: bytes


@dataclass(frozen=True, slots=True)
class Valid:
    """The signature holds."""

    def __bool__(self) -> bool:
        return True


@dataclass(frozen=True, slots=True)
class Invalid:
    """The signature does not hold, and why: a sentence for the log."""

    reason: str

    def __bool__(self) -> bool:
        return False


VALID: Final = Valid()


def parse_public_key(text: str) -> PublicKey:
    """Return the key that `text` writes, by rules 1 to 3.

    Raises:
        Refused: (malformed) It is no key, a key of another algorithm, or not a point of its curve.
    """
    if len(text) > LONGEST_PUBLIC_KEY:
        raise malformed(f"A public key has at most {LONGEST_PUBLIC_KEY} characters.")
    try:
        written = text.strip().encode("ascii")
    except UnicodeEncodeError as error:
        raise malformed(f"This is not a public key: it is not ASCII. {_ACCEPTED}") from error
    if b" " in written:  # base64 has no space; an OpenSSH line and PEM always do
        return _from_text(written)
    return _from_bytes(decode_base64(text, "public key"))


def check_key_type(identity_type: IdentityType, algorithm: KeyAlgorithm) -> None:
    """Raise `Refused` (invalid) unless an identity of this type may have a key of this algorithm."""
    wanted = KEY_ALGORITHM[identity_type]
    if algorithm is not wanted:
        raise Refused(
            Kind.INVALID,
            f"An identity of type {identity_type} has {_KEY_NAME[wanted]} ({wanted}), and this is "
            f"{_KEY_NAME[algorithm]} ({algorithm}).",
        )


def verify(public_key: PublicKey, signature: bytes, message: bytes) -> Valid | Invalid:
    """Say whether `signature` is this key's on `message`, by rule 4."""
    key = load_der_public_key(public_key.spki)
    if isinstance(key, EllipticCurvePublicKey):
        raw = signature if len(signature) == _SIGNATURE_BYTES else _raw_from_der(signature)
        if raw is None:
            return Invalid(f"an ES256 signature is 64 bytes or strict DER; {len(signature)} bytes came")
        return verify_es256(key, raw, message)
    if len(signature) != _SIGNATURE_BYTES:
        return Invalid(f"an Ed25519 signature has 64 bytes, {len(signature)} came")
    try:
        # libsodium refuses s >= L, and R and A of small order, which RFC 8032 5.1.7 leaves open.
        VerifyKey(public_key.spki[-_ED25519_BYTES:]).verify(message, signature)
    except BadSignatureError:
        return Invalid("the Ed25519 signature does not verify")
    return VALID


def verify_es256(key: EllipticCurvePublicKey, signature: bytes, message: bytes) -> Valid | Invalid:
    """Say whether r || s is this key's ES256 signature on `message` (RFC 7518 3.4)."""
    if len(signature) != _SIGNATURE_BYTES:
        return Invalid(f"an ES256 signature has 64 bytes, {len(signature)} came")
    r, s = (int.from_bytes(half) for half in (signature[:_COORDINATE_BYTES], signature[_COORDINATE_BYTES:]))
    try:
        key.verify(encode_dss_signature(r, s), message, _ES256)
    except InvalidSignature:
        return Invalid("the ES256 signature does not verify")
    return VALID


def sign_es256(key: EllipticCurvePrivateKey, message: bytes) -> bytes:
    """Return the ES256 signature on `message` as r || s, 64 bytes (RFC 7518 3.4)."""
    r, s = decode_dss_signature(key.sign(message, _ES256))
    return r.to_bytes(_COORDINATE_BYTES) + s.to_bytes(_COORDINATE_BYTES)


class SigningKey:
    """A private key with which an identity proves itself; its repr shows nothing of it.

    Attributes:
        spki: SubjectPublicKeyInfo of its public half, in DER.
    """

    __slots__ = ("_private", "algorithm", "spki")

    def __init__(self, private: Ed25519PrivateKey | EllipticCurvePrivateKey) -> None:
        public = _checked(private.public_key())
        self._private = private
        self.algorithm = public.algorithm
        self.spki = public.spki

    def sign(self, message: bytes) -> bytes:
        """Return the signature on `message`, 64 bytes with either algorithm."""
        if isinstance(self._private, Ed25519PrivateKey):
            return self._private.sign(message)
        return sign_es256(self._private, message)


def load_private_key(text: bytes, passphrase: bytes | None = None) -> SigningKey:
    """Return the key in a file: PEM (PKCS#8, SEC 1) or OpenSSH's own format.

    Raises:
        Refused: (malformed) It is no such file, its key is of another algorithm, or the passphrase is missing, wrong,
            or not needed. (unsupported) An OpenSSH file with a passphrase, where the package bcrypt is not installed.
    """
    load = load_ssh_private_key if b"OPENSSH PRIVATE KEY" in text else load_pem_private_key
    try:
        private = load(text, passphrase)
    except UnsupportedAlgorithm as error:
        if "bcrypt" in str(error):
            raise Refused(
                Kind.UNSUPPORTED,
                "To open an OpenSSH key with a passphrase, install the package bcrypt, or keep the key as PKCS#8: "
                "ssh-keygen -p -m PKCS8 -f FILE (P-256 only).",
            ) from error
        raise malformed(f"The key cannot be used: {error}. {_ACCEPTED}") from error
    except TypeError as error:
        raise malformed(
            "The key has a passphrase, and none was given." if passphrase is None else "The key has no passphrase."
        ) from error
    except ValueError as error:
        wrong = " or the passphrase is wrong" if passphrase is not None else ""
        raise malformed(f"This is not a private key in PEM or OpenSSH format{wrong}.") from error
    if not isinstance(private, Ed25519PrivateKey | EllipticCurvePrivateKey):
        raise malformed(f"This is a private key of another algorithm. {_ACCEPTED}")
    return SigningKey(private)


def decode_base64(text: str, what: str) -> bytes:
    """Return what `text` says in base64, standard or URL-safe, padded or not (RFC 4648 4 and 5).

    Raises:
        Refused: (malformed) It is not base64; the sentence calls it `what`.
    """
    digits = text.strip().replace("-", "+").replace("_", "/").rstrip("=")
    try:
        return binascii.a2b_base64(digits + "=" * (-len(digits) % 4), strict_mode=True)
    except ValueError as error:
        raise malformed(f"The {what} is not base64.") from error


def _from_bytes(encoded: bytes) -> PublicKey:
    """Read what stood in base64; raw keys have lengths that no other notation has."""
    if len(encoded) == _ED25519_BYTES:
        return _ed25519(encoded)
    if len(encoded) in (_COMPRESSED_BYTES, _UNCOMPRESSED_BYTES):
        return _p256(encoded)
    if encoded.startswith(b"\x30"):
        return _from_der(encoded)
    if encoded.startswith(b"\0\0\0"):
        return _from_ssh_blob(encoded)
    return _from_text(encoded)


def _from_text(written: bytes) -> PublicKey:
    if _PEM_MARK in written:
        return _from_pem(written)
    kind, _, rest = written.strip().partition(b" ")
    blob, _, _comment = rest.lstrip().partition(b" ")
    if not blob or not kind.startswith((b"ssh-", b"ecdsa-", b"sk-")):
        raise malformed(f"This is not a public key. {_ACCEPTED}")
    decoded = decode_base64(blob.decode("ascii", "replace"), "OpenSSH public key")
    if _ssh_strings(decoded)[:1] != [kind]:
        raise malformed("The OpenSSH public key is not of the type that its line names.")
    return _from_ssh_blob(decoded)


def _from_pem(pem: bytes) -> PublicKey:
    if b"PRIVATE KEY" in pem:
        raise malformed(_LEAKED)
    try:
        return _checked(load_pem_public_key(pem))
    except (ValueError, UnsupportedAlgorithm) as error:
        raise malformed(f"The PEM holds no public key that can be read. {_ACCEPTED}") from error


def _from_der(der: bytes) -> PublicKey:
    try:
        return _checked(load_der_public_key(der))
    except (ValueError, UnsupportedAlgorithm) as error:
        raise malformed(f"The DER holds no public key that can be read. {_ACCEPTED}") from error


def _from_ssh_blob(blob: bytes) -> PublicKey:
    """Read the public key format of OpenSSH (RFC 4253 6.6; RFC 5656 3.1; RFC 8709 4)."""
    match _ssh_strings(blob):
        case [kind, point] if kind == _SSH_ED25519:
            return _ed25519(point)
        case [kind, b"nistp256", point] if kind == _SSH_P256:
            return _p256(point)
        case [kind, *_] if kind not in (_SSH_ED25519, _SSH_P256):
            raise malformed(f"OpenSSH keys of type {quoted(kind.decode('latin-1'))} are not accepted. {_ACCEPTED}")
        case _:
            raise malformed("The OpenSSH public key is cut short or has something after its end.")


def _ssh_strings(blob: bytes) -> list[bytes]:
    """Return the strings of a blob (RFC 4251 5), or none if it does not end where the last one does."""
    strings = []
    while blob:
        end = 4 + int.from_bytes(blob[:4])
        if len(blob) < end:
            return []
        strings.append(blob[4:end])
        blob = blob[end:]
    return strings


def _ed25519(point: bytes) -> PublicKey:
    if len(point) != _ED25519_BYTES or not crypto_core_ed25519_is_valid_point(point):
        raise malformed("This is not a valid Ed25519 public key: the point is not on the curve, or of small order.")
    spki = Ed25519PublicKey.from_public_bytes(point).public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    return PublicKey(KeyAlgorithm.ED25519, spki)


def _p256(point: bytes) -> PublicKey:
    try:
        key = EllipticCurvePublicKey.from_encoded_point(SECP256R1(), point)
    except ValueError as error:
        raise malformed("This is not a valid P-256 public key: the point is not on the curve.") from error
    return PublicKey(KeyAlgorithm.P256, key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo))


def _checked(key: object) -> PublicKey:
    match key:
        case Ed25519PublicKey():
            return _ed25519(key.public_bytes(Encoding.Raw, PublicFormat.Raw))
        case EllipticCurvePublicKey(curve=SECP256R1()):
            return _p256(key.public_bytes(Encoding.X962, PublicFormat.UncompressedPoint))
        case EllipticCurvePublicKey():
            raise malformed(f"Keys on {key.curve.name} are not accepted. {_ACCEPTED}")
        case _:
            raise malformed(f"Keys of this algorithm are not accepted. {_ACCEPTED}")


def _raw_from_der(signature: bytes) -> bytes | None:
    """Return r || s of a DER signature, or None if it is not the one DER encoding of two such numbers."""
    try:
        r, s = decode_dss_signature(signature)
        return r.to_bytes(_COORDINATE_BYTES) + s.to_bytes(_COORDINATE_BYTES)
    except (ValueError, OverflowError):
        return None

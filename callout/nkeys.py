"""Keys as NATS writes them: Ed25519 accounts, users and servers, and curve25519 keys for sealing.

1. A public key is a prefix byte, 32 bytes and a CRC-16 (XMODEM, little endian), in base32 without padding.
2. A seed is two bytes, which hold the prefix of a seed and that of its public key, 32 bytes and the CRC.
3. A key is taken only with the prefix that its use asks for.
4. Sealing is a NaCl box (X25519, XSalsa20, Poly1305) behind `xkv1` and a nonce of 24 bytes.
"""

import base64
import binascii
from dataclasses import dataclass, field
from enum import IntEnum
from functools import lru_cache

from nacl import bindings
from nacl.exceptions import CryptoError

from iam.errors import malformed
from iam.identifiers import Random

_SEED = 18 << 3
_KEY_BYTES = 32
_SEAL_VERSION = b"xkv1"
_NONCE_BYTES = bindings.crypto_box_NONCEBYTES
_SIGNATURE_BYTES = bindings.crypto_sign_BYTES


class Prefix(IntEnum):
    """What a key is of: the first letter of its base32 form."""

    ACCOUNT = 0
    SERVER = 13 << 3
    USER = 20 << 3
    CURVE = 23 << 3


def encode_public_key(prefix: Prefix, key: bytes) -> str:
    """Return a public key as text (rule 1)."""
    return _encode(bytes([prefix]) + key)


def decode_public_key(prefix: Prefix, text: str) -> bytes:
    """Return the 32 bytes of a public key; raise `Refused` (malformed) if it is not one, or of another use."""
    raw = _decode(text)
    if len(raw) != 1 + _KEY_BYTES or raw[0] != prefix:
        raise malformed(f"Not a public key of a {prefix.name.lower()}.")
    return raw[1:]


def encode_seed(prefix: Prefix, seed: bytes) -> str:
    """Return a seed as text (rule 2)."""
    return _encode(bytes([_SEED | prefix >> 5, (prefix & 31) << 3]) + seed)


def decode_seed(prefix: Prefix, text: str) -> bytes:
    """Return the 32 bytes of a seed; raise `Refused` (malformed) if it is not one, or of another use."""
    raw = _decode(text)
    if len(raw) != 2 + _KEY_BYTES or raw[:2] != bytes([_SEED | prefix >> 5, (prefix & 31) << 3]):
        raise malformed(f"Not a seed of a {prefix.name.lower()}.")
    return raw[2:]


@dataclass(frozen=True, slots=True)
class SigningKey:
    """An account's Ed25519 key: the issuer of user JWTs."""

    public: str
    _secret: bytes = field(repr=False)

    @classmethod
    def from_seed(cls, seed: str) -> "SigningKey":
        """Read an account's seed (`SA...`); raise `Refused` (malformed) for anything else."""
        public, secret = bindings.crypto_sign_seed_keypair(decode_seed(Prefix.ACCOUNT, seed))
        return cls(encode_public_key(Prefix.ACCOUNT, public), secret)

    def sign(self, message: bytes) -> bytes:
        """Return the signature, 64 bytes."""
        return bindings.crypto_sign(message, self._secret)[:_SIGNATURE_BYTES]


@dataclass(frozen=True, slots=True)
class SealingKey:
    """A curve25519 key, with which the broker's requests are sealed to us, and our answers to the broker."""

    public: str
    _secret: bytes = field(repr=False)

    @classmethod
    def from_seed(cls, seed: str) -> "SealingKey":
        """Read a curve key's seed (`SX...`); raise `Refused` (malformed) for anything else."""
        secret = decode_seed(Prefix.CURVE, seed)
        return cls(encode_public_key(Prefix.CURVE, bindings.crypto_scalarmult_base(secret)), secret)

    def open(self, sealed: bytes, peer: str) -> bytes:
        """Return what `peer` sealed for us; raise `Refused` (malformed) if he did not."""
        nonce, box = sealed[len(_SEAL_VERSION) :][:_NONCE_BYTES], sealed[len(_SEAL_VERSION) + _NONCE_BYTES :]
        if not sealed.startswith(_SEAL_VERSION) or len(nonce) != _NONCE_BYTES:
            raise malformed("Not sealed.")
        try:
            return bindings.crypto_box_open_afternm(box, nonce, _shared_key(self._secret, peer))
        except CryptoError as error:
            raise malformed("The seal does not hold.") from error

    def seal(self, message: bytes, peer: str, random: Random) -> bytes:
        """Return `message` sealed for `peer`."""
        nonce = random(_NONCE_BYTES)
        return _SEAL_VERSION + nonce + bindings.crypto_box_afternm(message, nonce, _shared_key(self._secret, peer))


def verify(public_key: bytes, message: bytes, signature: bytes) -> bool:
    """Tell whether `signature` is that of `message` by the owner of `public_key`."""
    if len(signature) != _SIGNATURE_BYTES:
        return False
    try:
        bindings.crypto_sign_open(signature + message, public_key)
    except CryptoError:
        return False
    return True


@lru_cache(maxsize=64)
def _shared_key(secret: bytes, peer: str) -> bytes:
    """Return the key shared with `peer`: one X25519 for each broker, not for each request."""
    try:
        return bindings.crypto_box_beforenm(decode_public_key(Prefix.CURVE, peer), secret)
    except CryptoError as error:
        raise malformed("Not a usable curve key.") from error


def _encode(raw: bytes) -> str:
    checked = raw + binascii.crc_hqx(raw, 0).to_bytes(2, "little")
    return base64.b32encode(checked).rstrip(b"=").decode()


@lru_cache(maxsize=64)
def _decode(text: str) -> bytes:
    try:
        raw = base64.b32decode(text + "=" * (-len(text) % 8))
    except (ValueError, binascii.Error) as error:
        raise malformed("Not base32.") from error
    content, crc = raw[:-2], raw[-2:]
    if binascii.crc_hqx(content, 0).to_bytes(2, "little") != crc:
        raise malformed("The checksum of a key is wrong.")
    return content

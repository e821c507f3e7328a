"""Secrets at rest: what the node's master key seals, and the keys derived from it.

The rules:

1. The master key itself encrypts nothing: each context has a key of its own, derived by HKDF (RFC 5869). So the bound
   of 2 ** 32 random nonces for one AES-GCM key (NIST SP 800-38D 8.3) counts for each context alone.
2. A sealed value opens only in the context that it was sealed in: a row's secret, moved to another row, stays shut.
3. A sealed value says which layout it has and which master key sealed it, so that either can be changed later; both are
   authenticated with the rest.
4. Why a value does not open is for the log; the caller learns that nothing was done. No text here holds a secret.
"""

from typing import Final

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from iam.errors import Kind, Refused
from iam.identifiers import Random

MASTER_KEY_BYTES: Final = 32

_VERSION: Final = b"\x01"
_KEY_ID_BYTES: Final = 8
_NONCE_BYTES: Final = 12
_TAG_BYTES: Final = 16
_HEAD_BYTES: Final = len(_VERSION) + _KEY_ID_BYTES


class MasterKey:
    """The secret of a deployment: 32 unpredictable bytes, the same on every node, and never shown.

    Attributes:
        id: 8 bytes that name the key and say nothing about it.
    """

    __slots__ = ("_secret", "id")

    def __init__(self, secret: bytes) -> None:
        if len(secret) != MASTER_KEY_BYTES:
            raise ValueError(f"a master key has {MASTER_KEY_BYTES} bytes, this has {len(secret)}")
        self._secret = bytes(secret)
        self.id = derive(self, "master-key-id", _KEY_ID_BYTES)

    def __repr__(self) -> str:
        return f"MasterKey({self.id.hex()})"


def derive(key: MasterKey, purpose: str, length: int = 32) -> bytes:
    """Return the key for one purpose: always the same for the same two, and of no use for finding another.

    Args:
        purpose: A constant of the code that asks, such as `challenge`.
        length: In bytes.
    """
    return HKDF(SHA256(), length, salt=None, info=f"doorward/{purpose}".encode()).derive(key._secret)  # noqa: SLF001 - the one reader of the secret


def seal(key: MasterKey, plaintext: bytes, *, context: str, random: Random) -> bytes:
    """Return `plaintext` sealed by AES-256-GCM: version, key id, nonce, ciphertext and tag.

    Args:
        context: What this is and whose: `token-key:<kid>`. The same is needed to open it.
    """
    head = _VERSION + key.id
    nonce = random(_NONCE_BYTES)
    return head + nonce + _cipher(key, context).encrypt(nonce, plaintext, head + context.encode())


def open_sealed(key: MasterKey, sealed: bytes, *, context: str) -> bytes:
    """Return what was sealed in this context.

    Raises:
        Refused: (unavailable) Another master key or context sealed it, its layout is unknown, or it was changed.
    """
    head, nonce, ciphertext = (
        sealed[:_HEAD_BYTES],
        sealed[_HEAD_BYTES:][:_NONCE_BYTES],
        sealed[_HEAD_BYTES:][_NONCE_BYTES:],
    )
    if len(ciphertext) < _TAG_BYTES:
        raise _stays_shut(context, f"it has only {len(sealed)} bytes")
    if not head.startswith(_VERSION):
        raise _stays_shut(context, f"layout {head[0]} is unknown")
    if head != _VERSION + key.id:
        raise _stays_shut(context, f"master key {head[len(_VERSION) :].hex()} sealed it, this is {key.id.hex()}")
    try:
        return _cipher(key, context).decrypt(nonce, ciphertext, head + context.encode())
    except InvalidTag as error:
        raise _stays_shut(context, "it was changed, or sealed in another context") from error


def _cipher(key: MasterKey, context: str) -> AESGCM:
    return AESGCM(derive(key, f"sealed/{context}"))


def _stays_shut(context: str, why: str) -> Refused:
    return Refused(
        Kind.UNAVAILABLE,
        "A secret that this needs cannot be opened now.",
        reason=f"the sealed value of {context} cannot be opened: {why}",
    )

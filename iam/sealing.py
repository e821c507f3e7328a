"""Secrets at rest: what the node's master key seals, and the keys derived from it.

The rules:

1. The master key itself encrypts nothing: each context has a key of its own, derived by HKDF (RFC 5869). So the bound
   of 2 ** 32 random nonces for one AES-GCM key (NIST SP 800-38D 8.3) counts for each context alone.
2. A sealed value opens only in the context that it was sealed in: a row's secret, moved to another row, stays shut.
3. A sealed value says which layout it has and which master key sealed it, so that either can be changed later; both are
   authenticated with the rest.
4. Why a value does not open is for the log; the caller learns that nothing was done. No text here holds a secret.
5. While the master key changes, more than one secret is known. The first one seals; each opens what it sealed. A value
   that was sealed by an unknown one makes the key look at its source before it is refused: another node may be ahead.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
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


Source = Callable[[bool], Sequence[bytes] | None]
"""Gives the secrets anew, the first one first, if they are not what it gave last. It may spare itself the look, unless
it is asked in haste (True)."""


@dataclass(frozen=True, slots=True)
class MasterSecret:
    """One secret of a master key, and the 8 bytes that name it."""

    value: bytes = field(repr=False)
    id: bytes

    def derive(self, purpose: str, length: int) -> bytes:
        """Return the key for one purpose."""
        return HKDF(SHA256(), length, salt=None, info=f"doorward/{purpose}".encode()).derive(self.value)


class MasterKey:
    """The secret of a deployment: 32 unpredictable bytes, the same on every node, and never shown.

    Args:
        others: Earlier secrets, and one that is to come, which open and do not seal.
        source: Where the secrets come from, if they may change while this process runs.
    """

    __slots__ = ("_secrets", "_source")

    def __init__(self, secret: bytes, *others: bytes, source: Source | None = None) -> None:
        self._secrets = tuple(map(_read_secret, (secret, *others)))
        self._source = source

    @property
    def id(self) -> bytes:
        """8 bytes that name the secret that seals now and say nothing about it."""
        return self.sealing.id

    @property
    def sealing(self) -> MasterSecret:
        """The secret that seals now."""
        self._look(in_haste=False)
        return self._secrets[0]

    @property
    def known(self) -> tuple[MasterSecret, ...]:
        """All secrets that are known now, the one that seals first."""
        self._look(in_haste=False)
        return self._secrets

    def opening(self, identifier: bytes) -> MasterSecret | None:
        """Return the secret of this id, if it is known here or at the source."""
        found = self._find(identifier)
        if found is None:
            self._look(in_haste=True)
            found = self._find(identifier)
        return found

    def _find(self, identifier: bytes) -> MasterSecret | None:
        return next((one for one in self._secrets if one.id == identifier), None)

    def _look(self, *, in_haste: bool) -> None:
        changed = self._source(in_haste) if self._source is not None else None
        if changed:
            self._secrets = tuple(map(_read_secret, changed))

    def __repr__(self) -> str:
        return f"MasterKey({self.id.hex()})"


def secret_id(secret: bytes) -> bytes:
    """Return the 8 bytes that name a secret; raise `ValueError` if it is none."""
    return _read_secret(secret).id


def derive_all(key: MasterKey, purpose: str, length: int = 32) -> tuple[bytes, ...]:
    """Return the keys for one purpose, one for each secret that is known: make with the first, accept by any.

    Each is the same as long as its secret is known, and of no use for finding another.

    Args:
        purpose: A constant of the code that asks, such as `challenge`.
        length: In bytes.
    """
    return tuple(one.derive(purpose, length) for one in key.known)


def seal(key: MasterKey, plaintext: bytes, *, context: str, random: Random) -> bytes:
    """Return `plaintext` sealed by AES-256-GCM: version, key id, nonce, ciphertext and tag.

    Args:
        context: What this is and whose: `token-key:<kid>`. The same is needed to open it.
    """
    secret = key.sealing
    head = sealed_head(secret.id)
    nonce = random(_NONCE_BYTES)
    return head + nonce + _cipher(secret, context).encrypt(nonce, plaintext, head + context.encode())


def sealed_head(identifier: bytes) -> bytes:
    """Return how everything begins that the secret of this id seals."""
    return _VERSION + identifier


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
    secret = key.opening(head[len(_VERSION) :])
    if secret is None:
        raise _stays_shut(context, f"master key {head[len(_VERSION) :].hex()} sealed it, this is {key.id.hex()}")
    try:
        return _cipher(secret, context).decrypt(nonce, ciphertext, head + context.encode())
    except InvalidTag as error:
        raise _stays_shut(context, "it was changed, or sealed in another context") from error


def _read_secret(value: bytes) -> MasterSecret:
    if len(value) != MASTER_KEY_BYTES:
        raise ValueError(f"a master key has {MASTER_KEY_BYTES} bytes, this has {len(value)}")
    unnamed = MasterSecret(bytes(value), b"")
    return MasterSecret(unnamed.value, unnamed.derive("master-key-id", _KEY_ID_BYTES))


def _cipher(secret: MasterSecret, context: str) -> AESGCM:
    return AESGCM(secret.derive(f"sealed/{context}", 32))


def _stays_shut(context: str, why: str) -> Refused:
    return Refused(
        Kind.UNAVAILABLE,
        "A secret that this needs cannot be opened now.",
        reason=f"the sealed value of {context} cannot be opened: {why}",
    )

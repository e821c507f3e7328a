"""The keys of the authorities: where they lie.

The rules:

1. A key at rest is sealed under the node's master key, bound to its id: `authority:<id>`, in the word of the time when
   only authorities had keys. What it opens to is the private half of the public key that is stored beside it.
2. The root's key lies in one file, `root.sealed`, that an operator can take away: all works without it except signing a
   new authority and the root's own revocation list. It is opened for each use and kept in no memory. A key that follows
   it in a rollover lies beside it, in a file that names the key. How such files are written, `ca.root_file` says.
3. A key in a hardware token is reached through it; how keys sign, `ca.signers` says.
"""

from collections.abc import Mapping
from concurrent.futures import Future
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from hashlib import sha256
from pathlib import Path
from typing import Any, Protocol
from uuid import UUID

from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_der_private_key,
    load_der_public_key,
)

from ca.root_file import read_root_file, replace_root_file, write_root_file
from ca.signers import MessageSigner, SoftwareSigner
from ca.signing import PrivateKey
from certs.keys import (
    AUTHORITY_KEYS,
    KeyAlgorithm,
    PublicKey,
    check_key_strength,
    key_algorithm,
    key_bits,
)
from iam.errors import Kind, Refused
from iam.identifiers import Random
from iam.sealing import MasterKey, open_sealed, seal, sealed_head

ROOT_FILE = "root.sealed"
_LATER_ROOT_FILES = "root-*.sealed"


class Token(Protocol):
    """A hardware token that makes keys and keeps them; it does one thing at a time, and refuses whom it lets wait.

    What it gives a future for is refused (unavailable) if the token cannot be reached, or not in time.
    """

    def make(self, identifier: UUID, algorithm: KeyAlgorithm, bits: int) -> "Future[PublicKey]":
        """Begin to make a key that never leaves the token; raise `Refused` (invalid) for one that it does not make.

        A key that nobody waits for when it is there, because he was refused or has cancelled, is destroyed.
        """

    def signer(self, identifier: UUID, public_key: PublicKey) -> MessageSigner:
        """Return the signer of a key that was made; the token is reached when it signs."""

    def destroy(self, identifier: UUID) -> "Future[None]":
        """Begin to destroy a key; nothing happens if it is not there."""

    def check(self) -> str:
        """Reach the token and return what it says of itself; raise `Refused` (unavailable)."""


class Backend(StrEnum):
    """Where the private half of a key lies."""

    SEALED = "sealed"
    """In the store, under the master key."""
    FILE = "file"
    """In the root's file, which may be away."""
    PKCS11 = "pkcs11"
    """In a hardware token, which never gives it out."""


@dataclass(frozen=True, slots=True)
class StoredKey:
    """A key as the store has it.

    Attributes:
        bits: The size of an RSA modulus or of a curve's field; of ML-DSA the number of its parameter set.
        sealed: The private half under the master key, where it lies in the store.
        signed_raw: When it was first to sign what a caller gave.
        leaves_since: When its destruction in a token began.
        token: In which token it lies, where that is not the first one.
    """

    id: UUID
    tenant: UUID
    name: str
    algorithm: KeyAlgorithm
    bits: int
    backend: Backend
    sealed: bytes | None = field(repr=False)
    spki: bytes = field(repr=False)
    spki_sha256: bytes
    created: datetime
    aliases: tuple[str, ...] = ()
    tags: tuple[str, ...] = ()
    metadata: dict[str, Any] = field(default_factory=dict, hash=False)
    signed_raw: datetime | None = None
    leaves_since: datetime | None = None
    token: str | None = None

    @property
    def engine(self) -> str:
        """What the place is called where it lies: its backend, or the name of its token."""
        return self.token or self.backend.value

    @property
    def public_key(self) -> PublicKey:
        """The public half."""
        return check_key_strength(load_der_public_key(self.spki), AUTHORITY_KEYS)


@dataclass(frozen=True, slots=True)
class RootKey:
    """The root's key, as its file has it, and the authority that it is bound to: its key has the same id."""

    authority: UUID
    signer: MessageSigner


class Keystore:
    """Seals and opens keys.

    Args:
        folder: Where the root's file is, or is missing.
        tokens: The hardware tokens that are configured, by the names of their engines.
    """

    def __init__(
        self, folder: Path, master_key: MasterKey, random: Random, tokens: Mapping[str, Token] | None = None
    ) -> None:
        self._tokens = dict(tokens or {})
        self._folder = folder
        self._master_key = master_key
        self._random = random

    @property
    def engines(self) -> tuple[str, ...]:
        """Where keys can be made, the usual place first."""
        return (Backend.SEALED.value, *self._tokens)

    def token(self, engine: str) -> Token:
        """Return a hardware token by the name of its engine; raise `Refused` (unavailable) if it is not configured."""
        found = self._tokens.get(engine)
        if found is None:
            raise _unavailable(f"the PKCS#11 token {engine} is not configured here")
        return found

    @property
    def root_file(self) -> Path:
        """Where the root's key is kept unless it was taken away."""
        return self._folder / ROOT_FILE

    def signer(self, one: StoredKey) -> MessageSigner:
        """Return the signer of a stored key.

        Raises:
            Refused: (unavailable) Its file is away, another master key sealed it, or it is not the key that it says.
        """
        match one.backend:
            case Backend.SEALED:
                signer = self.open(one.id, one.sealed or b"")
            case Backend.FILE:
                found = self.file_key(one.id)
                if found is None:
                    raise _unavailable(f"the file of the key {one.id} is not here")
                signer = found
            case Backend.PKCS11:
                signer = self.token(one.engine).signer(one.id, one.public_key)
        if _spki(signer.public_key) != one.spki:
            raise _unavailable(f"the key {one.id} is not the private half of its public key")
        return signer

    def seal(self, authority: UUID, private_key: PrivateKey) -> bytes:
        """Return a private key as it may be stored, for the id that it will have."""
        plain = private_key.private_bytes(Encoding.DER, PrivateFormat.PKCS8, NoEncryption())
        return seal(self._master_key, plain, context=sealing_context(authority), random=self._random)

    def open(self, authority: UUID, sealed: bytes) -> MessageSigner:
        """Return the signer of a stored key.

        Raises:
            Refused: (unavailable) It was sealed under another master key, or is not what it claims to be.
        """
        plain = open_sealed(self._master_key, sealed, context=sealing_context(authority))
        # That an RSA key is one was checked when it was made or came in, which takes a second for a large one; what is
        # opened here is what was sealed then, to the last bit.
        key = load_der_private_key(plain, password=None, unsafe_skip_rsa_key_validation=True)
        if not isinstance(key, PrivateKey):
            raise _unavailable(f"the key of authority {authority} is of a kind that does not sign here")
        return SoftwareSigner(key)

    def root(self) -> RootKey | None:
        """Return the first root's key, or None if its file is not here.

        Raises:
            Refused: (unavailable) The file is here and cannot be used.
        """
        record = read_root_file(self.root_file)
        return None if record is None else RootKey(record[0], self.open(*record))

    def file_key(self, authority: UUID) -> MessageSigner | None:
        """Return the key of a root, the first or a later one, or None if its file is not here; errors as for `root`."""
        for path in (self.root_file, self._later_root_file(authority)):
            record = read_root_file(path)
            if record is not None and record[0] == authority:
                return self.open(*record)
        return None

    def keep_root(self, authority: UUID, private_key: PrivateKey) -> None:
        """Write the first root's file and bring it to the disk.

        Raises:
            Refused: (unavailable) There is one already, or it cannot be written.
        """
        write_root_file(self.root_file, authority, self.seal(authority, private_key))

    def keep_later_root(self, authority: UUID, private_key: PrivateKey) -> None:
        """Write the file of a root's key that follows another in a rollover; errors as for `keep_root`."""
        write_root_file(self._later_root_file(authority), authority, self.seal(authority, private_key))

    def reseal_roots(self) -> int:
        """Seal the roots' keys whose files are here anew, where another secret sealed them; return how many that were.

        Raises:
            Refused: (unavailable) A file cannot be opened or written.
        """
        resealed = 0
        for path in (self.root_file, *sorted(self._folder.glob(_LATER_ROOT_FILES))):
            record = read_root_file(path)
            if record is not None and not record[1].startswith(sealed_head(self._master_key.id)):
                authority, context = record[0], sealing_context(record[0])
                plain = open_sealed(self._master_key, record[1], context=context)
                anew = seal(self._master_key, plain, context=context, random=self._random)
                replace_root_file(path, authority, anew)
                resealed += 1
        return resealed

    def _later_root_file(self, authority: UUID) -> Path:
        return self._folder / _LATER_ROOT_FILES.replace("*", str(authority))


def describe(
    identifier: UUID,
    tenant: UUID,
    name: str,
    public_key: PublicKey,
    *,
    backend: Backend,
    sealed: bytes | None,
    now: datetime,
    token: str | None = None,
) -> StoredKey:
    """Return a new key as it is to be stored."""
    spki = _spki(public_key)
    return StoredKey(
        id=identifier,
        tenant=tenant,
        name=name,
        algorithm=key_algorithm(public_key),
        bits=key_bits(public_key),
        backend=backend,
        sealed=sealed,
        spki=spki,
        spki_sha256=sha256(spki).digest(),
        created=now,
        token=token,
    )


def _spki(key: PublicKey) -> bytes:
    return key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)


def sealing_context(key: UUID) -> str:
    """Return what binds a sealed key to its id (rule 1)."""
    return f"authority:{key}"


def _unavailable(reason: str) -> Refused:
    return Refused(Kind.UNAVAILABLE, "A key of the authority cannot be used.", reason=reason)

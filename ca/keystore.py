"""The keys of authorities: how they sign, and where they lie.

The rules:

1. Whoever signs does so through a `Signer`, which names its algorithm; a private key is known to nobody else. A key in
   a hardware token is another Signer.
2. A key at rest is sealed under the node's master key, bound to its authority: `authority:<id>`.
3. The root's key lies in one file, `root.sealed`, that an operator can take away: all works without it except signing a
   new authority and the root's own revocation list. It is opened for each use and kept in no memory.
4. The file is written once, whole, for its owner alone, and never over another one.
"""

import base64
import binascii
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol
from uuid import UUID

import orjson
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256, SHA384, HashAlgorithm
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_der_private_key,
)

from ca.encoding import encode_object_identifier
from certs.der import SEQUENCE, encode
from certs.keys import PublicKey
from iam.errors import Kind, Refused
from iam.identifiers import Random
from iam.sealing import MasterKey, open_sealed, seal

ROOT_FILE = "root.sealed"

# RFC 5758 3.2: ECDSA's AlgorithmIdentifier has no parameters.
_ECDSA: dict[str, tuple[str, HashAlgorithm]] = {
    "secp256r1": ("1.2.840.10045.4.3.2", SHA256()),
    "secp384r1": ("1.2.840.10045.4.3.3", SHA384()),
}


class Signer(Protocol):
    """A key that signs for an authority."""

    @property
    def algorithm(self) -> bytes:
        """The AlgorithmIdentifier of its signatures, in DER."""

    @property
    def public_key(self) -> PublicKey:
        """The key that verifies them."""

    def sign(self, data: bytes) -> bytes:
        """Sign `data`; raise `Refused` (unavailable) if the key is gone."""


class SoftwareSigner:
    """A key in this process's memory."""

    def __init__(self, private_key: ec.EllipticCurvePrivateKey) -> None:
        oid, hash_algorithm = _ECDSA[private_key.curve.name]
        self._private_key = private_key
        self._signature_algorithm = ec.ECDSA(hash_algorithm)
        self.algorithm = encode(SEQUENCE, encode_object_identifier(oid))
        self.public_key: PublicKey = private_key.public_key()

    def sign(self, data: bytes) -> bytes:
        """Sign `data` with ECDSA."""
        return self._private_key.sign(data, self._signature_algorithm)


@dataclass(frozen=True, slots=True)
class RootKey:
    """The root's key, as its file has it, and the authority that it is bound to."""

    authority: UUID
    signer: Signer


class Keystore:
    """Seals and opens the keys of authorities.

    Args:
        folder: Where the root's file is, or is missing.
    """

    def __init__(self, folder: Path, master_key: MasterKey, random: Random) -> None:
        self._folder = folder
        self._master_key = master_key
        self._random = random

    @property
    def root_file(self) -> Path:
        """Where the root's key is kept unless it was taken away."""
        return self._folder / ROOT_FILE

    def seal(self, authority: UUID, private_key: ec.EllipticCurvePrivateKey) -> bytes:
        """Return a private key as it may be stored."""
        plain = private_key.private_bytes(Encoding.DER, PrivateFormat.PKCS8, NoEncryption())
        return seal(self._master_key, plain, context=_context(authority), random=self._random)

    def open(self, authority: UUID, sealed: bytes) -> Signer:
        """Return the signer of a stored key.

        Raises:
            Refused: (unavailable) It was sealed under another master key, or is not what it claims to be.
        """
        key = load_der_private_key(open_sealed(self._master_key, sealed, context=_context(authority)), password=None)
        if not isinstance(key, ec.EllipticCurvePrivateKey):
            raise _unavailable(f"the key of authority {authority} is of a kind that does not sign here")
        return SoftwareSigner(key)

    def root(self) -> RootKey | None:
        """Return the root's key, or None if its file is not here.

        Raises:
            Refused: (unavailable) The file is here and cannot be used.
        """
        try:
            record = orjson.loads(self.root_file.read_bytes())
            authority = UUID(record["authority"])
            sealed = base64.b64decode(record["sealed"], validate=True)
        except FileNotFoundError:
            return None
        except (OSError, ValueError, KeyError, TypeError, binascii.Error) as error:
            raise _unavailable(f"{self.root_file} cannot be read: {error}") from error
        return RootKey(authority, self.open(authority, sealed))

    def keep_root(self, authority: UUID, private_key: ec.EllipticCurvePrivateKey) -> None:
        """Write the root's file and bring it to the disk.

        Raises:
            Refused: (unavailable) There is one already, or it cannot be written.
        """
        record = {"authority": str(authority), "sealed": base64.b64encode(self.seal(authority, private_key)).decode()}
        written = self._folder / f".{ROOT_FILE}.{authority}"
        try:
            self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            descriptor = os.open(written, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
            with os.fdopen(descriptor, "wb") as file:
                file.write(orjson.dumps(record))
                file.flush()
                os.fsync(descriptor)
            os.link(written, self.root_file)  # fails where a file is, unlike a rename
            _synchronise(self._folder)
        except OSError as error:
            raise _unavailable(f"{self.root_file} cannot be written: {error}") from error
        finally:
            written.unlink(missing_ok=True)


def _context(authority: UUID) -> str:
    return f"authority:{authority}"


def _synchronise(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _unavailable(reason: str) -> Refused:
    return Refused(Kind.UNAVAILABLE, "A key of the authority cannot be used.", reason=reason)

"""Files that hold the keys of roots, sealed, each with the id that it is bound to: so that they can be taken away.

The rules:

1. A file is written whole, for its owner alone, and is on the disk before anybody relies on it.
2. It is never written over by another key. Only the same key, sealed anew, takes its place, and it stays its owner's.
"""

import base64
import binascii
import os
from pathlib import Path
from uuid import UUID

import orjson

from iam.errors import Kind, Refused


def read_root_file(path: Path) -> tuple[UUID, bytes] | None:
    """Return the id of a root's key and the key, still sealed; None if the file is not here.

    Raises:
        Refused: (unavailable) It is here and cannot be read.
    """
    try:
        record = orjson.loads(path.read_bytes())
        return UUID(record["authority"]), base64.b64decode(record["sealed"], validate=True)
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError, binascii.Error) as error:
        raise _unavailable(f"{path} cannot be read: {error}") from error


def write_root_file(path: Path, authority: UUID, sealed: bytes) -> None:
    """Write a new file; raise `Refused` (unavailable) if there is one already, or it cannot be written."""
    written = _beside(path, authority)
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        _write(written, authority, sealed)
        os.link(written, path)  # fails where a file is, unlike a rename
        _synchronise(path.parent)
    except OSError as error:
        raise _unavailable(f"{path} cannot be written: {error}") from error
    finally:
        written.unlink(missing_ok=True)


def replace_root_file(path: Path, authority: UUID, sealed: bytes) -> None:
    """Put the same key, sealed anew, in the place of a file; raise `Refused` (unavailable) if it cannot be written."""
    written = _beside(path, authority)
    try:
        _write(written, authority, sealed)
        owner = path.stat()
        os.chown(written, owner.st_uid, owner.st_gid)
        written.replace(path)
        _synchronise(path.parent)
    except OSError as error:
        raise _unavailable(f"{path} cannot be written: {error}") from error


def _beside(path: Path, authority: UUID) -> Path:
    return path.with_name(f".{path.name}.{authority}")


def _write(path: Path, authority: UUID, sealed: bytes) -> None:
    record = {"authority": str(authority), "sealed": base64.b64encode(sealed).decode()}
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        file.write(orjson.dumps(record))
        file.flush()
        os.fsync(descriptor)


def _synchronise(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _unavailable(reason: str) -> Refused:
    return Refused(Kind.UNAVAILABLE, "A key of the authority cannot be used.", reason=reason)

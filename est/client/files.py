"""Files of a device, through every crash.

1. A file is written whole or not at all: beside its place, brought to the disk, then put in its place, and the folder's
   names brought to the disk too. When a call returns, the file is there also after a loss of power.
2. A private file has mode 0600 from its first moment, whatever the umask says.
3. A folder is worked on by one process at a time; the kernel gives the lock back however that process ends.
"""

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

PRIVATE = 0o600
PUBLIC = 0o644


class FolderBusy(Exception):
    """Another process works on the folder."""


def write_whole(file: Path, content: bytes, mode: int = PUBLIC) -> None:
    """Write a file by rules 1 and 2, in place of an earlier one."""
    fresh = file.with_name(f".{file.name}.new")
    fresh.unlink(missing_ok=True)
    descriptor = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, mode)
    with open(descriptor, "wb") as written:  # noqa: PTH123 (a descriptor has no Path)
        os.fchmod(descriptor, mode)
        written.write(content)
        written.flush()
        os.fsync(descriptor)
    move(fresh, file)


def move(file: Path, place: Path) -> None:
    """Put a file in the place of another of the same folder, for good."""
    file.replace(place)
    synchronise(place.parent)


def link(place: Path, target: str) -> None:
    """Make a link to what `target` names from the link's folder, in place of a file or another link, for good."""
    fresh = place.with_name(f".{place.name}.new")
    fresh.unlink(missing_ok=True)
    fresh.symlink_to(target)
    move(fresh, place)


def remove(file: Path) -> None:
    """Remove a file, for good, if it is there."""
    file.unlink(missing_ok=True)
    synchronise(file.parent)


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Hold the folder's lock, by rule 3; raise `FolderBusy` at once if another process holds it."""
    descriptor = os.open(folder / ".lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, PRIVATE)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise FolderBusy(f"another process works on {folder}") from error
        yield
    finally:
        os.close(descriptor)


def synchronise(folder: Path) -> None:
    """Bring a folder's names to the disk."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)

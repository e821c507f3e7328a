"""Whether the hub's store has stopped for good because the disk was full once.

A nats-server whose write has failed for want of room goes on refusing to store, also when there is room again, until it
is started anew (measured on 2.15.1; it says the same sentence in its log at each attempt). Events would wait for ever.
The rules:

1. It is stuck when it says that there is no room although there has been room since the look before.
2. The log is read on from where it was read last; one that is shorter than that was begun anew.
"""

import shutil
from pathlib import Path

ROOM_BYTES = 64 << 20
"""More than what the store writes at once, with something for the others."""

_NO_ROOM = b"no space left on device"
_READ_AT_MOST = 1 << 20


class StoreWatch:
    """Looks now and then at what a server says of its disk."""

    def __init__(self, log: Path) -> None:
        """Begin at the end of what is in the log now."""
        self._log = log
        self._read_to = self._size()
        self._had_room = False

    def is_stuck(self) -> bool:
        """Look, and tell whether the server is stuck (rule 1)."""
        said, had_room = self._said(), self._had_room
        self._had_room = shutil.disk_usage(self._log.parent).free >= ROOM_BYTES
        return had_room and self._had_room and _NO_ROOM in said

    def _said(self) -> bytes:
        """Return what has come to the log since the last look, or the end of it."""
        size = self._size()
        begin = 0 if size < self._read_to else self._read_to
        self._read_to = size
        if size == begin:
            return b""
        with self._log.open("rb") as file:
            file.seek(max(begin, size - _READ_AT_MOST))
            return file.read(_READ_AT_MOST)

    def _size(self) -> int:
        return self._log.stat().st_size if self._log.exists() else 0

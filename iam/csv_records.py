"""CSV as it comes (RFC 4180): bytes in, records out, each with the number of the line that it begins on.

The rules:

1. Fields are separated by commas; one that holds a comma, a quote or a line break stands in quotes, with quotes in it
   doubled. Lines end with LF or CRLF; the last one may lack it. Empty lines are no records.
2. The text is UTF-8; a byte order mark at its beginning is passed over.
3. What cannot be read is given as `Unreadable`, with its reason, and reading goes on with the next line: one bad record
   costs no other.
4. A record has at most `LONGEST_RECORD` bytes: no quote that is never closed takes the rest of the file with it.
"""

import csv
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

LONGEST_RECORD: Final = 64 * 1024
_BYTE_ORDER_MARK: Final = b"\xef\xbb\xbf"


@dataclass(frozen=True, slots=True)
class Record:
    """The fields of a record."""

    line: int
    fields: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Unreadable:
    """A record that cannot be read, and why."""

    line: int
    reason: str


class RecordReader:
    """Makes records of parts of a file, wherever the parts are cut."""

    def __init__(self) -> None:
        self._rest = b""
        self._skips = False
        self._line = 0
        self._begins = 1
        self._record: list[bytes] = []
        self._size = 0
        self._quotes = 0

    def feed(self, part: bytes) -> Iterator[Record | Unreadable]:
        """Take the next part of the file and give the records that end in it."""
        *lines, self._rest = (self._rest + part).split(b"\n")
        for line in lines:
            yield from self._take(line + b"\n")
        if len(self._rest) > LONGEST_RECORD:
            if not self._skips:
                self._forget()
                yield Unreadable(self._line + 1, f"longer than {LONGEST_RECORD} bytes")
            self._skips, self._rest = True, b""

    def end(self) -> Iterator[Record | Unreadable]:
        """Give the last record, if the file ended without a line break."""
        if self._rest:
            yield from self._take(self._rest)
        if self._record:
            yield self._unclosed()

    def _take(self, line: bytes) -> Iterator[Record | Unreadable]:
        self._line += 1
        if self._skips:
            self._skips = False
            return
        if self._line == 1:
            line = line.removeprefix(_BYTE_ORDER_MARK)
        if not self._record:
            self._begins = self._line
        self._record.append(line)
        self._size += len(line)
        self._quotes += line.count(b'"')
        if self._size > LONGEST_RECORD:
            yield (
                self._unclosed()
                if len(self._record) > 1
                else Unreadable(self._begins, f"longer than {LONGEST_RECORD} bytes")
            )
            self._forget()
        # Quotes inside a field are doubled, so a record is whole when their number is even.
        elif self._quotes % 2 == 0:
            whole = b"".join(self._record)
            self._forget()
            if whole.strip():
                yield _read(self._begins, whole)

    def _unclosed(self) -> Unreadable:
        return Unreadable(self._begins, f"a quote is not closed; looked for it up to line {self._line}")

    def _forget(self) -> None:
        self._record, self._size, self._quotes = [], 0, 0


def _read(line: int, content: bytes) -> Record | Unreadable:
    try:
        text = content.decode("utf-8")
        # A record is one row: `csv` is given no other, and the line breaks inside quotes with it.
        rows = list(csv.reader([text], strict=True))
    except UnicodeDecodeError:
        return Unreadable(line, "not UTF-8")
    except csv.Error as error:
        return Unreadable(line, f"not CSV: {error}")
    return Record(line, tuple(rows[0])) if rows else Unreadable(line, "not CSV")

"""What a row of the tables says."""

from collections.abc import Callable
from dataclasses import dataclass

import pytest


@dataclass(frozen=True)
class Row:
    """Something hostile.

    Attributes:
        what: In a few words.
        make: Gives the bytes: of a request in DER, of a body, or of a whole HTTP request, as its table says.
        status: What is answered.
        reason: What the log says of it, or a part of that.
    """

    what: str
    make: Callable[[], bytes]
    status: int
    reason: str


def each(*tables: list[Row]) -> list[object]:
    """The rows as parameters, each once."""
    rows = [row for table in tables for row in table]
    assert len({row.what for row in rows}) == len(rows), "two rows of one name"
    return [pytest.param(row, id=row.what) for row in rows]

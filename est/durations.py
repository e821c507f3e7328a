"""Periods of labels: as `certs.duration` reads them, and `0s`, which is none at all; no longer than `LONGEST`."""

from datetime import timedelta
from typing import Final

from certs.duration import read_duration
from certs.errors import ProfileRefused
from iam.errors import malformed

LONGEST: Final = timedelta(days=50 * 365)

_NONE: Final = frozenset(f"0{unit}" for unit in "ywdhms")


def duration(text: str) -> timedelta:
    """Read a period; raise `Refused` (malformed) for anything else."""
    if text in _NONE:
        return timedelta(0)
    try:
        period = read_duration(text)
    except ProfileRefused as refused:
        raise malformed(f"{refused}; or 0s, for none.") from refused
    if period > LONGEST:
        raise malformed(f"No period here is longer than {LONGEST.days} days.")
    return period

"""Periods as operators write them: `90d`, `1w2d`, `36h`, `1h30m`, `0s`.

The rules:

1. Whole numbers with a unit, largest unit first, each unit once: `y` (365 days), `w`, `d`, `h`, `m`, `s`.
2. A period is shown in days, hours, minutes and seconds, and reads back as the same.
3. No period here is longer than `LONGEST`.
"""

import re
from datetime import timedelta
from typing import Final

from iam.errors import malformed

LONGEST: Final = timedelta(days=50 * 365)

_UNITS: Final = {"y": 365 * 86_400, "w": 7 * 86_400, "d": 86_400, "h": 3_600, "m": 60, "s": 1}
_SHOWN: Final = ("d", "h", "m", "s")
_PERIOD: Final = re.compile("".join(rf"(?:(\d{{1,10}}){unit})?" for unit in _UNITS))
_LONGEST_TEXT: Final = 64


def duration(text: str) -> timedelta:
    """Read a period; raise `Refused` (malformed) for anything else."""
    found = _PERIOD.fullmatch(text) if 0 < len(text) <= _LONGEST_TEXT else None
    if found is None:
        raise malformed("A period is written as 90d, 36h, 1h30m or 0s: units y, w, d, h, m, s, the largest first.")
    seconds = sum(int(number or 0) * unit for number, unit in zip(found.groups(), _UNITS.values(), strict=True))
    if seconds > LONGEST.total_seconds():
        raise malformed(f"No period here is longer than {LONGEST.days} days.")
    return timedelta(seconds=seconds)


def shown_duration(period: timedelta) -> str:
    """Return a period as it is written."""
    left = int(period.total_seconds())
    parts = []
    for unit in _SHOWN:
        number, left = divmod(left, _UNITS[unit])
        if number:
            parts.append(f"{number}{unit}")
    return "".join(parts) or "0s"

"""Periods as operators write them: `90d`, `1w2d`, `36h`, `1h30m`.

1. Whole numbers with a unit each: `y` (365 days), `w`, `d`, `h`, `m`, `s`; the largest first, none twice.
2. A period is longer than nothing, and at most `LONGEST`.
3. It is written in days, hours, minutes and seconds, and reads back as the same.
"""

import re
from datetime import timedelta
from typing import Final

from certs.errors import ProfileRefused, quoted

LONGEST: Final = timedelta(days=100 * 366)

_UNITS: Final = {"y": 365 * 86_400, "w": 7 * 86_400, "d": 86_400, "h": 3_600, "m": 60, "s": 1}
_WRITTEN: Final = ("d", "h", "m", "s")
_PERIOD: Final = re.compile("".join(rf"(?:([0-9]{{1,10}}){unit})?" for unit in _UNITS))


def read_duration(text: str) -> timedelta:
    """Read a period.

    Raises:
        ProfileRefused: if it is none by rules 1 and 2.
    """
    found = _PERIOD.fullmatch(text)
    if found is None:
        raise ProfileRefused(f"{quoted(text)} is no period: write 90d, 36h or 1h30m, of the units y, w, d, h, m, s")
    seconds = sum(int(number or 0) * unit for number, unit in zip(found.groups(), _UNITS.values(), strict=True))
    if not 0 < seconds <= LONGEST.total_seconds():
        raise ProfileRefused(f"{quoted(text)} is no period between 1s and {LONGEST.days}d")
    return timedelta(seconds=seconds)


def write_duration(period: timedelta) -> str:
    """Return a period of whole seconds as it is written."""
    left, parts = int(period.total_seconds()), []
    for unit in _WRITTEN:
        number, left = divmod(left, _UNITS[unit])
        if number:
            parts.append(f"{number}{unit}")
    return "".join(parts) or "0s"

"""Values as callers write them in filters: whole numbers, dates, UUIDs and bytes. What is none is refused."""

import re
from datetime import UTC, datetime
from uuid import UUID

from iam.errors import malformed

_WHOLE_NUMBER = re.compile(r"-?[0-9]{1,19}")
_DATE = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}")
# RFC 3339 5.6, whose offset is not optional: a time without one says no moment.
_MOMENT = re.compile(_DATE.pattern + r"[Tt ][0-9]{2}:[0-9]{2}:[0-9]{2}(\.[0-9]{1,6})?([Zz]|[+-][0-9]{2}:[0-9]{2})")
_HEX = re.compile(r"([0-9a-f]{2}){1,64}")
_LARGEST_NUMBER = 2**63


def is_whole_day(text: str) -> bool:
    """Tell whether a date says no time of day."""
    return _DATE.fullmatch(text) is not None


def read_number(text: str, name: str) -> int:
    """Return a whole number of at most 64 bits; raise `Refused` (malformed) for anything else."""
    if not _WHOLE_NUMBER.fullmatch(text) or not -_LARGEST_NUMBER <= int(text) < _LARGEST_NUMBER:
        raise malformed(f"{name} is a whole number.")
    return int(text)


def read_date(text: str, name: str) -> datetime:
    """Return a moment in UTC: the beginning of a day, or RFC 3339; raise `Refused` (malformed) for anything else."""
    try:
        if _DATE.fullmatch(text):
            return datetime.fromisoformat(text).replace(tzinfo=UTC)
        if _MOMENT.fullmatch(text):
            return datetime.fromisoformat(text.upper()).astimezone(UTC)
    except (ValueError, OverflowError) as error:
        raise malformed(f"{name} is a date that there is not: {text}.") from error
    raise malformed(f"{name} is a date: `YYYY-MM-DD`, or `YYYY-MM-DDTHH:MM:SSZ` (RFC 3339).")


def read_uuid(text: str, name: str) -> UUID:
    """Return a UUID as it is usually written; raise `Refused` (malformed) for anything else."""
    try:
        value = UUID(text)
    except ValueError as error:
        raise malformed(f"{name} is a UUID.") from error
    if str(value) != text.lower():
        raise malformed(f"{name} is a UUID.")
    return value


def read_bytes(text: str, name: str) -> bytes:
    """Return bytes written as openssl (ab:cd), Lamassu (ab-cd) or we (abcd) write serial numbers; else `Refused`."""
    plain = text.lower().replace(":", "").replace("-", "")
    if not _HEX.fullmatch(plain):
        raise malformed(f"{name} is 1 to 64 bytes in hexadecimal.")
    return bytes.fromhex(plain)

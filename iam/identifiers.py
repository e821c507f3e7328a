"""Identifiers: UUIDv7 for rows, `idt-` + UUIDv7 for identities, and the grammar of the names people choose.

Every identifier that comes from outside passes one of these before it reaches SQL, a topic, a subject, a path or a
log line; so none of them needs escaping anywhere. Device identifiers have their grammar in `certs.names`.
"""

import re
from collections.abc import Callable
from datetime import datetime
from uuid import UUID

from iam.errors import malformed

Random = Callable[[int], bytes]
"""Gives that many unpredictable bytes: `os.urandom` outside tests."""

Clock = Callable[[], datetime]
"""Gives the time now, aware and in UTC. A clock lives in services; pure code takes `now`."""

_ID_PREFIX = "idt-"
_TENANT_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,62}")
_ROLE_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,62}")
_IDENTITY_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.:@+-]{0,127}")
_IDENTITY_ID = re.compile(r"idt-[0-9a-f]{8}-[0-9a-f]{4}-7[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}")


def uuid7(now: datetime, random: Random) -> UUID:
    """Return a time-ordered UUID (RFC 9562 5.7): 48 bits of milliseconds, then 74 random bits."""
    milliseconds = int(now.timestamp() * 1000)
    noise = int.from_bytes(random(10), "big")
    value = (milliseconds & 0xFFFF_FFFF_FFFF) << 80
    value |= 0x7 << 76 | (noise >> 68 & 0xFFF) << 64
    value |= 0b10 << 62 | noise & 0x3FFF_FFFF_FFFF_FFFF
    return UUID(int=value)


def is_identity_id(text: str) -> bool:
    """Tell whether `text` is meant as an identity's id: ids begin so, and names never do."""
    return text.startswith(_ID_PREFIX)


def identity_id(now: datetime, random: Random) -> str:
    """Return a new identity's id: `idt-` and a UUIDv7."""
    return f"{_ID_PREFIX}{uuid7(now, random)}"


def checked_identity_id(text: str) -> str:
    """Return `text` if it has the form of an identity's id; raise `Refused` (malformed) otherwise."""
    if not _IDENTITY_ID.fullmatch(text):
        raise malformed("An identity's id is 'idt-' and a UUIDv7.")
    return text


def tenant_name(text: str) -> str:
    """Return `text` if it can name a tenant: it becomes a topic level and a part of event subjects."""
    if not _TENANT_NAME.fullmatch(text):
        raise malformed("A tenant's name is 1 to 63 letters, digits, '_' or '-', and starts with a letter or digit.")
    return text


def role_name(text: str) -> str:
    """Return `text` if it can name a role."""
    if not _ROLE_NAME.fullmatch(text):
        raise malformed("A role's name is 1 to 63 letters, digits, '_', '.' or '-', and starts with a letter or digit.")
    return text


def identity_name(text: str) -> str:
    """Return `text` if it can name an identity; an e-mail address fits, what looks like an id does not."""
    if is_identity_id(text):
        raise malformed(f"A name does not begin with '{_ID_PREFIX}': ids do.")
    if not _IDENTITY_NAME.fullmatch(text):
        raise malformed(
            "An identity's name is 1 to 128 letters, digits or any of '_.:@+-', starting with a letter or digit."
        )
    return text

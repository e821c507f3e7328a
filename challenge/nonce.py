"""Challenges that the server gives out without writing anything down, and knows again.

The rules:

1. A challenge is a line of ASCII: `doorward-<purpose>-v1.<expiry>.<nonce>.<mac>.<audience>`. Expiry is in Unix
   seconds; nonce and MAC are lower-case hexadecimal. The audience is there for the client to see for whom it signs: a
   server that hands it the challenge of another cannot hide it.
2. The MAC is HMAC-SHA256 over everything else in the line and the SHA-256 of the public key that it was asked for. So a
   challenge serves one purpose, one audience and one key, and an unknown key gets one that looks like any other.
3. A challenge is taken in the one spelling in which it was given: the line is made again and compared in constant time.
4. After its expiry it is refused. That it is used once is for the store: it burns the nonce until then.
"""

import hashlib
import hmac
import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from typing import Final

from iam.errors import Refused, malformed, unauthenticated
from iam.identifiers import Random

NONCE_BYTES: Final = 16
LONGEST_CHALLENGE: Final = 1024
"""In characters."""

_LINE: Final = re.compile(
    r"doorward-(?P<purpose>[a-z]{1,16})-v1\.(?P<expires>[0-9]{1,11})\.(?P<nonce>[0-9a-f]{32})\.(?P<mac>[0-9a-f]{64})"
    r"\.(?P<audience>[!-~]{1,512})"
)


class Purpose(StrEnum):
    """What a signature on a challenge is for."""

    LOGIN = "login"
    REGISTER = "register"


@dataclass(frozen=True, slots=True)
class Challenge:
    """A challenge to give out."""

    text: str
    expires: datetime


@dataclass(frozen=True, slots=True)
class Nonce:
    """What the store burns: once used, it is used until it expires."""

    value: bytes
    expires: datetime


@dataclass(frozen=True, slots=True)
class ChallengeLine:
    """What a challenge says of itself; only `open_challenge` knows whether it is true."""

    purpose: Purpose
    audience: str
    expires: datetime


def make_challenge(
    secret: bytes,
    *,
    spki: bytes,
    purpose: Purpose,
    audience: str,
    now: datetime,
    lifetime: timedelta,
    random: Random,
) -> Challenge:
    """Return a new challenge for the holder of a key.

    Args:
        secret: A key for this alone: the first of `iam.sealing.derive_all(master, "challenge")`.
        spki: The SubjectPublicKeyInfo of the public key that asks, in DER.
        audience: Who will take it: the issuer's URL, printable ASCII without a space.
    """
    expires = int((now + lifetime).timestamp())
    text = _line(secret, spki, purpose, audience, expires, random(NONCE_BYTES))
    if not _LINE.fullmatch(text):
        raise ValueError(f"not an audience: {audience!r}")
    return Challenge(text, datetime.fromtimestamp(expires, UTC))


def open_challenge(
    secrets: Sequence[bytes], text: str, *, spki: bytes, purpose: Purpose, audience: str, now: datetime
) -> Nonce:
    """Return the nonce of a challenge that was made for this key, purpose and audience and has not expired.

    Args:
        secrets: Those that it may be made by: more than one while the master key changes.

    Raises:
        Refused: (unauthenticated) The reason says which rule it breaks.
    """
    found = _LINE.fullmatch(text) if len(text) <= LONGEST_CHALLENGE else None
    if found is None:
        raise _refused("it is no line of ours")
    expires, nonce = int(found["expires"]), bytes.fromhex(found["nonce"])
    lines = [_line(secret, spki, purpose, audience, expires, nonce) for secret in secrets]
    if not any([hmac.compare_digest(text, line) for line in lines]):  # noqa: C419 - all are compared, whichever it is
        raise _refused(f"it was not made by us for this key, for {purpose} and for {audience}")
    if now.timestamp() >= expires:
        raise _refused(f"expired {now.timestamp() - expires:.0f} s ago")
    return Nonce(nonce, datetime.fromtimestamp(expires, UTC))


def read_challenge(text: str) -> ChallengeLine:
    """Return what a challenge says of itself, for the client who is about to sign it.

    Raises:
        Refused: (malformed) It is no challenge of a Doorward server: not to be signed.
    """
    found = _LINE.fullmatch(text) if len(text) <= LONGEST_CHALLENGE else None
    if found is None or found["purpose"] not in list(Purpose):
        raise malformed("This is not a challenge of a Doorward server; do not sign it.")
    expires = datetime.fromtimestamp(int(found["expires"]), UTC)
    return ChallengeLine(Purpose(found["purpose"]), found["audience"], expires)


def _line(secret: bytes, spki: bytes, purpose: Purpose, audience: str, expires: int, nonce: bytes) -> str:
    """Write a challenge. Of the parts only the last can hold a dot, so no two sets of parts make one line."""
    head = f"doorward-{purpose}-v1.{expires}.{nonce.hex()}"
    signed = f"{head}.{audience}\n".encode() + hashlib.sha256(spki).digest()
    return f"{head}.{hmac.digest(secret, signed, 'sha256').hex()}.{audience}"


def _refused(why: str) -> Refused:
    return unauthenticated(f"challenge: {why}")

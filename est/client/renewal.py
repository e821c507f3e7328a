"""When a device renews, and when it asks again after a failure. Pure: time and chance are given.

1. A certificate is renewed in its *window*: the last third of its life, or the last so many days; never in the first
   tenth of its life, however the window is set, since that would renew without end.
2. Where in the first tenth of the window is drawn by the certificate itself, from its hash. So a fleet that was made in
   one night does not renew in one night, and a restart draws no other moment.
3. After a failure the next attempt waits a minute, then two, four and so on, at most six hours and at most an eighth of
   the life that is left, each shortened by up to a half by chance; after the certificate's end, six hours at most.
4. What the server says in `Retry-After` is a least, up to a day and half of the life that is left. A request that waits
   for approval (202) is asked for again after that, or after a minute, however often.
5. A certificate that has not begun yet means that this device's clock is wrong: nothing is renewed for it.
"""

from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum
from hashlib import sha256

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

_FIRST_WAIT = timedelta(minutes=1)
_LONGEST_WAIT = timedelta(hours=6)
_LONGEST_RETRY_AFTER = timedelta(days=1)
_LEFT_PARTS = 8
_LONGEST_WINDOW = 0.9
_DOUBLINGS_MAXIMUM = 16


class Moment(StrEnum):
    """Where a certificate stands in its life."""

    NOT_BEGUN = "not-begun"
    VALID = "valid"
    DUE = "due"
    EXPIRED = "expired"


@dataclass(frozen=True, slots=True)
class Window:
    """When a certificate is renewed.

    Attributes:
        before: How long before its end the window begins; a third of the certificate's life if None.
        jitter: The part of the window over which a fleet is spread, from 0 to 1.
    """

    before: timedelta | None = None
    jitter: float = 0.1


@dataclass(frozen=True, slots=True)
class Life:
    """A certificate's life, and when it is to be renewed."""

    begins: datetime
    due: datetime
    ends: datetime

    def moment(self, now: datetime) -> Moment:
        """Return where the certificate stands."""
        if now < self.begins:
            return Moment.NOT_BEGUN
        if now >= self.ends:
            return Moment.EXPIRED
        return Moment.DUE if now >= self.due else Moment.VALID


def life(certificate: x509.Certificate, window: Window) -> Life:
    """Return when a certificate begins, is due and ends, by rules 1 and 2."""
    begins, ends = certificate.not_valid_before_utc, certificate.not_valid_after_utc
    length = ends - begins
    span = min(length * _LONGEST_WINDOW, length / 3 if window.before is None else window.before)
    drawn = int.from_bytes(sha256(certificate.public_bytes(Encoding.DER)).digest()[:6]) / 2**48
    return Life(begins, ends - span + span * (window.jitter * drawn), ends)


def wait_after_failure(failures: int, left: timedelta, chance: float, retry_after: int | None) -> timedelta:
    """Return how long to wait before the next attempt, by rules 3 and 4.

    Args:
        failures: How many there were in a row, at least one.
        left: The life that the certificate has left; negative after its end.
        chance: Drawn evenly from 0 to 1.
        retry_after: What the server said, in seconds.
    """
    longest = _LONGEST_WAIT if left <= timedelta(0) else max(_FIRST_WAIT, min(_LONGEST_WAIT, left / _LEFT_PARTS))
    doubled = _FIRST_WAIT * (1 << min(failures - 1, _DOUBLINGS_MAXIMUM))
    return max(min(longest, doubled) * (1 - chance / 2), _least(left, retry_after))


def wait_for_approval(left: timedelta | None, retry_after: int | None) -> timedelta:
    """Return how long to wait before asking again for what waits for approval, by rule 4."""
    return max(timedelta(seconds=1), _least(left, retry_after)) if retry_after is not None else _FIRST_WAIT


def _least(left: timedelta | None, retry_after: int | None) -> timedelta:
    if retry_after is None:
        return timedelta(0)
    longest = _LONGEST_RETRY_AFTER
    if left is not None and left > timedelta(0):
        longest = min(longest, max(_FIRST_WAIT, left / 2))
    return min(longest, timedelta(seconds=min(retry_after, 10**9)))

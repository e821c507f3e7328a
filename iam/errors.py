"""The closed set of refusals, shared by every subject that stands on `iam`.

A refusal carries two texts: `detail` may be read by whoever asked; `reason` is for the log alone. Authentication
failures keep the first one empty of hints: they tell the log why and the caller nothing.
"""

from enum import Enum


class Kind(Enum):
    """What went wrong, by who can mend it. `iam.responses` holds the one table from here to HTTP status codes."""

    MALFORMED = "malformed"
    """The request cannot be read; mending it is the caller's work."""
    INVALID = "invalid"
    """The request reads well and asks for something that the rules do not allow anybody."""
    UNAUTHENTICATED = "unauthenticated"
    """No proof of identity, or one that does not hold."""
    FORBIDDEN = "forbidden"
    """The identity is known and may not do this."""
    NOT_FOUND = "not-found"
    """There is no such thing, or it is not the caller's to know of."""
    METHOD = "method"
    """The resource exists and does not take this method."""
    CONFLICT = "conflict"
    """The store is in a state that does not permit it: taken names, used codes, forbidden life cycle steps."""
    TOO_LARGE = "too-large"
    """The body is larger than this route takes."""
    MEDIA_TYPE = "media-type"
    """The body is of a type that this route does not take."""
    TIMEOUT = "timeout"
    """The request did not arrive in time."""
    THROTTLED = "throttled"
    """Too much at once; `retry_after` says when to come back."""
    UNSUPPORTED = "unsupported"
    """A part of a standard that this server does not offer."""
    UNAVAILABLE = "unavailable"
    """Something that this decision needs is gone: the store, a signing key. Unless the connection was lost while
    committing, nothing was done."""


class Refused(Exception):
    """A request that is not carried out, and why.

    Args:
        kind: Who can mend it.
        detail: A sentence for the caller.
        reason: A sentence for the log, where it says more than `detail`.
        fields: For each field of the body that is wrong, what is wrong with it.
        retry_after: Seconds until it may be worth asking again.
    """

    def __init__(
        self,
        kind: Kind,
        detail: str,
        *,
        reason: str | None = None,
        fields: dict[str, str] | None = None,
        retry_after: int | None = None,
    ) -> None:
        super().__init__(detail)
        self.kind = kind
        self.detail = detail
        self.reason = reason or detail
        self.fields = fields or {}
        self.retry_after = retry_after


def malformed(detail: str, **fields: str) -> Refused:
    """Return the refusal of a request that cannot be read."""
    return Refused(Kind.MALFORMED, detail, fields=fields)


def unauthenticated(reason: str) -> Refused:
    """Return the refusal of a proof that does not hold; only the log learns `reason`."""
    return Refused(Kind.UNAUTHENTICATED, "Authentication failed.", reason=reason)


def forbidden(detail: str, *, reason: str | None = None) -> Refused:
    """Return the refusal of a known identity that may not do this."""
    return Refused(Kind.FORBIDDEN, detail, reason=reason)


def not_found(what: str) -> Refused:
    """Return the refusal for a thing that is not there, or not there for this caller."""
    return Refused(Kind.NOT_FOUND, f"There is no {what}.")


def conflict(detail: str) -> Refused:
    """Return the refusal of a step that the present state does not permit."""
    return Refused(Kind.CONFLICT, detail)

"""What keeps a client from an answer: a closed set, each member with what to do next."""

from enum import StrEnum


class Failure(StrEnum):
    """Why there is no answer."""

    UNREACHABLE = "unreachable"
    """Nobody answers there, or the connection broke: whether the request arrived is not known; send the same again."""
    BUSY = "busy"
    """The server cannot at the moment (429, 5xx): send the same again later."""
    UNTRUSTED = "untrusted"
    """Whoever answers has not proved to be trusted: nothing was asked or told."""
    UNUSABLE = "unusable"
    """What the client was to show, its certificate and key, cannot be used: nothing was asked."""
    REFUSED = "refused"
    """The server said no, and why: the same request will be refused again."""
    PENDING = "pending"
    """The server said not yet (202): ask again with the same key and names when told."""
    MALFORMED = "malformed"
    """What the server said is not an answer of EST."""


class EstFailure(Exception):
    """No answer, and why.

    Attributes:
        failure: Which of the set.
        status: The HTTP status, if there was one.
        retry_after: Seconds after which it is worth asking again, if the server said so.
    """

    def __init__(
        self, failure: Failure, sentence: str, *, status: int | None = None, retry_after: int | None = None
    ) -> None:
        super().__init__(sentence)
        self.failure = failure
        self.status = status
        self.retry_after = retry_after

"""What `est` asks of other servers, and what it gets back; `doorward.outbound` has the one that really asks."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Protocol


@dataclass(frozen=True, slots=True)
class Outgoing:
    """A request over HTTPS.

    Attributes:
        authorities: The only roots that the server's certificate may lead to, in PEM; the system's, if not said.
        deadline: For all of it: finding the address, connecting, asking, reading.
        largest_answer: In bytes.
    """

    method: str
    url: str
    deadline: timedelta
    headers: Mapping[str, str] = field(default_factory=dict, hash=False)
    body: bytes = b""
    authorities: str | None = None
    largest_answer: int = 64 * 1024


@dataclass(frozen=True, slots=True)
class Incoming:
    """What came back, whatever its status."""

    status: int
    body: bytes


@dataclass(frozen=True, slots=True)
class Unanswered:
    """Nothing came back that counts, and why: a sentence for the log."""

    reason: str


class Outbound(Protocol):
    """Asks other servers."""

    async def send(self, outgoing: Outgoing) -> Incoming | Unanswered:
        """Ask once: by verified TLS, without following anything, and not where this node may not ask."""

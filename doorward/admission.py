"""Who may open a connection now: a decision by count, for one listener in one process.

Rules enforced here:

- So many connections at once, so many of them from one address, so many open handshakes at once, and so many of these
  from one address.
- An address counts as `iam.addresses` says: of IPv6 the /64.
"""

from collections import Counter
from enum import Enum

from iam.addresses import counted_address


class Refusal(Enum):
    """Why a connection is not admitted."""

    CONNECTIONS = "too many connections"
    CONNECTIONS_OF_ADDRESS = "too many connections from one address"
    HANDSHAKES = "too many open handshakes"
    HANDSHAKES_OF_ADDRESS = "too many open handshakes from one address"


class Admission:
    """How many connections and open handshakes there may be, counted for one listener in one process."""

    def __init__(
        self,
        *,
        max_connections: int,
        max_connections_per_address: int,
        max_handshakes: int,
        max_handshakes_per_address: int,
    ) -> None:
        self._max_connections = max_connections
        self._max_connections_per_address = max_connections_per_address
        self._max_handshakes = max_handshakes
        self._max_handshakes_per_address = max_handshakes_per_address
        self._connections_of: Counter[str] = Counter()
        self._handshakes_of: Counter[str] = Counter()
        self.connections = 0
        self.handshakes = 0
        self.refused: Counter[Refusal] = Counter()

    def enter(self, address: str) -> Refusal | None:
        """Count a new connection and its handshake, or say why it is refused."""
        refusal = self._refusal(address)
        if refusal is not None:
            self.refused[refusal] += 1
            return refusal
        self.connections += 1
        self.handshakes += 1
        self._connections_of[address] += 1
        self._handshakes_of[address] += 1
        return None

    def _refusal(self, address: str) -> Refusal | None:
        if self.connections >= self._max_connections:
            return Refusal.CONNECTIONS
        if self._connections_of[address] >= self._max_connections_per_address:
            return Refusal.CONNECTIONS_OF_ADDRESS
        if self._handshakes_of[address] >= self._max_handshakes_per_address:
            return Refusal.HANDSHAKES_OF_ADDRESS
        if self.handshakes >= self._max_handshakes:
            return Refusal.HANDSHAKES
        return None

    def end_handshake(self, address: str) -> None:
        """Count a handshake as over, whether it succeeded or not."""
        self.handshakes -= 1
        _count_down(self._handshakes_of, address)

    def leave(self, address: str) -> None:
        """Count a connection as gone."""
        self.connections -= 1
        _count_down(self._connections_of, address)


def _count_down(counts: Counter[str], address: str) -> None:
    """Take one away, and forget an address of which nothing is left."""
    counts[address] -= 1
    if not counts[address]:
        del counts[address]


def throttled_address(peername: object) -> str:
    """Return what the peer of a socket (as `getpeername` has it) is counted as; `local` for one without an address."""
    match peername:
        case (str(host), *_):
            return counted_address(host)
        case _:
            return "local"

"""Which connections the brokers hold, and under which name each runs.

1. The callout names a connection `<identity id>.<digest of its access control list>.<what it was proved by>`. The
   broker shows that name in its lists and events for as long as the connection lives, so what a connection was
   permitted, and why, can be read from the broker itself, by any node, also after a restart. (It does not show the tags
   of a user JWT that a callout made.)
2. A connection is one server's: a server's id and the number that it gave.
3. A name of any other form is not ours, and is no business of ours.
4. When a connection was accepted, its server says by its own clock, and also what that clock shows now. Only the
   difference is believed: the clocks of brokers and nodes need not agree, and may be set.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

from iam.access import Proof, read_proof
from iam.errors import Refused
from iam.identifiers import checked_identity_id

_DIGEST = re.compile(r"[0-9a-f]{16}")

_SILENCES = 10
"""Lists that a server may be missing from before it counts as gone, and its connections with it."""

Key = tuple[str, int]
"""A server's id, and its number for the connection."""


@dataclass(frozen=True, slots=True)
class Connection:
    """A live connection of ours.

    Attributes:
        accepted: When the server took it, before anybody proved anything, on our monotonic clock.
    """

    server: str
    number: int
    identity: str
    acl_digest: str
    proof: Proof
    accepted: float

    @property
    def key(self) -> Key:
        """What tells it from every other."""
        return (self.server, self.number)


def connection_name(identity: str, acl_digest: str, proof: Proof) -> str:
    """Return the name that a connection runs under (rule 1)."""
    return f"{identity}.{acl_digest}.{proof}"


def read_connection(
    server: str, number: object, name: object, accepted: object, told: object, now: float
) -> Connection | None:
    """Return a connection as a broker shows it, or nothing if its name is not of ours (rule 3).

    Args:
        accepted: When the broker took it, by the broker's clock.
        told: What that clock showed when the broker said so (rule 4).
        now: The same moment on our monotonic clock.
    """
    identity, _, rest = str(name).partition(".")
    acl_digest, _, proof = rest.partition(".")
    try:
        checked_identity_id(identity)
        proved = read_proof(proof)
        # What is finer than a microsecond is cut off.
        age = datetime.fromisoformat(str(told)) - datetime.fromisoformat(str(accepted))
    except (Refused, ValueError, TypeError):
        return None
    if not isinstance(number, int) or not _DIGEST.fullmatch(acl_digest):
        return None
    return Connection(server, number, identity, acl_digest, proved, now - max(0.0, age.total_seconds()))


class Connections:
    """All live connections, by identity."""

    def __init__(self) -> None:
        self._by_identity: dict[str, dict[Key, Connection]] = {}
        self._identity: dict[Key, str] = {}
        self._silences: dict[str, int] = {}

    def __len__(self) -> int:
        return len(self._identity)

    def __iter__(self) -> Iterator[Connection]:
        for held in self._by_identity.values():
            yield from held.values()

    @property
    def identities(self) -> tuple[str, ...]:
        """Everybody who is connected."""
        return tuple(self._by_identity)

    def has(self, key: Key) -> bool:
        """Tell whether a connection is there."""
        return key in self._identity

    def of(self, identity: str) -> tuple[Connection, ...]:
        """Return the connections of one identity."""
        return tuple(self._by_identity.get(identity, {}).values())

    def add(self, connection: Connection) -> None:
        """Note that a connection is there."""
        self.remove(connection.key)
        self._by_identity.setdefault(connection.identity, {})[connection.key] = connection
        self._identity[connection.key] = connection.identity

    def remove(self, key: Key) -> None:
        """Note that a connection is gone."""
        identity = self._identity.pop(key, None)
        if identity is None:
            return
        held = self._by_identity[identity]
        del held[key]
        if not held:
            del self._by_identity[identity]

    def replace(self, listed: Mapping[str, Sequence[Connection]], before: float) -> None:
        """Take each server's complete list for the truth about its connections accepted earlier than `before`.

        What a silent server holds is kept, since it may only be slow; after many lists without it, it is gone.
        """
        self._silences = {
            server: self._silences.get(server, 0) + 1
            for server in {each.server for each in self}
            if server not in listed
        }
        present = {connection.key for connections in listed.values() for connection in connections}
        gone = {server for server, silences in self._silences.items() if silences > _SILENCES}
        for each in list(self):
            missing = each.server in listed and each.key not in present and each.accepted < before
            if missing or each.server in gone:
                self.remove(each.key)
        for connections in listed.values():
            for connection in connections:
                self.add(connection)

"""What every store stands on: a transaction that knows its tenant, and the record of what it changed.

The rules:

1. A transaction names the tenant whose rows it may see; PostgreSQL's row-level security holds it to that. A transaction
   that names none sees nothing. `EVERYWHERE` is for what has no tenant yet: proving an identity, jobs of the node.
2. A change of state is recorded in the transaction that makes it: one line for the audit, one event for the outbox.
3. The changes of a transaction all happen at its `now`, and their identifiers count up: sorted, they stand in the order
   in which they were made.
4. A database that cannot be reached is a refusal (`Kind.UNAVAILABLE`), never a guess.
5. Whoever holds several rows holds them in one order: a device before its certificates, certificates by their serial
   numbers before their authorities, those by their ids. Should two collide all the same, the database undoes one of
   them whole (`Collided`), which may be done again.
"""

import logging
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from datetime import datetime
from functools import wraps
from typing import Any, Final, ParamSpec, Protocol, TypeVar
from uuid import UUID

import orjson

from iam.errors import Kind, Refused
from iam.identifiers import Random, uuid7

Arguments = ParamSpec("Arguments")
Result = TypeVar("Result")

_log = logging.getLogger("iam.store")

Row = Any
"""A row of asyncpg: read by column name at the edge of a store and nowhere else."""

_LEFTMOST_OF_RAND_B = 1 << 61


class Everywhere:
    """The type of `EVERYWHERE`."""

    def __str__(self) -> str:
        return "*"


EVERYWHERE: Final = Everywhere()
"""Every tenant's rows: for what has no tenant yet. Each use says why."""


@dataclass(frozen=True, slots=True)
class Change:
    """One change of state, as the audit and the rest of the platform will read it.

    Attributes:
        tenant: Whose state changed.
        actor: Who did it: an identity's id, or `doorward` for the node itself.
        kind: What happened, dotted and in the past tense: `pairing.created`, `certificate.revoked`.
        subject: To what: an identity's id, a device identifier, a serial number.
        data: Whatever else a reader needs; never a secret.
    """

    tenant: UUID
    actor: str
    kind: str
    subject: str
    data: dict[str, Any] = field(default_factory=dict)


class Connection(Protocol):
    """The part of an asyncpg connection that stores use."""

    async def fetch(self, query: str, *values: object) -> list[Row]:
        """Return all rows."""

    async def fetchrow(self, query: str, *values: object) -> Row | None:
        """Return the first row, if there is one."""

    async def fetchval(self, query: str, *values: object) -> Any:  # noqa: ANN401 - the column's own type
        """Return the first column of the first row."""

    async def execute(self, query: str, *values: object) -> str:
        """Run a statement and return its status line, such as `UPDATE 1`."""

    async def executemany(self, query: str, values: Sequence[Sequence[object]]) -> None:
        """Run a statement once for each row of values."""


class Transaction:
    """An open transaction in one tenant, or everywhere.

    Attributes:
        now: The moment at which all of it happens.
        changes: What was recorded; the database announces it after the commit.
    """

    RECORD = "SELECT record_change($1, $2, $3, $4, $5, $6, $7)"

    def __init__(self, connection: Connection, now: datetime, random: Random) -> None:
        self.connection = connection
        self.now = now
        self.changes: list[Change] = []
        self._random = random
        self._last_identifier: UUID | None = None

    async def fetch(self, query: str, *values: object) -> list[Row]:
        """Return all rows of `query`."""
        return await self.connection.fetch(query, *values)

    async def fetchrow(self, query: str, *values: object) -> Row | None:
        """Return the first row of `query`, if there is one."""
        return await self.connection.fetchrow(query, *values)

    async def fetchval(self, query: str, *values: object) -> Any:  # noqa: ANN401 - the column's own type
        """Return the first column of the first row of `query`."""
        return await self.connection.fetchval(query, *values)

    async def execute(self, query: str, *values: object) -> int:
        """Run a statement and return how many rows it touched."""
        status = await self.connection.execute(query, *values)
        last = status.rpartition(" ")[2]
        return int(last) if last.isdigit() else 0

    async def executemany(self, query: str, values: Sequence[Sequence[object]]) -> None:
        """Run a statement once for each row of values."""
        await self.connection.executemany(query, values)

    async def record(self, change: Change) -> UUID:
        """Write the audit line and the event of `change`, and return the id of both; they commit with the change."""
        identifier = self._next_identifier()
        data = orjson.dumps(change.data).decode()
        await self.connection.execute(
            self.RECORD, identifier, change.tenant, self.now, change.actor, change.kind, change.subject, data
        )
        self.changes.append(change)
        return identifier

    RECORD_ALL = """
        SELECT record_change(c.id, c.tenant, $1, c.actor, c.kind, c.subject, c.data::jsonb)
        FROM unnest($2::uuid[], $3::uuid[], $4::text[], $5::text[], $6::text[], $7::text[])
            AS c (id, tenant, actor, kind, subject, data)"""

    async def record_all(self, changes: Sequence[Change]) -> None:
        """Record many changes in one round trip."""
        if not changes:
            return
        await self.connection.execute(
            self.RECORD_ALL,
            self.now,
            [self._next_identifier() for _ in changes],
            [change.tenant for change in changes],
            [change.actor for change in changes],
            [change.kind for change in changes],
            [change.subject for change in changes],
            [orjson.dumps(change.data).decode() for change in changes],
        )
        self.changes.extend(changes)

    def _next_identifier(self) -> UUID:
        # RFC 9562 6.2, method 2: random at first, then one more; a leftmost bit of zero keeps it from rolling over.
        if self._last_identifier is None:
            self._last_identifier = UUID(int=uuid7(self.now, self._random).int & ~_LEFTMOST_OF_RAND_B)
        else:
            self._last_identifier = UUID(int=self._last_identifier.int + 1)
        return self._last_identifier


class Collided(Refused):
    """A transaction that was undone whole, since it and another waited for each other, or could not both be."""

    def __init__(self, reason: str) -> None:
        super().__init__(Kind.UNAVAILABLE, "Somebody else is changing the same.", reason=reason, retry_after=1)


def retried_once(act: Callable[Arguments, Awaitable[Result]]) -> Callable[Arguments, Awaitable[Result]]:
    """Make a coroutine function that is one transaction and nothing else begin again, once, if it collides (rule 5)."""

    @wraps(act)
    async def again(*args: Arguments.args, **kwargs: Arguments.kwargs) -> Result:
        try:
            return await act(*args, **kwargs)
        except Collided as collided:
            _log.info("%s is done again: %s", act.__qualname__, collided.reason)
            return await act(*args, **kwargs)

    return again


class Database(Protocol):
    """Where transactions come from. `doorward.database` has the one that runs."""

    def transaction(self, tenant: UUID | Everywhere) -> AbstractAsyncContextManager[Transaction]:
        """Open a transaction that sees the rows of `tenant`; it commits at the end unless an exception leaves it.

        Raises:
            Refused: (unavailable) The database cannot be reached, or gave no connection in time.
            Collided: Another transaction was in the way.
        """

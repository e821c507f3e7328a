"""PostgreSQL: the pool, transactions that know their tenant, and numbered migrations.

The rules:

1. Nodes connect as a role that owns no table and cannot bypass row-level security; `check_role` refuses to start as
   any other, since both walls would be one.
2. Every transaction sets `doorward.tenant` before its first statement, in the same round trip as BEGIN.
3. Migrations run in order under an advisory lock, each in its own transaction, as the owner; one that was applied and
   has since been edited stops the start-up.
"""

import hashlib
import re
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from importlib import resources
from typing import Any, Self
from uuid import UUID

import asyncpg

from doorward.connections import Connections, is_usable
from iam.errors import Kind, Refused
from iam.identifiers import Clock, Random
from iam.store.database import Change, Collided, Everywhere, Row, Transaction

_CONNECT_SECONDS = 5.0
_STATEMENT_SECONDS = 15.0
_MIGRATION_LOCK = 0x646F6F72  # "door"
_MIGRATION_NAME = re.compile(r"(\d{4})_[a-z0-9_]+\.sql")

_UNREACHABLE = (
    OSError,
    TimeoutError,
    asyncpg.PostgresConnectionError,
    asyncpg.InterfaceError,
    asyncpg.InternalClientError,  # the server ended while the connection was between two statements of a transaction
    asyncpg.CannotConnectNowError,
    asyncpg.AdminShutdownError,
    asyncpg.CrashShutdownError,
    asyncpg.InsufficientResourcesError,  # connections, memory, the disk
    asyncpg.PostgresSystemError,  # its own files fail it
    asyncpg.ReadOnlySQLTransactionError,
)

_COLLIDED = (asyncpg.DeadlockDetectedError, asyncpg.SerializationError)


class Pool:
    """The one that implements `iam.store.database.Database`."""

    def __init__(self, pool: Any, clock: Clock, random: Random) -> None:  # noqa: ANN401 - asyncpg has no types
        self._connections = Connections(pool, wait_seconds=_CONNECT_SECONDS)
        self._clock = clock
        self._random = random
        self._listeners: list[Callable[[Sequence[Change]], None]] = []

    @classmethod
    async def connect(cls, url: str, clock: Clock, random: Random, *, size: int) -> Self:
        """Open a pool of at most `size` connections; raise `Refused` (unavailable) if the database is not there."""
        try:
            pool = await asyncpg.create_pool(
                url,
                min_size=1,
                max_size=size,
                timeout=_CONNECT_SECONDS,
                command_timeout=_STATEMENT_SECONDS,
                server_settings={"application_name": "doorward", "timezone": "UTC"},
                reset=_end_transaction,
            )
        except (*_UNREACHABLE, asyncpg.PostgresError) as error:
            raise _unavailable(error) from error
        return cls(pool, clock, random)

    async def close(self) -> None:
        """Close every connection, once it is idle."""
        await self._connections.close()

    async def ping(self) -> None:
        """Ask the database for nothing; raise `Refused` (unavailable) if it does not answer."""
        try:
            async with self._connections.one() as connection:
                await connection.fetchval("SELECT 1")
        except _UNREACHABLE as error:
            raise _unavailable(error) from error

    def announce_to(self, listener: Callable[[Sequence[Change]], None]) -> None:
        """Call `listener` with what was recorded, after each commit that recorded something."""
        self._listeners.append(listener)

    @asynccontextmanager
    async def transaction(self, tenant: UUID | Everywhere) -> AsyncIterator[Transaction]:
        """Open a transaction that sees the rows of `tenant`.

        Raises:
            Refused: (unavailable) The database cannot be reached, or gave no connection in time.
            Collided: Another transaction was in the way, and this one was undone.
        """
        try:
            async with self._connections.one() as connection:
                transaction = Transaction(connection, self._clock(), self._random)
                # A UUID or '*': neither can end the literal.
                await connection.execute(f"BEGIN; SET LOCAL doorward.tenant = '{tenant}'")
                try:
                    yield transaction
                except BaseException:
                    if is_usable(connection):
                        await connection.execute("ROLLBACK")
                    raise
                await connection.execute("COMMIT")
        except _COLLIDED as error:
            raise Collided(f"{type(error).__name__}: {error}") from error
        except _UNREACHABLE as error:
            raise _unavailable(error) from error
        self._announce(transaction.changes)

    async def statement(self, query: str, *values: object, changes: Callable[[Row], Sequence[Change]]) -> Row:
        """Run one statement that is a transaction of its own, in one round trip, and return its row after the commit.

        Args:
            query: Calls a function of ours that runs as the owner of the tables and keeps to the tenant by itself.
            changes: What the row tells of, to be announced.

        Raises:
            Refused: (unavailable) The database cannot be reached.
        """
        try:
            async with self._connections.one() as connection:
                row = await connection.fetchrow(query, *values)
        except _UNREACHABLE as error:
            raise _unavailable(error) from error
        self._announce(changes(row))
        return row

    def _announce(self, changes: Sequence[Change]) -> None:
        if changes:
            for listener in self._listeners:
                listener(changes)

    @asynccontextmanager
    async def leadership(self, lock: int) -> AsyncIterator[Callable[[], Awaitable[bool]]]:
        """Try to take an advisory lock; gives a question that tells whether it is (still) held.

        The lock lives in its own connection and goes with it.
        """
        try:
            async with self._connections.one() as connection:
                taken = bool(await connection.fetchval("SELECT pg_try_advisory_lock($1)", lock))

                async def is_held() -> bool:
                    return taken and await connection.fetchval("SELECT 1") == 1

                try:
                    yield is_held
                finally:
                    if taken and is_usable(connection):
                        await connection.execute("SELECT pg_advisory_unlock($1)", lock)
        except _UNREACHABLE as error:
            raise _unavailable(error) from error

    async def check_role(self) -> None:
        """Raise `Refused` (invalid) if the node's role could look over the wall of row-level security."""
        async with self._connections.one() as connection:
            row = await connection.fetchrow(
                "SELECT r.rolsuper, r.rolbypassrls, EXISTS (SELECT FROM pg_class c WHERE c.relowner = r.oid"
                " AND c.relkind = 'r') AS owns FROM pg_roles r WHERE r.rolname = current_user"
            )
        if row["rolsuper"] or row["rolbypassrls"] or row["owns"]:
            raise Refused(
                Kind.INVALID,
                "The database role of the nodes must own no table, be no superuser and not bypass row-level security.",
            )


@dataclass(frozen=True, slots=True)
class Migration:
    """One numbered file of `doorward/migrations`."""

    number: int
    name: str
    sql: str

    @property
    def sha256(self) -> bytes:
        """What is remembered of it, so that a later edit is noticed."""
        return hashlib.sha256(self.sql.encode()).digest()


def migrations() -> list[Migration]:
    """Return the packaged migrations, in order."""
    found = []
    for entry in resources.files("doorward").joinpath("migrations").iterdir():
        match = _MIGRATION_NAME.fullmatch(entry.name)
        if match:
            found.append(Migration(int(match[1]), entry.name, entry.read_text(encoding="utf-8")))
    return sorted(found, key=lambda one: one.number)


async def migrate(owner_url: str, node_role: str) -> int:
    """Bring the schema up to date and give `node_role` its rights; return how many migrations were applied.

    Raises:
        Refused: (unavailable) The database cannot be reached. (conflict) A migration that was applied has been edited
            since, or the database is newer than this program.
    """
    try:
        connection = await asyncpg.connect(owner_url, timeout=_CONNECT_SECONDS)
    except (*_UNREACHABLE, asyncpg.PostgresError) as error:
        raise _unavailable(error) from error
    try:
        await connection.execute("SELECT pg_advisory_lock($1)", _MIGRATION_LOCK)
        applied = await _apply_missing(connection)
        if applied:
            await _grant(connection, node_role)
        return applied
    finally:
        await connection.close()


async def _apply_missing(connection: Any) -> int:  # noqa: ANN401 - asyncpg has no types
    await connection.execute(
        "CREATE TABLE IF NOT EXISTS schema_migration (number integer PRIMARY KEY, name text NOT NULL,"
        " sha256 bytea NOT NULL, applied_at timestamptz NOT NULL DEFAULT now())"
    )
    known = {row["number"]: row for row in await connection.fetch("SELECT number, name, sha256 FROM schema_migration")}
    packaged = migrations()
    newer = set(known) - {one.number for one in packaged}
    if newer:
        raise Refused(Kind.CONFLICT, f"The database is newer than this program: it has migration {max(newer):04}.")
    applied = 0
    for one in packaged:
        if one.number in known:
            if known[one.number]["sha256"] != one.sha256:
                raise Refused(Kind.CONFLICT, f"Migration {one.name} was applied and has been edited since.")
            continue
        async with connection.transaction():
            await connection.execute(one.sql)
            await connection.execute(
                "INSERT INTO schema_migration (number, name, sha256) VALUES ($1, $2, $3)",
                one.number,
                one.name,
                one.sha256,
            )
        applied += 1
    return applied


async def _grant(connection: Any, node_role: str) -> None:  # noqa: ANN401 - asyncpg has no types
    role = '"' + node_role.replace('"', '""') + '"'
    await connection.execute(
        f"GRANT USAGE ON SCHEMA public TO {role};"
        f"GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA public TO {role};"
        f"GRANT EXECUTE ON ALL FUNCTIONS IN SCHEMA public TO {role};"
        # What is in the audit stays as it is.
        f"REVOKE UPDATE, DELETE ON audit FROM {role};"
        f"REVOKE INSERT, UPDATE, DELETE ON schema_migration FROM {role};"
    )


async def _end_transaction(connection: Any) -> None:  # noqa: ANN401 - asyncpg has no types
    """Leave nothing open on a connection that goes back to the pool; costs no round trip where nothing is."""
    if connection.is_in_transaction():
        await connection.execute("ROLLBACK")


def _unavailable(error: BaseException) -> Refused:
    return Refused(
        Kind.UNAVAILABLE, "The store cannot be reached.", reason=f"{type(error).__name__}: {error}", retry_after=2
    )

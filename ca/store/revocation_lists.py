"""Revocation lists in SQL: what they hold, those that were made, and reading one in parts."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

from ca.crl import Head, RevocationList
from ca.partition import Partition
from iam.store.database import Row, Transaction

_STANDING = """
    SELECT id, list_partitions,
           (SELECT coalesce(max(number), 0) FROM revocation WHERE authority_id = authority.id) AS newest
    FROM authority"""


@dataclass(frozen=True, slots=True)
class ListStanding:
    """What an authority's lists have to say.

    Attributes:
        newest: The number of the newest change; 0 before there is any.
        counts: Into how many partitions its lists were ever cut, the present number last.
    """

    newest: int
    counts: tuple[int, ...]


async def list_standings(transaction: Transaction) -> dict[UUID, ListStanding]:
    """Return the standing of each authority."""
    return {
        row["id"]: ListStanding(row["newest"], tuple(row["list_partitions"]))
        for row in await transaction.fetch(_STANDING)
    }


_NEWEST_BY_SLOT = """
    SELECT slot, max(number) AS newest FROM revocation WHERE authority_id = $1 AND number > $2 GROUP BY slot"""


async def newest_by_slot(transaction: Transaction, authority: UUID, after: int) -> dict[int, int]:
    """Return the number of the newest change in each slot that has one after that number."""
    rows = await transaction.fetch(_NEWEST_BY_SLOT, authority, after)
    return {row["slot"]: row["newest"] for row in rows}


_HEADS = """
    SELECT scope.partitions, scope.partition, kind.is_delta, list.number, list.this_update, list.next_update,
           list.revocation_number, list.seconds
    FROM unnest($2::smallint[], $3::smallint[]) AS scope (partitions, partition)
    CROSS JOIN (VALUES (false), (true)) AS kind (is_delta)
    CROSS JOIN LATERAL (
        SELECT * FROM revocation_list
        WHERE authority_id = $1 AND partitions = scope.partitions AND partition = scope.partition
          AND (base_number IS NOT NULL) = kind.is_delta
        ORDER BY number DESC LIMIT 1) AS list"""


@dataclass(frozen=True, slots=True)
class Heads:
    """The newest lists of one scope."""

    complete: Head | None = None
    delta: Head | None = None

    @property
    def number(self) -> int:
        """The last number that was given to a list."""
        return max((one.number for one in (self.complete, self.delta) if one is not None), default=0)


async def list_heads(
    transaction: Transaction, authority: UUID, partitions: Sequence[Partition]
) -> Mapping[Partition, Heads]:
    """Return the newest lists of each of these partitions."""
    counts, indexes = [one.count for one in partitions], [one.index for one in partitions]
    found: dict[tuple[Partition, bool], Head] = {
        (Partition(row["partitions"], row["partition"]), row["is_delta"]): _head_from(row)
        for row in await transaction.fetch(_HEADS, authority, counts, indexes)
    }
    return {one: Heads(found.get((one, False)), found.get((one, True))) for one in partitions}


def _head_from(row: Row) -> Head:
    return Head(row["number"], row["this_update"], row["next_update"], row["revocation_number"], row["seconds"])


_LOCK = "SELECT pg_advisory_xact_lock(hashtextextended($1, 0))"
_NEWEST = "SELECT coalesce(max(number), 0) FROM revocation WHERE authority_id = $1"


async def lock_lists(transaction: Transaction, authority: UUID, partition: Partition) -> int:
    """Wait until nobody else makes a list of this scope, and return the number of the authority's newest change.

    Nobody who revokes waits for this. What has that number or a smaller one is committed, and so is in whatever is read
    from here on.
    """
    await transaction.execute(_LOCK, f"revocation list {authority} {partition.count} {partition.index}")
    return int(await transaction.fetchval(_NEWEST, authority))


_ENTRIES = """
    SELECT string_agg(entry, '') FROM revocation
    WHERE authority_id = $1 AND slot BETWEEN $2 AND $3 AND not_after >= $4 AND NOT is_released"""
_SLOTS_AT_ONCE = 128  # few statements, since each reads much of the table; and no value of more than 1 GB


async def complete_entries(
    transaction: Transaction, authority: UUID, partition: Partition, ended_after: datetime
) -> list[bytes]:
    """Return the entries of what is revoked or held and had not ended at that time, in pieces of DER."""
    slots = partition.slots
    pieces = [
        await transaction.fetchval(_ENTRIES, authority, first, min(first + _SLOTS_AT_ONCE, slots.stop) - 1, ended_after)
        for first in range(slots.start, slots.stop, _SLOTS_AT_ONCE)
    ]
    return [piece for piece in pieces if piece]


_BASE = """
    SELECT number, this_update, next_update, revocation_number, seconds FROM revocation_list
    WHERE authority_id = $1 AND partitions = $2 AND partition = $3 AND (base_number IS NOT NULL) = false
      AND next_update > $4
    ORDER BY number LIMIT 1"""


async def delta_base(transaction: Transaction, authority: UUID, partition: Partition) -> Head | None:
    """Return the oldest complete list that has not ended."""
    row = await transaction.fetchrow(_BASE, authority, partition.count, partition.index, transaction.now)
    return _head_from(row) if row else None


_CHANGES = """
    SELECT string_agg(entry, '') FROM revocation WHERE authority_id = $1 AND number > $2 AND slot BETWEEN $3 AND $4"""


async def delta_entries(transaction: Transaction, authority: UUID, partition: Partition, after: int) -> list[bytes]:
    """Return the entries of what changed after that number, in DER."""
    slots = partition.slots
    found = await transaction.fetchval(_CHANGES, authority, after, slots.start, slots.stop - 1)
    return [found] if found else []


_INSERT = """
    INSERT INTO revocation_list (authority_id, partitions, partition, number, base_number, this_update, next_update,
                                 revocation_number, seconds, crl)
    VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10)"""
_EMPTY = """
    UPDATE revocation_list SET crl = NULL
    WHERE authority_id = $1 AND partitions = $2 AND partition = $3 AND (base_number IS NOT NULL) = false
      AND number < $4 AND crl IS NOT NULL"""
_FORGET = """
    DELETE FROM revocation_list
    WHERE authority_id = $1 AND partitions = $2 AND partition = $3 AND number < $4
      AND (base_number IS NOT NULL) = $5 AND (base_number IS NOT NULL OR next_update <= $6)"""


async def insert_list(
    transaction: Transaction,
    authority: UUID,
    partition: Partition,
    content: RevocationList,
    *,
    revocation_number: int,
    seconds: float,
) -> None:
    """Store a new list.

    Of those before it that are complete, what is known is kept until they end, for they may be the base of a delta.
    """
    scope = (authority, partition.count, partition.index)
    await transaction.execute(
        _INSERT,
        *scope,
        content.number,
        content.base_number,
        content.this_update,
        content.next_update,
        revocation_number,
        seconds,
        content.der,
    )
    is_delta = content.base_number is not None
    if not is_delta:
        await transaction.execute(_EMPTY, *scope, content.number)
    await transaction.execute(_FORGET, *scope, content.number, is_delta, transaction.now)


_FORGET_ENDED = "DELETE FROM revocation WHERE authority_id = $1 AND not_after < $2"


async def forget_ended(transaction: Transaction, authority: UUID, ended_before: datetime) -> None:
    """Forget the entries of certificates that had ended before, so that no list has them any more."""
    await transaction.execute(_FORGET_ENDED, authority, ended_before)


_NEWEST_LIST = """
    SELECT number, this_update, next_update, base_number, octet_length(crl) AS size FROM revocation_list
    WHERE authority_id = $1 AND partitions = $2 AND partition = $3 AND (base_number IS NOT NULL) = $4
    ORDER BY number DESC LIMIT 1"""
_PART = """
    SELECT substring(crl FROM $6 FOR $7) FROM revocation_list
    WHERE authority_id = $1 AND partitions = $2 AND partition = $3 AND (base_number IS NOT NULL) = $4 AND number = $5"""
_PART_BYTES = 4 << 20


@dataclass(frozen=True, slots=True)
class StoredList:
    """A list in the store, not read yet."""

    number: int
    this_update: datetime
    next_update: datetime
    base_number: int | None
    size: int


async def newest_list(
    transaction: Transaction, authority: UUID, partition: Partition, *, is_delta: bool
) -> StoredList | None:
    """Return the newest list of a scope."""
    row = await transaction.fetchrow(_NEWEST_LIST, authority, partition.count, partition.index, is_delta)
    if row is None or row["size"] is None:
        return None
    return StoredList(row["number"], row["this_update"], row["next_update"], row["base_number"], row["size"])


async def read_list(
    transaction: Transaction, authority: UUID, partition: Partition, one: StoredList
) -> RevocationList | None:
    """Read a list in parts; None if it was replaced meanwhile."""
    scope = (authority, partition.count, partition.index, one.base_number is not None, one.number)
    der = bytearray()
    while len(der) < one.size:
        part = await transaction.fetchval(_PART, *scope, len(der) + 1, _PART_BYTES)
        if not part:
            return None
        der += part
    return RevocationList(bytes(der), one.number, one.this_update, one.next_update, one.base_number)


_LOCK_COUNTS = "SELECT list_partitions FROM authority WHERE id = $1 FOR NO KEY UPDATE"
_SET_COUNTS = "UPDATE authority SET list_partitions = $2 WHERE id = $1"


async def lock_counts(transaction: Transaction, authority: UUID) -> tuple[int, ...]:
    """Return into how many partitions an authority's lists were ever cut, and keep others from changing that."""
    return tuple(await transaction.fetchval(_LOCK_COUNTS, authority))


async def set_counts(transaction: Transaction, authority: UUID, counts: tuple[int, ...]) -> None:
    """Store into how many partitions an authority's lists were ever cut, the present number last."""
    await transaction.execute(_SET_COUNTS, authority, list(counts))

"""Revocation lists in SQL: what they hold, and those that were made."""

from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

from ca.crl import RevocationList, Revoked
from ca.inventory import RevocationReason
from iam.store.database import Transaction

_LOCK_AUTHORITY = "SELECT FROM authority WHERE id = $1 FOR NO KEY UPDATE"
_REVOCATIONS = "SELECT coalesce(max(number), 0) FROM revocation WHERE authority_id = $1"
_LATEST_LIST = """
    SELECT number, this_update, next_update, revocation_number, crl
    FROM revocation_list WHERE authority_id = $1 ORDER BY number DESC LIMIT 1"""


@dataclass(frozen=True, slots=True)
class PublishedList:
    """A list, and the count of revocations that it was made at."""

    content: RevocationList
    revocations: int


async def lock_revocations(transaction: Transaction, authority: UUID) -> int:
    """Wait for revocations that are being written, keep others out until the end, and return how many there were."""
    await transaction.execute(_LOCK_AUTHORITY, authority)
    return await count_revocations(transaction, authority)


async def count_revocations(transaction: Transaction, authority: UUID) -> int:
    """Return how many revocations there were, those being written aside."""
    return int(await transaction.fetchval(_REVOCATIONS, authority))


async def latest_list(transaction: Transaction, authority: UUID) -> PublishedList | None:
    """Return the newest list of an authority."""
    row = await transaction.fetchrow(_LATEST_LIST, authority)
    if row is None:
        return None
    content = RevocationList(row["crl"], row["number"], row["this_update"], row["next_update"])
    return PublishedList(content, row["revocation_number"])


_REVOKED = """
    SELECT serial, revoked_at, revocation_reason FROM certificate
    WHERE authority_id = $1 AND status = 'revoked' AND not_after >= $2 ORDER BY serial"""


async def list_revoked(transaction: Transaction, authority: UUID, ended_after: datetime) -> list[Revoked]:
    """Return the revoked certificates of an authority that had not ended at that time."""
    return [
        Revoked(row["serial"], row["revoked_at"], RevocationReason(row["revocation_reason"]))
        for row in await transaction.fetch(_REVOKED, authority, ended_after)
    ]


_INSERT_LIST = """
    INSERT INTO revocation_list (authority_id, number, this_update, next_update, revocation_number, crl)
    VALUES ($1, $2, $3, $4, $5, $6)"""
_FORGET_LISTS = "DELETE FROM revocation_list WHERE authority_id = $1 AND number <= $2"
_LISTS_KEPT = 3


async def insert_list(transaction: Transaction, authority: UUID, content: RevocationList, revocations: int) -> None:
    """Store a new list and forget the oldest; the newest is always kept, so that numbers rise."""
    await transaction.execute(
        _INSERT_LIST,
        authority,
        content.number,
        content.this_update,
        content.next_update,
        revocations,
        content.der,
    )
    await transaction.execute(_FORGET_LISTS, authority, content.number - _LISTS_KEPT)

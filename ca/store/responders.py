"""OCSP in SQL: who answers, how certificates stand, and what has become of any since one last looked."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from uuid import UUID

from ca.inventory import RevocationReason
from ca.ocsp import Revoked, Standing
from iam.store.database import Transaction

_NEWEST = """
    SELECT id, certificate, key_sealed, not_before, not_after FROM status_responder
    WHERE authority_id = $1 AND not_before <= $2 AND not_after > $2 ORDER BY not_after DESC LIMIT 1"""


@dataclass(frozen=True, slots=True)
class StoredResponder:
    """A responder's certificate and key as the store has them."""

    id: UUID
    authority: UUID
    certificate: bytes
    key_sealed: bytes = field(repr=False)
    not_before: datetime
    not_after: datetime


async def newest_responder(transaction: Transaction, authority: UUID) -> StoredResponder | None:
    """Return the responder of an authority that ends last, of those that have begun and not ended."""
    row = await transaction.fetchrow(_NEWEST, authority, transaction.now)
    if row is None:
        return None
    return StoredResponder(
        row["id"], authority, row["certificate"], row["key_sealed"], row["not_before"], row["not_after"]
    )


_HALVES = """
    SELECT authority_id, max(not_before + (not_after - not_before) / 2) AS half FROM status_responder
    WHERE not_before <= $1 GROUP BY authority_id"""


async def responders_half(transaction: Transaction) -> Mapping[UUID, datetime]:
    """Return when half of the life of each authority's last responder is over; without those that have none yet."""
    return {row["authority_id"]: row["half"] for row in await transaction.fetch(_HALVES, transaction.now)}


_ENDS = "SELECT authority_id, max(not_after) AS ends FROM status_responder GROUP BY authority_id"


async def responders_end(transaction: Transaction) -> Mapping[UUID, datetime]:
    """Return when each authority's last responder ends; without those that never had any."""
    return {row["authority_id"]: row["ends"] for row in await transaction.fetch(_ENDS)}


_LOCK = "SELECT pg_advisory_xact_lock(hashtextextended($1, 0))"


async def lock_responder(transaction: Transaction, authority: UUID) -> None:
    """Wait until nobody else makes a responder for this authority."""
    await transaction.execute(_LOCK, f"status responder {authority}")


_INSERT = """
    INSERT INTO status_responder (id, authority_id, certificate, key_sealed, not_before, not_after)
    VALUES ($1, $2, $3, $4, $5, $6)"""
_FORGET = "DELETE FROM status_responder WHERE authority_id = $1 AND not_after <= $2"


async def insert_responder(transaction: Transaction, one: StoredResponder) -> None:
    """Store a new responder, and forget those that have ended."""
    await transaction.execute(
        _INSERT, one.id, one.authority, one.certificate, one.key_sealed, one.not_before, one.not_after
    )
    await transaction.execute(_FORGET, one.authority, transaction.now)


_STANDINGS = """
    SELECT serial, status, revoked_at, revocation_reason FROM certificate
    WHERE authority_id = $1 AND serial = ANY ($2)"""


async def standings(
    transaction: Transaction, authority: UUID, serials: Sequence[bytes]
) -> Mapping[bytes, Standing | Revoked]:
    """Return how the certificates of an authority stand; what it never issued is not among them."""
    return {
        row["serial"]: Revoked(row["revoked_at"], RevocationReason(row["revocation_reason"] or "unspecified"))
        if row["status"] == "revoked"
        else Standing.GOOD
        for row in await transaction.fetch(_STANDINGS, authority, serials)
    }


_CHANGED = """
    SELECT r.authority_id, r.serial, r.number FROM unnest($1::uuid[], $2::bigint[]) AS known (id, number)
    JOIN revocation r ON r.authority_id = known.id AND r.number > known.number
    LIMIT $3"""


@dataclass(frozen=True, slots=True)
class StandingChanged:
    """That something became of a certificate, and its number among the changes of its authority."""

    authority: UUID
    serial: bytes
    number: int


async def changes_since(transaction: Transaction, known: Mapping[UUID, int], limit: int) -> list[StandingChanged]:
    """Return what became of certificates after these numbers, so many at most, in no order."""
    rows = await transaction.fetch(_CHANGED, list(known), list(known.values()), limit)
    return [StandingChanged(row["authority_id"], row["serial"], row["number"]) for row in rows]

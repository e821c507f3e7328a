"""Revocations of many in SQL: their rows, and the devices and certificates that their filters mean."""

from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime
from uuid import UUID

from ca.bulk import LONGEST_PAUSE, BulkRevocation, BulkStatus
from ca.inventory import RevocationReason
from ca.store.authorities import lock_issuers
from iam.listing import FieldKind, ListQuery, read_filters
from iam.model import Extent
from iam.paging import Page
from iam.store.database import Row, Transaction
from iam.store.device_lists import DEVICES
from iam.store.listing import Column, Listing, count_of_list, page_of_list

_COLUMNS = """id, tenant_id, actor, filters, reason, status, devices, devices_done, certificates, place, why_stopped,
    created_at, updated_at, failures, next_try_at, last_failure"""

BULK_REVOCATIONS = Listing(
    select=_COLUMNS,
    source="FROM bulk_revocation",
    columns={
        "id": Column(FieldKind.UUID, "id"),
        "status": Column(FieldKind.ENUM, "status", values=tuple(BulkStatus), is_sortable=False),
        "actor": Column(FieldKind.TEXT, "actor", is_sortable=False),
        "created_at": Column(FieldKind.DATE, "created_at"),
    },
    key="id",
)

_INSERT = f"""
    INSERT INTO bulk_revocation ({_COLUMNS})
    VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16)"""


async def insert(transaction: Transaction, one: BulkRevocation) -> None:
    """Store one that begins."""
    await transaction.execute(
        _INSERT,
        one.id,
        one.tenant,
        one.actor,
        list(one.filters),
        one.reason,
        one.status,
        one.devices,
        one.devices_done,
        one.certificates,
        one.place,
        one.why_stopped,
        one.created,
        one.updated,
        one.failures,
        one.next_try,
        one.last_failure,
    )


_BY_ID = f"SELECT {_COLUMNS} FROM bulk_revocation WHERE id = $1"
_BY_ID_LOCKED = f"{_BY_ID} FOR UPDATE"
_BY_ID_TAKEN = f"{_BY_ID} FOR UPDATE SKIP LOCKED"
# What is to wait for longer than anything does was put off by a clock that was ahead: it does not wait.
_DUE = f"""
    SELECT {_COLUMNS} FROM bulk_revocation
    WHERE status = 'RUNNING' AND (next_try_at IS NULL OR next_try_at <= $1 OR next_try_at > $2) ORDER BY created_at"""


async def find(transaction: Transaction, identifier: UUID) -> BulkRevocation | None:
    """Return one, if this transaction may see it."""
    row = await transaction.fetchrow(_BY_ID, identifier)
    return _from(row) if row else None


async def lock(transaction: Transaction, identifier: UUID) -> BulkRevocation | None:
    """Return one and hold it until the end of the transaction."""
    row = await transaction.fetchrow(_BY_ID_LOCKED, identifier)
    return _from(row) if row else None


async def take(transaction: Transaction, identifier: UUID) -> BulkRevocation | None:
    """Return one and hold it until the end of the transaction, unless somebody else holds it."""
    row = await transaction.fetchrow(_BY_ID_TAKEN, identifier)
    return _from(row) if row else None


async def due(transaction: Transaction) -> list[BulkRevocation]:
    """Return those that have something to do now, oldest first."""
    now = transaction.now
    return [_from(row) for row in await transaction.fetch(_DUE, now, now + LONGEST_PAUSE)]


async def page(
    transaction: Transaction, tenant: UUID, query: ListQuery, *, only_actor: str | None
) -> Page[BulkRevocation]:
    """Return a page of a tenant's, or of one actor's in it."""
    where = "tenant_id = $1 AND actor = coalesce($2::text, actor)"
    found = await page_of_list(transaction, BULK_REVOCATIONS, query, where, tenant, only_actor)
    return Page(tuple(_from(row) for row in found.items), found.next)


_ADVANCE = """
    UPDATE bulk_revocation
    SET place = $2, devices_done = devices_done + $3, certificates = certificates + $4, updated_at = $5,
        failures = 0, next_try_at = NULL, last_failure = NULL
    WHERE id = $1"""
_POSTPONE = """
    UPDATE bulk_revocation SET failures = failures + 1, next_try_at = $2, last_failure = $3, updated_at = $4
    WHERE id = $1"""
_FINISH = """
    UPDATE bulk_revocation SET status = $2, why_stopped = $3, updated_at = $4, next_try_at = NULL WHERE id = $1"""
_RESUME = """
    UPDATE bulk_revocation SET status = 'RUNNING', why_stopped = NULL, updated_at = $2, failures = 0,
        next_try_at = NULL, last_failure = NULL
    WHERE id = $1"""


async def advance(transaction: Transaction, identifier: UUID, place: str, devices: int, certificates: int) -> None:
    """Note a batch: the last device that is done, and how many devices and certificates are more."""
    await transaction.execute(_ADVANCE, identifier, place, devices, certificates, transaction.now)


async def postpone(transaction: Transaction, identifier: UUID, next_try: datetime | None, why: str) -> None:
    """Note that a batch failed, by what, and when it is to be tried again."""
    await transaction.execute(_POSTPONE, identifier, next_try, why, transaction.now)


async def resume(transaction: Transaction, identifier: UUID) -> None:
    """Let one that has ended go on where it ended."""
    await transaction.execute(_RESUME, identifier, transaction.now)


async def finish(transaction: Transaction, identifier: UUID, status: BulkStatus, why: str | None) -> None:
    """End one."""
    await transaction.execute(_FINISH, identifier, status, why, transaction.now)


# What `RevocationService.revoke_all` revokes, and what it holds. Every other column here is the device's.
_LIVE = """
    JOIN LATERAL (SELECT FROM certificate
                  WHERE certificate.identity_id = device.identity_id AND {condition}) AS live ON true"""
_REVOCABLE = _LIVE.format(
    condition="(certificate.status <> 'revoked' OR certificate.revocation_reason = 'certificateHold')"
)
_HOLDABLE = _LIVE.format(condition="certificate.status = 'active'")


async def count(
    transaction: Transaction, tenant: UUID, filters: Sequence[str], extent: Extent, reason: RevocationReason
) -> tuple[int, int]:
    """Return how many devices pass the filters, and how many certificates they have that would be revoked, or held.

    Raises:
        Refused: (malformed) A filter. (invalid) It takes too long.
    """
    checked = read_filters(filters, DEVICES.columns)
    where, values = _reached(tenant, extent)
    joined = _HOLDABLE if reason is RevocationReason.CERTIFICATE_HOLD else _REVOCABLE
    with_certificates = replace(DEVICES, source=f"{DEVICES.source} {joined}")
    return (
        await count_of_list(transaction, DEVICES, checked, where, *values),
        await count_of_list(transaction, with_certificates, checked, where, *values),
    )


async def devices_after(
    transaction: Transaction, tenant: UUID, filters: Sequence[str], extent: Extent, place: str, most: int
) -> list[str]:
    """Return the next devices behind `place` that pass the filters; raises as `count`."""
    where, values = _reached(tenant, extent)
    query = ListQuery(page_size=most, filter=list(filters), sort_by=DEVICES.key)
    narrow = replace(DEVICES, select="device_identifier")
    found = await page_of_list(
        transaction, narrow, query, f"{where} AND device_identifier > ${len(values) + 1}", *values, place
    )
    return [row["device_identifier"] for row in found.items]


# All of a batch at once and in this order, before anything is revoked (`iam.store.database`, rule 5): devices, their
# certificates, the authorities of those.
_LOCK = """
    SELECT identity_id FROM device WHERE device_identifier = ANY ($1::text[]) AND identity_id IS NOT NULL
    ORDER BY device_identifier FOR UPDATE"""
_LOCK_CERTIFICATES = """
    SELECT serial FROM certificate
    WHERE identity_id = ANY ($1::text[]) AND (status <> 'revoked' OR revocation_reason = 'certificateHold')
    ORDER BY serial FOR UPDATE"""


async def lock_identities(transaction: Transaction, devices: Sequence[str]) -> list[str]:
    """Hold devices and what they have until the end of the transaction; return the identities of those with one."""
    identities = [row["identity_id"] for row in await transaction.fetch(_LOCK, list(devices))]
    serials = [row["serial"] for row in await transaction.fetch(_LOCK_CERTIFICATES, identities)]
    await lock_issuers(transaction, serials)
    return identities


def _reached(tenant: UUID, extent: Extent) -> tuple[str, tuple[object, ...]]:
    if extent.everything:
        return "tenant_id = $1", (tenant,)
    return "tenant_id = $1 AND device_identifier = ANY ($2::text[])", (tenant, sorted(extent.names))


def _from(row: Row) -> BulkRevocation:
    return BulkRevocation(
        id=row["id"],
        tenant=row["tenant_id"],
        actor=row["actor"],
        filters=tuple(row["filters"]),
        reason=RevocationReason(row["reason"]),
        status=BulkStatus(row["status"]),
        devices=row["devices"],
        devices_done=row["devices_done"],
        certificates=row["certificates"],
        place=row["place"],
        why_stopped=row["why_stopped"],
        created=row["created_at"],
        updated=row["updated_at"],
        failures=row["failures"],
        next_try=row["next_try_at"],
        last_failure=row["last_failure"],
    )

"""The life cycle in SQL: which devices have a certificate that was not looked at, and which have come to an age.

Both are found by ranges of indexes that hold nothing else, so a run costs what there is to do, however many devices
there are. Rows that somebody else is changing are left for the next run: nobody waits for the life cycle, and it waits
for nobody.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

from iam.life_cycle import BY_AGE, Windows
from iam.model import DeviceStatus
from iam.store.database import Row, Transaction

_AGED = ", ".join(f"'{status}'" for status in BY_AGE)

# Whose certificate is on hold comes to no age: it is looked at again once that is released.
_LOOK = f"""
    WITH unseen AS (
        SELECT device_identifier FROM device WHERE expires_at IS NULL AND status IN ({_AGED})
        LIMIT $1 FOR UPDATE SKIP LOCKED)
    UPDATE device d SET expires_at = coalesce(
        (SELECT max(c.not_after) FROM certificate c
         WHERE c.device_identifier = d.device_identifier AND c.identity_id = d.identity_id AND c.status = 'active'),
        '9999-12-31')
    FROM unseen WHERE d.device_identifier = unseen.device_identifier"""


async def look_at_new(transaction: Transaction, limit: int) -> int:
    """Take note of when the certificates end that were not looked at yet; return of how many devices."""
    return await transaction.execute(_LOOK, limit)


@dataclass(frozen=True, slots=True)
class Aged:
    """A device whose state may not be the age of its certificate any more."""

    identifier: str
    tenant: UUID
    status: DeviceStatus
    expires: datetime
    windows: Windows


# The labels in use, each found by one step in the index; those that were deleted since have the windows of the node.
# Then, of each label and state, those that have left the state's stretch of time, at either end: forward as time goes
# by, back when a label's windows or the clock have changed.
_LABELS = """
    RECURSIVE label (name) AS (
        SELECT min(enrolment_profile) FROM device WHERE expires_at IS NOT NULL
        UNION ALL
        SELECT (SELECT min(d.enrolment_profile) FROM device d
                WHERE d.expires_at IS NOT NULL AND d.enrolment_profile > label.name)
        FROM label WHERE label.name IS NOT NULL)"""
_EDGES = (
    (DeviceStatus.ACTIVE, "<= e.renewal"),
    (DeviceStatus.RENEWAL_PENDING, "<= e.critical"),
    (DeviceStatus.RENEWAL_PENDING, "> e.renewal"),
    (DeviceStatus.EXPIRING_SOON, "<= $1"),
    (DeviceStatus.EXPIRING_SOON, "> e.critical"),
    (DeviceStatus.EXPIRED, "> $1"),
)
_BEYOND = " UNION ALL ".join(
    f"""(SELECT device_identifier, tenant_id, status, expires_at FROM device
         WHERE enrolment_profile = e.name AND status = '{status}' AND expires_at {edge}
         ORDER BY expires_at LIMIT $4)"""
    for status, edge in _EDGES
)
# The edges are columns before they are compared with: behind the wall, a sum in a comparison does not reach an index.
# And each branch has an order, since a limit alone makes PostgreSQL hope to find enough by reading the table.
_AGED_DEVICES = f"""
    WITH {_LABELS}, windows AS (
        SELECT l.name, coalesce(p.renewal_window_seconds * interval '1 second', $2::interval) AS renewal,
               coalesce(p.critical_window_seconds * interval '1 second', $3::interval) AS critical
        FROM label l LEFT JOIN enrolment_profile p ON p.name = l.name WHERE l.name IS NOT NULL),
    edges AS MATERIALIZED (
        SELECT name, $1::timestamptz + renewal AS renewal, $1::timestamptz + critical AS critical FROM windows)
    SELECT d.device_identifier, d.tenant_id, d.status, d.expires_at, w.renewal, w.critical
    FROM edges e JOIN windows w ON w.name = e.name CROSS JOIN LATERAL ({_BEYOND}) d LIMIT $4"""


async def aged_devices(transaction: Transaction, default: Windows, limit: int) -> list[Aged]:
    """Return devices whose state is not their certificate's age at `transaction.now`."""
    rows = await transaction.fetch(_AGED_DEVICES, transaction.now, default.renewal, default.critical, limit)
    return [_aged_from(row) for row in rows]


# Only where the device is as it was found, and nobody holds it.
_MOVE = """
    WITH wanted AS (
        SELECT * FROM unnest($1::text[], $2::text[], $3::timestamptz[], $4::text[]) AS w (id, before, expires, after)),
    held AS (
        SELECT d.device_identifier, w.after FROM device d JOIN wanted w ON d.device_identifier = w.id
        WHERE d.status = w.before AND d.expires_at = w.expires
        ORDER BY d.device_identifier FOR UPDATE OF d SKIP LOCKED)
    UPDATE device d SET status = held.after FROM held WHERE d.device_identifier = held.device_identifier
    RETURNING d.device_identifier"""


async def move_devices(transaction: Transaction, moves: Sequence[tuple[Aged, DeviceStatus]]) -> set[str]:
    """Give devices their new states; return those that were as they had been found."""
    rows = await transaction.fetch(
        _MOVE,
        [one.identifier for one, _ in moves],
        [one.status for one, _ in moves],
        [one.expires for one, _ in moves],
        [status for _, status in moves],
    )
    return {row["device_identifier"] for row in rows}


def _aged_from(row: Row) -> Aged:
    return Aged(
        identifier=row["device_identifier"],
        tenant=row["tenant_id"],
        status=DeviceStatus(row["status"]),
        expires=row["expires_at"],
        windows=Windows(row["renewal"], row["critical"]),
    )

"""Devices and pairings in SQL."""

from collections.abc import Mapping, Sequence
from uuid import UUID

import orjson

from iam.errors import conflict, not_found
from iam.model import Device, DeviceStatus, Extent, Pairing, PairingLevel
from iam.paging import Page, PageQuery, decode_cursor, page_of
from iam.store.database import Transaction
from iam.store.rows import device_from

DEVICE_COLUMNS = """
    device_identifier, tenant_id, identity_id, status, labels, metadata, enrolment_profile, replacement_allowed,
    created_at, alias, tags, icon, icon_color"""
_DEVICE = f"SELECT {DEVICE_COLUMNS} FROM device"

_BY_IDENTIFIER = f"{_DEVICE} WHERE device_identifier = $1 AND tenant_id = $2"


async def device_by_identifier(
    transaction: Transaction, tenant: UUID, identifier: str, *, to_change: bool = False
) -> Device:
    """Return a tenant's device; raise `Refused` (not found) if it has no such one.

    Args:
        to_change: Keep others from changing it until the end of the transaction.
    """
    row = await transaction.fetchrow(_BY_IDENTIFIER + (" FOR UPDATE" if to_change else ""), identifier, tenant)
    if row is None:
        raise not_found(f"device {identifier}")
    return device_from(row)


_LIST = f"""{_DEVICE}
    WHERE tenant_id = $1 AND device_identifier > $2
      AND ($3::text[] IS NULL OR device_identifier = ANY ($3))
      AND labels @> $4::jsonb
      AND ($5::text IS NULL OR status = $5)
    ORDER BY device_identifier LIMIT $6"""


async def list_devices(
    transaction: Transaction,
    tenant: UUID,
    query: PageQuery,
    *,
    visible: Extent,
    labels: Mapping[str, str],
    status: DeviceStatus | None,
) -> Page[Device]:
    """Return those of a tenant's devices that the caller sees, with all of `labels`, by identifier."""
    after = decode_cursor(query.cursor, 1) or ("",)
    only = None if visible.everything else sorted(visible.names)
    rows = await transaction.fetch(
        _LIST, tenant, after[0], only, orjson.dumps(dict(labels)).decode(), status, query.limit + 1
    )
    found = [device_from(row) for row in rows]
    return page_of(found, query.limit, [(one.identifier,) for one in found])


# The rows as one JSON parameter, so that one device and a thousand of them are one statement.
_INSERT = """
    INSERT INTO device (device_identifier, tenant_id, status, labels, metadata, enrolment_profile, created_at, alias,
                        tags, icon, icon_color)
    SELECT r.device_identifier, $2, $3, r.labels, r.metadata, r.enrolment_profile, r.created_at, r.alias, r.tags,
           r.icon, r.icon_color
    FROM jsonb_to_recordset($1::text::jsonb) AS r (device_identifier text, labels jsonb, metadata jsonb,
        enrolment_profile text, created_at timestamptz, alias text, tags text[], icon text, icon_color text)
    ON CONFLICT DO NOTHING
    RETURNING device_identifier"""


async def insert_devices(transaction: Transaction, tenant: UUID, devices: Sequence[Device]) -> set[str]:
    """Store new devices of a tenant that have no identity yet; return the identifiers that were free."""
    rows = [
        {
            "device_identifier": one.identifier,
            "labels": one.labels,
            "metadata": one.metadata,
            "enrolment_profile": one.enrolment_profile,
            "created_at": one.created,
            "alias": one.alias,
            "tags": one.tags,
            "icon": one.icon,
            "icon_color": one.icon_color,
        }
        for one in devices
    ]
    content = orjson.dumps(rows).decode()
    inserted = await transaction.fetch(_INSERT, content, tenant, DeviceStatus.NO_IDENTITY)
    return {row["device_identifier"] for row in inserted}


async def try_devices(transaction: Transaction, tenant: UUID, devices: Sequence[Device]) -> set[str]:
    """Return what `insert_devices` would, and store nothing: identifiers of other tenants are taken too, and unseen."""
    await transaction.execute("SAVEPOINT before_devices")
    free = await insert_devices(transaction, tenant, devices)
    await transaction.execute("ROLLBACK TO SAVEPOINT before_devices")
    return free


async def insert_device(transaction: Transaction, device: Device) -> None:
    """Store a new device; raise `Refused` (conflict) if its identifier is taken, by whichever tenant."""
    if not await insert_devices(transaction, device.tenant, [device]):
        raise conflict(f"The device identifier {device.identifier} is taken.")


_IS_LABEL = "SELECT is_label_of($1, $2)"


async def is_label_of(transaction: Transaction, label: str, tenant: UUID) -> bool:
    """Tell whether an enrolment profile of this name serves the devices of a tenant."""
    return bool(await transaction.fetchval(_IS_LABEL, label, tenant))


_UPDATE = """
    UPDATE device SET labels = $2, metadata = $3, replacement_allowed = $4, status = $5 WHERE device_identifier = $1"""


async def update_device(transaction: Transaction, device: Device) -> None:
    """Set what an operator may change of a device."""
    await transaction.execute(
        _UPDATE,
        device.identifier,
        orjson.dumps(device.labels).decode(),
        orjson.dumps(device.metadata).decode(),
        device.replacement_allowed,
        device.status,
    )


_DELETE = "DELETE FROM device WHERE device_identifier = $1"


async def delete_device(transaction: Transaction, identifier: str) -> None:
    """Delete a device and its pairings; its certificates stay on record."""
    await transaction.execute(_DELETE, identifier)


_KNOWN = "SELECT device_identifier FROM device WHERE tenant_id = $1 AND device_identifier = ANY ($2)"


async def known_devices(transaction: Transaction, tenant: UUID, identifiers: Sequence[str]) -> set[str]:
    """Return which of `identifiers` are devices of the tenant."""
    return {row["device_identifier"] for row in await transaction.fetch(_KNOWN, tenant, list(identifiers))}


_PAIR = """
    INSERT INTO pairing (tenant_id, level, holder, device_identifier, created_at, created_by)
    VALUES ($1, $2, $3, $4, $5, $6) ON CONFLICT DO NOTHING"""


async def insert_pairing(transaction: Transaction, pairing: Pairing) -> bool:
    """Store a pairing; tell whether it is new."""
    return bool(
        await transaction.execute(
            _PAIR,
            pairing.tenant,
            pairing.level,
            pairing.holder,
            pairing.device,
            pairing.created,
            pairing.created_by,
        )
    )


_UNPAIR = """
    DELETE FROM pairing WHERE tenant_id = $1 AND level = $2 AND holder = $3 AND device_identifier = $4"""


async def delete_pairing(transaction: Transaction, tenant: UUID, level: PairingLevel, holder: str, device: str) -> bool:
    """Delete a pairing; tell whether it was there."""
    return bool(await transaction.execute(_UNPAIR, tenant, level, holder, device))


_HOLDERS_OF_DEVICE = "SELECT level, holder FROM pairing WHERE device_identifier = $1"


async def holders_of_device(transaction: Transaction, device: str) -> list[tuple[PairingLevel, str]]:
    """Return to whom a device is paired."""
    rows = await transaction.fetch(_HOLDERS_OF_DEVICE, device)
    return [(PairingLevel(row["level"]), row["holder"]) for row in rows]

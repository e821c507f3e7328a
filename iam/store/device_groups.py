"""Groups of devices in SQL: what they are called, what they hang under, and by which filters devices belong to them."""

from typing import Any
from uuid import UUID

import asyncpg
import orjson

from iam.errors import conflict, not_found
from iam.listing import FieldKind, ListQuery
from iam.model import DeviceGroup
from iam.paging import Page
from iam.store.database import Row, Transaction
from iam.store.listing import Column, Listing, page_of_list

DEEPEST = 8
"""Groups above one another, itself included."""

# The filters of the groups above, from the uppermost down; what is deeper than it may be is not followed.
_INHERITED = f"""(
    WITH RECURSIVE above (id, parent_id, criteria, height) AS (
        SELECT id, parent_id, criteria, 1 FROM device_group WHERE id = g.parent_id
        UNION ALL
        SELECT p.id, p.parent_id, p.criteria, height + 1
        FROM device_group p JOIN above ON p.id = above.parent_id WHERE height < {DEEPEST})
    SELECT coalesce(jsonb_agg(criteria ORDER BY height DESC), '[]') FROM above) AS inherited"""

_GROUPS = Listing(
    select=f"id, tenant_id, name, description, parent_id, criteria, created_at, updated_at, {_INHERITED}",
    source="FROM device_group g",
    columns={
        "id": Column(FieldKind.UUID, "id"),
        "name": Column(FieldKind.TEXT, "name"),
        "parent_id": Column(FieldKind.UUID, "parent_id", is_nullable=True),
        "created_at": Column(FieldKind.DATE, "created_at"),
        "updated_at": Column(FieldKind.DATE, "updated_at"),
    },
    key="id",
)


async def page_of_groups(transaction: Transaction, tenant: UUID, query: ListQuery) -> Page[DeviceGroup]:
    """Return a page of a tenant's groups; raises as `page_of_list`."""
    page = await page_of_list(transaction, _GROUPS, query, "tenant_id = $1", tenant)
    return Page(tuple(_group_from(row) for row in page.items), page.next)


_BY_ID = f"SELECT {_GROUPS.select} {_GROUPS.source} WHERE tenant_id = $1 AND id = $2"


async def group_by_id(transaction: Transaction, tenant: UUID, identifier: UUID) -> DeviceGroup:
    """Return a tenant's group; raise `Refused` (not found) if it has no such one."""
    row = await transaction.fetchrow(_BY_ID, tenant, identifier)
    if row is None:
        raise not_found(f"device group {identifier}")
    return _group_from(row)


_LOCK = "SELECT pg_advisory_xact_lock(hashtextextended('device groups ' || $1::text, 0))"


async def lock_groups(transaction: Transaction, tenant: UUID) -> None:
    """Let nobody else move groups of the tenant until the end: two moves could close a circle that neither sees."""
    await transaction.execute(_LOCK, str(tenant))


_ABOVE = f"""
    WITH RECURSIVE above (id, parent_id, height) AS (
        SELECT id, parent_id, 1 FROM device_group WHERE tenant_id = $1 AND id = $2
        UNION ALL
        SELECT p.id, p.parent_id, height + 1
        FROM device_group p JOIN above ON p.id = above.parent_id WHERE height <= {DEEPEST})
    SELECT id FROM above"""


async def groups_from(transaction: Transaction, tenant: UUID, identifier: UUID) -> list[UUID]:
    """Return a group and those above it, itself first; empty if the tenant has no such group."""
    return [row["id"] for row in await transaction.fetch(_ABOVE, tenant, identifier)]


_HEIGHT = f"""
    WITH RECURSIVE below (id, depth) AS (
        SELECT id, 1 FROM device_group WHERE tenant_id = $1 AND id = $2
        UNION ALL
        SELECT c.id, depth + 1 FROM device_group c JOIN below ON c.parent_id = below.id WHERE depth <= {DEEPEST})
    SELECT coalesce(max(depth), 0) FROM below"""


async def height_of_group(transaction: Transaction, tenant: UUID, identifier: UUID) -> int:
    """Return how many groups stand below one another from this one on, itself included."""
    height: int = await transaction.fetchval(_HEIGHT, tenant, identifier)
    return height


_INSERT = """
    INSERT INTO device_group (id, tenant_id, name, description, parent_id, criteria, created_at, updated_at)
    VALUES ($1, $2, $3, $4, $5, $6, $7, $8)"""


async def insert_group(transaction: Transaction, group: DeviceGroup) -> None:
    """Store a new group; raise `Refused` (conflict) if its id is taken."""
    try:
        await transaction.execute(_INSERT, *_values(group), group.created, group.updated)
    except asyncpg.UniqueViolationError as error:
        raise conflict(f"The id {group.id} is taken.") from error


_UPDATE = """
    UPDATE device_group SET name = $3, description = $4, parent_id = $5, criteria = $6, updated_at = $7
    WHERE id = $1 AND tenant_id = $2"""


async def update_group(transaction: Transaction, group: DeviceGroup) -> None:
    """Set what may change of a group."""
    await transaction.execute(_UPDATE, *_values(group), group.updated)


_DELETE = "DELETE FROM device_group WHERE tenant_id = $1 AND id = $2"


async def delete_group(transaction: Transaction, tenant: UUID, identifier: UUID) -> None:
    """Delete a group; raise `Refused` (not found), or (conflict) if others hang under it."""
    try:
        deleted = await transaction.execute(_DELETE, tenant, identifier)
    except asyncpg.ForeignKeyViolationError as error:
        raise conflict("There are groups below this one: delete or move them first.") from error
    if not deleted:
        raise not_found(f"device group {identifier}")


def _values(group: DeviceGroup) -> tuple[Any, ...]:
    criteria = orjson.dumps(group.criteria).decode()
    return group.id, group.tenant, group.name, group.description, group.parent, criteria


def _group_from(row: Row) -> DeviceGroup:
    return DeviceGroup(
        id=row["id"],
        tenant=row["tenant_id"],
        name=row["name"],
        description=row["description"],
        parent=row["parent_id"],
        criteria=tuple(orjson.loads(row["criteria"])),
        created=row["created_at"],
        updated=row["updated_at"],
        inherited=tuple(one for above in orjson.loads(row["inherited"]) for one in above),
    )

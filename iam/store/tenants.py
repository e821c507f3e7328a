"""Tenants and roles in SQL.

The tree of tenants is read everywhere, since a tenant's effective status depends on those above it; whether the caller
may know of a tenant is decided by the guard.
"""

from uuid import UUID

import asyncpg

from iam.errors import conflict, not_found
from iam.model import Role, Scope, Tenant, TenantStatus
from iam.paging import Page, PageQuery, decode_cursor, page_of
from iam.store.database import Transaction
from iam.store.rows import extent_to, permissions_to, role_from, scope_from, tenant_from, topics_to

EFFECTIVE_STATUS = """
    CASE WHEN t.status <> 'active' THEN t.status
         WHEN EXISTS (SELECT FROM tenant a WHERE a.id = ANY (t.path) AND a.status <> 'active') THEN 'blocked'
         ELSE 'active' END"""

_TENANT = f"SELECT t.id, t.name, t.parent_id, t.path, {EFFECTIVE_STATUS} AS status, t.devices, t.services, t.created_at"

_LOCK_FOUNDATION = "SELECT pg_advisory_xact_lock(1)"


async def lock_foundation(transaction: Transaction) -> None:
    """Let one at a time make the first tenant, until the transaction ends."""
    await transaction.fetchval(_LOCK_FOUNDATION)


_BY_NAME = f"{_TENANT} FROM tenant t WHERE t.name = $1 AND t.status <> 'deleted'"


async def tenant_by_name(transaction: Transaction, name: str) -> Tenant | None:
    """Return the tenant of that name, unless it is deleted."""
    row = await transaction.fetchrow(_BY_NAME, name)
    return tenant_from(row) if row else None


_BY_ID = f"{_TENANT} FROM tenant t WHERE t.id = $1"


async def tenant_by_id(transaction: Transaction, identifier: UUID) -> Tenant:
    """Return a tenant; raise `Refused` (not found) if this transaction may not see it."""
    row = await transaction.fetchrow(_BY_ID, identifier)
    if row is None:
        raise not_found("such group")
    return tenant_from(row)


_LIST = (
    f"{_TENANT} FROM tenant t WHERE t.path @> ARRAY[$1::uuid] AND t.status <> 'deleted' AND t.name > $2"
    " ORDER BY t.name LIMIT $3"
)


async def list_tenants(transaction: Transaction, within: UUID, query: PageQuery) -> Page[Tenant]:
    """Return the tenant `within` and those below it, by name."""
    after = decode_cursor(query.cursor, 1) or ("",)
    found = [tenant_from(row) for row in await transaction.fetch(_LIST, within, after[0], query.limit + 1)]
    return page_of(found, query.limit, [(one.name,) for one in found])


_INSERT = """
    INSERT INTO tenant (id, name, parent_id, path, status, devices, services, created_at)
    VALUES ($1, $2, $3, $4, 'active', $5, $6, $7)"""


async def insert_tenant(transaction: Transaction, tenant: Tenant) -> None:
    """Store a new tenant; raise `Refused` (conflict) if its name is taken, also by a deleted one."""
    try:
        await transaction.execute(
            _INSERT,
            tenant.id,
            tenant.name,
            tenant.parent,
            list(tenant.path),
            extent_to(tenant.scope.devices),
            extent_to(tenant.scope.services),
            tenant.created,
        )
    except asyncpg.UniqueViolationError as error:
        raise conflict(f"The name {tenant.name} is taken.") from error


_UPDATE = "UPDATE tenant SET status = $2, devices = $3, services = $4 WHERE id = $1"


async def update_tenant(transaction: Transaction, tenant: UUID, status: TenantStatus, scope: Scope) -> None:
    """Set a tenant's own status and scope."""
    await transaction.execute(_UPDATE, tenant, status, extent_to(scope.devices), extent_to(scope.services))


_OWN_SETTINGS = "SELECT status, devices, services FROM tenant WHERE id = $1 FOR UPDATE"


async def own_settings(transaction: Transaction, tenant: UUID) -> tuple[TenantStatus, Scope]:
    """Return the status that the tenant itself has, whatever those above it have, and its scope; locks the row."""
    row = await transaction.fetchrow(_OWN_SETTINGS, tenant)
    if row is None:
        raise not_found("group of that name")
    return TenantStatus(row["status"]), scope_from(row)


_ROLE = "SELECT id, tenant_id, name, permissions, topics, devices, services, created_at FROM role"

_ROLE_BY_NAME = f"{_ROLE} WHERE tenant_id = $1 AND name = $2"


async def role_by_name(transaction: Transaction, tenant: UUID, name: str, *, to_change: bool = False) -> Role:
    """Return a tenant's role; raise `Refused` (not found) if there is none.

    Args:
        to_change: Keep others from changing it until the end of the transaction.
    """
    row = await transaction.fetchrow(_ROLE_BY_NAME + (" FOR UPDATE" if to_change else ""), tenant, name)
    if row is None:
        raise not_found(f"role {name}")
    return role_from(row)


_ROLES = f"{_ROLE} WHERE tenant_id = $1 AND name > $2 ORDER BY name LIMIT $3"


async def list_roles(transaction: Transaction, tenant: UUID, query: PageQuery) -> Page[Role]:
    """Return a tenant's roles, by name."""
    after = decode_cursor(query.cursor, 1) or ("",)
    found = [role_from(row) for row in await transaction.fetch(_ROLES, tenant, after[0], query.limit + 1)]
    return page_of(found, query.limit, [(one.name,) for one in found])


_ROLES_OF = f"{_ROLE} WHERE id IN (SELECT role_id FROM identity_role WHERE identity_id = $1) ORDER BY name"


async def roles_of(transaction: Transaction, identity: str) -> list[Role]:
    """Return the roles that an identity holds."""
    return [role_from(row) for row in await transaction.fetch(_ROLES_OF, identity)]


_INSERT_ROLE = """
    INSERT INTO role (id, tenant_id, name, permissions, topics, devices, services, created_at)
    VALUES ($1, $2, $3, $4, $5, $6, $7, $8)"""


async def insert_role(transaction: Transaction, role: Role) -> None:
    """Store a new role; raise `Refused` (conflict) if the tenant has one of that name."""
    try:
        await transaction.execute(
            _INSERT_ROLE,
            role.id,
            role.tenant,
            role.name,
            permissions_to(role.permissions),
            topics_to(role.topics),
            extent_to(role.scope.devices),
            extent_to(role.scope.services),
            role.created,
        )
    except asyncpg.UniqueViolationError as error:
        raise conflict(f"There is a role {role.name} already.") from error


_UPDATE_ROLE = "UPDATE role SET permissions = $2, topics = $3, devices = $4, services = $5 WHERE id = $1"


async def update_role(transaction: Transaction, role: Role) -> None:
    """Replace what a role holds."""
    await transaction.execute(
        _UPDATE_ROLE,
        role.id,
        permissions_to(role.permissions),
        topics_to(role.topics),
        extent_to(role.scope.devices),
        extent_to(role.scope.services),
    )


_DELETE_ROLE_PAIRINGS = "DELETE FROM pairing WHERE level = 'role' AND holder = $1"
_DELETE_ROLE = "DELETE FROM role WHERE id = $1"


async def delete_role(transaction: Transaction, role: Role) -> None:
    """Delete a role that nobody holds; raise `Refused` (conflict) if somebody does."""
    await transaction.execute(_DELETE_ROLE_PAIRINGS, str(role.id))
    try:
        await transaction.execute(_DELETE_ROLE, role.id)
    except asyncpg.ForeignKeyViolationError as error:
        raise conflict(f"Somebody holds the role {role.name}; take it from them first.") from error

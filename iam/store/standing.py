"""All that decides what an identity may do now, read in one statement."""

from dataclasses import dataclass
from uuid import UUID

import orjson

from iam.access import Access, Denied, compute_access
from iam.clock import CLOCK_MAY_GO_BACK
from iam.model import Identity, Pairing, PairingLevel, Role, Scope, Tenant
from iam.store.database import EVERYWHERE, Database, Row
from iam.store.rows import extent_from, identity_from, permissions_from, tenant_from, topics_from
from iam.store.tenants import EFFECTIVE_STATUS

_STANDING = f"""
    SELECT i.id, i.tenant_id, i.type, i.name, i.status, i.devices, i.services, i.created_at, d.device_identifier,
           t.id AS t_id, t.name AS t_name, t.parent_id, t.path, {EFFECTIVE_STATUS} AS t_status,
           t.devices AS t_devices, t.services AS t_services, t.created_at AS t_created_at,
           (SELECT coalesce(jsonb_agg(jsonb_build_object(
                       'id', r.id, 'name', r.name, 'permissions', r.permissions, 'topics', r.topics,
                       'devices', r.devices, 'services', r.services)
                       ORDER BY r.name), '[]')
            FROM identity_role h JOIN role r ON r.id = h.role_id
            WHERE h.identity_id = i.id AND h.tenant_id = i.tenant_id) AS roles,
           (SELECT coalesce(jsonb_agg(jsonb_build_array(p.level, p.holder, p.device_identifier)), '[]')
            FROM pairing p
            WHERE p.tenant_id = i.tenant_id
              AND (p.level = 'user' AND p.holder = i.id
                   OR p.level = 'group' AND p.holder = i.tenant_id::text
                   OR p.level = 'role' AND p.holder IN (
                       SELECT h.role_id::text FROM identity_role h WHERE h.identity_id = i.id))) AS pairings,
           ARRAY (SELECT s.id FROM session s
                  WHERE s.identity_id = i.id AND s.expires_at > $2 AND s.revoked_at IS NOT NULL) AS revoked_sessions
    FROM identity i
    JOIN tenant t ON t.id = i.tenant_id
    LEFT JOIN device d ON d.identity_id = i.id
    WHERE i.id = $1"""


@dataclass(frozen=True, slots=True)
class Standing:
    """What an identity may do, and which of its sessions are over before their time.

    Attributes:
        access: What it may do, or why nothing.
    """

    access: Access | Denied
    roles: tuple[UUID, ...]
    tenant_path: tuple[UUID, ...]
    revoked_sessions: frozenset[UUID]


async def read_standing(database: Database, identity: str) -> Standing:
    """Return the standing of an identity, also of one that does not exist: it may do nothing."""
    # Everywhere: the tenant is what this statement finds out.
    async with database.transaction(EVERYWHERE) as transaction:
        row = await transaction.fetchrow(_STANDING, identity, transaction.now - CLOCK_MAY_GO_BACK)
    if row is None:
        return Standing(Denied(f"there is no identity {identity}"), (), (), frozenset())
    known = identity_from(row)
    tenant = _tenant_from(row)
    roles = _roles_from(row, known)
    access = compute_access(tenant, known, roles, _pairings_from(row, known))
    return Standing(access, tuple(role.id for role in roles), tenant.path, frozenset(row["revoked_sessions"]))


def _tenant_from(row: Row) -> Tenant:
    return tenant_from(
        {
            "id": row["t_id"],
            "name": row["t_name"],
            "parent_id": row["parent_id"],
            "path": row["path"],
            "status": row["t_status"],
            "devices": row["t_devices"],
            "services": row["t_services"],
            "created_at": row["t_created_at"],
        }
    )


def _roles_from(row: Row, identity: Identity) -> list[Role]:
    return [
        Role(
            id=UUID(raw["id"]),
            tenant=identity.tenant,
            name=raw["name"],
            permissions=permissions_from(raw["permissions"]),
            topics=topics_from(raw["topics"]),
            scope=Scope(extent_from(raw["devices"]), extent_from(raw["services"])),
            created=identity.created,
        )
        for raw in orjson.loads(row["roles"])
    ]


def _pairings_from(row: Row, identity: Identity) -> list[Pairing]:
    return [
        Pairing(identity.tenant, PairingLevel(level), holder, device, identity.created, "")
        for level, holder, device in orjson.loads(row["pairings"])
    ]

"""Tenants and roles: making them, changing them, and telling everyone whose access that touches."""

from collections.abc import Callable
from dataclasses import dataclass, replace

from iam.access import Access
from iam.errors import conflict
from iam.events import Affected, Effect, affects
from iam.grants import check_gift, check_scope, gift_of
from iam.identifiers import Clock, Random, role_name, tenant_name, uuid7
from iam.model import Effect as TopicEffect
from iam.model import Role, Scope, Tenant, TenantStatus, TopicAction, TopicRule
from iam.paging import Page, PageQuery
from iam.permissions import Permission
from iam.store import tenants
from iam.store.database import EVERYWHERE, Change, Database, Transaction
from iam.topics import checked_rule

DEVICE_ROLE = "device"
"""The role that every tenant is born with: a device may use the topics below its own name, and nothing else."""

_DEVICE_TOPICS = "${tenant}/devices/${device}/#"


@dataclass(frozen=True, slots=True)
class RoleSpecification:
    """What a role shall hold."""

    permissions: tuple[Permission, ...]
    topics: tuple[TopicRule, ...]
    scope: Scope


class TenancyService:
    """Tenants and roles."""

    def __init__(self, database: Database, clock: Clock, random: Random) -> None:
        self._database = database
        self._clock = clock
        self._random = random

    async def find(self, name: str) -> Tenant | None:
        """Return the tenant of that name. Whether the caller may know of it is for the caller to decide."""
        async with self._database.transaction(EVERYWHERE) as transaction:
            return await tenants.tenant_by_name(transaction, name)

    async def list_tenants(self, within: Tenant, query: PageQuery) -> Page[Tenant]:
        """Return `within` and the tenants below it, by name."""
        async with self._database.transaction(EVERYWHERE) as transaction:
            return await tenants.list_tenants(transaction, within.id, query)

    async def create_tenant(self, access: Access, parent: Tenant, name: str, scope: Scope) -> Tenant:
        """Make a tenant below `parent`, with the role that its devices will have.

        Raises:
            Refused: (malformed) The name. (conflict) It is taken. (forbidden) The scope is wider than the caller's.
        """
        check_scope(access, parent, scope)
        now = self._clock()
        identifier = uuid7(now, self._random)
        tenant = Tenant(
            id=identifier,
            name=tenant_name(name),
            parent=parent.id,
            path=(*parent.path, identifier),
            status=TenantStatus.ACTIVE,
            scope=scope,
            created=now,
        )
        async with self._database.transaction(tenant.id) as transaction:
            await tenants.insert_tenant(transaction, tenant)
            await tenants.insert_role(transaction, device_role(tenant, self._random))
            await transaction.record(
                Change(tenant.id, access.identity.id, "tenant.created", tenant.name, {"parent": parent.name})
            )
        return tenant

    async def change_tenant(
        self, access: Access, tenant: Tenant, status: TenantStatus | None, change_scope: Callable[[Scope], Scope]
    ) -> Tenant:
        """Block or unblock a tenant, or change its scope; connections of all below it are looked at again.

        Raises:
            Refused: (conflict) It is the caller's own, or the root. (forbidden) The scope is wider than the caller's.
        """
        if tenant.id == access.tenant.id or tenant.parent is None:
            raise conflict("Nobody changes the tenant that he stands on.")
        async with self._database.transaction(tenant.id) as transaction:
            own_status, own_scope = await tenants.own_settings(transaction, tenant.id)
            scope = change_scope(own_scope)
            if scope != own_scope:
                check_scope(access, tenant, scope)
            await tenants.update_tenant(transaction, tenant.id, status or own_status, scope)
            await transaction.record(
                Change(
                    tenant.id,
                    access.identity.id,
                    f"tenant.{_VERB[status]}" if status else "tenant.updated",
                    tenant.name,
                    affects(Effect(Affected.TENANT, str(tenant.id))),
                )
            )
        found = await self.find(tenant.name)
        return found or replace(tenant, status=TenantStatus.DELETED)

    async def role(self, tenant: Tenant, name: str) -> Role:
        """Return a tenant's role; raise `Refused` (not found)."""
        async with self._database.transaction(tenant.id) as transaction:
            return await tenants.role_by_name(transaction, tenant.id, name)

    async def list_roles(self, tenant: Tenant, query: PageQuery) -> Page[Role]:
        """Return a tenant's roles, by name."""
        async with self._database.transaction(tenant.id) as transaction:
            return await tenants.list_roles(transaction, tenant.id, query)

    async def create_role(self, access: Access, tenant: Tenant, name: str, wanted: RoleSpecification) -> Role:
        """Make a role.

        Raises:
            Refused: (malformed) A name or topic. (forbidden) It holds what the caller does not. (conflict) The name
                is taken.
        """
        now = self._clock()
        role = Role(
            id=uuid7(now, self._random),
            tenant=tenant.id,
            name=role_name(name),
            permissions=wanted.permissions,
            topics=_checked_topics(tenant, wanted.topics),
            scope=wanted.scope,
            created=now,
        )
        _check_may_hold(access, tenant, role)
        async with self._database.transaction(tenant.id) as transaction:
            await tenants.insert_role(transaction, role)
            await transaction.record(Change(tenant.id, access.identity.id, "role.created", role.name))
        return role

    async def change_role(self, access: Access, tenant: Tenant, name: str, wanted: RoleSpecification) -> Role:
        """Replace what a role holds; every holder's access is computed anew.

        Raises:
            Refused: As for `create_role`; (forbidden) also where it held what the caller does not.
        """
        topics = _checked_topics(tenant, wanted.topics)
        async with self._database.transaction(tenant.id) as transaction:
            held = await tenants.role_by_name(transaction, tenant.id, name, to_change=True)
            role = replace(held, permissions=wanted.permissions, topics=topics, scope=wanted.scope)
            for one in (held, role):
                _check_may_hold(access, tenant, one)
            await tenants.update_role(transaction, role)
            await self._record_role(transaction, access, role, "role.updated")
        return role

    async def delete_role(self, access: Access, tenant: Tenant, name: str) -> None:
        """Delete a role that nobody holds; raise `Refused` (not found, or conflict)."""
        if name == DEVICE_ROLE:
            raise conflict(
                f"The role {DEVICE_ROLE} is what enrolment gives to devices; it can be changed, not deleted."
            )
        async with self._database.transaction(tenant.id) as transaction:
            role = await tenants.role_by_name(transaction, tenant.id, name, to_change=True)
            _check_may_hold(access, tenant, role)
            await tenants.delete_role(transaction, role)
            await self._record_role(transaction, access, role, "role.deleted")

    async def _record_role(self, transaction: Transaction, access: Access, role: Role, kind: str) -> None:
        effect = Effect(Affected.ROLE, str(role.id))
        await transaction.record(Change(role.tenant, access.identity.id, kind, role.name, affects(effect)))


_VERB = {TenantStatus.ACTIVE: "unblocked", TenantStatus.BLOCKED: "blocked", TenantStatus.DELETED: "deleted"}


def device_role(tenant: Tenant, random: Random) -> Role:
    """Return the role that a new tenant's devices will have."""
    return Role(
        id=uuid7(tenant.created, random),
        tenant=tenant.id,
        name=DEVICE_ROLE,
        permissions=(),
        topics=(TopicRule(TopicEffect.ALLOW, TopicAction.ALL, _DEVICE_TOPICS),),
        scope=Scope(),
        created=tenant.created,
    )


def keep_scope(scope: Scope) -> Scope:
    """Leave a scope as it is."""
    return scope


def _check_may_hold(access: Access, tenant: Tenant, role: Role) -> None:
    """Raise `Refused` (forbidden) unless the caller may make, change or delete such a role."""
    check_scope(access, tenant, role.scope)
    check_gift(access, tenant, gift_of(tenant, role.permissions, role.topics, role.scope))


def _checked_topics(tenant: Tenant, rules: tuple[TopicRule, ...]) -> tuple[TopicRule, ...]:
    is_system = tenant.parent is None
    return tuple(checked_rule(one.effect, one.action, one.topic, tenant_is_system=is_system) for one in rules)

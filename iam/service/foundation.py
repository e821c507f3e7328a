"""What must be there before anybody can be asked anything: the tenant `system`, its roles, and the root identity.

Made once, in one transaction, under a lock; a start that finds it does nothing. The root identity has no credential:
whoever can read a node's data folder gets a token of it (`doorward admin token`), and nobody else.
"""

from uuid import UUID

from iam.identifiers import Clock, Random, identity_id, uuid7
from iam.model import (
    ALL,
    SYSTEM_TENANT,
    Identity,
    IdentityStatus,
    IdentityType,
    Role,
    Scope,
    Tenant,
    TenantStatus,
    TopicAction,
    TopicRule,
)
from iam.model import Effect as TopicEffect
from iam.permissions import EVERYTHING
from iam.service.identities import ROOT
from iam.service.tenancy import device_role
from iam.store import identities, tenants
from iam.store.database import EVERYWHERE, Change, Database


async def lay_foundation(database: Database, clock: Clock, random: Random) -> Tenant:
    """Make the tenant `system` with its roles and the root identity, unless they are there; return the tenant."""
    # Everywhere: this makes the first tenant.
    async with database.transaction(EVERYWHERE) as transaction:
        await tenants.lock_foundation(transaction)
        found = await tenants.tenant_by_name(transaction, SYSTEM_TENANT)
        if found is not None:
            return found
        now = clock()
        tenant = _system(uuid7(now, random), clock)
        role = Role(
            id=uuid7(now, random),
            tenant=tenant.id,
            name=ROOT,
            permissions=(EVERYTHING,),
            topics=(TopicRule(TopicEffect.ALLOW, TopicAction.ALL, "#"),),
            scope=Scope(),
            created=now,
        )
        root = Identity(
            id=identity_id(now, random),
            type=IdentityType.ROOT,
            tenant=tenant.id,
            name=ROOT,
            status=IdentityStatus.ACTIVE,
            scope=Scope(),
            device=None,
            created=now,
        )
        await tenants.insert_tenant(transaction, tenant)
        await tenants.insert_role(transaction, role)
        await tenants.insert_role(transaction, device_role(tenant, random))
        await identities.insert_identity(transaction, root)
        await identities.give_role(transaction, root.id, role.id, tenant.id)
        await transaction.record(Change(tenant.id, "doorward", "tenant.created", tenant.name))
        return tenant


async def root_identity(database: Database, system: UUID) -> Identity:
    """Return the root identity."""
    async with database.transaction(system) as transaction:
        return await identities.identity_by_id_or_name(transaction, system, ROOT)


def _system(identifier: UUID, clock: Clock) -> Tenant:
    return Tenant(
        id=identifier,
        name=SYSTEM_TENANT,
        parent=None,
        path=(identifier,),
        status=TenantStatus.ACTIVE,
        scope=Scope(ALL, ALL),
        created=clock(),
    )

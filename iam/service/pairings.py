"""Pairing: adding devices to the list of a person or machine, a role, or a whole group.

The rules:

1. The level is the narrowest that the caller's pairing permissions allow (`iam.pair.user`, else `iam.pair.role`, else
   `iam.pair.group`), unless he names another that he also holds.
2. The holder is the caller himself, his role or his group, unless he names another, which needs permission to update
   users, roles or groups.
3. Every device is known to the tenant, or nothing is paired at all; an unknown device, or another tenant's, is not
   found.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from certs.names import device_identifier
from iam.access import Access, Denied, decide, require
from iam.errors import conflict, forbidden, not_found
from iam.events import affects
from iam.model import Pairing, PairingLevel, Tenant
from iam.permissions import Action, Resource
from iam.service.devices import effect_of
from iam.store import devices, identities, tenants
from iam.store.database import Change, Database, Transaction

PERMISSION: dict[PairingLevel, Resource] = {
    PairingLevel.USER: Resource.IAM_PAIR_USER,
    PairingLevel.ROLE: Resource.IAM_PAIR_ROLE,
    PairingLevel.GROUP: Resource.IAM_PAIR_GROUP,
}
"""What a caller needs at each level, narrowest first."""

_OTHERS: dict[PairingLevel, Resource] = {
    PairingLevel.USER: Resource.IAM_USERS,
    PairingLevel.ROLE: Resource.IAM_ROLES,
    PairingLevel.GROUP: Resource.IAM_GROUPS,
}


@dataclass(frozen=True, slots=True)
class Paired:
    """What a pairing came to: at which level, for whom, which devices."""

    level: PairingLevel
    holder: str
    devices: tuple[str, ...]


class PairingService:
    """Pairings."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def pair(
        self,
        access: Access,
        tenant: Tenant,
        identifiers: Sequence[str],
        *,
        level: PairingLevel | None = None,
        holder: str | None = None,
    ) -> Paired:
        """Add devices to a holder's list.

        Args:
            holder: An identity's id or name, or a role's name; the caller's own if not said.

        Raises:
            Refused: (forbidden) By rules 1 and 2. (not found) A device, or the holder. (conflict) The caller holds
                several roles and did not say which.
        """
        wanted = _checked(identifiers)
        chosen = choose_level(access, Action.CREATE, tenant, level)
        async with self._database.transaction(tenant.id) as transaction:
            target = await _holder(transaction, access, tenant, chosen, holder)
            known = await devices.known_devices(transaction, tenant.id, wanted)
            for identifier in wanted:
                if identifier not in known:
                    raise not_found(f"device {identifier}")
            new = [
                identifier
                for identifier in wanted
                if await devices.insert_pairing(
                    transaction,
                    Pairing(tenant.id, chosen, target, identifier, transaction.now, access.identity.id),
                )
            ]
            await self._record(transaction, access, tenant, "pairing.created", Paired(chosen, target, tuple(new)))
        return Paired(chosen, target, tuple(wanted))

    async def unpair(
        self,
        access: Access,
        tenant: Tenant,
        identifiers: Sequence[str],
        *,
        level: PairingLevel | None = None,
        holder: str | None = None,
    ) -> Paired:
        """Take devices from a holder's list; raise `Refused` as for `pair`, (not found) for one that is not on it."""
        wanted = _checked(identifiers)
        chosen = choose_level(access, Action.DELETE, tenant, level)
        async with self._database.transaction(tenant.id) as transaction:
            target = await _holder(transaction, access, tenant, chosen, holder)
            for identifier in wanted:
                if not await devices.delete_pairing(transaction, tenant.id, chosen, target, identifier):
                    raise not_found(f"pairing with device {identifier}")
            await self._record(transaction, access, tenant, "pairing.deleted", Paired(chosen, target, tuple(wanted)))
        return Paired(chosen, target, tuple(wanted))

    async def require_device(self, tenant: Tenant, identifier: str) -> None:
        """Raise `Refused` (not found) unless this is a device of the tenant."""
        async with self._database.transaction(tenant.id) as transaction:
            await devices.device_by_identifier(transaction, tenant.id, identifier)

    async def _record(
        self, transaction: Transaction, access: Access, tenant: Tenant, kind: str, paired: Paired
    ) -> None:
        if not paired.devices:
            return
        data = {
            "level": paired.level,
            "devices": list(paired.devices),
            **affects(effect_of(paired.level, paired.holder)),
        }
        await transaction.record(Change(tenant.id, access.identity.id, kind, paired.holder, data))


def choose_level(access: Access, action: Action, tenant: Tenant, wanted: PairingLevel | None) -> PairingLevel:
    """Return the level at which the caller pairs (rule 1); raise `Refused` (forbidden) if he may at none."""
    if wanted is not None:
        require(
            decide(access, action, PERMISSION[wanted], tenant=tenant),
            f"This needs {action} on {PERMISSION[wanted]}.",
        )
        return wanted
    for level, resource in PERMISSION.items():
        if not isinstance(decide(access, action, resource, tenant=tenant), Denied):
            return level
    raise forbidden(f"This needs {action} on iam.pair.user, iam.pair.role or iam.pair.group.")


async def _holder(
    transaction: Transaction, access: Access, tenant: Tenant, level: PairingLevel, named: str | None
) -> str:
    """Return whose list it is: an identity's id, a role's id or the tenant's id (rule 2)."""
    if named is not None:
        require(
            decide(access, Action.UPDATE, _OTHERS[level], tenant=tenant),
            f"Pairing for another than yourself needs update on {_OTHERS[level]}.",
        )
    if level is PairingLevel.GROUP:
        if named not in (None, tenant.name):
            raise not_found(f"group {named} here: name the group itself as the tenant of the request")
        return str(tenant.id)
    if level is PairingLevel.USER:
        if named is not None:
            return (await identities.identity_by_id_or_name(transaction, tenant.id, named)).id
        if access.tenant.id != tenant.id:
            raise conflict("You are not in this group: say whose list you mean, as `holder`.")
        return access.identity.id
    if named is not None:
        return str((await tenants.role_by_name(transaction, tenant.id, named)).id)
    own = [grant.role.id for grant in access.grants if grant.role.tenant == tenant.id]
    if len(own) != 1:
        raise conflict("You do not hold exactly one role here: say which role's list you mean, as `holder`.")
    return str(own[0])


def _checked(identifiers: Sequence[str]) -> list[str]:
    return list(dict.fromkeys(device_identifier(identifier) for identifier in identifiers))

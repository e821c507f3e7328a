"""Devices as operators see them: registering, labels, letting one be replaced, decommissioning, deleting.

The rules:

1. A caller sees the devices that his grants for `devices` reach, and no others: those are not found.
2. DECOMMISSIONED is terminal and comes before deletion; a decommissioned device's identity is suspended and its
   certificates are withdrawn, in the same transaction.
"""

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from certs.names import device_identifier
from iam.access import Access, Denied, decide, visible_devices
from iam.errors import conflict, not_found
from iam.events import Affected, Effect, affects
from iam.identifiers import Clock
from iam.model import Device, DeviceStatus, IdentityStatus, PairingLevel, Tenant
from iam.paging import Page, PageQuery
from iam.permissions import Action, Resource
from iam.store import devices, identities
from iam.store.database import Change, Database, Transaction


@dataclass(frozen=True, slots=True)
class DeviceChange:
    """What shall be different about a device; None leaves a thing as it is."""

    labels: Mapping[str, str] | None = None
    metadata: Mapping[str, Any] | None = None
    replacement_allowed: bool | None = None
    decommission: bool = False


Withdraw = Callable[[Transaction, str, str], Awaitable[None]]
"""Revokes all certificates of an identity, in this transaction; says who did it. The authority gives it."""


class DeviceService:
    """Devices."""

    def __init__(self, database: Database, clock: Clock, withdraw: Withdraw) -> None:
        self._database = database
        self._clock = clock
        self._withdraw = withdraw

    async def create(
        self, access: Access, tenant: Tenant, identifier: str, labels: Mapping[str, str], metadata: Mapping[str, Any]
    ) -> Device:
        """Register a device that has no identity yet.

        Raises:
            Refused: (malformed) The identifier. (conflict) It is taken.
        """
        device = Device(
            identifier=device_identifier(identifier),
            tenant=tenant.id,
            identity=None,
            status=DeviceStatus.NO_IDENTITY,
            labels=dict(labels),
            metadata=dict(metadata),
            enrolment_profile=None,
            replacement_allowed=False,
            created=self._clock(),
        )
        async with self._database.transaction(tenant.id) as transaction:
            await devices.insert_device(transaction, device)
            await transaction.record(Change(tenant.id, access.identity.id, "device.created", device.identifier))
        return device

    async def get(self, access: Access, tenant: Tenant, identifier: str) -> Device:
        """Return a device that the caller reaches; raise `Refused` (not found)."""
        async with self._database.transaction(tenant.id) as transaction:
            return await _reached(transaction, access, Action.READ, tenant, identifier)

    async def page(
        self,
        access: Access,
        tenant: Tenant,
        query: PageQuery,
        *,
        labels: Mapping[str, str],
        status: DeviceStatus | None,
    ) -> Page[Device]:
        """Return the devices that the caller reaches, with all of `labels`, by identifier."""
        visible = visible_devices(access, Action.READ, Resource.DEVICES)
        async with self._database.transaction(tenant.id) as transaction:
            return await devices.list_devices(
                transaction, tenant.id, query, visible=visible, labels=labels, status=status
            )

    async def change(self, access: Access, tenant: Tenant, identifier: str, wanted: DeviceChange) -> Device:
        """Change a device.

        Raises:
            Refused: (not found) The caller does not reach such a device. (conflict) It is decommissioned.
        """
        async with self._database.transaction(tenant.id) as transaction:
            found = await _reached(transaction, access, Action.UPDATE, tenant, identifier)
            if found.status is DeviceStatus.DECOMMISSIONED:
                raise conflict(f"Device {identifier} is decommissioned; that is final.")
            changed = replace(
                found,
                labels=found.labels if wanted.labels is None else dict(wanted.labels),
                metadata=found.metadata if wanted.metadata is None else dict(wanted.metadata),
                replacement_allowed=(
                    found.replacement_allowed if wanted.replacement_allowed is None else wanted.replacement_allowed
                ),
                status=DeviceStatus.DECOMMISSIONED if wanted.decommission else found.status,
            )
            await devices.update_device(transaction, changed)
            data: dict[str, Any] = {}
            if wanted.decommission and found.identity is not None:
                identity = await identities.identity_by_id(transaction, found.identity)
                await identities.update_identity(transaction, replace(identity, status=IdentityStatus.SUSPENDED))
                await self._withdraw(transaction, identity.id, access.identity.id)
                data = affects(Effect(Affected.IDENTITY, identity.id))
            kind = "device.decommissioned" if wanted.decommission else "device.updated"
            await transaction.record(Change(tenant.id, access.identity.id, kind, identifier, data))
        return changed

    async def delete(self, access: Access, tenant: Tenant, identifier: str) -> None:
        """Delete a decommissioned device, its pairings and its identity.

        Raises:
            Refused: (not found) The caller does not reach such a device. (conflict) It is not decommissioned.
        """
        async with self._database.transaction(tenant.id) as transaction:
            found = await _reached(transaction, access, Action.DELETE, tenant, identifier)
            if found.status is not DeviceStatus.DECOMMISSIONED:
                raise conflict(f"Device {identifier} is {found.status}; decommission it first.")
            holders = await devices.holders_of_device(transaction, identifier)
            await devices.delete_device(transaction, identifier)
            if found.identity is not None:
                await identities.delete_identity(transaction, found.identity)
            effects = [effect_of(level, holder) for level, holder in holders]
            await transaction.record(
                Change(tenant.id, access.identity.id, "device.deleted", identifier, affects(*effects))
            )


_AFFECTED = {
    PairingLevel.USER: Affected.IDENTITY,
    PairingLevel.ROLE: Affected.ROLE,
    PairingLevel.GROUP: Affected.TENANT,
}


def effect_of(level: PairingLevel, holder: str) -> Effect:
    """Return whose access a pairing at this level touches."""
    return Effect(_AFFECTED[level], holder)


async def _reached(transaction: Transaction, access: Access, action: Action, tenant: Tenant, identifier: str) -> Device:
    checked, to_change = device_identifier(identifier), action is not Action.READ
    device = await devices.device_by_identifier(transaction, tenant.id, checked, to_change=to_change)
    decision = decide(access, action, Resource.DEVICES, tenant=tenant, device=device.identifier)
    if isinstance(decision, Denied):
        raise not_found(f"device {identifier}")
    return device

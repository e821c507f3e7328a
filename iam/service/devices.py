"""Devices as operators see them: registering, labels, letting one be replaced, decommissioning, deleting.

The rules:

1. A caller sees the devices that his grants for `devices` reach, and no others: those are not found.
2. DECOMMISSIONED is terminal and comes before deletion; a decommissioned device's identity is suspended and its
   certificates are withdrawn, in the same transaction.
3. What a device is registered for, an enrolment profile, is one that serves its tenant.
"""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Any

import orjson

from certs.names import device_identifier
from iam.access import Access, Denied, decide, visible_devices
from iam.device_history import NOTED, DeviceEvent, DeviceNote
from iam.errors import Kind, Refused, conflict, malformed, not_found
from iam.events import Affected, Effect, affects
from iam.identifiers import Clock
from iam.identity_slot import SECRET_TYPE, IdentitySlot, slot_of
from iam.json_patch import Operation, apply_patch
from iam.life_cycle import require_step
from iam.listing import Filter, ListQuery, read_filters
from iam.model import Device, DeviceStatus, Extent, IdentityStatus, PairingLevel, Tenant
from iam.paging import Page, PageQuery
from iam.permissions import Action, Resource
from iam.store import devices, identities
from iam.store.database import Change, Database, Transaction
from iam.store.device_events import page_of_events
from iam.store.device_lists import DEVICES, count_devices, page_of_devices
from iam.store.identity_slots import certificates_of

METADATA_BYTES = 16 * 1024


@dataclass(frozen=True, slots=True)
class Registration:
    """What is said of a device when it is registered.

    Attributes:
        label: The enrolment profile that it is registered for, if one is named.
    """

    identifier: str
    labels: Mapping[str, str] = field(default_factory=dict, hash=False)
    metadata: Mapping[str, Any] = field(default_factory=dict, hash=False)
    alias: str = ""
    tags: tuple[str, ...] = ()
    icon: str = ""
    icon_color: str = ""
    label: str | None = None


@dataclass(frozen=True, slots=True)
class SlotClaim:
    """What a caller says that a device's identity is, or shall be; None is not said."""

    status: DeviceStatus
    active_version: int | None = None
    type: str | None = None
    versions: Mapping[int, str] | None = None

    def fits(self, slot: IdentitySlot) -> bool:
        """Tell whether the slot is what is said, save for its state, which may become REVOKED."""
        return (
            self.status in (slot.status, DeviceStatus.REVOKED)
            and self.active_version in (None, slot.active_version)
            and self.type in (None, SECRET_TYPE)
            and self.versions in (None, slot.versions)
        )


@dataclass(frozen=True, slots=True)
class Slotted:
    """A device and its identity's certificates."""

    device: Device
    slot: IdentitySlot | None


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

    async def create(self, access: Access, tenant: Tenant, wanted: Registration) -> Device:
        """Register a device that has no identity yet.

        Raises:
            Refused: (malformed) The identifier, or the enrolment profile. (conflict) The identifier is taken.
        """
        device = registered(wanted, tenant, self._clock())
        async with self._database.transaction(tenant.id) as transaction:
            await require_label(transaction, tenant, wanted.label)
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
            if wanted.decommission:
                require_step(identifier, found.status, DeviceStatus.DECOMMISSIONED)
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

    async def listed(
        self, access: Access, tenant: Tenant, query: ListQuery, *, also: Sequence[Filter] = ()
    ) -> Page[Slotted]:
        """Return a page of the devices that the caller reaches, in Lamassu's form; `also` filters beside the query."""
        async with self._database.transaction(tenant.id) as transaction:
            page = await page_of_devices(transaction, tenant.id, query, visible=_visible(access), also=also)
            return Page(tuple(await _slotted(transaction, page.items)), page.next)

    async def of_label(self, access: Access, tenant: Tenant, label: str, query: ListQuery) -> Page[Slotted]:
        """Return the same of those that enrolled under a label, or are registered for it."""
        return await self.listed(access, tenant, query, also=read_filters([f"dms_owner[eq]={label}"], DEVICES.columns))

    async def with_slot(self, access: Access, tenant: Tenant, identifier: str) -> Slotted:
        """Return a device that the caller reaches, and its identity; raise `Refused` (not found)."""
        async with self._database.transaction(tenant.id) as transaction:
            device = await _reached(transaction, access, Action.READ, tenant, identifier)
            return (await _slotted(transaction, [device]))[0]

    async def statistics(
        self, access: Access, tenant: Tenant, filters: Sequence[str], *, also: Sequence[Filter] = ()
    ) -> dict[DeviceStatus, int]:
        """Return how many of the devices that the caller reaches and that pass the filters are in each state."""
        wanted = (*also, *read_filters(filters, DEVICES.columns))
        async with self._database.transaction(tenant.id) as transaction:
            return await count_devices(transaction, tenant.id, wanted, visible=_visible(access))

    async def history(self, access: Access, tenant: Tenant, identifier: str, query: ListQuery) -> Page[DeviceEvent]:
        """Return what happened to a device that the caller reaches; raise `Refused` (not found)."""
        async with self._database.transaction(tenant.id) as transaction:
            device = await _reached(transaction, access, Action.READ, tenant, identifier)
            return await page_of_events(transaction, tenant.id, device.identifier, device.created, query)

    async def note(self, access: Access, tenant: Tenant, identifier: str, note: DeviceNote) -> DeviceEvent:
        """Note what happened to a device.

        Raises:
            Refused: (not found) The caller does not reach such a device. (invalid) The note is none.
        """
        async with self._database.transaction(tenant.id) as transaction:
            found = await _reached(transaction, access, Action.UPDATE, tenant, identifier)
            data = note.data(transaction.now)
            recorded = await transaction.record(Change(tenant.id, access.identity.id, NOTED, found.identifier, data))
            return DeviceEvent(recorded, transaction.now, NOTED, access.identity.id, data)

    async def patch_metadata(
        self, access: Access, tenant: Tenant, identifier: str, patch: Sequence[Operation]
    ) -> Slotted:
        """Apply a JSON Patch to a device's metadata.

        Raises:
            Refused: (not found) The caller does not reach such a device. (conflict) It is decommissioned, or the patch
                does not fit. (invalid) What comes out is too large.
        """
        async with self._database.transaction(tenant.id) as transaction:
            found = await _reached(transaction, access, Action.UPDATE, tenant, identifier)
            if found.status is DeviceStatus.DECOMMISSIONED:
                raise conflict(f"Device {identifier} is decommissioned; that is final.")
            metadata = apply_patch(found.metadata, patch)
            if len(orjson.dumps(metadata)) > METADATA_BYTES:
                raise Refused(Kind.INVALID, f"Metadata has at most {METADATA_BYTES} bytes.")
            changed = replace(found, metadata=metadata)
            await devices.update_device(transaction, changed)
            await transaction.record(Change(tenant.id, access.identity.id, "device.updated", identifier))
            return (await _slotted(transaction, [changed]))[0]

    async def claim_slot(self, access: Access, tenant: Tenant, identifier: str, claim: SlotClaim) -> Slotted:
        """Make a device's identity what is claimed of it: as it is, or revoked.

        Revoked are all its certificates; it may enrol anew where an operator allows a replacement.

        Raises:
            Refused: (not found) The caller does not reach such a device. (conflict) The claim is of something else.
        """
        async with self._database.transaction(tenant.id) as transaction:
            found = await _reached(transaction, access, Action.UPDATE, tenant, identifier)
            slotted = (await _slotted(transaction, [found]))[0]
            if slotted.slot is None or found.identity is None:
                raise conflict(f"Device {identifier} has no identity: it gets one by enrolling.")
            if not claim.fits(slotted.slot):
                raise conflict("A device's identity follows from its certificates; all that can be set is REVOKED.")
            if claim.status is slotted.slot.status:
                return slotted
            require_step(identifier, found.status, DeviceStatus.REVOKED)
            await self._withdraw(transaction, found.identity, access.identity.id)
            device = await devices.device_by_identifier(transaction, tenant.id, identifier)
            return (await _slotted(transaction, [device]))[0]


def registered(wanted: Registration, tenant: Tenant, now: datetime) -> Device:
    """Return the device that a registration makes; raise `Refused` (malformed) for its identifier."""
    return Device(
        identifier=device_identifier(wanted.identifier),
        tenant=tenant.id,
        identity=None,
        status=DeviceStatus.NO_IDENTITY,
        labels=dict(wanted.labels),
        metadata=dict(wanted.metadata),
        enrolment_profile=wanted.label,
        replacement_allowed=False,
        created=now,
        alias=wanted.alias,
        tags=wanted.tags,
        icon=wanted.icon,
        icon_color=wanted.icon_color,
    )


async def require_label(transaction: Transaction, tenant: Tenant, label: str | None) -> None:
    """Raise `Refused` (malformed) if a label is named and serves no device of the tenant."""
    if label is not None and not await devices.is_label_of(transaction, label, tenant.id):
        raise malformed(f"There is no enrolment profile {label} for this group.")


def _visible(access: Access) -> Extent:
    return visible_devices(access, Action.READ, Resource.DEVICES)


async def _slotted(transaction: Transaction, found: Sequence[Device]) -> list[Slotted]:
    certificates = await certificates_of(transaction, [one.identifier for one in found])
    return [Slotted(one, slot_of(one.status, certificates.get(one.identifier, ()))) for one in found]


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

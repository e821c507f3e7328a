"""Groups of devices by filter: membership is asked anew each time, so it is always what devices are now.

The rules:

1. A group belongs to a tenant, and so do the groups above it; what it holds is the tenant's devices that the caller
   reaches and that pass its filters and those of all groups above it.
2. Groups stand at most `DEEPEST` above one another, and never in a circle.
3. A group that others hang under is not deleted.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from uuid import UUID

from iam.access import Access
from iam.errors import Kind, Refused, conflict, not_found
from iam.identifiers import Clock, Random, uuid7
from iam.listing import Filter, ListQuery, read_filters
from iam.model import DeviceGroup, DeviceStatus, Tenant
from iam.paging import Page
from iam.service.devices import DeviceService, Slotted
from iam.store import device_groups as store
from iam.store.database import Change, Database, Transaction
from iam.store.device_groups import DEEPEST
from iam.store.device_lists import DEVICES
from iam.store.listing import check_filters


@dataclass(frozen=True, slots=True)
class GroupChange:
    """What shall be different about a group; None leaves a thing as it is.

    Attributes:
        parent: What it shall hang under, if it `moves`; None is nothing.
    """

    name: str | None = None
    description: str | None = None
    moves: bool = False
    parent: UUID | None = None
    criteria: tuple[str, ...] | None = None


class DeviceGroupService:
    """Groups of devices."""

    def __init__(self, database: Database, devices: DeviceService, clock: Clock, random: Random) -> None:
        self._database = database
        self._devices = devices
        self._clock = clock
        self._random = random

    async def create(
        self,
        access: Access,
        tenant: Tenant,
        name: str,
        *,
        identifier: UUID | None = None,
        description: str = "",
        parent: UUID | None = None,
        criteria: Sequence[str] = (),
    ) -> DeviceGroup:
        """Make a group.

        Raises:
            Refused: (malformed) A filter. (not found) The parent. (conflict) The id is taken. (invalid) Too deep.
        """
        now = self._clock()
        group = DeviceGroup(
            id=identifier or uuid7(now, self._random),
            tenant=tenant.id,
            name=name,
            description=description,
            parent=parent,
            criteria=tuple(criteria),
            created=now,
            updated=now,
        )
        async with self._database.transaction(tenant.id) as transaction:
            await store.lock_groups(transaction, tenant.id)
            await _check(transaction, group, height=1)
            await store.insert_group(transaction, group)
            await transaction.record(_change(access, group, "created"))
            return await store.group_by_id(transaction, tenant.id, group.id)

    async def page(self, tenant: Tenant, query: ListQuery) -> Page[DeviceGroup]:
        """Return a page of a tenant's groups."""
        async with self._database.transaction(tenant.id) as transaction:
            return await store.page_of_groups(transaction, tenant.id, query)

    async def get(self, tenant: Tenant, identifier: UUID) -> DeviceGroup:
        """Return a group; raise `Refused` (not found)."""
        async with self._database.transaction(tenant.id) as transaction:
            return await store.group_by_id(transaction, tenant.id, identifier)

    async def change(self, access: Access, tenant: Tenant, identifier: UUID, wanted: GroupChange) -> DeviceGroup:
        """Change a group; raises as `create`, and `Refused` (conflict) for a circle."""
        async with self._database.transaction(tenant.id) as transaction:
            await store.lock_groups(transaction, tenant.id)
            found = await store.group_by_id(transaction, tenant.id, identifier)
            group = replace(
                found,
                name=found.name if wanted.name is None else wanted.name,
                description=found.description if wanted.description is None else wanted.description,
                parent=wanted.parent if wanted.moves else found.parent,
                criteria=found.criteria if wanted.criteria is None else wanted.criteria,
                updated=transaction.now,
            )
            height = await store.height_of_group(transaction, tenant.id, identifier)
            await _check(transaction, group, height=height)
            await store.update_group(transaction, group)
            await transaction.record(_change(access, group, "updated"))
            return await store.group_by_id(transaction, tenant.id, identifier)

    async def delete(self, access: Access, tenant: Tenant, identifier: UUID) -> None:
        """Delete a group, and no device; raise `Refused` (not found), or (conflict) if others hang under it."""
        async with self._database.transaction(tenant.id) as transaction:
            await store.lock_groups(transaction, tenant.id)
            group = await store.group_by_id(transaction, tenant.id, identifier)
            await store.delete_group(transaction, tenant.id, identifier)
            await transaction.record(_change(access, group, "deleted"))

    async def devices(self, access: Access, tenant: Tenant, identifier: UUID, query: ListQuery) -> Page[Slotted]:
        """Return a page of the devices in a group that the caller reaches; raise `Refused` (not found)."""
        return await self._devices.listed(access, tenant, query, also=_filters(await self.get(tenant, identifier)))

    async def statistics(
        self, access: Access, tenant: Tenant, identifier: UUID, filters: Sequence[str]
    ) -> dict[DeviceStatus, int]:
        """Return how many devices of a group that the caller reaches are in each state; raise `Refused` (not found)."""
        group = await self.get(tenant, identifier)
        return await self._devices.statistics(access, tenant, filters, also=_filters(group))


def _filters(group: DeviceGroup) -> tuple[Filter, ...]:
    """Return all filters of a group: each group's own are bounded, and so is the number of groups."""
    return tuple(read_filters([one], DEVICES.columns)[0] for one in (*group.inherited, *group.criteria))


async def _check(transaction: Transaction, group: DeviceGroup, *, height: int) -> None:
    """Refuse a group whose filters do not read, or that hangs where it cannot (rule 2)."""
    await check_filters(transaction, DEVICES, read_filters(group.criteria, DEVICES.columns))
    if group.parent is None:
        return
    above = await store.groups_from(transaction, group.tenant, group.parent)
    if not above:
        raise not_found(f"device group {group.parent}")
    if group.id in above:
        raise conflict("A group cannot hang under itself, or under a group that hangs under it.")
    if len(above) + height > DEEPEST:
        raise Refused(Kind.INVALID, f"Groups stand at most {DEEPEST} above one another.")


def _change(access: Access, group: DeviceGroup, what: str) -> Change:
    return Change(group.tenant, access.identity.id, f"device_group.{what}", str(group.id), {"name": group.name})

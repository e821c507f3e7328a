"""Devices as a list in Lamassu's form, and counted: of one tenant, and of those only what the caller reaches."""

from collections.abc import Sequence
from uuid import UUID

from iam.listing import FieldKind, Filter, ListQuery
from iam.model import Device, DeviceStatus, Extent
from iam.paging import Page
from iam.store.database import Transaction
from iam.store.devices import DEVICE_COLUMNS
from iam.store.listing import Column, Finder, Listing, counts_of_list, page_of_list
from iam.store.rows import device_from

DEVICES = Listing(
    select=DEVICE_COLUMNS,
    source="FROM device",
    columns={
        "id": Column(FieldKind.TEXT, "device_identifier", finder=Finder("devices_named_like", "device_identifier")),
        "alias": Column(FieldKind.TEXT, "alias"),
        "status": Column(FieldKind.ENUM, "status", values=tuple(DeviceStatus)),
        "dms_owner": Column(FieldKind.TEXT, "enrolment_profile", is_nullable=True),
        "creation_timestamp": Column(FieldKind.DATE, "created_at"),
        "tags": Column(FieldKind.TEXTS, "tags", finder=Finder("devices_tagged", "device_identifier")),
        "labels": Column(FieldKind.JSON, "labels"),
        "metadata": Column(FieldKind.JSON, "metadata", finder=Finder("devices_at_path", "device_identifier")),
    },
    key="id",
)


def _reach(tenant: UUID, visible: Extent) -> tuple[str, tuple[object, ...]]:
    if visible.everything:
        return "tenant_id = $1", (tenant,)
    return "tenant_id = $1 AND device_identifier = ANY ($2::text[])", (tenant, sorted(visible.names))


async def page_of_devices(
    transaction: Transaction, tenant: UUID, query: ListQuery, *, visible: Extent, also: Sequence[Filter] = ()
) -> Page[Device]:
    """Return a page of the devices that the caller sees; raises as `page_of_list`.

    Args:
        also: Filters that hold beside the query's, such as those of a group.
    """
    where, values = _reach(tenant, visible)
    page = await page_of_list(transaction, DEVICES, query, where, *values, also=also)
    return Page(tuple(device_from(row) for row in page.items), page.next)


async def count_devices(
    transaction: Transaction, tenant: UUID, filters: Sequence[Filter], *, visible: Extent
) -> dict[DeviceStatus, int]:
    """Return how many devices the caller sees in each state, of those that pass the filters."""
    where, values = _reach(tenant, visible)
    counts = await counts_of_list(transaction, DEVICES, "status", filters, where, *values)
    return {status: counts.get(status, 0) for status in DeviceStatus}

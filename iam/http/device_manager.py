"""The device manager in Lamassu's paths and JSON: devices, their identity, their history, and statistics."""

from certs.names import device_identifier
from iam.bodies import StreamBody
from iam.errors import malformed
from iam.guard import Call, Needs, Route
from iam.http.device_csv import read_lines
from iam.http.device_shapes import (
    MetadataPatch,
    NewDevice,
    NewEvent,
    ShownDevice,
    ShownEvent,
    ShownReport,
    ShownStatistics,
    SlotBody,
    show_event,
    show_report,
    show_slotted,
    show_statistics,
)
from iam.json_patch import read_patch
from iam.listing import FilterQuery, Listed, ListQuery
from iam.paging import Page
from iam.permissions import Action, Resource
from iam.responses import Answer
from iam.schema import SnakeModel
from iam.service.device_import import DeviceImport
from iam.service.devices import DeviceChange, DeviceService, Slotted

BASE = "/api/devmanager/v1"
_TAG = "Device manager"
_DEVICES = f"{BASE}/devices"
_DEVICE = _DEVICES + "/{deviceIdentifier}"
_CSV = StreamBody(("text/csv", "application/csv"), limit=64 * 1024 * 1024, deadline=600.0)
_READ = Needs(Action.READ, Resource.DEVICES)
_CREATE = Needs(Action.CREATE, Resource.DEVICES)
_UPDATE = Needs(Action.UPDATE, Resource.DEVICES)
_DELETE = Needs(Action.DELETE, Resource.DEVICES)


class ImportQuery(SnakeModel):
    """How to import."""

    dry_run: bool = False


def routes(service: DeviceService, imports: DeviceImport) -> list[Route]:  # noqa: C901 - one handler for each route
    """Return the routes of the device manager, save those of groups."""

    async def create(call: Call) -> Answer:
        body: NewDevice = call.body
        device = await service.create(call.caller.access, call.tenant, body.registration)
        return Answer(201, show_slotted(Slotted(device, None)), {"Location": f"{_DEVICES}/{device.identifier}"})

    async def take(call: Call) -> Answer:
        query: ImportQuery = call.query
        lines = read_lines(call.body)
        return Answer(
            content=show_report(await imports.take(call.caller.access, call.tenant, lines, is_dry_run=query.dry_run))
        )

    async def page(call: Call) -> Answer:
        return listed(await service.listed(call.caller.access, call.tenant, call.query))

    async def page_of_label(call: Call) -> Answer:
        return listed(await service.of_label(call.caller.access, call.tenant, call.path["label"], call.query))

    async def get(call: Call) -> Answer:
        return Answer(content=show_slotted(await service.with_slot(call.caller.access, call.tenant, _device(call))))

    async def events(call: Call) -> Answer:
        found = await service.history(call.caller.access, call.tenant, _device(call), call.query)
        return Answer(content=Listed[ShownEvent](next=found.next, items=[show_event(one) for one in found.items]))

    async def note(call: Call) -> Answer:
        body: NewEvent = call.body
        return Answer(201, show_event(await service.note(call.caller.access, call.tenant, _device(call), body.note)))

    async def patch(call: Call) -> Answer:
        body: MetadataPatch = call.body
        operations = read_patch(body.patches)
        changed = await service.patch_metadata(call.caller.access, call.tenant, _device(call), operations)
        return Answer(content=show_slotted(changed))

    async def change_slot(call: Call) -> Answer:
        body: SlotBody = call.body
        changed = await service.claim_slot(call.caller.access, call.tenant, _device(call), body.claim)
        return Answer(content=show_slotted(changed))

    async def decommission(call: Call) -> Answer:
        await service.change(call.caller.access, call.tenant, _device(call), DeviceChange(decommission=True))
        return await get(call)

    async def delete(call: Call) -> Answer:
        await service.delete(call.caller.access, call.tenant, _device(call))
        return Answer(204)

    async def statistics(call: Call) -> Answer:
        query: FilterQuery = call.query
        if any(one.startswith("status[") for one in query.filter):
            raise malformed("Statistics are by status already: filter by something else.")
        counts = await service.statistics(call.caller.access, call.tenant, query.filter)
        return Answer(content=show_statistics(counts))

    return [
        Route(
            "GET",
            f"{BASE}/stats",
            statistics,
            _READ,
            "Count the devices in reach by their state",
            _TAG,
            query=FilterQuery,
            answers=ShownStatistics,
        ),
        Route(
            "POST",
            _DEVICES,
            create,
            _CREATE,
            "Register a device",
            _TAG,
            body=NewDevice,
            status=201,
            answers=ShownDevice,
        ),
        Route(
            "POST",
            f"{_DEVICES}/import",
            take,
            _CREATE,
            "Register many devices, from CSV",
            _TAG,
            body=_CSV,
            query=ImportQuery,
            answers=ShownReport,
        ),
        Route(
            "GET",
            _DEVICES,
            page,
            _READ,
            "List the devices in reach",
            _TAG,
            query=ListQuery,
            answers=Listed[ShownDevice],
        ),
        Route(
            "GET",
            f"{_DEVICES}/dms/{{label}}",
            page_of_label,
            _READ,
            "List those of an enrolment profile",
            _TAG,
            query=ListQuery,
            answers=Listed[ShownDevice],
        ),
        Route("GET", _DEVICE, get, _READ, "Get a device and its identity", _TAG, answers=ShownDevice),
        Route(
            "GET",
            f"{_DEVICE}/events",
            events,
            _READ,
            "List what happened to a device",
            _TAG,
            query=ListQuery,
            answers=Listed[ShownEvent],
        ),
        Route(
            "POST",
            f"{_DEVICE}/events",
            note,
            _UPDATE,
            "Note what happened to a device",
            _TAG,
            body=NewEvent,
            status=201,
            answers=ShownEvent,
        ),
        Route(
            "PUT",
            f"{_DEVICE}/metadata",
            patch,
            _UPDATE,
            "Change metadata by a JSON Patch",
            _TAG,
            body=MetadataPatch,
            answers=ShownDevice,
        ),
        Route(
            "PATCH",
            f"{_DEVICE}/metadata",
            patch,
            _UPDATE,
            "Change metadata by a JSON Patch",
            _TAG,
            body=MetadataPatch,
            answers=ShownDevice,
        ),
        Route(
            "PUT",
            f"{_DEVICE}/idslot",
            change_slot,
            _UPDATE,
            "Revoke a device's identity",
            _TAG,
            body=SlotBody,
            answers=ShownDevice,
        ),
        Route(
            "DELETE",
            f"{_DEVICE}/decommission",
            decommission,
            _UPDATE,
            "Take a device out of service for good",
            _TAG,
            answers=ShownDevice,
        ),
        Route("DELETE", _DEVICE, delete, _DELETE, "Delete a decommissioned device", _TAG, status=204),
    ]


def listed(found: Page[Slotted]) -> Answer:
    """Return a page of devices as the answer to whoever asked for it."""
    return Answer(content=Listed[ShownDevice](next=found.next, items=[show_slotted(one) for one in found.items]))


def _device(call: Call) -> str:
    return device_identifier(call.path["deviceIdentifier"])

"""Groups of devices by filter, in Lamassu's paths and JSON."""

from uuid import UUID

from iam.errors import not_found
from iam.guard import Call, Needs, Route
from iam.http.device_manager import BASE, listed
from iam.http.device_shapes import (
    GroupChanges,
    NewGroup,
    ShownDevice,
    ShownGroup,
    ShownStatistics,
    show_group,
    show_statistics,
)
from iam.listing import FilterQuery, Listed, ListQuery
from iam.permissions import Action, Resource
from iam.responses import Answer
from iam.service.device_groups import DeviceGroupService

_TAG = "Device groups"
_GROUPS = f"{BASE}/device-groups"
_GROUP = _GROUPS + "/{deviceGroup}"


def routes(service: DeviceGroupService) -> list[Route]:
    """Return the routes of groups."""

    async def create(call: Call) -> Answer:
        body: NewGroup = call.body
        group = await service.create(
            call.caller.access,
            call.tenant,
            body.name,
            identifier=body.id,
            description=body.description,
            parent=body.parent_id,
            criteria=[one.filter for one in body.criteria],
        )
        return Answer(201, show_group(group), {"Location": f"{_GROUPS}/{group.id}"})

    async def page(call: Call) -> Answer:
        found = await service.page(call.tenant, call.query)
        return Answer(content=Listed[ShownGroup](next=found.next, items=[show_group(one) for one in found.items]))

    async def get(call: Call) -> Answer:
        return Answer(content=show_group(await service.get(call.tenant, _group(call))))

    async def change(call: Call) -> Answer:
        body: GroupChanges = call.body
        return Answer(
            content=show_group(await service.change(call.caller.access, call.tenant, _group(call), body.change))
        )

    async def delete(call: Call) -> Answer:
        await service.delete(call.caller.access, call.tenant, _group(call))
        return Answer(204)

    async def devices(call: Call) -> Answer:
        return listed(await service.devices(call.caller.access, call.tenant, _group(call), call.query))

    async def statistics(call: Call) -> Answer:
        query: FilterQuery = call.query
        counts = await service.statistics(call.caller.access, call.tenant, _group(call), query.filter)
        return Answer(content=show_statistics(counts))

    groups = Resource.DEVICES_GROUPS
    read_devices = Needs(Action.READ, Resource.DEVICES)
    return [
        Route(
            "POST",
            _GROUPS,
            create,
            Needs(Action.CREATE, groups),
            "Make a group of devices by filters",
            _TAG,
            body=NewGroup,
            answers=ShownGroup,
            status=201,
        ),
        Route(
            "GET",
            _GROUPS,
            page,
            Needs(Action.READ, groups),
            "List groups of devices",
            _TAG,
            query=ListQuery,
            answers=Listed[ShownGroup],
        ),
        Route("GET", _GROUP, get, Needs(Action.READ, groups), "Get a group of devices", _TAG, answers=ShownGroup),
        Route(
            "PUT",
            _GROUP,
            change,
            Needs(Action.UPDATE, groups),
            "Change a group of devices",
            _TAG,
            body=GroupChanges,
            answers=ShownGroup,
        ),
        Route(
            "DELETE", _GROUP, delete, Needs(Action.DELETE, groups), "Delete a group, and no device", _TAG, status=204
        ),
        Route(
            "GET",
            f"{_GROUP}/devices",
            devices,
            read_devices,
            "List the devices in reach that a group holds now",
            _TAG,
            query=ListQuery,
            answers=Listed[ShownDevice],
        ),
        Route(
            "GET",
            f"{_GROUP}/stats",
            statistics,
            read_devices,
            "Count them by their state",
            _TAG,
            query=FilterQuery,
            answers=ShownStatistics,
        ),
    ]


def _group(call: Call) -> UUID:
    try:
        return UUID(call.path["deviceGroup"])
    except ValueError as error:
        raise not_found("such device group") from error

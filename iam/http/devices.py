"""Devices and pairings."""

import re
from typing import Annotated, Any, Literal

import orjson
from pydantic import AfterValidator, Field

from certs.names import device_identifier
from iam.errors import malformed
from iam.guard import Call, Needs, Route, SignedIn
from iam.http.shapes import Devices, Names, ShownDevice, names_of, show_device
from iam.model import DeviceStatus, PairingLevel
from iam.paging import PageQuery
from iam.permissions import Action, Resource
from iam.responses import Answer
from iam.schema import Model, Shown
from iam.service.devices import METADATA_BYTES, DeviceChange, DeviceService, Registration
from iam.service.pairings import Paired, PairingService

_DEVICES_TAG = "Devices"
_PAIRING_TAG = "Pairing"
_DEVICES = "/api/v1/devices"
_DEVICE = _DEVICES + "/{deviceIdentifier}"
_PAIR = "/api/v1/iam/pair"
_PAIR_ONE = _PAIR + "/{deviceIdentifier}"
_LABEL_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,62}")
_LABEL_VALUE = re.compile(r"[^\x00-\x1f\x7f,]{0,256}")
_PAIRING_NEED = SignedIn("which of the three pairing permissions counts is decided with the level")


def _checked_labels(labels: dict[str, str]) -> dict[str, str]:
    for name, value in labels.items():
        if not _LABEL_NAME.fullmatch(name) or not _LABEL_VALUE.fullmatch(value):
            raise ValueError("a label is a short name and up to 256 characters without comma or control characters")
    return labels


def _checked_metadata(metadata: dict[str, Any]) -> dict[str, Any]:
    if len(orjson.dumps(metadata)) > METADATA_BYTES:
        raise ValueError(f"metadata has at most {METADATA_BYTES} bytes")
    return metadata


Labels = Annotated[dict[str, str], Field(max_length=64), AfterValidator(_checked_labels)]
Metadata = Annotated[dict[str, Any], Field(max_length=256), AfterValidator(_checked_metadata)]


class NewDevice(Model):
    """A device to register."""

    device_identifier: str = Field(max_length=128, examples=["meter-001"])
    labels: Labels = Field(default_factory=dict)
    metadata: Metadata = Field(default_factory=dict)


class DeviceChanges(Model):
    """What shall be different about a device."""

    labels: Labels | None = None
    metadata: Metadata | None = None
    replacement_allowed: bool | None = Field(
        None, description="Let the next bootstrap holder take this device over, once."
    )
    status: Literal["DECOMMISSIONED"] | None = None


class DeviceQuery(PageQuery):
    """Which devices to list."""

    label: str | None = Field(None, max_length=512, description="`name=value`; several, separated by commas, all hold.")
    status: DeviceStatus | None = None


class PairBody(Model):
    """Devices to pair or unpair, and for whom if not for oneself."""

    device_identifier: list[str] = Field(min_length=1, max_length=1000)
    level: PairingLevel | None = Field(None, description="user, role or group; the narrowest permitted if not said.")
    holder: str | None = Field(None, max_length=128, description="An identity's id or name, or a role's name.")


class PairOneBody(Model):
    """For whom to pair a device, if not for oneself."""

    level: PairingLevel | None = None
    holder: str | None = Field(None, max_length=128)


class PairQuery(PairOneBody):
    """The same, as a query."""


class ShownPaired(Shown):
    """What a pairing came to."""

    level: str
    holder: str
    device_identifier: list[str]


class Reached(Shown):
    """Whether the caller can reach a device of his group."""

    device_identifier: str
    paired: bool


class Reach(Shown):
    """The devices that the caller can reach: `*` is all of his group."""

    device_identifier: Names


def device_routes(service: DeviceService) -> list[Route]:
    """Return the routes of devices."""

    async def create(call: Call) -> Answer:
        body: NewDevice = call.body
        wanted = Registration(body.device_identifier, body.labels, body.metadata)
        device = await service.create(call.caller.access, call.tenant, wanted)
        return Answer(201, show_device(device), {"Location": f"{_DEVICES}/{device.identifier}"})

    async def list_devices(call: Call) -> Answer:
        query: DeviceQuery = call.query
        page = await service.page(
            call.caller.access, call.tenant, query, labels=_labels(query.label), status=query.status
        )
        return Answer(content=Devices(items=[show_device(one) for one in page.items], next=page.next))

    async def get(call: Call) -> Answer:
        return Answer(content=show_device(await service.get(call.caller.access, call.tenant, _identifier(call))))

    async def change(call: Call) -> Answer:
        body: DeviceChanges = call.body
        wanted = DeviceChange(body.labels, body.metadata, body.replacement_allowed, body.status is not None)
        return Answer(
            content=show_device(await service.change(call.caller.access, call.tenant, _identifier(call), wanted))
        )

    async def delete(call: Call) -> Answer:
        await service.delete(call.caller.access, call.tenant, _identifier(call))
        return Answer(204)

    devices = Resource.DEVICES
    return [
        Route(
            "POST",
            _DEVICES,
            create,
            Needs(Action.CREATE, devices),
            "Register a device",
            _DEVICES_TAG,
            body=NewDevice,
            answers=ShownDevice,
            status=201,
        ),
        Route(
            "GET",
            _DEVICES,
            list_devices,
            Needs(Action.READ, devices),
            "List the devices in reach",
            _DEVICES_TAG,
            query=DeviceQuery,
            answers=Devices,
        ),
        Route("GET", _DEVICE, get, Needs(Action.READ, devices), "Get a device", _DEVICES_TAG, answers=ShownDevice),
        Route(
            "PATCH",
            _DEVICE,
            change,
            Needs(Action.UPDATE, devices),
            "Change labels or metadata, allow a replacement, or decommission",
            _DEVICES_TAG,
            body=DeviceChanges,
            answers=ShownDevice,
        ),
        Route(
            "DELETE",
            _DEVICE,
            delete,
            Needs(Action.DELETE, devices),
            "Delete a decommissioned device",
            _DEVICES_TAG,
            status=204,
        ),
    ]


def pairing_routes(service: PairingService) -> list[Route]:
    """Return the routes of pairing."""

    async def pair(call: Call) -> Answer:
        body: PairBody = call.body
        return _paired(
            await service.pair(
                call.caller.access, call.tenant, body.device_identifier, level=body.level, holder=body.holder
            )
        )

    async def reach(call: Call) -> Answer:
        return Answer(content=Reach(device_identifier=names_of(call.caller.access.devices) or []))

    async def unpair(call: Call) -> Answer:
        body: PairBody = call.body
        return _paired(
            await service.unpair(
                call.caller.access, call.tenant, body.device_identifier, level=body.level, holder=body.holder
            )
        )

    async def pair_one(call: Call) -> Answer:
        query: PairQuery = call.query
        return _paired(
            await service.pair(
                call.caller.access, call.tenant, [_identifier(call)], level=query.level, holder=query.holder
            )
        )

    async def reaches(call: Call) -> Answer:
        identifier = _identifier(call)
        await service.require_device(call.tenant, identifier)
        return Answer(content=Reached(device_identifier=identifier, paired=identifier in call.caller.access.devices))

    async def unpair_one(call: Call) -> Answer:
        query: PairQuery = call.query
        await service.unpair(
            call.caller.access, call.tenant, [_identifier(call)], level=query.level, holder=query.holder
        )
        return Answer(204)

    return [
        Route("POST", _PAIR, pair, _PAIRING_NEED, "Pair devices", _PAIRING_TAG, body=PairBody, answers=ShownPaired),
        Route(
            "GET",
            _PAIR,
            reach,
            SignedIn("a caller may know what he reaches"),
            "List the devices that I reach",
            _PAIRING_TAG,
            answers=Reach,
        ),
        Route(
            "DELETE",
            _PAIR,
            unpair,
            _PAIRING_NEED,
            "Unpair devices",
            _PAIRING_TAG,
            body=PairBody,
            answers=ShownPaired,
        ),
        Route(
            "POST",
            _PAIR_ONE,
            pair_one,
            _PAIRING_NEED,
            "Pair one device",
            _PAIRING_TAG,
            query=PairQuery,
            answers=ShownPaired,
        ),
        Route(
            "GET",
            _PAIR_ONE,
            reaches,
            SignedIn("a caller may know what he reaches"),
            "Tell whether I reach a device",
            _PAIRING_TAG,
            answers=Reached,
        ),
        Route(
            "DELETE",
            _PAIR_ONE,
            unpair_one,
            _PAIRING_NEED,
            "Unpair one device",
            _PAIRING_TAG,
            query=PairQuery,
            status=204,
        ),
    ]


def _identifier(call: Call) -> str:
    return device_identifier(call.path["deviceIdentifier"])


def _labels(text: str | None) -> dict[str, str]:
    if not text:
        return {}
    labels = {}
    for part in text.split(","):
        name, equals, value = part.partition("=")
        if not equals or not _LABEL_NAME.fullmatch(name) or not _LABEL_VALUE.fullmatch(value):
            raise malformed("Ask for labels as `name=value`, several separated by commas.", label=part[:64])
        labels[name] = value
    return labels


def _paired(paired: Paired) -> Answer:
    return Answer(content=ShownPaired(level=paired.level, holder=paired.holder, device_identifier=list(paired.devices)))

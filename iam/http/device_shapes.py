"""Devices and groups of them as Lamassu's device manager writes them in JSON: what comes in, what goes out."""

import re
from datetime import datetime, timedelta
from typing import Annotated, Any
from uuid import UUID

from pydantic import AfterValidator, AwareDatetime, Field

from iam.device_history import DeviceEvent, DeviceNote
from iam.http.devices import Labels, Metadata
from iam.identity_slot import SECRET_TYPE, IdentitySlot, SlotEvent
from iam.listing import LONGEST_FILTER, MOST_FILTERS
from iam.model import DeviceGroup, DeviceStatus
from iam.schema import SnakeModel, SnakeShown
from iam.service.device_groups import GroupChange
from iam.service.device_import import Report
from iam.service.devices import Registration, SlotClaim, Slotted

MOST_TAGS = 64
_PRINTABLE = re.compile(r"[^\x00-\x1f\x7f]*")
_CRITERION = re.compile(r"([A-Za-z][A-Za-z0-9_.]{0,63})\[([A-Za-z_]{1,24})\]=?(.*)", re.DOTALL)


def _printable(text: str) -> str:
    if not _PRINTABLE.fullmatch(text):
        raise ValueError("no control characters, please")
    return text


Word = Annotated[str, AfterValidator(_printable)]
Tag = Annotated[Word, Field(min_length=1, max_length=64)]


class NewDevice(SnakeModel):
    """A device to register."""

    id: str = Field(max_length=128, description="The device identifier.", examples=["meter-001"])
    alias: Word = Field("", max_length=128)
    tags: list[Tag] = Field(default_factory=list, max_length=MOST_TAGS)
    metadata: Metadata = Field(default_factory=dict)
    labels: Labels = Field(default_factory=dict, description="Ours beside Lamassu's: names with values.")
    dms_id: str | None = Field(None, max_length=64, description="The enrolment profile that it is registered for.")
    icon: Word = Field("", max_length=64)
    icon_color: Word = Field("", max_length=64)

    @property
    def registration(self) -> Registration:
        """The same for the service."""
        return Registration(
            identifier=self.id,
            labels=self.labels,
            metadata=self.metadata,
            alias=self.alias,
            tags=tuple(dict.fromkeys(self.tags)),
            icon=self.icon,
            icon_color=self.icon_color,
            label=self.dms_id or None,
        )


class MetadataPatch(SnakeModel):
    """A JSON Patch (RFC 6902) of a device's metadata."""

    patches: list[dict[str, Any]] = Field(
        max_length=100, examples=[[{"op": "replace", "path": "/site", "value": "mill"}]]
    )


class NewEvent(SnakeModel):
    """Something that happened to a device."""

    type: str = Field(max_length=64, description="Any but those of the life of its identity.", examples=["REBOOTED"])
    description: Word = Field("", max_length=1024)
    event_ts: AwareDatetime | None = Field(None, description="When it happened; now if not said.")
    source: Word | None = Field(None, max_length=128, description="Who noticed it; the caller if not said.")
    structured_fields: Metadata = Field(default_factory=dict)

    @property
    def note(self) -> DeviceNote:
        """The same for the service."""
        return DeviceNote(self.type, self.description, self.event_ts, self.source, self.structured_fields)


class SlotBody(SnakeModel):
    """A device's identity as it shall be: everything that is said is as it is now, save that it may be REVOKED."""

    status: DeviceStatus
    active_version: int | None = None
    type: str | None = None
    versions: dict[int, str] | None = Field(None, max_length=1000)
    expiration: datetime | None = Field(None, description="Not looked at: it follows from the versions.")
    events: dict[str, Any] | None = Field(None, description="Not looked at: they follow from what happens.")

    @property
    def claim(self) -> SlotClaim:
        """The same for the service."""
        return SlotClaim(self.status, self.active_version, self.type, self.versions)


class Criterion(SnakeModel):
    """A filter of a group."""

    field: str = Field(max_length=64, examples=["tags"])
    operand: str = Field(max_length=24, examples=["contains"])
    value: str = Field(max_length=LONGEST_FILTER)

    @property
    def filter(self) -> str:
        """The same as a list takes it."""
        return f"{self.field}[{self.operand}]={self.value}"


Criteria = Annotated[list[Criterion], Field(max_length=MOST_FILTERS)]


class NewGroup(SnakeModel):
    """A group of devices to make."""

    id: UUID | None = Field(None, description="Made if not said.")
    name: Word = Field(min_length=1, max_length=255)
    description: Word = Field("", max_length=1024)
    parent_id: UUID | None = None
    criteria: Criteria = Field(default_factory=list)


class GroupChanges(SnakeModel):
    """What shall be different about a group."""

    name: Word | None = Field(None, min_length=1, max_length=255)
    description: Word | None = Field(None, max_length=1024)
    parent_id: UUID | None = Field(None, description="null puts it at the top.")
    criteria: Criteria | None = None

    @property
    def change(self) -> GroupChange:
        """The same for the service."""
        return GroupChange(
            name=self.name,
            description=self.description,
            moves="parent_id" in self.model_fields_set,
            parent=self.parent_id,
            criteria=None if self.criteria is None else tuple(one.filter for one in self.criteria),
        )


class ShownSlotEvent(SnakeShown):
    """What happened to a device's identity."""

    type: str
    description: str


class ShownSlot(SnakeShown):
    """A device's identity: its certificates' serial numbers by version, and which one counts."""

    status: str
    active_version: int
    type: str
    versions: dict[str, str]
    expiration: datetime
    events: dict[datetime, ShownSlotEvent]


class ShownDevice(SnakeShown):
    """A device."""

    id: str
    alias: str
    tags: list[str]
    status: str
    icon: str
    icon_color: str
    creation_timestamp: datetime
    metadata: dict[str, Any]
    labels: dict[str, str]
    dms_owner: str
    identity: ShownSlot | None
    slots: dict[str, Any]


class ShownEvent(SnakeShown):
    """A line of a device's history."""

    id: UUID
    event_ts: datetime
    type: str
    description: str
    source: str
    structured_fields: dict[str, Any]


class ShownStatistics(SnakeShown):
    """How many devices there are, and how many in each state."""

    total: int
    status_distribution: dict[str, int]


class ShownRefusal(SnakeShown):
    """A line of an import that registered nothing."""

    line: int
    id: str | None
    reason: str


class ShownReport(SnakeShown):
    """What an import came to; of the refused lines, the first 1,000 are named."""

    dry_run: bool
    lines: int
    registered: int
    refused: int
    refusals: list[ShownRefusal]


class ShownCriterion(SnakeShown):
    """A filter of a group."""

    field: str
    operand: str
    value: str


class ShownGroup(SnakeShown):
    """A group of devices."""

    id: UUID
    name: str
    description: str
    parent_id: UUID | None
    criteria: list[ShownCriterion]
    inherited_criteria: list[ShownCriterion]
    created_at: datetime
    updated_at: datetime


def show_slotted(slotted: Slotted) -> ShownDevice:
    """Return what callers see of a device."""
    device = slotted.device
    return ShownDevice(
        id=device.identifier,
        alias=device.alias,
        tags=list(device.tags),
        status=device.status,
        icon=device.icon,
        icon_color=device.icon_color,
        creation_timestamp=device.created,
        metadata=device.metadata,
        labels=device.labels,
        dms_owner=device.enrolment_profile or "",
        identity=None if slotted.slot is None else _show_slot(slotted.slot),
        slots={},
    )


def _show_slot(slot: IdentitySlot) -> ShownSlot:
    return ShownSlot(
        status=slot.status,
        active_version=slot.active_version,
        type=SECRET_TYPE,
        versions={str(version): serial for version, serial in slot.versions.items()},
        expiration=slot.expires,
        events=_by_time(slot.events),
    )


def _by_time(events: tuple[SlotEvent, ...]) -> dict[datetime, ShownSlotEvent]:
    """Return events by their time, as Lamassu has them; of two at the same moment the later is a microsecond on."""
    shown: dict[datetime, ShownSlotEvent] = {}
    for event in events:
        at = event.at
        while at in shown:
            at += timedelta(microseconds=1)
        shown[at] = ShownSlotEvent(type=event.type, description=event.description)
    return shown


def show_event(event: DeviceEvent) -> ShownEvent:
    """Return what callers see of a line of a device's history."""
    return ShownEvent(
        id=event.id,
        event_ts=event.happened,
        type=event.type,
        description=event.description,
        source=event.source,
        structured_fields=dict(event.fields),
    )


def show_statistics(counts: dict[DeviceStatus, int]) -> ShownStatistics:
    """Return what callers see of statistics: each state, also where no device is in it."""
    return ShownStatistics(total=sum(counts.values()), status_distribution={str(one): n for one, n in counts.items()})


def show_report(report: Report) -> ShownReport:
    """Return what callers see of an import."""
    return ShownReport(
        dry_run=report.is_dry_run,
        lines=report.lines,
        registered=report.registered,
        refused=report.refused,
        refusals=[ShownRefusal(line=one.number, id=one.identifier, reason=one.reason) for one in report.refusals],
    )


def show_group(group: DeviceGroup) -> ShownGroup:
    """Return what callers see of a group."""
    return ShownGroup(
        id=group.id,
        name=group.name,
        description=group.description,
        parent_id=group.parent,
        criteria=[_show_criterion(one) for one in group.criteria],
        inherited_criteria=[_show_criterion(one) for one in group.inherited],
        created_at=group.created,
        updated_at=group.updated,
    )


def _show_criterion(text: str) -> ShownCriterion:
    match = _CRITERION.fullmatch(text)
    field, operand, value = match.groups() if match else ("", "", text)
    return ShownCriterion(field=field, operand=operand, value=value)

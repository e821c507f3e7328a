"""What happened to a device, in Lamassu's words: which of our events is which of its types, and a sentence for each.

The rules:

1. An event that the table does not know is shown all the same, as UNKNOWN.
2. Others may note what happened to a device: a note says its type, its time and its source by itself, and is
   `device.noted` whatever it says. What only this node can know, that a device came into being, got or renewed its
   identity, or went out of service, is no type of a note.
3. A note is of the past: its time is not later than the moment at which it comes, save for a clock that is a little
   fast; and not before 1970, where no clock of a device begins, and dates are written that nobody reads.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from typing import Any, Final
from uuid import UUID

from iam.errors import Kind, Refused

NOTED = "device.noted"
_CLOCK_TOLERANCE = timedelta(minutes=5)
_EARLIEST = datetime(1970, 1, 1, tzinfo=UTC)
_TYPE_OF_NOTE = re.compile(r"[A-Z][A-Z0-9]*(?:[_-][A-Z0-9]+)*")
_LONGEST_TYPE = 64


class DeviceEventType(StrEnum):
    """The types of Lamassu's device manager."""

    CREATED = "CREATED"
    PROVISIONED = "PROVISIONED"
    REPROVISIONED = "RE-PROVISIONED"
    RENEWED = "RENEWED"
    SHADOW_UPDATED = "SHADOW-UPDATED"
    CONNECTION_UPDATED = "CONNECTION-UPDATED"
    STATUS_UPDATED = "STATUS-UPDATED"
    DECOMMISSIONED = "DECOMMISSIONED"
    UNKNOWN = "UNKNOWN"


TYPES: Final[Mapping[str, DeviceEventType]] = {
    "device.created": DeviceEventType.CREATED,
    "device.enrolled": DeviceEventType.PROVISIONED,
    "device.identity_bound": DeviceEventType.PROVISIONED,
    "device.renewed": DeviceEventType.RENEWED,
    "device.updated": DeviceEventType.SHADOW_UPDATED,
    "device.status_changed": DeviceEventType.STATUS_UPDATED,
    "certificate.held": DeviceEventType.STATUS_UPDATED,
    "certificate.released": DeviceEventType.STATUS_UPDATED,
    "certificate.revoked": DeviceEventType.STATUS_UPDATED,
    "device.decommissioned": DeviceEventType.DECOMMISSIONED,
}

_SENTENCES: Final[Mapping[str, str]] = {
    "device.created": "registered",
    "device.enrolled": "enrolled under the label {label}, certificate {serial}",
    "device.identity_bound": "has the certificate {serial}, by an operator",
    "device.renewed": "certificate {serial} in place of {supersedes}",
    "device.updated": "labels, metadata or permission to replace changed",
    "device.status_changed": "{before} became {after}",
    "device.bound": "bound to a bootstrap certificate",
    "device.key_generated": "a key was made here for it",
    "device.unbound": "bound to a bootstrap certificate no more",
    "certificate.deleted": "a certificate that had ended was deleted",
    "certificate.held": "a certificate is revoked for the time being",
    "certificate.issued": "a certificate was issued",
    "certificate.released": "a certificate that was held is good again",
    "certificate.revoked": "a certificate was revoked: {reason}",
    "enrolment.requested": "asks to enrol under the label {label}",
    "enrolment.approved": "may enrol under the label {label}",
    "enrolment.rejected": "may not enrol under the label {label}",
    "device.decommissioned": "decommissioned",
}


OWN_TYPES: Final = frozenset(
    {
        DeviceEventType.CREATED,
        DeviceEventType.PROVISIONED,
        DeviceEventType.REPROVISIONED,
        DeviceEventType.RENEWED,
        DeviceEventType.DECOMMISSIONED,
        DeviceEventType.UNKNOWN,
    }
)
"""What no note says (rule 2)."""


@dataclass(frozen=True, slots=True)
class DeviceNote:
    """What somebody says happened to a device.

    Attributes:
        happened: When; None is now.
        source: Who noticed it; None is whoever says it.
        fields: Whatever else there is to it.
    """

    type: str
    description: str = ""
    happened: datetime | None = None
    source: str | None = None
    fields: Mapping[str, Any] = field(default_factory=dict, hash=False)

    def data(self, now: datetime) -> dict[str, Any]:
        """Return what the event of it holds, by rules 2 and 3; raise `Refused` (invalid) with what is wrong."""
        happened = self.happened or now
        for stands_against, why in (
            (
                len(self.type) > _LONGEST_TYPE or not _TYPE_OF_NOTE.fullmatch(self.type),
                f"A type is 1 to {_LONGEST_TYPE} capital letters and digits, in words joined by '-' or '_'.",
            ),
            (self.type in OWN_TYPES, f"{self.type} is what this node notes by itself."),
            (happened > now + _CLOCK_TOLERANCE, "What is noted has happened: its time is not to come."),
            (happened < _EARLIEST, "What is noted has happened in 1970 or later."),
        ):
            if stands_against:
                raise Refused(Kind.INVALID, why)
        said = {"type": self.type, "description": self.description, "happened": happened.isoformat()}
        return {**said, **({"source": self.source} if self.source else {}), "fields": dict(self.fields)}


@dataclass(frozen=True, slots=True)
class DeviceEvent:
    """One line of a device's history.

    Attributes:
        at: When it was noted.
        actor: Who did it, or noted it.
        data: What its event holds.
    """

    id: UUID
    at: datetime
    kind: str
    actor: str
    data: Mapping[str, Any]

    @property
    def type(self) -> str:
        """What Lamassu calls it."""
        return str(self.data["type"]) if self.kind == NOTED else TYPES.get(self.kind, DeviceEventType.UNKNOWN)

    @property
    def happened(self) -> datetime:
        """When it happened, as far as is known."""
        return datetime.fromisoformat(self.data["happened"]) if self.kind == NOTED else self.at

    @property
    def source(self) -> str:
        """Who noticed it."""
        return str(self.data.get("source", self.actor)) if self.kind == NOTED else self.actor

    @property
    def fields(self) -> Mapping[str, Any]:
        """What else is known of it; of a note, what it says and who noted it, which it cannot say for itself."""
        if self.kind == NOTED:
            return {**self.data["fields"], "kind": self.kind, "noted_by": self.actor}
        return {**self.data, "kind": self.kind}

    @property
    def description(self) -> str:
        """What it was, in a sentence."""
        if self.kind == NOTED:
            return str(self.data["description"])
        sentence = _SENTENCES.get(self.kind)
        return self.kind if sentence is None else sentence.format_map(_Said(self.data))


class _Said(dict[str, Any]):
    """What an event says, and a question mark for what it does not."""

    def __missing__(self, _name: str) -> str:
        return "?"

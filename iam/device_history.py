"""What happened to a device, in Lamassu's words: which of our events is which of its types, and a sentence for each.

An event that this table does not know is shown all the same, as UNKNOWN.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Any, Final
from uuid import UUID


class DeviceEventType(StrEnum):
    """The types of Lamassu's device manager."""

    CREATED = "CREATED"
    PROVISIONED = "PROVISIONED"
    REPROVISIONED = "RE-PROVISIONED"
    RENEWED = "RENEWED"
    SHADOW_UPDATED = "SHADOW-UPDATED"
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
    "certificate.held": "a certificate is revoked for the time being",
    "certificate.issued": "a certificate was issued",
    "certificate.released": "a certificate that was held is good again",
    "certificate.revoked": "a certificate was revoked: {reason}",
    "enrolment.requested": "asks to enrol under the label {label}",
    "enrolment.approved": "may enrol under the label {label}",
    "enrolment.rejected": "may not enrol under the label {label}",
    "device.decommissioned": "decommissioned",
}


@dataclass(frozen=True, slots=True)
class DeviceEvent:
    """One line of a device's history."""

    id: UUID
    at: datetime
    kind: str
    actor: str
    data: Mapping[str, Any]

    @property
    def type(self) -> DeviceEventType:
        """What Lamassu calls it."""
        return TYPES.get(self.kind, DeviceEventType.UNKNOWN)

    @property
    def description(self) -> str:
        """What it was, in a sentence."""
        sentence = _SENTENCES.get(self.kind)
        return self.kind if sentence is None else sentence.format_map(_Said(self.data))


class _Said(dict[str, Any]):
    """What an event says, and a question mark for what it does not."""

    def __missing__(self, _name: str) -> str:
        return "?"

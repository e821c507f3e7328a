"""A device's identity as Lamassu shows it: a slot that holds its certificates as versions of one secret.

The rules:

1. Versions are the device's own certificates, numbered from 0 in the order in which they were issued. The active
   version is the one that is good; where none is, the newest.
2. The slot's state is the device's, as far as a slot has such a state; a device without identity has no slot.
3. Its events follow from the certificates alone: when each came, and when and why it was revoked.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from iam.device_history import DeviceEventType
from iam.model import DeviceStatus

SECRET_TYPE = "X509"  # noqa: S105 - the name of a kind, not a secret


@dataclass(frozen=True, slots=True)
class SlotCertificate:
    """One certificate of a device's identity.

    Attributes:
        version: Counted from 0.
        serial: In hexadecimal.
        is_active: It is the one that the device lives by.
        is_renewal: It was got with the one before, and not with a bootstrap credential.
        revoked: When it was, if it was; `reason` says why.
    """

    version: int
    serial: str
    is_active: bool
    is_renewal: bool
    issued: datetime
    expires: datetime
    revoked: datetime | None
    reason: str | None


@dataclass(frozen=True, slots=True)
class SlotEvent:
    """Something that happened to a slot."""

    at: datetime
    type: DeviceEventType
    description: str


@dataclass(frozen=True, slots=True)
class IdentitySlot:
    """A device's identity: which certificates, and which of them counts."""

    status: DeviceStatus
    active_version: int
    versions: dict[int, str]
    expires: datetime
    events: tuple[SlotEvent, ...]


def slot_of(status: DeviceStatus, certificates: Sequence[SlotCertificate]) -> IdentitySlot | None:
    """Return the slot of a device in this state with these certificates, oldest first; None if it has none."""
    if not certificates:
        return None
    active = next((one for one in reversed(certificates) if one.is_active), certificates[-1])
    return IdentitySlot(
        status=DeviceStatus.REVOKED if status is DeviceStatus.DECOMMISSIONED else status,
        active_version=active.version,
        versions={one.version: one.serial for one in certificates},
        expires=active.expires,
        events=tuple(sorted((event for one in certificates for event in _events(one)), key=lambda event: event.at)),
    )


def _events(one: SlotCertificate) -> list[SlotEvent]:
    kind = DeviceEventType.PROVISIONED if one.version == 0 else DeviceEventType.REPROVISIONED
    came = SlotEvent(
        one.issued,
        DeviceEventType.RENEWED if one.is_renewal else kind,
        f"certificate {one.serial}, valid until {one.expires.isoformat()}",
    )
    if one.revoked is None:
        return [came]
    gone = SlotEvent(one.revoked, DeviceEventType.STATUS_UPDATED, f"certificate {one.serial} revoked: {one.reason}")
    return [came, gone]

"""A device's life cycle: its states, what may follow each, and which of them its certificate's age says.

The rules:

1. `FOLLOWERS` is all there is: what it does not list does not happen. DECOMMISSIONED is terminal, and comes before
   deletion.
2. While a device has a certificate that is good, its state is the certificate's age and nothing else: so it is right
   after any downtime, and after a clock that was set forward or back.
3. At the very moment of its end a certificate is EXPIRED, as it is at the brokers.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final

from iam.errors import conflict
from iam.model import DeviceStatus

BY_AGE: Final = (
    DeviceStatus.ACTIVE,
    DeviceStatus.RENEWAL_PENDING,
    DeviceStatus.EXPIRING_SOON,
    DeviceStatus.EXPIRED,
)
"""The states of a device with a certificate, youngest first."""

_END = frozenset({DeviceStatus.REVOKED, DeviceStatus.DECOMMISSIONED})

FOLLOWERS: Final[Mapping[DeviceStatus, frozenset[DeviceStatus]]] = {
    # Enrolment.
    DeviceStatus.NO_IDENTITY: frozenset({DeviceStatus.ACTIVE, DeviceStatus.DECOMMISSIONED}),
    # Age, renewal (back to ACTIVE, also from EXPIRED where the label lets it), revocation.
    DeviceStatus.ACTIVE: frozenset(BY_AGE) | _END,
    DeviceStatus.RENEWAL_PENDING: frozenset(BY_AGE) | _END,
    DeviceStatus.EXPIRING_SOON: frozenset(BY_AGE) | _END,
    DeviceStatus.EXPIRED: frozenset(BY_AGE) | _END,
    # A new enrolment, where an operator has allowed the replacement.
    DeviceStatus.REVOKED: frozenset({DeviceStatus.ACTIVE, DeviceStatus.DECOMMISSIONED}),
    DeviceStatus.DECOMMISSIONED: frozenset(),
}


@dataclass(frozen=True, slots=True)
class Windows:
    """How long before its end a certificate is due for renewal, and when it is urgent; the latter is shorter."""

    renewal: timedelta
    critical: timedelta


def status_by_age(expires: datetime, now: datetime, windows: Windows) -> DeviceStatus:
    """Return the state of a device whose certificate ends then."""
    left = expires - now
    if left <= timedelta(0):
        return DeviceStatus.EXPIRED
    if left <= windows.critical:
        return DeviceStatus.EXPIRING_SOON
    if left <= windows.renewal:
        return DeviceStatus.RENEWAL_PENDING
    return DeviceStatus.ACTIVE


def require_step(device: str, status: DeviceStatus, wanted: DeviceStatus) -> None:
    """Raise `Refused` (conflict) unless `wanted` may follow `status`."""
    if wanted not in FOLLOWERS[status]:
        raise conflict(f"Device {device} is {status}; from there it does not become {wanted}.")

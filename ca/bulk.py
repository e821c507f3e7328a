"""Revoking what many devices have: how far it is, and whom it reaches. `ca.bulk_service` has the rules, and does it."""

from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum
from uuid import UUID

from ca.inventory import RevocationReason
from iam.access import Access, Denied, decide, visible_devices
from iam.model import Extent, Tenant
from iam.permissions import Action, Resource

_NEEDS = ((Action.READ, Resource.DEVICES), (Action.UPDATE, Resource.CA_CERTIFICATES))

MOST_FAILURES = 10
"""How often one batch is tried: over some eight minutes, which a store that restarts or a lock does not take."""
_FIRST_PAUSE = timedelta(seconds=1)
LONGEST_PAUSE = timedelta(minutes=5)


class BulkStatus(StrEnum):
    """How far a revocation of many is."""

    RUNNING = "RUNNING"
    DONE = "DONE"
    CANCELLED = "CANCELLED"
    """An operator ended it before its end; what is revoked stays so."""
    STOPPED = "STOPPED"
    """It may not go on, or its filters mean nothing any more: `why_stopped` says why."""
    FAILED = "FAILED"
    """A batch failed each time that it was tried: `why_stopped` says by what."""


RESUMABLE = frozenset({BulkStatus.STOPPED, BulkStatus.FAILED})
"""What an operator can let go on where it ended."""


@dataclass(frozen=True, slots=True)
class BulkRevocation:
    """A revocation of many.

    Attributes:
        filters: As they were written.
        devices: How many there were to look at when it began.
        devices_done: How many of them it has come by.
        certificates: How many it has revoked.
        failures: How often its next batch has failed, one time after the other.
        next_try: When that is tried again; None is now.
        last_failure: What it failed by.
    """

    id: UUID
    tenant: UUID
    actor: str
    filters: tuple[str, ...]
    reason: RevocationReason
    status: BulkStatus
    devices: int
    devices_done: int
    certificates: int
    place: str
    why_stopped: str | None
    created: datetime
    updated: datetime
    failures: int = 0
    next_try: datetime | None = None
    last_failure: str | None = None


@dataclass(frozen=True, slots=True)
class Preview:
    """What a revocation of many would do now."""

    devices: int
    certificates: int
    sample: tuple[str, ...]


def pause_after(failures: int) -> timedelta | None:
    """Return how long to wait after so many failures in a row before the next try; None if there is to be none."""
    if failures >= MOST_FAILURES:
        return None
    return min(_FIRST_PAUSE * (1 << (failures - 1)), LONGEST_PAUSE)


def reach(access: Access, tenant: Tenant) -> Extent | Denied:
    """Return which devices of a tenant somebody may revoke the certificates of (rule 2), or why none."""
    for action, resource in _NEEDS:
        decision = decide(access, action, resource, tenant=tenant)
        if isinstance(decision, Denied):
            return decision
    readable, changeable = (visible_devices(access, action, resource) for action, resource in _NEEDS)
    return readable & changeable

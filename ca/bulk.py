"""Revoking what many devices have: how far it is, and whom it reaches. `ca.bulk_service` has the rules, and does it."""

from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from uuid import UUID

from ca.inventory import RevocationReason
from iam.access import Access, Denied, decide, visible_devices
from iam.model import Extent, Tenant
from iam.permissions import Action, Resource

_NEEDS = ((Action.READ, Resource.DEVICES), (Action.UPDATE, Resource.CA_CERTIFICATES))


class BulkStatus(StrEnum):
    """How far a revocation of many is."""

    RUNNING = "RUNNING"
    DONE = "DONE"
    CANCELLED = "CANCELLED"
    """An operator ended it before its end; what is revoked stays so."""
    STOPPED = "STOPPED"
    """It could not go on: `why_stopped` says why."""


@dataclass(frozen=True, slots=True)
class BulkRevocation:
    """A revocation of many.

    Attributes:
        filters: As they were written.
        devices: How many there were to look at when it began.
        devices_done: How many of them it has come by.
        certificates: How many it has revoked.
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


@dataclass(frozen=True, slots=True)
class Preview:
    """What a revocation of many would do now."""

    devices: int
    certificates: int
    sample: tuple[str, ...]


def reach(access: Access, tenant: Tenant) -> Extent | Denied:
    """Return which devices of a tenant somebody may revoke the certificates of (rule 2), or why none."""
    for action, resource in _NEEDS:
        decision = decide(access, action, resource, tenant=tenant)
        if isinstance(decision, Denied):
            return decision
    readable, changeable = (visible_devices(access, action, resource) for action, resource in _NEEDS)
    return readable & changeable

"""What happened, as every node hears it, and whose access it touches.

The relay publishes each change to `doorward.events.<tenant id>.<kind>` as one JSON object; the same reading serves the
directory (which entries to drop) and the callout (which connections to look at again). A change that touches somebody's
access says so in its data, under `affects`, where it is made; nothing is inferred from its kind.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Any
from uuid import UUID

import orjson

from iam.errors import malformed

EVENT_SUBJECTS = "doorward.events.>"
"""What a listener subscribes to."""

_SUBJECT_PREFIX = "doorward.events"


FOR_NODES = ("authority.", "certificate.", "device.renewed", "issuance_profile.")
"""How the kinds begin that nodes act on although they touch nobody's access."""


class Affected(StrEnum):
    """The kinds of thing whose holders' access a change may touch."""

    IDENTITY = "identity"
    ROLE = "role"
    TENANT = "tenant"


@dataclass(frozen=True, slots=True)
class Effect:
    """Whose access a change touches: one identity's, all holders' of a role, or all of a tenant and those below."""

    kind: Affected
    id: str


@dataclass(frozen=True, slots=True)
class Event:
    """One change of state, as published."""

    id: UUID
    tenant: UUID
    at: datetime
    actor: str
    kind: str
    subject: str
    data: dict[str, Any]

    @property
    def effects(self) -> tuple[Effect, ...]:
        """Whose access this touches; empty for most events."""
        return effects_of(self.data)

    @property
    def channel(self) -> str:
        """The NATS subject that this event is published on."""
        return f"{_SUBJECT_PREFIX}.{self.tenant}.{self.kind}"


def effects_of(data: Mapping[str, Any]) -> tuple[Effect, ...]:
    """Return whose access a change with this data touches."""
    return tuple(Effect(Affected(kind), identifier) for kind, identifier in data.get("affects", ()))


def is_for_nodes(kind: str, data: Mapping[str, Any]) -> bool:
    """Tell whether nodes act on a change: it touches somebody's access, a certificate or an authority."""
    return "affects" in data or kind.startswith(FOR_NODES)


def affects(*effects: Effect) -> dict[str, Any]:
    """Return the part of a change's data that says whose access it touches."""
    return {"affects": [[effect.kind.value, effect.id] for effect in effects]}


def affects_identity(*identities: str) -> dict[str, Any]:
    """Return the same for single identities."""
    return affects(*(Effect(Affected.IDENTITY, identity) for identity in identities))


def encode_event(event: Event) -> bytes:
    """Return the JSON of an event, as published."""
    return orjson.dumps(
        {
            "id": str(event.id),
            "tenant": str(event.tenant),
            "at": event.at,
            "actor": event.actor,
            "kind": event.kind,
            "subject": event.subject,
            "data": event.data,
        }
    )


def decode_event(message: bytes) -> Event:
    """Read a published event; raise `Refused` (malformed) for anything else."""
    try:
        raw = orjson.loads(message)
        return Event(
            id=UUID(raw["id"]),
            tenant=UUID(raw["tenant"]),
            at=datetime.fromisoformat(raw["at"]),
            actor=raw["actor"],
            kind=raw["kind"],
            subject=raw["subject"],
            data=raw["data"],
        )
    except (ValueError, KeyError, TypeError) as error:
        raise malformed(f"Not an event: {error}.") from error

"""What happened, as every node hears it and anybody else may, and whose access it touches.

The relay publishes each change to `doorward.events.<tenant id>.<kind>` as a CloudEvent (CloudEvents 1.0.2, structured
mode, JSON); the same reading serves the directory (which entries to drop) and the callout (which connections to look at
again). A change that touches somebody's access says so in its data, under `affects`, where it is made; nothing is
inferred from its kind.

The rules of a CloudEvent of ours:

1. `source` is the tenant that it happened in, as a URN, and `id` a UUIDv7: together they are unique (3.1.1), and a
   repetition has the same ones.
2. `type` is `doorward.` and the kind, `subject` what it happened to, `time` when (RFC 3339). None of them is empty.
3. Who did it and in which tenant are extension attributes, `actor` and `tenant`: lower case in name (3), text in value.
4. `data` is a JSON object; what a reader does not know of it, it passes over.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from functools import lru_cache
from typing import Any, Final
from uuid import UUID

import orjson

from iam.errors import malformed

EVENT_SUBJECTS = "doorward.events.>"
"""What a listener subscribes to."""

MEDIA_TYPE: Final = "application/cloudevents+json"
"""What an event says it is, in the header `content-type` of its message."""

_SUBJECT_PREFIX = "doorward.events"
_TYPE_PREFIX = "doorward."
_SPECIFICATION = "1.0"


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
    """Return an event as it is published: a CloudEvent in JSON."""
    tenant = str(event.tenant)
    return orjson.dumps(
        {
            "specversion": _SPECIFICATION,
            "id": str(event.id),
            "source": f"urn:doorward:tenant:{tenant}",
            "type": _TYPE_PREFIX + event.kind,
            "subject": event.subject,
            "time": event.at,
            "datacontenttype": "application/json",
            "tenant": tenant,
            "actor": event.actor,
            "data": event.data,
        }
    )


_tenant = lru_cache(maxsize=4096)(UUID)
"""Reading a UUID is half of the work, and the tenants are few."""


def decode_event(message: bytes) -> Event:
    """Read a published event; raise `Refused` (malformed) for anything else."""
    try:
        raw = orjson.loads(message)
        kind: str = raw["type"]
        if raw["specversion"] != _SPECIFICATION or not kind.startswith(_TYPE_PREFIX):
            raise malformed("Not an event of ours: another specversion or type.")
        return Event(
            id=UUID(raw["id"]),
            tenant=_tenant(raw["tenant"]),
            at=datetime.fromisoformat(raw["time"]),
            actor=raw["actor"],
            kind=kind[len(_TYPE_PREFIX) :],
            subject=raw["subject"],
            data=raw["data"],
        )
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise malformed(f"Not an event: {error}.") from error

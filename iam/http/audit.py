"""The audit of a group."""

from datetime import datetime
from typing import Any

from iam.guard import Call, Needs, Route
from iam.paging import PageQuery
from iam.permissions import Action, Resource
from iam.responses import Answer
from iam.schema import Shown
from iam.service.audit import AuditService
from iam.store.journal import AuditLine


class ShownLine(Shown):
    """One line of the audit: who did what to what, and the hash that binds it to the line before."""

    sequence: int
    id: str
    at: datetime
    actor: str
    kind: str
    subject: str
    data: dict[str, Any]
    previous: str
    hash: str


class Lines(Shown):
    """A page of the audit."""

    items: list[ShownLine]
    next: str | None


def routes(service: AuditService) -> list[Route]:
    """Return the routes of the audit."""

    async def page(call: Call) -> Answer:
        found = await service.page(call.tenant, call.query)
        return Answer(content=Lines(items=[_shown(line) for line in found.items], next=found.next))

    return [
        Route(
            "GET",
            "/api/v1/iam/audit",
            page,
            Needs(Action.READ, Resource.IAM_AUDIT),
            "What happened in a group, oldest first",
            "Audit",
            query=PageQuery,
            answers=Lines,
        ),
    ]


def _shown(line: AuditLine) -> ShownLine:
    event = line.event
    return ShownLine(
        sequence=line.sequence,
        id=str(event.id),
        at=event.at,
        actor=event.actor,
        kind=event.kind,
        subject=event.subject,
        data=event.data,
        previous=line.previous.hex(),
        hash=line.hash.hex(),
    )

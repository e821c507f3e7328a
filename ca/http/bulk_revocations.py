"""Revocations of many devices' certificates over REST: a dry run, a begin, how far it is, an end, and going on."""

from dataclasses import dataclass
from datetime import datetime
from typing import Annotated
from uuid import UUID

from pydantic import Field

from ca.bulk import BulkRevocation
from ca.bulk_service import BulkRevocationService
from ca.http.certificates import read_reason
from ca.inventory import RevocationReason
from ca.store.certificate_lists import reason_shown
from iam.errors import not_found
from iam.guard import Call, Needs, Route
from iam.listing import LONGEST_FILTER, MOST_FILTERS, Listed, ListQuery
from iam.permissions import Action, Resource
from iam.responses import Answer
from iam.schema import SnakeModel, SnakeShown

_TAG = "Certificates"
_REVOCATIONS = "/api/ca/v1/revocations"
_REVOCATION = f"{_REVOCATIONS}/{{revocation}}"


class WantedRevocation(SnakeModel):
    """Whose certificates shall be revoked, and why."""

    filter: list[Annotated[str, Field(max_length=LONGEST_FILTER)]] = Field(
        min_length=1,
        max_length=MOST_FILTERS,
        description="Filters of the list of devices; all hold.",
        examples=[["tags[ct]batch-7", "creation_timestamp[bf]2026-06-01"]],
    )
    revocation_reason: str = Field(
        reason_shown(RevocationReason.UNSPECIFIED),
        max_length=32,
        description="By RFC 5280 5.3.1. CertificateHold can be released, one by one.",
    )
    dry_run: bool = Field(default=False, description="Say what it would be, and do nothing.")


class ShownRevocation(SnakeShown):
    """A revocation of many: what it would be (`DRY_RUN`), or how far it is."""

    id: str | None = None
    status: str = Field(description="DRY_RUN, RUNNING, DONE, CANCELLED, STOPPED or FAILED.")
    filter: list[str]
    revocation_reason: str
    devices: int = Field(description="How many devices pass the filters, or passed them when it began.")
    devices_done: int
    certificates: int = Field(description="How many certificates are revoked, or would be.")
    sample: list[str] | None = Field(None, description="Of a dry run: the first of the devices.")
    why_stopped: str | None = None
    failures: int = Field(0, description="How often the next batch has failed, one time after the other.")
    last_failure: str | None = Field(None, description="What it failed by.")
    next_try_at: datetime | None = Field(None, description="When it is tried again, if it has failed.")
    actor: str
    created_at: datetime | None = None
    updated_at: datetime | None = None


@dataclass(frozen=True, slots=True)
class _Handlers:
    """What the routes below do."""

    service: BulkRevocationService

    async def begin(self, call: Call) -> Answer:
        body: WantedRevocation = call.body
        access, reason = call.caller.access, read_reason(body.revocation_reason)
        if not body.dry_run:
            return Answer(202, _show(await self.service.begin(access, call.tenant, body.filter, reason)))
        found = await self.service.preview(access, call.tenant, body.filter, reason)
        return Answer(
            content=ShownRevocation(
                status="DRY_RUN",
                filter=body.filter,
                revocation_reason=reason_shown(reason),
                devices=found.devices,
                devices_done=0,
                certificates=found.certificates,
                sample=list(found.sample),
                actor=access.identity.id,
            )
        )

    async def list_all(self, call: Call) -> Answer:
        page = await self.service.page(call.caller.access, call.tenant, call.query)
        return Answer(content=Listed(next=page.next, items=[_show(one) for one in page.items]))

    async def get(self, call: Call) -> Answer:
        return Answer(content=_show(await self.service.get(call.caller.access, call.tenant, _identifier(call))))

    async def cancel(self, call: Call) -> Answer:
        return Answer(content=_show(await self.service.cancel(call.caller.access, call.tenant, _identifier(call))))

    async def resume(self, call: Call) -> Answer:
        return Answer(202, _show(await self.service.resume(call.caller.access, call.tenant, _identifier(call))))


def routes(service: BulkRevocationService) -> list[Route]:
    """Return the routes of revocations of many."""
    handlers = _Handlers(service)
    reads, changes = Needs(Action.READ, Resource.CA_CERTIFICATES), Needs(Action.UPDATE, Resource.CA_CERTIFICATES)
    return [
        Route(
            "POST",
            _REVOCATIONS,
            handlers.begin,
            changes,
            "Revoke what all devices have that pass a filter, or say what that would be",
            _TAG,
            body=WantedRevocation,
            answers=ShownRevocation,
            status=202,
        ),
        Route(
            "GET",
            _REVOCATIONS,
            handlers.list_all,
            reads,
            "List the revocations of many",
            _TAG,
            query=ListQuery,
            answers=Listed[ShownRevocation],
        ),
        Route(
            "GET",
            _REVOCATION,
            handlers.get,
            reads,
            "See how far a revocation of many is",
            _TAG,
            answers=ShownRevocation,
        ),
        Route(
            "DELETE",
            _REVOCATION,
            handlers.cancel,
            changes,
            "End a revocation of many before its end",
            _TAG,
            answers=ShownRevocation,
        ),
        Route(
            "POST",
            f"{_REVOCATION}/resume",
            handlers.resume,
            changes,
            "Let a revocation of many go on that has stopped or failed",
            _TAG,
            answers=ShownRevocation,
            status=202,
        ),
    ]


def _identifier(call: Call) -> UUID:
    try:
        return UUID(call.path["revocation"])
    except ValueError as error:
        raise not_found("such revocation") from error


def _show(one: BulkRevocation) -> ShownRevocation:
    return ShownRevocation(
        id=str(one.id),
        status=one.status,
        filter=list(one.filters),
        revocation_reason=reason_shown(one.reason),
        devices=one.devices,
        devices_done=one.devices_done,
        certificates=one.certificates,
        why_stopped=one.why_stopped,
        failures=one.failures,
        last_failure=one.last_failure,
        next_try_at=one.next_try,
        actor=one.actor,
        created_at=one.created,
        updated_at=one.updated,
    )

"""Requests that wait for an operator, as operators see them: listing, approving and rejecting them.

The rules:

1. An operator sees and decides on devices that his grants for `est.approvals` reach, and no others.
2. A decision can be turned round, and counts for what is asked after it; a certificate that was given is revoked
   instead. It holds for as long as a request waits, from its own moment on.
"""

from dataclasses import replace
from typing import Final
from uuid import UUID

from est.administration import found_profile
from est.store.approvals import (
    ApprovalRequest,
    ApprovalState,
    decide_request,
    lock_request,
    page_of_requests,
    purge_requests,
)
from iam.access import Access, visible_devices
from iam.errors import conflict, not_found
from iam.listing import ListQuery
from iam.model import Extent, Tenant
from iam.paging import Page
from iam.permissions import Action, Resource
from iam.store.database import EVERYWHERE, Change, Database

_EVENT: Final = {ApprovalState.APPROVED: "enrolment.approved", ApprovalState.REJECTED: "enrolment.rejected"}


class ApprovalService:
    """Requests that wait for an operator."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def page(self, access: Access, tenant: Tenant, label: str, query: ListQuery) -> Page[ApprovalRequest]:
        """Return a page of a label's requests."""
        async with self._database.transaction(tenant.id) as transaction:
            profile = await found_profile(transaction, tenant, label)
            return await page_of_requests(transaction, profile.id, query, _reached(access, Action.READ))

    async def decide(
        self,
        access: Access,
        tenant: Tenant,
        label: str,
        identifier: UUID,
        state: ApprovalState,
        reason: str | None,
    ) -> ApprovalRequest:
        """Approve or reject a request; raise `Refused` (not found), or (conflict) if that was decided already."""
        async with self._database.transaction(tenant.id) as transaction:
            profile = await found_profile(transaction, tenant, label)
            found = await lock_request(transaction, profile.id, identifier)
            if found is None or found.device not in _reached(access, Action.UPDATE):
                raise not_found("such request")
            if found.state is state:
                raise conflict(f"The request is {state} already.")
            decided = replace(
                found,
                state=state,
                decided=transaction.now,
                decided_by=access.identity.id,
                reason=reason,
                expires=transaction.now + profile.settings.approval.expires_after,
            )
            await decide_request(transaction, decided)
            data = {"approval": str(found.id), "label": label, "requester": found.requester, "reason": reason}
            await transaction.record(Change(tenant.id, access.identity.id, _EVENT[state], found.device, data))
        return decided

    async def purge(self) -> int:
        """Forget requests whose time is over: a job of one node."""
        async with self._database.transaction(EVERYWHERE) as transaction:
            return await purge_requests(transaction, transaction.now)


def _reached(access: Access, action: Action) -> Extent:
    return visible_devices(access, action, Resource.EST_APPROVALS)

"""Revoking what many devices have: of all that pass a filter, in batches, to the end or until it is stopped.

The rules:

1. Which devices: those that pass the filters of the list of devices when they are reached, in the order of their
   identifiers, each once. Everything is revoked (or held, if that is the reason) that proves such a device's identity:
   one event for each certificate, as for any other revocation. No filter at all is not taken for all devices.
2. In whose name: of whoever began it. At each batch his grants are read anew: it reaches a device that he may then
   read, and whose certificates he may change. Who may no more do either anywhere, stops it.
3. A batch is one transaction. Its revocations and its progress are there together or not at all, and it holds the row
   of the whole: so whoever goes on after a crash begins where the last one ended, and no two do the same.
4. A dry run counts and shows some, and changes nothing.
5. What fails holds up nothing else: each has its own pace. A batch that fails for a reason that nobody foresaw is tried
   again, later each time (`ca.bulk.pause_after`); after the last time the whole is FAILED, and says by what. A store
   that is away is no failure of one: nothing is noted, and all wait for it.
6. What has STOPPED or FAILED goes on where it ended when an operator says so who could have begun it: still in the name
   of whoever did, so that it reaches nothing that it did not reach before.
"""

import logging
from collections.abc import Awaitable, Callable, Mapping, Sequence
from uuid import UUID

from ca.bulk import RESUMABLE, BulkRevocation, BulkStatus, Preview, pause_after, reach
from ca.inventory import RevocationReason
from ca.revocation import RevocationService
from ca.store import bulk_revocations as store
from iam.access import Access, Denied
from iam.errors import Kind, Refused, conflict, forbidden, not_found
from iam.identifiers import Clock, Random, uuid7
from iam.listing import ListQuery
from iam.model import Extent, Tenant
from iam.paging import Page
from iam.store.database import EVERYWHERE, Change, Database, Transaction
from iam.store.tenants import tenant_by_id

BATCH_DEVICES = 50
SAMPLE_DEVICES = 20

_MEANINGLESS = frozenset({Kind.MALFORMED, Kind.INVALID})
"""What the store says to filters that mean nothing, or too much: to ask again later would not help."""

_log = logging.getLogger("doorward.revocation")

AccessOf = Callable[[str], Awaitable[Access | Denied]]
"""What an identity may do now."""


class BulkRevocationService:
    """Revocations of many."""

    def __init__(
        self, database: Database, revocation: RevocationService, access_of: AccessOf, clock: Clock, random: Random
    ) -> None:
        self._database = database
        self._revocation = revocation
        self._access_of = access_of
        self._clock = clock
        self._random = random

    async def preview(
        self, access: Access, tenant: Tenant, filters: Sequence[str], reason: RevocationReason
    ) -> Preview:
        """Return what would be revoked (rule 4); raises as `begin`."""
        extent = _required(access, tenant)
        async with self._database.transaction(tenant.id) as transaction:
            devices, certificates = await store.count(transaction, tenant.id, filters, extent, reason)
            sample = await store.devices_after(transaction, tenant.id, filters, extent, "", SAMPLE_DEVICES)
        return Preview(devices, certificates, tuple(sample))

    async def begin(
        self, access: Access, tenant: Tenant, filters: Sequence[str], reason: RevocationReason
    ) -> BulkRevocation:
        """Begin to revoke what the devices have that pass the filters; `work` does it.

        Raises:
            Refused: (malformed) A filter. (forbidden) The caller may not read devices or change certificates.
        """
        extent, now = _required(access, tenant), self._clock()
        async with self._database.transaction(tenant.id) as transaction:
            devices, certificates = await store.count(transaction, tenant.id, filters, extent, reason)
            begun = BulkRevocation(
                id=uuid7(now, self._random),
                tenant=tenant.id,
                actor=access.identity.id,
                filters=tuple(filters),
                reason=reason,
                status=BulkStatus.RUNNING,
                devices=devices,
                devices_done=0,
                certificates=0,
                place="",
                why_stopped=None,
                created=now,
                updated=now,
            )
            await store.insert(transaction, begun)
            data = {"filters": list(filters), "reason": reason.value, "devices": devices, "certificates": certificates}
            await transaction.record(
                Change(tenant.id, access.identity.id, "bulk_revocation.begun", str(begun.id), data)
            )
        return begun

    async def page(self, access: Access, tenant: Tenant, query: ListQuery) -> Page[BulkRevocation]:
        """Return a page of the revocations of many that the caller may know of: all, or his own."""
        async with self._database.transaction(tenant.id) as transaction:
            return await store.page(transaction, tenant.id, query, only_actor=_only_own(access, tenant))

    async def get(self, access: Access, tenant: Tenant, identifier: UUID) -> BulkRevocation:
        """Return a revocation of many; raise `Refused` (not found) if it is not the caller's to know of."""
        async with self._database.transaction(tenant.id) as transaction:
            found = await store.find(transaction, identifier)
        return _known(found, access, tenant, identifier)

    async def cancel(self, access: Access, tenant: Tenant, identifier: UUID) -> BulkRevocation:
        """End one before its end.

        Raises:
            Refused: (not found) As for `get`. (conflict) It has ended already.
        """
        async with self._database.transaction(tenant.id) as transaction:
            found = _known(await store.lock(transaction, identifier), access, tenant, identifier)
            if found.status is not BulkStatus.RUNNING:
                raise conflict(f"It is {found.status} already.")
            await _finish(transaction, found, BulkStatus.CANCELLED, {}, actor=access.identity.id)
        return await self.get(access, tenant, identifier)

    async def resume(self, access: Access, tenant: Tenant, identifier: UUID) -> BulkRevocation:
        """Let one go on that has stopped or failed (rule 6).

        Raises:
            Refused: (not found) As for `get`. (conflict) It has not stopped, and not failed. (forbidden) As for
                `begin`.
        """
        _required(access, tenant)
        async with self._database.transaction(tenant.id) as transaction:
            found = _known(await store.lock(transaction, identifier), access, tenant, identifier)
            if found.status not in RESUMABLE:
                raise conflict(f"It is {found.status}: what is STOPPED or FAILED can go on.")
            await store.resume(transaction, found.id)
            change = Change(found.tenant, access.identity.id, "bulk_revocation.resumed", str(found.id))
            await transaction.record(change)
        return await self.get(access, tenant, identifier)

    async def work(self) -> int:
        """Do what is due, one batch of each in turn, until nothing is; return how many batches that took."""
        batches, passed_over = 0, set[UUID]()
        while due := [one for one in await self._due() if one.id not in passed_over]:
            for one in due:
                if await self._attempt(one):
                    batches += 1
                else:
                    passed_over.add(one.id)  # until the next time
        return batches

    async def advance(self, one: BulkRevocation) -> bool:
        """Do the next batch of one (rule 3); tell whether there was one to do that nobody else was doing."""
        access = await self._access_of(one.actor)
        async with self._database.transaction(one.tenant) as transaction:
            found = await store.take(transaction, one.id)
            if found is None or found.status is not BulkStatus.RUNNING:
                return False
            await self._do_batch(transaction, found, access)
        return True

    async def _attempt(self, one: BulkRevocation) -> bool:
        """Do the next batch of one, or note that it failed (rule 5); tell whether it was done."""
        try:
            return await self.advance(one)
        except Refused as refused:
            _log.warning("the revocation of many %s could not go on: %s", one.id, refused.reason)
            await self._note(one, refused.detail, is_meaningless=refused.kind in _MEANINGLESS)
        except Exception as error:  # noqa: BLE001 - rule 5: whatever it is, it is logged whole and noted
            incident = uuid7(self._clock(), self._random)
            _log.exception("a batch of the revocation of many %s failed, incident %s", one.id, incident)
            why = f"Something went wrong ({type(error).__name__}); the log has it under {incident}."
            await self._note(one, why, is_meaningless=False)
        return False

    async def _note(self, one: BulkRevocation, why: str, *, is_meaningless: bool) -> None:
        async with self._database.transaction(one.tenant) as transaction:
            found = await store.take(transaction, one.id)
            if found is None or found.status is not BulkStatus.RUNNING:
                return  # somebody else has it in hand, or has ended it
            pause = None if is_meaningless else pause_after(found.failures + 1)
            await store.postpone(transaction, one.id, None if pause is None else transaction.now + pause, why)
            if pause is None:
                status = BulkStatus.STOPPED if is_meaningless else BulkStatus.FAILED
                await _finish(transaction, found, status, {"why": why})

    async def _do_batch(self, transaction: Transaction, one: BulkRevocation, access: Access | Denied) -> None:
        tenant = await tenant_by_id(transaction, one.tenant)
        extent = access if isinstance(access, Denied) else reach(access, tenant)
        if isinstance(extent, Denied):
            await _finish(transaction, one, BulkStatus.STOPPED, {"why": extent.reason})
            return
        devices = await store.devices_after(transaction, one.tenant, one.filters, extent, one.place, BATCH_DEVICES)
        revoked = 0
        for identity in await store.lock_identities(transaction, devices):
            revoked += await self._revocation.revoke_all(transaction, identity, one.reason, actor=one.actor)
        if devices:
            await store.advance(transaction, one.id, devices[-1], len(devices), revoked)
        if len(devices) < BATCH_DEVICES:
            data = {"certificates": one.certificates + revoked}
            await _finish(transaction, one, BulkStatus.DONE, data)

    async def _due(self) -> list[BulkRevocation]:
        async with self._database.transaction(EVERYWHERE) as transaction:  # the node works for every tenant
            return await store.due(transaction)


async def _finish(
    transaction: Transaction, one: BulkRevocation, status: BulkStatus, data: Mapping[str, object], actor: str = ""
) -> None:
    await store.finish(transaction, one.id, status, str(data["why"]) if "why" in data else None)
    kind = f"bulk_revocation.{status.lower()}"
    await transaction.record(Change(one.tenant, actor or one.actor, kind, str(one.id), dict(data)))


def _required(access: Access, tenant: Tenant) -> Extent:
    extent = reach(access, tenant)
    if isinstance(extent, Denied):
        raise forbidden(
            "This needs read on devices and update on ca.certificates.", reason=f"{access.identity.id}: {extent.reason}"
        )
    return extent


def _only_own(access: Access, tenant: Tenant) -> str | None:
    """Return whose revocations of many somebody may know of; None is everybody's."""
    extent = reach(access, tenant)
    return None if isinstance(extent, Extent) and extent.everything else access.identity.id


def _known(found: BulkRevocation | None, access: Access, tenant: Tenant, identifier: UUID) -> BulkRevocation:
    if found is None or _only_own(access, tenant) not in (None, found.actor):
        raise not_found(f"revocation {identifier}")
    return found

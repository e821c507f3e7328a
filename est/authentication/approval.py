"""Manual approval: the device waits (202) until an operator has decided.

The rules:

1. A request is the same one if the same requester asks the same label for the same device by the same operation with
   the same key: a request that proves possession for its connection is signed anew each time (RFC 7030 3.5). Where a
   request does not prove its key, as `serverkeygen` lets it, it is the same one only byte for byte: else whoever knows
   a device's public key would have what was approved for the device.
2. It waits until it expires; so does a decision hold. Whoever asks after that waits anew.
3. The queue of a label is bounded, and so is what one address may add to it where nothing else proves who asks.
4. That somebody waits is a change of state: it is in the audit and among the events.
5. What a webhook said of it is kept with it, and for what it was told: whoever comes with something else is another
   matter.
"""

from dataclasses import dataclass
from hashlib import sha256
from typing import Final

from certs.csr import parse_request
from certs.errors import CertificateRefused
from est.authentication.asking import Asking, Wanted
from est.profiles import Way
from est.refusals import Refusal, Refuse, Wait
from est.rules import Entitlement
from est.store.approvals import (
    ApprovalRequest,
    ApprovalState,
    count_waiting,
    find_same,
    insert_request,
    keep_vouched,
)
from iam.identifiers import Random, uuid7
from iam.model import Extent
from iam.store.database import Change, Database, Transaction

ANYONE: Final = "anyone"
MOST_OF_ONE_ADDRESS: Final = 64


@dataclass(frozen=True, slots=True)
class Vouched:
    """A webhook's yes, and the SHA-256 of what it was told of who asks."""

    entitlement: Entitlement
    told: bytes


class Approvals:
    """Lets requests wait, and finds what was decided on them."""

    def __init__(self, database: Database, random: Random) -> None:
        self._database = database
        self._random = random

    async def vouched(self, asking: Asking, wanted: Wanted, told: bytes) -> str | None:
        """Return what a webhook that was told this vouched for the request by, if it is the one that waits."""
        async with self._database.transaction(asking.profile.tenant) as transaction:
            found = await self._find(transaction, asking, wanted)
        return found.vouched_by if found is not None and found.vouched_for == told else None

    async def judge(
        self, asking: Asking, wanted: Wanted, vouched: Vouched | None = None
    ) -> Entitlement | Refuse | Wait:
        """Return what the operators decided; let the request wait if they have not yet, with what vouches for it."""
        profile = asking.profile
        async with self._database.transaction(profile.tenant) as transaction:
            found = await self._find(transaction, asking, wanted)
            if found is None:
                waiting, of_address = await count_waiting(transaction, profile.id, asking.evidence.address)
                is_anyone = wanted.requester == ANYONE
                if waiting >= profile.settings.approval.most_waiting:
                    return Refuse(Refusal.TOO_MANY_WAIT, f"{waiting} wait under {profile.name}")
                if is_anyone and of_address >= MOST_OF_ONE_ADDRESS:
                    return Refuse(Refusal.TOO_MANY_WAIT, f"{of_address} wait from {asking.evidence.address}")
                await self._add(transaction, asking, wanted, vouched)
            elif vouched is not None and found.vouched_for != vouched.told:
                await keep_vouched(transaction, found.id, vouched.entitlement.by, vouched.told)
        return _answer(found, asking)

    async def _find(self, transaction: Transaction, asking: Asking, wanted: Wanted) -> ApprovalRequest | None:
        return await find_same(
            transaction,
            asking.profile.id,
            wanted.operation,
            wanted.device,
            _told_apart_by(wanted),
            wanted.requester,
        )

    async def _add(self, transaction: Transaction, asking: Asking, wanted: Wanted, vouched: Vouched | None) -> None:
        profile, now = asking.profile, transaction.now
        one = ApprovalRequest(
            id=uuid7(now, self._random),
            tenant=profile.tenant,
            profile=profile.id,
            operation=wanted.operation,
            requester=wanted.requester,
            device=wanted.device,
            told_apart_by=_told_apart_by(wanted),
            request=wanted.request.der,
            address=asking.evidence.address,
            state=ApprovalState.PENDING,
            requested=now,
            expires=now + profile.settings.approval.expires_after,
            vouched_by=vouched.entitlement.by if vouched else None,
            vouched_for=vouched.told if vouched else None,
        )
        if await insert_request(transaction, one):  # else the same one came by another connection, and waits already
            data = {
                "approval": str(one.id),
                "label": profile.name,
                "operation": one.operation,
                "requester": one.requester,
                "address": one.address,
                **({"vouched_by": one.vouched_by} if one.vouched_by else {}),
            }
            await transaction.record(Change(profile.tenant, "doorward", "enrolment.requested", one.device, data))


def _told_apart_by(wanted: Wanted) -> bytes:
    """Return the SHA-256 of the key that a request proves, or of the whole request (rule 1)."""
    if wanted.operation.brings_key:
        return wanted.request.spki_sha256
    try:
        return parse_request(wanted.request.der).spki_sha256
    except CertificateRefused:
        return sha256(wanted.request.der).digest()


def _answer(found: ApprovalRequest | None, asking: Asking) -> Entitlement | Refuse | Wait:
    if found is None or found.state is ApprovalState.PENDING:
        return Wait(int(asking.profile.settings.approval.retry_after.total_seconds()))
    if found.state is ApprovalState.REJECTED:
        return Refuse(Refusal.REJECTED, f"by {found.decided_by}: {found.reason or 'no reason given'}")
    named = Extent(names=frozenset({found.device}))
    return Entitlement(Way.APPROVAL, f"approval {found.id} by {found.decided_by}", named, Refusal.NOT_NAMED)

"""Requests that wait for an operator, in SQL."""

from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from uuid import UUID

from est.profiles import Operation
from iam.listing import FieldKind, ListQuery
from iam.model import Extent
from iam.paging import Page
from iam.store.database import Row, Transaction
from iam.store.listing import Column, Listing, page_of_list


class ApprovalState(StrEnum):
    """Where a request stands with the operators."""

    PENDING = "pending"
    APPROVED = "approved"
    REJECTED = "rejected"


@dataclass(frozen=True, slots=True)
class ApprovalRequest:
    """A request that waits for an operator, or was decided on.

    Attributes:
        requester: What the credentials beside it call who asks; `anyone` where there were none.
        told_apart_by: The SHA-256 of the key that the request proves; of the whole request if it proves none.
        request: The certification request in DER.
        expires: Until when it waits, or the decision holds.
        vouched_by: The webhook's answer that vouches for it, if one was asked.
        vouched_for: The SHA-256 of what that webhook was told of who asks.
    """

    id: UUID
    tenant: UUID
    profile: UUID
    operation: Operation
    requester: str
    device: str
    told_apart_by: bytes
    request: bytes
    address: str
    state: ApprovalState
    requested: datetime
    expires: datetime
    decided: datetime | None = None
    decided_by: str | None = None
    reason: str | None = None
    vouched_by: str | None = None
    vouched_for: bytes | None = None


_COLUMNS = """
    id, tenant_id, profile_id, operation, requester, device_identifier, told_apart_by, request, address, state,
    requested_at, expires_at, decided_at, decided_by, reason, vouched_by, vouched_for_sha256"""
_REQUEST = f"SELECT {_COLUMNS} FROM enrolment_approval"
_SAME = f"""{_REQUEST}
    WHERE profile_id = $1 AND operation = $2 AND device_identifier = $3 AND told_apart_by = $4 AND requester = $5
      AND expires_at > $6"""


async def find_same(
    transaction: Transaction, profile: UUID, operation: Operation, device: str, told_apart_by: bytes, requester: str
) -> ApprovalRequest | None:
    """Return the request that is the same one, if there is one whose time is not over."""
    row = await transaction.fetchrow(_SAME, profile, operation, device, told_apart_by, requester, transaction.now)
    return _request_from(row) if row else None


# Who adds one waits for the others who do: so the bounds hold.
_LOCK = "SELECT pg_advisory_xact_lock(hashtextextended('enrolment_approval ' || $1::text, 0))"
_COUNT = """
    SELECT count(*) AS waiting, count(*) FILTER (WHERE address = $2) AS of_address FROM enrolment_approval
    WHERE profile_id = $1 AND state = 'pending' AND expires_at > $3"""


async def count_waiting(transaction: Transaction, profile: UUID, address: str) -> tuple[int, int]:
    """Hold the label's queue, and return how many wait in it, and how many of those from one address."""
    await transaction.execute(_LOCK, str(profile))
    row = await transaction.fetchrow(_COUNT, profile, address, transaction.now)
    return (row["waiting"], row["of_address"]) if row else (0, 0)


_INSERT = """
    INSERT INTO enrolment_approval AS a (id, tenant_id, profile_id, operation, requester, device_identifier,
                                         told_apart_by, request, address, state, requested_at, expires_at,
                                         vouched_by, vouched_for_sha256)
    VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, 'pending', $10, $11, $12, $13)
    ON CONFLICT (profile_id, operation, device_identifier, told_apart_by, requester) DO UPDATE
    SET id = excluded.id, request = excluded.request, address = excluded.address, state = 'pending',
        requested_at = excluded.requested_at, expires_at = excluded.expires_at, decided_at = NULL, decided_by = NULL,
        reason = NULL, vouched_by = excluded.vouched_by, vouched_for_sha256 = excluded.vouched_for_sha256
    WHERE a.expires_at <= $10"""


async def insert_request(transaction: Transaction, one: ApprovalRequest) -> bool:
    """Let a request wait, in the place of the same one whose time is over; tell whether it is new."""
    return bool(
        await transaction.execute(
            _INSERT,
            one.id,
            one.tenant,
            one.profile,
            one.operation,
            one.requester,
            one.device,
            one.told_apart_by,
            one.request,
            one.address,
            one.requested,
            one.expires,
            one.vouched_by,
            one.vouched_for,
        )
    )


_KEEP = "UPDATE enrolment_approval SET vouched_by = $2, vouched_for_sha256 = $3 WHERE id = $1"


async def keep_vouched(transaction: Transaction, identifier: UUID, by: str, told: bytes) -> None:
    """Keep with a request which answer of a webhook vouches for it, and what that was told."""
    await transaction.execute(_KEEP, identifier, by, told)


# Nobody finds a request by a key that it does not prove.
_PROVED_KEY = "CASE WHEN operation = 'simpleenroll' THEN told_apart_by ELSE '' END"

_LISTING = Listing(
    select=_COLUMNS,
    source="FROM enrolment_approval",
    columns={
        "id": Column(FieldKind.UUID, sql="id"),
        "device_identifier": Column(FieldKind.TEXT, sql="device_identifier"),
        "operation": Column(FieldKind.ENUM, values=tuple(Operation), sql="operation"),
        "requester": Column(FieldKind.TEXT, sql="requester"),
        "public_key_sha256": Column(FieldKind.HEX, sql=_PROVED_KEY),
        "address": Column(FieldKind.TEXT, sql="address"),
        "state": Column(FieldKind.ENUM, values=tuple(ApprovalState), sql="state"),
        "requested_at": Column(FieldKind.DATE, sql="requested_at"),
        "expires_at": Column(FieldKind.DATE, sql="expires_at"),
    },
    key="id",
)


async def page_of_requests(
    transaction: Transaction, profile: UUID, query: ListQuery, reached: Extent
) -> Page[ApprovalRequest]:
    """Return a page of a label's requests whose time is not over, for devices that the caller reaches."""
    where = "profile_id = $1 AND expires_at > $2 AND ($3 OR device_identifier = ANY ($4::text[]))"
    values = (profile, transaction.now, reached.everything, sorted(reached.names))
    page = await page_of_list(transaction, _LISTING, query, where, *values)
    return Page(tuple(_request_from(row) for row in page.items), page.next)


_BY_ID = f"{_REQUEST} WHERE profile_id = $1 AND id = $2 AND expires_at > $3 FOR UPDATE"


async def lock_request(transaction: Transaction, profile: UUID, identifier: UUID) -> ApprovalRequest | None:
    """Return a label's request and hold it, if its time is not over."""
    row = await transaction.fetchrow(_BY_ID, profile, identifier, transaction.now)
    return _request_from(row) if row else None


_DECIDE = """
    UPDATE enrolment_approval SET state = $2, decided_at = $3, decided_by = $4, reason = $5, expires_at = $6
    WHERE id = $1"""


async def decide_request(transaction: Transaction, one: ApprovalRequest) -> None:
    """Store the decision on a request that is held."""
    await transaction.execute(_DECIDE, one.id, one.state, one.decided, one.decided_by, one.reason, one.expires)


_PURGE = "DELETE FROM enrolment_approval WHERE expires_at < $1"


async def purge_requests(transaction: Transaction, before: datetime) -> int:
    """Forget requests whose time was over before a moment; return how many."""
    return await transaction.execute(_PURGE, before)


def _request_from(row: Row) -> ApprovalRequest:
    return ApprovalRequest(
        id=row["id"],
        tenant=row["tenant_id"],
        profile=row["profile_id"],
        operation=Operation(row["operation"]),
        requester=row["requester"],
        device=row["device_identifier"],
        told_apart_by=row["told_apart_by"],
        request=row["request"],
        address=row["address"],
        state=ApprovalState(row["state"]),
        requested=row["requested_at"],
        expires=row["expires_at"],
        decided=row["decided_at"],
        decided_by=row["decided_by"],
        reason=row["reason"],
        vouched_by=row["vouched_by"],
        vouched_for=row["vouched_for_sha256"],
    )

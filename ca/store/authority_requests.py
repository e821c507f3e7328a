"""Requests for authorities' certificates in SQL: the key is here, the certificate is asked for elsewhere."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Any
from uuid import UUID

import asyncpg
import orjson

from ca.keystore import StoredKey
from ca.store.keys import KEY_COLUMNS, key_from
from iam.errors import conflict, not_found
from iam.listing import FieldKind, ListQuery
from iam.paging import Page
from iam.store.database import Row, Transaction
from iam.store.listing import Column, Listing, page_of_list


class RequestStatus(StrEnum):
    """Whether the certificate has come."""

    PENDING = "PENDING"
    ISSUED = "ISSUED"


@dataclass(frozen=True, slots=True)
class AuthorityRequest:
    """A request for an authority's certificate.

    Attributes:
        line: What the authority is to be called.
        request: PKCS #10 in DER.
    """

    id: UUID
    tenant: UUID
    line: str
    subject: str
    key: StoredKey
    request: bytes
    metadata: Mapping[str, Any]
    status: RequestStatus
    created: datetime


REQUEST_COLUMNS = f"""
    r.id AS request_id, r.tenant_id AS request_tenant_id, r.line, r.subject, r.request, r.metadata AS request_metadata,
    r.status, r.created_at AS request_created_at, {KEY_COLUMNS}"""
REQUEST_SOURCE = "FROM authority_request r JOIN kms_key k ON k.id = r.key_id"
_BY_ID = f"SELECT {REQUEST_COLUMNS} {REQUEST_SOURCE} WHERE r.id = $1"
_BY_ID_LOCKED = f"{_BY_ID} FOR UPDATE OF r"


async def find_request(transaction: Transaction, identifier: UUID, *, lock: bool = False) -> AuthorityRequest:
    """Return a request; raise `Refused` (not found) if this transaction sees none of that id."""
    row = await transaction.fetchrow(_BY_ID_LOCKED if lock else _BY_ID, identifier)
    if row is None:
        raise not_found("such request")
    return request_from(row)


REQUESTS = Listing(
    select=REQUEST_COLUMNS,
    source=REQUEST_SOURCE,
    columns={
        "id": Column(FieldKind.UUID, "r.id"),
        "ca_id": Column(FieldKind.TEXT, "r.line"),
        "status": Column(FieldKind.ENUM, "r.status", values=tuple(RequestStatus), is_sortable=False),
        "creation_ts": Column(FieldKind.DATE, "r.created_at"),
        "metadata": Column(FieldKind.JSON, "r.metadata"),
    },
    key="id",
)


async def page_of_requests(transaction: Transaction, tenant: UUID, query: ListQuery) -> Page[AuthorityRequest]:
    """Return a page of a tenant's requests; errors as for `page_of_list`."""
    page = await page_of_list(transaction, REQUESTS, query, "r.tenant_id = $1", tenant)
    return Page(tuple(map(request_from, page.items)), page.next)


_INSERT = """
    INSERT INTO authority_request (id, tenant_id, line, subject, key_id, request, metadata, status, created_at)
    VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9)"""
_NAME_IS_TAKEN = "SELECT EXISTS (SELECT FROM authority WHERE name = $1)"


async def insert_request(transaction: Transaction, one: AuthorityRequest) -> None:
    """Store a new request, whose key is stored already; raise `Refused` (conflict) if its name or key is taken."""
    taken = conflict(f"The name {one.line} is taken, or the key is asked for already.")
    if await transaction.fetchval(_NAME_IS_TAKEN, one.line):
        raise taken
    try:
        await transaction.execute(
            _INSERT,
            one.id,
            one.tenant,
            one.line,
            one.subject,
            one.key.id,
            one.request,
            orjson.dumps(one.metadata).decode(),
            one.status,
            one.created,
        )
    except asyncpg.UniqueViolationError as error:
        raise taken from error


_ANSWERED = "UPDATE authority_request SET status = 'ISSUED' WHERE id = $1"


async def mark_as_issued(transaction: Transaction, identifier: UUID) -> None:
    """Note that the certificate of a locked request has come."""
    await transaction.execute(_ANSWERED, identifier)


_DELETE = "DELETE FROM authority_request WHERE id = $1"


async def delete_request(transaction: Transaction, identifier: UUID) -> None:
    """Forget a locked request."""
    await transaction.execute(_DELETE, identifier)


def request_from(row: Row) -> AuthorityRequest:
    """Read a row of `REQUEST_COLUMNS`."""
    return AuthorityRequest(
        id=row["request_id"],
        tenant=row["request_tenant_id"],
        line=row["line"],
        subject=row["subject"],
        key=key_from(row),
        request=row["request"],
        metadata=orjson.loads(row["request_metadata"]),
        status=RequestStatus(row["status"]),
        created=row["request_created_at"],
    )

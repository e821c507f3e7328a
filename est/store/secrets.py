"""Enrolment secrets in SQL."""

from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

import asyncpg

from iam.errors import conflict
from iam.listing import FieldKind, ListQuery
from iam.model import Extent
from iam.paging import Page
from iam.store.database import Row, Transaction
from iam.store.listing import Column, Listing, page_of_list


@dataclass(frozen=True, slots=True)
class EnrolmentSecret:
    """A secret as operators see it: what it is for, never what it is.

    Attributes:
        device: The one device that it enrols; None for those that the label's pattern covers.
        is_chosen: Whether somebody chose it, instead of our making it.
        uses_allowed: None is as often as anybody likes.
    """

    id: UUID
    tenant: UUID
    profile: UUID
    username: str
    device: str | None
    is_chosen: bool
    description: str
    uses: int
    uses_allowed: int | None
    created: datetime
    created_by: str
    expires: datetime
    revoked: datetime | None
    last_used: datetime | None


@dataclass(frozen=True, slots=True)
class FoundSecret:
    """What judging a secret needs of it."""

    id: UUID
    device: str | None
    password_hash: str | None


_FIND = """
    SELECT id, device_identifier, password_hash FROM enrolment_secret
    WHERE profile_id = $1 AND username = $2 AND revoked_at IS NULL
      AND (secret_sha256 = $3 OR password_hash IS NOT NULL)"""


async def find_secrets(
    transaction: Transaction, profile: UUID, username: str, secret_sha256: bytes
) -> list[FoundSecret]:
    """Return a label's secrets of that name which are this one, or may be by their password hash: one at most."""
    rows = await transaction.fetch(_FIND, profile, username, secret_sha256)
    return [FoundSecret(row["id"], row["device_identifier"], row["password_hash"]) for row in rows]


_COLUMNS = """
    id, tenant_id, profile_id, username, device_identifier, password_hash IS NOT NULL AS is_chosen, description, uses,
    uses_allowed, created_at, created_by, expires_at, revoked_at, last_used_at"""
_LISTING = Listing(
    select=_COLUMNS,
    source="FROM enrolment_secret",
    columns={
        "id": Column(FieldKind.UUID, sql="id"),
        "username": Column(FieldKind.TEXT, sql="username"),
        "device_identifier": Column(FieldKind.TEXT, sql="device_identifier", is_nullable=True),
        "description": Column(FieldKind.TEXT, sql="description"),
        "uses": Column(FieldKind.NUMBER, sql="uses"),
        "creation_ts": Column(FieldKind.DATE, sql="created_at"),
        "expires_at": Column(FieldKind.DATE, sql="expires_at"),
        "revoked_at": Column(FieldKind.DATE, sql="revoked_at", is_nullable=True),
    },
    key="id",
)


async def page_of_secrets(
    transaction: Transaction, profile: UUID, query: ListQuery, reached: Extent
) -> Page[EnrolmentSecret]:
    """Return a page of a label's secrets for devices that the caller reaches; for any device, if he reaches all."""
    where = "profile_id = $1 AND ($2 OR device_identifier = ANY ($3::text[]))"
    values = (profile, reached.everything, sorted(reached.names))
    page = await page_of_list(transaction, _LISTING, query, where, *values)
    return Page(tuple(_secret_from(row) for row in page.items), page.next)


_BY_ID = f"SELECT {_COLUMNS} FROM enrolment_secret WHERE profile_id = $1 AND id = $2"


async def secret_by_id(transaction: Transaction, profile: UUID, identifier: UUID) -> EnrolmentSecret | None:
    """Return a label's secret."""
    row = await transaction.fetchrow(_BY_ID, profile, identifier)
    return _secret_from(row) if row else None


_INSERT = """
    INSERT INTO enrolment_secret (id, tenant_id, profile_id, username, device_identifier, secret_sha256, password_hash,
                                  description, uses_allowed, created_at, created_by, expires_at)
    VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12)"""


async def insert_secret(
    transaction: Transaction, one: EnrolmentSecret, *, secret_sha256: bytes | None, password_hash: str | None
) -> None:
    """Store a new secret by one of its two hashes; raise `Refused` (conflict) if its name has a chosen one already."""
    try:
        await transaction.execute(
            _INSERT,
            one.id,
            one.tenant,
            one.profile,
            one.username,
            one.device,
            secret_sha256,
            password_hash,
            one.description,
            one.uses_allowed,
            one.created,
            one.created_by,
            one.expires,
        )
    except asyncpg.UniqueViolationError as error:
        raise conflict(f"The label has a chosen secret for {one.username} already: withdraw that first.") from error


_REVOKE = "UPDATE enrolment_secret SET revoked_at = $3 WHERE profile_id = $1 AND id = $2 AND revoked_at IS NULL"


async def revoke_secret(transaction: Transaction, profile: UUID, identifier: UUID) -> bool:
    """Withdraw a secret; tell whether there was one to withdraw."""
    return bool(await transaction.execute(_REVOKE, profile, identifier, transaction.now))


_PURGE = "DELETE FROM enrolment_secret WHERE expires_at < $1 OR revoked_at < $1"


async def purge_secrets(transaction: Transaction, before: datetime) -> int:
    """Forget secrets whose time was over before a moment; return how many."""
    return await transaction.execute(_PURGE, before)


def _secret_from(row: Row) -> EnrolmentSecret:
    return EnrolmentSecret(
        id=row["id"],
        tenant=row["tenant_id"],
        profile=row["profile_id"],
        username=row["username"],
        device=row["device_identifier"],
        is_chosen=row["is_chosen"],
        description=row["description"],
        uses=row["uses"],
        uses_allowed=row["uses_allowed"],
        created=row["created_at"],
        created_by=row["created_by"],
        expires=row["expires_at"],
        revoked=row["revoked_at"],
        last_used=row["last_used_at"],
    )

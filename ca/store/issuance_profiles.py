"""Issuance profiles in SQL."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

import asyncpg
import orjson

from iam.errors import conflict
from iam.listing import FieldKind, ListQuery
from iam.paging import Page
from iam.store.database import Row, Transaction
from iam.store.listing import Column, Listing, page_of_list


@dataclass(frozen=True, slots=True)
class StoredProfile:
    """A profile that an operator wrote.

    Attributes:
        settings: As `certs.profile.read_profile` takes them.
    """

    id: UUID
    tenant: UUID
    name: str
    description: str
    settings: Mapping[str, Any]
    created: datetime


_PROFILE = "SELECT id, tenant_id, name, description, settings, created_at FROM issuance_profile"
_PROFILES = f"{_PROFILE} ORDER BY id"


async def list_profiles(transaction: Transaction) -> list[StoredProfile]:
    """Return all profiles, oldest first."""
    return [profile_from(row) for row in await transaction.fetch(_PROFILES)]


# `$2` are the packaged ones, which are nobody's rows.
PROFILES = Listing(
    select="p.id",
    source="""
    FROM (SELECT id::text AS id, name, description, tenant_id FROM issuance_profile
          UNION ALL SELECT name, name, '', NULL FROM unnest($2::text[]) AS packaged (name)) p""",
    columns={
        "id": Column(FieldKind.TEXT, "p.id"),
        "name": Column(FieldKind.TEXT, "p.name"),
        "description": Column(FieldKind.TEXT, "p.description", is_sortable=False),
    },
    key="id",
)


async def page_of_profiles(
    transaction: Transaction, tenant: UUID, packaged: Sequence[str], query: ListQuery
) -> Page[str]:
    """Return a page of the ids of packaged profiles and a tenant's own; errors as for `page_of_list`."""
    where = "coalesce(p.tenant_id, $1) = $1"
    page = await page_of_list(transaction, PROFILES, query, where, tenant, list(packaged))
    return Page(tuple(row["id"] for row in page.items), page.next)


_LOCK_PROFILE = f"{_PROFILE} WHERE id = $1 FOR UPDATE"


async def lock_profile(transaction: Transaction, identifier: UUID) -> StoredProfile | None:
    """Hold a profile and return it, if this transaction may see one."""
    row = await transaction.fetchrow(_LOCK_PROFILE, identifier)
    return profile_from(row) if row else None


_INSERT = """
    INSERT INTO issuance_profile (id, tenant_id, name, description, settings, created_at)
    VALUES ($1, $2, $3, $4, $5, $6)"""
_UPDATE = """
    UPDATE issuance_profile SET name = $2, description = $3, settings = $4, revision = revision + 1 WHERE id = $1"""


async def insert_profile(transaction: Transaction, one: StoredProfile) -> None:
    """Store a new profile; raise `Refused` (conflict) if the tenant has one of that name."""
    settings = orjson.dumps(one.settings).decode()
    await _write(transaction, one, _INSERT, one.id, one.tenant, one.name, one.description, settings, one.created)


async def update_profile(transaction: Transaction, one: StoredProfile) -> None:
    """Replace what a locked profile says; raise `Refused` (conflict) if the tenant has another of that name."""
    await _write(transaction, one, _UPDATE, one.id, one.name, one.description, orjson.dumps(one.settings).decode())


async def _write(transaction: Transaction, one: StoredProfile, query: str, *values: object) -> None:
    try:
        await transaction.execute(query, *values)
    except asyncpg.UniqueViolationError as error:
        raise conflict(f"There is a profile of the name {one.name} already.") from error


_DELETE = "DELETE FROM issuance_profile WHERE id = $1"


async def delete_profile(transaction: Transaction, identifier: UUID) -> None:
    """Delete a locked profile."""
    await transaction.execute(_DELETE, identifier)


_USES = """
    SELECT 'the label ' || name AS used_by FROM enrolment_profile WHERE certificate_profile = $1
    UNION ALL SELECT 'the authority ' || line FROM authority_standing WHERE issuance_profile = $1
    LIMIT 1"""


async def use_of_profile(transaction: Transaction, identifier: UUID) -> str | None:
    """Return what uses a profile, if anything does; ask in a transaction that sees every tenant."""
    found: str | None = await transaction.fetchval(_USES, str(identifier))
    return found


def profile_from(row: Row) -> StoredProfile:
    """Read a row of `issuance_profile`."""
    return StoredProfile(
        row["id"],
        row["tenant_id"],
        row["name"],
        row["description"],
        orjson.loads(row["settings"]),
        row["created_at"],
    )

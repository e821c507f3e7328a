"""Authorities in SQL as operators look for them: pages of lines, what is noted of each, numbers."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

import orjson
from cryptography import x509
from cryptography.x509.oid import NameOID

from ca.authority import AuthorityOrigin
from ca.inventory import AuthorityKind, RevocationReason, stored_serial
from ca.store.certificate_lists import reason_shown
from certs.pem import read_certificate
from iam.errors import not_found
from iam.listing import FieldKind, ListQuery
from iam.paging import Page
from iam.store.database import Row, Transaction
from iam.store.listing import Column, Listing, page_of_list


def shown_of(certificate: bytes) -> tuple[str, datetime, datetime, bytes, bytes | None]:
    """Return what lists show of a certificate (DER): common name, period, serial number, key identifier."""
    read = read_certificate(certificate)
    named = read.subject.get_attributes_for_oid(NameOID.COMMON_NAME)
    try:
        key_identifier = read.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value.digest
    except x509.ExtensionNotFound:
        key_identifier = None
    return (
        str(named[0].value) if named else read.subject.rfc4514_string(),
        read.not_valid_before_utc,
        read.not_valid_after_utc,
        stored_serial(read.serial_number),
        key_identifier,
    )


_NOTE = """
    UPDATE authority_standing
    SET common_name = $2, not_before = $3, not_after = $4, serial_number = $5, key_identifier = $6
    WHERE authority_id = $1"""


async def note_shown(transaction: Transaction, authority: UUID, certificate: bytes) -> None:
    """Note what lists show of an authority's certificate."""
    await transaction.execute(_NOTE, authority, *shown_of(certificate))


_UNNOTED = """
    SELECT a.id, a.certificate FROM authority a JOIN authority_standing s ON s.authority_id = a.id
    WHERE s.serial_number IS NULL"""


async def note_shown_of_earlier(transaction: Transaction) -> None:
    """Do the same for those that an earlier version stored; in a transaction that sees every tenant."""
    for row in await transaction.fetch(_UNNOTED):
        await note_shown(transaction, row["id"], row["certificate"])


@dataclass(frozen=True, slots=True)
class AuthorityDetails:
    """What is said about an authority and not held in memory."""

    id: UUID
    metadata: Mapping[str, Any]
    created: datetime
    revoked: datetime | None
    reason: RevocationReason | None
    engine: str | None


_ENGINE = "coalesce(k.token, k.backend)"
"""What the place is called where a key lies, as `StoredKey.engine`."""

_DETAILS = f"""
    s.authority_id, s.metadata, a.created_at, coalesce(s.revoked_at, c.revoked_at) AS revoked_at,
    coalesce(s.revocation_reason, c.revocation_reason) AS revocation_reason, {_ENGINE} AS engine"""
_SOURCE = """
    FROM authority_standing s
        JOIN authority a ON a.id = s.authority_id
        LEFT JOIN certificate c ON c.serial = s.serial
        LEFT JOIN kms_key k ON k.id = a.key_id"""
_DETAILS_OF = f"SELECT {_DETAILS} {_SOURCE} WHERE s.authority_id = $1 AND s.tenant_id = $2"


async def find_details(transaction: Transaction, authority: UUID, tenant: UUID) -> AuthorityDetails:
    """Return what is said about a tenant's authority; raise `Refused` (not found) if it has no such one."""
    row = await transaction.fetchrow(_DETAILS_OF, authority, tenant)
    if row is None:
        raise not_found("such authority")
    return _details_from(row)


# `$2` is now, in every statement made of this list.
_IS_REVOKED = "(s.status = 'revoked' OR coalesce(c.status = 'revoked', false))"
_STANDING = {
    "ACTIVE": f"NOT {_IS_REVOKED} AND s.status = 'active' AND s.not_after >= $2",
    "EXPIRED": f"NOT {_IS_REVOKED} AND s.not_after < $2",
    "INACTIVE": f"NOT {_IS_REVOKED} AND s.status = 'inactive' AND s.not_after >= $2",
    "REVOKED": _IS_REVOKED,
}
AUTHORITIES = Listing(
    select=_DETAILS,
    source=_SOURCE,
    columns={
        "id": Column(FieldKind.TEXT, "s.line"),
        "type": Column(FieldKind.ENUM, "s.origin", values=tuple(AuthorityOrigin), is_sortable=False),
        "kind": Column(FieldKind.ENUM, "a.kind", values=tuple(AuthorityKind), is_sortable=False),
        "status": Column(FieldKind.ENUM, "s.status", values=tuple(_STANDING), is_sortable=False, meaning=_STANDING),
        "subject.common_name": Column(FieldKind.TEXT, "s.common_name"),
        "serial_number": Column(FieldKind.HEX, "s.serial_number", is_nullable=True),
        "subject_key_id": Column(FieldKind.HEX, "s.key_identifier", is_nullable=True, is_sortable=False),
        "valid_from": Column(FieldKind.DATE, "s.not_before", is_nullable=True),
        "valid_to": Column(FieldKind.DATE, "s.not_after"),
        "creation_ts": Column(FieldKind.DATE, "a.created_at"),
        "revocation_timestamp": Column(FieldKind.DATE, "coalesce(s.revoked_at, c.revoked_at)", is_nullable=True),
        "revocation_reason": Column(
            FieldKind.ENUM,
            "s.revocation_reason",
            values=tuple(reason_shown(one) for one in RevocationReason),
            is_nullable=True,
            is_sortable=False,
            meaning={
                reason_shown(one): f"coalesce(s.revocation_reason, c.revocation_reason) = '{one.value}'"
                for one in RevocationReason
            },
        ),
        "engine_id": Column(FieldKind.TEXT, _ENGINE, is_nullable=True, is_sortable=False),
        "profile_id": Column(FieldKind.TEXT, "s.issuance_profile", is_sortable=False),
        "metadata": Column(FieldKind.JSON, "s.metadata"),
    },
    key="id",
)
# A line is shown by its newest generation.
_NEWEST = """
    s.tenant_id = $1 AND $2::timestamptz IS NOT NULL
    AND NOT EXISTS (SELECT FROM authority_standing n WHERE n.line = s.line AND n.generation > s.generation)"""


async def page_of_authorities(
    transaction: Transaction, tenant: UUID, query: ListQuery, common_name: str | None
) -> Page[AuthorityDetails]:
    """Return a page of a tenant's lines, or of those of a common name; errors as for `page_of_list`."""
    where, values = _NEWEST, [tenant, transaction.now]
    if common_name is not None:
        where += " AND s.common_name = $3"
        values.append(common_name)
    page = await page_of_list(transaction, AUTHORITIES, query, where, *values)
    return Page(tuple(map(_details_from, page.items)), page.next)


_COUNT_AUTHORITIES = f"""
    SELECT count(*) AS number, coalesce({_ENGINE}, 'none') AS engine,
           CASE {" ".join(f"WHEN {condition} THEN '{word}'" for word, condition in _STANDING.items())} END AS standing
    {_SOURCE} WHERE {_NEWEST} GROUP BY 2, 3"""
_COUNT_CERTIFICATES = """
    SELECT count(*) AS number, c.authority_id, CASE WHEN c.status = 'revoked' THEN 'REVOKED' WHEN c.not_after < $2
           THEN 'EXPIRED' WHEN c.status = 'superseded' THEN 'INACTIVE' ELSE 'ACTIVE' END AS standing
    FROM certificate c
    WHERE c.tenant_id = $1 AND ($3::uuid[] IS NULL OR c.authority_id = ANY ($3)) GROUP BY 2, 3"""


@dataclass(frozen=True, slots=True)
class Counted:
    """How many there are of one standing, by one further thing: the engine, or the authority that issued."""

    number: int
    standing: str
    by: str


async def count_authorities(transaction: Transaction, tenant: UUID) -> list[Counted]:
    """Count a tenant's lines by standing and by where their keys lie."""
    rows = await transaction.fetch(_COUNT_AUTHORITIES, tenant, transaction.now)
    return [Counted(row["number"], row["standing"], row["engine"]) for row in rows]


async def count_certificates(
    transaction: Transaction, tenant: UUID, authorities: Sequence[UUID] | None
) -> list[Counted]:
    """Count a tenant's certificates by standing and issuer; `authorities` None: of all."""
    named = None if authorities is None else list(authorities)
    rows = await transaction.fetch(_COUNT_CERTIFICATES, tenant, transaction.now, named)
    return [Counted(row["number"], row["standing"], str(row["authority_id"])) for row in rows]


def _details_from(row: Row) -> AuthorityDetails:
    reason = row["revocation_reason"]
    return AuthorityDetails(
        id=row["authority_id"],
        metadata=orjson.loads(row["metadata"]),
        created=row["created_at"],
        revoked=row["revoked_at"],
        reason=RevocationReason(reason) if reason else None,
        engine=row["engine"],
    )

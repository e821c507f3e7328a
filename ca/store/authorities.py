"""Authorities in SQL: their rows, their standing, and what a node looks at to see whether it is up to date."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

import asyncpg
import orjson
from cryptography.x509.oid import NameOID

from ca.authority import AuthorityOrigin, AuthorityStatus, Links
from ca.inventory import AuthorityKind, RevocationReason
from ca.keystore import Backend, StoredKey
from ca.store.keys import KEY_COLUMNS, key_from
from certs.pem import read_certificate
from iam.errors import conflict, not_found
from iam.listing import FieldKind, ListQuery
from iam.model import SYSTEM_TENANT
from iam.paging import Page
from iam.store.database import Row, Transaction
from iam.store.listing import Column, Listing, page_of_list


@dataclass(frozen=True, slots=True)
class StoredAuthority:
    """An authority as the store has it, with its key; None where it is known by its certificate alone.

    Attributes:
        serial: Of its certificate, where that was issued here and is on record.
        is_certificate_revoked: It was revoked by its certificate.
        list_partitions: Into how many partitions its revocation lists were ever cut, the present number last.
    """

    id: UUID
    name: str
    line: str
    generation: int
    kind: AuthorityKind
    origin: AuthorityOrigin
    tenant: UUID
    parent: UUID | None
    certificate: bytes
    spki_sha256: bytes
    key: StoredKey | None
    profile: str
    serial: bytes | None
    status: AuthorityStatus = AuthorityStatus.ACTIVE
    is_certificate_revoked: bool = False
    links: Links | None = None
    chain: tuple[bytes, ...] = ()
    list_partitions: tuple[int, ...] = (1,)


_LOCK = "SELECT pg_advisory_xact_lock($1)"
_AUTHORITY_LOCK = 0x63610001


async def lock_authorities(transaction: Transaction) -> None:
    """Wait until nobody else makes authorities; others wait until this transaction ends."""
    await transaction.execute(_LOCK, _AUTHORITY_LOCK)


_AUTHORITY = f"""
    SELECT a.id AS authority_id, a.name AS authority_name, s.line, s.generation,
           a.kind, s.origin, s.tenant_id AS owner_id, a.parent_id,
           a.certificate, a.spki_sha256 AS authority_spki_sha256,
           s.issuance_profile, s.serial, s.status AS standing_status, s.old_with_new, s.new_with_old, s.chain,
           a.list_partitions,
           coalesce(c.status = 'revoked', false) AS is_certificate_revoked,
           {KEY_COLUMNS}
    FROM authority a
        JOIN authority_standing s ON s.authority_id = a.id
        LEFT JOIN certificate c ON c.serial = s.serial
        LEFT JOIN kms_key k ON k.id = a.key_id"""
_AUTHORITIES = f"{_AUTHORITY} ORDER BY a.created_at, a.name"


async def list_authorities(transaction: Transaction) -> list[StoredAuthority]:
    """Return all authorities, oldest first."""
    return [authority_from(row) for row in await transaction.fetch(_AUTHORITIES)]


@dataclass(frozen=True, slots=True)
class AuthorityDetails:
    """What is said about an authority and not held in memory."""

    id: UUID
    metadata: Mapping[str, Any]
    created: datetime
    revoked: datetime | None
    reason: RevocationReason | None
    backend: Backend | None


_DETAILS = """
    s.authority_id, s.metadata, a.created_at, coalesce(s.revoked_at, c.revoked_at) AS revoked_at,
    coalesce(s.revocation_reason, c.revocation_reason) AS revocation_reason, k.backend"""
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
        "valid_to": Column(FieldKind.DATE, "s.not_after"),
        "creation_ts": Column(FieldKind.DATE, "a.created_at"),
        "engine_id": Column(FieldKind.TEXT, "k.backend", is_nullable=True, is_sortable=False),
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
    SELECT count(*) AS number, coalesce(k.backend, 'none') AS backend,
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
    return [Counted(row["number"], row["standing"], row["backend"]) for row in rows]


async def count_certificates(
    transaction: Transaction, tenant: UUID, authorities: Sequence[UUID] | None
) -> list[Counted]:
    """Count a tenant's certificates by standing and issuer; `authorities` None: of all."""
    named = None if authorities is None else list(authorities)
    rows = await transaction.fetch(_COUNT_CERTIFICATES, tenant, transaction.now, named)
    return [Counted(row["number"], row["standing"], str(row["authority_id"])) for row in rows]


def _details_from(row: Row) -> AuthorityDetails:
    reason, backend = row["revocation_reason"], row["backend"]
    return AuthorityDetails(
        id=row["authority_id"],
        metadata=orjson.loads(row["metadata"]),
        created=row["created_at"],
        revoked=row["revoked_at"],
        reason=RevocationReason(reason) if reason else None,
        backend=Backend(backend) if backend else None,
    )


# What a node holds in memory depends on these and on nothing else.
_FINGERPRINT = """
    SELECT (SELECT coalesce(string_agg(concat_ws(':', a.id, s.revision, c.status, a.list_partitions), ','
                                       ORDER BY a.id), '')
            FROM authority a
                JOIN authority_standing s ON s.authority_id = a.id
                LEFT JOIN certificate c ON c.serial = s.serial)
        || ';' || (SELECT coalesce(string_agg(concat_ws(':', id, revision), ',' ORDER BY id), '')
                   FROM issuance_profile)"""


async def fingerprint(transaction: Transaction) -> str:
    """Return what changes whenever an authority or a profile does."""
    return str(await transaction.fetchval(_FINGERPRINT))


_INSERT_AUTHORITY = """
    INSERT INTO authority (id, name, kind, parent_id, certificate, spki_sha256, key_id, created_at)
    VALUES ($1, $2, $3, $4, $5, $6, $7, $8)"""
_INSERT_STANDING = """
    INSERT INTO authority_standing (authority_id, tenant_id, origin, line, generation, status, issuance_profile,
                                    old_with_new, new_with_old, chain, metadata, common_name, not_after)
    VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13)"""


async def insert_authority(transaction: Transaction, one: StoredAuthority, metadata: Mapping[str, Any]) -> None:
    """Store a new authority, whose key is stored already; its certificate is put on record after that.

    Raises:
        Refused: (conflict) Its name or its key is taken.
    """
    try:
        await transaction.execute(
            _INSERT_AUTHORITY,
            one.id,
            one.name,
            one.kind,
            one.parent,
            one.certificate,
            one.spki_sha256,
            one.key.id if one.key else None,
            transaction.now,
        )
        await transaction.execute(
            _INSERT_STANDING,
            one.id,
            one.tenant,
            one.origin,
            one.line,
            one.generation,
            one.status,
            one.profile,
            one.links.old_with_new if one.links else None,
            one.links.new_with_old if one.links else None,
            list(one.chain),
            orjson.dumps(metadata).decode(),
            *_shown_of(one.certificate),
        )
    except asyncpg.UniqueViolationError as error:
        is_key = error.constraint_name == "authority_spki_sha256_key"
        taken = "The key is an authority's already." if is_key else f"The name {one.line} is taken."
        raise conflict(taken) from error


_SET_SERIAL = """
    UPDATE authority_standing SET serial = $2, common_name = $3, not_after = $4, revision = revision + 1
    WHERE authority_id = $1"""


async def set_serial(transaction: Transaction, authority: UUID, serial: bytes, certificate: bytes) -> None:
    """Say which certificate on record is the authority's own, and what lists of authorities show of it."""
    await transaction.execute(_SET_SERIAL, authority, serial, *_shown_of(certificate))


def _shown_of(certificate: bytes) -> tuple[str, datetime]:
    read = read_certificate(certificate)
    named = read.subject.get_attributes_for_oid(NameOID.COMMON_NAME)
    return str(named[0].value) if named else read.subject.rfc4514_string(), read.not_valid_after_utc


_SUPERSEDE = "UPDATE certificate SET status = 'superseded', superseded_at = $2 WHERE serial = $1 AND status = 'active'"


async def supersede(transaction: Transaction, serial: bytes) -> None:
    """Note that an authority's certificate, if it is on record, has a successor for the same key."""
    await transaction.execute(_SUPERSEDE, serial, transaction.now)


_LOCK_STANDING = "SELECT status FROM authority_standing WHERE authority_id = $1 AND tenant_id = $2 FOR UPDATE"


async def lock_authority(transaction: Transaction, authority: UUID, tenant: UUID) -> AuthorityStatus:
    """Hold the standing of a tenant's authority and return its status; raise `Refused` (not found) if it has none."""
    status = await transaction.fetchval(_LOCK_STANDING, authority, tenant)
    if status is None:
        raise not_found(f"authority {authority}")
    return AuthorityStatus(status)


_SET_STATUS = """
    UPDATE authority_standing
    SET status = $2, revoked_at = $3, revocation_reason = $4, revision = revision + 1 WHERE authority_id = $1"""


async def set_status(
    transaction: Transaction, authority: UUID, status: AuthorityStatus, reason: RevocationReason | None
) -> None:
    """Change the status of a locked authority; `reason` is why it is revoked."""
    moment = transaction.now if status is AuthorityStatus.REVOKED else None
    await transaction.execute(_SET_STATUS, authority, status, moment, reason)


_SET_CERTIFICATE = "UPDATE authority SET certificate = $2, parent_id = $3 WHERE id = $1"
_SET_CHAIN = "UPDATE authority_standing SET chain = $2, revision = revision + 1 WHERE authority_id = $1"


async def set_certificate(
    transaction: Transaction, authority: UUID, certificate: bytes, parent: UUID | None, chain: tuple[bytes, ...]
) -> None:
    """Give a locked authority another certificate for the same key."""
    await transaction.execute(_SET_CERTIFICATE, authority, certificate, parent)
    await transaction.execute(_SET_CHAIN, authority, list(chain))


_SET_PROFILE = "UPDATE authority_standing SET issuance_profile = $2, revision = revision + 1 WHERE line = $1"


async def set_profile(transaction: Transaction, line: str, profile: str) -> None:
    """Say what all generations of a line issue by where nobody says."""
    await transaction.execute(_SET_PROFILE, line, profile)


_METADATA = "SELECT metadata FROM authority_standing WHERE authority_id = $1"
_SET_METADATA = "UPDATE authority_standing SET metadata = $2 WHERE authority_id = $1"


async def authority_metadata(transaction: Transaction, authority: UUID) -> dict[str, Any]:
    """Return what an operator noted about an authority; raise `Refused` (not found) if there is none to be seen."""
    found = await transaction.fetchval(_METADATA, authority)
    if found is None:
        raise not_found(f"authority {authority}")
    noted: dict[str, Any] = orjson.loads(found)
    return noted


async def set_metadata(transaction: Transaction, authority: UUID, metadata: Mapping[str, Any]) -> None:
    """Replace what an operator noted about a locked authority."""
    await transaction.execute(_SET_METADATA, authority, orjson.dumps(metadata).decode())


_FORGET_CERTIFICATE = "DELETE FROM certificate WHERE serial = $1 AND authority_id = $2"
_FORGET_PUBLISHED = (
    "DELETE FROM revocation_list WHERE authority_id = $1",
    "DELETE FROM revocation WHERE authority_id = $1",
    "DELETE FROM status_responder WHERE authority_id = $1",
    "DELETE FROM certificate WHERE authority_id = $1 AND profile = 'responder'",
)
_FORGET_SERIAL = "UPDATE authority_standing SET serial = NULL WHERE authority_id = $1"
_DELETE = "DELETE FROM authority WHERE id = $1"
_DELETE_KEY = "DELETE FROM kms_key WHERE id = $1"


async def delete_authority(transaction: Transaction, authority: UUID, serial: bytes | None, key: UUID | None) -> None:
    """Delete an authority that nothing depends on, with its key; raise `Refused` (conflict) if something does.

    What it issued must stay revocable, so one that ever issued for others stays.
    """
    try:
        if serial is not None:  # a root's own certificate is the one that it issued itself
            await transaction.execute(_FORGET_SERIAL, authority)
            await transaction.execute(_FORGET_CERTIFICATE, serial, authority)
        for statement in _FORGET_PUBLISHED:
            await transaction.execute(statement, authority)
        await transaction.execute(_DELETE, authority)
        await transaction.execute(_DELETE_KEY, key)
    except asyncpg.ForeignKeyViolationError as error:
        raise conflict("The authority has issued certificates, or a label names it: it stays.") from error


_DEVICES_OF = """
    WITH RECURSIVE below AS (
        SELECT id FROM authority WHERE id = $1
        UNION SELECT a.id FROM authority a JOIN below b ON a.parent_id = b.id)
    SELECT DISTINCT identity_id FROM certificate
    WHERE authority_id IN (SELECT id FROM below) AND identity_id IS NOT NULL AND status <> 'revoked' AND not_after > $2
    ORDER BY identity_id"""


async def identities_below(transaction: Transaction, authority: UUID) -> list[str]:
    """Return whom certificates of an authority, or of one below it, may prove; ask where every tenant is seen."""
    return [row["identity_id"] for row in await transaction.fetch(_DEVICES_OF, authority, transaction.now)]


_KEY_IS_KNOWN = """
    SELECT EXISTS (SELECT FROM authority WHERE spki_sha256 = $1)
        OR EXISTS (SELECT FROM device_key WHERE spki_sha256 = $1)
        OR EXISTS (SELECT FROM certificate WHERE spki_sha256 = $1)"""


async def is_key_known(transaction: Transaction, spki_sha256: bytes) -> bool:
    """Tell whether a key is anybody's already; ask in a transaction that sees every tenant."""
    return bool(await transaction.fetchval(_KEY_IS_KNOWN, spki_sha256))


_KEY_IS_BARRED = """
    SELECT EXISTS (SELECT FROM authority WHERE spki_sha256 = $1)
        OR EXISTS (SELECT FROM certificate WHERE spki_sha256 = $1 AND status = 'revoked'
                   AND revocation_reason = 'keyCompromise')"""


async def is_key_barred(transaction: Transaction, spki_sha256: bytes) -> bool:
    """Tell whether a key is an authority's, or was compromised; ask in a transaction that sees every tenant."""
    return bool(await transaction.fetchval(_KEY_IS_BARRED, spki_sha256))


_SYSTEM_TENANT = "SELECT id FROM tenant WHERE name = $1"


async def system_tenant(transaction: Transaction) -> UUID:
    """Return the root tenant, which owns what is nobody else's; raise `Refused` (not found) if it is not made yet."""
    found: UUID | None = await transaction.fetchval(_SYSTEM_TENANT, SYSTEM_TENANT)
    if found is None:
        raise not_found(f"tenant {SYSTEM_TENANT} yet: it is made before the authorities")
    return found


def authority_from(row: Row) -> StoredAuthority:
    """Read a row of `authority` with its standing."""
    old, new = row["old_with_new"], row["new_with_old"]
    return StoredAuthority(
        id=row["authority_id"],
        name=row["authority_name"],
        line=row["line"],
        generation=row["generation"],
        kind=AuthorityKind(row["kind"]),
        origin=AuthorityOrigin(row["origin"]),
        tenant=row["owner_id"],
        parent=row["parent_id"],
        certificate=row["certificate"],
        spki_sha256=row["authority_spki_sha256"],
        key=None if row["id"] is None else key_from(row),
        profile=row["issuance_profile"],
        serial=row["serial"],
        status=AuthorityStatus(row["standing_status"]),
        is_certificate_revoked=row["is_certificate_revoked"],
        links=Links(old, new) if old is not None else None,
        chain=tuple(row["chain"]),
        list_partitions=tuple(row["list_partitions"]),
    )

"""Authorities in SQL: their rows, their standing, and what a node looks at to see whether it is up to date."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

import asyncpg
import orjson

from ca.authority import AuthorityOrigin, AuthorityStatus, Links
from ca.inventory import AuthorityKind, RevocationReason
from ca.keystore import StoredKey
from ca.store.authority_lists import note_shown, shown_of
from ca.store.keys import KEY_COLUMNS, key_from
from iam.errors import conflict, not_found
from iam.model import SYSTEM_TENANT
from iam.store.database import Collided, Row, Transaction


@dataclass(frozen=True, slots=True)
class StoredAuthority:
    """An authority as the store has it, with its key; None where it is known by its certificate alone.

    Attributes:
        serial: Of its certificate, where that was issued here and is on record.
        is_certificate_revoked: It was revoked by its certificate.
        list_partitions: Into how many partitions its revocation lists were ever cut, the present number last.
        issuance: How long what it issues lasts, or until when, at the most; None: as its profile says.
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
    issuance: timedelta | datetime | None = None


_LOCK = "SELECT pg_advisory_xact_lock($1)"
_AUTHORITY_LOCK = 0x63610001


async def lock_authorities(transaction: Transaction) -> None:
    """Wait until nobody else makes authorities; others wait until this transaction ends."""
    await transaction.execute(_LOCK, _AUTHORITY_LOCK)


_AUTHORITY = f"""
    SELECT a.id AS authority_id, a.name AS authority_name, s.line, s.generation,
           a.kind, s.origin, s.tenant_id AS owner_id, a.parent_id,
           a.certificate, coalesce(a.spki_sha256, s.external_spki_sha256) AS authority_spki_sha256,
           s.issuance_profile, s.serial, s.status AS standing_status, s.old_with_new, s.new_with_old, s.chain,
           a.list_partitions, s.issuance_seconds, s.issuance_ends,
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


# What a node holds in memory depends on these and on nothing else.
_FINGERPRINT = """
    SELECT (SELECT coalesce(string_agg(concat_ws(':', a.id, s.revision, c.status, a.list_partitions), ','
                                       ORDER BY a.id), '')
            FROM authority a
                JOIN authority_standing s ON s.authority_id = a.id
                LEFT JOIN certificate c ON c.serial = s.serial)
        || ';' || (SELECT coalesce(string_agg(concat_ws(':', id, revision), ',' ORDER BY id), '')
                   FROM issuance_profile)
        || ';' || (SELECT count(*) FROM distrusted_key)"""


async def fingerprint(transaction: Transaction) -> str:
    """Return what changes whenever an authority or a profile does."""
    return str(await transaction.fetchval(_FINGERPRINT))


_KEYS = frozenset({"authority_spki_sha256_key", "authority_standing_tenant_id_external_spki_sha256_key"})
_INSERT_AUTHORITY = """
    INSERT INTO authority (id, name, kind, parent_id, certificate, spki_sha256, key_id, created_at)
    VALUES ($1, $2, $3, $4, $5, $6, $7, $8)"""
_INSERT_STANDING = """
    INSERT INTO authority_standing (authority_id, tenant_id, origin, line, generation, status, issuance_profile,
                                    old_with_new, new_with_old, chain, metadata, external_spki_sha256,
                                    issuance_seconds, issuance_ends, common_name, not_before, not_after,
                                    serial_number, key_identifier)
    VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16, $17, $18, $19)"""


async def insert_authority(transaction: Transaction, one: StoredAuthority, metadata: Mapping[str, Any]) -> None:
    """Store a new authority, whose key is stored already; its certificate is put on record after that.

    Raises:
        Refused: (conflict) Its name or its key is taken.
    """
    is_external = one.origin is AuthorityOrigin.EXTERNAL
    try:
        await transaction.execute(
            _INSERT_AUTHORITY,
            one.id,
            one.name,
            one.kind,
            one.parent,
            one.certificate,
            None if is_external else one.spki_sha256,
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
            one.spki_sha256 if is_external else None,
            *_period_to(one.issuance),
            *shown_of(one.certificate),
        )
    except asyncpg.UniqueViolationError as error:
        is_key = error.constraint_name in _KEYS
        taken = "The key is an authority's already." if is_key else f"The name {one.line} is taken."
        raise conflict(taken) from error


_SET_SERIAL = "UPDATE authority_standing SET serial = $2, revision = revision + 1 WHERE authority_id = $1"


async def set_serial(transaction: Transaction, authority: UUID, serial: bytes, certificate: bytes) -> None:
    """Say which certificate on record is the authority's own, and what lists of authorities show of it."""
    await transaction.execute(_SET_SERIAL, authority, serial)
    await note_shown(transaction, authority, certificate)


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


# Whoever revokes holds the authority's row (`note_revocation`): of several, all at once and in this order.
_LOCK_ISSUERS = """
    SELECT FROM authority WHERE id IN (SELECT authority_id FROM certificate WHERE serial = ANY ($1))
    ORDER BY id FOR NO KEY UPDATE"""


async def lock_issuers(transaction: Transaction, serials: Sequence[bytes]) -> None:
    """Hold the authorities of locked certificates, before any of these is revoked (`iam.store.database`, rule 5)."""
    await transaction.execute(_LOCK_ISSUERS, list(serials))


_SET_STATUS = """
    UPDATE authority_standing
    SET status = $2, revoked_at = $3, revocation_reason = $4, revision = revision + 1 WHERE authority_id = $1"""


async def set_status(
    transaction: Transaction, authority: UUID, status: AuthorityStatus, reason: RevocationReason | None
) -> None:
    """Change the status of a locked authority; `reason` is why it is revoked."""
    moment = transaction.now if status is AuthorityStatus.REVOKED else None
    await transaction.execute(_SET_STATUS, authority, status, moment, reason)


_CERTIFICATE = "SELECT certificate FROM authority WHERE id = $1"


async def check_certificate(transaction: Transaction, authority: UUID, known: bytes) -> None:
    """Check that a locked authority still has the certificate that is known of it; raise `Collided` if not."""
    if await transaction.fetchval(_CERTIFICATE, authority) != known:
        raise Collided(f"the authority {authority} was certified anew meanwhile")


_SET_CERTIFICATE = "UPDATE authority SET certificate = $2, parent_id = $3 WHERE id = $1"
_SET_CHAIN = "UPDATE authority_standing SET chain = $2, revision = revision + 1 WHERE authority_id = $1"


async def set_certificate(
    transaction: Transaction, authority: UUID, certificate: bytes, parent: UUID | None, chain: tuple[bytes, ...]
) -> None:
    """Give a locked authority another certificate for the same key."""
    await transaction.execute(_SET_CERTIFICATE, authority, certificate, parent)
    await transaction.execute(_SET_CHAIN, authority, list(chain))
    await note_shown(transaction, authority, certificate)


_SET_PROFILE = "UPDATE authority_standing SET issuance_profile = $2, revision = revision + 1 WHERE line = $1"


async def set_profile(transaction: Transaction, line: str, profile: str) -> None:
    """Say what all generations of a line issue by where nobody says."""
    await transaction.execute(_SET_PROFILE, line, profile)


_SET_ISSUANCE = """
    UPDATE authority_standing SET issuance_seconds = $2, issuance_ends = $3, revision = revision + 1 WHERE line = $1"""


async def set_issuance(transaction: Transaction, line: str, longest: timedelta | datetime) -> None:
    """Say how long what all generations of a line issue lasts at the most, or until when."""
    await transaction.execute(_SET_ISSUANCE, line, *_period_to(longest))


def _period_to(period: timedelta | datetime | None) -> tuple[int | None, datetime | None]:
    if isinstance(period, timedelta):
        return int(period.total_seconds()), None
    return None, period


def _period_from(seconds: int | None, end: datetime | None) -> timedelta | datetime | None:
    return end if seconds is None else timedelta(seconds=seconds)


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
        issuance=_period_from(row["issuance_seconds"], row["issuance_ends"]),
    )

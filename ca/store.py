"""Authorities, certificates and revocation lists in SQL."""

from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

import asyncpg

from ca.crl import RevocationList, Revoked
from ca.inventory import AuthorityKind, CertificateStatus, RevocationReason, StoredCertificate
from iam.errors import conflict, not_found
from iam.model import SYSTEM_TENANT
from iam.paging import Page, PageQuery, decode_cursor, encode_cursor
from iam.store.database import Row, Transaction


@dataclass(frozen=True, slots=True)
class StoredAuthority:
    """An authority as the store has it."""

    id: UUID
    name: str
    kind: AuthorityKind
    parent: UUID | None
    certificate: bytes
    spki_sha256: bytes
    key_sealed: bytes | None


_LOCK = "SELECT pg_advisory_xact_lock($1)"
_AUTHORITY_LOCK = 0x63610001


async def lock_authorities(transaction: Transaction) -> None:
    """Wait until nobody else makes authorities; others wait until this transaction ends."""
    await transaction.execute(_LOCK, _AUTHORITY_LOCK)


_AUTHORITIES = """
    SELECT id, name, kind, parent_id, certificate, spki_sha256, key_sealed FROM authority ORDER BY created_at, name"""


async def list_authorities(transaction: Transaction) -> list[StoredAuthority]:
    """Return all authorities, oldest first."""
    return [
        StoredAuthority(
            row["id"],
            row["name"],
            AuthorityKind(row["kind"]),
            row["parent_id"],
            row["certificate"],
            row["spki_sha256"],
            row["key_sealed"],
        )
        for row in await transaction.fetch(_AUTHORITIES)
    ]


_INSERT_AUTHORITY = """
    INSERT INTO authority (id, name, kind, parent_id, certificate, spki_sha256, key_sealed, created_at)
    VALUES ($1, $2, $3, $4, $5, $6, $7, $8)"""


async def insert_authority(transaction: Transaction, one: StoredAuthority) -> None:
    """Store a new authority."""
    await transaction.execute(
        _INSERT_AUTHORITY,
        one.id,
        one.name,
        one.kind,
        one.parent,
        one.certificate,
        one.spki_sha256,
        one.key_sealed,
        transaction.now,
    )


_SYSTEM_TENANT = "SELECT id FROM tenant WHERE name = $1"


async def system_tenant(transaction: Transaction) -> UUID:
    """Return the root tenant, which owns what is nobody else's; raise `Refused` (not found) if it is not made yet."""
    found: UUID | None = await transaction.fetchval(_SYSTEM_TENANT, SYSTEM_TENANT)
    if found is None:
        raise not_found(f"tenant {SYSTEM_TENANT} yet: it is made before the authorities")
    return found


_CERTIFICATE = """
    SELECT serial, authority_id, tenant_id, profile, device_identifier, identity_id, subject, spki_sha256,
           request_sha256, not_before, not_after, certificate, status, issued_at, supersedes, superseded_at,
           revoked_at, revocation_reason
    FROM certificate"""

_BY_SERIAL = f"{_CERTIFICATE} WHERE serial = $1"
_BY_SERIAL_LOCKED = f"{_BY_SERIAL} FOR UPDATE"
# A device is locked before its certificates, here as in `enrol_device` and `reenrol_device`.
_LOCK_DEVICE = """
    SELECT FROM device WHERE identity_id = (SELECT identity_id FROM certificate WHERE serial = $1) FOR UPDATE"""


async def find_certificate(transaction: Transaction, serial: bytes) -> StoredCertificate | None:
    """Return the certificate of that serial number, if this transaction may see one."""
    row = await transaction.fetchrow(_BY_SERIAL, serial)
    return _certificate_from(row) if row else None


async def lock_certificate(transaction: Transaction, serial: bytes) -> StoredCertificate:
    """Return a certificate and hold it and its device; raise `Refused` (not found) if there is none to be seen."""
    await transaction.execute(_LOCK_DEVICE, serial)
    row = await transaction.fetchrow(_BY_SERIAL_LOCKED, serial)
    if row is None:
        raise not_found(f"certificate {serial.hex()}")
    return _certificate_from(row)


_LIST = f"""{_CERTIFICATE}
    WHERE tenant_id = $1
      AND ($2::timestamptz IS NULL OR (issued_at, serial) > ($2, $3))
      AND ($4::text IS NULL OR status = $4)
      AND ($5::text IS NULL OR device_identifier = $5)
      AND ($6::text[] IS NULL OR device_identifier = ANY ($6))
    ORDER BY issued_at, serial LIMIT $7"""


async def list_certificates(
    transaction: Transaction,
    tenant: UUID,
    query: PageQuery,
    *,
    status: CertificateStatus | None,
    device: str | None,
    only_devices: list[str] | None,
) -> Page[StoredCertificate]:
    """Return a tenant's certificates, oldest first; `only_devices` are those that the caller reaches, if not all."""
    after = decode_cursor(query.cursor, 2)
    issued, serial = _read_key(after) if after else (None, None)
    rows = await transaction.fetch(_LIST, tenant, issued, serial, status, device, only_devices, query.limit + 1)
    shown = tuple(_certificate_from(row) for row in rows[: query.limit])
    more = len(rows) > query.limit
    return Page(shown, encode_cursor(shown[-1].issued.isoformat(), shown[-1].serial.hex()) if more else None)


def _read_key(key: tuple[str, ...]) -> tuple[datetime, bytes]:
    try:
        return datetime.fromisoformat(key[0]), bytes.fromhex(key[1])
    except ValueError as error:
        raise not_found("such page") from error


_INSERT = """
    INSERT INTO certificate (serial, authority_id, tenant_id, profile, device_identifier, subject, spki_sha256,
                             not_before, not_after, certificate, status, issued_at)
    VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12)"""


async def insert_certificate(transaction: Transaction, one: StoredCertificate) -> None:
    """Store a certificate that proves no identity; raise `Refused` (conflict) if its serial number was ever used."""
    try:
        await transaction.execute(
            _INSERT,
            one.serial,
            one.authority,
            one.tenant,
            one.profile,
            one.device,
            one.subject,
            one.spki_sha256,
            one.not_before,
            one.not_after,
            one.der,
            one.status,
            one.issued,
        )
    except asyncpg.UniqueViolationError as error:
        raise conflict("The serial number is taken.") from error


_LIVE_OF_IDENTITY = "SELECT serial FROM certificate WHERE identity_id = $1 AND status <> 'revoked' ORDER BY serial"


async def live_certificates(transaction: Transaction, identity: str) -> list[bytes]:
    """Return the serial numbers of an identity's certificates that are not revoked."""
    return [row["serial"] for row in await transaction.fetch(_LIVE_OF_IDENTITY, identity)]


_REVOKE = """
    UPDATE certificate SET status = 'revoked', revoked_at = $2, revocation_reason = $3 WHERE serial = $1"""
_COUNT_REVOCATION = "UPDATE authority SET revocations = revocations + 1 WHERE id = $1"
_REVOKE_DEVICE = """
    UPDATE device SET status = 'REVOKED'
    WHERE identity_id = $1 AND status <> 'DECOMMISSIONED'
      AND NOT EXISTS (SELECT FROM certificate
                      WHERE device_identifier = device.device_identifier AND identity_id = $1 AND status = 'active')"""


async def revoke_certificate(transaction: Transaction, one: StoredCertificate, reason: RevocationReason) -> None:
    """Mark a locked certificate as revoked, and count that; a device without any other certificate is REVOKED."""
    await transaction.execute(_REVOKE, one.serial, transaction.now, reason)
    await transaction.execute(_COUNT_REVOCATION, one.authority)
    if one.identity is not None:
        await transaction.execute(_REVOKE_DEVICE, one.identity)


_LOCK_AUTHORITY = "SELECT revocations FROM authority WHERE id = $1 FOR NO KEY UPDATE"
_REVOCATIONS = "SELECT revocations FROM authority WHERE id = $1"
_LATEST_LIST = """
    SELECT number, this_update, next_update, revocations, crl
    FROM revocation_list WHERE authority_id = $1 ORDER BY number DESC LIMIT 1"""


@dataclass(frozen=True, slots=True)
class PublishedList:
    """A list, and the count of revocations that it was made at."""

    content: RevocationList
    revocations: int


async def lock_revocations(transaction: Transaction, authority: UUID) -> int:
    """Wait for revocations that are being written, keep others out until the end, and return how many there were."""
    return int(await transaction.fetchval(_LOCK_AUTHORITY, authority))


async def count_revocations(transaction: Transaction, authority: UUID) -> int:
    """Return how many revocations there were, those being written aside."""
    return int(await transaction.fetchval(_REVOCATIONS, authority))


async def latest_list(transaction: Transaction, authority: UUID) -> PublishedList | None:
    """Return the newest list of an authority."""
    row = await transaction.fetchrow(_LATEST_LIST, authority)
    if row is None:
        return None
    content = RevocationList(row["crl"], row["number"], row["this_update"], row["next_update"])
    return PublishedList(content, row["revocations"])


_REVOKED = """
    SELECT serial, revoked_at, revocation_reason FROM certificate
    WHERE authority_id = $1 AND status = 'revoked' AND not_after >= $2 ORDER BY serial"""


async def list_revoked(transaction: Transaction, authority: UUID, ended_after: datetime) -> list[Revoked]:
    """Return the revoked certificates of an authority that had not ended at that time."""
    return [
        Revoked(row["serial"], row["revoked_at"], RevocationReason(row["revocation_reason"]))
        for row in await transaction.fetch(_REVOKED, authority, ended_after)
    ]


_INSERT_LIST = """
    INSERT INTO revocation_list (authority_id, number, this_update, next_update, revocations, crl)
    VALUES ($1, $2, $3, $4, $5, $6)"""
_FORGET_LISTS = "DELETE FROM revocation_list WHERE authority_id = $1 AND number <= $2"
_LISTS_KEPT = 3


async def insert_list(transaction: Transaction, authority: UUID, content: RevocationList, revocations: int) -> None:
    """Store a new list and forget the oldest; the newest is always kept, so that numbers rise."""
    await transaction.execute(
        _INSERT_LIST,
        authority,
        content.number,
        content.this_update,
        content.next_update,
        revocations,
        content.der,
    )
    await transaction.execute(_FORGET_LISTS, authority, content.number - _LISTS_KEPT)


def _certificate_from(row: Row) -> StoredCertificate:
    reason = row["revocation_reason"]
    return StoredCertificate(
        serial=row["serial"],
        authority=row["authority_id"],
        tenant=row["tenant_id"],
        profile=row["profile"],
        device=row["device_identifier"],
        identity=row["identity_id"],
        subject=row["subject"],
        spki_sha256=row["spki_sha256"],
        request_sha256=row["request_sha256"],
        not_before=row["not_before"],
        not_after=row["not_after"],
        der=row["certificate"],
        status=CertificateStatus(row["status"]),
        issued=row["issued_at"],
        supersedes=row["supersedes"],
        superseded=row["superseded_at"],
        revoked=row["revoked_at"],
        reason=RevocationReason(reason) if reason else None,
    )

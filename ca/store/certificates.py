"""Certificates in SQL: recording, finding one, revoking. Lists of them are in `certificate_lists.py`."""

from collections.abc import Mapping, Sequence
from typing import Any
from uuid import UUID

import asyncpg
import orjson

from ca.inventory import CertificateStatus, RevocationReason, StoredCertificate
from iam.errors import conflict, not_found
from iam.store.database import Row, Transaction

STATUS = "CASE revocation_reason WHEN 'certificateHold' THEN 'held' ELSE status END"
"""A row's `CertificateStatus`: the store has what is held as revoked for the reason certificateHold."""

COLUMNS = f"""serial, authority_id, tenant_id, profile, device_identifier, identity_id, subject, spki_sha256,
           request_sha256, not_before, not_after, certificate, {STATUS} AS status, issued_at, supersedes, superseded_at,
           revoked_at, revocation_reason, metadata"""
"""What `certificate_from` reads."""

_CERTIFICATE = f"SELECT {COLUMNS} FROM certificate"

_BY_SERIAL = f"{_CERTIFICATE} WHERE serial = $1"
_BY_SERIAL_LOCKED = f"{_BY_SERIAL} FOR UPDATE"
# A device is locked before its certificates, here as in `enrol_device` and `reenrol_device`.
_LOCK_DEVICE = """
    SELECT FROM device WHERE identity_id = (SELECT identity_id FROM certificate WHERE serial = $1) FOR UPDATE"""


async def find_certificate(transaction: Transaction, serial: bytes) -> StoredCertificate | None:
    """Return the certificate of that serial number, if this transaction may see one."""
    row = await transaction.fetchrow(_BY_SERIAL, serial)
    return certificate_from(row) if row else None


async def lock_certificate(transaction: Transaction, serial: bytes) -> StoredCertificate:
    """Return a certificate and hold it and its device; raise `Refused` (not found) if there is none to be seen."""
    await transaction.execute(_LOCK_DEVICE, serial)
    row = await transaction.fetchrow(_BY_SERIAL_LOCKED, serial)
    if row is None:
        raise not_found(f"certificate {serial.hex()}")
    return certificate_from(row)


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


# What was superseded proves nobody anew, but what it has proved lasts as long as the key is the one in force.
_STILL_PROVING = """
    SELECT c.serial, c.authority_id FROM certificate c
    WHERE c.serial = ANY ($1) AND c.status <> 'revoked' AND EXISTS (
        SELECT FROM certificate a
        WHERE a.identity_id = c.identity_id AND a.spki_sha256 = c.spki_sha256 AND a.status = 'active')"""


async def authorities_of_proving(transaction: Transaction, serials: Sequence[bytes]) -> dict[bytes, UUID]:
    """Return those of these certificates by which somebody was let in rightly, and which authority issued each."""
    return {row["serial"]: row["authority_id"] for row in await transaction.fetch(_STILL_PROVING, serials)}


_SET_METADATA = "UPDATE certificate SET metadata = $2 WHERE serial = $1"


async def set_metadata(transaction: Transaction, serial: bytes, metadata: Mapping[str, Any]) -> None:
    """Set what operators keep beside a locked certificate."""
    await transaction.execute(_SET_METADATA, serial, orjson.dumps(dict(metadata)).decode())


_IS_LISTED = "SELECT EXISTS (SELECT FROM revocation WHERE authority_id = $1 AND serial = $2)"


async def is_listed(transaction: Transaction, one: StoredCertificate) -> bool:
    """Tell whether an authority's lists name a certificate, or were not made anew since it ended."""
    return bool(await transaction.fetchval(_IS_LISTED, one.authority, one.serial))


_UNLIST = "DELETE FROM revocation WHERE authority_id = $1 AND serial = $2"
_DELETE = "DELETE FROM certificate WHERE serial = $1"


async def delete_certificate(transaction: Transaction, one: StoredCertificate) -> None:
    """Forget a locked certificate; what came after it goes on saying so. Raise `Refused` (conflict) if it is in use."""
    try:
        await transaction.execute(_UNLIST, one.authority, one.serial)
        await transaction.execute(_DELETE, one.serial)
    except asyncpg.ForeignKeyViolationError as error:
        raise conflict("The certificate is an authority's: delete that.") from error


_LIVE_OF_IDENTITY = f"""
    SELECT serial FROM certificate
    WHERE identity_id = $1 AND {STATUS} <> 'revoked' AND (NOT $2 OR status = 'active') ORDER BY serial"""


async def live_certificates(transaction: Transaction, identity: str, *, only_active: bool = False) -> list[bytes]:
    """Return the serial numbers of an identity's certificates that are not revoked, or of those that are in force."""
    return [row["serial"] for row in await transaction.fetch(_LIVE_OF_IDENTITY, identity, only_active)]


_LIVE_OF_KEY = f"SELECT serial FROM certificate WHERE spki_sha256 = $1 AND {STATUS} <> 'revoked' ORDER BY serial"


async def live_certificates_of_key(transaction: Transaction, spki_sha256: bytes) -> list[bytes]:
    """Return the serial numbers of a key's certificates that are not revoked, in the order in which to lock them."""
    return [row["serial"] for row in await transaction.fetch(_LIVE_OF_KEY, spki_sha256)]


# What was on hold has not counted since then: the date stays.
_REVOKE = """
    UPDATE certificate SET status = 'revoked', revoked_at = coalesce(revoked_at, $2), revocation_reason = $3
    WHERE serial = $1"""
_REVOKE_DEVICE = """
    UPDATE device SET status = 'REVOKED'
    WHERE identity_id = $1 AND status <> 'DECOMMISSIONED'
      AND NOT EXISTS (SELECT FROM certificate
                      WHERE device_identifier = device.device_identifier AND identity_id = $1 AND status = 'active')"""


async def revoke_certificate(transaction: Transaction, one: StoredCertificate, reason: RevocationReason) -> None:
    """Mark a locked certificate as revoked, or as held if that is the reason.

    A device that has lost its last certificate for good is REVOKED. The lists hear of it by a trigger.
    """
    await transaction.execute(_REVOKE, one.serial, transaction.now, reason)
    if one.identity is not None and reason is not RevocationReason.CERTIFICATE_HOLD:
        await transaction.execute(_REVOKE_DEVICE, one.identity)


_RELEASE = """
    UPDATE certificate SET status = 'active', revoked_at = NULL, revocation_reason = NULL WHERE serial = $1"""
# The life cycle has to look again: while the certificate was on hold it found none that ends.
_RELEASE_DEVICE = """
    UPDATE device SET expires_at = NULL, status = CASE status WHEN 'REVOKED' THEN 'ACTIVE' ELSE status END
    WHERE identity_id = $1"""


async def release_certificate(transaction: Transaction, one: StoredCertificate) -> None:
    """Mark a locked certificate that is held as active again; its device is no more REVOKED, if it was."""
    await transaction.execute(_RELEASE, one.serial)
    if one.identity is not None:
        await transaction.execute(_RELEASE_DEVICE, one.identity)


_HAS_ACTIVE = "SELECT EXISTS (SELECT FROM certificate WHERE identity_id = $1 AND status = 'active')"


async def has_active_certificate(transaction: Transaction, identity: str) -> bool:
    """Tell whether an identity has a certificate that is active."""
    return bool(await transaction.fetchval(_HAS_ACTIVE, identity))


def certificate_from(row: Row) -> StoredCertificate:
    """Return the certificate in a row of `COLUMNS`."""
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
        metadata=orjson.loads(row["metadata"]),
    )

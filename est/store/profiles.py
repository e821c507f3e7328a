"""Enrolment profiles and bindings in SQL."""

from dataclasses import dataclass
from datetime import timedelta
from uuid import UUID

import asyncpg

from est.profiles import CsrAttributes, EnrolmentMode, EnrolmentProfile, ProofOfPossession, ServerKey
from iam.errors import conflict
from iam.paging import Page, PageQuery, decode_cursor, page_of
from iam.store.database import Row, Transaction


@dataclass(frozen=True, slots=True)
class IssuerAndSerial:
    """What names a certificate: a serial number is unique for one issuer only (RFC 5280 4.1.2.2)."""

    issuer_spki_sha256: bytes
    serial: bytes


@dataclass(frozen=True, slots=True)
class BootstrapBinding:
    """Which bootstrap certificate a device is bound to, by its key or its name; at least one of the two is there."""

    spki_sha256: bytes | None
    certificate: IssuerAndSerial | None


_PROFILE = """
    SELECT id, tenant_id, name, mode, authority_id, certificate_profile, bootstrap_anchors, identifier_pattern,
           role_name, expired_may_renew, previous_grace_seconds, created_at,
           proof_of_possession, csr_attributes, server_key_generation, encrypted_server_keys_only
    FROM enrolment_profile"""

_BY_NAME = f"{_PROFILE} WHERE name = $1"


async def find_profile(transaction: Transaction, name: str) -> EnrolmentProfile | None:
    """Return the profile of that label, if this transaction may see one."""
    row = await transaction.fetchrow(_BY_NAME, name)
    return _profile_from(row) if row else None


_LIST = f"{_PROFILE} WHERE tenant_id = $1 AND name > $2 ORDER BY name LIMIT $3"


async def list_profiles(transaction: Transaction, tenant: UUID, query: PageQuery) -> Page[EnrolmentProfile]:
    """Return a tenant's profiles, by name."""
    after = decode_cursor(query.cursor, 1) or ("",)
    found = [_profile_from(row) for row in await transaction.fetch(_LIST, tenant, after[0], query.limit + 1)]
    return page_of(found, query.limit, [(one.name,) for one in found])


_INSERT_PROFILE = """
    INSERT INTO enrolment_profile (id, tenant_id, name, mode, authority_id, certificate_profile, bootstrap_anchors,
                                   identifier_pattern, role_name, expired_may_renew, previous_grace_seconds,
                                   created_at, proof_of_possession, csr_attributes, server_key_generation,
                                   encrypted_server_keys_only)
    VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16)"""


async def insert_profile(transaction: Transaction, one: EnrolmentProfile) -> None:
    """Store a new profile; raise `Refused` (conflict) if its label is taken, by whichever tenant."""
    try:
        await transaction.execute(
            _INSERT_PROFILE,
            one.id,
            one.tenant,
            one.name,
            one.mode,
            one.authority,
            one.certificate_profile,
            list(one.bootstrap_anchors),
            one.identifier_pattern,
            one.role_name,
            one.expired_may_renew,
            _seconds(one.previous_grace),
            one.created,
            one.proof_of_possession,
            one.csr_attributes,
            one.server_key_generation,
            one.encrypted_server_keys_only,
        )
    except asyncpg.UniqueViolationError as error:
        raise conflict(f"The label {one.name} is taken.") from error


_UPDATE_PROFILE = """
    UPDATE enrolment_profile
    SET mode = $2, certificate_profile = $3, bootstrap_anchors = $4, identifier_pattern = $5, role_name = $6,
        expired_may_renew = $7, previous_grace_seconds = $8, proof_of_possession = $9, csr_attributes = $10,
        server_key_generation = $11, encrypted_server_keys_only = $12
    WHERE id = $1"""


async def update_profile(transaction: Transaction, one: EnrolmentProfile) -> None:
    """Replace what a profile says; its label, tenant and authority stay."""
    await transaction.execute(
        _UPDATE_PROFILE,
        one.id,
        one.mode,
        one.certificate_profile,
        list(one.bootstrap_anchors),
        one.identifier_pattern,
        one.role_name,
        one.expired_may_renew,
        _seconds(one.previous_grace),
        one.proof_of_possession,
        one.csr_attributes,
        one.server_key_generation,
        one.encrypted_server_keys_only,
    )


_DELETE_PROFILE = "DELETE FROM enrolment_profile WHERE id = $1"


async def delete_profile(transaction: Transaction, identifier: UUID) -> None:
    """Delete a profile; what was enrolled under it stays."""
    await transaction.execute(_DELETE_PROFILE, identifier)


_BIND = """
    INSERT INTO bootstrap_binding (device_identifier, tenant_id, spki_sha256, issuer_spki_sha256, serial)
    VALUES ($1, $2, $3, $4, $5)
    ON CONFLICT (device_identifier) DO UPDATE
    SET spki_sha256 = excluded.spki_sha256, issuer_spki_sha256 = excluded.issuer_spki_sha256,
        serial = excluded.serial"""


async def bind_bootstrap(transaction: Transaction, device: str, tenant: UUID, binding: BootstrapBinding) -> None:
    """Bind a device to a bootstrap certificate."""
    named = binding.certificate
    issuer, serial = (named.issuer_spki_sha256, named.serial) if named else (None, None)
    await transaction.execute(_BIND, device, tenant, binding.spki_sha256, issuer, serial)


def _seconds(period: timedelta) -> int:
    return int(period.total_seconds())


def _profile_from(row: Row) -> EnrolmentProfile:
    return EnrolmentProfile(
        id=row["id"],
        tenant=row["tenant_id"],
        name=row["name"],
        mode=EnrolmentMode(row["mode"]),
        authority=row["authority_id"],
        certificate_profile=row["certificate_profile"],
        bootstrap_anchors=tuple(row["bootstrap_anchors"]),
        identifier_pattern=row["identifier_pattern"],
        role_name=row["role_name"],
        expired_may_renew=row["expired_may_renew"],
        previous_grace=timedelta(seconds=row["previous_grace_seconds"]),
        created=row["created_at"],
        proof_of_possession=ProofOfPossession(row["proof_of_possession"]),
        csr_attributes=CsrAttributes(row["csr_attributes"]),
        server_key_generation=None if (made := row["server_key_generation"]) is None else ServerKey(made),
        encrypted_server_keys_only=row["encrypted_server_keys_only"],
    )

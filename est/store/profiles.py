"""Enrolment profiles and bindings in SQL."""

from dataclasses import dataclass
from datetime import timedelta
from uuid import UUID

import asyncpg
import orjson
from pydantic import TypeAdapter

from est.profiles import CsrAttributes, EnrolmentMode, EnrolmentProfile, ProofOfPossession, ServerKey, Settings
from iam.errors import conflict
from iam.listing import FieldKind, ListQuery
from iam.paging import Page
from iam.store.database import Row, Transaction
from iam.store.listing import Column, Listing, page_of_list


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


_COLUMNS = """
    id, tenant_id, name, mode, authority_id, certificate_profile, bootstrap_anchors, identifier_pattern,
    role_name, expired_may_renew, previous_grace_seconds, created_at, proof_of_possession, csr_attributes,
    server_key_generation, encrypted_server_keys_only, title, metadata, additional_anchors,
    renewal_window_seconds, critical_window_seconds, settings, webhook_secret,
    (SELECT path FROM tenant WHERE tenant.id = enrolment_profile.tenant_id) AS tenant_path"""
_PROFILE = f"SELECT {_COLUMNS} FROM enrolment_profile"

_BY_NAME = f"{_PROFILE} WHERE name = $1"


async def find_profile(transaction: Transaction, name: str, *, to_change: bool = False) -> EnrolmentProfile | None:
    """Return the profile of that label, if this transaction may see one.

    Args:
        to_change: Keep others from changing it until the end of the transaction.
    """
    row = await transaction.fetchrow(_BY_NAME + (" FOR UPDATE" if to_change else ""), name)
    return _profile_from(row) if row else None


_COUNT = "SELECT count(*) FROM enrolment_profile WHERE tenant_id = $1"


async def count_profiles(transaction: Transaction, tenant: UUID) -> int:
    """Return how many profiles a tenant has."""
    found: int = await transaction.fetchval(_COUNT, tenant)
    return found


_LISTING = Listing(
    select=_COLUMNS,
    source="FROM enrolment_profile",
    columns={
        "id": Column(FieldKind.TEXT, sql="name"),
        "name": Column(FieldKind.TEXT, sql="title"),
        "creation_ts": Column(FieldKind.DATE, sql="created_at"),
        "registration_mode": Column(
            FieldKind.ENUM,
            values=("JITP", "PRE_REGISTRATION"),
            sql="(CASE mode WHEN 'jitp' THEN 'JITP' ELSE 'PRE_REGISTRATION' END)",
        ),
        "metadata": Column(FieldKind.JSON, sql="metadata"),
    },
    key="id",
)


async def page_of_profiles(transaction: Transaction, tenant: UUID, query: ListQuery) -> Page[EnrolmentProfile]:
    """Return a page of a tenant's profiles; raise `Refused` (malformed) for a query that does not fit."""
    page = await page_of_list(transaction, _LISTING, query, "tenant_id = $1", tenant)
    return Page(tuple(_profile_from(row) for row in page.items), page.next)


_INSERT_PROFILE = """
    INSERT INTO enrolment_profile (id, tenant_id, name, created_at, mode, authority_id, certificate_profile,
                                   bootstrap_anchors, identifier_pattern, role_name, expired_may_renew,
                                   previous_grace_seconds, proof_of_possession, csr_attributes, server_key_generation,
                                   encrypted_server_keys_only, title, metadata, additional_anchors,
                                   renewal_window_seconds, critical_window_seconds, settings, webhook_secret)
    VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16, $17, $18, $19, $20, $21, $22, $23)"""


async def insert_profile(transaction: Transaction, one: EnrolmentProfile) -> None:
    """Store a new profile; raise `Refused` (conflict) if its label is taken, by whichever tenant."""
    try:
        await transaction.execute(_INSERT_PROFILE, one.id, one.tenant, one.name, one.created, *_changeable(one))
    except asyncpg.UniqueViolationError as error:
        raise conflict(f"The label {one.name} is taken.") from error


_UPDATE_PROFILE = """
    UPDATE enrolment_profile
    SET mode = $2, authority_id = $3, certificate_profile = $4, bootstrap_anchors = $5, identifier_pattern = $6,
        role_name = $7, expired_may_renew = $8, previous_grace_seconds = $9, proof_of_possession = $10,
        csr_attributes = $11, server_key_generation = $12, encrypted_server_keys_only = $13, title = $14,
        metadata = $15, additional_anchors = $16, renewal_window_seconds = $17, critical_window_seconds = $18,
        settings = $19, webhook_secret = $20
    WHERE id = $1"""


async def update_profile(transaction: Transaction, one: EnrolmentProfile) -> None:
    """Replace what a profile says; its label and tenant stay."""
    await transaction.execute(_UPDATE_PROFILE, one.id, *_changeable(one))


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


_FIND_BINDING = """
    SELECT spki_sha256, issuer_spki_sha256, serial FROM bootstrap_binding
    WHERE device_identifier = $1 AND tenant_id = $2"""


async def find_binding(transaction: Transaction, device: str, tenant: UUID) -> BootstrapBinding | None:
    """Return which bootstrap certificate a device is bound to, if it is bound."""
    row = await transaction.fetchrow(_FIND_BINDING, device, tenant)
    if row is None:
        return None
    named = None if row["serial"] is None else IssuerAndSerial(row["issuer_spki_sha256"], row["serial"])
    return BootstrapBinding(row["spki_sha256"], named)


_UNBIND = "DELETE FROM bootstrap_binding WHERE device_identifier = $1 AND tenant_id = $2"


async def unbind_bootstrap(transaction: Transaction, device: str, tenant: UUID) -> bool:
    """Take a device's binding away; tell whether there was one."""
    return bool(await transaction.execute(_UNBIND, device, tenant))


_SETTINGS: TypeAdapter[Settings] = TypeAdapter(Settings)


def _changeable(one: EnrolmentProfile) -> tuple[object, ...]:
    """Return what may be changed of a profile, in the order of the statements above."""
    return (
        one.mode,
        one.authority,
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
        one.title,
        orjson.dumps(dict(one.metadata)).decode(),
        list(one.additional_anchors),
        _seconds(one.renewal_window),
        _seconds(one.critical_window),
        _SETTINGS.dump_json(one.settings).decode(),
        one.webhook_secret,
    )


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
        title=row["title"],
        metadata=orjson.loads(row["metadata"]),
        additional_anchors=tuple(row["additional_anchors"]),
        renewal_window=timedelta(seconds=row["renewal_window_seconds"]),
        critical_window=timedelta(seconds=row["critical_window_seconds"]),
        settings=_SETTINGS.validate_json(row["settings"]),
        webhook_secret=row["webhook_secret"],
        tenant_path=tuple(row["tenant_path"]),
    )

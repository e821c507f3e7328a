"""Lists of certificates in SQL: what callers may filter and sort by, and what each word means in columns."""

from uuid import UUID

from ca.inventory import RevocationReason, StoredCertificate
from ca.store.certificates import COLUMNS, certificate_from
from iam.listing import FieldKind, ListQuery
from iam.model import Extent
from iam.paging import Page
from iam.store.database import Transaction
from iam.store.listing import Column, Finder, Listing, page_of_list

# `$2` is now, in every statement made of this list. What each word means is what `ca.search.standing` says.
_STANDING = {
    "ACTIVE": "status = 'active' AND not_after >= $2",
    "EXPIRED": "status <> 'revoked' AND not_after < $2",
    "INACTIVE": "status = 'superseded' AND not_after >= $2",
    "REVOKED": "status = 'revoked'",
}


def reason_shown(reason: RevocationReason) -> str:
    """Return a reason as Lamassu writes it: RFC 5280's name with a capital."""
    return reason.value[0].upper() + reason.value[1:]


CERTIFICATES = Listing(
    select=COLUMNS,
    source="FROM certificate",
    columns={
        "serial_number": Column(FieldKind.HEX, "serial"),
        "subject.common_name": Column(
            FieldKind.TEXT, "common_name", is_nullable=True, finder=Finder("certificates_named_like", "serial")
        ),
        "status": Column(
            FieldKind.ENUM,
            "status",
            values=tuple(_STANDING),
            is_sortable=False,
            meaning=_STANDING,
        ),
        "valid_from": Column(FieldKind.DATE, "not_before"),
        "valid_to": Column(FieldKind.DATE, "not_after"),
        "issuer_meta.id": Column(FieldKind.UUID, "authority_id", is_sortable=False),
        "revocation_timestamp": Column(FieldKind.DATE, "revoked_at", is_nullable=True),
        "revocation_reason": Column(
            FieldKind.ENUM,
            "revocation_reason",
            values=tuple(reason_shown(one) for one in RevocationReason),
            is_nullable=True,
            is_sortable=False,
            meaning={reason_shown(one): f"revocation_reason = '{one.value}'" for one in RevocationReason},
        ),
        "key_id": Column(FieldKind.HEX, "spki_sha256", is_sortable=False),
        "device": Column(FieldKind.TEXT, "device_identifier", is_nullable=True, is_sortable=False),
        "profile": Column(FieldKind.TEXT, "profile", is_sortable=False),
        "metadata": Column(FieldKind.JSON, "metadata"),
    },
    key="serial_number",
)


async def list_certificates(
    transaction: Transaction, tenant: UUID, query: ListQuery, visible: Extent, *, authority: UUID | None
) -> Page[StoredCertificate]:
    """Return a page of a tenant's certificates; those of devices that are not `visible` are left out."""
    where = "tenant_id = $1 AND $2::timestamptz IS NOT NULL"  # PostgreSQL refuses a parameter that nothing uses
    values: list[object] = [tenant, transaction.now]
    if authority is not None:
        values.append(authority)
        where += f" AND authority_id = ${len(values)}"
    if not visible.everything:
        values.append(sorted(visible.names))
        where += f" AND device_identifier = ANY (${len(values)}::text[])"
    page = await page_of_list(transaction, CERTIFICATES, query, where, *values)
    return Page(tuple(certificate_from(row) for row in page.items), page.next)

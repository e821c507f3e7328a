"""The certificates of devices' identities in SQL: what a slot shows of them."""

from collections.abc import Sequence

from iam.identity_slot import SlotCertificate
from iam.store.database import Row, Transaction

_VERSIONS_SHOWN = 20
"""The newest ones; a device that renews each day has thousands in its life."""

_CERTIFICATES = """
    SELECT d.device_identifier, c.serial, c.status, c.supersedes, c.issued_at, c.not_after, c.revoked_at,
           c.revocation_reason, c.version
    FROM device d CROSS JOIN LATERAL (
        SELECT serial, status, supersedes, issued_at, not_after, revoked_at, revocation_reason,
               row_number() OVER (ORDER BY issued_at, serial) - 1 AS version
        FROM certificate
        WHERE device_identifier = d.device_identifier AND identity_id = d.identity_id
        ORDER BY issued_at DESC, serial DESC LIMIT $2) c
    WHERE d.device_identifier = ANY ($1) AND d.identity_id IS NOT NULL
    ORDER BY d.device_identifier, c.version"""


async def certificates_of(transaction: Transaction, devices: Sequence[str]) -> dict[str, list[SlotCertificate]]:
    """Return the newest certificates of devices that have any, oldest first."""
    found: dict[str, list[SlotCertificate]] = {}
    for row in await transaction.fetch(_CERTIFICATES, list(devices), _VERSIONS_SHOWN):
        found.setdefault(row["device_identifier"], []).append(_certificate_from(row))
    return found


def _certificate_from(row: Row) -> SlotCertificate:
    return SlotCertificate(
        version=row["version"],
        serial=row["serial"].hex(),
        is_active=row["status"] == "active",
        is_renewal=row["supersedes"] is not None,
        issued=row["issued_at"],
        expires=row["not_after"],
        revoked=row["revoked_at"],
        reason=row["revocation_reason"],
    )

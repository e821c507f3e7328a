"""Whose a key is, in SQL: an authority's, a device's, or one that nobody believes any more.

The key of an authority that signs here is everybody's to know of. That of an external one is what its tenant says that
it is, and concerns that tenant and those below it alone (`path`, from the top down). So does a certificate that was
taken in.
"""

from collections.abc import Sequence
from uuid import UUID

from ca.trust import DistrustedKey
from iam.store.database import Transaction

_IS_AUTHORITY_KEY = """
    EXISTS (SELECT FROM authority WHERE spki_sha256 = $1)
    OR EXISTS (SELECT FROM authority_standing WHERE external_spki_sha256 = $1 AND tenant_id = ANY ($2::uuid[]))"""
# As `counts_for` of the schema: what was taken in (`ca.record_keeping`) is what its tenant says.
_COUNTS = "(profile <> 'imported' OR tenant_id = ANY ($2::uuid[]))"
_KEY_IS_KNOWN = f"""
    SELECT {_IS_AUTHORITY_KEY}
        OR EXISTS (SELECT FROM device_key WHERE spki_sha256 = $1)
        OR EXISTS (SELECT FROM certificate WHERE spki_sha256 = $1 AND {_COUNTS})"""


async def is_key_known(transaction: Transaction, spki_sha256: bytes, tenant: UUID) -> bool:
    """Tell whether a key is anybody's already, or what this tenant says that it is; ask where every tenant is seen."""
    return bool(await transaction.fetchval(_KEY_IS_KNOWN, spki_sha256, [tenant]))


_KEY_IS_BARRED = f"""
    SELECT {_IS_AUTHORITY_KEY}
        OR EXISTS (SELECT FROM certificate WHERE spki_sha256 = $1 AND status = 'revoked'
                   AND revocation_reason = 'keyCompromise' AND {_COUNTS})"""


async def is_key_barred(transaction: Transaction, spki_sha256: bytes, path: Sequence[UUID]) -> bool:
    """Tell whether a key is an authority's to a tenant, or was compromised; ask where every tenant is seen."""
    return bool(await transaction.fetchval(_KEY_IS_BARRED, spki_sha256, list(path)))


_DISTRUSTED = "SELECT tenant_id, spki_sha256, was_ours, authority, deleted_at FROM distrusted_key"


async def distrusted_keys(transaction: Transaction) -> list[DistrustedKey]:
    """Return the keys of deleted authorities that are distrusted, as far as this transaction sees."""
    return [
        DistrustedKey(row["spki_sha256"], row["tenant_id"], row["was_ours"], row["authority"], row["deleted_at"])
        for row in await transaction.fetch(_DISTRUSTED)
    ]


# Several authorities may have had the key, one after the other: what was said of one that was ours is not taken back.
_DISTRUST = """
    INSERT INTO distrusted_key (tenant_id, spki_sha256, was_ours, authority, deleted_at) VALUES ($1, $2, $3, $4, $5)
    ON CONFLICT (tenant_id, spki_sha256) DO UPDATE
        SET was_ours = distrusted_key.was_ours OR excluded.was_ours, authority = excluded.authority,
            deleted_at = excluded.deleted_at"""


async def insert_distrusted_key(transaction: Transaction, one: DistrustedKey) -> None:
    """Keep a key distrusted whose authority is deleted."""
    await transaction.execute(_DISTRUST, one.tenant, one.spki_sha256, one.was_ours, one.authority, one.deleted)


_PINNED = """
    SELECT p.name, p.bootstrap_anchors || p.additional_anchors AS pinned
    FROM enrolment_profile p JOIN tenant t ON t.id = p.tenant_id
    WHERE $1 = ANY (t.path) ORDER BY p.name"""


async def pinned_by_labels(transaction: Transaction, tenant: UUID) -> list[tuple[str, list[bytes]]]:
    """Return which certificates (DER) the labels of a tenant and of those below it pin; ask where all are seen."""
    return [(row["name"], row["pinned"]) for row in await transaction.fetch(_PINNED, tenant)]

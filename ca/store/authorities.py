"""Authorities in SQL."""

from dataclasses import dataclass
from uuid import UUID

from ca.inventory import AuthorityKind
from ca.keystore import StoredKey
from ca.store.keys import KEY_COLUMNS, key_from
from iam.errors import not_found
from iam.model import SYSTEM_TENANT
from iam.store.database import Transaction


@dataclass(frozen=True, slots=True)
class StoredAuthority:
    """An authority as the store has it, with its key; None where it is known by its certificate alone.

    Attributes:
        list_partitions: Into how many partitions its revocation lists were ever cut, the present number last.
    """

    id: UUID
    name: str
    kind: AuthorityKind
    parent: UUID | None
    certificate: bytes
    spki_sha256: bytes
    key: StoredKey | None
    list_partitions: tuple[int, ...] = (1,)


_LOCK = "SELECT pg_advisory_xact_lock($1)"
_AUTHORITY_LOCK = 0x63610001


async def lock_authorities(transaction: Transaction) -> None:
    """Wait until nobody else makes authorities; others wait until this transaction ends."""
    await transaction.execute(_LOCK, _AUTHORITY_LOCK)


_AUTHORITIES = f"""
    SELECT authority.id AS authority_id, authority.name AS authority_name, kind, parent_id, certificate,
           authority.spki_sha256 AS authority_spki_sha256, list_partitions, {KEY_COLUMNS}
    FROM authority LEFT JOIN kms_key k ON k.id = authority.key_id ORDER BY authority.created_at, authority.name"""


async def list_authorities(transaction: Transaction) -> list[StoredAuthority]:
    """Return all authorities, oldest first."""
    return [
        StoredAuthority(
            row["authority_id"],
            row["authority_name"],
            AuthorityKind(row["kind"]),
            row["parent_id"],
            row["certificate"],
            row["authority_spki_sha256"],
            None if row["id"] is None else key_from(row),
            tuple(row["list_partitions"]),
        )
        for row in await transaction.fetch(_AUTHORITIES)
    ]


_INSERT_AUTHORITY = """
    INSERT INTO authority (id, name, kind, parent_id, certificate, spki_sha256, key_id, created_at)
    VALUES ($1, $2, $3, $4, $5, $6, $7, $8)"""


async def insert_authority(transaction: Transaction, one: StoredAuthority) -> None:
    """Store a new authority, whose key is stored already."""
    await transaction.execute(
        _INSERT_AUTHORITY,
        one.id,
        one.name,
        one.kind,
        one.parent,
        one.certificate,
        one.spki_sha256,
        None if one.key is None else one.key.id,
        transaction.now,
    )


_SYSTEM_TENANT = "SELECT id FROM tenant WHERE name = $1"


async def system_tenant(transaction: Transaction) -> UUID:
    """Return the root tenant, which owns what is nobody else's; raise `Refused` (not found) if it is not made yet."""
    found: UUID | None = await transaction.fetchval(_SYSTEM_TENANT, SYSTEM_TENANT)
    if found is None:
        raise not_found(f"tenant {SYSTEM_TENANT} yet: it is made before the authorities")
    return found

"""Keys in SQL: by id or alias, in a tenant; what uses them; and what seals them."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any
from uuid import UUID

import asyncpg
import orjson

from ca.keystore import Backend, StoredKey
from certs.keys import KeyAlgorithm
from iam.errors import conflict
from iam.listing import FieldKind, FilterQuery, ListQuery, read_filters
from iam.paging import Page
from iam.store.database import Row, Transaction
from iam.store.listing import Column, Listing, counts_of_list, page_of_list

KEY_COLUMNS = """
    k.id, k.tenant_id, k.name, k.tags, k.metadata, k.algorithm, k.bits, k.backend, k.sealed, k.spki, k.spki_sha256,
    k.created_at, k.signed_raw_at, k.leaves_since, k.token,
    ARRAY(SELECT alias FROM kms_key_alias a WHERE a.key_id = k.id ORDER BY position) AS aliases"""

_FIND = f"""
    SELECT {KEY_COLUMNS} FROM kms_key k
    WHERE k.tenant_id = $1
      AND k.id = coalesce($2, (SELECT key_id FROM kms_key_alias a WHERE a.tenant_id = $1 AND a.alias = $3))"""
_FIND_LOCKED = f"{_FIND} FOR UPDATE OF k"


async def find_key(
    transaction: Transaction, tenant: UUID, identifier: UUID | None, alias: str, *, lock: bool = False
) -> StoredKey | None:
    """Return a tenant's key by its id, or where that is None by its alias; held until the end if it is to `lock`."""
    row = await transaction.fetchrow(_FIND_LOCKED if lock else _FIND, tenant, identifier, alias)
    return None if row is None else key_from(row)


_INSERT = """
    INSERT INTO kms_key (id, tenant_id, name, tags, metadata, algorithm, bits, backend, sealed, spki, spki_sha256,
                         created_at, token)
    VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13)"""


async def insert_key(transaction: Transaction, one: StoredKey) -> None:
    """Store a new key; raise `Refused` (conflict) if the same public key is there already, anybody's."""
    try:
        await transaction.execute(
            _INSERT,
            one.id,
            one.tenant,
            one.name,
            list(one.tags),
            orjson.dumps(one.metadata).decode(),
            one.algorithm.value,
            one.bits,
            one.backend,
            one.sealed,
            one.spki,
            one.spki_sha256,
            transaction.now,
            one.token,
        )
    except asyncpg.UniqueViolationError as error:
        raise conflict("This key is here already.") from error


_DESCRIBE = "UPDATE kms_key SET name = $2, tags = $3, metadata = $4 WHERE id = $1"


async def describe_key(transaction: Transaction, one: StoredKey) -> None:
    """Write a key's name, tags and metadata."""
    await transaction.execute(_DESCRIBE, one.id, one.name, list(one.tags), orjson.dumps(one.metadata).decode())


_FORGET_ALIASES = "DELETE FROM kms_key_alias WHERE key_id = $1"
_INSERT_ALIAS = "INSERT INTO kms_key_alias (tenant_id, alias, key_id, position) VALUES ($1, $2, $3, $4)"


async def name_key(transaction: Transaction, one: StoredKey, aliases: Sequence[str]) -> StoredKey:
    """Give a key these aliases and no others; raise `Refused` (conflict) if one of them names another key."""
    await transaction.execute(_FORGET_ALIASES, one.id)
    try:
        for position, alias in enumerate(aliases):
            await transaction.execute(_INSERT_ALIAS, one.tenant, alias, one.id, position)
    except asyncpg.UniqueViolationError as error:
        raise conflict("Another key has one of these aliases.") from error
    return replace(one, aliases=tuple(aliases))


_SIGNED_RAW = "UPDATE kms_key SET signed_raw_at = $2 WHERE id = $1"


async def mark_as_signed_raw(transaction: Transaction, key: UUID) -> None:
    """Note that a key signs what a caller gave: from now on it cannot become an authority's."""
    await transaction.execute(_SIGNED_RAW, key, transaction.now)


_LEAVES = "UPDATE kms_key SET leaves_since = coalesce(leaves_since, $2) WHERE id = $1"


async def mark_as_leaving(transaction: Transaction, key: UUID) -> None:
    """Note that a key is being destroyed in its token: from now on it signs nothing."""
    await transaction.execute(_LEAVES, key, transaction.now)


_DELETE = "DELETE FROM kms_key WHERE id = $1"


async def delete_key(transaction: Transaction, key: UUID) -> None:
    """Forget a key, with its aliases."""
    await transaction.execute(_DELETE, key)


_AUTHORITIES_OF = """
    SELECT name FROM authority WHERE key_id = $1 OR spki_sha256 = $2
    UNION SELECT line FROM authority_request WHERE key_id = $1 ORDER BY 1"""


async def authorities_of_key(transaction: Transaction, one: StoredKey) -> list[str]:
    """Return the names of the authorities that a key is or is to be, by its id or by its public half."""
    return [row["name"] for row in await transaction.fetch(_AUTHORITIES_OF, one.id, one.spki_sha256)]


def key_from(row: Row) -> StoredKey:
    """Return the key of a row with `KEY_COLUMNS`."""
    metadata: dict[str, Any] = orjson.loads(row["metadata"])
    return StoredKey(
        id=row["id"],
        tenant=row["tenant_id"],
        name=row["name"],
        algorithm=KeyAlgorithm(row["algorithm"]),
        bits=row["bits"],
        backend=Backend(row["backend"]),
        sealed=row["sealed"],
        spki=row["spki"],
        spki_sha256=row["spki_sha256"],
        created=row["created_at"],
        aliases=tuple(row["aliases"]),
        tags=tuple(row["tags"]),
        metadata=metadata,
        signed_raw=row["signed_raw_at"],
        leaves_since=row["leaves_since"],
        token=row["token"],
    )


_ALGORITHM_NAME = """
    (CASE WHEN k.algorithm LIKE 'P-%' THEN 'ECDSA'
          WHEN k.algorithm LIKE 'ML-DSA-%' THEN 'ML-DSA' ELSE k.algorithm END)"""
_KEYS = Listing(
    KEY_COLUMNS,
    "FROM kms_key k",
    {
        "key_id": Column(FieldKind.UUID, sql="k.id"),
        "name": Column(FieldKind.TEXT, sql="k.name"),
        "engine_id": Column(FieldKind.TEXT, sql="coalesce(k.token, k.backend)"),
        "algorithm": Column(FieldKind.ENUM, sql=_ALGORITHM_NAME, values=("RSA", "ECDSA", "Ed25519", "ML-DSA")),
        "size": Column(FieldKind.NUMBER, sql="k.bits"),
        "creation_ts": Column(FieldKind.DATE, sql="k.created_at"),
        "aliases": Column(
            FieldKind.TEXTS, sql="ARRAY(SELECT alias FROM kms_key_alias a WHERE a.key_id = k.id)", is_sortable=False
        ),
        "tags": Column(FieldKind.TEXTS, sql="k.tags", is_sortable=False),
        "metadata": Column(FieldKind.JSON, sql="k.metadata"),
    },
    "key_id",
)
_OF_TENANT = "k.tenant_id = $1"


async def page_of_keys(transaction: Transaction, tenant: UUID, query: ListQuery) -> Page[StoredKey]:
    """Return a page of a tenant's keys."""
    page = await page_of_list(transaction, _KEYS, query, _OF_TENANT, tenant)
    return Page(tuple(key_from(row) for row in page.items), page.next)


async def count_keys(transaction: Transaction, tenant: UUID, query: FilterQuery, field: str) -> dict[str, int]:
    """Return how many of a tenant's keys pass the filters, by `engine_id` or `algorithm`."""
    filters = read_filters(query.filter, _KEYS.columns)
    return await counts_of_list(transaction, _KEYS, field, filters, _OF_TENANT, tenant)


_IS_A_DEVICES = "SELECT EXISTS (SELECT FROM device_key WHERE spki_sha256 = $1)"


async def is_key_of_device(transaction: Transaction, spki_sha256: bytes) -> bool:
    """Tell whether a device has, or ever had, this key; sees every tenant's devices only in a transaction that does."""
    return bool(await transaction.fetchval(_IS_A_DEVICES, spki_sha256))


_FILE_KEYS = f"SELECT {KEY_COLUMNS} FROM kms_key k WHERE k.backend = 'file' ORDER BY k.id"


async def file_keys(transaction: Transaction) -> list[StoredKey]:
    """Return the keys that lie in files, which may be away."""
    return [key_from(row) for row in await transaction.fetch(_FILE_KEYS)]

"""The keys that sign tokens in SQL; they belong to the installation, not to a tenant."""

from collections.abc import Sequence

import orjson

from iam.keyset import TokenKey
from iam.store.database import Transaction

_ALL = "SELECT kid, public_jwk, sealed, created_at, signs_from, verifies_to FROM token_key ORDER BY created_at"


async def all_token_keys(transaction: Transaction) -> list[TokenKey]:
    """Return every key, oldest first."""
    return [
        TokenKey(
            row["kid"],
            orjson.loads(row["public_jwk"]),
            row["sealed"],
            row["created_at"],
            row["signs_from"],
            row["verifies_to"],
        )
        for row in await transaction.fetch(_ALL)
    ]


_INSERT = """
    INSERT INTO token_key (kid, public_jwk, sealed, created_at, signs_from, verifies_to)
    VALUES ($1, $2, $3, $4, $5, $6)"""


async def insert_token_key(transaction: Transaction, key: TokenKey) -> None:
    """Store a new key."""
    await transaction.execute(
        _INSERT,
        key.kid,
        orjson.dumps(key.public_jwk).decode(),
        key.sealed,
        key.created,
        key.signs_from,
        key.verifies_to,
    )


_DELETE = "DELETE FROM token_key WHERE kid = ANY ($1)"


async def delete_token_keys(transaction: Transaction, kids: Sequence[str]) -> None:
    """Delete keys that verify nothing any more."""
    await transaction.execute(_DELETE, list(kids))


_LOCK = "SELECT pg_advisory_xact_lock(7)"


async def lock_token_keys(transaction: Transaction) -> None:
    """Hold off every other rotation until this transaction ends."""
    await transaction.execute(_LOCK)

"""What is sealed in the database, whatever table it stands in: found by the master key that sealed it, and sealed anew.

Which columns there are is declared by whoever wires the node (`doorward.rotation`); names of tables and columns come
from there and from nowhere else.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from iam.sealing import sealed_head
from iam.store.database import Transaction

_ID_BYTES = 8


@dataclass(frozen=True, slots=True)
class SealedColumn:
    """A column of sealed values.

    Attributes:
        key: The primary key of the table.
        context: What a value is sealed for, from its row's key.
    """

    table: str
    key: str
    column: str
    context: Callable[[Any], str]

    @property
    def name(self) -> str:
        """Table and column."""
        return f"{self.table}.{self.column}"


@dataclass(frozen=True, slots=True)
class SealedValue:
    """A sealed value and the key of its row."""

    key: Any
    sealed: bytes


async def sealed_by(
    transaction: Transaction,
    where: SealedColumn,
    secret: bytes,
    after: Any,  # noqa: ANN401 - a key
    limit: int,
) -> list[SealedValue]:
    """Return what the secret of this id sealed, in the order of the keys, locked until the end of the transaction."""
    rows = await transaction.fetch(
        f"SELECT {where.key} AS key, {where.column} AS sealed FROM {where.table}"
        f" WHERE substring({where.column} FROM 1 FOR $1) = $2 {'' if after is None else f'AND {where.key} > $4'}"
        f" ORDER BY {where.key} LIMIT $3 FOR UPDATE",
        len(sealed_head(secret)),
        sealed_head(secret),
        limit,
        *(() if after is None else (after,)),
    )
    return [SealedValue(row["key"], row["sealed"]) for row in rows]


async def replace_sealed(transaction: Transaction, where: SealedColumn, key: Any, sealed: bytes) -> None:  # noqa: ANN401 - a key
    """Put the value, sealed anew, in the place of a locked one."""
    await transaction.execute(f"UPDATE {where.table} SET {where.column} = $2 WHERE {where.key} = $1", key, sealed)


async def count_by_secret(transaction: Transaction, where: SealedColumn) -> dict[bytes, int]:
    """Return how many values there are, by the id of the secret that sealed them."""
    rows = await transaction.fetch(
        f"SELECT substring({where.column} FROM 2 FOR {_ID_BYTES}) AS secret, count(*) AS number FROM {where.table}"
        f" WHERE octet_length({where.column}) > {_ID_BYTES} GROUP BY 1"
    )
    return {row["secret"]: row["number"] for row in rows}

"""Decryption keys in SQL."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime
from uuid import UUID

from iam.store.database import Row, Transaction


@dataclass(frozen=True, slots=True)
class KeyHolder:
    """Whose a decryption key is: a label's, or a device's; just one of the two is there."""

    label: str | None = None
    device: str | None = None


@dataclass(frozen=True, slots=True)
class StoredDecryptionKey:
    """A row: either the sealed secret is there, or the certificate in DER."""

    id: UUID
    identifier: bytes
    secret_sealed: bytes | None = field(repr=False)
    certificate: bytes | None
    created: datetime


_COLUMNS = "SELECT id, key_identifier, secret_sealed, certificate, created_at FROM decryption_key"
_OF_HOLDER = "label IS NOT DISTINCT FROM $1 AND device_identifier IS NOT DISTINCT FROM $2"

_FIND = f"""{_COLUMNS} WHERE key_identifier = $3 AND (label = $1 OR device_identifier = $2)
    ORDER BY device_identifier NULLS LAST LIMIT 1"""


async def find_decryption_key(
    transaction: Transaction, label: str, device: str, identifier: bytes
) -> StoredDecryptionKey | None:
    """Return the device's own key of that identifier, else the label's."""
    row = await transaction.fetchrow(_FIND, label, device, identifier)
    return _key_from(row) if row else None


_DELETE = f"DELETE FROM decryption_key WHERE {_OF_HOLDER} AND key_identifier = $3"


async def delete_decryption_key(transaction: Transaction, holder: KeyHolder, identifier: bytes) -> bool:
    """Delete a key; tell whether there was one."""
    return await transaction.execute(_DELETE, holder.label, holder.device, identifier) > 0


_INSERT = """
    INSERT INTO decryption_key (id, tenant_id, label, device_identifier, key_identifier, secret_sealed, certificate,
                                created_at)
    VALUES ($1, $2, $3, $4, $5, $6, $7, $8)"""


async def put_decryption_key(
    transaction: Transaction, tenant: UUID, holder: KeyHolder, one: StoredDecryptionKey
) -> None:
    """Store a key, in the place of one of the same identifier."""
    await delete_decryption_key(transaction, holder, one.identifier)
    await transaction.execute(
        _INSERT,
        one.id,
        tenant,
        holder.label,
        holder.device,
        one.identifier,
        one.secret_sealed,
        one.certificate,
        one.created,
    )


_LIST = f"{_COLUMNS} WHERE {_OF_HOLDER} ORDER BY key_identifier"


async def list_decryption_keys(transaction: Transaction, holder: KeyHolder) -> Sequence[StoredDecryptionKey]:
    """Return a holder's keys."""
    return [_key_from(row) for row in await transaction.fetch(_LIST, holder.label, holder.device)]


_COUNT = f"SELECT count(*) FROM decryption_key WHERE {_OF_HOLDER}"


async def count_decryption_keys(transaction: Transaction, holder: KeyHolder) -> int:
    """Return how many keys a holder has."""
    count: int = await transaction.fetchval(_COUNT, holder.label, holder.device)
    return count


def _key_from(row: Row) -> StoredDecryptionKey:
    return StoredDecryptionKey(
        row["id"], row["key_identifier"], row["secret_sealed"], row["certificate"], row["created_at"]
    )

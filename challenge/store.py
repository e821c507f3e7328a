"""Nonces that were answered, in SQL."""

from datetime import datetime

from challenge.nonce import Nonce
from iam.store.database import Transaction

_BURN = "INSERT INTO used_nonce (nonce, expires_at) VALUES ($1, $2) ON CONFLICT DO NOTHING"
_PURGE = "DELETE FROM used_nonce WHERE expires_at < $1"


async def burn(transaction: Transaction, nonce: Nonce) -> bool:
    """Use up a nonce: of a hundred at once, one does. Tell whether this was the one."""
    return bool(await transaction.execute(_BURN, nonce.value, nonce.expires))


async def purge(transaction: Transaction, before: datetime) -> int:
    """Forget nonces whose challenges expired before that; return how many."""
    return await transaction.execute(_PURGE, before)

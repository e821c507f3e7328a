"""Deleting authorities in SQL: what goes with one, and what keeps it here."""

from uuid import UUID

import asyncpg

from iam.errors import conflict
from iam.store.database import Transaction

_FORGET_CERTIFICATE = "DELETE FROM certificate WHERE serial = $1 AND authority_id = $2"
_FORGET_PUBLISHED = (
    "DELETE FROM revocation_list WHERE authority_id = $1",
    "DELETE FROM revocation WHERE authority_id = $1",
    "DELETE FROM status_responder WHERE authority_id = $1",
    "DELETE FROM certificate WHERE authority_id = $1 AND profile = 'responder'",
)
_FORGET_SERIAL = "UPDATE authority_standing SET serial = NULL WHERE authority_id = $1"
_DELETE = "DELETE FROM authority WHERE id = $1"
_DELETE_KEY = "DELETE FROM kms_key WHERE id = $1"


async def delete_with_key(transaction: Transaction, authority: UUID, serial: bytes, key: UUID) -> None:
    """Delete an authority that nothing depends on, with its key; raise `Refused` (conflict) if something does.

    What it issued must stay revocable, so one that ever issued for others stays.
    """
    try:
        # A root's own certificate is the one that it issued itself.
        await transaction.execute(_FORGET_SERIAL, authority)
        await transaction.execute(_FORGET_CERTIFICATE, serial, authority)
        for statement in _FORGET_PUBLISHED:
            await transaction.execute(statement, authority)
        await transaction.execute(_DELETE, authority)
        await transaction.execute(_DELETE_KEY, key)
    except asyncpg.ForeignKeyViolationError as error:
        raise conflict("The authority has issued certificates, or a label names it: it stays.") from error

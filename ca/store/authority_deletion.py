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
# A key that was made for an authority or a request has its id; any other stays, as one in a token does.
_FORGET_REQUEST = """
    DELETE FROM authority_request r USING authority a WHERE a.id = $1 AND r.key_id = a.key_id RETURNING r.id"""
_DELETE = "DELETE FROM authority WHERE id = $1"
_DELETE_KEY = "DELETE FROM kms_key WHERE id = ANY ($1::uuid[])"


async def delete_with_key(transaction: Transaction, authority: UUID, serial: bytes) -> None:
    """Delete an authority that nothing depends on, with the key and the request that were made for it.

    What it issued must stay revocable, so one that ever issued for others stays.

    Raises:
        Refused: (conflict) Something depends on it.
    """
    try:
        # A root's own certificate is the one that it issued itself.
        await transaction.execute(_FORGET_SERIAL, authority)
        await transaction.execute(_FORGET_CERTIFICATE, serial, authority)
        for statement in _FORGET_PUBLISHED:
            await transaction.execute(statement, authority)
        request = await transaction.fetchval(_FORGET_REQUEST, authority)
        await transaction.execute(_DELETE, authority)
        await transaction.execute(_DELETE_KEY, [authority, request])
    except asyncpg.ForeignKeyViolationError as error:
        raise conflict("The authority has issued certificates, or a label names it: it stays.") from error

"""Sessions and refresh tokens in SQL."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

from iam.clock import CLOCK_MAY_GO_BACK
from iam.store.database import Transaction

_INSERT_SESSION = """
    INSERT INTO session (id, identity_id, tenant_id, client_id, amr, created_at, expires_at)
    VALUES ($1, $2, $3, $4, $5, $6, $7)"""


@dataclass(frozen=True, slots=True)
class Session:
    """A proof of identity and what came of it: one or more tokens, ended together."""

    id: UUID
    identity: str
    tenant: UUID
    client_id: str
    methods: tuple[str, ...]
    created: datetime
    expires: datetime


async def insert_session(transaction: Transaction, session: Session) -> None:
    """Store a new session."""
    await transaction.execute(
        _INSERT_SESSION,
        session.id,
        session.identity,
        session.tenant,
        session.client_id,
        list(session.methods),
        session.created,
        session.expires,
    )


_REVOKE_SESSION = "UPDATE session SET revoked_at = $2 WHERE id = $1 AND revoked_at IS NULL"


async def revoke_session(transaction: Transaction, session: UUID) -> bool:
    """End a session before its time; tell whether it was still open."""
    return bool(await transaction.execute(_REVOKE_SESSION, session, transaction.now))


_OPEN = "SELECT id FROM session WHERE id = ANY ($1) AND revoked_at IS NULL"


async def open_sessions(transaction: Transaction, sessions: Sequence[UUID]) -> frozenset[UUID]:
    """Return those of these sessions that are there and were not ended; their time may be over."""
    return frozenset(row["id"] for row in await transaction.fetch(_OPEN, sessions))


_INSERT_REFRESH = """
    INSERT INTO refresh_token (token_sha256, session_id, tenant_id, issued_at, expires_at)
    VALUES ($1, $2, $3, $4, $5)"""


async def insert_refresh_token(
    transaction: Transaction, token_sha256: bytes, session: Session, expires: datetime
) -> None:
    """Store a refresh token by its hash."""
    await transaction.execute(_INSERT_REFRESH, token_sha256, session.id, session.tenant, transaction.now, expires)


@dataclass(frozen=True, slots=True)
class RefreshToken:
    """A refresh token that was presented, as it stands after the attempt to use it.

    Attributes:
        used_now: Whether this very statement used it up.
        used: When it was used up, by this statement or an earlier one.
        successor_sealed: What was given for it, sealed, for a client that lost the answer.
    """

    session: Session
    session_revoked: bool
    used_now: bool
    used: datetime | None
    expires: datetime
    successor_sealed: bytes | None


_USE_REFRESH = """
    UPDATE refresh_token SET used_at = $2, successor_sealed = $3
    WHERE token_sha256 = $1 AND used_at IS NULL AND expires_at > $2"""

# A statement of its own, so that it sees what a concurrent use has committed meanwhile.
_REFRESH = """
    SELECT r.used_at, r.expires_at, r.successor_sealed,
           s.id, s.identity_id, s.tenant_id, s.client_id, s.amr, s.created_at, s.expires_at AS session_expires_at,
           s.revoked_at
    FROM refresh_token r JOIN session s ON s.id = r.session_id
    WHERE r.token_sha256 = $1"""


async def use_refresh_token(
    transaction: Transaction, token_sha256: bytes, successor_sealed: bytes
) -> RefreshToken | None:
    """Use up a refresh token: of a hundred at once, one does. None if there is no such token."""
    used_now = bool(await transaction.execute(_USE_REFRESH, token_sha256, transaction.now, successor_sealed))
    row = await transaction.fetchrow(_REFRESH, token_sha256)
    if row is None:
        return None
    return RefreshToken(
        session=Session(
            row["id"],
            row["identity_id"],
            row["tenant_id"],
            row["client_id"],
            tuple(row["amr"]),
            row["created_at"],
            row["session_expires_at"],
        ),
        session_revoked=row["revoked_at"] is not None,
        used_now=used_now,
        used=row["used_at"],
        expires=row["expires_at"],
        successor_sealed=row["successor_sealed"],
    )


_EXTEND_SESSION = "UPDATE session SET expires_at = $2 WHERE id = $1 AND expires_at < $2"


async def extend_session(transaction: Transaction, session: UUID, expires: datetime) -> None:
    """Let a session last as long as the newest token in it."""
    await transaction.execute(_EXTEND_SESSION, session, expires)


_PURGE = (
    "DELETE FROM refresh_token WHERE expires_at < $1",
    "DELETE FROM session WHERE expires_at < $1",
    "DELETE FROM throttle WHERE forgotten_at < $1",
    "DELETE FROM invitation WHERE expires_at < $1",
)


async def purge(transaction: Transaction) -> int:
    """Delete what expired long enough ago; return how many rows went."""
    before = transaction.now - CLOCK_MAY_GO_BACK
    return sum([await transaction.execute(statement, before) for statement in _PURGE])

"""The throttle in SQL: one row an account or address, shared by all nodes."""

from dataclasses import dataclass
from datetime import datetime, timedelta

from iam.store.database import Transaction


@dataclass(frozen=True, slots=True)
class Account:
    """What attempts are charged to, and how many failures it has free."""

    key: str
    free: int


# Of many at once each sees what the one before has written; one that has to wait changes nothing and gets no row.
# Nobody waits longer than the longest wait: such a row was written by a clock that was ahead.
_CHARGE = """
    INSERT INTO throttle AS t (key, failures, blocked_until, forgotten_at)
    VALUES ($1, 1, $2::timestamptz, $2::timestamptz + $5::interval)
    ON CONFLICT (key) DO UPDATE SET
        failures = CASE WHEN t.forgotten_at < $2::timestamptz THEN 1 ELSE t.failures + 1 END,
        blocked_until = CASE
            WHEN t.forgotten_at < $2::timestamptz OR t.failures < $3::integer THEN $2::timestamptz
            ELSE $2::timestamptz
                 + least(power(2, least(t.failures - $3::integer, 30)) * interval '1 second', $4::interval) END,
        forgotten_at = $2::timestamptz + $5::interval
    WHERE t.blocked_until <= $2::timestamptz OR t.blocked_until > $2::timestamptz + $4::interval
    RETURNING failures"""
_BLOCKED_UNTIL = "SELECT blocked_until FROM throttle WHERE key = $1 AND blocked_until > $2"
_FORGET = "DELETE FROM throttle WHERE key = $1"
_GIVE_BACK = "UPDATE throttle SET failures = failures - 1, blocked_until = $2 WHERE key = $1 AND failures > 0"


async def charge(
    transaction: Transaction, account: Account, *, longest: timedelta, memory: timedelta
) -> datetime | None:
    """Charge one attempt; return until when the account has to wait, if it has to: nothing is charged then."""
    values = (account.key, transaction.now, account.free, longest, memory)
    if await transaction.fetchval(_CHARGE, *values) is not None:
        return None
    until: datetime | None = await transaction.fetchval(_BLOCKED_UNTIL, account.key, transaction.now)
    return until


async def forget(transaction: Transaction, account: Account) -> None:
    """Forget an account's failures."""
    await transaction.execute(_FORGET, account.key)


async def give_back(transaction: Transaction, account: Account) -> None:
    """Take one attempt back, and the wait that it brought."""
    await transaction.execute(_GIVE_BACK, account.key, transaction.now)

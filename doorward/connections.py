"""Connections to PostgreSQL: asyncpg's pool, and in front of it those that were used last.

The rules:

1. asyncpg makes two tasks for each use of its pool. What was used last and is whole is therefore kept at hand, so that
   the next use neither waits nor makes a task.
2. Only a connection whose use ended well is kept. One that was interrupted, broke, or holds a transaction goes back to
   the pool, which knows how to clean it up or to replace it.
3. Whoever waits for the pool comes before what is kept: while anybody waits, connections go back there.
4. Few are kept: what a burst has opened, the pool closes when it has been idle for a while.
"""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import asyncpg

_KEPT = 4


class Connections:
    """What a pool has, one use at a time."""

    def __init__(self, pool: Any, *, wait_seconds: float) -> None:  # noqa: ANN401 - asyncpg has no types
        self._pool = pool
        self._wait_seconds = wait_seconds
        self._at_hand: list[Any] = []
        self._waiting = 0

    @asynccontextmanager
    async def one(self) -> AsyncIterator[Any]:
        """Lend a connection; raise TimeoutError if none comes free in time, and what asyncpg raises."""
        connection = await self._take()
        is_well = False
        try:
            yield connection
            is_well = is_usable(connection) and not connection.is_in_transaction()
        finally:
            if is_well and not self._waiting and len(self._at_hand) < _KEPT:
                self._at_hand.append(connection)
            else:
                await self._pool.release(connection)

    async def close(self) -> None:
        """Close all, each as soon as nobody uses it."""
        while self._at_hand:
            await self._pool.release(self._at_hand.pop())
        self._waiting += 1  # for ever: what comes back goes to the pool (rule 3), which is waiting for it
        await self._pool.close()

    async def _take(self) -> Any:  # noqa: ANN401 - asyncpg has no types
        while self._at_hand:
            connection = self._at_hand.pop()
            if is_usable(connection):
                return connection
            await self._pool.release(connection)
        self._waiting += 1
        try:
            return await self._pool.acquire(timeout=self._wait_seconds)
        finally:
            self._waiting -= 1


def is_usable(connection: Any) -> bool:  # noqa: ANN401 - asyncpg has no types
    """Tell whether a connection can still be asked; one that broke was taken back by the pool already."""
    try:
        return not connection.is_closed()
    except asyncpg.InterfaceError:
        return False

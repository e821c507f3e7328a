"""The relay: what was committed is published, by one node at a time.

It wakes when a writer says so, and every second anyway; publishes what waits in the order in which it happened; takes
out what NATS has stored; and beats, so that every listener knows that nothing is missing.
"""

import asyncio
import logging

from doorward.bus import Bus
from doorward.jobs import Leader
from iam.errors import Refused
from iam.store.database import EVERYWHERE, Database
from iam.store.journal import forget_published, waiting_events

_BATCH = 500
_PAUSE_SECONDS = 1.0

_log = logging.getLogger("doorward.outbox")


class Relay:
    """Moves events from the outbox to NATS while this worker is the leader."""

    def __init__(self, database: Database, bus: Bus, leader: Leader) -> None:
        self._database = database
        self._bus = bus
        self._leader = leader
        self._wake = asyncio.Event()
        bus.on_wake(self._wake.set)

    async def run(self) -> None:
        """Relay until cancelled."""
        while True:
            self._wake.clear()
            if self._leader.leads and self._bus.is_connected:
                try:
                    while await self._publish_batch() == _BATCH:
                        pass
                    await self._bus.beat()
                except Refused as error:
                    _log.warning("events wait: %s", error.reason)
                except Exception:  # noqa: BLE001 - events wait and the feed goes silent, but the worker serves on
                    _log.exception("events wait")
            try:
                async with asyncio.timeout(_PAUSE_SECONDS):
                    await self._wake.wait()
            except TimeoutError:
                continue

    async def _publish_batch(self) -> int:
        # Everywhere: the outbox is the node's own.
        async with self._database.transaction(EVERYWHERE) as transaction:
            events = await waiting_events(transaction, _BATCH)
        if not events:
            return 0
        for event in events:
            await self._bus.publish_event(event)
        async with self._database.transaction(EVERYWHERE) as transaction:
            await forget_published(transaction, events)
        return len(events)

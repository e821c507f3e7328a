"""The relay: what was committed is published, by one node at a time.

The rules:

1. It wakes when a writer says so, and every second anyway.
2. What nodes act on (`iam.events.is_for_nodes`) goes first, however much else waits; within each of the two, changes go
   in the order in which their transactions began, and those of one transaction in the order in which they were made.
3. A batch is published together and its acknowledgements are awaited together. Before that the workers are told of
   what they act on; what they cannot be told is not published either. What NATS has stored is taken out; what it has
   not is told and published again, and stored once.
4. It beats when all of the first kind that was committed is out: that is all that listeners must not miss. So it beats
   also while much of the second kind waits.
"""

import asyncio
import logging
from collections.abc import Sequence

from doorward.bus import Bus
from doorward.jobs import Leader
from iam.errors import Kind, Refused
from iam.events import Event, is_for_nodes
from iam.store.database import EVERYWHERE, Database
from iam.store.journal import forget_published, waiting_events

_BATCH = 200
"""Few enough that a slow disk stores them within the time that one publication is given."""

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
                    while await self._publish_batch():
                        pass
                except Refused as error:
                    _log.warning("events wait: %s", error.reason)
                except Exception:  # noqa: BLE001 - events wait and the feed goes silent, but the worker serves on
                    _log.exception("events wait")
            try:
                async with asyncio.timeout(_PAUSE_SECONDS):
                    await self._wake.wait()
            except TimeoutError:
                continue

    async def _publish_batch(self) -> bool:
        """Publish what is first now, beat if rule 4 allows it, and tell whether more may wait."""
        # Everywhere: the outbox is the node's own.
        async with self._database.transaction(EVERYWHERE) as transaction:
            events = await waiting_events(transaction, _BATCH)
        if events:
            await self._publish(events)
        is_full = len(events) == _BATCH
        if not is_full or not is_for_nodes(events[-1].kind, events[-1].data):
            await self._bus.beat()
        return is_full and self._leader.leads

    async def _publish(self, events: Sequence[Event]) -> None:
        for event in events:
            if is_for_nodes(event.kind, event.data):
                await self._bus.tell(event)
        stored = await self._bus.store(events)
        if stored:
            async with self._database.transaction(EVERYWHERE) as transaction:
                await forget_published(transaction, stored)
        if len(stored) < len(events):
            missing = len(events) - len(stored)
            raise Refused(Kind.UNAVAILABLE, "NATS is not reachable.", reason=f"{missing} events were not stored")

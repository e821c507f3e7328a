"""The watch over live connections: kept by the worker that leads, handed over without a gap.

The rules:

1. Only the leader watches: what it holds grows with the number of connections, and once is enough.
2. Whoever begins to watch, or may have missed events, looks at every connection and then acts again on all that has
   touched anybody's access in the last minutes. Acting twice does no harm: a client that may connect is back at once.
3. While that cannot be done, it is tried again until it is; a duty that has gone elsewhere is given back all the same.
"""

import asyncio
import contextlib
import logging
from datetime import timedelta

from callout.broker import Watch
from doorward.bus import Bus
from doorward.jobs import Leader
from iam.errors import Refused
from iam.events import Event
from iam.identifiers import Clock
from iam.store.database import EVERYWHERE, Database
from iam.store.journal import recent_effects

LOOK_BACK = timedelta(minutes=2)
"""Longer than it takes for another worker to lead and to reach the brokers."""

_PAUSE_SECONDS = 0.2
_QUEUE = 10_000

_log = logging.getLogger("doorward.watching")


class WatchDuty:
    """Runs the watch while this worker leads."""

    def __init__(self, watch: Watch, leader: Leader, bus: Bus, database: Database, clock: Clock) -> None:
        self._watch = watch
        self._leader = leader
        self._database = database
        self._clock = clock
        self._events: asyncio.Queue[Event] = asyncio.Queue(_QUEUE)
        self._may_have_missed = False
        self._on_duty = False
        self._has_warned = False
        bus.on_event(self._take)
        bus.on_gap(self._note_gap)

    async def run(self) -> None:
        """Watch whenever it is this worker's duty, until cancelled."""
        try:
            while True:
                if self._leader.leads and not self._on_duty:
                    await self._begin()
                elif self._on_duty and not self._leader.leads:
                    await self._end()
                if self._on_duty and self._may_have_missed:
                    await self._catch_up()
                await self._hear_next()
        finally:
            if self._on_duty:
                await self._end()

    async def _begin(self) -> None:
        self._on_duty = True  # events are kept from here on
        self._may_have_missed = True
        await self._watch.start()

    async def _end(self) -> None:
        self._on_duty = False
        await self._watch.stop()
        while not self._events.empty():
            self._events.get_nowait()

    async def _catch_up(self) -> None:
        self._may_have_missed = False
        try:
            # Everywhere: connections of all tenants are watched.
            async with self._database.transaction(EVERYWHERE) as transaction:
                events = await recent_effects(transaction, self._clock() - LOOK_BACK)
            await self._watch.sweep()
            for event in events:
                await self._watch.heard(event)
        except Refused as refusal:
            _log.log(
                logging.DEBUG if self._has_warned else logging.WARNING,
                "connections cannot be looked at now: %s",
                refusal.reason,
            )
            self._may_have_missed = self._has_warned = True
        else:
            self._has_warned = False

    async def _hear_next(self) -> None:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_PAUSE_SECONDS):
                event = await self._events.get()
            await self._watch.heard(event)

    def _take(self, event: Event) -> None:
        if not self._on_duty or not event.effects:
            return
        try:
            self._events.put_nowait(event)
        except asyncio.QueueFull:
            self._may_have_missed = True

    def _note_gap(self) -> None:
        self._may_have_missed = True

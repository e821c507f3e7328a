"""The watch over live connections: kept by the worker that leads, handed over without a gap.

The rules:

1. Only the leader watches: what it holds grows with the number of connections, and once is enough.
2. Whoever begins to watch looks at every connection, and asks the store whether what each was let in by still holds:
   so nothing that happened before is missed. He looks again at all of them when events may have been missed.
3. What is heard over NATS is acted on at once. It may be late or lost; so the journal is read every `JOURNAL_SECONDS`
   too, from where it was read last, and what was not heard yet is heard now. The journal is the truth: nothing succeeds
   for longer than that because of NATS.
4. Nothing that takes long holds up what comes after it: what waits together is acted on together, beside what is under
   way already. What touches everybody takes long: it stands in a line of its own, so that, however much of it comes,
   what ends one's right does not wait for it.
5. While brokers or the store cannot be asked, it is tried again until they can; a duty that has gone elsewhere is given
   back all the same.
"""

import asyncio
import logging
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Sequence
from uuid import UUID

from callout.broker.watch import Watch
from doorward.bus import Bus
from doorward.jobs import Leader
from iam.errors import Refused
from iam.events import Affected, Event
from iam.store.database import EVERYWHERE, Database
from iam.store.journal import chained_until, effects_after

JOURNAL_SECONDS = 1.0

_PAUSE_SECONDS = 0.2
_UNDER_WAY = 8
"""Batches of events that name whom they touch; of the others there is one (rule 4)."""

_REMEMBERED = 50_000

_log = logging.getLogger("doorward.watching")


class _Line:
    """Events that wait to be acted on."""

    def __init__(self) -> None:
        self._events: list[Event] = []
        self._has_come = asyncio.Event()

    def add(self, event: Event) -> None:
        self._events.append(event)
        self._has_come.set()

    async def all(self) -> list[Event]:
        """Wait until there are some, and take them out."""
        await self._has_come.wait()
        events = self._events
        self.clear()
        return events

    def clear(self) -> None:
        self._events = []
        self._has_come.clear()


class WatchDuty:
    """Runs the watch while this worker leads.

    Args:
        take_in: Applies an event to what this worker remembers; what the bus brings is applied already.
    """

    def __init__(
        self, watch: Watch, leader: Leader, bus: Bus, database: Database, take_in: Callable[[Event], None]
    ) -> None:
        self._watch = watch
        self._leader = leader
        self._database = database
        self._take_in = take_in
        self._on_duty = False
        self._named = _Line()
        self._of_all = _Line()
        self._taken: OrderedDict[UUID, None] = OrderedDict()
        self._may_have_missed = asyncio.Event()
        self._silent: set[str] = set()
        bus.on_event(self._take)
        bus.on_gap(self._may_have_missed.set)

    async def run(self) -> None:
        """Watch whenever it is this worker's duty, until cancelled."""
        while True:
            if self._leader.leads:
                await self._keep_watch()
            await asyncio.sleep(_PAUSE_SECONDS)

    async def _keep_watch(self) -> None:
        """Watch until another leads."""
        self._on_duty = True  # events are kept from here on
        tasks = []
        try:
            # To begin is to look at all, which may take long: what is heard meanwhile does not wait for that (rule 4).
            acts = (self._act(self._named, _UNDER_WAY), self._act(self._of_all, 1), self._follow_journal())
            tasks = [asyncio.create_task(each) for each in acts]
            await self._watch.start()
            tasks.append(asyncio.create_task(self._look_at_all()))
            while self._leader.leads:  # noqa: ASYNC110 - whether it does is found out by asking
                await asyncio.sleep(_PAUSE_SECONDS)
        finally:
            self._on_duty = False
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            await self._watch.stop()
            self._named.clear()
            self._of_all.clear()

    def _take(self, event: Event) -> None:
        """Keep an event that is to be acted on, unless it was kept before."""
        if not self._on_duty or not event.effects or event.id in self._taken:
            return
        self._taken[event.id] = None
        if len(self._taken) > _REMEMBERED:
            self._taken.popitem(last=False)
        names_somebody = any(effect.kind is Affected.IDENTITY for effect in event.effects)
        (self._named if names_somebody else self._of_all).add(event)

    async def _act(self, line: _Line, at_once: int) -> None:
        """Act on what has come (rule 4)."""
        under_way: set[asyncio.Task[None]] = set()
        try:
            while True:
                events = await line.all()
                under_way.add(asyncio.create_task(self._act_on(events)))
                if len(under_way) >= at_once:
                    await asyncio.wait(under_way, return_when=asyncio.FIRST_COMPLETED)
                under_way = {task for task in under_way if not task.done()}
        finally:
            for task in under_way:
                task.cancel()

    async def _act_on(self, events: Sequence[Event]) -> None:
        if not await self._attempt("acting on events", self._watch.heard(*events)):
            self._may_have_missed.set()

    async def _follow_journal(self) -> None:
        """Hear what NATS has not brought (rule 3)."""
        position: int | None = None

        async def read() -> None:
            nonlocal position
            async with self._database.transaction(EVERYWHERE) as transaction:  # connections of all tenants are watched
                if position is None:
                    position = await chained_until(transaction)
                    self._may_have_missed.set()  # what came before this line is seen by looking at all, after it
                events, position = await effects_after(transaction, position)
            for event in events:
                if event.id not in self._taken:
                    self._take_in(event)
                    self._take(event)

        while True:
            await self._attempt("reading the journal", read())
            await asyncio.sleep(JOURNAL_SECONDS)

    async def _look_at_all(self) -> None:
        """Look at every connection when events may have been missed (rule 2), until that succeeds (rule 5)."""
        while True:
            await self._may_have_missed.wait()
            self._may_have_missed.clear()
            if not await self._attempt("looking at all connections", self._watch.sweep()):
                self._may_have_missed.set()
                await asyncio.sleep(_PAUSE_SECONDS)

    async def _attempt(self, what: str, work: Awaitable[None]) -> bool:
        """Do something and tell whether it succeeded; the first failure of a row stands in the log as a warning."""
        try:
            await work
        except Refused as refusal:
            level = logging.DEBUG if what in self._silent else logging.WARNING
            _log.log(level, "%s has to wait: %s", what, refusal.reason)
            self._silent.add(what)
        except Exception:  # noqa: BLE001 - it is logged whole, and what comes next is tried all the same
            _log.exception("%s failed", what)
        else:
            self._silent.discard(what)
            return True
        return False

"""Live access in memory: what each identity may do now, read once and dropped when an event says that it changed.

The rules:

1. A standing is read from the store on a miss; requests for the same identity at once share one read.
2. An event drops every standing that it touches. A read that was under way when an event came is done again.
3. While the feed of events is healthy a standing lives `AGE_LIMIT`; while it is not, `AGE_LIMIT_UNFED`, so that a
   change takes effect within seconds also with NATS down.
4. At most `capacity` standings are held; the one asked for longest ago leaves first.
"""

import asyncio
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from iam.access import Access, Denied
from iam.events import Affected, Effect, touches
from iam.identifiers import Clock
from iam.store.standing import Standing

AGE_LIMIT = timedelta(minutes=5)
AGE_LIMIT_UNFED = timedelta(seconds=2)
_ATTEMPTS = 5


@dataclass(frozen=True, slots=True)
class _Held:
    standing: Standing
    read: datetime


class Directory:
    """The standings of identities, kept fresh."""

    def __init__(
        self,
        read: Callable[[str], Awaitable[Standing]],
        clock: Clock,
        feed_is_healthy: Callable[[], bool],
        *,
        capacity: int = 100_000,
    ) -> None:
        self._read = read
        self._clock = clock
        self._feed_is_healthy = feed_is_healthy
        self._capacity = capacity
        self._held: OrderedDict[str, _Held] = OrderedDict()
        self._reading: dict[str, asyncio.Task[Standing]] = {}
        self._generation = 0

    async def standing(self, identity: str) -> Standing:
        """Return what an identity may do now, and which of its sessions are over.

        Raises:
            Refused: (unavailable) It is not in memory and the store cannot be reached.
        """
        held = self._held.get(identity)
        if held is not None and self._clock() - held.read < self.age_limit:
            self._held.move_to_end(identity)
            return held.standing
        reading = self._reading.get(identity)
        if reading is None:
            reading = asyncio.create_task(self._read_until_settled(identity))
            self._reading[identity] = reading
            reading.add_done_callback(lambda _: self._reading.pop(identity, None))
        return await asyncio.shield(reading)

    async def access(self, identity: str) -> Access | Denied:
        """Return what an identity may do now, or why nothing."""
        return (await self.standing(identity)).access

    @property
    def age_limit(self) -> timedelta:
        """How long a standing is believed."""
        return AGE_LIMIT if self._feed_is_healthy() else AGE_LIMIT_UNFED

    def apply(self, effects: Sequence[Effect]) -> None:
        """Drop every standing that these effects touch."""
        if not effects:
            return
        self._generation += 1
        wider = [effect for effect in effects if effect.kind is not Affected.IDENTITY]
        for effect in effects:
            if effect.kind is Affected.IDENTITY:
                self._held.pop(effect.id, None)
        if wider:
            gone = [
                identity
                for identity, held in self._held.items()
                if touches(wider, identity=identity, roles=held.standing.roles, tenant_path=held.standing.tenant_path)
            ]
            for identity in gone:
                del self._held[identity]

    def clear(self) -> None:
        """Drop everything: events may have been missed."""
        self._generation += 1
        self._held.clear()

    async def _read_until_settled(self, identity: str) -> Standing:
        for _ in range(_ATTEMPTS):
            generation = self._generation
            read = self._clock()
            standing = await self._read(identity)
            if generation == self._generation:
                self._held[identity] = _Held(standing, read)
                if len(self._held) > self._capacity:
                    self._held.popitem(last=False)
                return standing
        return standing  # changes come faster than reads: right when it was read, and not kept

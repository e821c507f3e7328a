"""Live access in memory: what each identity may do now, read once and dropped when an event says that it changed.

The rules:

1. A standing is read from the store on a miss; requests for the same identity at once share one read.
2. An event drops every standing that it touches, and looks at no other: standings are found by their roles and tenants.
   A read that was under way when an event came is done again.
3. While the feed of events is healthy a standing lives `AGE_LIMIT`; while it is not, `AGE_LIMIT_UNFED`, so that a
   change takes effect within seconds also with NATS down.
4. How old a standing is, is told by two clocks, and the older age counts: the time of day may be set back, and a
   monotonic clock stands still while the machine sleeps.
5. At most `capacity` standings are held; the one asked for longest ago leaves first.
"""

import asyncio
import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from iam.access import Access, Denied
from iam.events import Affected, Effect
from iam.identifiers import Clock
from iam.store.standing import Standing

AGE_LIMIT = timedelta(minutes=5)
AGE_LIMIT_UNFED = timedelta(seconds=2)
_ATTEMPTS = 5


Monotonic = Callable[[], float]
"""Gives seconds that are never set back: `time.monotonic` outside tests."""


@dataclass(frozen=True, slots=True)
class Moment:
    """When something was read, by both clocks (rule 4)."""

    clock: datetime
    monotonic: float

    def age_at(self, now: "Moment") -> timedelta:
        """Return how old what was read then is at `now`."""
        return max(now.clock - self.clock, timedelta(seconds=now.monotonic - self.monotonic))


@dataclass(frozen=True, slots=True)
class _Held:
    standing: Standing
    read: Moment

    def effects(self) -> Iterator[Effect]:
        """Give every effect on a role or a tenant that would touch it."""
        for role in self.standing.roles:
            yield Effect(Affected.ROLE, str(role))
        for tenant in self.standing.tenant_path:
            yield Effect(Affected.TENANT, str(tenant))


class Directory:
    """The standings of identities, kept fresh."""

    def __init__(
        self,
        read: Callable[[str], Awaitable[Standing]],
        clock: Clock,
        feed_is_healthy: Callable[[], bool],
        *,
        monotonic: Monotonic = time.monotonic,
        capacity: int = 100_000,
    ) -> None:
        self._read = read
        self._clock = clock
        self._monotonic = monotonic
        self._feed_is_healthy = feed_is_healthy
        self._capacity = capacity
        self._held: OrderedDict[str, _Held] = OrderedDict()
        self._touched_by: dict[Effect, set[str]] = {}
        self._reading: dict[str, asyncio.Task[Standing]] = {}
        self._generation = 0

    async def standing(self, identity: str) -> Standing:
        """Return what an identity may do now, and which of its sessions are over.

        Raises:
            Refused: (unavailable) It is not in memory and the store cannot be reached.
        """
        known = self.known(identity)
        if known is not None:
            return known
        reading = self._reading.get(identity)
        if reading is None:
            reading = asyncio.create_task(self._read_until_settled(identity))
            self._reading[identity] = reading
            reading.add_done_callback(lambda _: self._reading.pop(identity, None))
        return await asyncio.shield(reading)

    def known(self, identity: str) -> Standing | None:
        """Return the same from memory; None if the store must be asked."""
        held = self._held.get(identity)
        if held is None or held.read.age_at(self._now()) >= self.age_limit:
            return None
        self._held.move_to_end(identity)
        return held.standing

    async def access(self, identity: str) -> Access | Denied:
        """Return what an identity may do now, or why nothing."""
        return (await self.standing(identity)).access

    def known_access(self, identity: str) -> Access | Denied | None:
        """Return the same from memory; None if the store must be asked."""
        standing = self.known(identity)
        return None if standing is None else standing.access

    @property
    def age_limit(self) -> timedelta:
        """How long a standing is believed."""
        return AGE_LIMIT if self._feed_is_healthy() else AGE_LIMIT_UNFED

    def apply(self, effects: Sequence[Effect]) -> None:
        """Drop every standing that these effects touch."""
        if not effects:
            return
        self._generation += 1
        for effect in effects:
            if effect.kind is Affected.IDENTITY:
                self._drop(effect.id)
            else:
                for identity in self._touched_by.pop(effect, ()):
                    self._drop(identity)

    def clear(self) -> None:
        """Drop everything: events may have been missed."""
        self._generation += 1
        self._held.clear()
        self._touched_by.clear()

    def _now(self) -> Moment:
        return Moment(self._clock(), self._monotonic())

    async def _read_until_settled(self, identity: str) -> Standing:
        for _ in range(_ATTEMPTS):
            generation = self._generation
            read = self._now()
            standing = await self._read(identity)
            if generation == self._generation:
                self._hold(identity, _Held(standing, read))
                return standing
        return standing  # changes come faster than reads: right when it was read, and not kept

    def _hold(self, identity: str, held: _Held) -> None:
        self._drop(identity)
        self._held[identity] = held
        for effect in held.effects():
            self._touched_by.setdefault(effect, set()).add(identity)
        while len(self._held) > self._capacity:
            self._drop(next(iter(self._held)))

    def _drop(self, identity: str) -> None:
        held = self._held.pop(identity, None)
        if held is None:
            return
        for effect in held.effects():
            identities = self._touched_by.get(effect)
            if identities is not None:
                identities.discard(identity)
                if not identities:
                    del self._touched_by[effect]

"""The duty to watch connections: taken up and given back also without a broker, and with events that NATS lost."""

import asyncio
import logging
import os
from collections.abc import AsyncIterator, Callable, Collection
from contextlib import asynccontextmanager, suppress
from datetime import timedelta
from uuid import UUID, uuid4

import pytest

from callout.broker.servers import Endpoint
from callout.broker.watch import Watch
from doorward.bus import Bus, NatsAccount
from doorward.database import Pool
from doorward.jobs import Leader
from doorward.watching import JOURNAL_SECONDS, WatchDuty
from iam.access import Access, Denied, Proof
from iam.events import Affected, Effect, Event, affects, affects_identity
from iam.identifiers import uuid7
from iam.store.database import EVERYWHERE, Change
from iam.store.journal import chain_pending
from tests.callout.brokers import START, free_port
from tests.conftest import TurnableClock


class Nobody:
    """Nobody is known here, and nothing has ended."""

    async def access(self, _: str) -> Access | Denied:
        return Denied("nobody")

    def known_access(self, _: str) -> Access | Denied | None:
        return Denied("nobody")

    async def ended_proofs(self, _: Collection[Proof]) -> frozenset[Proof]:
        return frozenset()


NOBODY = Nobody()


async def until(held: Callable[[], bool], seconds: float) -> None:
    async with asyncio.timeout(seconds):
        while not held():  # noqa: ASYNC110 - the duty tells nobody
            await asyncio.sleep(0.01)


async def test_a_duty_is_given_back_although_no_broker_was_ever_there(
    pool: Pool, caplog: pytest.LogCaptureFixture
) -> None:
    endpoint = Endpoint(f"nats://127.0.0.1:{free_port()}", "sys", "sys")
    watch = Watch([endpoint], NOBODY, NOBODY.ended_proofs)
    leader = Leader(pool)
    duty = WatchDuty(watch, leader, Bus(NatsAccount((), "", "", None), "test"), pool, lambda _: None)
    with caplog.at_level(logging.WARNING, "doorward.watching"):
        running = asyncio.create_task(duty.run())
        leader.leads = True
        await until(lambda: duty._on_duty, 2)
        await asyncio.sleep(3)
        leader.leads = False
        await until(lambda: not duty._on_duty, 3)
    assert len([record for record in caplog.records if record.name == "doorward.watching"]) == 1
    running.cancel()
    with suppress(asyncio.CancelledError):
        await running


class Listening(Watch):
    """Notes what it hears; brokers have their own tests."""

    def __init__(self) -> None:
        super().__init__([], NOBODY, NOBODY.ended_proofs)
        self.batches: list[list[str]] = []
        self.held_up: asyncio.Event | None = None
        self.may_start = asyncio.Event()
        self.may_start.set()
        self.sweeps = 0

    async def start(self) -> None:
        await self.may_start.wait()

    async def stop(self) -> None:
        pass

    async def sweep(self) -> None:
        self.sweeps += 1

    async def heard(self, *events: Event) -> None:
        self.batches.append([event.subject for event in events])
        if self.held_up is not None:
            await self.held_up.wait()

    @property
    def subjects(self) -> list[str]:
        return [subject for batch in self.batches for subject in batch]


@asynccontextmanager
async def on_duty(pool: Pool, watch: Watch, bus: Bus, taken_in: list[Event]) -> AsyncIterator[WatchDuty]:
    leader = Leader(pool)
    leader.leads = True
    duty = WatchDuty(watch, leader, bus, pool, taken_in.append)
    running = asyncio.create_task(duty.run())
    await until(lambda: duty._on_duty, 2)
    await asyncio.sleep(0.2)
    yield duty
    running.cancel()
    with suppress(asyncio.CancelledError):
        await running


async def happen(pool: Pool, subject: str) -> None:
    async with pool.transaction(EVERYWHERE) as transaction:
        system = await transaction.fetchval("SELECT id FROM tenant WHERE parent_id IS NULL")
        await transaction.record(Change(system, "test", "certificate.revoked", subject, affects_identity("idt-1")))


async def chain(pool: Pool) -> None:
    async with pool.transaction(EVERYWHERE) as transaction:
        await chain_pending(transaction, 1000)


class TestJournal:
    @pytest.fixture
    async def bus(self) -> Bus:
        """No NATS: nothing is ever heard."""
        return Bus(NatsAccount((), "", "", None), "test")

    @pytest.fixture
    async def laid(self, pool: Pool, clock: TurnableClock) -> Pool:
        async with pool.transaction(EVERYWHERE) as transaction:
            await transaction.execute(
                "INSERT INTO tenant (id, name, path, status, created_at)"
                " VALUES ($1, 'system', ARRAY [$1::uuid], 'active', $2)",
                uuid7(clock(), os.urandom),
                clock(),
            )
        return pool

    async def test_what_nats_never_brought_is_heard_from_the_journal_once(self, laid: Pool, bus: Bus) -> None:
        watch, taken_in = Listening(), list[Event]()
        async with on_duty(laid, watch, bus, taken_in):
            await happen(laid, "a")
            await until(lambda: watch.subjects == ["a"], 2 * JOURNAL_SECONDS)
            await chain(laid)  # it is read again as a line of the chain
            await happen(laid, "b")
            await until(lambda: watch.subjects == ["a", "b"], 2 * JOURNAL_SECONDS)
            await asyncio.sleep(1.5 * JOURNAL_SECONDS)
        assert watch.subjects == ["a", "b"]
        assert [event.subject for event in taken_in] == ["a", "b"], "memory forgets before the watch looks"

    @pytest.mark.parametrize("jump", [timedelta(hours=3), timedelta(minutes=-4), timedelta(hours=-3)])
    async def test_whatever_the_clock_shows(self, laid: Pool, bus: Bus, clock: TurnableClock, jump: timedelta) -> None:
        watch = Listening()
        async with on_duty(laid, watch, bus, []):
            await happen(laid, "before")
            clock.turn(jump)
            await happen(laid, "after")
            await chain(laid)
            await until(lambda: sorted(watch.subjects) == ["after", "before"], 2 * JOURNAL_SECONDS)

    async def test_what_is_heard_over_nats_is_not_heard_again(self, laid: Pool, bus: Bus) -> None:
        watch, taken_in = Listening(), list[Event]()
        async with on_duty(laid, watch, bus, taken_in) as duty:
            async with laid.transaction(EVERYWHERE) as transaction:
                system = await transaction.fetchval("SELECT id FROM tenant WHERE parent_id IS NULL")
                await transaction.record(Change(system, "test", "session.ended", "a", affects_identity("idt-1")))
                identifier, now = transaction._last_identifier, transaction.now
            assert identifier is not None
            duty._take(Event(identifier, system, now, "test", "session.ended", "a", affects_identity("idt-1")))
            await asyncio.sleep(2 * JOURNAL_SECONDS)
        assert watch.subjects == ["a"]
        assert taken_in == []

    async def test_a_first_look_at_all_holds_up_nothing_that_comes_meanwhile(self, laid: Pool, bus: Bus) -> None:
        watch = Listening()
        watch.may_start.clear()
        async with on_duty(laid, watch, bus, []):
            await happen(laid, "meanwhile")
            await until(lambda: watch.subjects == ["meanwhile"], 2 * JOURNAL_SECONDS)
            assert watch.sweeps == 0
            watch.may_start.set()
            await until(lambda: watch.sweeps > 0, 2)

    async def test_however_much_touches_everybody_what_touches_one_does_not_wait(self, laid: Pool, bus: Bus) -> None:
        watch = Listening()
        watch.held_up = asyncio.Event()
        role = affects(Effect(Affected.ROLE, str(UUID(int=0))))
        async with on_duty(laid, watch, bus, []) as duty:
            for number in range(20):
                duty._take(Event(uuid4(), UUID(int=0), START, "test", "role.changed", f"role-{number}", role))
                await asyncio.sleep(0.01)
            await happen(laid, "revoked")
            await until(lambda: "revoked" in watch.subjects, 2 * JOURNAL_SECONDS)
            assert len(watch.subjects) == 2
            watch.held_up.set()
            await until(lambda: len(watch.subjects) == 21, 2)
        assert len(watch.batches) == 3, "what waits together is acted on together"

    async def test_what_takes_long_holds_up_nothing_that_comes_after(self, laid: Pool, bus: Bus) -> None:
        watch = Listening()
        watch.held_up = asyncio.Event()
        async with on_duty(laid, watch, bus, []) as duty:
            await happen(laid, "slow")
            await until(lambda: watch.subjects == ["slow"], 2 * JOURNAL_SECONDS)
            await happen(laid, "next")
            await until(lambda: watch.subjects == ["slow", "next"], 2 * JOURNAL_SECONDS)
            sweeps = watch.sweeps
            duty._may_have_missed.set()
            await until(lambda: watch.sweeps > sweeps, 1)

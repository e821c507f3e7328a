"""The duty to watch connections: taken up and given back also while no broker is there."""

import asyncio
import logging
from contextlib import suppress

import pytest

from callout.broker import Endpoint, Watch
from doorward.bus import Bus, NatsAccount
from doorward.database import Pool
from doorward.jobs import Leader
from doorward.watching import WatchDuty
from iam.access import Access, Denied
from tests.callout.brokers import free_port
from tests.conftest import TurnableClock


async def nobody(_: str) -> Access | Denied:
    return Denied("nobody")


async def test_a_duty_is_given_back_although_no_broker_was_ever_there(
    pool: Pool, clock: TurnableClock, caplog: pytest.LogCaptureFixture
) -> None:
    watch = Watch([Endpoint(f"nats://127.0.0.1:{free_port()}", "sys", "sys")], nobody, clock)
    leader = Leader(pool)
    duty = WatchDuty(watch, leader, Bus(NatsAccount((), "", "", None), "test"), pool, clock)
    with caplog.at_level(logging.WARNING, "doorward.watching"):
        running = asyncio.create_task(duty.run())
        leader.leads = True
        async with asyncio.timeout(2):
            while not duty._on_duty:  # noqa: ASYNC110 - the duty tells nobody
                await asyncio.sleep(0.01)
        await asyncio.sleep(3)
        leader.leads = False
        async with asyncio.timeout(3):
            while duty._on_duty:  # noqa: ASYNC110 - the duty tells nobody
                await asyncio.sleep(0.01)
    assert len([record for record in caplog.records if record.name == "doorward.watching"]) == 1
    running.cancel()
    with suppress(asyncio.CancelledError):
        await running

"""The relay on a real PostgreSQL and a real nats-server: a revocation does not queue behind other events."""

import asyncio
import os
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any
from uuid import UUID

import asyncpg
import nats
import pytest
from nats.aio.msg import Msg
from nats.errors import OutboundBufferLimitError

from doorward.bus import HEARTBEAT, URGENT, Bus, NatsAccount
from doorward.database import Pool
from doorward.jobs import Leader
from doorward.outbox import Relay
from iam.events import EVENT_SUBJECTS, FOR_NODES, MEDIA_TYPE, Event, affects_identity, decode_event, is_for_nodes
from iam.service.foundation import lay_foundation
from iam.store import journal
from iam.store.database import EVERYWHERE, Change
from iam.store.journal import waiting_events
from tests.callout.brokers import free_port
from tests.conftest import DatabaseUrls, TurnableClock

NATS_SERVER = Path(sys.executable).with_name("nats-server")
BACKLOG = 3000


@pytest.fixture
def nats_url(tmp_path: Path) -> Iterator[str]:
    port = free_port()
    command = [str(NATS_SERVER), "-a", "127.0.0.1", "-p", str(port), "-js", "-sd", str(tmp_path)]
    process = subprocess.Popen(command, stderr=subprocess.DEVNULL)
    yield f"nats://127.0.0.1:{port}"
    process.terminate()
    process.wait(10)


@pytest.fixture
async def bus(nats_url: str) -> AsyncIterator[Bus]:
    made = Bus(NatsAccount((nats_url,), "", "", None), "test")
    made.start()
    async with asyncio.timeout(10):
        while not made.is_connected:  # noqa: ASYNC110 - the bus tells nobody
            await asyncio.sleep(0.01)
    yield made
    await made.stop()


async def system_of(pool: Pool, clock: TurnableClock) -> UUID:
    system = await lay_foundation(pool, clock, os.urandom)
    async with pool.transaction(EVERYWHERE) as transaction:
        await transaction.execute("DELETE FROM outbox")
    return system.id


async def logins(pool: Pool, tenant: UUID, count: int) -> None:
    async with pool.transaction(EVERYWHERE) as transaction:
        for number in range(count):
            await transaction.record(Change(tenant, "me", "session.started", f"s-{number}"))


async def record(pool: Pool, *changes: Change) -> None:
    async with pool.transaction(EVERYWHERE) as transaction:
        for change in changes:
            await transaction.record(change)


async def waiting(pool: Pool) -> list[Event]:
    async with pool.transaction(EVERYWHERE) as transaction:
        return await waiting_events(transaction, 100)


async def test_what_touches_access_or_a_certificate_waits_behind_nothing_else(pool: Pool, clock: TurnableClock) -> None:
    tenant = await system_of(pool, clock)
    await logins(pool, tenant, 20)
    kinds = sorted(f"{kind}happened" if kind.endswith(".") else kind for kind in FOR_NODES)
    suspended = Change(tenant, "me", "identity.suspended", "i", affects_identity("i"))
    await record(pool, *(Change(tenant, "me", kind, "d", {"identity": "i"}) for kind in kinds), suspended)
    found = await waiting(pool)
    urgent = len(kinds) + 1
    assert [event.kind for event in found[:urgent]] == [*kinds, "identity.suspended"]
    assert [is_for_nodes(event.kind, event.data) for event in found] == [True] * urgent + [False] * 20
    assert [event.subject for event in found[urgent:]] == [f"s-{number}" for number in range(20)]


async def test_an_index_serves_the_order(pool: Pool, clock: TurnableClock) -> None:
    await logins(pool, await system_of(pool, clock), 1000)
    async with pool.transaction(EVERYWHERE) as transaction:
        await transaction.execute("SET LOCAL enable_sort = off")  # for few rows sorting is cheaper
        plan = await transaction.fetch(f"EXPLAIN {journal._WAITING}", 200)
    lines = "\n".join(row[0] for row in plan)
    assert "outbox_urgent" in lines, lines
    assert "Sort" not in lines


async def test_changes_of_one_transaction_keep_their_order(
    pool: Pool, clock: TurnableClock, database_urls: DatabaseUrls
) -> None:
    tenant = await system_of(pool, clock)
    await logins(pool, tenant, 50)
    connection = await asyncpg.connect(database_urls.owner)
    await connection.execute("SET doorward.tenant = '*'")
    for table in ("outbox", "audit_pending"):
        rows = await connection.fetch(
            f"SELECT id, subject FROM {table} WHERE kind = 'session.started' ORDER BY id"  # noqa: S608 - a constant
        )
        assert [row["subject"] for row in rows] == [f"s-{number}" for number in range(50)]
        assert {(row["id"].version, row["id"].variant) for row in rows} == {(7, "specified in RFC 4122")}
    await connection.close()


async def test_a_backlog_delays_no_revocation_and_does_not_silence_the_feed(
    pool: Pool, clock: TurnableClock, bus: Bus, nats_url: str
) -> None:
    tenant = await system_of(pool, clock)
    await logins(pool, tenant, BACKLOG)
    heard: list[str] = []
    media_types: set[str] = set()
    all_heard = asyncio.Event()

    async def take(message: Msg) -> None:
        if message.headers:
            media_types.add(message.headers["content-type"])
        heard.append(HEARTBEAT if message.subject == HEARTBEAT else decode_event(message.data).kind)
        if len(heard) - heard.count(HEARTBEAT) == BACKLOG + 2:
            all_heard.set()

    listener = await nats.connect(nats_url)
    await listener.subscribe(EVENT_SUBJECTS, cb=take)
    await listener.subscribe(HEARTBEAT, cb=take)
    await listener.flush()
    await record(pool, Change(tenant, "me", "identity.suspended", "i", affects_identity("i")))
    leader = Leader(pool)
    leader.leads = True
    relaying = asyncio.create_task(Relay(pool, bus, leader).run())
    async with asyncio.timeout(20):
        while "session.started" not in heard:  # noqa: ASYNC110 - the listener tells nobody of single events
            await asyncio.sleep(0.01)
        await record(pool, Change(tenant, "me", "device.renewed", "d", {"identity": "i"}))
        await all_heard.wait()
        while await waiting(pool):  # noqa: ASYNC110 - the relay tells nobody
            await asyncio.sleep(0.01)
    relaying.cancel()
    with suppress(asyncio.CancelledError):
        await relaying
    await listener.close()
    assert media_types == {MEDIA_TYPE}
    assert heard.index("identity.suspended") == 0
    assert heard.index("device.renewed") < BACKLOG / 2
    assert heard.index(HEARTBEAT) < BACKLOG / 2


async def test_an_event_that_nats_does_not_store_stays_and_the_feed_is_silent(
    pool: Pool, clock: TurnableClock, bus: Bus, nats_url: str
) -> None:
    tenant = await system_of(pool, clock)
    broken = Change(tenant, "me", "not a subject", "x", affects_identity("i"))
    await record(pool, Change(tenant, "me", "a.happened", "x"), broken)
    listener = await nats.connect(nats_url)
    beats = await listener.subscribe(HEARTBEAT)
    leader = Leader(pool)
    leader.leads = True
    relaying = asyncio.create_task(Relay(pool, bus, leader).run())
    with pytest.raises(TimeoutError):
        await beats.next_msg(0.7)
    relaying.cancel()
    with suppress(asyncio.CancelledError):
        await relaying
    await listener.close()
    assert [event.kind for event in await waiting(pool)] == ["not a subject"]


async def test_what_the_workers_could_not_be_told_waits_and_is_told_again(
    pool: Pool, bus: Bus, clock: TurnableClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It would be stored, and so taken out, and no worker would ever hear of it."""
    tenant = await system_of(pool, clock)
    heard: list[str] = []
    bus.on_event(lambda event: heard.append(event.subject))
    leader = Leader(pool)
    leader.leads = True
    publish = bus._client.publish
    is_failing = True

    async def failing(subject: str, payload: bytes = b"", **more: Any) -> None:
        if is_failing and subject == URGENT:
            raise OutboundBufferLimitError
        await publish(subject, payload, **more)

    monkeypatch.setattr(bus._client, "publish", failing)
    await record(pool, Change(tenant, "me", "certificate.revoked", "lost", affects_identity("i")))
    relay = Relay(pool, bus, leader)
    running = asyncio.create_task(relay.run())
    await asyncio.sleep(0.5)
    assert [event.subject for event in await waiting(pool)] == ["lost"]
    is_failing = False
    async with asyncio.timeout(10):
        while await waiting(pool) or not heard:  # noqa: ASYNC110 - the relay tells nobody
            await asyncio.sleep(0.05)
    assert heard == ["lost"]
    running.cancel()
    with suppress(asyncio.CancelledError):
        await running

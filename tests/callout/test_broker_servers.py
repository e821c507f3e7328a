"""Servers that are slow, reload, go and come, and a callout that answers all of them in time."""

import asyncio
import signal
import time
from collections.abc import Callable

import pytest

from callout.broker.answering import Broker
from callout.broker.watch import Watch
from callout.service import CalloutService
from iam.access import Denied
from iam.errors import Refused
from tests.callout.brokers import People, Server, access, allow, free_port
from tests.callout.conftest import MakeMqtt

pytestmark = pytest.mark.usefixtures("broker")

OWN = [allow("all", "${tenant}/${identity}/#")]


def stopped(server: Server) -> Server:
    assert server.process is not None
    server.process.terminate()
    server.process.wait()
    return server


class TestAnswers:
    async def test_pitfall_9_a_refusal_does_not_hold_the_client(self, make_mqtt: MakeMqtt) -> None:
        began = time.monotonic()
        assert await make_mqtt("idt-x", "wrong").connect() != 0
        assert time.monotonic() - began < 1.9  # silence takes 2

    async def test_pitfall_11_slow_answers_do_not_queue_up(self, people: People, make_mqtt: MakeMqtt) -> None:
        people.delay = 0.3
        clients = []
        for _ in range(20):
            who = access(OWN)
            clients.append(make_mqtt(who.identity.id, people.add(who)))
        began = time.monotonic()
        assert await asyncio.gather(*(client.connect() for client in clients)) == [0] * 20
        assert time.monotonic() - began < 5  # one after the other they take 6

    async def test_pitfall_12_a_callout_that_stops_answers_what_it_took(
        self, hub: Server, people: People, service: CalloutService, make_mqtt: MakeMqtt
    ) -> None:
        people.delay = 0.4
        who = access(OWN)
        token = people.add(who)
        others = [Broker([hub.endpoint("callout")], service) for _ in range(8)]
        for each in others:
            await each.start()
        connecting = [
            asyncio.create_task(make_mqtt(f"{who.identity.id}/{number}", token).connect()) for number in range(20)
        ]
        await people.asked_by(20)
        await asyncio.gather(*(each.stop() for each in others))
        assert await asyncio.gather(*connecting) == [0] * 20

    async def test_pitfall_10_after_a_reload_all_clients_come_back_at_once(
        self, hub: Server, people: People, make_mqtt: MakeMqtt
    ) -> None:
        who = access(OWN)
        token = people.add(who)
        clients = [make_mqtt(f"{who.identity.id}/{number}", token, reconnect=True) for number in range(30)]
        assert await asyncio.gather(*(client.connect() for client in clients)) == [0] * 30
        assert hub.process is not None
        hub.process.send_signal(signal.SIGHUP)
        for client in clients:
            assert await client.was_cut()
        assert [await asyncio.to_thread(client.answers.get, True, 3) for client in clients] == [0] * 30

    async def test_pitfall_10_a_server_that_comes_back_is_answered_at_once(
        self, lonely_server: Callable[[], Server], people: People, service: CalloutService, make_mqtt: MakeMqtt
    ) -> None:
        who = access(OWN)
        token = people.add(who)
        server = lonely_server()
        answering = Broker([server.endpoint("callout")], service)
        await answering.start()
        assert await make_mqtt(who.identity.id, token, port=server.mqtt).connect() == 0
        assert server.process is not None
        server.process.kill()
        server.process.wait()
        await asyncio.sleep(0.5)
        lonely_server()
        began = time.monotonic()
        while await make_mqtt(who.identity.id, token, port=server.mqtt).connect() != 0:
            assert time.monotonic() - began < 10
        await answering.stop()

    async def test_a_server_that_is_not_there_keeps_no_other_waiting(
        self, lonely_server: Callable[[], Server], people: People, service: CalloutService, make_mqtt: MakeMqtt
    ) -> None:
        server = lonely_server()
        absent = Server(free_port(), free_port(), 0)
        answering = Broker([absent.endpoint("callout"), server.endpoint("callout")], service)
        await asyncio.wait_for(answering.start(), 10)
        who = access(OWN)
        token = people.add(who)
        assert await make_mqtt(who.identity.id, token, port=server.mqtt).connect() == 0
        watch = Watch([absent.endpoint("sys"), server.endpoint("sys")], people, people.ended_proofs)
        await asyncio.wait_for(watch.start(), 10)
        stale = make_mqtt(who.identity.id, token, port=server.mqtt)
        assert await stale.connect() == 0
        people.accesses[who.identity.id] = Denied("suspended")
        await watch.sweep()
        assert await stale.was_cut()
        await watch.stop()
        await answering.stop()

    async def test_a_watch_begins_and_ends_also_with_no_server_there_and_sees_the_one_that_comes(
        self, lonely_server: Callable[[], Server], people: People, service: CalloutService, make_mqtt: MakeMqtt
    ) -> None:
        server = stopped(lonely_server())
        answering = Broker([server.endpoint("callout")], service)
        starting = asyncio.create_task(answering.start())
        watch = Watch([server.endpoint("sys")], people, people.ended_proofs)
        await asyncio.wait_for(watch.start(), 10)
        with pytest.raises(Refused):
            await watch.sweep()
        await asyncio.wait_for(watch.stop(), 10)
        await asyncio.wait_for(watch.start(), 10)
        lonely_server()
        await asyncio.wait_for(starting, 10)
        who = access(OWN)
        client = make_mqtt(who.identity.id, people.add(who), port=server.mqtt)
        assert await client.connect() == 0
        async with asyncio.timeout(10):
            while not watch.reconciler.connections.of(who.identity.id):  # noqa: ASYNC110 - the watch tells nobody
                await asyncio.sleep(0.01)
        await watch.stop()
        await answering.stop()

    async def test_a_callout_that_reached_no_server_stops(self, service: CalloutService) -> None:
        answering = Broker([Server(free_port(), free_port(), 0).endpoint("callout")], service)
        starting = asyncio.create_task(answering.start())
        await asyncio.sleep(0.2)
        starting.cancel()
        await asyncio.wait_for(answering.stop(), 10)
        assert not [task for task in asyncio.all_tasks() if "_join" in repr(task.get_coro())]

    async def test_a_server_may_come_later_than_the_callout(
        self, lonely_server: Callable[[], Server], people: People, service: CalloutService, make_mqtt: MakeMqtt
    ) -> None:
        server = stopped(lonely_server())
        answering = Broker([server.endpoint("callout")], service)
        starting = asyncio.create_task(answering.start())
        await asyncio.sleep(0.3)
        lonely_server()
        await asyncio.wait_for(starting, 10)
        who = access(OWN)
        assert await make_mqtt(who.identity.id, people.add(who), port=server.mqtt).connect() == 0
        await answering.stop()

"""A change of access and the connections that are live: which are cut, which are not, and how soon."""

import asyncio
import signal
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from uuid import UUID

import pytest

from callout.broker.watch import Watch
from iam.access import Access, Denied
from iam.errors import Refused
from iam.events import Affected
from tests.callout.brokers import Mqtt, People, Server, access, allow, changed, identity_changed, tenant
from tests.callout.conftest import Certified, MakeMqtt

BEFORE = [allow("all", "${tenant}/devices/${device}/#")]
SOON = 5.0
"""Seconds: a change takes effect in far less, but on a busy machine; what else would mend it, a sweep, takes 30."""


async def until(held: Callable[[], bool]) -> None:
    async with asyncio.timeout(10):
        while not held():  # noqa: ASYNC110 - what is awaited happens in another process
            await asyncio.sleep(0.01)


async def seen(watch: Watch, who: Access, count: int = 1) -> None:
    await until(lambda: len(watch.reconciler.connections.of(who.identity.id)) == count)


@asynccontextmanager
async def being_set_up(people: People, client: Mqtt) -> AsyncIterator[None]:
    """Connect a client that is judged by what was so at the beginning, and let in at the end."""
    people.after_reading = asyncio.Event()
    connecting = asyncio.create_task(client.connect())
    await people.asked_by(1)
    yield
    people.after_reading.set()
    await connecting


class TestLive:
    async def test_an_unpaired_gateway_is_cut_and_another_is_not(
        self, watch: Watch, people: People, make_mqtt: MakeMqtt
    ) -> None:
        who, other = access(BEFORE, ["meter-1"]), access(BEFORE, ["meter-1"])
        token = people.add(who)
        client = await make_mqtt(who.identity.id, token).connected()
        bystander = await make_mqtt(other.identity.id, people.add(other)).connected()
        await seen(watch, who)
        people.change(who, BEFORE, [])
        began = time.monotonic()
        await watch.heard(identity_changed(who))
        assert await client.was_cut()
        assert time.monotonic() - began < SOON
        assert not bystander.gone.is_set()
        again = await make_mqtt(who.identity.id, token).connected()
        assert await again.subscribe("acme/devices/meter-1/#") == 128

    async def test_who_has_the_same_topics_as_before_notices_nothing(
        self, watch: Watch, people: People, make_mqtt: MakeMqtt
    ) -> None:
        who = access(BEFORE, ["meter-1"])
        client = await make_mqtt(who.identity.id, people.add(who)).connected()
        await seen(watch, who)
        people.change(who, [*BEFORE, *BEFORE], ["meter-1"])
        await watch.heard(identity_changed(who))
        await watch.heard(changed("role.changed", (Affected.ROLE, str(who.grants[0].role.id))))
        await watch.sweep()
        assert not await client.was_cut(0.2)

    @pytest.mark.parametrize("kind", [Affected.ROLE, Affected.TENANT])
    async def test_a_role_or_a_tenant_cuts_all_whom_it_changes(
        self, watch: Watch, people: People, make_mqtt: MakeMqtt, kind: Affected
    ) -> None:
        where = tenant("acme")
        both = [access(BEFORE, ["meter-1"], where=where) for _ in range(2)]
        stays = access(BEFORE, ["meter-1"])
        clients = [await make_mqtt(who.identity.id, people.add(who)).connected() for who in (*both, stays)]
        for who in (*both, stays):
            await seen(watch, who)
        people.change(both[0], [], [])
        people.accesses[both[1].identity.id] = Denied("the tenant is blocked")
        subject = where.id if kind is Affected.TENANT else UUID(int=1)
        await watch.heard(changed("changed", (kind, str(subject))))
        assert await clients[0].was_cut(SOON)
        assert await clients[1].was_cut(SOON)
        assert not clients[2].gone.is_set()

    async def test_a_device_is_cut_at_the_edge(self, watch: Watch, people: People, certified: Certified) -> None:
        who = access(BEFORE, ["meter-1"], device="meter-1")
        people.add(who)
        client = await certified("meter-1").connected()
        await seen(watch, who)
        people.accesses[who.identity.id] = Denied("suspended")
        await watch.heard(identity_changed(who, "identity.suspended"))
        assert await client.was_cut(SOON)

    @pytest.mark.parametrize(
        "kind", ["certificate.revoked", "certificate.held", "credential.revoked", "device.renewed", "session.ended"]
    )
    async def test_a_proof_that_no_longer_holds_cuts_with_the_same_topics(
        self, watch: Watch, people: People, certified: Certified, make_mqtt: MakeMqtt, kind: str
    ) -> None:
        who = access(BEFORE, ["meter-1"], device="meter-1")
        people.add(who)
        client = await certified("meter-1").connected()
        token = people.add(who)
        bystander = await make_mqtt(who.identity.id, token).connected()
        await seen(watch, who, 2)
        people.end("meter-1")
        await watch.heard(identity_changed(who, kind))
        assert await client.was_cut(SOON)
        assert not bystander.gone.is_set(), "what it was let in by holds"

    async def test_a_connection_that_is_being_set_up_while_access_changes(
        self, watch: Watch, people: People, make_mqtt: MakeMqtt
    ) -> None:
        who = access(BEFORE, ["meter-1"])
        token = people.add(who)
        client = make_mqtt(who.identity.id, token)
        async with being_set_up(people, client):
            people.change(who, BEFORE, [])
            await watch.heard(identity_changed(who))
        assert await client.was_cut(SOON)

    async def test_a_connection_that_is_being_set_up_while_its_proof_is_revoked(
        self, watch: Watch, people: People, make_mqtt: MakeMqtt
    ) -> None:
        who = access(BEFORE, ["meter-1"])
        token = people.add(who)
        client = make_mqtt(who.identity.id, token)
        async with being_set_up(people, client):
            people.end(token)
            await watch.heard(identity_changed(who, "session.ended"))
        assert await client.was_cut(SOON)
        other = await make_mqtt(who.identity.id, people.add(who)).connected()
        assert not await other.was_cut(0.3), "another proof of his is good at once"

    async def test_another_worker_lets_somebody_in_by_what_it_remembered(
        self, watch: Watch, people: People, make_mqtt: MakeMqtt
    ) -> None:
        """It has not heard of the event yet, however long after that is."""
        who = access(BEFORE, ["meter-1"])
        token = people.add(who)
        people.end(token)
        await watch.heard(identity_changed(who, "session.ended"))
        await asyncio.sleep(0.4)
        client = await make_mqtt(who.identity.id, token).connected()
        assert await client.was_cut(SOON)

    async def test_a_sweep_mends_what_no_event_told(
        self, watch: Watch, people: People, make_mqtt: MakeMqtt, certified: Certified
    ) -> None:
        who, device = access(BEFORE, ["meter-1"]), access(BEFORE, ["meter-1"], device="meter-1")
        people.add(device)
        clients = [
            await make_mqtt(who.identity.id, people.add(who)).connected(),
            await certified("meter-1").connected(),
        ]
        for each in (who, device):
            people.change(each, BEFORE, [])
        await watch.sweep()
        for client in clients:
            assert await client.was_cut(SOON)

    async def test_a_sweep_cuts_what_holds_no_more_also_with_the_same_topics(
        self, watch: Watch, people: People, make_mqtt: MakeMqtt, certified: Certified
    ) -> None:
        who = access(BEFORE, ["meter-1"], device="meter-1")
        token = people.add(who)
        clients = [await make_mqtt(who.identity.id, token).connected(), await certified("meter-1").connected()]
        stays = await make_mqtt(f"{who.identity.id}/2", people.add(who)).connected()
        for shown in (token, "meter-1"):
            people.end(shown)
        await watch.sweep()
        for client in clients:
            assert await client.was_cut(SOON)
        assert not stays.gone.is_set()

    @pytest.mark.usefixtures("broker")
    async def test_a_watch_that_starts_anew_knows_what_earlier_ones_let_in(
        self, hub: Server, people: People, make_mqtt: MakeMqtt
    ) -> None:
        stale, fresh = access(BEFORE, ["meter-1"]), access(BEFORE, ["meter-1"])
        cut = await make_mqtt(stale.identity.id, people.add(stale)).connected()
        stays = await make_mqtt(fresh.identity.id, people.add(fresh)).connected()
        people.change(stale, BEFORE, [])
        watch = Watch([hub.endpoint("sys")], people, people.ended_proofs)
        await watch.start()
        assert await cut.was_cut(SOON)
        assert not stays.gone.is_set()
        await watch.stop()

    @pytest.mark.usefixtures("broker")
    async def test_one_system_connection_reaches_both_servers(
        self, hub: Server, people: People, certified: Certified
    ) -> None:
        """The leafnode joins the system accounts, so the edge can be watched and cut from the hub."""
        who = access(BEFORE, ["meter-1"], device="meter-1")
        people.add(who)
        watch = Watch([hub.endpoint("sys")], people, people.ended_proofs)
        await watch.start()
        client = await certified("meter-1").connected()
        await seen(watch, who)
        people.change(who, BEFORE, [])
        await watch.heard(identity_changed(who))
        assert await client.was_cut(SOON)
        await seen(watch, who, 0)
        await watch.stop()

    async def test_lists_are_read_page_by_page(
        self, watch: Watch, people: People, make_mqtt: MakeMqtt, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("callout.broker.watch._PAGE", 2)
        who = access(BEFORE, ["meter-1"])
        token = people.add(who)
        for number in range(5):
            await make_mqtt(f"{who.identity.id}/{number}", token).connected()
        found, silent = await watch._listed()
        assert silent == []
        listed = [each for connections in found.values() for each in connections]
        assert len({each.key for each in listed if each.identity == who.identity.id}) == 5

    async def test_a_server_that_is_too_slow_to_say_what_it_holds_is_asked_again_soon(
        self, watch: Watch, edge: Server, people: People, certified: Certified
    ) -> None:
        """Nobody knows of it until then, and no event could cut it."""
        who = access(BEFORE, ["meter-1"], device="meter-1")
        people.add(who)
        client = await certified("meter-1").connected()
        people.end("meter-1")
        assert edge.process is not None
        try:
            edge.process.send_signal(signal.SIGSTOP)
            with pytest.raises(Refused, match="does not answer"):
                await watch.sweep()
            watch._sweep_now.set()
            await asyncio.sleep(2.5)
            assert not client.gone.is_set()
        finally:
            edge.process.send_signal(signal.SIGCONT)
        assert await client.was_cut(SOON)

    async def test_a_client_that_leaves_is_forgotten(self, watch: Watch, people: People, make_mqtt: MakeMqtt) -> None:
        who = access(BEFORE)
        client = await make_mqtt(who.identity.id, people.add(who)).connected()
        await seen(watch, who)
        client.close()
        await seen(watch, who, 0)

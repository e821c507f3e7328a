"""A change of access and the connections that are live: which are cut, which are not, and how soon."""

import asyncio
import time
from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from uuid import UUID

import pytest

from callout.broker import Watch
from callout.connections import Connection, Connections, Key, connection_name, read_connection
from callout.reconcile import OTHER_NODES_HEAR_WITHIN, Reconciler
from iam.access import Access, Denied
from iam.errors import Kind, Refused
from iam.events import Affected
from iam.topics import access_control_list
from tests.callout.brokers import (
    START,
    Mqtt,
    People,
    Server,
    access,
    allow,
    changed,
    grant,
    identity_changed,
    now,
    tenant,
)
from tests.callout.conftest import MakeMqtt

BEFORE = [allow("all", "${tenant}/devices/${device}/#")]
SOON = 1.0
"""Seconds in which a change takes effect (domain.md, revocation)."""

Certified = Callable[..., Mqtt]


async def until(held: Callable[[], bool]) -> None:
    async with asyncio.timeout(2):
        while not held():  # noqa: ASYNC110 - what is awaited happens in another process
            await asyncio.sleep(0.01)


async def seen(watch: Watch, who: Access, count: int = 1) -> None:
    await until(lambda: len(watch.reconciler.connections.of(who.identity.id)) == count)


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
        self, watch: Watch, people: People, certified: Certified, kind: str
    ) -> None:
        who = access(BEFORE, ["meter-1"], device="meter-1")
        people.add(who)
        client = await certified("meter-1").connected()
        await seen(watch, who)
        await watch.heard(identity_changed(who, kind))
        assert await client.was_cut(SOON)

    async def test_a_connection_that_is_being_set_up_while_access_changes(
        self, watch: Watch, people: People, make_mqtt: MakeMqtt
    ) -> None:
        who = access(BEFORE, ["meter-1"])
        token = people.add(who)
        people.after_reading = asyncio.Event()
        client = make_mqtt(who.identity.id, token)
        connecting = asyncio.create_task(client.connect())
        await people.asked_by(1)
        people.change(who, BEFORE, [])
        await watch.heard(identity_changed(who))
        people.after_reading.set()
        await connecting
        assert await client.was_cut(SOON)

    async def test_a_connection_that_is_being_set_up_while_its_proof_is_revoked(
        self, watch: Watch, people: People, make_mqtt: MakeMqtt
    ) -> None:
        who = access(BEFORE, ["meter-1"])
        token = people.add(who)
        people.after_reading = asyncio.Event()
        client = make_mqtt(who.identity.id, token)
        connecting = asyncio.create_task(client.connect())
        await people.asked_by(1)
        await watch.heard(identity_changed(who, "session.ended"))
        people.after_reading.set()
        await connecting
        assert await client.was_cut(SOON)
        await asyncio.sleep(OTHER_NODES_HEAR_WITHIN.total_seconds())
        again = await make_mqtt(who.identity.id, token).connected()
        assert not await again.was_cut(0.2)

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

    @pytest.mark.usefixtures("broker")
    async def test_a_watch_that_starts_anew_knows_what_earlier_ones_let_in(
        self, hub: Server, people: People, make_mqtt: MakeMqtt
    ) -> None:
        stale, fresh = access(BEFORE, ["meter-1"]), access(BEFORE, ["meter-1"])
        cut = await make_mqtt(stale.identity.id, people.add(stale)).connected()
        stays = await make_mqtt(fresh.identity.id, people.add(fresh)).connected()
        people.change(stale, BEFORE, [])
        watch = Watch([hub.endpoint("sys")], people, now)
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
        watch = Watch([hub.endpoint("sys")], people, now)
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
        monkeypatch.setattr("callout.broker._PAGE", 2)
        who = access(BEFORE, ["meter-1"])
        token = people.add(who)
        for number in range(5):
            await make_mqtt(f"{who.identity.id}/{number}", token).connected()
        listed = [each for connections in (await watch._listed()).values() for each in connections]
        assert len({each.key for each in listed if each.identity == who.identity.id}) == 5

    async def test_a_client_that_leaves_is_forgotten(self, watch: Watch, people: People, make_mqtt: MakeMqtt) -> None:
        who = access(BEFORE)
        client = await make_mqtt(who.identity.id, people.add(who)).connected()
        await seen(watch, who)
        client.close()
        await seen(watch, who, 0)

    async def test_a_thousand_at_once_are_cut_within_a_second(self) -> None:
        """The work of the reconciler alone; a broker takes 50 microseconds for each (nats.md)."""
        cut: list[object] = []

        async def kick(key: object) -> bool:
            cut.append(key)
            return True

        reconciler = Reconciler(kick, People(), now)
        for number in range(1000):
            reconciler.connections.add(Connection("N", number, access().identity.id, "0" * 16, START))
        began = time.monotonic()
        await reconciler.heard(changed("tenant.blocked", (Affected.TENANT, str(UUID(int=0)))))
        assert len(cut) == 1000
        assert time.monotonic() - began < SOON


class NoDatabase:
    """Nothing in memory, and no store to be asked."""

    async def access(self, _: str) -> Access | Denied:
        raise Refused(Kind.UNAVAILABLE, "No database.")

    def known_access(self, _: str) -> Access | Denied | None:
        return None


async def appeared(reconciler: Reconciler, connection: Connection) -> None:
    work = reconciler.appeared(connection)
    if work is not None:
        await work


class TestAppeared:
    """What memory knows of an identity that connects."""

    async def reconciled(self, remembered: Access, connected: Access) -> list[object]:
        cut: list[object] = []

        async def kick(key: object) -> bool:
            cut.append(key)
            return True

        people = People(remembers=True)
        people.accesses[connected.identity.id] = remembered
        digest = access_control_list(connected).digest
        connection = Connection("N", 1, connected.identity.id, digest, START)
        await appeared(Reconciler(kick, people, now), connection)
        return cut

    async def test_one_with_the_topics_of_now_stays(self) -> None:
        who = access(BEFORE, ["meter-1"])
        assert await self.reconciled(who, who) == []

    async def test_one_with_the_topics_of_before_is_cut(self) -> None:
        who = access(BEFORE, ["meter-1"])
        now_less = replace(who, grants=(grant(who.tenant, BEFORE, []),))
        assert await self.reconciled(now_less, who) == [("N", 1)]


class TestUnknownAccess:
    @staticmethod
    def reconciler(cut: list[object]) -> Reconciler:
        async def kick(key: object) -> bool:
            cut.append(key)
            return True

        return Reconciler(kick, NoDatabase(), now)

    async def test_an_event_cuts_and_a_sweep_does_not(self) -> None:
        cut: list[object] = []
        reconciler = self.reconciler(cut)
        who = access()
        connection = Connection("N", 1, who.identity.id, "0" * 16, START)
        await appeared(reconciler, connection)
        await reconciler.sweep({"N": [connection]}, now())
        assert cut == []
        await reconciler.heard(identity_changed(who))
        assert cut == [("N", 1)]


class Stubborn:
    """Brokers that cannot be reached for a while: a fault that no real one shows at will."""

    def __init__(self) -> None:
        self.reached = False
        self.asked: list[Key] = []
        self.reconciler = Reconciler(self.kick, self, now)

    async def kick(self, key: Key) -> bool:
        self.asked.append(key)
        return self.reached

    async def access(self, _: str) -> Access | Denied:
        return Denied("suspended")

    def known_access(self, _: str) -> Access | Denied | None:
        return Denied("suspended")

    def connected(self, count: int = 1, server: str = "N") -> list[Connection]:
        made = [Connection(server, number, WHO.identity.id, "0" * 16, START) for number in range(count)]
        for one in made:
            self.reconciler.connections.add(one)
        return made


WHO = access()


class TestOwed:
    async def test_a_cut_that_failed_is_tried_again_until_it_is_acknowledged(
        self, caplog: pytest.LogCaptureFixture
    ) -> None:
        caplog.set_level("INFO", "callout.reconcile")
        brokers = Stubborn()
        (connection,) = brokers.connected()
        await brokers.reconciler.heard(identity_changed(WHO, "certificate.revoked"))
        assert "cut connection" not in caplog.text
        assert "could not be cut yet" in caplog.text
        brokers.reached = True
        asked = len(brokers.asked)
        async with asyncio.timeout(3):
            while len(brokers.asked) == asked:  # noqa: ASYNC110 - a second goes by
                await asyncio.sleep(0.02)
        assert brokers.asked[-1] == connection.key
        assert "cut connection" in caplog.text
        assert not len(brokers.reconciler.connections)

    async def test_a_sweep_and_an_appearance_try_again(self) -> None:
        brokers = Stubborn()
        (connection,) = brokers.connected()
        await brokers.reconciler.heard(identity_changed(WHO, "session.ended"))
        asked = len(brokers.asked)
        await brokers.reconciler.sweep({}, now())
        assert len(brokers.asked) > asked
        brokers.reached = True
        await appeared(brokers.reconciler, connection)
        assert not len(brokers.reconciler.connections)

    @pytest.mark.parametrize("how", ["disappeared", "not listed"])
    async def test_what_is_gone_is_owed_no_more(self, how: str) -> None:
        brokers = Stubborn()
        (connection,) = brokers.connected()
        await brokers.reconciler.heard(identity_changed(WHO, "session.ended"))
        if how == "disappeared":
            brokers.reconciler.disappeared(connection.key)
        else:
            await brokers.reconciler.sweep({connection.server: []}, now())
        asked = len(brokers.asked)
        await brokers.reconciler.sweep({}, now())
        assert len(brokers.asked) == asked

    async def test_a_server_that_is_silent_is_asked_for_one_connection_and_others_for_theirs(self) -> None:
        brokers = Stubborn()
        brokers.connected(5, "M")
        brokers.connected(5, "N")
        await brokers.reconciler.heard(identity_changed(WHO, "session.ended"))
        brokers.asked.clear()
        await brokers.reconciler._pay()
        assert sorted(brokers.asked) == [("M", 0), ("N", 0)]
        brokers.reached = True
        await brokers.reconciler._pay()
        assert not len(brokers.reconciler.connections)


class TestConnections:
    def connection(self, number: int, server: str = "N", accepted: timedelta = timedelta(0)) -> Connection:
        return Connection(server, number, f"idt-{number}", "0" * 16, START + accepted)

    def test_a_list_drops_what_is_gone_but_not_what_came_meanwhile(self) -> None:
        held = Connections()
        for number, accepted in ((1, timedelta(0)), (2, timedelta(0)), (3, timedelta(minutes=1))):
            held.add(self.connection(number, accepted=accepted))
        held.replace({"N": [self.connection(1)]}, START + timedelta(seconds=1))
        assert {each.number for each in held} == {1, 3}

    def test_a_silent_server_keeps_its_connections_for_a_while(self) -> None:
        held = Connections()
        held.add(self.connection(1, "silent"))
        for _ in range(10):
            held.replace({"N": []}, START + timedelta(days=1))
            assert len(held) == 1
        held.replace({"N": []}, START + timedelta(days=1))
        assert len(held) == 0

    def test_a_name_is_read_as_it_was_written(self) -> None:
        who = access().identity.id
        name = connection_name(who, "0123456789abcdef")
        read = read_connection("N", 7, name, "2026-01-01T00:00:00.123456789Z")
        assert read is not None
        assert (read.identity, read.acl_digest, read.key) == (who, "0123456789abcdef", ("N", 7))

    @pytest.mark.parametrize("name", ["", "callout", "idt-x.0123456789abcdef", None, f"{'x' * 40}.{'0' * 16}"])
    def test_other_names_are_not_ours(self, name: object) -> None:
        assert read_connection("N", 7, name, "2026-01-01T00:00:00Z") is None

"""What passes real brokers and what does not: MQTT of every quality of service, and NATS."""

import pytest
from nats.aio.msg import Msg
from nats.errors import Error as NatsError

from callout.permissions import inbox
from iam.model import SYSTEM_TENANT
from tests.callout.brokers import (
    People,
    Server,
    access,
    allow,
    tenant,
)
from tests.callout.conftest import Certified, MakeMqtt
from tests.callout.nats_clients import FAILURE, flushed, nats_client

pytestmark = pytest.mark.usefixtures("broker")


class TestMqtt:
    @pytest.mark.parametrize("qos", [0, 1, 2])
    async def test_pitfall_5_every_quality_of_service(self, people: People, make_mqtt: MakeMqtt, qos: int) -> None:
        who = access([allow("all", "${tenant}/here/#")])
        client = await make_mqtt(who.identity.id, people.add(who)).connected()
        assert await client.subscribe("acme/here/#", qos) == qos
        assert await client.publish("acme/here/a", b"1", qos)
        received = await client.received()
        assert received is not None
        assert received.payload == b"1"

    async def test_quality_of_service_2_between_hub_and_edge(
        self, people: People, make_mqtt: MakeMqtt, certified: Certified
    ) -> None:
        people.add(access([allow("all", "${tenant}/devices/${device}/#")], ["meter-7"], device="meter-7"))
        gateway = access([allow("all", "${tenant}/devices/${device}/#")], ["meter-7"])
        device = await certified("meter-7").connected()
        reader = await make_mqtt(gateway.identity.id, people.add(gateway)).connected()
        for qos in (1, 2):
            assert await reader.subscribe("acme/devices/meter-7/#", qos) == qos
            assert await device.subscribe("acme/devices/meter-7/commands", qos) == qos
            assert await device.publish("acme/devices/meter-7/telemetry", b"up", qos)
            up = await reader.received()
            assert up is not None
            assert up.payload == b"up"
            assert await reader.publish("acme/devices/meter-7/commands", b"down", qos)
            down = await device.received()
            assert down is not None
            assert down.payload == b"down"
            assert await reader.received() is not None  # its own command, through `#`

    async def test_retained_messages(self, people: People, make_mqtt: MakeMqtt) -> None:
        who = access([allow("all", "${tenant}/kept/#")])
        token = people.add(who)
        client = await make_mqtt(who.identity.id, token).connected()
        await client.publish("acme/kept/a", b"old", qos=1, retain=True)
        assert await client.subscribe("acme/kept/#", 1) == 1
        received = await client.received()
        assert received is not None
        assert (received.payload, received.retained) == (b"old", True)
        await client.publish("acme/kept/a", b"", qos=1, retain=True)

    async def test_pitfall_4_a_hash_covers_the_level_above(self, people: People, make_mqtt: MakeMqtt) -> None:
        who = access([allow("all", "${tenant}/a/#")])
        client = await make_mqtt(who.identity.id, people.add(who)).connected()
        assert await client.subscribe("acme/a/#", 1) == 1
        assert await client.publish("acme/a", b"above", 1)
        received = await client.received()
        assert received is not None
        assert received.payload == b"above"

    async def test_a_resumed_session_does_not_bring_back_lost_topics(self, people: People, make_mqtt: MakeMqtt) -> None:
        who = access([allow("all", "${tenant}/#")])
        token = people.add(who)
        first = await make_mqtt(who.identity.id, token, clean=False).connected()
        for topic, qos in (("acme/lost/#", 1), ("acme/lost0/#", 0), ("acme/kept/#", 1)):
            assert await first.subscribe(topic, qos) == qos
        first.close()
        people.change(who, [allow("all", "${tenant}/kept/#")])
        writer = access([allow("publish", "${tenant}/#")])
        source = await make_mqtt(writer.identity.id, people.add(writer)).connected()
        await source.publish("acme/lost/x", b"while away", 1)
        second = await make_mqtt(who.identity.id, token, clean=False).connected()
        for topic in ("acme/lost/x", "acme/lost0/x", "acme/kept/x"):
            await source.publish(topic, b"now", 1)
        received = await second.received()
        assert received is not None
        assert received.topic == "acme/kept/x"
        assert await second.received(0.5) is None
        second.close()
        await make_mqtt(who.identity.id, token, clean=True).connected()


class TestNats:
    async def test_pitfall_5_the_brokers_own_subjects(self, hub: Server, people: People, make_mqtt: MakeMqtt) -> None:
        """Even for who may everything in `system`."""
        who = access([allow("all", "#")], where=tenant(SYSTEM_TENANT))
        token = people.add(who)
        plain = await nats_client(hub, token)
        subjects = ("$MQTT.msgs.x", "$MQTT.sub.x", "$JS.API.INFO", "$SYS.REQ.USER.AUTH", "$KV.x", "$O.x")
        for subject in subjects:
            await plain.subscribe(subject)
            await plain.publish(subject, b"")
        assert len(await flushed(plain)) == 2 * len(subjects)
        client = await make_mqtt(who.identity.id, token).connected()
        for topic in ("$MQTT/msgs/#", "$MQTT/sub/#", "$JS/#", "$SYS/#", "_INBOX/#"):
            assert await client.subscribe(topic) == FAILURE
        assert await client.subscribe("#", 1) == 1
        await plain.close()

    async def test_request_and_reply(self, hub: Server, people: People) -> None:
        asks, answers = access([allow("publish", "${tenant}/rpc")]), access([allow("subscribe", "${tenant}/rpc")])
        server = await nats_client(hub, people.add(answers))

        async def reply(message: Msg) -> None:
            await message.respond(b"pong")

        await server.subscribe("acme.rpc", cb=reply)
        await server.flush()
        client = await nats_client(hub, people.add(asks), inbox_prefix=inbox(asks).removesuffix(".>"))
        assert (await client.request("acme.rpc", b"ping", timeout=1)).data == b"pong"
        await client.close()
        await server.close()

    async def test_nobody_reads_anothers_inbox_or_writes_into_another_tenant(self, hub: Server, people: People) -> None:
        here = [allow("all", "${tenant}/#")]
        mine, theirs = access(here), access(here, where=tenant("globex"))
        system = access([allow("all", "#")], where=tenant(SYSTEM_TENANT))
        half = access([allow("subscribe", "+/+/x")], where=tenant(SYSTEM_TENANT))
        for who in (theirs, system, half):
            client = await nats_client(hub, people.add(who))
            await client.subscribe(inbox(mine))
            assert await flushed(client)
            await client.close()
        client = await nats_client(hub, people.add(system))
        everything = await client.subscribe(">")
        other = await nats_client(hub, people.add(mine))
        await other.publish(inbox(mine).replace(">", "x"), b"to myself")
        await other.publish("acme.x", b"seen")
        assert (await everything.next_msg(1)).data == b"seen"
        assert not await flushed(other)
        await other.publish(inbox(theirs).replace(">", "x"), b"across")
        assert await flushed(other)
        await client.close()
        await other.close()

    async def test_a_reply_subject_does_not_make_others_speak(self, hub: Server, people: People) -> None:
        """Who answers is not made to publish where the one who asks may not."""
        asks, answers = access([allow("publish", "${tenant}/rpc")]), access([allow("subscribe", "${tenant}/rpc")])
        listener = access([allow("subscribe", "${tenant}/#")], where=tenant("globex"))
        hears = await nats_client(hub, people.add(listener))
        heard = await hears.subscribe("globex.>")
        await hears.flush()
        server = await nats_client(hub, people.add(answers))
        question = await server.subscribe("acme.rpc")
        await server.flush()
        client = await nats_client(hub, people.add(asks))
        await client.publish("acme.rpc", b"ping", reply="globex.commands")
        await (await question.next_msg(1)).respond(b"injected")
        assert await flushed(server)
        with pytest.raises(NatsError):
            await heard.next_msg(0.3)
        for each in (hears, server, client):
            await each.close()

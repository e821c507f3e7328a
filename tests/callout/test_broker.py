"""Real nats-servers, real MQTT and NATS clients, and our answers: each pitfall of the callout, avoided."""

import asyncio
import signal
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any
from weakref import WeakKeyDictionary

import nats
import orjson
import pytest
from nats.aio.client import Client
from nats.aio.msg import Msg
from nats.errors import Error as NatsError

from callout.broker import Broker, Watch
from callout.permissions import inbox
from callout.service import CalloutService
from iam.access import Denied
from iam.errors import Refused
from iam.model import SYSTEM_TENANT
from tests.callout.brokers import (
    Mqtt,
    People,
    Server,
    access,
    allow,
    deny,
    free_port,
    now,
    tenant,
)
from tests.callout.conftest import MakeMqtt

pytestmark = pytest.mark.usefixtures("broker")

OWN = [allow("all", "${tenant}/${identity}/#")]
FAILURE = 128
NOT_AUTHORIZED = (4, 5, 134, 135)  # CONNACK codes 4 and 5 of MQTT 3.1.1, and as paho renames them for version 5

Certified = Callable[..., Mqtt]

ERRORS: WeakKeyDictionary[Client, list[str]] = WeakKeyDictionary()
"""What each NATS client was told that it may not do."""


async def nats_client(server: Server, secret: str, *, token: bool = False, **options: Any) -> Client:
    credentials: dict[str, Any] = {"token": secret} if token else {"user": "anybody", "password": secret}
    errors: list[str] = []

    async def on_error(error: Exception) -> None:
        errors.append(str(error))

    client = await nats.connect(
        options.pop("url", server.url), allow_reconnect=False, error_cb=on_error, **credentials, **options
    )
    ERRORS[client] = errors
    return client


async def refused(server: Server, user: str, password: str) -> bool:
    """Try to get in, by hand: the client library leaves its socket open when it is refused."""
    reader, writer = await asyncio.open_connection("127.0.0.1", server.nats)
    options = {"user": user, "pass": password, "verbose": False, "pedantic": False}
    writer.write(b"CONNECT " + orjson.dumps(options) + b"\r\nPING\r\n")
    answer = await reader.readline()
    while answer.startswith(b"INFO"):
        answer = await reader.readline()
    writer.close()
    await writer.wait_closed()
    return answer.startswith(b"-ERR 'Authorization Violation'")


async def flushed(client: Client) -> list[str]:
    await client.flush()
    await asyncio.sleep(0.05)
    return ERRORS[client]


class TestWhoGetsIn:
    async def test_a_token_as_mqtt_password(self, people: People, make_mqtt: MakeMqtt) -> None:
        who = access(OWN)
        client = await make_mqtt(who.identity.id, people.add(who)).connected()
        assert await client.subscribe(f"acme/{who.identity.id}/#") == 0
        await client.publish(f"acme/{who.identity.id}/one", b"1")
        received = await client.received()
        assert received is not None
        assert received.payload == b"1"

    async def test_a_token_over_websocket(self, hub: Server, people: People, make_mqtt: MakeMqtt) -> None:
        who = access(OWN)
        token = people.add(who)
        client = make_mqtt(who.identity.id, token, port=hub.websocket, transport="websockets")
        assert await client.connect() == 0
        assert await make_mqtt(who.identity.id, "x", port=hub.websocket, transport="websockets").connect() != 0

    @pytest.mark.parametrize("as_token", [False, True])
    async def test_a_token_over_nats(self, hub: Server, people: People, as_token: bool) -> None:
        who = access(OWN)
        client = await nats_client(hub, people.add(who), token=as_token)
        subscription = await client.subscribe(f"acme.{who.identity.id}.>")
        await client.publish(f"acme.{who.identity.id}.x", b"1")
        assert (await subscription.next_msg(2)).data == b"1"
        await client.close()

    @pytest.mark.filterwarnings("ignore:parameter .timeout.:DeprecationWarning")  # the library calls aiohttp so
    async def test_a_token_over_nats_websocket(self, hub: Server, people: People) -> None:
        who = access(OWN)
        client = await nats_client(hub, people.add(who), url=f"ws://127.0.0.1:{hub.websocket}")
        await client.close()

    async def test_a_device_certificate_over_mqtt(self, people: People, certified: Certified) -> None:
        people.add(access([allow("all", "${tenant}/devices/${device}/#")], ["meter-001"], device="meter-001"))
        client = await certified("meter-001").connected()
        assert await client.subscribe("acme/devices/meter-001/#", 1) == 1
        assert await client.subscribe("acme/devices/meter-002/#", 1) == FAILURE

    async def test_a_certificate_that_never_ends(self, people: People, certified: Certified) -> None:
        """RFC 5280 4.1.2.5: 99991231235959Z, as in the certificates that manufacturers put into devices."""
        who = access(OWN, device="meter-9999")
        people.add(who)
        client = await certified("meter-9999", not_after=datetime(9999, 12, 31, 23, 59, 59, tzinfo=UTC)).connected()
        assert not await client.was_cut(0.3)

    async def test_a_certificate_of_nobody_gets_in_nowhere(self, certified: Certified) -> None:
        assert await certified("stranger").connect() in (None, *NOT_AUTHORIZED)

    async def test_a_password_beside_a_certificate_is_what_counts(self, people: People, certified: Certified) -> None:
        people.add(access(OWN, device="meter-001"))
        assert await certified("meter-001", secret="wrong").connect() in (None, *NOT_AUTHORIZED)

    @pytest.mark.parametrize("secret", [None, "wrong"])
    async def test_nothing_else(self, hub: Server, make_mqtt: MakeMqtt, secret: str | None) -> None:
        assert await make_mqtt("idt-x", secret).connect() in (None, *NOT_AUTHORIZED)
        assert await refused(hub, "anybody", secret or "")

    @pytest.mark.parametrize("user", ["static", "sys", "callout"])
    async def test_pitfall_8_a_static_users_name_is_worth_nothing(self, hub: Server, people: People, user: str) -> None:
        """The broker asks about wrong passwords of its own users: the answer heeds only the password."""
        assert await refused(hub, user, "wrong")
        who = access(OWN)
        if user == "static":
            client = await nats.connect(hub.url, user=user, password=people.add(who), allow_reconnect=False)
            with pytest.raises(NatsError):
                await client.request("acme.anything", b"", timeout=0.2)
            await client.close()

    async def test_pitfall_7_a_token_of_3_kilobytes_passes(
        self, hub: Server, people: People, make_mqtt: MakeMqtt
    ) -> None:
        who = access(OWN)
        token = people.add(who)
        people.tokens[token * 75] = people.tokens[token]
        assert len(token * 75) > 3000
        await (await nats_client(hub, token * 75)).close()
        assert await make_mqtt(who.identity.id, token * 75).connect() == 0

    async def test_the_connection_ends_with_the_credential(self, people: People, make_mqtt: MakeMqtt) -> None:
        who = access(OWN)
        client = await make_mqtt(who.identity.id, people.add(who, valid=timedelta(seconds=1.5))).connected()
        assert await client.was_cut(4)

    async def test_an_expired_credential_does_not_get_in(self, people: People, make_mqtt: MakeMqtt) -> None:
        who = access(OWN)
        assert await make_mqtt(who.identity.id, people.add(who, valid=timedelta(0))).connect() != 0


class TestClientIdentifier:
    """Pitfall 3: whoever has the client identifier has the session."""

    async def test_another_identitys_is_refused_and_evicts_nobody(self, people: People, make_mqtt: MakeMqtt) -> None:
        victim, thief = access(OWN), access(OWN)
        one = await make_mqtt(victim.identity.id, people.add(victim)).connected()
        token = people.add(thief)
        for client in (victim.identity.id, victim.identity.id + "/x", thief.identity.id + "x", "anything"):
            assert await make_mqtt(client, token).connect() != 0
        assert not one.gone.is_set()

    async def test_ones_own_with_a_suffix(self, people: People, make_mqtt: MakeMqtt) -> None:
        who = access(OWN, device="meter-001")
        token = people.add(who)
        for client in (who.identity.id, who.identity.id + "/a", "meter-001", "meter-001/b/c"):
            assert await make_mqtt(client, token).connect() == 0

    async def test_none_at_all_is_refused(self, people: People, make_mqtt: MakeMqtt) -> None:
        """The broker makes one up, which another client could choose as well."""
        assert await make_mqtt("", people.add(access(OWN))).connect() != 0


class TestDefaultDeny:
    async def test_pitfall_1_no_rules_is_no_topics(self, hub: Server, people: People, make_mqtt: MakeMqtt) -> None:
        who = access([])
        token = people.add(who)
        client = await make_mqtt(who.identity.id, token).connected()
        for topic in ("acme/x", "#", "+", f"acme/{who.identity.id}/x", "$SYS/#", "_INBOX/#"):
            assert await client.subscribe(topic) == FAILURE
        plain = await nats_client(hub, token)
        for subject in (">", "acme.x", "_INBOX.>", "$SYS.>", "$MQTT.>"):
            await plain.subscribe(subject)
            await plain.publish(subject.replace(">", "x"), b"")
        assert len(await flushed(plain)) == 10
        await plain.close()

    async def test_pitfall_1_publishing_alone_is_not_subscribing(self, people: People, make_mqtt: MakeMqtt) -> None:
        who = access([allow("publish", "${tenant}/up")])
        client = await make_mqtt(who.identity.id, people.add(who)).connected()
        assert await client.subscribe("acme/up") == FAILURE
        for qos in (0, 1, 2):
            assert await client.publish("acme/up", qos=qos)

    async def test_pitfall_1_subscribing_alone_is_not_publishing(self, people: People, make_mqtt: MakeMqtt) -> None:
        who, hears = access([allow("subscribe", "${tenant}/up")]), access([allow("all", "${tenant}/#")])
        client = await make_mqtt(who.identity.id, people.add(who)).connected()
        other = await make_mqtt(hears.identity.id, people.add(hears)).connected()
        assert await other.subscribe("acme/#") == 0
        await client.publish("acme/up", b"no", qos=1)
        assert await other.received(0.3) is None

    async def test_pitfall_6_a_denied_publish_is_dropped_though_acknowledged(
        self, people: People, make_mqtt: MakeMqtt
    ) -> None:
        who = access([allow("all", "${tenant}/#"), deny("publish", "${tenant}/secret/#")])
        client = await make_mqtt(who.identity.id, people.add(who)).connected()
        assert await client.subscribe("acme/#", 1) == 1
        for topic in ("acme/secret/x", "acme/secret"):
            assert await client.publish(topic, b"no", qos=1)
        await client.publish("acme/open", b"yes", qos=1)
        received = await client.received()
        assert received is not None
        assert received.payload == b"yes"
        assert await client.received(0.2) is None

    async def test_what_is_denied_is_not_delivered_through_a_wider_filter(
        self, people: People, make_mqtt: MakeMqtt
    ) -> None:
        writer = access([allow("publish", "${tenant}/#")])
        reader = access([allow("subscribe", "${tenant}/#"), deny("subscribe", "${tenant}/secret/#")])
        source = await make_mqtt(writer.identity.id, people.add(writer)).connected()
        await source.publish("acme/secret/kept", b"kept", qos=1, retain=True)
        client = await make_mqtt(reader.identity.id, people.add(reader)).connected()
        assert await client.subscribe("acme/secret/#", 1) == FAILURE
        for qos in (0, 1, 2):
            assert await client.subscribe("acme/#", qos) == qos
            for topic in ("acme/secret", "acme/secret/x"):
                await source.publish(topic, b"no", qos=qos)
            await source.publish("acme/open", b"yes", qos=qos)
            received = await client.received()
            assert received is not None
            assert received.topic == "acme/open"
        assert await client.received(0.3) is None
        await source.publish("acme/secret/kept", b"", qos=1, retain=True)

    @pytest.mark.parametrize(
        ("allowed", "asked"), [("one/+/x", "one/#"), ("one/a", "one/+"), ("one/+", "one/+/+"), ("one/a", "#")]
    )
    async def test_no_filter_that_is_wider_than_what_is_allowed(
        self, hub: Server, people: People, make_mqtt: MakeMqtt, allowed: str, asked: str
    ) -> None:
        who = access([allow("subscribe", "${tenant}/" + allowed)])
        token = people.add(who)
        client = await make_mqtt(who.identity.id, token).connected()
        assert await client.subscribe("acme/" + allowed) == 0
        assert await client.subscribe("acme/" + asked) == FAILURE
        plain = await nats_client(hub, token)
        await plain.subscribe(("acme/" + asked).replace("/", ".").replace("+", "*").replace("#", ">"))
        assert await flushed(plain)
        await plain.close()

    @pytest.mark.parametrize("rules", [["one/+"], ["one/+", "one"], ["one/+", "two/+/x"]])
    async def test_a_plus_at_the_end_does_not_open_what_is_deeper(
        self, hub: Server, people: People, make_mqtt: MakeMqtt, rules: list[str]
    ) -> None:
        """nats-server takes a subscription to `one.>` from who may `one.*`; what is deeper is not delivered."""
        who = access([allow("subscribe", "${tenant}/" + rule) for rule in rules])
        writer = access([allow("publish", "${tenant}/#")])
        token = people.add(who)
        source = await nats_client(hub, people.add(writer))
        plain = await nats_client(hub, token)
        heard = [await plain.subscribe(subject) for subject in ("acme.one.>", "acme.>", "acme.one.*")]
        await plain.flush()
        client = await make_mqtt(who.identity.id, token).connected()
        for topic in ("acme/one/#", "acme/one/+"):
            await client.subscribe(topic, 1)
        for subject in ("acme.one.a.b", "acme.one.a.b.c", "acme.two.a", "acme.one.a"):
            await source.publish(subject, subject.encode())
        for subscription in (heard[0], heard[2]):
            assert (await subscription.next_msg(1)).subject == "acme.one.a"
            assert subscription.pending_msgs == 0
        assert heard[1].pending_msgs == 0
        received = await client.received()
        while received is not None:
            assert received.topic == "acme/one/a"
            received = await client.received(0.2)
        await plain.close()
        await source.close()

    async def test_a_plus_at_the_end_gives_way_to_what_is_deeper(self, hub: Server, people: People) -> None:
        who = access([allow("subscribe", "${tenant}/one/+"), allow("subscribe", "${tenant}/one/+/x")])
        plain = await nats_client(hub, people.add(who))
        await plain.subscribe("acme.one.*.x")
        assert not await flushed(plain)
        for subject in ("acme.one.>", "acme.one.*"):
            await plain.subscribe(subject)
        assert len(await flushed(plain)) == 2
        await plain.close()


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


class TestAnswers:
    async def test_pitfall_9_a_refusal_does_not_hold_the_client(self, make_mqtt: MakeMqtt) -> None:
        began = time.monotonic()
        assert await make_mqtt("idt-x", "wrong").connect() != 0
        assert time.monotonic() - began < 1

    async def test_pitfall_11_slow_answers_do_not_queue_up(self, people: People, make_mqtt: MakeMqtt) -> None:
        people.delay = 0.3
        clients = []
        for _ in range(20):
            who = access(OWN)
            clients.append(make_mqtt(who.identity.id, people.add(who)))
        began = time.monotonic()
        assert await asyncio.gather(*(client.connect() for client in clients)) == [0] * 20
        assert time.monotonic() - began < 2

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
            assert time.monotonic() - began < 2.5
        await answering.stop()

    async def test_a_server_that_is_not_there_keeps_no_other_waiting(
        self, lonely_server: Callable[[], Server], people: People, service: CalloutService, make_mqtt: MakeMqtt
    ) -> None:
        server = lonely_server()
        absent = Server(free_port(), free_port(), 0)
        answering = Broker([absent.endpoint("callout"), server.endpoint("callout")], service)
        await asyncio.wait_for(answering.start(), 2)
        who = access(OWN)
        token = people.add(who)
        assert await make_mqtt(who.identity.id, token, port=server.mqtt).connect() == 0
        watch = Watch([absent.endpoint("sys"), server.endpoint("sys")], people, now)
        await asyncio.wait_for(watch.start(), 3)
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
        server = lonely_server()
        assert server.process is not None
        server.process.terminate()
        server.process.wait()
        answering = Broker([server.endpoint("callout")], service)
        starting = asyncio.create_task(answering.start())
        watch = Watch([server.endpoint("sys")], people, now)
        await asyncio.wait_for(watch.start(), 3)
        with pytest.raises(Refused):
            await watch.sweep()
        await asyncio.wait_for(watch.stop(), 1)
        await asyncio.wait_for(watch.start(), 3)
        lonely_server()
        await asyncio.wait_for(starting, 2)
        who = access(OWN)
        client = make_mqtt(who.identity.id, people.add(who), port=server.mqtt)
        assert await client.connect() == 0
        async with asyncio.timeout(3):
            while not watch.reconciler.connections.of(who.identity.id):  # noqa: ASYNC110 - the watch tells nobody
                await asyncio.sleep(0.01)
        await watch.stop()
        await answering.stop()

    async def test_a_callout_that_reached_no_server_stops(self, service: CalloutService) -> None:
        answering = Broker([Server(free_port(), free_port(), 0).endpoint("callout")], service)
        starting = asyncio.create_task(answering.start())
        await asyncio.sleep(0.2)
        starting.cancel()
        await asyncio.wait_for(answering.stop(), 1)
        assert not [task for task in asyncio.all_tasks() if "_join" in repr(task.get_coro())]

    async def test_a_server_may_come_later_than_the_callout(
        self, lonely_server: Callable[[], Server], people: People, service: CalloutService, make_mqtt: MakeMqtt
    ) -> None:
        server = lonely_server()
        assert server.process is not None
        server.process.terminate()
        server.process.wait()
        answering = Broker([server.endpoint("callout")], service)
        starting = asyncio.create_task(answering.start())
        await asyncio.sleep(0.3)
        lonely_server()
        await asyncio.wait_for(starting, 2)
        who = access(OWN)
        assert await make_mqtt(who.identity.id, people.add(who), port=server.mqtt).connect() == 0
        await answering.stop()

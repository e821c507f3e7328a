"""Real nats-servers, real MQTT and NATS clients, and our answers: each pitfall of the callout, avoided."""

from datetime import UTC, datetime, timedelta

import nats
import pytest
from nats.errors import Error as NatsError

from tests.callout.brokers import People, Server, access, allow, deny
from tests.callout.conftest import Certified, MakeMqtt
from tests.callout.nats_clients import FAILURE, flushed, nats_client, refused

pytestmark = pytest.mark.usefixtures("broker")

OWN = [allow("all", "${tenant}/${identity}/#")]
NOT_AUTHORIZED = (4, 5, 134, 135)  # CONNACK codes 4 and 5 of MQTT 3.1.1, and as paho renames them for version 5


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
        people.tokens[token * 75], people.sessions[token * 75] = people.tokens[token], people.sessions[token]
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

"""nats-server, MQTT and NATS clients, and our answers: what each pitfall of the callout looks like when it is avoided."""

from tests.callout.brokers import People, access, allow
from tests.callout.conftest import MakeMqtt


async def test_a_token_as_password_lets_in(broker: object, people: People, make_mqtt: MakeMqtt) -> None:
    who = access([allow("all", "${tenant}/#")])
    token = people.add(who)
    client = await make_mqtt(who.identity.id, token).connected()
    assert await client.subscribe("acme/#") == 0
    await client.publish("acme/one", b"1")
    received = await client.received()
    assert received is not None
    assert received.payload == b"1"

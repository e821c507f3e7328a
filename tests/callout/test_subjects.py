"""MQTT topics and NATS subjects: the same in both directions, and the same as nats-server has it."""

import nats
import pytest
from hypothesis import given
from hypothesis import strategies as st

from callout.subjects import filter_subjects
from certs.names import DEVICE_IDENTIFIER
from iam.errors import Refused
from iam.model import SYSTEM_TENANT
from tests.callout.brokers import People, Server, access, allow, tenant
from tests.callout.conftest import MakeMqtt

ODD_TOPICS = [
    "a",
    "/",
    "//",
    "///",
    "/a",
    "a/",
    "/a/",
    "a//b",
    "a///b",
    "a.b",
    "a.b/c",
    "a/.b",
    "a./b",
    "./.",
    ".",
    "..",
    "a..b/c",
    "/.a",
    "a/b.",
    "a/./b",
    "meter.1:x_y-z/up",
    "é/ü",
]

level = st.text(st.characters(exclude_characters="/", exclude_categories=("Cc", "Cs", "Zs", "Zl", "Zp")), max_size=6)
plain = level.filter(lambda text: not set(text) & set("*>+#"))


def topic_subject(topic: str) -> str:
    """Return the NATS subject of a topic: a filter without a wildcard is one."""
    (subject,) = filter_subjects(topic)
    return subject


def delivered_on(subject: str) -> str:
    """Return the MQTT topic that nats-server delivers a subject on."""
    return "/".join("" if part == "/" else part.replace("//", ".") for part in subject.split("."))


@given(st.lists(plain, min_size=1, max_size=5).map("/".join).filter(bool))
def test_there_and_back(topic: str) -> None:
    subject = topic_subject(topic)
    assert delivered_on(subject) == topic
    assert len(subject.split(".")) == len(topic.split("/"))
    assert all(token not in ("", "*", ">") for token in subject.split("."))


@given(st.lists(st.from_regex(DEVICE_IDENTIFIER, fullmatch=True), min_size=1, max_size=3), st.sampled_from("+#"))
def test_an_identifier_is_one_token_wherever_it_stands(devices: list[str], wildcard: str) -> None:
    subjects = filter_subjects("/".join(["acme", *devices, wildcard]))
    tokens = subjects[0].split(".")
    assert len(tokens) == len(devices) + 2
    assert tokens[-1] == {"+": "*", "#": ">"}[wildcard]
    assert not any({"*", ">"} & set(token) for token in tokens[:-1])
    assert [delivered_on(token) for token in tokens[1:-1]] == devices


@given(plain.filter(bool), plain.filter(bool))
def test_two_topics_are_never_one_subject(one: str, other: str) -> None:
    assert (topic_subject(one) == topic_subject(other)) is (one == other)


@pytest.mark.parametrize("topic", ["", "a b", "a\tb", "a\x00", "\x7f", "*", ">", "a/*", "a/>", "a>b", "a+"])
def test_what_would_be_read_in_two_ways_is_refused(topic: str) -> None:
    with pytest.raises(Refused):
        topic_subject(topic)


@pytest.mark.parametrize("topic_filter", ["", "a/#/b", "a+/b", "a/b#", "#/a", "a/*", "a/>", "*", "a b/#"])
def test_so_are_filters(topic_filter: str) -> None:
    with pytest.raises(Refused):
        filter_subjects(topic_filter)


@pytest.mark.parametrize(
    ("topic_filter", "subjects"),
    [
        ("#", (">",)),
        ("+", ("*",)),
        ("a/#", ("a.>", "a")),
        ("+/#", ("*.>", "*")),
        ("a/+/b", ("a.*.b",)),
        ("a.b/#", ("a//b.>", "a//b")),
        ("/#", ("/.>", "/")),
    ],
)
def test_filters(topic_filter: str, subjects: tuple[str, ...]) -> None:
    assert filter_subjects(topic_filter) == subjects


@pytest.mark.usefixtures("broker")
async def test_nats_server_spells_them_so(hub: Server, people: People, make_mqtt: MakeMqtt) -> None:
    who = access([allow("all", "#")], where=tenant(SYSTEM_TENANT))
    token = people.add(who)
    mqtt = await make_mqtt(who.identity.id, token).connected()
    client = await nats.connect(hub.url, user="x", password=token)
    heard = await client.subscribe(">")
    await client.flush()
    for topic in ODD_TOPICS:
        await mqtt.publish(topic, topic.encode())
    for topic in ODD_TOPICS:
        message = await heard.next_msg(1)
        assert (message.data.decode(), message.subject) == (topic, topic_subject(topic))
    assert await mqtt.subscribe("#") == 0
    for topic in ODD_TOPICS:
        await client.publish(topic_subject(topic), topic.encode())
        received = await mqtt.received()
        assert received is not None
        assert (received.topic, received.payload.decode()) == (topic, topic)
    await client.close()


@pytest.mark.usefixtures("broker")
@pytest.mark.parametrize("device", ["m.1", "m..1", "m:1", "a.b.c-d_e", "x."])
async def test_a_device_with_a_dot_has_its_own_topics_and_no_others(
    people: People, make_mqtt: MakeMqtt, device: str
) -> None:
    who = access([allow("all", "${tenant}/devices/${device}/#")], [device], device=device)
    mqtt = await make_mqtt(who.identity.id, people.add(who)).connected()
    assert await mqtt.subscribe(f"acme/devices/{device}/#", 1) == 1
    await mqtt.publish(f"acme/devices/{device}/up", b"1", 1)
    received = await mqtt.received()
    assert received is not None
    assert received.topic == f"acme/devices/{device}/up"
    for other in ("acme/devices/m/1/#", "acme/devices/m/#", "acme/devices/+/#", f"acme/devices/{device}x/#"):
        assert await mqtt.subscribe(other, 1) == 128

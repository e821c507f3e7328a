"""Events as they are published: CloudEvents 1.0 that read back as what they were, and nothing else that reads."""

import re
from datetime import UTC, datetime, timedelta
from typing import Any
from urllib.parse import urlsplit
from uuid import UUID, uuid4

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from iam.errors import Kind, Refused
from iam.events import Affected, Effect, Event, affects_identity, decode_event, encode_event

TEXT = st.text(st.characters(codec="utf-8"), min_size=1, max_size=40)
DATA = st.dictionaries(TEXT, st.none() | st.booleans() | st.integers(-(2**53), 2**53) | TEXT, max_size=4)
EVENTS = st.builds(
    Event,
    id=st.uuids(),
    tenant=st.uuids(),
    at=st.datetimes(datetime(1970, 1, 1), datetime(2200, 1, 1), timezones=st.just(UTC)),  # noqa: DTZ001 - aware by the third
    actor=TEXT,
    kind=st.from_regex(r"[a-z_]{1,20}\.[a-z_]{1,20}", fullmatch=True),
    subject=TEXT,
    data=DATA,
)
# CloudEvents 1.0.2, 3: at least one character, of lower-case letters and digits.
ATTRIBUTE = re.compile(r"[a-z0-9]{1,20}")
RFC3339 = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?([Zz]|[+-]\d\d:\d\d)")


@given(EVENTS)
def test_an_event_is_a_cloudevent_and_reads_back(event: Event) -> None:
    raw = orjson.loads(encode_event(event))
    assert all(ATTRIBUTE.fullmatch(name) for name in raw)
    # 3.1.1: these four, none of them empty; 3.2: of the others, none is empty that is there.
    assert raw["specversion"] == "1.0"
    texts = ("id", "source", "type", "specversion", "subject", "time", "datacontenttype", "tenant", "actor")
    assert all(isinstance(raw[name], str) and raw[name] for name in texts)
    assert urlsplit(raw["source"]).scheme == "urn"
    assert RFC3339.fullmatch(raw["time"])
    assert set(raw) == {*texts, "data"}
    assert decode_event(encode_event(event)) == event


def event(**said: Any) -> dict[str, Any]:
    whole: dict[str, Any] = orjson.loads(
        encode_event(Event(uuid4(), uuid4(), datetime.now(UTC), "doorward", "device.created", "meter-001", {}))
    )
    return {name: value for name, value in {**whole, **said}.items() if value is not ...}


def test_who_reads_passes_over_what_he_does_not_know() -> None:
    found = decode_event(orjson.dumps(event(traceparent="00-aa-bb-00", data={"more": 1})))
    assert (found.kind, found.data) == ("device.created", {"more": 1})


@pytest.mark.parametrize(
    "message",
    [
        b"",
        b"{",
        b"[]",
        b"null",
        b"1",
        b'"x"',
        *(orjson.dumps(event(**{name: ...})) for name in ("id", "type", "time", "tenant", "actor", "subject", "data")),
        orjson.dumps(event(specversion="2.0")),
        orjson.dumps(event(specversion=...)),
        orjson.dumps(event(type="com.example.created")),
        orjson.dumps(event(type=1)),
        orjson.dumps(event(id="x")),
        orjson.dumps(event(tenant=None)),
        orjson.dumps(event(tenant=[1])),
        orjson.dumps(event(time="yesterday")),
        orjson.dumps({"id": str(uuid4()), "tenant": str(uuid4()), "kind": "device.created"}),
    ],
)
def test_what_is_no_event_of_ours_is_refused(message: bytes) -> None:
    with pytest.raises(Refused) as refused:
        decode_event(message)
    assert refused.value.kind is Kind.MALFORMED


def test_an_event_says_whose_access_it_touches_and_where_it_is_published() -> None:
    tenant = UUID(int=1)
    at = datetime(2026, 1, 1, tzinfo=UTC) + timedelta(microseconds=1)
    one = Event(uuid4(), tenant, at, "doorward", "device.enrolled", "meter-001", affects_identity("idt-1"))
    assert decode_event(encode_event(one)).effects == (Effect(Affected.IDENTITY, "idt-1"),)
    assert one.channel == f"doorward.events.{tenant}.device.enrolled"

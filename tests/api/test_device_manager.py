"""The device manager over REST: devices, metadata, import, groups and statistics, each within the caller's reach."""

import asyncio
from collections.abc import AsyncIterator
from datetime import datetime, timedelta
from typing import Any
from urllib.parse import quote, urlencode
from uuid import uuid4

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from iam.store.database import EVERYWHERE
from iam.store.tenants import tenant_by_name
from tests.api.conftest import Answer, Api

BASE = "/api/devmanager/v1"
DEVICES = f"{BASE}/devices"
GROUPS = f"{BASE}/device-groups"
ALL = ("*", "create read update delete")
CSV = {"Content-Type": "text/csv"}


async def acme(api: Api) -> str:
    """A group with two others beside it; a token of its administrator."""
    await api.tenant("acme")
    await api.role("acme", "boss", ALL)
    await api.role("acme", "worker", ("devices", "create read update delete"), ("devices.*", "read"))
    return await api.person("acme", "boss", "anna")


async def other(api: Api) -> str:
    await api.tenant("other")
    await api.role("other", "boss", ALL)
    return await api.person("other", "boss", "olga")


async def registered(api: Api, token: str, identifier: str, **said: Any) -> Any:
    answer = await api.call("POST", DEVICES, {"id": identifier, **said}, token=token)
    assert answer.status == 201, answer
    return answer.body


async def found(api: Api, token: str, path: str = DEVICES, **query: Any) -> list[str]:
    answer = await api.call("GET", f"{path}?{urlencode(query, doseq=True)}", token=token)
    assert answer.status == 200, answer
    return [one["id"] for one in answer.body["list"]]


async def patch(api: Api, token: str, identifier: str, *operations: dict[str, Any]) -> Answer:
    return await api.call("PATCH", f"{DEVICES}/{identifier}/metadata", {"patches": operations}, token=token)


async def test_a_device_is_registered_as_lamassu_does_and_shown_as_it_was_said(api: Api) -> None:
    token = await acme(api)
    said = {
        "id": "meter-1",
        "alias": "The meter",
        "tags": ["sensor", "floor 3"],
        "metadata": {"site": "berlin", "ports": [80, None]},
        "labels": {"line": "4"},
        "dms_id": "default",
        "icon": "gauge",
        "icon_color": "#0068D1-#FFFFFF",
    }
    answer = await api.call("POST", DEVICES, said, token=token)
    assert (answer.status, answer.headers["Location"]) == (201, f"{DEVICES}/meter-1")
    created = answer.body.pop("creation_timestamp")
    dms = said.pop("dms_id")
    assert answer.body == {**said, "status": "NO_IDENTITY", "dms_owner": dms, "slots": {}}
    again = (await api.call("GET", f"{DEVICES}/meter-1", token=token)).body
    assert again == {**answer.body, "creation_timestamp": created}
    # The same device under the API that was there before.
    assert (await api.call("GET", "/api/v1/devices/meter-1", token=token)).body["labels"] == {"line": "4"}
    assert await found(api, token, f"{DEVICES}/dms/default") == ["meter-1"]
    assert await found(api, token, f"{DEVICES}/dms/elsewhere") == []


UNFIT: list[dict[str, Any]] = [
    {"id": "a/b"},
    {"id": ""},
    {"id": "x" * 129},
    {"id": "a", "tags": [""]},
    {"id": "a", "tags": ["x" * 65]},
    {"id": "a", "tags": ["x"] * 65},
    {"id": "a", "tags": ["line\nbreak"]},
    {"id": "a", "metadata": {"x": "y" * 20_000}},
    {"id": "a", "labels": {"": "x"}},
    {"id": "a", "dms_id": "nowhere"},
    {"id": "a", "status": "ACTIVE"},
    {"id": "a", "icon": "x" * 65},
    {"tags": []},
]


async def test_what_cannot_be_registered_is_refused_and_leaves_nothing(api: Api) -> None:
    token = await acme(api)
    for said in UNFIT:
        answer = await api.call("POST", DEVICES, said, token=token)
        assert answer.status == 400, (said, answer)
    assert await found(api, token) == []


async def test_a_label_of_another_group_registers_nothing(api: Api) -> None:
    token, theirs = await acme(api), await other(api)
    factory = (await api.call("GET", "/ca/factory.crt")).body
    trust = {"client_certificate_settings": {"validation_cas": [_pem(factory)]}}
    profile = {"id": "their-line", "settings": {"enrollment_settings": {"est_rfc7030_settings": trust}}}
    made = await api.call("POST", "/api/dmsmanager/v1/dms", profile, token=theirs)
    assert made.status == 201, made
    assert (await api.call("POST", DEVICES, {"id": "a", "dms_id": "their-line"}, token=token)).status == 400
    assert (await api.call("POST", DEVICES, {"id": "a", "dms_id": "their-line"}, token=theirs)).status == 201


def _pem(der: bytes) -> str:
    return x509.load_der_x509_certificate(der).public_bytes(Encoding.PEM).decode()


async def test_devices_are_found_by_filters_sorted_and_paged(api: Api) -> None:
    token = await acme(api)
    for number in range(5):
        await registered(
            api,
            token,
            f"meter-{number}",
            tags=["even" if number % 2 == 0 else "odd", "Meter"],
            metadata={"site": "berlin" if number < 3 else "paris", "rank": 10 - number},
        )
    assert await found(api, token, filter='metadata[jsonpath]$.site == "paris"') == ["meter-3", "meter-4"]
    assert await found(api, token, filter=["tags[ct]even", "id[ne]meter-0"]) == ["meter-2", "meter-4"]
    assert await found(api, token, filter="tags[contains_ignorecase]=meter", page_size=2) == ["meter-0", "meter-1"]
    by_rank = await found(api, token, sort_by="metadata[jsonpath]$.rank", page_size=2)
    assert by_rank == ["meter-4", "meter-3"]
    first = await api.call("GET", f"{DEVICES}?page_size=3&sort_mode=desc", token=token)
    assert [one["id"] for one in first.body["list"]] == ["meter-4", "meter-3", "meter-2"]
    second = await api.call("GET", f"{DEVICES}?bookmark={quote(first.body['next'])}", token=token)
    assert [one["id"] for one in second.body["list"]] == ["meter-1", "meter-0"]
    assert "next" not in second.body


async def test_a_question_that_does_not_fit_is_refused(api: Api) -> None:
    token = await acme(api)
    for query in (
        "filter=nothing[eq]x",
        "filter=status[eq]GONE",
        "sort_by=identity",
        "bookmark=x",
        "page_size=0",
        "filter=id",
        "x=y",
    ):
        assert (await api.call("GET", f"{DEVICES}?{query}", token=token)).status == 400, query


async def test_metadata_is_patched_whole_or_not_at_all(api: Api) -> None:
    token = await acme(api)
    await registered(api, token, "meter-1", metadata={"site": "berlin"})
    add = {"op": "add", "path": "/floor", "value": 3}
    answer = await patch(api, token, "meter-1", {"op": "test", "path": "/site", "value": "berlin"}, add)
    assert (answer.status, answer.body["metadata"]) == (200, {"site": "berlin", "floor": 3})
    failing = {"op": "test", "path": "/site", "value": "paris"}
    assert (await patch(api, token, "meter-1", {"op": "remove", "path": "/site"}, failing)).status == 409
    assert (await patch(api, token, "meter-1", {"op": "sing", "path": "/site"})).status == 400
    large = {"op": "add", "path": "/x", "value": "y" * 20_000}
    assert (await patch(api, token, "meter-1", large)).status == 422
    put = await api.call("PUT", f"{DEVICES}/meter-1/metadata", {"patches": [add]}, token=token)
    assert (put.status, put.body["metadata"]) == (200, {"site": "berlin", "floor": 3})
    types = [one["type"] for one in (await api.call("GET", f"{DEVICES}/meter-1/events", token=token)).body["list"]]
    assert types == ["CREATED", "SHADOW-UPDATED", "SHADOW-UPDATED"]


async def test_a_device_ends_by_decommissioning_and_then_deletion(api: Api) -> None:
    token = await acme(api)
    await registered(api, token, "meter-1")
    assert (await api.call("DELETE", f"{DEVICES}/meter-1", token=token)).status == 409
    gone = await api.call("DELETE", f"{DEVICES}/meter-1/decommission", token=token)
    assert (gone.status, gone.body["status"]) == (200, "DECOMMISSIONED")
    assert (await api.call("DELETE", f"{DEVICES}/meter-1/decommission", token=token)).status == 409
    assert (await patch(api, token, "meter-1", {"op": "add", "path": "/a", "value": 1})).status == 409
    assert (await api.call("PUT", f"{DEVICES}/meter-1/idslot", {"status": "REVOKED"}, token=token)).status == 409
    assert (await api.call("DELETE", f"{DEVICES}/meter-1", token=token)).status == 204
    assert (await api.call("GET", f"{DEVICES}/meter-1", token=token)).status == 404


async def test_history_is_of_the_device_that_is_there_now_and_chained_or_not(api: Api) -> None:
    token = await acme(api)
    await registered(api, token, "meter-1")
    await api.app.audit.chain()
    await patch(api, token, "meter-1", {"op": "add", "path": "/a", "value": 1})
    path = f"{DEVICES}/meter-1/events"
    listed = (await api.call("GET", f"{path}?sort_by=event_ts&sort_mode=desc", token=token)).body["list"]
    assert [one["type"] for one in listed] == ["SHADOW-UPDATED", "CREATED"]
    assert listed[0]["structured_fields"]["kind"] == "device.updated"
    assert await found(api, token, path, filter="event_type[eq]CREATED") == [listed[1]["id"]]
    first = await api.call("GET", f"{path}?page_size=1", token=token)
    second = await api.call("GET", f"{path}?bookmark={quote(first.body['next'])}", token=token)
    assert [one["type"] for one in second.body["list"]] == ["SHADOW-UPDATED"]
    await api.call("DELETE", f"{DEVICES}/meter-1/decommission", token=token)
    await api.call("DELETE", f"{DEVICES}/meter-1", token=token)
    await registered(api, token, "meter-1")
    assert [one["type"] for one in (await api.call("GET", path, token=token)).body["list"]] == ["CREATED"]


async def test_statistics_count_by_state_what_passes_the_filters(api: Api) -> None:
    token = await acme(api)
    for number in range(4):
        await registered(api, token, f"meter-{number}", tags=["a"] if number else [])
    await api.call("DELETE", f"{DEVICES}/meter-3/decommission", token=token)
    answer = (await api.call("GET", f"{BASE}/stats", token=token)).body
    assert (answer["total"], answer["status_distribution"]["NO_IDENTITY"]) == (4, 3)
    assert answer["status_distribution"]["DECOMMISSIONED"] == 1
    assert answer["status_distribution"]["EXPIRED"] == 0
    assert (await api.call("GET", f"{BASE}/stats?filter=tags[ct]a", token=token)).body["total"] == 3
    assert (await api.call("GET", f"{BASE}/stats?filter=status[eq]ACTIVE", token=token)).status == 400


async def test_an_import_registers_what_can_be_and_reports_the_rest_by_line(api: Api) -> None:
    token, theirs = await acme(api), await other(api)
    await registered(api, theirs, "taken")
    content = "\n".join(
        [
            "id,alias,tags,dms_id,metadata,metadata.site,label.line",
            'meter-1,The meter,sensor; floor 3,default,"{""ports"": [80]}",berlin,4',
            "meter 2,,,,,,",
            "meter-3,,,nowhere,,,",
            "taken,,,,,,",
            'meter-4,,,,,"a ""quoted""\nplace",',
            "meter-1,,,,,,",
            "meter-5,,",
            "meter-6,,,,not JSON,,",
            "",
            "meter-7,,,,[],,",
            f"meter-8,{'x' * 200},,,,,",
            "meter-9",
        ]
    )
    dry = await api.call("POST", f"{DEVICES}/import?dry_run=true", content.encode(), token=token, headers=CSV)
    assert dry.status == 200, dry
    assert await found(api, token) == []
    report = (await api.call("POST", f"{DEVICES}/import", content.encode(), token=token, headers=CSV)).body
    assert report == {**dry.body, "dry_run": False}
    assert (report["lines"], report["registered"], report["refused"]) == (11, 2, 9)
    reasons = {one["line"]: (one.get("id"), one["reason"]) for one in report["refusals"]}
    assert reasons == {
        3: ("meter 2", "not a device identifier: 'meter 2'"),
        4: ("meter-3", "there is no enrolment profile nowhere for this group"),
        5: ("taken", "the device identifier is taken"),
        8: ("meter-1", "the same device as in line 2"),
        9: (None, "3 fields, where the first line names 7 columns"),
        10: (None, "metadata: not JSON"),
        12: (None, "metadata: Input should be a valid dictionary"),
        13: (None, "alias: String should have at most 128 characters"),
        14: (None, "1 fields, where the first line names 7 columns"),
    }
    one = (await api.call("GET", f"{DEVICES}/meter-1", token=token)).body
    assert (one["tags"], one["metadata"]) == (["sensor", "floor 3"], {"ports": [80], "site": "berlin"})
    assert (one["labels"], one["dms_owner"]) == ({"line": "4"}, "default")
    assert (await api.call("GET", f"{DEVICES}/meter-4", token=token)).body["metadata"] == {"site": 'a "quoted"\nplace'}


async def test_a_file_that_is_no_list_of_devices_registers_nothing(api: Api) -> None:
    token = await acme(api)
    for content, detail in (
        (b"", "The file is empty"),
        (b"name\nmeter-1\n", "There is no column 'name'"),
        (b"alias\nx\n", "One column is `id`"),
        (b"id,id\na,b\n", "One column is `id`"),
        (b'"id\n', "The first line"),
        (b"\xff\xfe\n", "The first line"),
    ):
        answer = await api.call("POST", f"{DEVICES}/import", content, token=token, headers=CSV)
        assert answer.status == 400, content
        assert detail in answer.body["detail"]
    assert await found(api, token) == []


async def test_an_import_is_taken_as_it_comes(api: Api) -> None:
    """More than a body may otherwise have, in parts that end anywhere, of which some were registered before the end."""
    token = await acme(api)
    counts: list[int] = []

    async def parts() -> AsyncIterator[bytes]:
        yield b"id,metadata.note\n"
        for number in range(3000):
            line = f"meter-{number:04},{'x' * 1000}\n".encode()
            yield line[:7]
            yield line[7:]
            if number == 2900:
                await asyncio.sleep(0.5)  # what was sent arrives
                async with api.app.pool.transaction(await _tenant(api, "acme")) as transaction:
                    counts.append(await transaction.fetchval("SELECT count(*) FROM device"))

    answer = await api.call("POST", f"{DEVICES}/import", parts(), token=token, headers=CSV)
    assert (answer.status, answer.body["registered"], answer.body["refused"]) == (200, 3000, 0)
    assert (await api.call("GET", f"{BASE}/stats", token=token)).body["total"] == 3000
    assert counts[0] > 0


async def _tenant(api: Api, name: str) -> Any:
    async with api.app.pool.transaction(EVERYWHERE) as transaction:
        tenant = await tenant_by_name(transaction, name)
    assert tenant is not None
    return tenant.id


async def test_who_loses_his_right_while_he_imports_imports_no_more(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("iam.guard.JUDGED_EVERY_SECONDS", 0.0)
    await acme(api)
    root = await api.root_token()
    walter = await api.person("acme", "worker", "walter")

    async def parts() -> AsyncIterator[bytes]:
        yield b"id\n"
        for number in range(2000):
            yield f"meter-{number:04}\n".encode()
            if number == 1000:
                done = await api.call(
                    "PATCH", "/api/v1/iam/users/walter?tenant=acme", {"status": "suspended"}, token=root
                )
                assert done.status == 200, done

    answer = await api.call("POST", f"{DEVICES}/import", parts(), token=walter, headers=CSV)
    assert answer.status == 401, answer
    assert (await api.call("GET", f"{BASE}/stats?tenant=acme", token=root)).body["total"] <= 1250


async def test_an_import_too_large_is_refused_where_it_becomes_so(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    token = await acme(api)
    monkeypatch.setattr("iam.service.device_import.MOST_LINES", 3)
    content = b"id\n" + b"".join(b"meter-%d\n" % number for number in range(5))
    answer = await api.call("POST", f"{DEVICES}/import", content, token=token, headers=CSV)
    assert (answer.status, answer.body["detail"]) == (
        413,
        "An import has at most 3 lines. 0 devices were registered before that.",
    )
    assert (await api.call("POST", f"{DEVICES}/import", {"a": 1}, token=token)).status == 415


async def test_a_group_holds_what_fits_now(api: Api) -> None:
    token = await acme(api)
    await registered(api, token, "a", tags=["production", "sensor"])
    await registered(api, token, "b", tags=["production"], metadata={"site": "berlin"})
    await registered(api, token, "c", tags=["sensor"])
    identifier = str(uuid4())
    production = {
        "id": identifier,
        "name": "Production",
        "criteria": [{"field": "tags", "operand": "contains", "value": "production"}],
    }
    made = await api.call("POST", GROUPS, production, token=token)
    assert (made.status, made.headers["Location"]) == (201, f"{GROUPS}/{identifier}")
    assert made.body["criteria"] == production["criteria"]
    below = await api.call(
        "POST",
        GROUPS,
        {
            "name": "Sensors",
            "parent_id": identifier,
            "criteria": [{"field": "tags", "operand": "ct", "value": "sensor"}],
        },
        token=token,
    )
    assert below.body["inherited_criteria"] == production["criteria"]
    sensors = f"{GROUPS}/{below.body['id']}"
    assert await found(api, token, f"{GROUPS}/{identifier}/devices") == ["a", "b"]
    assert await found(api, token, f"{sensors}/devices") == ["a"]
    assert await found(api, token, f"{GROUPS}/{identifier}/devices", filter="id[ne]a") == ["b"]
    first = await api.call("GET", f"{GROUPS}/{identifier}/devices?page_size=1", token=token)
    assert await found(api, token, f"{GROUPS}/{identifier}/devices", bookmark=first.body["next"]) == ["b"]
    # Membership is live: a device that becomes a sensor in production is one.
    await registered(api, token, "d", tags=["production", "sensor"])
    assert await found(api, token, f"{sensors}/devices") == ["a", "d"]
    await api.call("DELETE", f"{DEVICES}/a/decommission", token=token)
    counts = (await api.call("GET", f"{sensors}/stats", token=token)).body
    assert (counts["total"], counts["status_distribution"]["DECOMMISSIONED"]) == (2, 1)
    # So is what is inherited.
    berlin = [{"field": "metadata", "operand": "jsonpath", "value": '$.site == "berlin"'}]
    changed = await api.call("PUT", f"{GROUPS}/{identifier}", {"criteria": berlin}, token=token)
    assert (changed.body["name"], changed.body["criteria"]) == ("Production", berlin)
    assert await found(api, token, f"{sensors}/devices") == []
    listed = await api.call("GET", f"{GROUPS}?filter=parent_id[eq]{identifier}", token=token)
    assert [one["name"] for one in listed.body["list"]] == ["Sensors"]
    assert (await api.call("DELETE", f"{GROUPS}/{identifier}", token=token)).status == 409
    top = await api.call("PUT", sensors, {"parent_id": None}, token=token)
    assert "parent_id" not in top.body
    assert (await api.call("DELETE", f"{GROUPS}/{identifier}", token=token)).status == 204
    assert (await api.call("GET", f"{GROUPS}/{identifier}", token=token)).status == 404


async def test_a_group_whose_filter_does_not_read_is_not_made(api: Api) -> None:
    token = await acme(api)
    for criterion in (
        {"field": "nothing", "operand": "eq", "value": "x"},
        {"field": "tags", "operand": "like", "value": "x"},
        {"field": "status", "operand": "eq", "value": "GONE"},
        {"field": "metadata", "operand": "jsonpath", "value": "$.a =="},
        {"field": "metadata", "operand": "jsonpath", "value": "$.a == $b"},
        {"field": "tags", "operand": "ct", "value": "x", "more": 1},
    ):
        answer = await api.call("POST", GROUPS, {"name": "x", "criteria": [criterion]}, token=token)
        assert answer.status == 400, answer
    assert (await api.call("GET", GROUPS, token=token)).body == {"list": []}


async def test_groups_stand_in_no_circle_and_not_too_deep(api: Api) -> None:
    token = await acme(api)
    made: list[str] = []
    for number in range(8):
        said = {"name": f"level {number}", **({"parent_id": made[-1]} if made else {})}
        made.append((await api.call("POST", GROUPS, said, token=token)).body["id"])
    assert (await api.call("POST", GROUPS, {"name": "x", "parent_id": made[-1]}, token=token)).status == 422
    for below in (made[0], made[1], made[7]):
        answer = await api.call("PUT", f"{GROUPS}/{made[0]}", {"parent_id": below}, token=token)
        assert answer.status == 409, answer
    alone = (await api.call("POST", GROUPS, {"name": "alone"}, token=token)).body["id"]
    assert (await api.call("PUT", f"{GROUPS}/{made[0]}", {"parent_id": alone}, token=token)).status == 422
    assert (await api.call("PUT", f"{GROUPS}/{alone}", {"parent_id": made[6]}, token=token)).status == 200
    assert (await api.call("POST", GROUPS, {"name": "x", "parent_id": str(uuid4())}, token=token)).status == 404
    assert (await api.call("POST", GROUPS, {"name": "x", "id": alone}, token=token)).status == 409


async def test_a_caller_with_few_devices_sees_no_others_anywhere(api: Api) -> None:
    token = await acme(api)
    for identifier in ("a", "b"):
        await registered(api, token, identifier, tags=["x"])
    group = (await api.call("POST", GROUPS, {"name": "all", "criteria": []}, token=token)).body["id"]
    walter = await api.person("acme", "worker", "walter", devices=["a"])
    for path in (DEVICES, f"{GROUPS}/{group}/devices"):
        assert await found(api, walter, path) == ["a"]
        assert await found(api, walter, path, filter="id[eq]b") == []
    for path in (f"{BASE}/stats", f"{GROUPS}/{group}/stats"):
        assert (await api.call("GET", path, token=walter)).body["total"] == 1
    assert (await api.call("GET", f"{DEVICES}/a/events", token=walter)).status == 200
    for method, path, body in (
        ("GET", "", None),
        ("GET", "/events", None),
        ("POST", "/events", {"type": "REBOOTED"}),
        ("PATCH", "/metadata", {"patches": []}),
        ("PUT", "/idslot", {"status": "REVOKED"}),
        ("DELETE", "/decommission", None),
        ("DELETE", "", None),
    ):
        answer = await api.call(method, f"{DEVICES}/b{path}", body, token=walter)
        assert answer.status == 404, (method, path, answer)


async def test_another_groups_devices_and_groups_are_not_found(api: Api) -> None:
    token, theirs = await acme(api), await other(api)
    await registered(api, token, "a")
    group = (await api.call("POST", GROUPS, {"name": "all"}, token=token)).body["id"]
    assert await found(api, theirs) == []
    assert (await api.call("GET", f"{BASE}/stats", token=theirs)).body["total"] == 0
    assert (await api.call("GET", GROUPS, token=theirs)).body == {"list": []}
    for method, path, body in (
        ("GET", f"{DEVICES}/a", None),
        ("GET", f"{DEVICES}/a/events", None),
        ("POST", f"{DEVICES}/a/events", {"type": "REBOOTED"}),
        ("PATCH", f"{DEVICES}/a/metadata", {"patches": []}),
        ("PUT", f"{DEVICES}/a/idslot", {"status": "REVOKED"}),
        ("DELETE", f"{DEVICES}/a/decommission", None),
        ("DELETE", f"{DEVICES}/a", None),
        ("GET", f"{GROUPS}/{group}", None),
        ("PUT", f"{GROUPS}/{group}", {"name": "mine"}),
        ("DELETE", f"{GROUPS}/{group}", None),
        ("GET", f"{GROUPS}/{group}/devices", None),
        ("GET", f"{GROUPS}/{group}/stats", None),
        ("POST", GROUPS, {"name": "below theirs", "parent_id": group}),
    ):
        answer = await api.call(method, path, body, token=theirs)
        assert answer.status == 404, (method, path, answer)


async def test_others_note_what_happened_to_a_device(api: Api) -> None:
    token = await acme(api)
    await registered(api, token, "meter-1")
    path = f"{DEVICES}/meter-1/events"
    before = (api.clock() - timedelta(hours=1)).isoformat()
    said = {
        "type": "CONNECTION-UPDATED",
        "description": "no answer for an hour",
        "event_ts": before,
        "source": "the gateway in the cellar",
        "structured_fields": {"signal": -97, "kind": "device.enrolled"},
    }
    noted = await api.call("POST", path, said, token=token)
    assert noted.status == 201, noted.body
    me = noted.body["structured_fields"].pop("noted_by")
    assert datetime.fromisoformat(noted.body["event_ts"]) == datetime.fromisoformat(before)
    assert (noted.body["type"], noted.body["source"]) == (said["type"], said["source"])
    assert noted.body["structured_fields"] == {"signal": -97, "kind": "device.noted"}  # whatever it says of itself
    plain = await api.call("POST", path, {"type": "REBOOTED"}, token=token)
    assert plain.body["source"] == me
    for _ in range(2):
        listed = await api.call("GET", f"{path}?sort_by=event_ts", token=token)
        assert [one["type"] for one in listed.body["list"]] == ["CONNECTION-UPDATED", "CREATED", "REBOOTED"]
        for words, types in (
            ("event_type[eq]REBOOTED", [plain.body["id"]]),
            ("source[ct]cellar", [noted.body["id"]]),
            ("structured_fields[jsonpath]$.signal < -90", [noted.body["id"]]),
            (f"event_ts[bf]{api.clock() - timedelta(minutes=30):%Y-%m-%dT%H:%M:%SZ}", [noted.body["id"]]),
        ):
            assert await found(api, token, path, filter=words) == types, words
        await api.app.audit.chain()
    kinds = (await api.call("GET", "/api/v1/iam/audit?limit=1000", token=token)).body["items"]
    assert [one["subject"] for one in kinds if one["kind"] == "device.noted"] == ["meter-1", "meter-1"]


@pytest.mark.parametrize(
    ("said", "status"),
    [
        ({}, 400),
        ({"type": "rebooted"}, 422),
        ({"type": "RE BOOTED"}, 422),
        ({"type": "PROVISIONED"}, 422),
        ({"type": "DECOMMISSIONED"}, 422),
        ({"type": "A" * 65}, 400),
        ({"type": "REBOOTED", "event_ts": "2999-01-01T00:00:00Z"}, 422),
        ({"type": "REBOOTED", "event_ts": "2026-01-01T00:00:00"}, 400),
        ({"type": "REBOOTED", "event_ts": "0001-01-01T00:00:00+14:00"}, 422),
        ({"type": "REBOOTED", "source": "a\nb"}, 400),
        ({"type": "REBOOTED", "structured_fields": {"x": "y" * 20_000}}, 400),
        ({"type": "REBOOTED", "kind": "device.enrolled"}, 400),
    ],
)
async def test_notes_that_are_none(api: Api, said: dict[str, Any], status: int) -> None:
    token = await acme(api)
    await registered(api, token, "meter-1")
    answer = await api.call("POST", f"{DEVICES}/meter-1/events", said, token=token)
    assert answer.status == status, answer.body
    listed = (await api.call("GET", f"{DEVICES}/meter-1/events?sort_by=event_ts", token=token)).body["list"]
    assert [one["type"] for one in listed] == ["CREATED"]


async def test_every_change_is_in_the_audit(api: Api) -> None:
    token = await acme(api)
    await api.call("POST", f"{DEVICES}/import", b"id\na\nb\n", token=token, headers=CSV)
    group = (await api.call("POST", GROUPS, {"name": "all"}, token=token)).body["id"]
    await api.call("PUT", f"{GROUPS}/{group}", {"name": "each"}, token=token)
    await api.call("DELETE", f"{GROUPS}/{group}", token=token)
    await api.app.audit.chain()
    lines = (await api.call("GET", "/api/v1/iam/audit?limit=1000", token=token)).body["items"]
    kinds = [line["kind"] for line in lines if line["kind"].startswith("device")]
    groups = ["device_group.created", "device_group.updated", "device_group.deleted"]
    assert kinds == ["device.created", "device.created", *groups]

"""Groups, roles, identities, devices, pairings: what administrators do, and what they may not."""

import asyncio
from collections.abc import AsyncIterator

import pytest

from iam.paging import encode_cursor
from tests.api.conftest import Answer, Api

ALL = ("*", "create read update delete")


async def acme(api: Api) -> str:
    await api.tenant("acme")
    await api.role("acme", "boss", ALL)
    await api.role("acme", "worker", ("devices", "read"))
    return await api.person("acme", "boss", "berta")


async def device(api: Api, token: str, identifier: str, **fields: object) -> Answer:
    return await api.call("POST", "/api/v1/devices", {"deviceIdentifier": identifier, **fields}, token=token)


@pytest.mark.parametrize("name", ["", "a b", "a/b", "a.b", "+", "#", "a\n", "-a", "a" * 64, "ü", "a*b", "a>b", "\x00"])
async def test_a_group_whose_name_could_not_be_a_topic_level_is_refused(api: Api, name: str) -> None:
    answer = await api.call("POST", "/api/v1/iam/groups", {"name": name}, token=await api.root_token())
    assert answer.status == 400


@pytest.mark.parametrize(
    "identifier", ["", "a/b", "a+b", "#", "a*", "a>b", "a b", "a\n", "\u0007", "-a", "a" * 129, "idt-x", "ü", "${x}"]
)
async def test_an_identifier_out_of_grammar_is_refused_wherever_it_enters(api: Api, identifier: str) -> None:
    token = await acme(api)
    quoted = "".join(f"%{byte:02x}" for byte in identifier.encode())
    answers = [
        await device(api, token, identifier),
        await api.call("POST", "/api/v1/iam/pair", {"deviceIdentifier": [identifier]}, token=token),
    ]
    if identifier and "/" not in identifier:
        answers.append(await api.call("GET", f"/api/v1/devices/{quoted}", token=token))
        answers.append(await api.call("POST", f"/api/v1/iam/pair/{quoted}", token=token))
    assert {answer.status for answer in answers} <= {400, 404}, answers
    assert answers[0].status == 400
    assert (await api.call("GET", "/api/v1/devices", token=token)).body == {"items": []}


async def test_names_are_taken_once(api: Api) -> None:
    token = await acme(api)
    root = await api.root_token()
    assert (await api.call("POST", "/api/v1/iam/groups", {"name": "acme"}, token=root)).status == 409
    roles = "/api/v1/iam/groups/acme/roles"
    assert (await api.call("POST", roles, {"name": "boss"}, token=root)).status == 409
    assert (await api.call("POST", roles + "/boss/users", {"name": "berta"}, token=root)).status == 409
    await device(api, token, "meter-1")
    assert (await device(api, token, "meter-1")).status == 409


async def test_a_device_identifier_is_taken_across_tenants(api: Api) -> None:
    token = await acme(api)
    await api.tenant("other")
    await api.role("other", "boss", ALL)
    other = await api.person("other", "boss", "olga")
    assert (await device(api, token, "meter-1")).status == 201
    assert (await device(api, other, "meter-1")).status == 409


async def test_lists_are_paged_by_cursor(api: Api) -> None:
    token = await acme(api)
    for number in range(7):
        await device(api, token, f"meter-{number}")
    seen: list[str] = []
    path = "/api/v1/devices?limit=3"
    for _ in range(3):
        page = (await api.call("GET", path, token=token)).body
        seen += [one["deviceIdentifier"] for one in page["items"]]
        if "next" not in page:
            break
        path = f"/api/v1/devices?limit=3&cursor={page['next']}"
    assert seen == [f"meter-{number}" for number in range(7)]
    for wrong in ("x", "AAAA", "WzFd", "!!"):
        assert (await api.call("GET", f"/api/v1/devices?cursor={wrong}", token=token)).status == 400
    for path in ("/api/v1/iam/groups", "/api/v1/iam/users", "/api/v1/iam/groups/acme/roles", "/api/v1/iam/audit"):
        page = (await api.call("GET", f"{path}?limit=1", token=token)).body
        assert len(page["items"]) <= 1


async def test_devices_are_found_by_labels_and_status(api: Api) -> None:
    token = await acme(api)
    await device(api, token, "a", labels={"site": "north", "kind": "meter"})
    await device(api, token, "b", labels={"site": "south", "kind": "meter"})

    async def found(query: str) -> list[str]:
        page = (await api.call("GET", f"/api/v1/devices?{query}", token=token)).body
        return [one["deviceIdentifier"] for one in page["items"]]

    assert await found("label=site=north") == ["a"]
    assert await found("label=kind=meter,site=south") == ["b"]
    assert await found("label=kind=meter&status=ACTIVE") == []
    assert await found("status=NO_IDENTITY") == ["a", "b"]
    changed = await api.call("PATCH", "/api/v1/devices/a", {"labels": {"site": "west"}}, token=token)
    assert changed.body["labels"] == {"site": "west"}
    assert await found("label=site=west") == ["a"]
    refused = await api.call("PATCH", "/api/v1/devices/a", {"labels": {"site": "west,east"}}, token=token)
    [wrong] = refused.body["errors"]
    assert (refused.status, wrong["field"]) == (400, "labels")
    assert wrong["detail"].startswith("a label is a short name")


async def test_a_device_is_decommissioned_before_it_is_deleted_and_that_is_final(api: Api) -> None:
    token = await acme(api)
    await device(api, token, "a")
    path = "/api/v1/devices/a"
    assert (await api.call("DELETE", path, token=token)).status == 409
    assert (await api.call("PATCH", path, {"status": "DECOMMISSIONED"}, token=token)).status == 200
    assert (await api.call("PATCH", path, {"labels": {}}, token=token)).status == 409
    assert (await api.call("PATCH", path, {"status": "ACTIVE"}, token=token)).status == 400
    assert (await api.call("DELETE", path, token=token)).status == 204
    assert (await api.call("GET", path, token=token)).status == 404


async def test_a_caller_sees_the_devices_in_his_reach_only(api: Api) -> None:
    token = await acme(api)
    for identifier in ("a", "b"):
        await device(api, token, identifier)
    limited = await api.person("acme", "worker", "walter", devices=["a"])
    page = (await api.call("GET", "/api/v1/devices", token=limited)).body
    assert [one["deviceIdentifier"] for one in page["items"]] == ["a"]
    assert (await api.call("GET", "/api/v1/devices/a", token=limited)).status == 200
    assert (await api.call("GET", "/api/v1/devices/b", token=limited)).status == 404


async def test_nobody_grants_what_he_does_not_hold(api: Api) -> None:
    await acme(api)
    await api.role("acme", "lead", ("iam.users", "create read update"), ("iam.roles", "create update"))
    lead = await api.person("acme", "lead", "lea")
    roles = "/api/v1/iam/groups/acme/roles"
    wide = [{"resource": "*", "actions": ["read"]}]
    narrow = [{"resource": "iam.users", "actions": ["read"]}]
    for method, path, body, status in (
        ("POST", roles, {"name": "x", "permissions": wide}, 403),
        ("POST", roles, {"name": "x", "permissions": narrow}, 201),
        ("PUT", roles + "/x", {"permissions": wide}, 403),
        ("PUT", roles + "/boss", {"permissions": narrow}, 403),
        ("POST", roles + "/boss/users", {"name": "eve"}, 403),
        ("POST", roles + "/x/users", {"name": "eve"}, 201),
        ("POST", roles + "/x/users", {"name": "adam", "type": "admin"}, 403),
        ("POST", roles + "/x/users", {"name": "adam", "type": "root"}, 403),
        ("POST", "/api/v1/iam/users/eve/roles", {"role": "boss"}, 403),
        ("PATCH", "/api/v1/iam/users/berta", {"status": "suspended"}, 403),
        ("PATCH", "/api/v1/iam/users/lea", {"status": "suspended"}, 409),
        ("POST", "/api/v1/iam/users/lea/roles", {"role": "x"}, 409),
        ("PATCH", "/api/v1/iam/users/eve", {"status": "active"}, 409),
        ("PATCH", "/api/v1/iam/users/eve", {"status": "suspended"}, 409),
    ):
        answer = await api.call(method, path, body, token=lead)
        assert answer.status == status, (method, path, answer)


async def test_nobody_grants_a_scope_wider_than_his_own(api: Api) -> None:
    await acme(api)
    await api.role("acme", "lead", ("iam.users", "create"), ("iam.roles", "create"))
    await api.role("acme", "none")
    lead = await api.person("acme", "lead", "lea", devices=["a", "b"])
    for body, status in (
        ({"name": "r1"}, 403),
        ({"name": "r2", "devices": "*"}, 403),
        ({"name": "r3", "devices": ["c"]}, 403),
        ({"name": "r4", "devices": ["a"]}, 201),
    ):
        for path in ("/api/v1/iam/groups/acme/roles", "/api/v1/iam/groups/acme/roles/none/users"):
            answer = await api.call("POST", path, body, token=lead)
            assert answer.status == status, (path, body, answer)


async def test_the_tenant_one_stands_on_and_the_root_are_not_to_be_changed(api: Api) -> None:
    token = await acme(api)
    blocked = {"status": "blocked"}
    assert (await api.call("PATCH", "/api/v1/iam/groups/acme", blocked, token=token)).status == 409
    root = await api.root_token()
    assert (await api.call("PATCH", "/api/v1/iam/groups/system", blocked, token=root)).status == 409


async def test_a_role_that_somebody_holds_is_not_deleted_and_the_device_role_never(api: Api) -> None:
    token = await acme(api)
    path = "/api/v1/iam/groups/acme/roles"
    await api.person("acme", "worker", "walter")
    assert (await api.call("DELETE", f"{path}/worker", token=token)).status == 409
    assert (await api.call("DELETE", "/api/v1/iam/users/walter/roles/worker", token=token)).status == 204
    assert (await api.call("DELETE", "/api/v1/iam/users/walter/roles/worker", token=token)).status == 404
    assert (await api.call("DELETE", f"{path}/worker", token=token)).status == 204
    assert (await api.call("DELETE", f"{path}/device", token=token)).status == 409


async def test_a_deleted_identity_gives_its_name_back(api: Api) -> None:
    token = await acme(api)
    walter = await api.person("acme", "worker", "walter")
    assert (await api.call("DELETE", "/api/v1/iam/users/walter", token=token)).status == 204
    assert (await api.call("GET", "/api/v1/iam/token/info", token=walter)).status == 401
    assert (await api.call("GET", "/api/v1/iam/users/walter", token=token)).status == 404
    await api.person("acme", "worker", "walter")


async def reach(api: Api, token: str) -> object:
    return (await api.call("GET", "/api/v1/iam/pair", token=token)).body["deviceIdentifier"]


async def test_the_level_of_a_pairing_is_the_narrowest_that_the_caller_may(api: Api) -> None:
    token = await acme(api)
    await device(api, token, "a")
    for number, (held, level) in enumerate(
        [
            (["user", "role", "group"], "user"),
            (["role", "group"], "role"),
            (["group"], "group"),
        ]
    ):
        role = await api.role("acme", f"r{number}", *((f"iam.pair.{one}", "create delete") for one in held))
        caller = await api.person("acme", role, f"p{number}", devices=[])
        answer = await api.call("POST", "/api/v1/iam/pair/a", token=caller)
        assert answer.body["level"] == level
        for other in {"user", "role", "group"} - set(held):
            refused = await api.call("POST", f"/api/v1/iam/pair/a?level={other}", token=caller)
            assert refused.status == 403
        assert (await api.call("DELETE", "/api/v1/iam/pair/a", token=caller)).status == 204
        assert (await api.call("DELETE", "/api/v1/iam/pair/a", token=caller)).status == 404
    nobody = await api.person("acme", "worker", "walter")
    assert (await api.call("POST", "/api/v1/iam/pair/a", token=nobody)).status == 403


async def test_a_user_pairs_a_device_to_himself_and_reaches_it(api: Api) -> None:
    token = await acme(api)
    await device(api, token, "a")
    await device(api, token, "b")
    role = await api.role("acme", "owner", ("iam.pair.user", "create delete"), ("devices", "read"))
    owner = await api.person("acme", role, "otto", devices=[])
    assert await reach(api, owner) == []
    answer = await api.call("POST", "/api/v1/iam/pair", {"deviceIdentifier": ["a", "b", "a"]}, token=owner)
    assert answer.body["deviceIdentifier"] == ["a", "b"]
    assert await reach(api, owner) == ["a", "b"]
    assert (await api.call("GET", "/api/v1/iam/pair/a", token=owner)).body["paired"] is True
    answer = await api.call("DELETE", "/api/v1/iam/pair", {"deviceIdentifier": ["a"]}, token=owner)
    assert answer.status == 200
    assert await reach(api, owner) == ["b"]
    other = {"deviceIdentifier": ["b"], "holder": "berta"}
    assert (await api.call("POST", "/api/v1/iam/pair", other, token=owner)).status == 403


async def test_an_unknown_device_among_many_pairs_none(api: Api) -> None:
    token = await acme(api)
    await device(api, token, "a")
    body = {"deviceIdentifier": ["a", "nowhere"], "level": "user"}
    answer = await api.call("POST", "/api/v1/iam/pair", body, token=token)
    assert (answer.status, answer.body["detail"]) == (404, "There is no device nowhere.")
    assert (await api.call("DELETE", "/api/v1/iam/pair/a?level=user", token=token)).status == 404


async def test_an_administrator_pairs_for_another_at_each_level(api: Api) -> None:
    token = await acme(api)
    root = await api.root_token()
    await device(api, token, "a")
    await api.role("acme", "gateway", devices=[])
    gateway = await api.person("acme", "gateway", "gw", type="gateway", devices="*")
    for level, holder in (("role", "gateway"), ("user", "gw")):
        body = {"deviceIdentifier": ["a"], "level": level, "holder": holder}
        assert (await api.call("POST", "/api/v1/iam/pair?tenant=acme", body, token=root)).status == 200
    assert await reach(api, gateway) == ["a"]
    body = {"deviceIdentifier": ["a"], "level": "role", "holder": "gateway"}
    assert (await api.call("DELETE", "/api/v1/iam/pair?tenant=acme", body, token=root)).status == 200
    assert await reach(api, gateway) == []
    body = {"deviceIdentifier": ["a"]}
    assert (await api.call("POST", "/api/v1/iam/pair?tenant=acme", body, token=root)).status == 409


async def test_a_deleted_device_leaves_everybodys_reach(api: Api) -> None:
    token = await acme(api)
    await device(api, token, "a")
    owner = await api.person("acme", await api.role("acme", "owner", ("iam.pair.user", "create")), "otto", devices=[])
    await api.call("POST", "/api/v1/iam/pair/a", token=owner)
    assert await reach(api, owner) == ["a"]
    await api.call("PATCH", "/api/v1/devices/a", {"status": "DECOMMISSIONED"}, token=token)
    await api.call("DELETE", "/api/v1/devices/a", token=token)
    assert await reach(api, owner) == []


async def test_an_administrator_of_a_parent_acts_below_and_not_beside(api: Api) -> None:
    token = await acme(api)
    await api.tenant("acme-east", token=token, below="acme")
    body = {"deviceIdentifier": "east-1"}
    assert (await api.call("POST", "/api/v1/devices?tenant=acme-east", body, token=token)).status == 201
    assert (await api.call("GET", "/api/v1/devices/east-1", token=token)).status == 404
    assert (await api.call("GET", "/api/v1/devices/east-1?tenant=acme-east", token=token)).status == 200
    names = [one["name"] for one in (await api.call("GET", "/api/v1/iam/groups", token=token)).body["items"]]
    assert names == ["acme", "acme-east"]
    assert (await api.call("GET", "/api/v1/devices?tenant=system", token=token)).status == 404


async def test_topics_outside_the_tenant_are_not_to_be_granted(api: Api) -> None:
    token = await acme(api)
    for topic in ("#", "+/devices/#", "other/#", "$SYS/#", "${name}/x", "${tenant}x/y", "a\u0000b"):
        body = {"name": "sly", "topics": [{"action": "subscribe", "topic": topic}]}
        answer = await api.call("POST", "/api/v1/iam/groups/acme/roles", body, token=token)
        assert answer.status == 400, (topic, answer)


async def test_every_change_has_its_line_in_the_audit(api: Api) -> None:
    token = await acme(api)
    await device(api, token, "a")
    await api.call("POST", "/api/v1/iam/pair/a?level=user", token=token)
    await api.app.audit.chain()
    lines = (await api.call("GET", "/api/v1/iam/audit", token=token)).body["items"]
    kinds = [line["kind"] for line in lines]
    assert kinds[0] == "tenant.created"
    assert kinds[-2:] == ["device.created", "pairing.created"]
    assert [line["sequence"] for line in lines] == sorted(line["sequence"] for line in lines)
    holds, broken = await api.app.audit.check()
    assert broken is None
    assert holds >= len(lines)


async def test_a_change_of_one_half_of_a_scope_leaves_the_other(api: Api) -> None:
    await acme(api)
    await api.invite("acme", "worker", "walter")
    root = await api.root_token()
    for path in ("/api/v1/iam/groups/acme", "/api/v1/iam/users/walter?tenant=acme"):
        await api.call("PATCH", path, {"devices": ["a"]}, token=root)
        answer = await api.call("PATCH", path, {"services": ["s"]}, token=root)
        assert (answer.body["devices"], answer.body["services"]) == (["a"], ["s"])
        answer = await api.call("PATCH", path, {"devices": None}, token=root)
        assert ("devices" in answer.body, answer.body["services"]) == (False, ["s"])


async def test_head_is_get_without_the_body(api: Api) -> None:
    answer = await api.call("HEAD", "/healthz")
    assert (answer.status, answer.body) == (200, b"")


async def test_two_roles_of_ones_own_are_not_joined_in_what_one_grants(api: Api) -> None:
    """Reading some devices by one role and making roles by another does not add up to giving all devices away."""
    token = await acme(api)
    await device(api, token, "a")
    await device(api, token, "b")
    await api.role("acme", "reads-a", ("devices", "read"), devices=["a"])
    await api.role("acme", "staff", ("iam.users", "create"), ("iam.roles", "create"))
    mixer = await api.person("acme", "staff", "mia")
    await api.call("POST", "/api/v1/iam/users/mia/roles", {"role": "reads-a"}, token=token)
    assert (await api.call("GET", "/api/v1/devices/b", token=mixer)).status == 404
    roles = "/api/v1/iam/groups/acme/roles"
    wide = [{"resource": "devices", "actions": ["read"]}]
    assert (await api.call("POST", roles, {"name": "x", "permissions": wide}, token=mixer)).status == 403
    narrow = {"name": "y", "permissions": wide, "devices": ["a"]}
    assert (await api.call("POST", roles, narrow, token=mixer)).status == 201


@pytest.fixture
async def limited(api: Api) -> str:
    """Somebody who administers people and roles, and reaches the device `a` alone; beside a role that reaches all."""
    token = await acme(api)
    for identifier in ("a", "b"):
        await device(api, token, identifier)
    topics = [{"action": "subscribe", "topic": "${tenant}/#"}]
    await api.role("acme", "wide", ("devices", "read"), topics=topics)
    await api.role(
        "acme", "staff", ("iam.users", "create update"), ("iam.roles", "create update delete"), ("devices", "read")
    )
    return await api.person("acme", "staff", "lim", devices=["a"])


async def test_who_reaches_little_hands_out_no_role_that_reaches_much(api: Api, limited: str) -> None:
    roles = "/api/v1/iam/groups/acme/roles"
    await api.invite("acme", "worker", "friend", devices=["a"])
    await api.invite("acme", "worker", "stranger")
    all_topics, own_topics = "${tenant}/#", "${tenant}/devices/${device}/#"
    for method, path, body, status in (
        ("POST", roles + "/wide/users", {"name": "puppet"}, 403),
        ("POST", roles + "/wide/users", {"name": "puppet", "devices": ["a"]}, 403),  # its topic is about all devices
        ("POST", "/api/v1/iam/users/friend/roles", {"role": "wide"}, 403),
        ("PUT", roles + "/wide", {"devices": ["a"]}, 403),
        ("DELETE", roles + "/wide", None, 403),
        (
            "POST",
            roles,
            {"name": "t1", "topics": [{"action": "subscribe", "topic": all_topics}], "devices": ["a"]},
            403,
        ),
        (
            "POST",
            roles,
            {"name": "t2", "topics": [{"action": "subscribe", "topic": own_topics}], "devices": ["b"]},
            403,
        ),
        (
            "POST",
            roles,
            {"name": "t3", "topics": [{"action": "subscribe", "topic": own_topics}], "devices": ["a"]},
            201,
        ),
        ("PATCH", "/api/v1/iam/users/friend", {"devices": ["a", "b"]}, 403),
        ("PATCH", "/api/v1/iam/users/stranger", {"devices": ["a"]}, 403),
    ):
        answer = await api.call(method, path, body, token=limited)
        assert answer.status == status, (method, path, body, answer)


async def test_in_the_root_tenant_only_who_may_do_everything_grants_topics_of_all_tenants(api: Api) -> None:
    await api.role("system", "staff", ("iam.users", "create"), ("iam.roles", "create"))
    staff = await api.person("system", "staff", "sam")
    roles = "/api/v1/iam/groups/system/roles"
    for topic, status in (("#", 403), ("acme/#", 403), ("+/x", 403), ("${tenant}/x", 201)):
        body = {"name": f"r{status}", "topics": [{"action": "subscribe", "topic": topic}]}
        assert (await api.call("POST", roles, body, token=staff)).status == status, topic
    assert (await api.call("POST", roles + "/root/users", {"name": "eve"}, token=staff)).status == 403


async def test_nobody_takes_the_id_of_another_for_his_name(api: Api) -> None:
    token = await acme(api)
    victim = await api.invite("acme", "worker", "victim")
    path = "/api/v1/iam/groups/acme/roles/worker/users"
    for name in (victim["id"], "idt-x"):
        assert (await api.call("POST", path, {"name": name, "type": "gateway"}, token=token)).status == 400
    assert (await api.call("GET", f"/api/v1/iam/users/{victim['id']}", token=token)).body["name"] == "victim"


async def test_a_suspension_beside_another_change_is_not_undone(api: Api) -> None:
    await acme(api)
    root = await api.root_token()
    await api.person("acme", "worker", "walter")
    path = "/api/v1/iam/users/walter?tenant=acme"
    for _ in range(15):
        answers = await asyncio.gather(
            api.call("PATCH", path, {"devices": ["a"]}, token=root),
            api.call("PATCH", path, {"status": "suspended"}, token=root),
            api.call("PATCH", path, {"devices": ["b"]}, token=root),
        )
        assert [answer.status for answer in answers] == [200] * 3
        assert (await api.call("GET", path, token=root)).body["status"] == "suspended"
        await api.call("PATCH", path, {"status": "active"}, token=root)


async def test_a_decommissioning_beside_another_change_is_not_undone(api: Api) -> None:
    token = await acme(api)
    for number in range(15):
        await device(api, token, f"m-{number}")
        path = f"/api/v1/devices/m-{number}"
        answers = await asyncio.gather(
            api.call("PATCH", path, {"labels": {"a": "b"}}, token=token),
            api.call("PATCH", path, {"status": "DECOMMISSIONED"}, token=token),
            api.call("PATCH", path, {"labels": {"c": "d"}}, token=token),
        )
        assert answers[1].status == 200
        assert (await api.call("GET", path, token=token)).body["status"] == "DECOMMISSIONED"


async def test_the_first_identity_stays_as_it_is(api: Api) -> None:
    await api.role("system", "boss", ALL)
    boss = await api.person("system", "boss", "bea")
    for method, body in (("PATCH", {"status": "suspended"}), ("DELETE", None)):
        assert (await api.call(method, "/api/v1/iam/users/root", body, token=boss)).status == 409


async def test_deleting_a_group_needs_the_permission_to_delete(api: Api) -> None:
    await acme(api)
    await api.tenant("acme-east", below="acme")
    await api.role("acme", "updater", ("iam.groups", "read update"))
    updater = await api.person("acme", "updater", "uwe")
    path = "/api/v1/iam/groups/acme-east"
    assert (await api.call("PATCH", path, {"status": "deleted"}, token=updater)).status == 400
    assert (await api.call("DELETE", path, token=updater)).status == 403
    root = await api.root_token()
    assert (await api.call("DELETE", path, token=root)).status == 204
    assert (await api.call("GET", path, token=root)).status == 404
    assert (await api.call("POST", "/api/v1/iam/groups", {"name": "acme-east"}, token=root)).status == 409


def nested(depth: int) -> object:
    value: object = 1
    for _ in range(depth):
        value = {"x": value}
    return value


async def test_text_and_depth_that_could_do_harm_later_are_refused_where_they_enter(api: Api) -> None:
    token = await acme(api)
    await device(api, token, "a")
    for method, path, body in (
        ("POST", "/api/v1/devices", {"deviceIdentifier": "b", "labels": {"a": "x\u0000"}}),
        ("POST", "/api/v1/devices", {"deviceIdentifier": "b", "labels": {"a/b": "x"}}),
        ("POST", "/api/v1/devices", {"deviceIdentifier": "b", "metadata": {"a": "\u0000"}}),
        ("POST", "/api/v1/devices", {"deviceIdentifier": "b", "metadata": nested(60)}),
        ("POST", "/api/v1/devices", {"deviceIdentifier": "b", "metadata": {"a": "x" * 20_000}}),
        ("POST", "/api/v1/devices", {"device_identifier": "b"}),
        ("POST", "/api/v1/iam/pair", {"deviceIdentifier": ["a"], "holder": "x\u0000"}),
        ("POST", "/api/v1/iam/pair/a?holder=x%00", None),
        ("GET", "/api/v1/iam/audit?cursor=WyLCsiJd", None),
        ("GET", "/api/v1/iam/audit?cursor=" + encode_cursor("9" * 30), None),
        ("POST", "/api/v1/iam/groups/acme/roles", {"name": "r", "services": ["a\u0000"]}),
        ("POST", "/api/v1/iam/groups/acme/roles", {"name": "r", "devices": ["*"]}),
        ("POST", "/api/v1/iam/groups/acme/roles", {"name": "r", "devices": [f"d{n}" for n in range(1001)]}),
    ):
        answer = await api.call(method, path, body, token=token)
        assert answer.status == 400, (method, path, str(body)[:80], answer)
    page = (await api.call("GET", "/api/v1/devices", token=token)).body
    assert [one["deviceIdentifier"] for one in page["items"]] == ["a"]


async def test_a_role_deleted_while_it_is_given_is_a_conflict(api: Api) -> None:
    token = await acme(api)
    await api.person("acme", "worker", "walter")
    for number in range(10):
        role = await api.role("acme", f"short-{number}")
        answers = await asyncio.gather(
            api.call("DELETE", f"/api/v1/iam/groups/acme/roles/{role}", token=token),
            api.call("POST", "/api/v1/iam/users/walter/roles", {"role": role}, token=token),
        )
        assert {answer.status for answer in answers} <= {200, 204, 404, 409}, answers


async def test_an_unknown_device_is_not_found_when_one_asks_whether_one_reaches_it(api: Api) -> None:
    token = await acme(api)
    assert (await api.call("GET", "/api/v1/iam/pair/nowhere", token=token)).status == 404


async def test_who_is_suspended_while_his_body_drips_in_does_nothing(api: Api) -> None:
    token = await acme(api)
    begun = asyncio.Event()

    async def dripping() -> AsyncIterator[bytes]:
        yield b'{"deviceIdentifier": '
        begun.set()
        await asyncio.sleep(0.5)
        yield b'"late"}'

    headers = {"Content-Type": "application/json"}
    posting = asyncio.create_task(api.call("POST", "/api/v1/devices", dripping(), token=token, headers=headers))
    await begun.wait()
    root = await api.root_token()
    path = "/api/v1/iam/users/berta?tenant=acme"
    assert (await api.call("PATCH", path, {"status": "suspended"}, token=root)).status == 200
    assert (await posting).status == 401
    assert (await api.call("GET", "/api/v1/devices/late?tenant=acme", token=root)).status == 404


@pytest.mark.parametrize("query", ["limit=1&limit=2", "tenant=acme&tenant=system", "tenant=system&tenant=system"])
async def test_a_parameter_that_takes_one_value_is_said_once(api: Api, query: str) -> None:
    await api.tenant("acme")
    answer = await api.call("GET", f"/api/v1/devices?{query}", token=await api.root_token())
    assert answer.status == 400
    assert "more than once" in answer.body["detail"]

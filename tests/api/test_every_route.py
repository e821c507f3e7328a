"""Every route, from the route table: no token, a token without the permission, a token of another tenant."""

import re

import pytest

from iam.guard import Needs, Public, RawBody, Route, SignedIn
from tests.api.conftest import Api

_FILLED = {
    "groupName": "acme",
    "roleName": "worker",
    "identity": "alice",
    "deviceIdentifier": "meter-001",
    "deviceGroup": "01a20178-f90f-7bba-a235-94678758872d",
    "credential": "01a20178-f90f-7bba-a235-94678758872d",
    "serial": "00" * 16,
    "secret": "01a20178-f90f-7bba-a235-94678758872d",
    "keyIdentifier": "6b31",
    "approval": "01a20178-f90f-7bba-a235-94678758872d",
    "authority": "root",
    "commonName": "root",
    "request": "01a20178-f90f-7bba-a235-94678758872d",
    "profile": "device",
    "status": "active",
    "revocation": "01a20178-f90f-7bba-a235-94678758872d",
    "partitions": "2",
    "partition": "0",
    "ocspRequest": "MAA=",
    "label": "default",
    "key": "01a20178-f90f-7bba-a235-94678758872d",
}


def path_of(route: Route, *, tenant: str | None = None) -> str:
    path = re.sub(r"\{(\w+)(?::[^}]*)?\}", lambda found: _FILLED[found[1]], route.path)
    return f"{path}?tenant={tenant}" if tenant and "{groupName}" not in route.path else path


async def seeded(api: Api) -> None:
    await api.tenant("acme")
    await api.tenant("other")
    await api.role("acme", "worker")
    await api.role("acme", "boss", ("*", "create read update delete"))
    await api.role("other", "boss", ("*", "create read update delete"))


def guarded(api: Api) -> list[Route]:
    return [route for route in api.app.api_routes if not isinstance(route.need, Public)]


async def test_no_route_answers_without_a_token_unless_it_is_marked_public(api: Api) -> None:
    routes = guarded(api)
    assert len(routes) > 30
    for route in routes:
        for headers in ({}, {"Authorization": "Bearer x"}, {"Authorization": "Basic cm9vdDpyb290"}):
            answer = await api.call(route.method, path_of(route), headers=headers)
            assert answer.status == 401, (route.method, route.path, answer)
            assert answer.headers["WWW-Authenticate"]
            assert answer.headers["Content-Type"] == "application/problem+json"
            assert answer.body["detail"] == "Authentication failed."


async def test_no_route_answers_a_token_without_the_permission(api: Api) -> None:
    await seeded(api)
    token = await api.person("acme", "worker", "walter")
    for route in guarded(api):
        if isinstance(route.need, Needs):
            answer = await api.call(route.method, path_of(route), {}, token=token)
            assert answer.status == 403, (route.method, route.path, answer)
            assert answer.body["detail"] == f"This needs {route.need.action} on {route.need.resource}."


async def test_a_token_with_every_other_permission_is_not_enough(api: Api) -> None:
    await seeded(api)
    needs = sorted(
        {(route.need.resource, route.need.action) for route in guarded(api) if isinstance(route.need, Needs)}
    )
    for number, (resource, action) in enumerate(needs):
        others = [(str(one), str(verb)) for one, verb in needs if (one, verb) != (resource, action)]
        role = await api.role("acme", f"all-but-{number}", *others)
        token = await api.person("acme", role, f"user-{number}")
        for route in guarded(api):
            if route.need == Needs(action, resource):
                answer = await api.call(route.method, path_of(route), {}, token=token)
                assert answer.status == 403, (route.method, route.path, answer)


@pytest.mark.parametrize("theirs", ["acme", "system"])
async def test_another_tenants_things_are_not_found(api: Api, theirs: str) -> None:
    await seeded(api)
    token = await api.person("other", "boss", "olga")
    for route in guarded(api):
        path = path_of(route, tenant=theirs).replace("groups/acme", f"groups/{theirs}")
        if f"tenant={theirs}" not in path and f"groups/{theirs}" not in path:
            continue
        answer = await api.call(route.method, path, {}, token=token)
        assert answer.status == 404, (route.method, path, answer)
        assert answer.body["detail"] == f"There is no group {theirs}."


async def test_a_thing_of_another_tenant_is_not_found_by_its_name_alone(api: Api) -> None:
    await seeded(api)
    root = await api.root_token()
    await api.call("POST", "/api/v1/devices?tenant=acme", {"deviceIdentifier": "meter-001"}, token=root)
    invited = await api.invite("acme", "worker", "alice")
    token = await api.person("other", "boss", "olga")
    for method, path, body in (
        ("GET", "/api/v1/devices/meter-001", None),
        ("PATCH", "/api/v1/devices/meter-001", {"labels": {"a": "b"}}),
        ("DELETE", "/api/v1/devices/meter-001", None),
        ("POST", "/api/v1/iam/pair", {"deviceIdentifier": ["meter-001"]}),
        ("POST", "/api/v1/iam/pair/meter-001", None),
        ("GET", "/api/v1/iam/users/alice", None),
        ("GET", f"/api/v1/iam/users/{invited['id']}", None),
        ("PATCH", f"/api/v1/iam/users/{invited['id']}", {"status": "suspended"}),
        ("DELETE", f"/api/v1/iam/users/{invited['id']}", None),
        ("POST", f"/api/v1/iam/users/{invited['id']}/roles", {"role": "boss"}),
    ):
        answer = await api.call(method, path, body, token=token)
        assert answer.status == 404, (method, path, answer)
    listed = await api.call("GET", "/api/v1/devices", token=token)
    assert listed.body == {"items": []}


async def test_every_route_with_a_json_body_refuses_what_is_not_json_and_unknown_fields(api: Api) -> None:
    await seeded(api)
    root = await api.root_token()
    json_routes = [one for one in api.app.api_routes if one.body is not None and not isinstance(one.body, RawBody)]
    assert len(json_routes) > 12
    for route in json_routes:
        path = path_of(route) + ("?grant_type=refresh_token" if route.path.endswith("/token") else "")
        headers = {"Content-Type": "application/json"}
        for sent, status in (
            ("{", 400),
            ("[]", 400),
            ('{"nobody knows this": 1}', 400),
            ("\x00", 400),
        ):
            answer = await api.call(route.method, path, sent, token=root, headers=headers)
            assert answer.status == status, (route.method, route.path, sent, answer)
            assert answer.headers["Content-Type"] == "application/problem+json"
        answer = await api.call(route.method, path, "a=b", token=root, headers={"Content-Type": "text/plain"})
        assert answer.status == 415
        answer = await api.call(route.method, path, b" " * 1_000_000, token=root, headers=headers)
        assert answer.status == 413


async def test_a_route_without_a_declared_need_cannot_be_made() -> None:
    with pytest.raises(TypeError):
        Route("GET", "/x", None, summary="x", tag="x")  # type: ignore[arg-type, call-arg]


async def test_the_signed_in_routes_are_these_and_no_others(api: Api) -> None:
    signed_in = {(one.method, one.path) for one in api.app.api_routes if isinstance(one.need, SignedIn)}
    assert signed_in == {
        ("POST", "/api/v1/iam/logout"),
        ("GET", "/api/v1/iam/token/info"),
        ("POST", "/api/v1/iam/pair"),
        ("GET", "/api/v1/iam/pair"),
        ("DELETE", "/api/v1/iam/pair"),
        ("POST", "/api/v1/iam/pair/{deviceIdentifier}"),
        ("GET", "/api/v1/iam/pair/{deviceIdentifier}"),
        ("DELETE", "/api/v1/iam/pair/{deviceIdentifier}"),
    }


async def test_the_public_routes_are_these_and_no_others(api: Api) -> None:
    public = {(one.method, one.path) for one in api.app.api_routes if isinstance(one.need, Public)}
    assert public == {
        ("POST", "/api/v1/iam/signup"),
        ("GET", "/api/v1/iam/token"),
        ("POST", "/api/v1/iam/token"),
        ("GET", "/.well-known/jwks.json"),
        ("POST", "/auth/challenge"),
        ("POST", "/auth/verify"),
        ("POST", "/identity/register"),
        ("GET", "/crl/{authority}.crl"),
        ("GET", "/crl/{authority}/delta.crl"),
        ("GET", "/crl/{authority}/{partitions}/{partition}.crl"),
        ("GET", "/crl/{authority}/{partitions}/{partition}/delta.crl"),
        ("GET", "/ca/{authority}.crt"),
        ("POST", "/ocsp"),
        ("GET", "/ocsp/{ocspRequest:.+}"),
        ("GET", "/healthz"),
        ("GET", "/readyz"),
        ("GET", "/openapi.json"),
        ("GET", "/docs"),
    }

"""Signing up, passwords, access tokens, refresh tokens, logging out."""

import asyncio
import base64
from datetime import timedelta

import jwt
import orjson
import pytest
from cryptography.hazmat.primitives.asymmetric import ec

from iam.keyset import thumbprint
from iam.service.identities import _hash
from iam.service.throttle import FREE_FAILURES
from iam.store.database import EVERYWHERE
from iam.store.identities import use_invitation
from tests.api.conftest import PASSWORD, Answer, Api

TOKEN = "/api/v1/iam/token"


def basic(name: str, password: str) -> dict[str, str]:
    return {"Authorization": "Basic " + base64.b64encode(f"{name}:{password}".encode()).decode()}


async def signed_up(api: Api, name: str = "alice", tenant: str = "acme") -> None:
    await api.tenant(tenant)
    await api.role(tenant, "worker", ("devices", "read"))
    invited = await api.invite(tenant, "worker", name)
    body = {"name": name, "code": invited["code"], "password": PASSWORD}
    answer = await api.call("POST", "/api/v1/iam/signup", body)
    assert answer.status == 204, answer


async def logged_in(api: Api, *, offline: bool = True) -> Answer:
    answer = await api.call("GET", TOKEN + ("?scope=offline" if offline else ""), headers=basic("alice", PASSWORD))
    assert answer.status == 200, answer
    return answer


async def refreshed(api: Api, refresh_token: str) -> Answer:
    query = "?grant_type=refresh_token&scope=offline"
    return await api.call("POST", TOKEN + query, {"refreshToken": refresh_token})


async def test_an_invitation_becomes_a_login(api: Api) -> None:
    await signed_up(api)
    answer = await logged_in(api, offline=False)
    assert answer.body["type"] == "TOKEN"
    assert "refreshToken" not in answer.body
    info = (await api.call("GET", TOKEN + "/info", token=answer.body["token"])).body
    assert (info["name"], info["group"], info["roles"]) == ("alice", "acme", ["worker"])
    assert info["permissions"] == [{"resource": "devices", "actions": ["read"]}]
    assert info["methods"] == ["pwd"]


async def test_an_invitation_works_once_of_a_hundred_at_once(api: Api) -> None:
    await api.tenant("acme")
    await api.role("acme", "gateway")
    invited = await api.invite("acme", "gateway", "gw", type="gateway")

    async def use() -> bool:
        async with api.app.pool.transaction(EVERYWHERE) as transaction:
            return await use_invitation(transaction, _hash(invited["code"])) is not None

    assert sum(await asyncio.gather(*(use() for _ in range(100)))) == 1


@pytest.mark.parametrize("wrong", ["name", "code", "password"])
async def test_a_sign_up_that_is_wrong_leaves_the_invitation_usable(api: Api, wrong: str) -> None:
    await api.tenant("acme")
    await api.role("acme", "worker")
    invited = await api.invite("acme", "worker", "alice")
    right = {"name": "alice", "code": invited["code"], "password": PASSWORD}
    spoilt = {"name": "mallory", "code": "x" * 27, "password": "short"}
    answer = await api.call("POST", "/api/v1/iam/signup", {**right, wrong: spoilt[wrong]})
    assert answer.status == (400 if wrong == "password" else 401)
    assert (await api.call("POST", "/api/v1/iam/signup", right)).status == 204
    assert (await api.call("POST", "/api/v1/iam/signup", right)).status == 401


async def test_an_invitation_expires(api: Api) -> None:
    await api.tenant("acme")
    await api.role("acme", "worker")
    invited = await api.invite("acme", "worker", "alice")
    api.clock.turn(timedelta(days=7, seconds=1))
    body = {"name": "alice", "code": invited["code"], "password": PASSWORD}
    assert (await api.call("POST", "/api/v1/iam/signup", body)).status == 401


@pytest.mark.parametrize(
    "headers",
    [
        {},
        basic("alice", "wrong password 12"),
        basic("nobody", PASSWORD),
        basic("root", ""),
        {"Authorization": "Bearer abc"},
    ],
)
async def test_what_does_not_prove_a_person_tells_him_nothing(api: Api, headers: dict[str, str]) -> None:
    await signed_up(api)
    answer = await api.call("GET", TOKEN, headers=headers)
    assert (answer.status, answer.body["detail"]) == (401, "Authentication failed.")


async def test_failures_make_the_account_wait_and_a_success_forgets_them(api: Api) -> None:
    await signed_up(api)
    for _ in range(FREE_FAILURES):
        assert (await api.call("GET", TOKEN, headers=basic("alice", "wrong password"))).status == 401
    assert (await api.call("GET", TOKEN, headers=basic("alice", "wrong password"))).status == 401
    blocked = await api.call("GET", TOKEN, headers=basic("alice", PASSWORD))
    assert blocked.status == 429
    assert 1 <= int(blocked.headers["Retry-After"]) <= 2
    api.clock.turn(timedelta(seconds=3))
    await logged_in(api)
    assert (await api.call("GET", TOKEN, headers=basic("alice", "wrong password"))).status == 401
    await logged_in(api)


async def test_a_throttled_account_keeps_the_session_it_has(api: Api) -> None:
    await signed_up(api)
    token = (await logged_in(api)).body["token"]
    for _ in range(FREE_FAILURES + 1):
        await api.call("GET", TOKEN, headers=basic("alice", "wrong password"))
    assert (await api.call("GET", TOKEN, headers=basic("alice", PASSWORD))).status == 429
    assert (await api.call("GET", TOKEN + "/info", token=token)).status == 200


async def test_a_refresh_token_is_exchanged_and_the_old_one_ends_the_session(api: Api) -> None:
    await signed_up(api)
    first = (await logged_in(api)).body
    second = await refreshed(api, first["refreshToken"])
    assert second.status == 200
    assert second.body["refreshToken"] != first["refreshToken"]
    api.clock.turn(timedelta(seconds=11))
    assert (await refreshed(api, first["refreshToken"])).status == 401
    assert (await refreshed(api, second.body["refreshToken"])).status == 401
    for token in (first["token"], second.body["token"]):
        assert (await api.call("GET", TOKEN + "/info", token=token)).status == 401


async def test_a_lost_answer_is_given_again_within_the_grace(api: Api) -> None:
    await signed_up(api)
    first = (await logged_in(api)).body
    once = await refreshed(api, first["refreshToken"])
    again = await refreshed(api, first["refreshToken"])
    assert again.status == 200
    assert again.body["refreshToken"] == once.body["refreshToken"]
    assert (await refreshed(api, again.body["refreshToken"])).status == 200


async def test_of_twenty_refreshes_at_once_all_get_the_one_successor(api: Api) -> None:
    await signed_up(api)
    first = (await logged_in(api)).body
    answers = await asyncio.gather(*(refreshed(api, first["refreshToken"]) for _ in range(20)))
    assert {answer.status for answer in answers} == {200}
    assert len({answer.body["refreshToken"] for answer in answers}) == 1
    async with api.app.pool.transaction(EVERYWHERE) as transaction:
        assert await transaction.fetchval("SELECT count(*) FROM refresh_token") == 2


async def test_a_refresh_token_expires_after_seven_days(api: Api) -> None:
    await signed_up(api)
    first = (await logged_in(api)).body
    api.clock.turn(timedelta(days=7, seconds=1))
    assert (await refreshed(api, first["refreshToken"])).status == 401


async def test_an_access_token_expires(api: Api) -> None:
    await signed_up(api)
    token = (await logged_in(api)).body["token"]
    api.clock.turn(timedelta(minutes=14, seconds=50))
    assert (await api.call("GET", TOKEN + "/info", token=token)).status == 200
    api.clock.turn(timedelta(seconds=20))
    assert (await api.call("GET", TOKEN + "/info", token=token)).status == 401


async def test_logging_out_ends_access_and_refresh_tokens(api: Api) -> None:
    await signed_up(api)
    issued, other = (await logged_in(api)).body, (await logged_in(api)).body
    assert (await api.call("POST", "/api/v1/iam/logout", token=issued["token"])).status == 204
    assert (await api.call("GET", TOKEN + "/info", token=issued["token"])).status == 401
    assert (await refreshed(api, issued["refreshToken"])).status == 401
    assert (await api.call("GET", TOKEN + "/info", token=other["token"])).status == 200


async def test_a_suspended_identity_has_no_token_and_comes_back_with_the_one_it_had(api: Api) -> None:
    await signed_up(api)
    token, root = (await logged_in(api)).body["token"], await api.root_token()
    path = "/api/v1/iam/users/alice?tenant=acme"
    assert (await api.call("PATCH", path, {"status": "suspended"}, token=root)).status == 200
    assert (await api.call("GET", TOKEN + "/info", token=token)).status == 401
    assert (await api.call("GET", TOKEN, headers=basic("alice", PASSWORD))).status == 401
    assert (await api.call("PATCH", path, {"status": "active"}, token=root)).status == 200
    assert (await api.call("GET", TOKEN + "/info", token=token)).status == 200


@pytest.mark.parametrize("status", ["blocked", "deleted"])
async def test_blocking_a_tenant_ends_its_identities_tokens_and_those_below_it(api: Api, status: str) -> None:
    await signed_up(api)
    await api.tenant("acme-east", below="acme")
    await api.role("acme-east", "worker")
    below = await api.person("acme-east", "worker", "bob")
    token, root = (await logged_in(api)).body["token"], await api.root_token()
    if status == "blocked":
        answer = await api.call("PATCH", "/api/v1/iam/groups/acme", {"status": "blocked"}, token=root)
        assert answer.body["status"] == "blocked"
    else:
        assert (await api.call("DELETE", "/api/v1/iam/groups/acme", token=root)).status == 204
    for one in (token, below):
        assert (await api.call("GET", TOKEN + "/info", token=one)).status == 401
    assert (await api.call("GET", TOKEN, headers=basic("alice", PASSWORD))).status == 401
    if status == "blocked":
        await api.call("PATCH", "/api/v1/iam/groups/acme", {"status": "active"}, token=root)
        assert (await api.call("GET", TOKEN + "/info", token=token)).status == 200


async def test_a_changed_role_changes_what_a_token_in_use_may_do(api: Api) -> None:
    await signed_up(api)
    token, root = (await logged_in(api)).body["token"], await api.root_token()
    assert (await api.call("GET", "/api/v1/devices", token=token)).status == 200
    path = "/api/v1/iam/groups/acme/roles/worker"
    assert (await api.call("PUT", path, {"permissions": []}, token=root)).status == 200
    assert (await api.call("GET", "/api/v1/devices", token=token)).status == 403


async def test_a_token_of_another_issuer_is_refused(api: Api) -> None:

    await signed_up(api)
    genuine = (await logged_in(api)).body["token"]
    header = jwt.get_unverified_header(genuine)
    claims = jwt.decode(genuine, options={"verify_signature": False})
    forged = jwt.encode(claims, ec.generate_private_key(ec.SECP256R1()), "ES256", headers=header)
    assert (await api.call("GET", TOKEN + "/info", token=forged)).status == 401


async def test_a_token_key_that_somebody_else_wrote_verifies_nothing(api: Api) -> None:
    """Whoever can write a row of the key table still cannot forge a token: he lacks the master key."""

    await signed_up(api)
    claims = jwt.decode((await logged_in(api)).body["token"], options={"verify_signature": False})
    key = ec.generate_private_key(ec.SECP256R1())
    numbers = key.public_key().public_numbers()
    encoded = [base64.urlsafe_b64encode(one.to_bytes(32)).rstrip(b"=").decode() for one in (numbers.x, numbers.y)]
    jwk = {"kty": "EC", "crv": "P-256", "x": encoded[0], "y": encoded[1], "alg": "ES256", "use": "sig"}
    jwk["kid"] = thumbprint(jwk)
    async with api.app.pool.transaction(EVERYWHERE) as transaction:
        await transaction.execute(
            "INSERT INTO token_key SELECT $1, $2, sealed, created_at, signs_from, verifies_to FROM token_key",
            jwk["kid"],
            orjson.dumps(jwk).decode(),
        )
    api.clock.turn(timedelta(seconds=90))
    forged = jwt.encode(claims, key, "ES256", headers={"typ": "at+jwt", "kid": jwk["kid"]})
    assert (await api.call("GET", TOKEN + "/info", token=forged)).status == 401
    published = (await api.call("GET", "/.well-known/jwks.json")).body["keys"]
    assert jwk["kid"] not in {one["kid"] for one in published}


async def test_of_many_wrong_passwords_at_once_only_the_free_ones_are_compared(api: Api) -> None:
    await signed_up(api)
    answers = await asyncio.gather(
        *(api.call("GET", TOKEN, headers=basic("alice", f"wrong password {number}")) for number in range(20))
    )
    statuses = sorted(answer.status for answer in answers)
    assert statuses.count(401) == FREE_FAILURES + 1
    assert statuses.count(429) == 20 - FREE_FAILURES - 1


async def test_a_code_that_cannot_hold_costs_no_hashing_and_its_sender_is_throttled(api: Api) -> None:
    body = {"name": "alice", "code": "x" * 27, "password": PASSWORD}
    statuses = [(await api.call("POST", "/api/v1/iam/signup", body)).status for _ in range(53)]
    assert statuses[:50] == [401] * 50
    assert statuses[-1] == 429


async def test_used_up_refresh_tokens_do_not_stay(api: Api) -> None:
    await signed_up(api)
    issued = (await logged_in(api)).body
    issued = (await refreshed(api, issued["refreshToken"])).body
    api.clock.turn(timedelta(days=6))
    await refreshed(api, issued["refreshToken"])
    api.clock.turn(timedelta(days=2))
    await api.app.login.purge()
    async with api.app.pool.transaction(EVERYWHERE) as transaction:
        assert await transaction.fetchval("SELECT count(*) FROM refresh_token") == 1


async def test_a_clock_that_was_ahead_brings_no_ended_session_back(api: Api) -> None:
    token = await api.root_token()
    assert (await api.call("POST", "/api/v1/iam/logout", token=token)).status in {200, 204}
    api.clock.turn(timedelta(hours=3))
    await api.app.login.purge()
    assert (await api.call("GET", TOKEN + "/info", token=await api.root_token())).status == 200  # reads how it stands
    api.clock.turn(-timedelta(hours=3))
    assert (await api.call("GET", TOKEN + "/info", token=token)).status == 401


async def test_a_clock_that_was_set_back_lends_a_used_refresh_token_no_grace(api: Api) -> None:
    await signed_up(api)
    first = (await logged_in(api)).body
    second = await refreshed(api, first["refreshToken"])
    api.clock.turn(-timedelta(minutes=4))
    assert (await refreshed(api, first["refreshToken"])).status == 401
    assert (await refreshed(api, second.body["refreshToken"])).status == 401


async def test_a_clock_that_was_ahead_makes_nobody_wait_for_hours(api: Api) -> None:
    await signed_up(api)
    api.clock.turn(timedelta(hours=3))
    for _ in range(FREE_FAILURES + 2):
        await api.call("GET", TOKEN, headers=basic("alice", "wrong password"))
    assert (await api.call("GET", TOKEN, headers=basic("alice", PASSWORD))).status == 429
    api.clock.turn(-timedelta(hours=3))
    await logged_in(api)

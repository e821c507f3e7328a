"""`/auth/challenge`, `/auth/verify`, `/identity/register`: keys of every form, and answers that do not hold."""

import asyncio
import base64
import json
from datetime import timedelta
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, ed25519
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from tests.api.conftest import Answer, Api

P256 = ec.EllipticCurvePrivateKey
ED = ed25519.Ed25519PrivateKey


def b64(value: bytes) -> str:
    return base64.b64encode(value).decode()


def spki(key: P256 | ED) -> str:
    return b64(key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo))


def raw(key: P256 | ED) -> str:
    if isinstance(key, ED):
        return b64(key.public_key().public_bytes(Encoding.Raw, PublicFormat.Raw))
    return b64(key.public_key().public_bytes(Encoding.X962, PublicFormat.UncompressedPoint))


def openssh(key: P256 | ED) -> str:
    return key.public_key().public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH).decode()


def sign(key: P256 | ED, message: str, *, flat: bool = False) -> str:
    if isinstance(key, ED):
        return b64(key.sign(message.encode()))
    der = key.sign(message.encode(), ec.ECDSA(SHA256()))
    if not flat:
        return b64(der)
    r, s = decode_dss_signature(der)
    return b64(r.to_bytes(32) + s.to_bytes(32))


async def challenged(api: Api, public_key: str, purpose: str = "login") -> str:
    answer = await api.call("POST", "/auth/challenge", {"public_key": public_key, "purpose": purpose})
    assert answer.status == 200, answer
    return str(answer.body["challenge"])


async def registered(api: Api, key: P256 | ED, name: str = "gw", type_: str = "gateway") -> dict[str, Any]:
    await api.tenant("acme")
    await api.role("acme", "gateway")
    invited = await api.invite("acme", "gateway", name, type=type_)
    answer = await register(api, key, name=name, type=type_, code=invited["code"])
    assert answer.status == 201, answer
    found: dict[str, Any] = answer.body
    return found


async def register(api: Api, key: P256 | ED, *, token: str | None = None, **fields: Any) -> Answer:
    challenge = await challenged(api, spki(key), "register")
    body = {"public_key": spki(key), "challenge": challenge, "signature": sign(key, challenge), **fields}
    return await api.call("POST", "/identity/register", body, token=token)


async def verify(api: Api, key: P256 | ED, **changed: Any) -> Answer:
    challenge = await challenged(api, spki(key))
    body = {"public_key": spki(key), "challenge": challenge, "signature": sign(key, challenge), **changed}
    return await api.call("POST", "/auth/verify", body)


@pytest.mark.parametrize("form", [spki, raw, openssh])
@pytest.mark.parametrize("flat", [False, True])
async def test_a_p256_key_in_every_form_gets_a_token(api: Api, form: Any, flat: bool) -> None:
    key = ec.generate_private_key(ec.SECP256R1())
    identity = (await registered(api, key))["identity_id"]
    challenge = await challenged(api, form(key))
    body = {"public_key": form(key), "challenge": challenge, "signature": sign(key, challenge, flat=flat)}
    answer = await api.call("POST", "/auth/verify", body)
    assert answer.status == 200, answer
    assert answer.body["identity_id"] == identity
    info = (await api.call("GET", "/api/v1/iam/token/info", token=answer.body["token"])).body
    assert (info["identityType"], info["methods"], info["devices"]) == ("gateway", ["pop"], [])


@pytest.mark.parametrize("form", [spki, raw, openssh])
async def test_an_ed25519_key_in_every_form_gets_a_token(api: Api, form: Any) -> None:
    key = ed25519.Ed25519PrivateKey.generate()
    await registered(api, key, "dora", "developer")
    challenge = await challenged(api, form(key))
    body = {"public_key": form(key), "challenge": challenge, "signature": sign(key, challenge)}
    assert (await api.call("POST", "/auth/verify", body)).status == 200


async def test_a_challenge_for_an_unknown_key_looks_like_any_other_and_fails_at_verify(api: Api) -> None:
    known, unknown = (ec.generate_private_key(ec.SECP256R1()) for _ in range(2))
    await registered(api, known)
    texts = [await challenged(api, spki(key)) for key in (known, unknown)]
    assert len({len(text) for text in texts}) == 1
    answers = [await verify(api, unknown), await verify(api, known, signature=b64(bytes(64)))]
    assert [answer.status for answer in answers] == [401, 401]
    assert answers[0].body == answers[1].body


async def test_a_challenge_is_answered_once_of_a_hundred_at_once(api: Api) -> None:
    key = ec.generate_private_key(ec.SECP256R1())
    await registered(api, key)
    challenge = await challenged(api, spki(key))
    body = {"public_key": spki(key), "challenge": challenge, "signature": sign(key, challenge)}
    answers = await asyncio.gather(*(api.call("POST", "/auth/verify", body) for _ in range(100)))
    assert sorted(answer.status for answer in answers) == [200] + [401] * 99


async def test_a_wrong_answer_uses_the_challenge_up(api: Api) -> None:
    key = ec.generate_private_key(ec.SECP256R1())
    await registered(api, key)
    challenge = await challenged(api, spki(key))
    body = {"public_key": spki(key), "challenge": challenge}
    assert (await api.call("POST", "/auth/verify", {**body, "signature": sign(key, "other")})).status == 401
    assert (await api.call("POST", "/auth/verify", {**body, "signature": sign(key, challenge)})).status == 401


async def test_a_challenge_expires(api: Api) -> None:
    key = ec.generate_private_key(ec.SECP256R1())
    await registered(api, key)
    challenge = await challenged(api, spki(key))
    api.clock.turn(timedelta(minutes=2, seconds=1))
    body = {"public_key": spki(key), "challenge": challenge, "signature": sign(key, challenge)}
    assert (await api.call("POST", "/auth/verify", body)).status == 401


async def test_a_challenge_serves_its_own_key_and_purpose_only(api: Api) -> None:
    key, other = (ec.generate_private_key(ec.SECP256R1()) for _ in range(2))
    await registered(api, key)
    for challenge in (await challenged(api, spki(other)), await challenged(api, spki(key), "register"), "made up"):
        body = {"public_key": spki(key), "challenge": challenge, "signature": sign(key, challenge)}
        assert (await api.call("POST", "/auth/verify", body)).status == 401


@pytest.mark.parametrize(
    "public_key",
    [
        "",
        "AAAA",
        "not base64 !",
        "x" * 5000,
        spki(ec.generate_private_key(ec.SECP384R1())),
        b64(bytes(32)),
        b64(b"\x04" + bytes(64)),
    ],
)
async def test_a_key_that_is_none_of_ours_is_refused_at_the_challenge(api: Api, public_key: str) -> None:
    answer = await api.call("POST", "/auth/challenge", {"public_key": public_key})
    assert answer.status == 400
    assert answer.headers["Content-Type"] == "application/problem+json"


@pytest.mark.parametrize(
    ("type_", "key"),
    [
        ("gateway", ed25519.Ed25519PrivateKey.generate()),
        ("integration", ed25519.Ed25519PrivateKey.generate()),
        ("developer", ec.generate_private_key(ec.SECP256R1())),
        ("user", ec.generate_private_key(ec.SECP256R1())),
    ],
)
async def test_a_type_fixes_the_algorithm_of_its_keys(api: Api, type_: str, key: P256 | ED) -> None:
    await api.tenant("acme")
    await api.role("acme", "gateway")
    invited = await api.invite("acme", "gateway", "x", type=type_)
    answer = await register(api, key, name="x", type=type_, code=invited["code"])
    assert answer.status in (400, 422)
    assert type_ in json.dumps(answer.body)


async def test_a_registration_needs_a_code_or_the_token_of_somebody_who_may(api: Api) -> None:
    await api.tenant("acme")
    await api.role("acme", "gateway")
    await api.role("acme", "boss", ("iam.users", "create"))
    boss, nobody = await api.person("acme", "boss", "b"), await api.person("acme", "gateway", "n")
    key = ec.generate_private_key(ec.SECP256R1())
    fields = {"name": "gw", "type": "gateway", "role": "gateway"}
    assert (await register(api, key, **fields)).status == 401
    assert (await register(api, key, code="wrong", name="gw", type="gateway")).status == 401
    assert (await register(api, key, token=nobody, **fields)).status == 403
    assert (await register(api, key, token=boss, **{**fields, "role": "boss"})).status == 201
    other = ec.generate_private_key(ec.SECP256R1())
    assert (await register(api, other, token=boss, **{**fields, "name": "g2", "group": "system"})).status == 404
    assert (await register(api, other, token=boss, name="g2", type="gateway")).status == 400
    assert (await register(api, other, token=boss, **{**fields, "name": "g2"})).status == 201
    assert (await verify(api, other)).status == 200


async def test_a_key_is_registered_once_ever(api: Api) -> None:
    key = ec.generate_private_key(ec.SECP256R1())
    found = await registered(api, key)
    again = await api.invite("acme", "gateway", "gw2", type="gateway")
    assert (await register(api, key, name="gw2", type="gateway", code=again["code"])).status == 409
    root = await api.root_token()
    credentials = f"/api/v1/iam/users/{found['identity_id']}/credentials"
    credential = (await api.call("GET", credentials + "?tenant=acme", token=root)).body["items"][0]["id"]
    token = (await verify(api, key)).body["token"]
    assert (await api.call("DELETE", f"{credentials}/{credential}?tenant=acme", token=root)).status == 204
    assert (await verify(api, key)).status == 401
    assert (await api.call("GET", "/api/v1/iam/token/info", token=token)).status == 401
    assert (await register(api, key, name="gw2", type="gateway", code=again["code"])).status == 409
    other = ec.generate_private_key(ec.SECP256R1())
    assert (await register(api, other, name="gw2", type="gateway", code=again["code"])).status == 201


async def test_a_code_is_for_the_name_and_type_that_it_invites(api: Api) -> None:
    await api.tenant("acme")
    await api.role("acme", "gateway")
    invited = await api.invite("acme", "gateway", "gw", type="gateway")
    key = ec.generate_private_key(ec.SECP256R1())
    for fields in ({"name": "other", "type": "gateway"}, {"name": "gw", "type": "integration"}):
        assert (await register(api, key, code=invited["code"], **fields)).status == 401
    assert (await register(api, key, code=invited["code"], name="gw", type="gateway")).status == 201


async def test_a_clock_that_was_ahead_makes_no_used_challenge_good_again(api: Api) -> None:
    key = ec.generate_private_key(ec.SECP256R1())
    await registered(api, key)
    challenge = await challenged(api, spki(key))
    body = {"public_key": spki(key), "challenge": challenge, "signature": sign(key, challenge)}
    assert (await api.call("POST", "/auth/verify", body)).status == 200
    api.clock.turn(timedelta(hours=3))
    await next(job.run() for job in api.app.jobs if job.name == "purge of challenges")
    api.clock.turn(-timedelta(hours=3))
    assert (await api.call("POST", "/auth/verify", body)).status == 401

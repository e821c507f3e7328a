"""Enrolment profiles over REST, behind the guard, on a real store."""

from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec

from certs.pem import write_certificates
from est.http import profiles
from est.profiles import EnrolmentMode
from iam.guard import Route
from tests.ca.world import World, serving
from tests.est.world import EstWorld, b64, only, request

ALL = '[{"resource": "*", "actions": ["create", "read", "update", "delete"]}]'
PROFILES = '[{"resource": "est.profiles", "actions": ["create", "read", "update", "delete"]}]'
PATH = "/api/v1/est/profiles"


def all_routes(est: EstWorld) -> list[Route]:
    return profiles.routes(est.profiles)


def anchors(world: World, name: str = "factory") -> str:
    return write_certificates([world.authorities.by_name(name).certificate]).decode()


async def test_a_profile_from_its_making_to_its_end(est: EstWorld) -> None:
    headers = await est.world.identity(est.world.system.id, ALL)
    body = {"name": "meters", "bootstrapAnchors": anchors(est.world), "identifierPattern": "meter-*"}
    async with serving(est.world, all_routes(est)) as client:
        made = await client.post(PATH, headers=headers, json=body)
        assert (made.status, made.headers["Location"]) == (201, f"{PATH}/meters")
        shown = await made.json()
        assert (shown["mode"], shown["roleName"], shown["previousGraceSeconds"]) == ("jitp", "device", 0)
        assert await (await client.get(f"{PATH}/meters", headers=headers)).json() == shown
        batch = await est.bootstrap("batch")
        csr = b64(request(ec.generate_private_key(ec.SECP256R1()), "meter-001"))
        assert only(await est.service.enrol("meters", (batch.der,), csr))
        changed = await client.patch(
            f"{PATH}/meters", headers=headers, json={"identifierPattern": None, "previousGraceSeconds": 60}
        )
        found = await changed.json()
        assert ("identifierPattern" in found, found["previousGraceSeconds"]) == (False, 60)
        listed = await (await client.get(PATH, headers=headers)).json()
        assert [one["name"] for one in listed["items"]] == ["default", "meters"]
        assert (await client.post(PATH, headers=headers, json=body)).status == 409
        assert (await client.delete(f"{PATH}/meters", headers=headers)).status == 204
        assert (await client.get(f"{PATH}/meters", headers=headers)).status == 404
        assert (await client.delete(f"{PATH}/default", headers=headers)).status == 409


async def test_what_a_label_wants_of_requests_and_which_keys_it_makes(est: EstWorld) -> None:
    headers = await est.world.identity(est.world.system.id, ALL)
    wanted = {"proofOfPossession": "required", "csrAttributes": "template", "serverKeyGeneration": "P-384"}
    async with serving(est.world, all_routes(est)) as client:
        made = await client.post(PATH, headers=headers, json={"name": "meters", "bootstrapAnchors": anchors(est.world)})
        shown = await made.json()
        assert (shown["proofOfPossession"], shown["csrAttributes"]) == ("off", "minimal")
        assert ("serverKeyGeneration" in shown, shown["encryptedServerKeysOnly"]) == (False, False)
        body = {**wanted, "encryptedServerKeysOnly": True}
        changed = await (await client.patch(f"{PATH}/meters", headers=headers, json=body)).json()
        assert {**changed, **body} == changed
        assert await (await client.get(f"{PATH}/meters", headers=headers)).json() == changed
        body = {"serverKeyGeneration": None}
        changed = await (await client.patch(f"{PATH}/meters", headers=headers, json=body)).json()
        assert ("serverKeyGeneration" in changed, changed["proofOfPossession"]) == (False, "required")
        for name in wanted:
            answer = await client.patch(f"{PATH}/meters", headers=headers, json={name: "perhaps"})
            assert answer.status == 400


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("name", "cacerts"),
        ("name", "a/b"),
        ("name", None),
        ("bootstrapAnchors", "no PEM"),
        ("bootstrapAnchors", ""),
        ("identifierPattern", "(a+)+"),
        ("mode", "anyone"),
        ("certificateProfile", "server"),
        ("certificateProfile", "../../etc"),
        ("previousGraceSeconds", -1),
        ("previousGraceSeconds", 10**12),
        ("unknown", 1),
    ],
)
async def test_bodies_that_are_no_profile(est: EstWorld, field: str, value: Any) -> None:
    headers = await est.world.identity(est.world.system.id, ALL)
    body = {"name": "meters", "bootstrapAnchors": anchors(est.world)} | {field: value}
    async with serving(est.world, all_routes(est)) as client:
        assert (await client.post(PATH, headers=headers, json=body)).status == 400
    assert await est.world.value("SELECT count(*) FROM enrolment_profile") == 1


async def test_a_binding_lets_one_bootstrap_certificate_enrol_a_device(est: EstWorld) -> None:
    headers = await est.world.identity(est.world.system.id, ALL)
    await est.label("strict", mode=EnrolmentMode.PRE_REGISTERED)
    await est.world.device("meter-001", est.world.system.id)
    bootstrap, path = await est.bootstrap("batch"), "/api/v1/est/bindings/meter-001"
    limited = await est.world.identity(est.world.system.id, ALL, ["meter-002"])
    stranger = await est.world.identity(await est.world.tenant("acme"), ALL)
    issuer = {"issuerPublicKeySha256": est.world.authorities.by_name("factory").spki_sha256.hex()}
    async with serving(est.world, all_routes(est)) as client:
        for who, where, body, status in (
            (headers, path, {}, 400),
            (headers, path, {"serial": "xyz", **issuer}, 400),
            (headers, path, {"serial": "01"}, 400),
            (headers, path, issuer, 400),
            (headers, path.replace("001", "009"), {"serial": "01", **issuer}, 404),
            (limited, path, {"serial": "01", **issuer}, 404),
            (stranger, path, {"serial": "01", **issuer}, 404),
            (headers, path, {"serial": "01", **issuer}, 204),
            (headers, path, {"serial": bootstrap.serial.hex(), **issuer}, 204),
        ):
            assert (await client.put(where, headers=who, json=body)).status == status, body
    csr = b64(request(ec.generate_private_key(ec.SECP256R1()), "meter-001"))
    assert only(await est.service.enrol("strict", (bootstrap.der,), csr))


async def test_an_anchor_that_is_no_authority(est: EstWorld) -> None:
    headers = await est.world.identity(est.world.system.id, ALL)
    leaf = write_certificates([(await est.bootstrap("meter-001")).certificate]).decode()
    async with serving(est.world, all_routes(est)) as client:
        made = await client.post(PATH, headers=headers, json={"name": "meters", "bootstrapAnchors": leaf})
    assert made.status == 400


async def test_nobody_gives_devices_what_he_does_not_hold(est: EstWorld) -> None:
    headers = await est.world.identity(est.world.system.id, PROFILES)
    body = {"name": "meters", "bootstrapAnchors": anchors(est.world), "roleName": "root"}
    async with serving(est.world, all_routes(est)) as client:
        assert (await client.post(PATH, headers=headers, json=body)).status == 403
        assert (await client.patch(f"{PATH}/default", headers=headers, json={"roleName": "root"})).status == 403
        assert (await client.post(PATH, headers=headers, json={**body, "roleName": "no-such"})).status == 404
    assert await est.world.value("SELECT role_name FROM enrolment_profile") == "device"


async def test_another_tenants_profiles_are_not_there(est: EstWorld) -> None:
    headers = await est.world.identity(await est.world.tenant("acme"), ALL)
    async with serving(est.world, all_routes(est)) as client:
        assert (await (await client.get(PATH, headers=headers)).json())["items"] == []
        assert (await client.get(f"{PATH}/default", headers=headers)).status == 404
        assert (await client.patch(f"{PATH}/default", headers=headers, json={})).status == 404
        taken = {"name": "default", "bootstrapAnchors": anchors(est.world)}
        assert (await client.post(PATH, headers=headers, json=taken)).status == 409

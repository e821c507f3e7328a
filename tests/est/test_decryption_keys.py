"""Decryption keys over REST, behind the guard, on a real store."""

from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, ed25519
from cryptography.hazmat.primitives.serialization import Encoding

from est.decryption_keys import KEYS_MAXIMUM
from est.http import decryption_keys
from iam.guard import Route
from tests.ca.world import serving
from tests.certs.test_cms import certificate
from tests.est.world import EstWorld

ALL = '[{"resource": "est.profiles", "actions": ["create", "read", "update", "delete"]}]'
READER = '[{"resource": "est.profiles", "actions": ["read"]}]'
LABEL, DEVICE = "/api/dmsmanager/v1/dms/made/decryption-keys", "/api/dmsmanager/v1/devices/meter-001/decryption-keys"
SECRET = "5a" * 32
EC_KEY = ec.generate_private_key(ec.SECP256R1())
CERTIFICATE = certificate(EC_KEY).public_bytes(Encoding.PEM).decode()


def all_routes(est: EstWorld) -> list[Route]:
    return decryption_keys.routes(est.decryption_keys)


async def prepared(est: EstWorld) -> dict[str, str]:
    await est.label("made")
    await est.world.device("meter-001", est.world.system.id)
    return await est.world.identity(est.world.system.id, ALL, ["*"])


@pytest.mark.parametrize("path", [LABEL, DEVICE])
async def test_a_key_from_its_registration_to_its_end(est: EstWorld, path: str) -> None:
    headers = await prepared(est)
    async with serving(est.world, all_routes(est)) as client:
        assert (await client.put(f"{path}/6b31", headers=headers, json={"secret": SECRET})).status == 204
        assert (await client.put(f"{path}/6b32", headers=headers, json={"certificate": CERTIFICATE})).status == 204
        answer = await client.get(path, headers=headers)
        text = await answer.text()
        assert SECRET not in text
        first, second = (await answer.json())["list"]
        assert (first["key_identifier"], "certificate" in first) == ("6b31", False)
        assert (second["key_identifier"], second["certificate"]) == ("6b32", CERTIFICATE)
        assert (await client.put(f"{path}/6b31", headers=headers, json={"certificate": CERTIFICATE})).status == 204
        assert len((await (await client.get(path, headers=headers)).json())["list"]) == 2
        assert (await client.delete(f"{path}/6b31", headers=headers)).status == 204
        assert (await client.delete(f"{path}/6b31", headers=headers)).status == 404
    kinds = await est.world.rows(
        "SELECT kind, subject FROM audit_pending WHERE kind LIKE 'decryption_key.%' ORDER BY id"
    )
    assert [(row["kind"], row["subject"]) for row in kinds] == [
        ("decryption_key.registered", "6b31"),
        ("decryption_key.registered", "6b32"),
        ("decryption_key.registered", "6b31"),
        ("decryption_key.deleted", "6b31"),
    ]
    assert SECRET not in str(await est.world.rows("SELECT data FROM outbox"))


@pytest.mark.parametrize(
    ("identifier", "body"),
    [
        ("6b31", {}),
        ("6b31", {"secret": SECRET, "certificate": CERTIFICATE}),
        ("6b31", {"secret": "5a" * 20}),
        ("6b31", {"secret": "zz" * 32}),
        ("6b31", {"certificate": "no PEM"}),
        ("6b31", {"certificate": CERTIFICATE + CERTIFICATE}),
        ("6b31", {"certificate": certificate(EC_KEY, usage="digital_signature").public_bytes(Encoding.PEM).decode()}),
        (
            "6b31",
            {"certificate": certificate(ed25519.Ed25519PrivateKey.generate()).public_bytes(Encoding.PEM).decode()},
        ),
        ("6b3", {"secret": SECRET}),
        ("xy", {"secret": SECRET}),
        ("00" * 65, {"secret": SECRET}),
    ],
)
async def test_what_no_key_can_be_encrypted_under_is_refused(
    est: EstWorld, identifier: str, body: dict[str, Any]
) -> None:
    headers = await prepared(est)
    async with serving(est.world, all_routes(est)) as client:
        assert (await client.put(f"{LABEL}/{identifier}", headers=headers, json=body)).status == 400
    assert await est.world.value("SELECT count(*) FROM decryption_key") == 0


async def test_others_holders_are_not_found(est: EstWorld) -> None:
    await prepared(est)
    other = await est.world.tenant("other")
    stranger = await est.world.identity(other, ALL, ["*"])
    narrow = await est.world.identity(est.world.system.id, ALL, ["meter-002"])
    reader = await est.world.identity(est.world.system.id, READER, ["*"])
    async with serving(est.world, all_routes(est)) as client:
        for path in (LABEL, DEVICE):
            assert (await client.put(f"{path}/6b31", headers=stranger, json={"secret": SECRET})).status == 404
            assert (await client.get(path, headers=stranger)).status == 404
            assert (await client.delete(f"{path}/6b31", headers=stranger)).status == 404
            assert (await client.put(f"{path}/6b31", headers=reader, json={"secret": SECRET})).status == 403
        assert (await client.put(f"{DEVICE}/6b31", headers=narrow, json={"secret": SECRET})).status == 404
        assert (await client.get(DEVICE, headers=narrow)).status == 404
    assert await est.world.value("SELECT count(*) FROM decryption_key") == 0


async def test_a_holder_has_a_bounded_number(est: EstWorld) -> None:
    headers = await prepared(est)
    async with serving(est.world, all_routes(est)) as client:
        for number in range(KEYS_MAXIMUM):
            answer = await client.put(f"{LABEL}/{number:04x}", headers=headers, json={"secret": SECRET})
            assert answer.status == 204
        assert (await client.put(f"{LABEL}/ffff", headers=headers, json={"secret": SECRET})).status == 409
        assert (await client.put(f"{LABEL}/0000", headers=headers, json={"secret": SECRET})).status == 204
    assert await est.world.value("SELECT count(*) FROM decryption_key") == KEYS_MAXIMUM


async def test_a_key_goes_with_its_label_and_its_device(est: EstWorld) -> None:
    headers = await prepared(est)
    async with serving(est.world, all_routes(est)) as client:
        for path in (LABEL, DEVICE):
            assert (await client.put(f"{path}/6b31", headers=headers, json={"secret": SECRET})).status == 204
    await est.world.execute("DELETE FROM enrolment_profile WHERE name = 'made'")
    await est.world.execute("DELETE FROM device")
    assert await est.world.value("SELECT count(*) FROM decryption_key") == 0

"""The authority over HTTP, behind the guard, on a real store."""

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from ca.http import authorities, certificates, publication
from tests.ca.world import World, serving

ALL = '[{"resource": "*", "actions": ["create", "read", "update", "delete"]}]'
READ = '[{"resource": "ca.*", "actions": ["read"]}]'
OTHER = '[{"resource": "devices", "actions": ["read"]}]'
CERTIFICATES = "/api/v1/ca/certificates"


def all_routes(world: World) -> list:  # type: ignore[type-arg]
    return [
        *authorities.routes(world.authorities),
        *certificates.routes(world.service, world.revocation),
        *publication.routes(world.shelf, world.authorities),
        *publication.partition_routes(world.publisher, world.authorities),
    ]


async def test_authorities(world: World) -> None:
    headers = await world.identity(world.system.id, READ)
    async with serving(world, all_routes(world)) as client:
        answer = await client.get("/api/v1/ca/authorities", headers=headers)
        items = {one["name"]: one for one in (await answer.json())["items"]}
    root = world.authorities.by_name("root")
    assert set(items) == {"root", "issuing", "factory"}
    assert x509.load_pem_x509_certificate(items["root"]["certificate"].encode()) == root.certificate
    assert (items["root"]["canSign"], items["issuing"]["canSign"]) == (False, True)


async def test_revoke_by_serial(world: World) -> None:
    headers = await world.identity(world.system.id, ALL)
    serial = (await world.service.issue_bootstrap("meter-001", actor="test")).serial.hex()
    path = f"{CERTIFICATES}/{serial}"
    async with serving(world, all_routes(world)) as client:
        before = await (await client.get(path, headers=headers)).json()
        answer = await client.post(f"{path}/revoke", headers=headers, json={"reason": "keyCompromise"})
        again = await client.post(f"{path}/revoke", headers=headers, json={})
        after = await (await client.get(f"{CERTIFICATES}/{serial.upper()}", headers=headers)).json()
    assert (before["status"], before["device"], before["profile"]) == ("active", "meter-001", "bootstrap")
    assert (answer.status, again.status) == (200, 409)
    assert (after["status"], after["reason"]) == ("revoked", "keyCompromise")
    actor = await world.value("SELECT actor FROM outbox WHERE kind = 'certificate.revoked'")
    assert headers["Authorization"].endswith(actor)


@pytest.mark.parametrize(
    ("body", "status"),
    [
        ({"reason": "cACompromise"}, 400),
        ({"reason": "removeFromCRL"}, 400),
        ({"why": "x"}, 400),
    ],
)
async def test_reasons_that_are_none(world: World, body: dict[str, str], status: int) -> None:
    headers = await world.identity(world.system.id, ALL)
    serial = (await world.service.issue_bootstrap("meter-001", actor="test")).serial.hex()
    async with serving(world, all_routes(world)) as client:
        assert (await client.post(f"{CERTIFICATES}/{serial}/revoke", headers=headers, json=body)).status == status


async def test_a_revocation_for_the_reason_hold_is_a_hold(world: World) -> None:
    headers = await world.identity(world.system.id, ALL)
    serial = (await world.service.issue_bootstrap("meter-001", actor="test")).serial
    async with serving(world, all_routes(world)) as client:
        path = f"{CERTIFICATES}/{serial.hex()}/revoke"
        held = await (await client.post(path, headers=headers, json={"reason": "certificateHold"})).json()
        listed = await (await client.get(CERTIFICATES, headers=headers, params={"status": "held"})).json()
    assert (held["status"], held["reason"]) == ("held", "certificateHold")
    assert [one["serial"] for one in listed["items"]] == [serial.hex()]


@pytest.mark.parametrize("serial", ["xyz", "0", "", "00" * 21, "0x01", "%00%01"])
async def test_serials_that_are_none(world: World, serial: str) -> None:
    headers = await world.identity(world.system.id, ALL)
    async with serving(world, all_routes(world)) as client:
        assert (await client.get(f"{CERTIFICATES}/{serial}", headers=headers)).status in {400, 404}


async def test_who_may(world: World) -> None:
    acme = await world.tenant("acme")
    serial = (await world.service.issue_bootstrap("meter-001", actor="test")).serial.hex()
    revoke = f"{CERTIFICATES}/{serial}/revoke"
    async with serving(world, all_routes(world)) as client:
        for permissions, tenant, status in (
            (READ, world.system.id, 403),
            (OTHER, world.system.id, 403),
            (ALL, acme, 404),
            (ALL, world.system.id, 200),
        ):
            headers = await world.identity(tenant, permissions)
            assert (await client.post(revoke, headers=headers, json={})).status == status, permissions
        assert (await client.post(revoke, json={})).status == 401


async def test_a_caller_sees_the_certificates_of_the_devices_in_his_reach(world: World) -> None:
    headers = await world.identity(world.system.id, ALL, ["meter-001"])
    made = {name: await world.service.issue_bootstrap(name, actor="test") for name in ("meter-001", "meter-002")}
    await world.service.server_certificate(["localhost"], [])
    async with serving(world, all_routes(world)) as client:
        page = await (await client.get(CERTIFICATES, headers=headers)).json()
        hidden = made["meter-002"].serial.hex()
        assert [one["device"] for one in page["items"]] == ["meter-001"]
        assert (await client.get(f"{CERTIFICATES}/{hidden}", headers=headers)).status == 404
        assert (await client.post(f"{CERTIFICATES}/{hidden}/revoke", headers=headers, json={})).status == 404


async def test_pages(world: World) -> None:
    headers = await world.identity(world.system.id, READ)
    serials = [(await world.service.issue_bootstrap("meter-001", actor="test")).serial.hex() for _ in range(5)]
    found: list[str] = []
    async with serving(world, all_routes(world)) as client:
        cursor: dict[str, str] = {}
        for _ in range(3):
            answer = await client.get(CERTIFICATES, headers=headers, params={"limit": "2", **cursor})
            page = await answer.json()
            found += [one["serial"] for one in page["items"]]
            cursor = {"cursor": page["next"]} if "next" in page else {}
        assert (found, cursor) == (serials, {})
        filtered = await client.get(CERTIFICATES, headers=headers, params={"status": "revoked"})
        assert (await filtered.json())["items"] == []
        broken = await client.get(CERTIFICATES, headers=headers, params={"cursor": "WyJhIiwiYiJd"})
        assert broken.status in {400, 404}


async def test_lists_and_certificates_for_everyone(world: World) -> None:
    await world.publisher.publish_lists()
    async with serving(world, all_routes(world)) as client:
        answer = await client.get("/crl/issuing.crl")
        content = await answer.read()
        assert answer.headers["Content-Type"] == "application/pkix-crl"
        assert len(x509.load_der_x509_crl(content)) == 0
        same = await client.get("/crl/issuing.crl", headers={"If-None-Match": answer.headers["ETag"]})
        assert (same.status, await same.read()) == (304, b"")
        assert "max-age" in answer.headers["Cache-Control"]
        modified = answer.headers["Last-Modified"]
        for headers, status in (
            ({"If-None-Match": "*"}, 304),
            ({"If-None-Match": f'W/{answer.headers["ETag"]}, "x"'}, 304),
            ({"If-None-Match": '"x"', "If-Modified-Since": modified}, 200),  # RFC 9110 13.1.3: the tag decides
            ({"If-Modified-Since": modified}, 304),
            ({"If-Modified-Since": "Thu, 01 Jan 2026 00:00:00 GMT"}, 200),
            ({"If-Modified-Since": "yesterday"}, 200),
        ):
            assert (await client.get("/crl/issuing.crl", headers=headers)).status == status, headers
        head = await client.head("/crl/issuing.crl")
        assert (head.headers["Content-Length"], await head.read()) == (str(len(content)), b"")
        delta = await client.get("/crl/issuing/delta.crl")
        assert x509.load_der_x509_crl(await delta.read()).extensions.get_extension_for_class(x509.DeltaCRLIndicator)
        root = await client.get("/ca/root.crt")
        assert root.headers["Content-Type"] == "application/pkix-cert"
        assert await root.read() == world.authorities.by_name("root").certificate.public_bytes(Encoding.DER)
        for path in ("none.crl", "issuing/2/0.crl", "issuing/2/0/delta.crl", "issuing/x/0.crl", "issuing/9999/1.crl"):
            assert (await client.get(f"/crl/{path}")).status == 404
        assert (await client.get("/ca/none.crt")).status == 404


async def test_partitions_are_for_the_system_tenant_to_set(world: World) -> None:
    acme = await world.tenant("acme")
    path = "/api/v1/ca/authorities/issuing/partitions"
    async with serving(world, all_routes(world)) as client:
        for tenant, permissions, body, status in (
            (acme, ALL, {"partitions": 8}, 403),
            (world.system.id, READ, {"partitions": 8}, 403),
            (world.system.id, ALL, {"partitions": 3}, 400),
            (world.system.id, ALL, {"partitions": 512}, 400),
            (world.system.id, ALL, {"partitions": 8}, 200),
        ):
            headers = await world.identity(tenant, permissions)
            assert (await client.put(path, headers=headers, json=body)).status == status
    query = "SELECT list_partitions FROM authority WHERE name = 'issuing'"
    assert await world.value(query) == [1, 8]

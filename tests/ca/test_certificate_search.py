"""Certificates over REST: search in Lamassu's form, status, metadata, and what a caller does not see."""

from base64 import b64decode
from datetime import timedelta
from typing import Any
from uuid import uuid4

import pytest
from aiohttp import web
from aiohttp.test_utils import TestClient
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from ca.http import certificates
from ca.inventory import AuthorityKind, RevocationReason
from ca.record_keeping import RecordKeeping
from ca.search import CertificateSearch
from iam.store.database import EVERYWHERE
from tests.ca.world import World, serving

ALL = '[{"resource": "*", "actions": ["create", "read", "update", "delete"]}]'
READ = '[{"resource": "ca.*", "actions": ["read"]}]'
OTHER = '[{"resource": "devices", "actions": ["read"]}]'
CERTIFICATES = "/api/ca/v1/certificates"

Client = TestClient[web.Request, web.Application]


def all_routes(world: World) -> list:  # type: ignore[type-arg]
    keeping = RecordKeeping(world.pool, world.authorities, world.clock)
    return certificates.routes(CertificateSearch(world.pool, world.clock), world.revocation, world.authorities, keeping)


async def issued(world: World, *devices: str) -> list[str]:
    return [(await world.service.issue_bootstrap(device, actor="test")).serial.hex() for device in devices]


async def names(client: Client, headers: dict[str, str], path: str = "", **said: Any) -> list[str]:
    """The devices of a list, authorities' certificates aside, or the status and what it says where there is none."""
    answer = await client.get(f"{CERTIFICATES}{path}", headers=headers, params=said)
    body = await answer.json()
    if answer.status != 200:
        return [str(answer.status), body["detail"]]
    return [one["device"] for one in body["list"] if not one["is_ca"]]


async def test_what_a_certificate_shows(world: World) -> None:
    headers = await world.identity(world.system.id, READ)
    (serial,) = await issued(world, "meter-001")
    factory = world.authorities.current(AuthorityKind.FACTORY)
    async with serving(world, all_routes(world)) as client:
        found = await (await client.get(f"{CERTIFICATES}/{serial}", headers=headers)).json()
        written = "-".join(serial[at : at + 2] for at in range(0, 32, 2))
        same = await (await client.get(f"{CERTIFICATES}/{written}", headers=headers)).json()
    certificate = x509.load_pem_x509_certificate(b64decode(found["certificate"]))
    assert same == found
    assert certificate.serial_number == int(serial, 16)
    assert found["subject"] == {"common_name": "meter-001"}
    assert (found["status"], found["type"], found["is_ca"]) == ("ACTIVE", "EXTERNAL", False)
    assert found["key_metadata"] == {"type": "ECDSA", "bits": 256}
    assert found["issuer_metadata"]["id"] == str(factory.id)
    assert (int(found["issuer_metadata"]["serial_number"], 16), found["issuer_metadata"]["level"]) == (
        factory.certificate.serial_number,
        1,
    )
    assert (found["device"], found["profile"], found["metadata"]) == ("meter-001", "bootstrap", {})
    assert "revocation_reason" not in found


async def test_search(world: World) -> None:
    headers = await world.identity(world.system.id, READ)
    serials = await issued(world, "a-1", "a-2", "b-1")
    for serial, reason in (
        (serials[0], RevocationReason.KEY_COMPROMISE),
        (serials[2], RevocationReason.CERTIFICATE_HOLD),
    ):
        await world.revocation.revoke(EVERYWHERE, bytes.fromhex(serial), reason, actor="test")
    ends = await world.value("SELECT not_after FROM certificate WHERE serial = $1", bytes.fromhex(serials[1]))
    async with serving(world, all_routes(world)) as client:
        by_name = {"sort_by": "subject.common_name"}
        assert await names(client, headers, **by_name) == ["a-1", "a-2", "b-1"]
        assert await names(client, headers, **by_name, sort_mode="desc") == ["b-1", "a-2", "a-1"]
        assert await names(client, headers, filter="status[eq]ACTIVE") == ["a-2"]
        assert await names(client, headers, filter="status[ne]ACTIVE", **by_name) == ["a-1", "b-1"]
        assert await names(client, headers, "/status/revoked", **by_name) == ["a-1", "b-1"]
        assert await names(client, headers, "/status/expired") == []
        assert await names(client, headers, filter="revocation_reason[eq]CertificateHold") == ["b-1"]
        assert await names(client, headers, filter="subject.common_name[ct]a-", **by_name) == ["a-1", "a-2"]
        assert await names(client, headers, filter="device[eq]b-1") == ["b-1"]
        assert await names(client, headers, filter=f"serial_number[eq]{serials[1]}") == ["a-2"]
        end = ends.isoformat().replace("+00:00", "Z")
        assert await names(client, headers, "/expiration", expires_after=end, **by_name) != ["a-1", "a-2", "b-1"]
        later = (ends + timedelta(days=1)).isoformat().replace("+00:00", "Z")
        earlier = (ends - timedelta(days=1)).isoformat().replace("+00:00", "Z")
        assert await names(client, headers, "/expiration", expires_before=earlier) == []
        found = await names(client, headers, "/expiration", expires_after=earlier, expires_before=later, **by_name)
        assert found == ["a-1", "a-2", "b-1"]
        for path in (
            "/status/unheard",
            "/expiration?expires_before=tomorrow",
            "?filter=nothing[eq]1",
            "?sort_by=status",
        ):
            assert (await names(client, headers, path))[0] == "400", path


async def test_expired_is_told_by_the_clock(world: World) -> None:
    headers = await world.identity(world.system.id, READ)
    serials = await issued(world, "a-1", "a-2")
    await world.revocation.revoke(EVERYWHERE, bytes.fromhex(serials[0]), RevocationReason.UNSPECIFIED, actor="test")
    world.clock.move(timedelta(days=3650))
    async with serving(world, all_routes(world)) as client:
        assert await names(client, headers, "/status/EXPIRED") == ["a-2"]
        assert await names(client, headers, "/status/REVOKED") == ["a-1"]
        assert await names(client, headers, "/status/ACTIVE") == []
        shown = await (await client.get(f"{CERTIFICATES}/{serials[1]}", headers=headers)).json()
        assert shown["status"] == "EXPIRED"


async def test_lists_of_an_authority(world: World) -> None:
    headers = await world.identity(world.system.id, READ)
    await issued(world, "a-1")
    await world.service.server_certificate(["localhost"], [])
    factory, issuing = (world.authorities.current(kind).id for kind in (AuthorityKind.FACTORY, AuthorityKind.ISSUING))
    cas = "/api/ca/v1/cas"
    async with serving(world, all_routes(world)) as client:
        for authority, wanted in ((factory, ["bootstrap"]), (issuing, ["server"])):
            for path in (f"{cas}/{authority}/certificates", f"{cas}/{authority}/certificates/status/active"):
                body = await (await client.get(path, headers=headers)).json()
                assert [one["profile"] for one in body["list"]] == wanted, path
        for unknown in (uuid4(), "nobody", "%00"):
            answer = await client.get(f"{cas}/{unknown}/certificates", headers=headers)
            assert answer.status == 404, unknown


async def test_pages_neither_repeat_nor_lose_one(world: World) -> None:
    headers = await world.identity(world.system.id, READ)
    serials = await issued(world, *["meter-001"] * 5)
    async with serving(world, all_routes(world)) as client:
        for path in (CERTIFICATES, f"{CERTIFICATES}/status/active", f"{CERTIFICATES}/expiration"):
            found: list[str] = []
            said: dict[str, str] = {"page_size": "2", "filter": "device[eq]meter-001"}
            while said:
                page = await (await client.get(path, headers=headers, params=said)).json()
                found += [one["serial_number"] for one in page["list"]]
                said = {"bookmark": page["next"]} if "next" in page else {}
            assert found == sorted(serials), path


@pytest.mark.parametrize("reason", ["KeyCompromise", "keyCompromise"])
async def test_revoke_by_serial(world: World, reason: str) -> None:
    headers = await world.identity(world.system.id, ALL)
    (serial,) = await issued(world, "meter-001")
    path, body = f"{CERTIFICATES}/{serial}/status", {"status": "REVOKED", "revocation_reason": reason}
    async with serving(world, all_routes(world)) as client:
        answer = await client.put(path, headers=headers, json=body)
        again = await client.put(path, headers=headers, json=body)
        back = await client.put(path, headers=headers, json={"status": "ACTIVE"})
        after = await answer.json()
    assert (answer.status, again.status, back.status) == (200, 409, 409)
    assert (after["status"], after["revocation_reason"]) == ("REVOKED", "KeyCompromise")
    actor = await world.value("SELECT actor FROM outbox WHERE kind = 'certificate.revoked'")
    assert headers["Authorization"].endswith(actor)


async def test_hold_and_release(world: World) -> None:
    headers = await world.identity(world.system.id, ALL)
    (serial,) = await issued(world, "meter-001")
    path = f"{CERTIFICATES}/{serial}/status"
    async with serving(world, all_routes(world)) as client:
        hold = {"status": "REVOKED", "revocation_reason": "CertificateHold"}
        held = await (await client.put(path, headers=headers, json=hold)).json()
        released = await (await client.put(path, headers=headers, json={"status": "ACTIVE"})).json()
    assert (held["status"], held["revocation_reason"]) == ("REVOKED", "CertificateHold")
    assert released["status"] == "ACTIVE"
    assert "revocation_reason" not in released


@pytest.mark.parametrize(
    "body",
    [
        {},
        {"status": "EXPIRED"},
        {"status": "INACTIVE"},
        {"status": "REVOKED", "revocation_reason": "CACompromise"},
        {"status": "REVOKED", "revocation_reason": "RemoveFromCRL"},
        {"status": "REVOKED", "why": "x"},
    ],
)
async def test_changes_of_status_that_are_none(world: World, body: dict[str, str]) -> None:
    headers = await world.identity(world.system.id, ALL)
    (serial,) = await issued(world, "meter-001")
    async with serving(world, all_routes(world)) as client:
        assert (await client.put(f"{CERTIFICATES}/{serial}/status", headers=headers, json=body)).status == 400
    assert await world.value("SELECT status FROM certificate WHERE serial = $1", bytes.fromhex(serial)) == "active"


@pytest.mark.parametrize("method", ["put", "patch"])
async def test_metadata_by_json_patch(world: World, method: str) -> None:
    headers = await world.identity(world.system.id, ALL)
    (serial,) = await issued(world, "meter-001")
    path = f"{CERTIFICATES}/{serial}/metadata"

    async def patch(client: Client, *operations: dict[str, Any]) -> Any:
        return await getattr(client, method)(path, headers=headers, json={"patches": list(operations)})

    async with serving(world, all_routes(world)) as client:
        first = await patch(client, {"op": "add", "path": "/site", "value": {"name": "berlin"}})
        assert (await first.json())["metadata"] == {"site": {"name": "berlin"}}
        refused = await patch(client, {"op": "remove", "path": "/site"}, {"op": "remove", "path": "/nothing"})
        malformed = await patch(client, {"op": "break", "path": "/site"})
        assert (refused.status, malformed.status) == (409, 400)
        assert await names(client, headers, filter='metadata[jsonpath]$.site.name == "berlin"') == ["meter-001"]
        assert await names(client, headers, filter='metadata[jsonpath]$.site.name == "paris"') == []
    recorded = await world.rows("SELECT subject, data FROM outbox WHERE kind = 'certificate.updated'")
    assert [one["subject"] for one in recorded] == [serial]


@pytest.mark.parametrize("serial", ["xyz", "0", "", "00" * 21, "0x01", "%00%01"])
async def test_serials_that_are_none(world: World, serial: str) -> None:
    headers = await world.identity(world.system.id, ALL)
    async with serving(world, all_routes(world)) as client:
        assert (await client.get(f"{CERTIFICATES}/{serial}", headers=headers)).status in {400, 404}


async def test_who_may(world: World) -> None:
    acme = await world.tenant("acme")
    (serial,) = await issued(world, "meter-001")
    path, body = f"{CERTIFICATES}/{serial}/status", {"status": "REVOKED"}
    async with serving(world, all_routes(world)) as client:
        for permissions, tenant, status in (
            (READ, world.system.id, 403),
            (OTHER, world.system.id, 403),
            (ALL, acme, 404),
            (ALL, world.system.id, 200),
        ):
            headers = await world.identity(tenant, permissions)
            assert (await client.put(path, headers=headers, json=body)).status == status, permissions
        assert (await client.put(path, json=body)).status == 401


async def test_a_caller_sees_the_certificates_of_the_devices_in_his_reach(world: World) -> None:
    headers = await world.identity(world.system.id, ALL, ["meter-001"])
    seen, hidden = await issued(world, "meter-001", "meter-002")
    server = x509.load_pem_x509_certificate((await world.service.server_certificate(["localhost"], [])).chain)
    patch = {"patches": [{"op": "add", "path": "/a", "value": 1}]}
    async with serving(world, all_routes(world)) as client:
        assert await names(client, headers) == ["meter-001"]
        assert await names(client, headers, filter="device[eq]meter-002") == []
        assert (await client.get(f"{CERTIFICATES}/{seen}", headers=headers)).status == 200
        for serial in (hidden, server.serial_number.to_bytes(16).hex()):
            path = f"{CERTIFICATES}/{serial}"
            assert (await client.get(path, headers=headers)).status == 404
            assert (await client.put(f"{path}/status", headers=headers, json={"status": "REVOKED"})).status == 404
            assert (await client.patch(f"{path}/metadata", headers=headers, json=patch)).status == 404
    assert server.public_bytes(Encoding.DER)
    assert await world.value("SELECT count(*) FROM certificate WHERE status = 'revoked'") == 0

"""The authority over HTTP, behind the guard, on a real store."""

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from ca.http import authorities, publication
from tests.ca.world import World, serving

ALL = '[{"resource": "*", "actions": ["create", "read", "update", "delete"]}]'
READ = '[{"resource": "ca.*", "actions": ["read"]}]'
OTHER = '[{"resource": "devices", "actions": ["read"]}]'


def all_routes(world: World) -> list:  # type: ignore[type-arg]
    return [
        *authorities.routes(world.authorities),
        *publication.routes(world.revocation, world.authorities),
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


async def test_lists_and_certificates_for_everyone(world: World) -> None:
    await world.revocation.publish_lists()
    async with serving(world, all_routes(world)) as client:
        answer = await client.get("/crl/issuing.crl")
        content = await answer.read()
        assert answer.headers["Content-Type"] == "application/pkix-crl"
        assert len(x509.load_der_x509_crl(content)) == 0
        same = await client.get("/crl/issuing.crl", headers={"If-None-Match": answer.headers["ETag"]})
        assert (same.status, await same.read()) == (304, b"")
        assert "max-age" in answer.headers["Cache-Control"]
        root = await client.get("/ca/root.crt")
        assert root.headers["Content-Type"] == "application/pkix-cert"
        assert await root.read() == world.authorities.by_name("root").certificate.public_bytes(Encoding.DER)
        assert (await client.get("/crl/none.crl")).status == 404
        assert (await client.get("/ca/none.crt")).status == 404

"""What relying parties fetch, over HTTP, behind the guard, on a real store."""

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from ca.http import distribution
from tests.ca.world import World, serving

ALL = '[{"resource": "*", "actions": ["create", "read", "update", "delete"]}]'
READ = '[{"resource": "ca.*", "actions": ["read"]}]'


def all_routes(world: World) -> list:  # type: ignore[type-arg]
    return [
        *distribution.routes(world.shelf, world.authorities),
        *distribution.partition_routes(world.publisher, world.authorities),
    ]


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


async def test_partitions_are_for_the_authoritys_own_tenant_to_set(world: World) -> None:
    acme = await world.tenant("acme")
    path = "/api/ca/v1/cas/issuing/partitions"
    async with serving(world, all_routes(world)) as client:
        for tenant, permissions, body, status in (
            (acme, ALL, {"partitions": 8}, 404),
            (world.system.id, READ, {"partitions": 8}, 403),
            (world.system.id, ALL, {"partitions": 3}, 400),
            (world.system.id, ALL, {"partitions": 512}, 400),
            (world.system.id, ALL, {"partitions": 8}, 200),
        ):
            headers = await world.identity(tenant, permissions)
            assert (await client.put(path, headers=headers, json=body)).status == status
    query = "SELECT list_partitions FROM authority WHERE name = 'issuing'"
    assert await world.value(query) == [1, 8]

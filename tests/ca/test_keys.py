"""The KMS over HTTP, behind the guard, on a real store; openssl makes the keys that come in and checks signatures."""

import asyncio
import base64
import hashlib
import json
import logging
import subprocess
from collections.abc import AsyncIterator
from os import urandom
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
from aiohttp import web
from aiohttp.test_utils import TestClient
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, load_pem_public_key

from ca.http import keys
from ca.issue import encoded_key
from ca.kms import KeyService, key_for_authority, read_private_key
from ca.signers import make_private_key
from ca.signing import Message, SigningAlgorithm, verify_message
from ca.wishes import KeyWish
from certs.keys import KeyAlgorithm
from iam.errors import Kind, Refused
from iam.store.database import EVERYWHERE
from tests.ca.world import World, serving

ALL = '[{"resource": "kms.keys", "actions": ["create", "read", "update", "delete"]}]'
READ = '[{"resource": "kms.keys", "actions": ["read"]}]'
KEYS = "/api/kms/v1/keys"
EC_KEY = ec.generate_private_key(ec.SECP256R1())

KINDS = [
    *[("RSA", bits) for bits in (2048, 3072, 4096)],
    *[("ECDSA", bits) for bits in (256, 384, 521)],
    ("Ed25519", 256),
    *[("ML-DSA", level) for level in (44, 65, 87)],
]
WAYS = {
    "RSA": [one for one in SigningAlgorithm if one.startswith("RSA")],
    "ECDSA": [one for one in SigningAlgorithm if one.startswith("ECDSA")],
    "Ed25519": [SigningAlgorithm.ED25519],
}
HASHES = {"256": "sha256", "384": "sha384", "512": "sha512"}


class Kms:
    """The KMS as one caller sees it."""

    def __init__(self, client: TestClient[web.Request, web.Application], headers: dict[str, str]) -> None:
        self.client = client
        self.headers = headers

    async def call(self, method: str, path: str, body: Any = None, status: int = 200, **parameters: Any) -> Any:
        answer = await self.client.request(
            method, KEYS + path, headers=self.headers, json=body, params=parameters or None
        )
        content = await answer.read()
        assert answer.status == status, (method, path, answer.status, content)
        return json.loads(content) if "json" in answer.content_type else content

    async def make(self, algorithm: str = "ECDSA", size: int = 256, **fields: Any) -> dict[str, Any]:
        made: dict[str, Any] = await self.call("POST", "", {"algorithm": algorithm, "size": size, **fields}, status=201)
        return made

    async def sign(self, key: str, algorithm: str, message: bytes, kind: str = "RAW") -> bytes:
        body = {"algorithm": algorithm, "message": encoded(message), "message_type": kind}
        return base64.b64decode((await self.call("POST", f"/{key}/sign", body))["signature"])

    async def verifies(self, key: str, algorithm: str, message: bytes, signature: bytes, kind: str = "RAW") -> bool:
        body = {"algorithm": algorithm, "message": encoded(message), "message_type": kind}
        answer = await self.call("POST", f"/{key}/verify", body | {"signature": encoded(signature)})
        return bool(answer["valid"])


@pytest.fixture
async def kms(world: World) -> AsyncIterator[Kms]:
    service = KeyService(world.pool, world.keystore, world.clock, urandom)
    async with serving(world, keys.routes(service)) as client:
        yield Kms(client, await world.identity(world.system.id, ALL))


def encoded(content: bytes) -> str:
    return base64.b64encode(content).decode()


def openssl(folder: Path, *arguments: str) -> bytes:
    done = subprocess.run(["openssl", *arguments], capture_output=True, cwd=folder, check=False)
    assert done.returncode == 0, done.stderr.decode()
    return done.stdout


@pytest.mark.parametrize(("algorithm", "size"), KINDS)
async def test_a_key_of_each_kind_is_made_and_signs(kms: Kms, world: World, algorithm: str, size: int) -> None:
    made = await kms.make(algorithm, size, name="the line's", tags=["berlin"], metadata={"line": 4})
    assert (made["algorithm"], made["size"], made["engine_id"]) == (algorithm, size, "sealed")
    assert (made["name"], made["tags"], made["metadata"], made["aliases"]) == (
        "the line's",
        ["berlin"],
        {"line": 4},
        [],
    )
    assert made["pkcs11_uri"] == f"pkcs11:token-id=sealed;id={made['key_id']};type=private"
    ways = WAYS.get(algorithm) or [f"ML_DSA_{size}"]
    public = load_pem_public_key(base64.b64decode(made["public_key"]))
    for way in ways:
        signature = await kms.sign(made["key_id"], way, b"a message")
        assert verify_message(public, SigningAlgorithm(way), Message(b"a message"), signature)  # type: ignore[arg-type]
        assert await kms.verifies(made["key_id"], way, b"a message", signature)
        assert not await kms.verifies(made["key_id"], way, b"another", signature)
    assert await kms.call("GET", f"/{made['key_id']}/public-key") == base64.b64decode(made["public_key"])
    sealed = await world.value("SELECT sealed FROM kms_key WHERE id = $1", UUID(made["key_id"]))
    assert world.keystore.open(UUID(made["key_id"]), sealed).public_key == public


@pytest.mark.parametrize("way", [one for one in SigningAlgorithm if one.startswith(("RSA", "ECDSA"))])
async def test_openssl_verifies_a_signature_over_a_digest(kms: Kms, tmp_path: Path, way: str) -> None:
    made = await kms.make("RSA" if way.startswith("RSA") else "ECDSA", 2048 if way.startswith("RSA") else 256)
    digest_name = HASHES[way[-3:]]
    digest = hashlib.new(digest_name, b"a message").digest()
    signature = await kms.sign(made["key_id"], way, digest, "DIGEST")
    (tmp_path / "key.pem").write_bytes(base64.b64decode(made["public_key"]))
    (tmp_path / "message").write_bytes(b"a message")
    (tmp_path / "signature").write_bytes(signature)
    options = ["-sigopt", "rsa_padding_mode:pss", "-sigopt", "rsa_pss_saltlen:digest"] if "PSS" in way else []
    verify = ["-verify", "key.pem", "-signature", "signature", "message"]
    assert openssl(tmp_path, "dgst", f"-{digest_name}", *options, *verify) == b"Verified OK\n"
    assert await kms.verifies(made["key_id"], way, digest, signature, "DIGEST")
    assert await kms.verifies(made["key_id"], way, b"a message", signature)


async def test_what_does_not_fit_is_not_signed(kms: Kms, world: World) -> None:
    curve, edwards = (await kms.make())["key_id"], (await kms.make("Ed25519"))["key_id"]
    lattice = (await kms.make("ML-DSA", 44))["key_id"]
    message = encoded(b"m" * 32)
    for key, algorithm, kind, status in (
        (curve, "RSASSA_PSS_SHA_256", "RAW", 422),
        (curve, "ED25519", "RAW", 422),
        (curve, "ECDSA_SHA_384", "DIGEST", 422),
        (edwards, "ED25519", "DIGEST", 422),
        (lattice, "ML_DSA_44", "DIGEST", 422),
        (lattice, "ML_DSA_65", "RAW", 422),
        (curve, "ECDSA_SHA_1", "RAW", 400),
        (curve, "ECDSA_SHA_256", "HASH", 400),
    ):
        body = {"algorithm": algorithm, "message": message, "message_type": kind}
        await kms.call("POST", f"/{key}/sign", body, status=status)
        await kms.call("POST", f"/{key}/verify", body | {"signature": message}, status=status)
    body = {"algorithm": "ECDSA_SHA_256", "message": "not base64!"}
    await kms.call("POST", f"/{curve}/sign", body, status=400)
    assert await world.value("SELECT count(*) FROM outbox WHERE kind = 'key.used'") == 0
    assert await world.value("SELECT count(*) FROM kms_key WHERE signed_raw_at IS NOT NULL") == 0


@pytest.mark.parametrize(
    "body",
    [
        {"algorithm": "RSA", "size": 1024},
        {"algorithm": "RSA", "size": 8192},
        {"algorithm": "ECDSA", "size": 255},
        {"algorithm": "ML-DSA", "size": 2048},
        {"algorithm": "DSA", "size": 2048},
        {"algorithm": "ECDSA", "size": 256, "engine_id": "pkcs11"},
        {"algorithm": "ECDSA", "size": 256, "engine_id": "file"},
        {"algorithm": "ECDSA", "size": 256, "tags": ["a", "a"]},
        {"algorithm": "ECDSA", "size": 256, "metadata": {"a": "x" * 70_000}},
        {"algorithm": "ECDSA", "size": 256, "private_key": "x"},
        {"algorithm": "ECDSA", "size": 256, "exportable": True},
    ],
)
async def test_keys_that_are_not_made(kms: Kms, world: World, body: dict[str, Any]) -> None:
    answer = await kms.client.post(KEYS, headers=kms.headers, json=body)
    assert answer.status in {400, 422}, await answer.text()
    assert await world.value("SELECT count(*) FROM kms_key WHERE name = ''") == 0


@pytest.mark.parametrize(
    "options",
    [
        ("EC", "ec_paramgen_curve:P-256"),
        ("EC", "ec_paramgen_curve:P-521"),
        ("RSA", "rsa_keygen_bits:2048"),
        ("ED25519", None),
    ],
)
@pytest.mark.parametrize("form", ["PEM", "DER"])
async def test_keys_of_openssl_are_taken_in(
    kms: Kms, tmp_path: Path, options: tuple[str, str | None], form: str, caplog: pytest.LogCaptureFixture
) -> None:
    chosen = ["-pkeyopt", options[1]] if options[1] else []
    openssl(tmp_path, "genpkey", "-algorithm", options[0], *chosen, "-out", "made")
    key = openssl(tmp_path, "pkcs8", "-topk8", "-nocrypt", "-in", "made", "-outform", form)
    (tmp_path / "key").write_bytes(key)
    public = openssl(tmp_path, "pkey", "-in", "key", "-inform", form, "-pubout")
    with caplog.at_level(logging.DEBUG):
        taken = await kms.call("POST", "/import", {"private_key": encoded(key), "name": "old"}, status=201)
        again = await kms.call("POST", "/import", {"private_key": encoded(key)}, status=409)
    assert base64.b64decode(taken["public_key"]) == public
    assert again["detail"] == "This key is here already."
    assert encoded(key)[:40] not in caplog.text


async def test_ml_dsa_is_taken_in(kms: Kms) -> None:
    key = make_private_key(KeyAlgorithm.ML_DSA_65)
    sent = key.private_bytes(Encoding.DER, PrivateFormat.PKCS8, NoEncryption())
    taken = await kms.call("POST", "/import", {"private_key": encoded(sent)}, status=201)
    signature = await kms.sign(taken["key_id"], "ML_DSA_65", b"a message")
    assert verify_message(key.public_key(), SigningAlgorithm.ML_DSA_65, Message(b"a message"), signature)


def traditional(algorithm: KeyAlgorithm, encoding: Encoding) -> bytes:
    return make_private_key(algorithm).private_bytes(encoding, PrivateFormat.TraditionalOpenSSL, NoEncryption())


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"secret-marker",
        b"-----BEGIN PRIVATE KEY-----\nc2VjcmV0LW1hcmtlcg==\n-----END PRIVATE KEY-----\n",
        traditional(KeyAlgorithm.P256, Encoding.PEM),
        traditional(KeyAlgorithm.P256, Encoding.DER),
        traditional(KeyAlgorithm.RSA, Encoding.DER),
        encoded_key(make_private_key(KeyAlgorithm.P256).public_key()),
        ec.generate_private_key(ec.SECP256K1()).private_bytes(Encoding.DER, PrivateFormat.PKCS8, NoEncryption()),
    ],
    ids=range(8),
)
async def test_what_is_no_key_is_not_taken_in_and_not_told(
    kms: Kms, content: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.DEBUG):
        answer = await kms.call("POST", "/import", {"private_key": encoded(content)}, status=400)
    for told in (json.dumps(answer), caplog.text):
        assert "secret-marker" not in told
        assert len(content) < 10 or encoded(content)[:30] not in told


def test_a_key_with_a_password_is_not_read(tmp_path: Path) -> None:
    key = openssl(tmp_path, "genpkey", "-algorithm", "ED25519", "-aes256", "-pass", "pass:x")
    with pytest.raises(Refused, match="without a password"):
        read_private_key(key)


async def test_a_key_of_a_device_is_not_taken_in(kms: Kms, world: World) -> None:
    acme = await world.tenant("acme")
    key = make_private_key(KeyAlgorithm.P256)
    await world.execute(
        "INSERT INTO device_key VALUES ($1, 'meter-001', $2, $3)",
        hashlib.sha256(encoded_key(key.public_key())).digest(),
        acme,
        world.clock(),
    )
    sent = key.private_bytes(Encoding.DER, PrivateFormat.PKCS8, NoEncryption())
    await kms.call("POST", "/import", {"private_key": encoded(sent)}, status=409)


async def test_no_route_and_no_answer_gives_out_a_private_half(kms: Kms, world: World) -> None:
    key = make_private_key(KeyAlgorithm.P256)
    pkcs8 = key.private_bytes(Encoding.DER, PrivateFormat.PKCS8, NoEncryption())
    secret = key.private_numbers().private_value.to_bytes(32)  # type: ignore[union-attr]
    taken = await kms.call("POST", "/import", {"private_key": encoded(pkcs8)}, status=201)
    sealed = await world.value("SELECT sealed FROM kms_key WHERE id = $1", UUID(taken["key_id"]))
    service = KeyService(world.pool, world.keystore, world.clock, urandom)
    for route in keys.routes(service):
        path = route.path.replace("{key}", taken["key_id"])
        answer = await kms.client.request(route.method, path, headers=kms.headers, json={})
        content = await answer.read()
        for hidden in (secret, sealed):
            for form in (hidden, hidden.hex().encode(), base64.b64encode(hidden)[:40]):
                assert form not in content, route.path
        for word in ("export", "private"):
            assert word not in route.path
    for line in await world.rows("SELECT data::text AS data FROM outbox"):
        assert secret.hex() not in line["data"]
        assert sealed.hex() not in line["data"]


async def test_a_key_is_described_and_found_by_alias_or_uri(kms: Kms, world: World) -> None:
    made = await kms.make(name="a", metadata={"line": 4, "gone": 1})
    key = made["key_id"]
    assert (await kms.call("PUT", f"/{key}/name", {"name": "b"}))["name"] == "b"
    assert (await kms.call("PUT", f"/{key}/tags", {"tags": ["x", "y"]}))["tags"] == ["x", "y"]
    patches = [
        {"op": "test", "path": "/line", "value": 4},
        {"op": "replace", "path": "/line", "value": None},
        {"op": "remove", "path": "/gone"},
    ]
    assert (await kms.call("PUT", f"/{key}/metadata", {"patches": patches}))["metadata"] == {"line": None}
    aliases = [{"op": "add", "path": "/-", "value": "line-4"}, {"op": "add", "path": "/0", "value": "first"}]
    named = await kms.call("PUT", f"/{key}/alias", {"patches": aliases})
    assert named["aliases"] == ["first", "line-4"]
    for name in ("first", "line-4", key, key.upper(), named["pkcs11_uri"], f"pkcs11:id={key}"):
        assert await kms.call("GET", f"/{name}") == named
    patches = [{"op": "copy", "from": "/0", "path": "/-"}]
    await kms.call("PUT", f"/{key}/alias", {"patches": patches}, status=422)
    patches = [{"op": "move", "from": "/1", "path": "/0"}]
    assert (await kms.call("PUT", f"/{key}/alias", {"patches": patches}))["aliases"] == ["line-4", "first"]
    kinds = [one["kind"] for one in await world.rows("SELECT kind FROM outbox WHERE subject = $1", key)]
    assert sorted(kinds) == ["key.changed"] * 5 + ["key.created"]
    assert kinds == [one["kind"] for one in await world.rows("SELECT kind FROM audit_pending WHERE subject = $1", key)]


@pytest.mark.parametrize(
    ("path", "body", "status"),
    [
        ("metadata", [{"op": "test", "path": "/line", "value": 5}, {"op": "remove", "path": "/line"}], 409),
        ("metadata", [{"op": "add", "path": "line", "value": 5}], 400),
        ("metadata", [{"op": "replace", "path": "", "value": []}], 422),
        ("metadata", [{"op": "add", "path": "/a", "value": "x" * 70_000}], 422),
        ("metadata", [{"op": "test", "path": "/line", "value": 4}] * 101, 400),
        ("alias", [{"op": "add", "path": "/-", "value": "taken"}], 409),
        ("alias", [{"op": "add", "path": "/-", "value": 4}], 422),
        ("alias", [{"op": "add", "path": "/-", "value": "a b"}], 422),
        ("alias", [{"op": "add", "path": "/-", "value": "pkcs11:id=x"}], 422),
        ("alias", [{"op": "add", "path": "/-", "value": "01a20178-f90f-7bba-a235-94678758872d"}], 422),
        ("alias", [{"op": "add", "path": "/-", "value": f"a{n}"} for n in range(17)], 422),
        ("alias", [{"op": "replace", "path": "", "value": "abc"}], 422),
        ("alias", [{"op": "remove", "path": "/../metadata"}], 409),
    ],
)
async def test_patches_that_do_not_fit_change_nothing(kms: Kms, path: str, body: Any, status: int) -> None:
    other, key = await kms.make(), (await kms.make(metadata={"line": 4}))["key_id"]
    taken = [{"op": "add", "path": "/-", "value": "taken"}]
    await kms.call("PUT", f"/{other['key_id']}/alias", {"patches": taken})
    before = await kms.call("GET", f"/{key}")
    await kms.call("PUT", f"/{key}/{path}", {"patches": body}, status=status)
    assert await kms.call("GET", f"/{key}") == before


async def test_lists_and_counts(kms: Kms, world: World) -> None:
    made = [await kms.make(name=f"key-{n}", tags=["odd"] if n % 2 else [], metadata={"n": n}) for n in range(5)]
    await kms.make("Ed25519")
    mine = [one["key_id"] for one in made]
    page = await kms.call("GET", "", filter="name[ct]key-", page_size="2")
    found = page["list"]
    while "next" in page:
        page = await kms.call("GET", "", bookmark=page["next"])
        found += page["list"]
    assert [one["key_id"] for one in found] == mine
    for filters, expected in (
        ("tags[ct]odd", [mine[1], mine[3]]),
        ("metadata[jsonpath]$.n > 3", [mine[4]]),
        ("algorithm[eq]Ed25519", None),
        ("key_id[eq]" + mine[2], [mine[2]]),
    ):
        listed = (await kms.call("GET", "", filter=filters))["list"]
        assert expected is None or [one["key_id"] for one in listed] == expected
    statistics = await (await kms.client.get("/api/kms/v1/stats", headers=kms.headers)).json()
    assert statistics == {
        "total_keys": 9,
        "keys_distribution_per_engine": {"sealed": 8, "file": 1},
        "keys_distribution_per_algorithm": {"ECDSA": 8, "Ed25519": 1},
    }
    names = {one["name"]: one["engine_id"] for one in (await kms.call("GET", ""))["list"]}
    assert (names["root"], names["issuing"], names["factory"]) == ("file", "sealed", "sealed")
    assert len(await world.rows("SELECT FROM authority WHERE key_id IS NOT NULL")) == 3
    engines = await (await kms.client.get("/api/kms/v1/engines", headers=kms.headers)).json()
    assert [(one["id"], one["default"]) for one in engines] == [("sealed", True)]


@pytest.mark.parametrize("name", ["root", "issuing", "factory"])
@pytest.mark.parametrize("kind", ["RAW", "DIGEST"])
async def test_the_key_of_an_authority_signs_nothing_that_it_is_given_and_stays(
    kms: Kms, world: World, name: str, kind: str
) -> None:
    key = world.authorities.by_name(name).id
    body = {"algorithm": "ECDSA_SHA_256", "message": encoded(b"m" * 32), "message_type": kind}
    answer = await kms.call("POST", f"/{key}/sign", body, status=403)
    assert answer["detail"] == "The key of an authority signs certificates and lists, and nothing that it is given."
    await kms.call("DELETE", f"/{key}", status=409)
    assert await world.value("SELECT signed_raw_at FROM kms_key WHERE id = $1", key) is None
    signature = encoded(b"x")
    assert not (await kms.call("POST", f"/{key}/verify", body | {"signature": signature}))["valid"]


async def test_a_key_that_signed_messages_never_becomes_an_authoritys(kms: Kms, world: World) -> None:
    used, fresh = (await kms.make())["key_id"], (await kms.make())["key_id"]
    await kms.sign(used, "ECDSA_SHA_256", b"maybe a certificate")
    async with world.pool.transaction(EVERYWHERE) as transaction:
        assert (await key_for_authority(transaction, world.system.id, UUID(fresh))).id == UUID(fresh)
        for taken in (UUID(used), world.authorities.by_name("issuing").id):
            with pytest.raises(Refused) as refused:
                await key_for_authority(transaction, world.system.id, taken)
            assert refused.value.kind is Kind.CONFLICT


async def test_a_signature_waits_for_an_authority_that_is_being_made_with_the_key(kms: Kms, world: World) -> None:
    key = UUID((await kms.make("ECDSA", 384))["key_id"])
    service = KeyService(world.pool, world.keystore, world.clock, urandom)
    message = Message(b"maybe a certificate")
    async with world.pool.transaction(EVERYWHERE) as transaction:
        taken = await key_for_authority(transaction, world.system.id, key)
        signing = asyncio.create_task(
            service.sign(world.system.id, str(key), SigningAlgorithm.ECDSA_SHA_384, message, actor="test")
        )
        await asyncio.sleep(0.2)
        assert not signing.done()
        await transaction.execute(
            "INSERT INTO authority (id, name, kind, certificate, spki_sha256, key_id, created_at)"
            " VALUES ($1, 'new', 'issuing', '', $2, $1, $3)",
            key,
            taken.spki_sha256,
            world.clock(),
        )
    with pytest.raises(Refused) as refused:
        await signing
    assert refused.value.kind is Kind.FORBIDDEN


async def test_the_key_of_an_authority_to_be_signs_nothing_that_it_is_given_and_stays(kms: Kms, world: World) -> None:
    key = (await kms.make("ECDSA", 384))["key_id"]
    access = await world.access(world.system.id)
    wish = KeyWish(existing=UUID(key))
    asked = await world.intake.request(access, world.system, "acme", {"common_name": "Acme"}, wish, {})
    body = {"algorithm": "ECDSA_SHA_384", "message": encoded(b"a certificate")}
    await kms.call("POST", f"/{key}/sign", body, status=403)
    refused = await kms.call("DELETE", f"/{key}", status=409)
    assert "acme" in refused["detail"]
    await world.intake.withdraw_request(access, world.system, asked.id)
    await kms.call("DELETE", f"/{key}")


async def test_a_deleted_key_is_gone(kms: Kms, world: World) -> None:
    key = (await kms.make())["key_id"]
    await kms.call("PUT", f"/{key}/alias", {"patches": [{"op": "add", "path": "/-", "value": "a"}]})
    assert await kms.call("DELETE", "/a") == {"status": "deleted"}
    for path in (key, "a"):
        await kms.call("GET", f"/{path}", status=404)
    assert await world.value("SELECT count(*) FROM kms_key WHERE id = $1", UUID(key)) == 0
    assert await world.value("SELECT count(*) FROM kms_key_alias") == 0


async def test_each_signature_is_on_record(kms: Kms, world: World) -> None:
    key = (await kms.make())["key_id"]
    await kms.sign(key, "ECDSA_SHA_256", b"a message")
    [line] = await world.rows("SELECT actor, subject, data FROM audit_pending WHERE kind = 'key.used'")
    assert (line["actor"], line["subject"]) == (kms.headers["Authorization"].removeprefix("Bearer "), key)
    assert json.loads(line["data"])["message"] == hashlib.sha256(b"a message").hexdigest()


async def test_a_key_of_another_tenant_is_not_there(kms: Kms, world: World) -> None:
    acme = await world.tenant("acme")
    key = (await kms.make(name="ours"))["key_id"]
    await kms.call("PUT", f"/{key}/alias", {"patches": [{"op": "add", "path": "/-", "value": "a"}]})
    theirs = Kms(kms.client, await world.identity(acme, ALL))
    assert (await theirs.call("GET", ""))["list"] == []
    for name in (key, "a", str(world.authorities.by_name("issuing").id)):
        for method, path, body in (
            ("GET", "", None),
            ("DELETE", "", None),
            ("PUT", "/name", {"name": "x"}),
            ("PUT", "/metadata", {"patches": []}),
            ("PUT", "/alias", {"patches": []}),
            ("POST", "/sign", {"algorithm": "ECDSA_SHA_256", "message": ""}),
            ("POST", "/verify", {"algorithm": "ECDSA_SHA_256", "message": "", "signature": ""}),
        ):
            await theirs.call(method, f"/{name}{path}", body, status=404)
    own = await theirs.make()
    await theirs.call("PUT", f"/{own['key_id']}/alias", {"patches": [{"op": "add", "path": "/-", "value": "a"}]})
    assert (await kms.call("GET", "/a"))["key_id"] == key


async def test_who_reads_may_verify_and_not_sign(kms: Kms, world: World) -> None:
    key = (await kms.make())["key_id"]
    signature = await kms.sign(key, "ECDSA_SHA_256", b"a message")
    reader = Kms(kms.client, await world.identity(world.system.id, READ))
    assert await reader.verifies(key, "ECDSA_SHA_256", b"a message", signature)
    body = {"algorithm": "ECDSA_SHA_256", "message": ""}
    await reader.call("POST", f"/{key}/sign", body, status=403)
    await reader.call("POST", "", {"algorithm": "ECDSA"}, status=403)
    await reader.call("DELETE", f"/{key}", status=403)


async def test_a_sealed_key_in_another_row_stays_shut(kms: Kms, world: World) -> None:
    one, other = UUID((await kms.make())["key_id"]), UUID((await kms.make())["key_id"])
    moved = "UPDATE kms_key SET {0} = (SELECT {0} FROM kms_key WHERE id = $2) WHERE id = $1"
    await world.execute(moved.format("sealed"), one, other)
    body = {"algorithm": "ECDSA_SHA_256", "message": ""}
    await kms.call("POST", f"/{one}/sign", body, status=503)
    await world.execute("UPDATE kms_key SET spki = $2 WHERE id = $1", other, encoded_key(EC_KEY.public_key()))
    await kms.call("POST", f"/{other}/sign", body, status=503)

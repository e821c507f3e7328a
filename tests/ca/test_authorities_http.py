"""Authorities and issuance profiles over HTTP, in Lamassu's paths and JSON, behind the guard, on a real store."""

import subprocess
from base64 import b64decode, b64encode
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from aiohttp import web
from aiohttp.test_utils import TestClient
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat
from cryptography.x509.oid import NameOID

from ca.certification import Certification
from ca.http import authorities, authority_requests, authority_signatures, authority_statistics, profiles
from ca.issuance_profiles import IssuanceProfiles
from ca.register import AuthorityRegister
from tests.ca.test_intake import Maker
from tests.ca.world import EVERYTHING, World, serving, urandom

READ = '[{"resource": "ca.*", "actions": ["read"]}]'
CAS = "/api/ca/v1/cas"
PROFILES = "/api/ca/v1/profiles"

Client = TestClient[web.Request, web.Application]


def all_routes(world: World) -> list:  # type: ignore[type-arg]
    register = AuthorityRegister(world.pool, world.authorities, world.clock)
    certification = Certification(world.pool, world.authorities, world.administration, world.clock, urandom)
    issuance = IssuanceProfiles(world.pool, world.authorities, world.clock, urandom)
    return [
        *authority_requests.routes(world.intake, register),
        *authorities.routes(world.authorities, world.administration, world.intake, register),
        *authority_signatures.routes(world.authorities, world.administration, register, certification),
        *authority_statistics.routes(world.authorities, world.administration, register),
        *profiles.routes(issuance),
    ]


SHORT = {
    "name": "short-lived",
    "description": "for doors",
    "validity": {"type": "Duration", "duration": "12h"},
    "key_usage": ["DigitalSignature"],
    "extended_key_usages": ["ClientAuth", "1.3.6.1.5.5.7.3.17"],
    "certificate_policies": ["1.3.6.1.4.1.99999.1"],
    "crypto_enforcement": {"enabled": True, "allow_ecdsa_keys": True, "allowed_ecdsa_key_sizes": [256]},
    "subject_alternative_name": "none",
}


class Caller:
    """Somebody who calls, in JSON."""

    def __init__(self, client: Client, headers: dict[str, str]) -> None:
        self._client = client
        self._headers = headers

    async def __call__(self, method: str, path: str, body: Any = None, **query: str) -> tuple[int, Any]:
        answer = await self._client.request(method, path, headers=self._headers, json=body, params=query)
        return answer.status, await answer.json() if answer.status != 204 else None


async def caller(world: World, client: Client, permissions: str = EVERYTHING, tenant: Any = None) -> Caller:
    return Caller(client, await world.identity(tenant or world.system.id, permissions))


def pem_of(shown: str) -> x509.Certificate:
    return x509.load_pem_x509_certificate(b64decode(shown))


async def test_what_an_authority_shows(world: World) -> None:
    async with serving(world, all_routes(world)) as client:
        call = await caller(world, client, READ)
        status, listed = await call("GET", CAS)
        _, root = await call("GET", f"{CAS}/root")
        _, by_uuid = await call("GET", f"{CAS}/{root['authority_id']}")
        _, named = await call("GET", f"{CAS}/cn/{root['certificate']['subject']['common_name']}")
    assert status == 200
    assert [one["id"] for one in listed["list"]] == ["factory", "issuing", "root"]
    assert by_uuid == root == named["list"][0]
    assert (root["kind"], root["type"], root["level"], root["status"]) == ("root", "MANAGED", 0, "ACTIVE")
    assert (root["path_length"], root["can_sign"], root["profile_id"]) == (1, True, "issuing")
    certificate = root["certificate"]
    assert pem_of(certificate["certificate"]) == world.authorities.by_name("root").certificate
    assert (certificate["engine_id"], certificate["is_ca"]) == ("file", True)
    assert certificate["key_metadata"] == {"type": "ECDSA", "bits": 384}
    assert certificate["issuer_metadata"]["id"] == root["authority_id"]


async def test_the_whole_life_of_an_authority(world: World) -> None:
    async with serving(world, all_routes(world)) as client:
        call = await caller(world, client)
        wanted = {
            "id": "plant",
            "parent_id": "root",
            "subject": {"common_name": "Plant 7", "organization": "Acme", "country": "FR"},
            "key_metadata": {"type": "ML-DSA", "bits": 65},
            "ca_expiration": {"type": "Duration", "duration": "1y"},
            "metadata": {"site": "Lyon"},
        }
        status, made = await call("POST", CAS, wanted)
        assert status == 201, made
        assert made["certificate"]["subject"] == wanted["subject"]
        assert made["certificate"]["key_metadata"] == {"type": "ML-DSA", "bits": 65}
        assert (made["parent_id"], made["level"], made["metadata"]) == ("root", 1, {"site": "Lyon"})
        assert (await call("POST", CAS, wanted))[0] == 409
        patches = {"patches": [{"op": "replace", "path": "/site", "value": "Metz"}]}
        for method in ("PATCH", "PUT"):
            assert (await call(method, f"{CAS}/plant/metadata", patches))[1]["metadata"] == {"site": "Metz"}
        failing = {"patches": [{"op": "test", "path": "/site", "value": "Lyon"}]}
        assert (await call("PATCH", f"{CAS}/plant/metadata", failing))[0] == 409
        assert (await call("POST", f"{CAS}/plant/profile", {"profile_id": "server"}))[1]["profile_id"] == "server"
        assert (await call("POST", f"{CAS}/plant/profile", {"profile_id": "nobody"}))[0] == 404
        _, found = await call("GET", CAS, filter='metadata[jsonpath]$.site == "Metz"')
        assert [one["id"] for one in found["list"]] == ["plant"]
        status, again = await call("POST", f"{CAS}/plant/reissue", {})
        assert (status, again["authority_id"]) == (200, made["authority_id"])
        assert again["serial_number"] != made["serial_number"]
        status, next_one = await call("POST", f"{CAS}/plant/rollover", {})
        assert (status, next_one["id"], next_one["metadata"]) == (200, "plant", {"site": "Metz"})
        assert [one["name"] for one in next_one["generations"]] == ["plant.2", "plant"]
        assert (
            pem_of(next_one["generations"][0]["new_with_old"]).subject
            == pem_of(made["certificate"]["certificate"]).subject
        )
        for word in ("INACTIVE", "ACTIVE", "REVOKED"):
            body = {"status": word, "revocation_reason": "KeyCompromise"}
            status, shown = await call("POST", f"{CAS}/plant/status", body)
            assert (status, shown["status"]) == (200, word)
        assert shown["certificate"]["revocation_reason"] == "KeyCompromise"
        assert (await call("POST", f"{CAS}/plant/status", {"status": "ACTIVE"}))[0] == 409
        _, revoked = await call("GET", CAS, filter="status[eq]REVOKED")
        assert [one["id"] for one in revoked["list"]] == ["plant"]
        assert (await call("DELETE", f"{CAS}/plant"))[0] == 409  # it vouched for the key before it


async def test_import_and_request(world: World, tmp_path: Path) -> None:
    maker = Maker(world, "Corporate")
    key = maker.key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    pem = maker.certificate.public_bytes(Encoding.PEM)
    async with serving(world, all_routes(world)) as client:
        call = await caller(world, client)
        body = {"id": "corporate", "ca": b64encode(pem).decode(), "private_key": b64encode(key).decode()}
        status, made = await call("POST", f"{CAS}/import", body)
        assert (status, made["type"], made["kind"]) == (201, "IMPORTED", "root"), made
        assert "PRIVATE" not in str(made)
        status, refused = await call("POST", f"{CAS}/import", {**body, "id": "again"})
        assert (status, refused["detail"]) == (409, "The key is somebody's here already.")
        status, asked = await call(
            "POST", f"{CAS}/requests", {"id": "ours", "subject": {"common_name": "Ours"}, "metadata": {}}
        )
        assert (status, asked["status"], asked["ca_id"]) == (201, "PENDING", "ours")
        request = b64decode(asked["csr"])
        assert openssl_verifies_request(tmp_path / "ca.csr", request)
        _, listed = await call("GET", f"{CAS}/requests")
        assert [one["id"] for one in listed["list"]] == [asked["id"]]
        assert (await call("GET", f"{CAS}/requests/{asked['id']}"))[1] == asked
        assert (await call("GET", f"{CAS}/requests/{uuid4()}"))[0] == 404
        assert (await call("DELETE", f"{CAS}/requests/{asked['id']}"))[0] == 204
        assert (await call("GET", f"{CAS}/requests"))[1]["list"] == []


def openssl_verifies_request(file: Path, pem: bytes) -> bool:
    file.write_bytes(pem)
    done = subprocess.run(["openssl", "req", "-in", file, "-noout", "-verify"], capture_output=True, check=False)
    return done.returncode == 0 and b"verify OK" in done.stdout + done.stderr


@pytest.mark.parametrize(
    "body",
    [
        {},
        {"subject": {}},
        {"subject": {"common_name": ""}},
        {"subject": {"common_name": "x" * 65}},
        {"subject": {"common_name": "x", "country": "France"}},
        {"subject": {"common_name": "x", "serial": "1"}},
        {"subject": {"common_name": "x"}, "key_metadata": {"type": "RSA", "bits": 1024}},
        {"subject": {"common_name": "x"}, "key_metadata": {"type": "DSA", "bits": 2048}},
        {"subject": {"common_name": "x"}, "ca_expiration": {"type": "Duration", "duration": "soon"}},
        {"subject": {"common_name": "x"}, "ca_expiration": {"type": "Time", "time": "2040-01-01T00:00:00"}},
        {"subject": {"common_name": "x"}, "path_length": 9},
        {"subject": {"common_name": "x"}, "id": "../root"},
        {"subject": {"common_name": "x"}, "id": str(uuid4())},
        {"subject": {"common_name": "x\u202ey"}},
    ],
)
async def test_bad_bodies_write_nothing(world: World, body: Any) -> None:
    async with serving(world, all_routes(world)) as client:
        call = await caller(world, client)
        assert (await call("POST", CAS, body))[0] == 400
    assert await world.value("SELECT count(*) FROM authority") == 3


async def test_signing_messages_and_nothing_that_an_authority_could_say(world: World, tmp_path: Path) -> None:
    message = b"maintenance window: 2030-06-01T02:00Z"
    issuing = world.authorities.by_name("issuing")
    async with serving(world, all_routes(world)) as client:
        call = await caller(world, client)

        async def sign(content: bytes, **more: str) -> tuple[int, Any]:
            body = {"message": b64encode(content).decode(), "signature_algorithm": "ECDSA_SHA_256", **more}
            return await call("POST", f"{CAS}/issuing/signature/sign", body)

        async def verify(content: bytes, signature: str) -> bool:
            body = {
                "message": b64encode(content).decode(),
                "signature_algorithm": "ECDSA_SHA_256",
                "signature": signature,
            }
            verdict: bool = (await call("POST", f"{CAS}/issuing/signature/verify", body))[1]["valid"]
            return verdict

        status, signed = await sign(message)
        assert status == 200, signed
        assert await verify(message, signed["signed_data"])
        assert not await verify(message + b"!", signed["signed_data"])
        assert openssl_verifies(tmp_path, issuing.certificate, message, b64decode(signed["signed_data"]))
        leaf = await world.service.server_certificate(["localhost"], [])
        certificate = x509.load_pem_x509_certificates(leaf.chain)[0]
        crl = x509.load_der_x509_crl(await published_list(world))
        for structure in (
            certificate.tbs_certificate_bytes,
            crl.tbs_certlist_bytes,
            issuing.der,
            b"\x30",
            b"\x31\x80",
            b"0 is a character, too",
        ):
            assert (await sign(structure))[0] == 422
        assert (await sign(hashes_of(certificate.tbs_certificate_bytes), message_type="DIGEST"))[0] == 422
        assert (await sign(b""))[0] == 422
        assert (await sign(message, signature_algorithm="ED25519"))[0] == 422
        reader = await caller(world, client, READ)
        body = {"message": "aGk=", "signature_algorithm": "ECDSA_SHA_256"}
        assert (await reader("POST", f"{CAS}/issuing/signature/sign", body))[0] == 403
    lines = await world.rows("SELECT subject FROM outbox WHERE kind = 'authority.signed'")
    assert len(lines) == 1


def hashes_of(content: bytes) -> bytes:
    digest = hashes.Hash(hashes.SHA256())
    digest.update(content)
    return digest.finalize()


async def published_list(world: World) -> bytes:
    await world.publisher.publish_lists()
    return (await world.shelf.current_list(world.authorities.by_name("issuing"))).der


def openssl_verifies(folder: Path, signer: x509.Certificate, message: bytes, signature: bytes) -> bool:
    key, signed, content = folder / "key.pem", folder / "signature", folder / "message"
    key.write_bytes(signer.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo))
    signed.write_bytes(signature)
    content.write_bytes(message)
    command = ["openssl", "dgst", "-sha256", "-verify", key, "-signature", signed, content]
    return subprocess.run(command, capture_output=True, check=False).returncode == 0


async def test_statistics(world: World) -> None:
    await world.service.issue_bootstrap("meter-001", actor="test")
    async with serving(world, all_routes(world)) as client:
        call = await caller(world, client, READ)
        _, both = await call("GET", "/api/ca/v1/stats")
        _, one = await call("GET", "/api/ca/v1/stats/factory")
    assert both["cas"] == {
        "total": 3,
        "engine_distribution": {"file": 1, "sealed": 2},
        "status_distribution": {"ACTIVE": 3},
    }
    assert both["certificates"] == {
        "total": 4,
        "ca_distribution": {"root": 3, "factory": 1},
        "status_distribution": {"ACTIVE": 4},
    }
    assert one == {"ACTIVE": 1, "EXPIRED": 0, "INACTIVE": 0, "REVOKED": 0}


def request_for(*names: x509.GeneralName, common_name: str = "") -> str:
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common_name)] if common_name else [])
    builder = x509.CertificateSigningRequestBuilder().subject_name(subject)
    builder = builder.add_extension(x509.BasicConstraints(True, None), critical=True)  # it only asks
    if names:
        builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=False)
    return builder.sign(key, hashes.SHA256()).public_bytes(Encoding.PEM).decode()


async def test_a_request_is_certified_by_what_the_profile_says(world: World) -> None:
    async with serving(world, all_routes(world)) as client:
        call = await caller(world, client)
        path = f"{CAS}/issuing/certificates/sign"
        csr = request_for(x509.DNSName("gateway.local"), common_name="ignored")
        status, made = await call("POST", path, {"csr": csr, "profile_id": "server"})
        assert status == 201, made
        certificate = pem_of(made["certificate"])
        assert not certificate.extensions.get_extension_for_class(x509.BasicConstraints).value.ca
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        assert names.get_values_for_type(x509.DNSName) == ["gateway.local"]
        status, made = await call("POST", path, {"csr": request_for(common_name="meter-9"), "profile_id": "bootstrap"})
        assert (status, made["device"]) == (201, "meter-9")
        for profile, asked in (
            ("device", request_for(common_name="meter-9")),
            ("issuing", request_for(common_name="CA")),
            ("server", request_for(x509.DNSName("a"), x509.RFC822Name("a@b"))),
        ):
            assert (await call("POST", path, {"csr": asked, "profile_id": profile}))[0] == 422, profile
        for profile, asked in (
            ("server", request_for(x509.DNSName("*.local"))),
            ("server", "-----BEGIN CERTIFICATE REQUEST-----\nAA\n-----END CERTIFICATE REQUEST-----\n"),
            ("bootstrap", request_for()),
        ):
            assert (await call("POST", path, {"csr": asked, "profile_id": profile}))[0] == 400, profile


async def test_who_sees_and_does_what(world: World) -> None:
    acme = await world.tenant("acme")
    async with serving(world, all_routes(world)) as client:
        system, reader = await caller(world, client), await caller(world, client, READ)
        theirs = await caller(world, client, EVERYTHING, acme)
        wanted = {"id": "acme", "parent_id": "root", "subject": {"common_name": "Acme"}}
        assert (await theirs("POST", CAS, wanted))[0] == 404  # the root is not theirs to use
        status, made = await system("POST", CAS, wanted, tenant="acme")
        assert status == 201, made
        assert [one["id"] for one in (await theirs("GET", CAS))[1]["list"]] == ["acme"]
        assert (await theirs("GET", f"{CAS}/acme"))[0] == 200
        for path in (f"{CAS}/root", "/api/ca/v1/stats/root"):
            assert (await theirs("GET", path))[0] == 404
        assert (await theirs("POST", f"{CAS}/root/status", {"status": "REVOKED"}))[0] == 404
        assert (await theirs("POST", f"{CAS}/issuing/certificates/sign", {"csr": request_for()}))[0] == 404
        assert (await system("GET", f"{CAS}/acme"))[0] == 404  # it is acme's: say so
        assert (await system("GET", f"{CAS}/acme", tenant="acme"))[0] == 200
        _, profile = await system("POST", PROFILES, SHORT, tenant="acme")
        assert (await system("GET", f"{PROFILES}/{profile['id']}"))[0] == 404
        assert (await theirs("GET", f"{PROFILES}/{profile['id']}"))[0] == 200
        _, ours = await system("POST", PROFILES, {**SHORT, "name": "ours"})
        assert (await theirs("GET", f"{PROFILES}/{ours['id']}"))[0] == 200  # from above it may be used
        assert (await theirs("DELETE", f"{PROFILES}/{ours['id']}"))[0] == 404  # and not be changed
        assert (await reader("POST", CAS, wanted))[0] == 403
        assert (await reader("POST", f"{CAS}/issuing/rollover", {}))[0] == 403

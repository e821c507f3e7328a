"""What a certificate of a new authority names is there before anybody has one: on every worker, and no job has run."""

import asyncio
from base64 import b64decode
from dataclasses import replace
from datetime import timedelta
from itertools import count, pairwise
from os import urandom
from time import monotonic
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.ocsp import OCSPCertStatus, OCSPRequestBuilder, load_der_ocsp_response
from cryptography.x509.oid import AuthorityInformationAccessOID

from ca.administration import AuthorityAdministration
from ca.authorities import LOOK_FOR_MISSING, Authorities
from ca.authority import Authority
from ca.http import distribution, status
from ca.responders import Responders, ResponderTerms
from ca.responding import StatusService
from ca.shelf import ListShelf
from iam.errors import Kind, Refused
from iam.guard import Route
from tests.ca.test_authorities_http import CAS, Caller, all_routes, caller, pem_of, request_for
from tests.ca.test_hierarchies import made
from tests.ca.test_intake import Maker, taken
from tests.ca.world import BASE_URL, World, serving

PLANT = {"id": "plant", "parent_id": "root", "subject": {"common_name": "Plant"}}


async def create(call: Caller, _: World) -> tuple[int, Any]:
    return await call("POST", CAS, PLANT)


async def roll_over(call: Caller, _: World) -> tuple[int, Any]:
    await call("POST", CAS, PLANT)
    return await call("POST", f"{CAS}/plant/rollover", {})


async def take_in(call: Caller, world: World) -> tuple[int, Any]:
    maker = Maker(world, "Plant")
    key = maker.key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode()
    pem = maker.certificate.public_bytes(Encoding.PEM).decode()
    return await call("POST", f"{CAS}/import", {"id": "plant", "ca": pem, "private_key": key})


async def answer_request(call: Caller, world: World) -> tuple[int, Any]:
    _, asked = await call("POST", f"{CAS}/requests", {"id": "plant", "subject": {"common_name": "Plant"}})
    top, key = Maker(world, "Elsewhere"), pem_request(asked["csr"]).public_key()
    answer = Maker(world, "Plant", top, public_key=key)
    body = {
        "ca": answer.certificate.public_bytes(Encoding.PEM).decode(),
        "ca_chain": [top.certificate.public_bytes(Encoding.PEM).decode()],
        "ca_request_id": asked["id"],
    }
    return await call("POST", f"{CAS}/import", body)


def pem_request(shown: str) -> x509.CertificateSigningRequest:
    return x509.load_pem_x509_csr(b64decode(shown))


async def other_worker(world: World) -> list[Route]:
    """Return what a worker serves that has not heard of anything since now."""
    authorities = Authorities(world.pool, world.keystore, world.clock, urandom, base_url=BASE_URL)
    await authorities.refresh()
    administration = AuthorityAdministration(
        world.pool, authorities, world.keystore, world.clock, urandom, world.publication, base_url=BASE_URL
    )
    there = replace(world, authorities=authorities, administration=administration)
    responders = Responders(world.pool, authorities, world.keystore, world.clock, urandom, ResponderTerms())
    answering = StatusService(world.pool, authorities, responders, world.clock, life=timedelta(hours=1))
    shelf = ListShelf(world.pool, monotonic=count(step=60).__next__)
    return [*distribution.routes(shelf, authorities), *status.routes(answering, world.clock), *all_routes(there)]


@pytest.mark.parametrize("begin", [create, roll_over, take_in, answer_request])
async def test_a_certificate_that_is_issued_at_once_names_what_is_there(world: World, begin: Any) -> None:
    elsewhere = await other_worker(world)
    async with serving(world, all_routes(world)) as client:
        call = await caller(world, client)
        code, shown = await begin(call, world)
        assert code in {200, 201}, shown
        body = {"csr": request_for(x509.DNSName("gateway.local")), "profile_id": "server"}
        code, issued = await call("POST", f"{CAS}/plant/certificates/sign", body)
        assert code == 201, issued
    certificate, issuer = pem_of(issued["certificate"]), pem_of(shown["certificate"]["certificate"])
    here = [*distribution.routes(world.shelf, world.authorities), *status.routes(world.status, world.clock)]
    for routes in (elsewhere, here):
        async with serving(world, routes) as client:
            for address in (list_address(certificate), issuer_address(certificate)):
                answer = await client.get(address.removeprefix(BASE_URL))
                assert answer.status == 200, address
            builder = OCSPRequestBuilder().add_certificate(certificate, issuer, hashes.SHA256())
            asked = builder.build().public_bytes(Encoding.DER)
            answer = await client.post("/ocsp", data=asked, headers={"Content-Type": "application/ocsp-request"})
            assert load_der_ocsp_response(await answer.read()).certificate_status is OCSPCertStatus.GOOD


def list_address(certificate: x509.Certificate) -> str:
    (point,) = certificate.extensions.get_extension_for_class(x509.CRLDistributionPoints).value
    assert point.full_name is not None
    address: str = point.full_name[0].value
    return address


def issuer_address(certificate: x509.Certificate) -> str:
    access = certificate.extensions.get_extension_for_class(x509.AuthorityInformationAccess).value
    (named,) = [one for one in access if one.access_method == AuthorityInformationAccessOID.CA_ISSUERS]
    address: str = named.access_location.value
    return address


@pytest.mark.parametrize(
    ("method", "path", "body"),
    [
        ("GET", "", None),
        ("POST", "/certificates/sign", {"csr": request_for(x509.DNSName("a.local")), "profile_id": "server"}),
        ("POST", "/profile", {"profile_id": "server"}),
        ("PUT", "/issuance-expiration", {"type": "Duration", "duration": "1h"}),
        ("POST", "/signature/sign", {"message": "aGk=", "signature_algorithm": "ECDSA_SHA_384"}),
    ],
)
async def test_every_worker_knows_it_as_soon_as_it_is_made(world: World, method: str, path: str, body: Any) -> None:
    elsewhere = await other_worker(world)
    async with serving(world, all_routes(world)) as client:
        await (await caller(world, client))("POST", CAS, PLANT)
    async with serving(world, elsewhere) as client:
        status_code, shown = await (await caller(world, client))(method, f"{CAS}/plant{path}", body)
        assert status_code in {200, 201}, shown
        assert (await (await caller(world, client))("GET", f"{CAS}/nobody"))[0] == 404


async def test_an_external_authority_publishes_nothing(world: World) -> None:
    one = await taken(world, certificate=Maker(world, "Maker").certificate, line="maker")
    for table in ("revocation_list", "status_responder"):
        assert await world.value(f"SELECT count(*) FROM {table} WHERE authority_id = $1", one.id) == 0  # noqa: S608


async def test_what_cannot_be_published_keeps_nobody_from_making_an_authority(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def gone(_: Authority) -> None:
        raise Refused(Kind.UNAVAILABLE, "The store cannot be reached.")

    monkeypatch.setattr(world.publisher, "publish", gone)
    one = await made(world, "plant", "root")
    assert await world.value("SELECT count(*) FROM status_responder WHERE authority_id = $1", one.id) == 1
    assert await world.publisher.publish_lists() == 4  # by the job


async def test_strangers_who_ask_for_what_is_not_there_share_a_look_into_the_store(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    looks = []
    refresh = world.authorities.refresh

    async def counted() -> bool:
        looks.append(monotonic())
        return await refresh()

    monkeypatch.setattr(world.authorities, "refresh", counted)
    async with serving(world, distribution.routes(world.shelf, world.authorities)) as client:
        for _ in range(2):
            answers = await asyncio.gather(*(client.get(f"/crl/nobody-{number}.crl") for number in range(30)))
            assert {one.status for one in answers} == {404}
    assert all(later - earlier > LOOK_FOR_MISSING * 0.9 for earlier, later in pairwise(looks))
    assert len(looks) < 15

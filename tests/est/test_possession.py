"""Proof of possession linked to the TLS connection (RFC 7030 3.5), with clients that are OpenSSL's own."""

import asyncio
import socket
import ssl
from base64 import b64encode
from collections.abc import Callable
from typing import Any
from urllib.parse import urlsplit

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from OpenSSL import SSL

from est.possession import decide_possession, link_value
from est.profiles import ProofOfPossession
from est.refusals import PROCEED, Refusal, Refuse
from iam.errors import Refused
from tests.est.wire import Raw, TlsClient, on_connection, parsed
from tests.est.world import EstWorld, Holder, b64, request

OFF, OPTIONAL, REQUIRED = ProofOfPossession
BINDING, ANOTHER = b"\x01" * 32, b"\x02" * 32
Link = Callable[[TlsClient], str | None]

# RFC 7030 3.5, RFC 9148 3: what a client puts there, by the version of TLS.
LINKS: dict[int, Link] = {
    SSL.TLS1_2_VERSION: lambda client: b64encode(client.tls_unique).decode(),
    SSL.TLS1_3_VERSION: lambda client: b64encode(client.exported).decode(),
}
VERSIONS = pytest.mark.parametrize("version", LINKS, ids=["TLS 1.2", "TLS 1.3"])


def new_key() -> ec.EllipticCurvePrivateKey:
    return ec.generate_private_key(ec.SECP256R1())


async def enrol(est: EstWorld, holder: Holder, label: str, link: Link, version: int, what: str = "enroll") -> Raw:
    key = new_key()

    def talk(client: TlsClient) -> Raw:
        csr = request(key, "meter-001", challenge_password=link(client))
        return client.ask("POST", f"/{label}/simple{what}", b64(csr))

    return await on_connection(est, holder, talk, version)


async def refused(est: EstWorld, label: str, link: Link, version: int) -> str:
    bootstrap = await est.bootstrap("meter-001")
    before = await est.written()
    answer = await enrol(est, bootstrap, label, link, version)
    assert answer.status == 403
    assert await est.written() == before
    return answer.body.decode().strip()


@VERSIONS
@pytest.mark.parametrize("policy", ProofOfPossession)
async def test_a_request_linked_to_its_connection_is_answered(
    est: EstWorld, version: int, policy: ProofOfPossession
) -> None:
    await est.label("linked", proof_of_possession=policy)
    answer = await enrol(est, await est.bootstrap("meter-001"), "linked", LINKS[version], version)
    assert answer.status == 200


@VERSIONS
async def test_a_renewal_is_linked_like_an_enrolment(est: EstWorld, version: int) -> None:
    await est.label("linked")
    device = await est.enrolled("meter-001", label="linked")
    await est.world.execute("UPDATE enrolment_profile SET proof_of_possession = 'required'")
    await asyncio.sleep(2.1)  # the label is believed for two seconds
    assert (await enrol(est, device, "linked", lambda _: None, version, "reenroll")).status == 403
    assert (await enrol(est, device, "linked", LINKS[version], version, "reenroll")).status == 200


@VERSIONS
async def test_a_label_that_requires_the_link_takes_no_other_request(est: EstWorld, version: int) -> None:
    await est.label("linked", proof_of_possession=REQUIRED)
    assert await refused(est, "linked", lambda _: None, version) == Refusal.NOT_LINKED.sentence


@VERSIONS
@pytest.mark.parametrize("policy", ProofOfPossession)
async def test_a_link_that_is_there_is_verified_by_every_label(
    est: EstWorld, version: int, policy: ProofOfPossession
) -> None:
    await est.label("linked", proof_of_possession=policy)
    said = await refused(est, "linked", lambda _: "5f1e0c", version)
    assert said == Refusal.LINKED_ELSEWHERE.sentence


@VERSIONS
async def test_a_request_of_another_connection_is_refused(est: EstWorld, version: int) -> None:
    other = await asyncio.to_thread(TlsClient, est, None, version)
    stolen = LINKS[version](other)
    other.close()
    assert await refused(est, "default", lambda _: stolen, version) == Refusal.LINKED_ELSEWHERE.sentence


@pytest.mark.parametrize(
    "link",
    [
        lambda client: b64encode(client.tls_unique).decode(),
        lambda client: client.exported.hex(),
        lambda client: b64encode(client.exported).decode().rstrip("="),
        lambda client: b64encode(client.exported[:16]).decode(),
    ],
    ids=["the Finished message of TLS 1.3", "in hexadecimal", "without padding", "half of it"],
)
async def test_what_is_not_exactly_the_value_is_refused(est: EstWorld, link: Link) -> None:
    said = await refused(est, "default", link, SSL.TLS1_3_VERSION)
    assert said == Refusal.LINKED_ELSEWHERE.sentence


async def test_the_standard_librarys_tls_unique_is_the_value_on_tls_1_2(est: EstWorld) -> None:
    await est.label("linked", proof_of_possession=REQUIRED)
    bootstrap = await est.bootstrap("meter-001")
    assert (await asyncio.to_thread(enrol_with_ssl, est, bootstrap)).status == 200


def enrol_with_ssl(est: EstWorld, holder: Holder) -> Raw:
    context = ssl.create_default_context(cafile=str(est.root_file))
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    context.load_cert_chain(holder.certificate_file, holder.key_file)
    address = urlsplit(est.url)
    with (
        socket.create_connection((address.hostname, address.port), timeout=20) as plain,
        context.wrap_socket(plain, server_hostname="localhost") as client,
    ):
        unique = client.get_channel_binding("tls-unique")
        assert unique is not None
        body = b64(request(new_key(), "meter-001", challenge_password=b64encode(unique).decode()))
        head = (
            "POST /.well-known/est/linked/simpleenroll HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n"
            f"Content-Type: application/pkcs10\r\nContent-Length: {len(body)}\r\n\r\n"
        )
        client.sendall(head.encode() + body)
        came = b""
        while piece := client.recv(65_536):
            came += piece
    return parsed(came)


@pytest.mark.parametrize(
    ("settings", "password"), [({}, "5f1e0c"), ({"proof_of_possession": REQUIRED}, None)], ids=["claimed", "required"]
)
async def test_where_tls_ends_at_a_proxy_nothing_can_be_linked(
    est: EstWorld, settings: dict[str, Any], password: str | None
) -> None:
    await est.label("linked", **settings)
    bootstrap = await est.bootstrap("meter-001")
    before = await est.written()
    csr = b64(request(new_key(), "meter-001", challenge_password=password))
    with pytest.raises(Refused) as refusal:
        await est.service.enrol("linked", (bootstrap.der,), csr, channel_binding=None)
    assert refusal.value.detail == Refusal.NO_CONNECTION_TO_LINK.sentence
    assert await est.written() == before


@pytest.mark.parametrize(
    ("policy", "password", "binding", "decision"),
    [
        (OFF, None, BINDING, PROCEED),
        (OFF, link_value(BINDING), BINDING, PROCEED),
        (OFF, link_value(ANOTHER), BINDING, Refuse(Refusal.LINKED_ELSEWHERE)),
        (OFF, None, None, PROCEED),
        (OFF, link_value(BINDING), None, Refuse(Refusal.NO_CONNECTION_TO_LINK)),
        (OPTIONAL, None, BINDING, PROCEED),
        (OPTIONAL, link_value(BINDING), BINDING, PROCEED),
        (OPTIONAL, "", BINDING, Refuse(Refusal.LINKED_ELSEWHERE)),
        (OPTIONAL, None, None, PROCEED),
        (REQUIRED, None, BINDING, Refuse(Refusal.NOT_LINKED)),
        (REQUIRED, link_value(BINDING), BINDING, PROCEED),
        (REQUIRED, link_value(ANOTHER), BINDING, Refuse(Refusal.LINKED_ELSEWHERE)),
        (REQUIRED, None, None, Refuse(Refusal.NO_CONNECTION_TO_LINK)),
        (REQUIRED, "Ünlesbar", BINDING, Refuse(Refusal.LINKED_ELSEWHERE)),
    ],
)
def test_every_case_of_the_decision(
    policy: ProofOfPossession, password: str | None, binding: bytes | None, decision: object
) -> None:
    assert decide_possession(policy, password, binding) == decision

"""Certificates that a proxy passes on: believed from a pinned proxy, and from nobody else."""

import logging
from base64 import b64encode
from collections.abc import AsyncIterator, Sequence
from hashlib import sha256
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from ca.inventory import AuthorityKind
from certs.pem import write_certificates
from est.authentication.asking import (
    CLIENT_CERT,
    CLIENT_CERT_CHAIN,
    FORWARDED_CLIENT_CERT,
    FORWARDING_HEADERS,
    Evidence,
)
from est.authentication.forwarded import passed_on_chain, spki_sha256
from est.profiles import Bootstrap, ProofOfPossession, Settings
from est.refusals import Refusal, Refuse
from iam.errors import Refused
from tests.ca.world import World
from tests.est.test_authentication import certificate_in, csr_for, enrol
from tests.est.world import DAY, EstWorld, Holder, b64, makers_chain, request, running_est

PROXY_KEY = ec.generate_private_key(ec.SECP256R1())
PROXY_PIN = sha256(PROXY_KEY.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)).hexdigest()
EVERY_HEADER = frozenset(FORWARDING_HEADERS)


def pin_of(holder: Holder) -> str:
    return spki_sha256(holder.certificate).hex()


def client_cert(holder: Holder) -> str:
    return f":{b64encode(holder.der).decode()}:"


def envoy(holder: Holder, **more: str) -> str:
    pem = quote(write_certificates([holder.certificate]).decode(), safe="")
    return ";".join([*(f"{name}={value}" for name, value in more.items()), f'Cert="{pem}"'])


def headers(*pairs: tuple[str, str]) -> list[str]:
    return [part for name, value in pairs for part in ("-H", f"{name}: {value}")]


def proxy_of(est: EstWorld, **fields: Any) -> Holder:
    return est.signed_by(est.impostor(AuthorityKind.ROOT), "proxy-1", key=PROXY_KEY, **fields)


@pytest.fixture
async def proxy(est: EstWorld) -> Holder:
    """A proxy with a certificate of somebody's: it is its key that counts."""
    return proxy_of(est)


async def proxied_label(est: EstWorld, proxy: Holder, *, owns: Sequence[str] = ("client-cert",), **fields: Any) -> None:
    bootstrap = Bootstrap(proxies=tuple(f"{spelling}:{pin_of(proxy)}" for spelling in owns))
    await est.label("meters", settings=Settings(bootstrap=bootstrap), **fields)


async def test_a_pinned_proxy_passes_the_certificate_on(est: EstWorld, proxy: Holder) -> None:
    await proxied_label(est, proxy, owns=("client-cert", "xfcc"))
    bootstrap = await est.bootstrap("meter-001")
    passed = headers(("Client-Cert", client_cert(bootstrap)))
    assert certificate_in(await enrol(est, csr_for("meter-001"), *passed, holder=proxy))
    envoys = await est.bootstrap("meter-002")
    passed = headers(("x-forwarded-client-cert", envoy(envoys, By="spiffe://a", Hash="00")))
    assert certificate_in(await enrol(est, csr_for("meter-002"), *passed, holder=proxy))


async def test_a_header_that_the_proxy_does_not_own_was_its_clients(est: EstWorld, proxy: Holder) -> None:
    """It takes out of what clients send what it writes itself, and knows nothing of the other."""
    victim, mine = await est.bootstrap("meter-001"), await est.bootstrap("meter-002")
    standard = [("Client-Cert", client_cert(victim)), ("Client-Cert-Chain", client_cert(victim))]
    envoys = [("x-forwarded-client-cert", envoy(victim))]
    for label, others, own in (
        ("client-cert", envoys, ("Client-Cert", client_cert(mine))),
        ("xfcc", standard, ("x-forwarded-client-cert", envoy(mine))),
    ):
        await est.label(label, settings=Settings(bootstrap=Bootstrap(proxies=(f"{label}:{pin_of(proxy)}",))))
        for smuggled in (*([other] for other in others), *([other, own] for other in others)):
            answer = await enrol(est, csr_for("meter-001"), *headers(*smuggled), holder=proxy, label=label)
            assert (answer.status, b"in a header that is not its own" in answer.body) == (400, True), smuggled
    passed = headers(("x-forwarded-client-cert", envoy(mine)))
    assert certificate_in(await enrol(est, csr_for("meter-002"), *passed, holder=proxy, label="xfcc"))


async def test_a_renewal_through_a_proxy(est: EstWorld, proxy: Holder) -> None:
    await proxied_label(est, proxy)
    device = await est.enrolled("meter-001", label="meters")
    passed = headers(("Client-Cert", client_cert(device)))
    answer = await est.curl(
        "/meters/simplereenroll",
        "-H",
        "Content-Type: application/pkcs10",
        *passed,
        holder=proxy,
        body=csr_for("meter-001"),
    )
    assert certificate_in(answer)


async def test_a_chain_is_passed_on_too(est: EstWorld, proxy: Holder) -> None:
    maker, below, leaf = makers_chain(est)
    await proxied_label(est, proxy, bootstrap_anchors=(maker.der,))
    alone = headers(("Client-Cert", client_cert(leaf)))
    assert (await enrol(est, csr_for("meter-001"), *alone, holder=proxy)).status == 403
    whole = headers(("Client-Cert", client_cert(leaf)), ("Client-Cert-Chain", client_cert(below)))
    assert certificate_in(await enrol(est, csr_for("meter-001"), *whole, holder=proxy))


async def test_a_forged_header_is_ignored_and_logged(
    est: EstWorld, proxy: Holder, caplog: pytest.LogCaptureFixture
) -> None:
    await proxied_label(est, proxy)
    victim = await est.bootstrap("meter-001")
    mine = await est.bootstrap("meter-666")
    stranger = est.signed_by(est.impostor(AuthorityKind.ROOT), "proxy-1")
    ended = proxy_of(est, begins=-2 * DAY, ends=-DAY)
    for forged in (
        headers(("Client-Cert", client_cert(victim))),
        headers(("x-forwarded-client-cert", envoy(victim))),
        headers(("client-cert", "rubbish")),
    ):
        for holder, status in ((None, 401), (mine, 403), (stranger, 403), (ended, 403)):
            caplog.clear()
            with caplog.at_level(logging.WARNING, "est.authentication"):
                answer = await enrol(est, csr_for("meter-001"), *forged, holder=holder)
            assert answer.status == status, answer.body
            assert "ignored" in caplog.text
            assert "127.0.0.1" in caplog.text
    own = await enrol(est, csr_for("meter-666"), *headers(("Client-Cert", client_cert(victim))), holder=mine)
    assert certificate_in(own)  # what the connection itself proved is what counts


async def test_a_proxy_of_another_label_is_none(est: EstWorld, proxy: Holder) -> None:
    await proxied_label(est, proxy)
    bootstrap = await est.bootstrap("meter-001")
    passed = headers(("Client-Cert", client_cert(bootstrap)))
    answer = await enrol(est, csr_for("meter-001"), *passed, holder=proxy, label="default")
    assert (answer.status, b"not issued by an authority" in answer.body) == (403, True)


async def test_a_proxys_own_certificate_is_nobodys_credential(est: EstWorld) -> None:
    proxy = await est.bootstrap("meter-001")
    await proxied_label(est, proxy)
    answer = await enrol(est, csr_for("meter-001"), holder=proxy)
    assert (answer.status, answer.body) == (401, b"Present a client certificate.\n")


async def test_what_a_pinned_proxy_garbles_is_refused(est: EstWorld, proxy: Holder) -> None:
    await proxied_label(est, proxy)
    answer = await enrol(est, csr_for("meter-001"), *headers(("Client-Cert", "rubbish")), holder=proxy)
    assert (answer.status, b"passes on cannot be read" in answer.body) == (400, True)


async def test_behind_a_proxy_no_request_is_linked_to_a_connection(est: EstWorld, proxy: Holder) -> None:
    await proxied_label(est, proxy, proof_of_possession=ProofOfPossession.REQUIRED)
    bootstrap = await est.bootstrap("meter-001")
    evidence = Evidence(forwarded={CLIENT_CERT: [client_cert(bootstrap)]})
    csr = b64(request(ec.generate_private_key(ec.SECP256R1()), "meter-001"))
    with pytest.raises(Refused) as refused:
        await est.service.enrol("meters", (proxy.der,), csr, b"the proxy's", evidence)
    assert refused.value.reason.startswith(Refusal.NO_CONNECTION_TO_LINK.name)


@pytest.fixture
async def behind(world: World, tmp_path: Path) -> AsyncIterator[EstWorld]:
    """A node whose configuration pins a proxy for every label."""
    async with running_est(world, tmp_path, proxies=frozenset({f"client-cert:{PROXY_PIN}"})) as running:
        yield running


async def test_the_configuration_pins_proxies_for_every_label(behind: EstWorld) -> None:
    bootstrap = await behind.bootstrap("meter-001")
    passed = headers(("Client-Cert", client_cert(bootstrap)))
    assert certificate_in(await enrol(behind, csr_for("meter-001"), *passed, holder=proxy_of(behind), label="default"))


@pytest.fixture
async def leaf(est: EstWorld) -> Holder:
    return await est.bootstrap("meter-001")


async def test_fields_as_proxies_write_them(est: EstWorld, leaf: Holder) -> None:
    other = await est.bootstrap("meter-002")
    pem = write_certificates([leaf.certificate, other.certificate]).decode()
    for forwarded, chain in (
        ({}, ()),
        ({CLIENT_CERT: [client_cert(leaf)]}, (leaf.der,)),
        ({CLIENT_CERT: [f" {client_cert(leaf)}\t"]}, (leaf.der,)),
        ({CLIENT_CERT: [client_cert(leaf)], CLIENT_CERT_CHAIN: [client_cert(other)]}, (leaf.der, other.der)),
        (
            {CLIENT_CERT: [client_cert(leaf)], CLIENT_CERT_CHAIN: [client_cert(other), client_cert(leaf)]},
            (leaf.der, other.der, leaf.der),
        ),
        (
            {CLIENT_CERT: [client_cert(leaf)], CLIENT_CERT_CHAIN: [f"{client_cert(other)}, {client_cert(leaf)}"]},
            (leaf.der, other.der, leaf.der),
        ),
        ({FORWARDED_CLIENT_CERT: [envoy(leaf)]}, (leaf.der,)),
        ({FORWARDED_CLIENT_CERT: [envoy(leaf, By="spiffe://a", Subject='"CN=\\"a\\",O=b;c"', URI="")]}, (leaf.der,)),
        ({FORWARDED_CLIENT_CERT: [f'Chain="{quote(pem)}"']}, (leaf.der, other.der)),
        ({FORWARDED_CLIENT_CERT: [f'{envoy(leaf)};Chain="{quote(pem)}"']}, (leaf.der, other.der)),
        ({FORWARDED_CLIENT_CERT: [f"{envoy(other)},{envoy(leaf)}"]}, (leaf.der,)),  # the nearest proxy adds the last
        ({FORWARDED_CLIENT_CERT: [envoy(other), envoy(leaf)]}, (leaf.der,)),
        ({CLIENT_CERT: [client_cert(leaf)], FORWARDED_CLIENT_CERT: [envoy(leaf)]}, (leaf.der,)),
    ):
        assert passed_on_chain(Evidence(forwarded=forwarded), EVERY_HEADER) == chain, forwarded


async def test_fields_that_are_refused(est: EstWorld, leaf: Holder) -> None:
    other = await est.bootstrap("meter-002")
    good = client_cert(leaf)
    for forwarded in (
        {CLIENT_CERT: [""]},
        {CLIENT_CERT: ["::"]},
        {CLIENT_CERT: [good.strip(":")]},
        {CLIENT_CERT: [good + ";a=b"]},
        {CLIENT_CERT: [good[:-2] + ":"]},
        {CLIENT_CERT: [":" + "A" * 5 + ":"]},
        {CLIENT_CERT: [":AB==:"]},  # a stray bit: not canonical
        {CLIENT_CERT: [f'"{good}"']},
        {CLIENT_CERT: [good, good]},
        {CLIENT_CERT: [f"{good}, {good}"]},
        {CLIENT_CERT_CHAIN: [good]},
        {CLIENT_CERT: [good], CLIENT_CERT_CHAIN: [good + ",,"]},
        {CLIENT_CERT: [good], CLIENT_CERT_CHAIN: [", ".join([good] * 8)]},
        {CLIENT_CERT: [f":{b64encode(b'x' * 17_000).decode()}:"]},
        {CLIENT_CERT: [f":{'A' * 70_000}:"]},
        {FORWARDED_CLIENT_CERT: ["By=a"]},
        {FORWARDED_CLIENT_CERT: [f"{envoy(leaf)},By=a"]},
        {FORWARDED_CLIENT_CERT: ["Cert="]},
        {FORWARDED_CLIENT_CERT: ['Cert="%zz"']},
        {FORWARDED_CLIENT_CERT: ['Cert="unfinished']},
        {FORWARDED_CLIENT_CERT: [envoy(leaf) + ";"]},
        {FORWARDED_CLIENT_CERT: [envoy(leaf) + "x"]},
        {FORWARDED_CLIENT_CERT: [f"{envoy(leaf)};{envoy(other)}"]},
        {FORWARDED_CLIENT_CERT: ["=;=,"]},
        {CLIENT_CERT: [good], FORWARDED_CLIENT_CERT: [envoy(other)]},
    ):
        refused = passed_on_chain(Evidence(forwarded=forwarded), EVERY_HEADER)
        assert isinstance(refused, Refuse), forwarded
        assert refused.refusal is Refusal.FORWARDED_MALFORMED

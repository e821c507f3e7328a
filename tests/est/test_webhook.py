"""A webhook is asked, signed; whatever is no clear yes is no. And whom this node asks at all."""

import hmac
import json
import time
from base64 import b64decode, b64encode
from datetime import timedelta
from hashlib import sha256
from ipaddress import ip_network
from os import urandom
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec

from doorward.outbound import HttpsOutbound, is_allowed
from est.authentication.asking import Evidence
from est.authentication.outbound import Incoming, Outgoing, Unanswered
from est.authentication.webhook import secret_context
from est.profiles import Settings, Way, Webhook
from est.refusals import Refusal, Wait
from iam.errors import Refused
from iam.sealing import seal
from tests.ca.world import MASTER_KEY
from tests.certs.requests import keyless_request
from tests.est.peers import Asked, Peer, Said, https_peer
from tests.est.test_authentication import (
    ENROLMENTS,
    basic,
    certificate_in,
    csr_for,
    decide,
    enrol,
    make,
    refusal_of,
    waiting,
)
from tests.est.world import EstWorld, b64

SECRET = b"s" * 32
KEY = ec.generate_private_key(ec.SECP256R1())


async def webhook_label(est: EstWorld, peer: Peer, **fields: Any) -> None:
    webhook = Webhook(**{"url": f"{peer.url}/ask", "authorities": peer.authority} | fields)
    profile = await est.label("meters", settings=Settings(ways=(Way.WEBHOOK,), webhook=webhook))
    sealed = seal(MASTER_KEY, SECRET, context=secret_context(str(profile.id)), random=urandom)
    await est.world.execute("UPDATE enrolment_profile SET webhook_secret = $1 WHERE name = 'meters'", sealed)


async def test_a_webhook_is_asked_and_its_yes_enrols(est: EstWorld) -> None:
    with https_peer(lambda _: Said({"authorized": True})) as peer:
        await webhook_label(est, peer)
        bootstrap = await est.bootstrap("anything")
        arguments = ("-H", "Authorization: Basic bWU6c2VjcmV0")
        certificate_in(await enrol(est, csr_for("meter-001"), *arguments, holder=bootstrap))
    (asked,) = peer.asked
    document = json.loads(asked.body)
    data = document["data"]
    assert (asked.method, asked.path, document["type"]) == ("POST", "/ask", "enrolment.requested")
    assert (data["label"], data["device_identifier"], data["requester"]) == ("meters", "meter-001", "anyone")
    assert data["operation"] == "simpleenroll"
    assert x509.load_der_x509_csr(b64decode(data["csr"])).is_signature_valid
    assert x509.load_pem_x509_certificate(data["client_certificate"].encode()) == bootstrap.certificate
    assert data["authorization"] == "Basic bWU6c2VjcmV0"
    signed = f"{asked.headers['webhook-id']}.{asked.headers['webhook-timestamp']}.".encode() + asked.body
    signature = "v1," + b64encode(hmac.digest(SECRET, signed, sha256)).decode()
    assert asked.headers["webhook-signature"] == signature
    assert abs(int(asked.headers["webhook-timestamp"]) - time.time()) < 60
    assert data["id"] == asked.headers["webhook-id"]


async def asked_with(est: EstWorld, peer: Peer, authorization: str) -> str | None:
    """Enrol with a credential, and return what the webhook was told of it."""
    await est.service.enrol("meters", (), csr_for("meter-001", KEY), evidence=Evidence(authorization))
    told: str | None = json.loads(peer.asked[-1].body)["data"]["authorization"]
    return told


@pytest.mark.parametrize("way", [Way.TOKEN, Way.SECRET])
async def test_a_credential_that_was_judged_here_is_not_passed_on(est: EstWorld, way: Way) -> None:
    with https_peer(lambda _: Said({"authorized": True})) as peer:
        await webhook_label(est, peer)
        await est.world.execute(
            "UPDATE enrolment_profile SET settings = jsonb_set(settings, '{ways}', $1::jsonb) WHERE name = 'meters'",
            json.dumps([way, Way.WEBHOOK]),
        )
        if way is Way.TOKEN:
            credential = (await est.world.identity(est.world.system.id, ENROLMENTS, ["meter-001"]))["Authorization"]
        else:
            credential = basic("meters", (await make(est, {"device_identifier": "meter-001"}))["secret"]).authorization
        assert await asked_with(est, peer, credential) is None


async def test_a_token_of_ours_is_never_passed_on(est: EstWorld) -> None:
    ours = (await est.world.identity(est.world.system.id, ENROLMENTS))["Authorization"]
    with https_peer(lambda _: Said({"authorized": True})) as peer:
        await webhook_label(est, peer)
        for said, told in (
            (ours, None),
            (f"  {ours.replace(' ', '   ')} ", None),
            (ours.replace("Bearer", "Token"), None),
            ("Bearer another", "Bearer another"),
        ):
            assert await asked_with(est, peer, said) == told


async def test_a_webhook_is_told_of_no_key_that_nobody_proved(est: EstWorld) -> None:
    with https_peer(lambda _: Said({"authorized": True})) as peer:
        await webhook_label(est, peer)
        await est.world.execute("UPDATE enrolment_profile SET server_key_generation = 'P-256' WHERE name = 'meters'")
        await est.service.generate("meters", (), b64(keyless_request("meter-001")))
    data = json.loads(peer.asked[0].body)["data"]
    assert (data["operation"], data["csr"], data["public_key_sha256"]) == ("serverkeygen", None, None)
    assert data["device_identifier"] == "meter-001"


async def test_a_no_is_told_to_the_log_and_not_to_the_device(est: EstWorld) -> None:
    with https_peer(lambda _: Said({"authorized": False, "reason": "stolen last week"})) as peer:
        await webhook_label(est, peer)
        answer = await enrol(est, csr_for("meter-001"))
        assert (answer.status, b"stolen" in answer.body) == (403, False)
        with pytest.raises(Refused) as refused:
            await est.service.enrol("meters", (), csr_for("meter-001"))
        assert refused.value.reason == "WEBHOOK_DENIED: 'stolen last week'"


@pytest.mark.parametrize(
    "said",
    [
        Said({"authorized": True}, status=201),
        Said({"authorized": True}, status=500),
        Said({"authorized": "true"}),
        Said({"authorized": 1}),
        Said({}),
        Said([True]),
        Said(b"authorized"),
        Said(b""),
        Said(b'{"authorized": true}' + b" " * 70_000),
    ],
)
async def test_what_is_no_clear_answer_is_no(est: EstWorld, said: Said) -> None:
    with https_peer(lambda _: said) as peer:
        await webhook_label(est, peer)
        assert await refusal_of(est, Evidence(), csr_for("meter-001")) == Refusal.WEBHOOK_SILENT.name


async def and_approval(est: EstWorld, peer: Peer) -> None:
    await webhook_label(est, peer)
    await est.world.execute(
        """UPDATE enrolment_profile SET settings = jsonb_set(settings, '{ways}', '["webhook", "approval"]')
        WHERE name = 'meters'"""
    )


async def test_while_a_request_waits_for_an_operator_the_webhook_is_asked_once(est: EstWorld) -> None:
    with https_peer(lambda _: Said({"authorized": True})) as peer:
        await and_approval(est, peer)
        for _ in range(3):  # signed anew each time, and the same request all the same
            assert (await enrol(est, csr_for("meter-001", KEY))).status == 202
        assert len(peer.asked) == 1
        (request,) = await waiting(est)
        assert request["vouched_by"] == f"webhook {peer.asked[0].headers['webhook-id']}"
        await decide(est, "approve", request["id"])
        certificate_in(await enrol(est, csr_for("meter-001", KEY)))
        assert len(peer.asked) == 1
        (event,) = await est.world.rows("SELECT data->>'credentials' AS by FROM outbox WHERE kind = 'device.enrolled'")
        assert request["vouched_by"] in event["by"]
        assert (await enrol(est, csr_for("meter-001"))).status == 202  # another key is another request
        assert len(peer.asked) == 2


async def test_its_yes_is_for_what_it_was_told_and_for_no_longer_than_the_request_waits(est: EstWorld) -> None:
    with https_peer(lambda _: Said({"authorized": True})) as peer:
        await and_approval(est, peer)

        async def asks(evidence: Evidence, chain: tuple[bytes, ...] = ()) -> int:
            before = len(peer.asked)
            assert isinstance(await est.service.enrol("meters", chain, csr_for("meter-001", KEY), None, evidence), Wait)
            return len(peer.asked) - before

        bootstrap = await est.bootstrap("anything")
        mine = Evidence("Basic bWU6c2VjcmV0", "192.0.2.1")
        assert await asks(mine) == 1
        assert await asks(Evidence("Basic bWU6c2VjcmV0", "192.0.2.2")) == 0  # he has moved meanwhile
        assert await asks(Evidence("", "192.0.2.1")) == 1
        assert await asks(mine, (bootstrap.der,)) == 1
        assert await asks(mine, (bootstrap.der,)) == 0
        await est.world.execute(
            "UPDATE enrolment_profile SET settings = jsonb_set(settings, '{webhook,url}', $1::jsonb)"
            " WHERE name = 'meters'",
            json.dumps(f"{peer.url}/another"),
        )
        est.world.clock.move(timedelta(seconds=10))
        assert await asks(mine, (bootstrap.der,)) == 1
        assert await est.world.value("SELECT count(*) FROM enrolment_approval") == 1
        est.world.clock.move(timedelta(days=365))
        assert await asks(mine, ()) == 1


async def test_a_no_and_no_answer_are_asked_for_again(est: EstWorld) -> None:
    said = [Said({"authorized": False}), Said({}, status=500), Said({"authorized": True})]
    with https_peer(lambda _: said.pop(0)) as peer:
        await and_approval(est, peer)
        assert (await enrol(est, csr_for("meter-001", KEY))).status == 403
        assert (await enrol(est, csr_for("meter-001", KEY))).status == 503
        assert await waiting(est) == []
        for _ in range(2):
            assert (await enrol(est, csr_for("meter-001", KEY))).status == 202
    assert len(peer.asked) == 3


async def test_nobody_is_asked_about_who_lacks_a_credential_or_names_another_device(est: EstWorld) -> None:
    with https_peer(lambda _: Said({"authorized": True})) as peer:
        await webhook_label(est, peer)
        await est.world.execute(
            """UPDATE enrolment_profile
            SET settings = jsonb_set(settings, '{ways}', '["client_certificate", "webhook"]') WHERE name = 'meters'"""
        )
        bootstrap = await est.bootstrap("meter-001")
        assert (await enrol(est, csr_for("meter-001"))).status == 401
        assert (await enrol(est, csr_for("meter-002"), holder=bootstrap)).status == 403
        assert peer.asked == []
        certificate_in(await enrol(est, csr_for("meter-001"), holder=bootstrap))
        assert json.loads(peer.asked[0].body)["data"]["requester"] == f"certificate {sha256(bootstrap.der).hexdigest()}"


async def test_a_redirect_is_not_followed(est: EstWorld) -> None:
    def answer(asked: Asked) -> Said:
        is_first = asked.path == "/ask"
        return Said({"authorized": True}, 307 if is_first else 200, {"Location": "/elsewhere"} if is_first else {})

    with https_peer(answer) as peer:
        await webhook_label(est, peer)
        assert await refusal_of(est, Evidence(), csr_for("meter-001")) == Refusal.WEBHOOK_SILENT.name
    assert [one.path for one in peer.asked] == ["/ask"]


async def test_a_webhook_that_takes_too_long_is_no(est: EstWorld) -> None:
    def answer(_: Asked) -> Said:
        time.sleep(1.5)
        return Said({"authorized": True})

    with https_peer(answer) as peer:
        await webhook_label(est, peer, deadline=timedelta(seconds=1))
        began = time.monotonic()
        answered = await enrol(est, csr_for("meter-001"))
        assert (answered.status, answered.headers["Retry-After"]) == (503, "5")
        assert time.monotonic() - began < 4


async def test_a_webhook_with_another_root_is_not_believed(est: EstWorld) -> None:
    with https_peer(lambda _: Said({"authorized": True})) as other, https_peer(lambda _: Said({})) as peer:
        await webhook_label(est, other, authorities=peer.authority)
        assert await refusal_of(est, Evidence(), csr_for("meter-001")) == Refusal.WEBHOOK_SILENT.name
    assert other.asked == []


async def test_a_webhook_that_is_not_there_is_no(est: EstWorld) -> None:
    with https_peer(lambda _: Said({"authorized": True})) as peer:
        await webhook_label(est, peer)
    assert await refusal_of(est, Evidence(), csr_for("meter-001")) == Refusal.WEBHOOK_SILENT.name


async def test_a_webhook_without_its_secret_is_not_asked(est: EstWorld) -> None:
    with https_peer(lambda _: Said({"authorized": True})) as peer:
        await webhook_label(est, peer)
        await est.world.execute("UPDATE enrolment_profile SET webhook_secret = ''")
        assert await refusal_of(est, Evidence(), csr_for("meter-001")) == Refusal.WEBHOOK_SILENT.name
    assert peer.asked == []


async def test_this_node_asks_no_address_that_is_not_everybodys() -> None:
    """A label's operator must not reach the node's own network through it."""
    with https_peer(lambda _: Said({"authorized": True})) as peer:
        port = peer.url.rpartition(":")[2]
        for host in ("127.0.0.1", "localhost", "[::1]", "[::ffff:127.0.0.1]", "0.0.0.0"):
            outgoing = Outgoing("GET", f"https://{host}:{port}/", timedelta(seconds=3), authorities=peer.authority)
            assert isinstance(await HttpsOutbound([]).send(outgoing), Unanswered)
        assert peer.asked == []
        asked = Outgoing("GET", f"https://localhost:{port}/", timedelta(seconds=3), authorities=peer.authority)
        assert isinstance(await HttpsOutbound([ip_network("127.0.0.0/8")]).send(asked), Incoming)
    http = Outgoing("GET", f"http://localhost:{port}/", timedelta(seconds=3))
    assert isinstance(await HttpsOutbound([ip_network("127.0.0.0/8")]).send(http), Unanswered)


@pytest.mark.parametrize(
    ("address", "allowed"),
    [
        ("93.184.216.34", True),
        ("2606:2800:220:1:248:1893:25c8:1946", True),
        ("169.254.169.254", False),
        ("10.0.0.1", False),
        ("192.168.1.1", False),
        ("100.64.0.1", False),
        ("::ffff:10.0.0.1", False),
        ("fe80::1%eth0", False),
        ("fd00::1", False),
        ("224.0.0.1", False),
        ("10.1.2.3", True),
        ("::ffff:93.184.216.34", True),
        ("64:ff9b::5db8:d822", True),  # NAT64 leads to the address within (RFC 6052 2.1)
        ("64:ff9b::10.0.0.1", False),
        ("64:ff9b::169.254.169.254", False),
        ("64:ff9b::10.1.2.3", True),
        ("2002:5db8:d822::1", True),  # so does 6to4 (RFC 3056 2)
        ("2002:7f00:1::1", False),
        ("2002:a9fe:a9fe::", False),
        ("::127.0.0.1", False),  # IPv4-compatible (RFC 4291 2.5.5.1)
        ("::10.0.0.1", False),
        ("::93.184.216.34", True),
        ("::", False),
        ("::1", False),
        ("fec0::1", False),  # site-local (RFC 3879)
        ("64:ff9b:1::7f00:1", False),  # local NAT64 (RFC 8215)
        ("::ffff:0:127.0.0.1", False),  # IPv4-translated (RFC 2765)
        ("ff0e::1", False),
    ],
)
def test_addresses(address: str, *, allowed: bool) -> None:
    assert is_allowed(address, [ip_network("10.1.0.0/16")]) is allowed

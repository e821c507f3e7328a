"""Tokens of an external issuer: real keys over real TLS; each rule with the token that breaks it."""

import json
from base64 import urlsafe_b64encode
from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from ipaddress import ip_network
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa

from doorward.outbound import HttpsOutbound
from est.authentication.asking import Evidence
from est.authentication.json_web_keys import read_keys
from est.authentication.openid import Issuers, Unjudged
from est.authentication.token import is_template, named_device
from est.profiles import OpenIdTrust, Settings, Way
from est.refusals import Refusal, Wait
from iam.access import Denied
from tests.est.peers import Asked, Peer, Said, https_peer
from tests.est.test_authentication import certificate_in, csr_for, enrol, refusal_of
from tests.est.world import EstWorld

P256 = ec.generate_private_key(ec.SECP256R1())
OTHER_P256 = ec.generate_private_key(ec.SECP256R1())
P384 = ec.generate_private_key(ec.SECP384R1())
RSA = rsa.generate_private_key(65537, 2048)
ED25519 = ed25519.Ed25519PrivateKey.generate()
ALL = ("ES256", "ES384", "RS256", "PS256", "EdDSA")


def jwk(private: Any, algorithm: str, kid: str | None = None) -> dict[str, Any]:
    made = jwt.get_algorithm_by_name(algorithm).to_jwk(private.public_key(), as_dict=True)
    return {key: value for key, value in made.items() if key != "key_ops"} | ({"kid": kid} if kid else {})


class Issuer:
    """An OpenID issuer whose keys can be changed."""

    def __init__(self) -> None:
        self.keys = [jwk(P256, "ES256", "k1")]
        self.is_silent = False
        self.peer: Peer
        self.named: str | None = None

    def answer(self, asked: Asked) -> Said:
        if self.is_silent:
            return Said(status=500)
        if asked.path == "/.well-known/openid-configuration":
            return Said({"issuer": self.named or self.peer.url, "jwks_uri": f"{self.peer.url}/keys"})
        return Said({"keys": self.keys})

    @property
    def trust(self) -> OpenIdTrust:
        return OpenIdTrust(self.peer.url, "doorward", authorities=self.peer.authority, device="meter-${serial}")

    def token(
        self,
        key: Any = P256,
        algorithm: str = "ES256",
        header: dict[str, Any] | None = None,
        **claims: Any,
    ) -> str:
        now = int(datetime.now(UTC).timestamp())
        said = {"iss": self.peer.url, "aud": "doorward", "sub": "maker", "iat": now, "exp": now + 300, "serial": "001"}
        said |= claims
        kept = {name: value for name, value in said.items() if value is not None}
        named = {"kid": "k1"} if header is None else header
        return jwt.encode(kept, key, algorithm, headers=named)


@pytest.fixture
async def issuer() -> AsyncIterator[Issuer]:
    one = Issuer()
    with https_peer(one.answer) as peer:
        one.peer = peer
        yield one


def issuers() -> Issuers:
    return Issuers(HttpsOutbound([ip_network("127.0.0.0/8")]))


async def judged(issuer: Issuer, token: str, trust: OpenIdTrust | None = None) -> Any:
    return await issuers().claims(token, trust or issuer.trust, datetime.now(UTC))


async def test_a_token_of_the_issuer_enrols_the_device_that_its_claims_name(est: EstWorld, issuer: Issuer) -> None:
    await est.label("meters", settings=Settings(ways=(Way.TOKEN,), openid=issuer.trust))
    bearer = ("-H", f"Authorization: Bearer {issuer.token()}")
    certificate_in(await enrol(est, csr_for("meter-001"), *bearer))
    other = await enrol(est, csr_for("meter-002"), *bearer)
    assert (other.status, other.body) == (403, b"The token does not entitle to this device identifier.\n")
    wrong = await enrol(est, csr_for("meter-001"), "-H", f"Authorization: Bearer {issuer.token(OTHER_P256)}")
    assert (wrong.status, wrong.body) == (401, b"The token was not accepted.\n")
    (event,) = await est.world.rows("SELECT data->>'credentials' AS by FROM outbox WHERE kind = 'device.enrolled'")
    assert event["by"] == json.dumps([f"token of maker by {issuer.peer.url}"])


async def test_our_own_token_is_none_of_the_issuers(est: EstWorld, issuer: Issuer) -> None:
    await est.label("meters", settings=Settings(ways=(Way.TOKEN,), openid=issuer.trust))
    own = await est.world.identity(est.world.system.id, '[{"resource": "*", "actions": ["create"]}]')
    assert await refusal_of(est, Evidence(own["Authorization"]), csr_for("meter-001")) == Refusal.TOKEN_REFUSED.name


@pytest.mark.parametrize("subject", ["", "a\x00b", "\ud800", "a\nb", "s" * 256, 7, ["maker"], False])
async def test_a_subject_that_cannot_be_written_down_is_none(est: EstWorld, issuer: Issuer, subject: Any) -> None:
    ways = (Way.TOKEN, Way.APPROVAL)  # who asks is noted while he waits
    await est.label("meters", settings=Settings(ways=ways, openid=issuer.trust))
    evidence = Evidence(f"Bearer {issuer.token(P256, sub=subject)}")
    assert await refusal_of(est, evidence, csr_for("meter-001")) == Refusal.TOKEN_REFUSED.name


async def test_the_longest_subject_is_written_down(est: EstWorld, issuer: Issuer) -> None:
    await est.label("meters", settings=Settings(ways=(Way.TOKEN, Way.APPROVAL), openid=issuer.trust))
    evidence = Evidence(f"Bearer {issuer.token(sub=''.join(map(chr, range(0x4E00, 0x4E00 + 255))))}")
    assert isinstance(await est.service.enrol("meters", (), csr_for("meter-001"), evidence=evidence), Wait)


async def test_an_issuer_that_does_not_answer_lets_nobody_in(est: EstWorld, issuer: Issuer) -> None:
    issuer.is_silent = True
    await est.label("meters", settings=Settings(ways=(Way.TOKEN,), openid=issuer.trust))
    answer = await enrol(est, csr_for("meter-001"), "-H", f"Authorization: Bearer {issuer.token()}")
    assert (answer.status, answer.headers["Retry-After"]) == (503, "5")


@pytest.mark.parametrize(
    ("key", "algorithm"), [(P256, "ES256"), (P384, "ES384"), (RSA, "RS256"), (RSA, "PS256"), (ED25519, "EdDSA")]
)
async def test_every_algorithm_that_is_allowed(issuer: Issuer, key: Any, algorithm: str) -> None:
    issuer.keys = [jwk(key, algorithm, "k1")]
    trust = replace(issuer.trust, algorithms=ALL)
    assert (await judged(issuer, issuer.token(key, algorithm), trust))["sub"] == "maker"
    only_others = replace(trust, algorithms=tuple(one for one in ALL if one != algorithm))
    assert isinstance(await judged(issuer, issuer.token(key, algorithm), only_others), Denied)


def _spoilt(token: str, part: int, text: bytes) -> str:
    parts = token.split(".")
    parts[part] = urlsafe_b64encode(text).rstrip(b"=").decode()
    return ".".join(parts)


async def test_tokens_that_break_a_rule(issuer: Issuer) -> None:
    now = int(datetime.now(UTC).timestamp())
    good = issuer.token()
    assert not isinstance(await judged(issuer, good), Denied | Unjudged)
    unsigned = jwt.encode({"iss": issuer.peer.url}, "", "none", headers={"kid": "k1"})
    symmetric = jwt.encode({"iss": issuer.peer.url}, "x" * 32, "HS256", headers={"kid": "k1"})
    for name, token in {
        "expired": issuer.token(exp=now - 1),
        "without an end": issuer.token(exp=None),
        "its end is no whole number": issuer.token(exp=now + 300.5),
        "its end is true": issuer.token(exp=True),
        "not yet": issuer.token(nbf=now + 120),
        "from the future": issuer.token(iat=now + 120),
        "another issuer": issuer.token(iss="https://id.example"),
        "nearly the issuer": issuer.token(iss=issuer.peer.url + "/"),
        "another audience": issuer.token(aud="other"),
        "no audience": issuer.token(aud=None),
        "other audiences": issuer.token(aud=["a", "b"]),
        "another key": issuer.token(OTHER_P256),
        "a key that is not there": issuer.token(header={"kid": "k2"}),
        "it is for something else": issuer.token(header={"kid": "k1", "typ": "secevent+jwt"}),
        "it has crit": issuer.token(header={"kid": "k1", "crit": ["b64"], "b64": True}),
        "it brings its key": issuer.token(OTHER_P256, header={"jwk": jwk(OTHER_P256, "ES256")}),
        "it says where its key is": issuer.token(header={"kid": "k1", "jku": "https://id.example/keys"}),
        "unsigned": unsigned,
        "signed by a shared secret": symmetric,
        "two parts": good.rpartition(".")[0],
        "not base64url": good + "=",
        "with a stray bit": good[:-1] + chr(ord(good[-1]) + 1),
        "its header is a list": _spoilt(good, 0, b"[]"),
        "a member twice": _spoilt(good, 0, b'{"alg":"ES256","alg":"ES256","kid":"k1"}'),
        "endless": good + "a" * 9000,
        "not ASCII": good + "é",
        "empty": "",
    }.items():
        assert isinstance(await judged(issuer, token), Denied), name
    assert not isinstance(await judged(issuer, issuer.token(aud=["a", "doorward"])), Denied)


async def test_a_token_without_kid_needs_an_issuer_with_one_key(issuer: Issuer) -> None:
    assert not isinstance(await judged(issuer, issuer.token(header={})), Denied)
    issuer.keys.append(jwk(OTHER_P256, "ES256", "k2"))
    assert isinstance(await judged(issuer, issuer.token(header={})), Denied)


async def test_a_discovery_document_of_another_issuer_is_not_believed(issuer: Issuer) -> None:
    issuer.named = "https://id.example"
    assert isinstance(await judged(issuer, issuer.token()), Unjudged)


async def test_an_issuer_by_another_root_is_not_believed(issuer: Issuer) -> None:
    with https_peer(lambda _: Said({})) as other:
        trust = replace(issuer.trust, authorities=other.authority)
        assert isinstance(await judged(issuer, issuer.token(), trust), Unjudged)
    assert issuer.peer.asked == []


async def test_a_rotation_is_found_at_once_and_strange_kids_do_not_make_us_ask(issuer: Issuer) -> None:
    known, now = issuers(), datetime.now(UTC)
    assert not isinstance(await known.claims(issuer.token(), issuer.trust, now), Denied)
    assert len(issuer.peer.asked) == 2
    for number in range(20):
        strange = issuer.token(header={"kid": f"x{number}"})
        assert isinstance(await known.claims(strange, issuer.trust, now), Denied)
    assert len(issuer.peer.asked) == 2
    issuer.keys = [jwk(OTHER_P256, "ES256", "k2")]
    later = now + timedelta(seconds=31)
    rotated = issuer.token(OTHER_P256, header={"kid": "k2"})
    assert not isinstance(await known.claims(rotated, issuer.trust, later), Denied)
    assert isinstance(await known.claims(issuer.token(), issuer.trust, later), Denied)
    assert len(issuer.peer.asked) == 4


async def test_keys_serve_while_their_issuer_is_away_and_not_for_ever(issuer: Issuer) -> None:
    known, now = issuers(), datetime.now(UTC)
    token = issuer.token(exp=int(now.timestamp()) + 100_000)
    await known.claims(token, issuer.trust, now)
    issuer.is_silent = True
    assert not isinstance(await known.claims(token, issuer.trust, now + timedelta(minutes=59)), Denied | Unjudged)
    assert isinstance(await known.claims(token, issuer.trust, now + timedelta(minutes=61)), Unjudged)


async def test_what_one_trust_has_read_serves_no_other(issuer: Issuer) -> None:
    known, now = issuers(), datetime.now(UTC)
    await known.claims(issuer.token(), issuer.trust, now)
    asked = len(issuer.peer.asked)
    await known.claims(issuer.token(), replace(issuer.trust, audience="other"), now)
    assert len(issuer.peer.asked) > asked


def test_keys_that_are_of_no_use_are_left_out() -> None:
    weak = rsa.generate_private_key(65537, 1024)  # noqa: S505 - it is the weak one
    rsa_key = jwk(RSA, "RS256")
    for raw in (
        {},
        {"kty": "oct", "k": "AAAA"},
        jwk(P256, "ES256") | {"use": "enc"},
        jwk(P256, "ES256") | {"x": "AAAA"},
        jwk(P256, "ES256") | {"kid": 7},
        jwk(weak, "RS256"),
        rsa_key | {"e": "Aw"},
        rsa_key | {"n": 7},
        {"kty": "EC", "crv": "secp256k1", "x": "AA", "y": "AA"},
    ):
        assert read_keys({"keys": [raw]}) == (), raw
    assert len(read_keys({"keys": [rsa_key, jwk(ED25519, "EdDSA")]})) == 2
    assert read_keys({"keys": "none"}) == ()


@pytest.mark.parametrize(
    ("template", "claims", "device"),
    [
        ("${sub}", {"sub": "meter-1"}, "meter-1"),
        ("${line}-${serial}", {"line": "a", "serial": "7"}, "a-7"),
        ("${https://x.example/id}", {"https://x.example/id": "m-1"}, "m-1"),
        ("${sub}", {}, None),
        ("${sub}", {"sub": 7}, None),
        ("${sub}", {"sub": ""}, None),
        ("${sub}", {"sub": "a/b"}, None),
        ("${sub}", {"sub": "${serial}", "serial": "m"}, None),
    ],
)
def test_templates(template: str, claims: dict[str, Any], device: str | None) -> None:
    assert is_template(template)
    assert named_device(OpenIdTrust("https://id.example", "a", device=template), claims) == device


@pytest.mark.parametrize("text", ["", "meter-1", "${}", "${a b}", "a/${sub}", "${sub", "$sub"])
def test_templates_that_are_none(text: str) -> None:
    assert not is_template(text)

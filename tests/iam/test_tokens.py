"""Access tokens: what is minted fits, is read by others and by us; what breaks one rule is refused for that rule."""

import base64
import hmac
import json
import os
from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID, uuid4

import jwt
import orjson
import pytest
from cryptography.hazmat.primitives.asymmetric.ec import ECDSA, SECP256R1, EllipticCurvePrivateKey, generate_private_key
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature
from cryptography.hazmat.primitives.hashes import SHA256
from hypothesis import given, settings
from hypothesis import strategies as st

from iam.access import Access, Grant
from iam.errors import Kind, Refused
from iam.identifiers import identity_id, uuid7
from iam.keyset import NewKey, jwks, make_key, open_key, verifying_keys
from iam.model import ALL, NONE, Extent, Identity, IdentityStatus, IdentityType, Role, Scope, Tenant, TenantStatus
from iam.permissions import ALL_ACTIONS, Action, Permission
from iam.sealing import MasterKey
from iam.tokens import SHORTER_THAN, Claims, VerifiedToken, claims_for, is_issued_by, mint, verify_token

MASTER = MasterKey(bytes(range(32)))
NOW = datetime(2026, 3, 6, 12, tzinfo=UTC)
ISSUER, AUDIENCE = "https://doorward.example:8443", "doorward"
QUARTER = timedelta(minutes=15)

KEY = make_key(MASTER, NewKey(NOW, NOW + timedelta(days=60)), now=NOW, random=os.urandom)
SIGNER = open_key(MASTER, KEY)
KEYS = verifying_keys([KEY], NOW)
TENANT = Tenant(uuid4(), "acme", None, (uuid4(),), TenantStatus.ACTIVE, Scope(), NOW)
SUBJECT, SESSION, JTI = identity_id(NOW, os.urandom), uuid7(NOW, os.urandom), uuid7(NOW, os.urandom)
ORDER = 0xFFFFFFFF00000000FFFFFFFFFFFFFFFFBCE6FAADA7179E84F3B9CAC2FC632551


def access(
    devices: Extent = NONE, services: Extent = ALL, roles: Sequence[tuple[str, list[Permission]]] = ()
) -> Access:
    identity = Identity(SUBJECT, IdentityType.GATEWAY, TENANT.id, "gw", IdentityStatus.ACTIVE, Scope(), None, NOW)
    held = roles or [("gateway", [Permission("devices", frozenset({Action.UPDATE, Action.READ}))])]
    return Access(
        TENANT,
        identity,
        tuple(
            Grant(Role(uuid4(), TENANT.id, name, tuple(permissions), (), Scope(), NOW), devices, services)
            for name, permissions in held
        ),
    )


def claims(who: Access | None = None, **changed: Any) -> Claims:
    made = claims_for(
        who or access(),
        issuer=ISSUER,
        audience=AUDIENCE,
        client_id="doorward-cli",
        session=SESSION,
        methods=["hwk"],
        now=NOW,
        lifetime=QUARTER,
        jti=JTI,
    )
    return {name: value for name, value in (made | changed).items() if value is not ...}


def verify(token: str, now: datetime = NOW, leeway: timedelta = timedelta(0)) -> VerifiedToken:
    return verify_token(token, KEYS, issuer=ISSUER, audience=AUDIENCE, now=now, leeway=leeway)


def b64(value: bytes) -> str:
    return base64.urlsafe_b64encode(value).rstrip(b"=").decode()


def signed(header: bytes | Claims, payload: bytes | Claims, key: EllipticCurvePrivateKey = SIGNER.private) -> str:
    """Sign anything with our own key, as an independent writer would: what is refused is not for its signature."""
    first, second = (one if isinstance(one, bytes) else orjson.dumps(one) for one in (header, payload))
    message = f"{b64(first)}.{b64(second)}"
    r, s = decode_dss_signature(key.sign(message.encode(), ECDSA(SHA256())))
    return f"{message}.{b64(r.to_bytes(32) + s.to_bytes(32))}"


HEADER = {"typ": "at+jwt", "alg": "ES256", "kid": KEY.kid}


def test_a_minted_token_verifies_and_says_who() -> None:
    who = access(Extent(names=frozenset({"meter-002", "meter-001"})))
    token = mint(claims(who), SIGNER)
    verified = verify(token)
    assert verified.claims == claims(who)
    assert (verified.subject, verified.session, verified.jti) == (who.identity.id, SESSION, JTI)
    assert (verified.issued, verified.expires) == (NOW, NOW + QUARTER)
    assert (verified.tenant, verified.methods, verified.client_id) == (TENANT.id, ("hwk",), "doorward-cli")
    assert verified.claims == {
        "iss": ISSUER,
        "sub": who.identity.id,
        "aud": AUDIENCE,
        "client_id": "doorward-cli",
        "exp": 1772799300,
        "iat": 1772798400,
        "jti": str(JTI),
        "sid": str(SESSION),
        "tenant": "acme",
        "tenant_id": str(TENANT.id),
        "identity_type": "gateway",
        "amr": ["hwk"],
        "auth_time": 1772798400,
        "roles": ["gateway"],
        "scope": "gateway",
        "permissions": [{"resource": "devices", "actions": ["read", "update"]}],
        "devices": ["meter-001", "meter-002"],
        "services": "*",
        "res": ["meter-001", "meter-002"],
    }


def test_a_token_of_ours_is_known_as_such_though_it_has_ended() -> None:
    ours = mint(claims(), SIGNER)
    ended = mint(claims(exp=1, iat=0), SIGNER)
    assert is_issued_by(ours, ISSUER)
    assert is_issued_by(ended, ISSUER)
    assert not is_issued_by(mint(claims(iss="https://id.example"), SIGNER), ISSUER)
    assert not any(is_issued_by(text, ISSUER) for text in ("", "Bearer", ISSUER, "a.b.c", ours[:-1]))


def test_an_independent_library_verifies_ours() -> None:
    now = datetime.now(UTC)  # the library reads its own clock
    key = make_key(MASTER, NewKey(now, now + timedelta(days=1)), now=now, random=os.urandom)
    made = claims() | {"iat": int(now.timestamp()), "exp": int(now.timestamp()) + 900}
    token = mint(made, open_key(MASTER, key))
    found = jwt.PyJWKSet.from_dict(jwks([KEY, key], now))[jwt.get_unverified_header(token)["kid"]]
    decoded = jwt.decode_complete(token, found, algorithms=["ES256"], audience=AUDIENCE, issuer=ISSUER)
    assert decoded["payload"] == made
    assert decoded["header"] == HEADER | {"kid": key.kid}  # RFC 9068 2.1


def test_we_verify_what_an_independent_library_signs() -> None:
    token = jwt.encode(claims(), SIGNER.private, algorithm="ES256", headers={"typ": "at+jwt", "kid": KEY.kid})
    reordered = jwt.get_unverified_header(token)
    assert reordered == HEADER
    assert verify(token).claims == claims()


def test_the_time_of_the_proof_outlasts_a_refresh() -> None:
    made = claims_for(
        access(),
        issuer=ISSUER,
        audience=AUDIENCE,
        client_id="c",
        session=SESSION,
        methods=["pwd"],
        now=NOW,
        lifetime=QUARTER,
        jti=JTI,
        authenticated=NOW - timedelta(hours=1),
    )
    assert made["iat"] - made["auth_time"] == 3600


def named(count: int, length: int, prefix: str = "d") -> Extent:
    return Extent(names=frozenset(f"{prefix}{number:0{length - 1}}" for number in range(count)))


def test_up_to_64_devices_are_listed_and_no_more() -> None:
    listed = claims(access(named(64, 6)))
    assert len(listed["devices"]) == len(listed["res"]) == 64
    assert not [name for name in listed if name.endswith("_from")]
    left_out = claims(access(named(65, 6)))
    assert "devices" not in left_out
    assert left_out["devices_from"] == left_out["res_from"] == "token/info"
    assert left_out["services"] == "*"
    assert verify(mint(left_out, SIGNER)).claims == left_out


@pytest.mark.parametrize(
    ("who", "left_out"),
    [
        (access(named(64, 20)), {"res"}),
        (access(named(64, 60)), {"res", "devices"}),
        (access(named(64, 128)), {"res", "devices"}),
        (access(named(2, 9), named(64, 60, "s")), {"res", "devices", "services"}),
        (access(named(2, 9), named(65, 9, "s")), {"services"}),
        (
            access(roles=[("r", [Permission(f"resource.number{n}", ALL_ACTIONS) for n in range(60)])]),
            {"res", "devices", "services", "permissions"},
        ),
        (
            access(roles=[(f"role-{n:058}", []) for n in range(60)]),
            {"res", "devices", "services", "permissions", "scope", "roles"},
        ),
    ],
)
def test_what_does_not_fit_is_left_out_in_order_and_said_so(who: Access, left_out: set[str]) -> None:
    made = claims(who)
    assert {name.removesuffix("_from") for name in made if name.endswith("_from")} == left_out
    assert left_out.isdisjoint(made)
    assert all(made[f"{name}_from"] == "token/info" for name in left_out)


@settings(max_examples=60, deadline=None)
@given(
    devices=st.integers(0, 200),
    services=st.integers(0, 100),
    length=st.integers(5, 128),
    roles=st.integers(1, 80),
    permissions=st.integers(0, 40),
)
def test_every_token_is_shorter_than_3_kb(
    devices: int, services: int, length: int, roles: int, permissions: int
) -> None:
    held = [(f"role{n}", [Permission(f"r{n}.p{p}", ALL_ACTIONS) for p in range(permissions)]) for n in range(roles)]
    who = access(named(devices, length), named(services, length, "s"), held)
    token = mint(claims(who), SIGNER)
    assert len(token) < SHORTER_THAN
    assert verify(token).subject == who.identity.id


def test_the_longest_claims_make_a_token_just_under_the_limit() -> None:
    """One character more of a device's name, and the token would pass 3 KB: then the list goes."""
    lengths = [len(mint(claims(access(Extent(names=frozenset({"d" * count})))), SIGNER)) for count in range(600, 1100)]
    assert max(lengths) >= SHORTER_THAN - 4
    assert max(lengths) < SHORTER_THAN


def test_a_token_does_not_outlive_its_key() -> None:
    ending = open_key(MASTER, make_key(MASTER, NewKey(NOW, NOW + QUARTER), now=NOW, random=os.urandom))
    assert mint(claims(), ending)
    with pytest.raises(Refused, match="No token can be made") as caught:
        mint(claims(exp=int((NOW + QUARTER).timestamp()) + 1), ending)
    assert caught.value.kind is Kind.UNAVAILABLE


def test_a_token_that_cannot_be_shortened_is_not_made() -> None:
    with pytest.raises(Refused) as caught:
        mint(claims(client_id="c" * 3000), SIGNER)
    assert caught.value.kind is Kind.UNAVAILABLE


TOKEN = mint(claims(), SIGNER)
FIRST, SECOND, THIRD = TOKEN.split(".")
CLAIMS = orjson.dumps(claims())
OTHER = generate_private_key(SECP256R1())
IAT, EXP = claims()["iat"], claims()["exp"]


def pad_bits(part: str) -> str:
    """Set a bit after the last byte: lenient decoders drop it."""
    alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
    assert len(part) % 4
    return part[:-1] + alphabet[alphabet.index(part[-1]) | 1]


def resigned(halves: Callable[[int, int], tuple[int, int]]) -> str:
    raw = base64.urlsafe_b64decode(THIRD + "==")
    r, s = halves(int.from_bytes(raw[:32]), int.from_bytes(raw[32:]))
    return f"{FIRST}.{SECOND}.{b64(r.to_bytes(32) + s.to_bytes(32))}"


def der_signed() -> str:
    return f"{FIRST}.{SECOND}.{b64(SIGNER.private.sign(f'{FIRST}.{SECOND}'.encode(), ECDSA(SHA256())))}"


def none_signed() -> str:
    return f"{b64(orjson.dumps(HEADER | {'alg': 'none'}))}.{SECOND}."


def hmac_signed() -> str:
    """The old confusion: the published key as the secret of an HMAC."""
    message = f"{b64(orjson.dumps(HEADER | {'alg': 'HS256'}))}.{SECOND}"
    return f"{message}.{b64(hmac.digest(orjson.dumps(KEY.public_jwk), message.encode(), 'sha256'))}"


HOSTILE = {
    # Rule 4: size, parts and spelling.
    "empty": ("", "1 parts"),
    "no dots": ("x" * 100, "1 parts"),
    "two parts": (f"{FIRST}.{SECOND}", "2 parts"),
    "four parts": (f"{TOKEN}.{THIRD}", "4 parts"),
    "JWE": (f"{TOKEN}.a.b", "5 parts"),
    "too long": (signed(HEADER, claims(x="y" * 6000)), "at most 8192"),
    "empty parts": ("..", "header is not JSON"),
    "not ASCII": (f"{FIRST}.{SECOND}.é{THIRD}", "not ASCII"),
    "space before": (f" {TOKEN}", "header is not base64url"),
    "newline after": (f"{TOKEN}\n", "signature is not base64url"),
    "newline within": (f"{FIRST}.{SECOND[:40]}\n{SECOND[40:]}.{THIRD}", "claims is not"),
    "padding": (f"{TOKEN}==", "signature is not canonical"),
    "stray bits in the signature": (f"{FIRST}.{SECOND}.{pad_bits(THIRD)}", "signature is not canonical"),
    "stray bits in the header": (f"{pad_bits(FIRST)}.{SECOND}.{THIRD}", "header is not canonical"),
    "standard alphabet": (f"{FIRST}.{SECOND}.{'+' + THIRD[1:]}", "signature is not canonical"),
    "one character": (f"{FIRST}.A.{THIRD}", "claims is not base64url"),
    # Rule 5: JSON in one spelling.
    "member twice in the header": (
        signed(b'{"typ":"at+jwt","alg":"none","alg":"ES256","kid":"%s"}' % KEY.kid.encode(), claims()),
        "header names a member twice",
    ),
    "member twice": (signed(HEADER, CLAIMS[:-1] + b',"sub":"idt-evil"}'), "claims names a member twice"),
    "member twice, deep": (
        signed(HEADER, CLAIMS[:-1] + b',"x":[{"a":{"b":1,"b":2}}]}'),
        "claims names a member twice",
    ),
    "member twice, escaped": (signed(HEADER, CLAIMS[:-1] + b',"s\\u0075b":"idt-evil"}'), "claims names a member twice"),
    "whitespace": (signed(HEADER, b" " + CLAIMS), "not compact"),
    "byte order mark": (signed(HEADER, b"\xef\xbb\xbf" + CLAIMS), "claims is not JSON"),
    "UTF-16": (signed(HEADER, CLAIMS.decode().encode("utf-16-le")), "claims is not JSON"),
    "not UTF-8": (signed(HEADER, CLAIMS[:-1] + b',"x":"\xff"}'), "claims is not JSON"),
    "trailing": (signed(HEADER, CLAIMS + b"{}"), "claims is not JSON"),
    "NaN": (signed(HEADER, CLAIMS[:-1] + b',"x":NaN}'), "claims is not JSON"),
    "deep": (signed(HEADER, b"[" * 2500 + b"]" * 2500), "claims is not JSON"),
    "claims are a list": (signed(HEADER, b"[]"), "not a JSON object"),
    "header is a text": (signed(b'"ES256"', claims()), "not a JSON object"),
    "header is a list of pairs": (signed(b'[["alg","ES256"]]', claims()), "not a JSON object"),
    # Rule 6: what the header may hold.
    **{
        name: (signed(HEADER | {name: value}, claims()), f"header holds '{name}'")
        for name, value in {
            "crit": ["exp"],
            "b64": False,
            "jwk": KEY.public_jwk,
            "jku": "https://evil.example/jwks",
            "x5u": "https://evil.example/x",
            "x5c": ["MIIB"],
            "x5t": "x",
            "zip": "DEF",
            "cty": "JWT",
        }.items()
    },
    # Rule 7: type, algorithm, key.
    "no typ": (signed({"alg": "ES256", "kid": KEY.kid}, claims()), "typ is missing"),
    "JWT": (signed(HEADER | {"typ": "JWT"}, claims()), "typ is 'JWT'"),
    "AT+JWT": (signed(HEADER | {"typ": "AT+JWT"}, claims()), "typ is 'AT"),
    "application/at+jwt": (signed(HEADER | {"typ": "application/at+jwt"}, claims()), "typ is 'application"),
    "typ is a list": (signed(HEADER | {"typ": ["at+jwt"]}, claims()), "typ is"),
    "no alg": (signed({"typ": "at+jwt", "kid": KEY.kid}, claims()), "alg is missing"),
    "alg none": (none_signed(), "alg is 'none'"),
    "alg HS256": (hmac_signed(), "alg is 'HS256'"),
    "alg es256": (signed(HEADER | {"alg": "es256"}, claims()), "alg is 'es256'"),
    "alg ES384": (signed(HEADER | {"alg": "ES384"}, claims()), "alg is 'ES384'"),
    "no kid": (signed({"typ": "at+jwt", "alg": "ES256"}, claims()), "no key of the set is missing"),
    "another kid": (signed(HEADER | {"kid": "x"}, claims()), "no key of the set is 'x'"),
    "kid in other letters": (signed(HEADER | {"kid": KEY.kid.swapcase()}, claims()), "no key of the set"),
    "kid with a line break": (signed(HEADER | {"kid": "x\nforged line"}, claims()), r"no key of the set is 'x\nforged"),
    "kid is a list": (signed(HEADER | {"kid": [KEY.kid]}, claims()), "no key of the set"),
    "kid is a path": (signed(HEADER | {"kid": "../../etc/passwd"}, claims()), "no key of the set"),
    # Rule 8: the signature.
    "another's signature": (signed(HEADER, claims(), OTHER), "ES256 signature does not verify"),
    "no signature": (f"{FIRST}.{SECOND}.", "64 bytes, 0 came"),
    "short signature": (f"{FIRST}.{SECOND}.{b64(bytes(63))}", "64 bytes, 63 came"),
    "long signature": (f"{FIRST}.{SECOND}.{b64(base64.urlsafe_b64decode(THIRD + '==') + bytes(1))}", "65 came"),
    "signature in DER": (der_signed(), "an ES256 signature has 64 bytes"),
    "r = s = 0": (resigned(lambda _r, _s: (0, 0)), "ES256 signature does not verify"),
    "r = s = order": (resigned(lambda _r, _s: (ORDER, ORDER)), "ES256 signature does not verify"),
    "r and s exchanged": (resigned(lambda r, s: (s, r)), "ES256 signature does not verify"),
    "claims of another": (f"{FIRST}.{b64(orjson.dumps(claims(sub='idt-evil')))}.{THIRD}", "ES256 signature does not"),
    # Rule 9: what it says.
    "another issuer": (signed(HEADER, claims(iss="https://evil.example")), "iss is 'https://evil"),
    "issuer with a slash": (signed(HEADER, claims(iss=f"{ISSUER}/")), "iss is"),
    "no issuer": (signed(HEADER, claims(iss=...)), "iss is missing"),
    "another audience": (signed(HEADER, claims(aud="other")), "aud is 'other'"),
    "audience in a list": (signed(HEADER, claims(aud=[AUDIENCE])), "aud is"),
    "no audience": (signed(HEADER, claims(aud=...)), "aud is missing"),
    "no exp": (signed(HEADER, claims(exp=...)), "exp is missing"),
    "exp a text": (signed(HEADER, claims(exp=str(EXP))), "exp is"),
    "exp a fraction": (signed(HEADER, claims(exp=EXP + 0.5)), "exp is"),
    "exp a whole fraction": (signed(HEADER, claims(exp=float(EXP))), "exp is"),
    "exp true": (signed(HEADER, claims(exp=True)), "exp is"),
    "exp null": (signed(HEADER, claims(exp=None)), "exp is missing"),
    "exp infinite": (signed(HEADER, CLAIMS.replace(b'"exp":%d' % EXP, b'"exp":1e999')), "claims is not JSON"),
    "exp beyond calendars": (signed(HEADER, claims(exp=10**12)), "exp is"),
    "exp below zero": (signed(HEADER, claims(exp=-1)), "exp is"),
    "exp now": (signed(HEADER, claims(exp=IAT)), "expired"),
    "exp past": (signed(HEADER, claims(exp=IAT - 1)), "expired"),
    "exp before iat": (signed(HEADER, claims(iat=EXP + 1)), "expires before it was issued"),
    "no iat": (signed(HEADER, claims(iat=...)), "iat is missing"),
    "iat to come": (signed(HEADER, claims(iat=IAT + 1)), "iat is 1 s in the future"),
    "nbf to come": (signed(HEADER, claims(nbf=IAT + 1)), "nbf is 1 s in the future"),
    "nbf a text": (signed(HEADER, claims(nbf="0")), "nbf is"),
    "nbf null": (signed(HEADER, claims(nbf=None)), "nbf is missing"),
    "no subject": (signed(HEADER, claims(sub=...)), "sub is missing"),
    "empty subject": (signed(HEADER, claims(sub="")), "sub is"),
    "subject a number": (signed(HEADER, claims(sub=1)), "sub is"),
    "no session": (signed(HEADER, claims(sid=...)), "sid is missing"),
    "session no UUID": (signed(HEADER, claims(sid="x")), "cannot be read"),
    "no jti": (signed(HEADER, claims(jti=...)), "jti is missing"),
    "tenant no UUID": (signed(HEADER, claims(tenant_id="acme")), "cannot be read"),
    "amr a text": (signed(HEADER, claims(amr="pwd")), "amr is"),
    "amr of numbers": (signed(HEADER, claims(amr=[1])), "amr is"),
    "no client": (signed(HEADER, claims(client_id=...)), "client_id is missing"),
}


@pytest.mark.parametrize("case", HOSTILE)
def test_what_breaks_a_rule_is_refused_for_it(case: str) -> None:
    token, why = HOSTILE[case]
    with pytest.raises(Refused) as caught:
        verify(token)
    assert caught.value.kind is Kind.UNAUTHENTICATED
    assert why in caught.value.reason
    assert caught.value.detail == "Authentication failed."
    assert "\n" not in caught.value.reason


def test_the_hostile_tokens_differ_from_an_honest_one_only_in_their_fault() -> None:
    assert verify(signed(HEADER, claims())).claims == claims()
    assert verify(signed(HEADER, claims(nbf=IAT))).claims["nbf"] == IAT


def test_a_token_lives_from_its_issue_to_its_expiry() -> None:
    second = timedelta(seconds=1)
    assert verify(TOKEN, NOW + QUARTER - second)
    for late in (NOW + QUARTER, NOW + QUARTER + second):
        with pytest.raises(Refused, match="Authentication failed") as caught:
            verify(TOKEN, late, leeway=timedelta(minutes=5))  # leeway is for clocks ahead, never for a longer life
        assert "expired" in caught.value.reason
    with pytest.raises(Refused) as caught:
        verify(TOKEN, NOW - second)
    assert "iat is 1 s in the future" in caught.value.reason
    assert verify(TOKEN, NOW - second, leeway=second)
    with pytest.raises(Refused):
        verify(TOKEN, NOW - 2 * second, leeway=second)


def test_a_key_that_has_left_the_set_verifies_nothing() -> None:
    with pytest.raises(Refused) as caught:
        verify_token(TOKEN, {}, issuer=ISSUER, audience=AUDIENCE, now=NOW)
    assert "no key of the set" in caught.value.reason


@given(position=st.integers(0, len(TOKEN) - 1), letter=st.sampled_from("ABCxyz019-_.=+/ \n"))
def test_no_single_change_passes(position: int, letter: str) -> None:
    changed = TOKEN[:position] + letter + TOKEN[position + 1 :]
    if changed != TOKEN:
        with pytest.raises(Refused) as caught:
            verify(changed)
        assert caught.value.kind is Kind.UNAUTHENTICATED


@given(st.text(max_size=200) | st.text("eyJ._-=", max_size=60))
def test_nothing_but_a_refusal_comes_of_any_text(text: str) -> None:
    with pytest.raises(Refused) as caught:
        verify(text)
    assert caught.value.kind is Kind.UNAUTHENTICATED


@settings(deadline=None)
@given(
    st.recursive(
        st.none() | st.booleans() | st.integers(-(2**70), 2**70) | st.floats() | st.text(max_size=5),
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
        max_leaves=5,
    ),
    st.sampled_from(sorted(claims())),
)
def test_nothing_but_a_refusal_comes_of_any_claim(value: object, name: str) -> None:
    payload = json.dumps(claims() | {name: value}, separators=(",", ":"), ensure_ascii=False)
    try:
        verified = verify(signed(HEADER, payload.encode("utf-8", "surrogatepass")))
    except Refused as refusal:
        assert refusal.kind is Kind.UNAUTHENTICATED  # noqa: PT017 - either outcome is right, another exception is not
    else:
        assert isinstance(verified.session, UUID)

"""The life of token keys: each is published, then signs, then only verifies, then goes; nobody is ever without one."""

import os
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, derive_private_key, generate_private_key
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from hypothesis import given, settings
from hypothesis import strategies as st
from jwt import PyJWKSet

from iam.errors import Kind, Refused
from iam.keyset import (
    NewKey,
    Plan,
    TokenKey,
    jwks,
    make_key,
    open_key,
    plan_rotation,
    public_key_from,
    signing_key,
    thumbprint,
    verifying_keys,
)
from iam.sealing import MasterKey, seal
from iam.tokens import base64url

MASTER = MasterKey(bytes(range(32)))
NOW = datetime(2026, 3, 6, 12, tzinfo=UTC)
EVERY, OVERLAP, LONGEST = timedelta(days=30), timedelta(days=1), timedelta(days=1)


def planned(keys: list[TokenKey], now: datetime) -> Plan:
    return plan_rotation(keys, now, every=EVERY, overlap=OVERLAP, longest_token=LONGEST)


def stored(kid: str, signs_from: datetime, verifies_to: datetime) -> TokenKey:
    return TokenKey(kid, {"kid": kid}, b"", signs_from - OVERLAP, signs_from, verifies_to)


def test_the_first_key_signs_at_once() -> None:
    assert planned([], NOW) == Plan(NewKey(NOW, NOW + 2 * EVERY + LONGEST), ())


def test_a_young_key_is_left_alone() -> None:
    first = stored("a", NOW, NOW + 2 * EVERY + LONGEST)
    assert planned([first], NOW + EVERY - OVERLAP - timedelta(seconds=1)) == Plan(None, ())


def test_the_next_key_is_published_before_it_signs() -> None:
    first = stored("a", NOW, NOW + 2 * EVERY + LONGEST)
    at = NOW + EVERY - OVERLAP
    assert planned([first], at) == Plan(NewKey(NOW + EVERY, NOW + 3 * EVERY + LONGEST), ())
    second = stored("b", NOW + EVERY, NOW + 3 * EVERY + LONGEST)
    assert planned([first, second], at) == Plan(None, ())
    for moment, signer in ((at, "a"), (NOW + EVERY - timedelta(seconds=1), "a"), (NOW + EVERY, "b")):
        assert signing_key([second, first], moment, longest_token=LONGEST).kid == signer


def test_a_late_rotation_still_publishes_first_as_long_as_somebody_signs() -> None:
    first = stored("a", NOW, NOW + 2 * EVERY + LONGEST)
    late = NOW + EVERY + timedelta(days=9)
    plan = planned([first], late)
    assert plan.create is not None
    assert plan.create.signs_from == late + OVERLAP
    assert signing_key([first], late, longest_token=LONGEST).kid == "a"


def test_a_very_late_rotation_leaves_no_gap() -> None:
    first = stored("a", NOW, NOW + 2 * EVERY + LONGEST)
    plan = planned([first], NOW + 2 * EVERY - timedelta(minutes=5))
    assert plan.create is not None
    assert plan.create.signs_from == NOW + 2 * EVERY


def test_a_key_that_would_die_before_its_tokens_does_not_sign() -> None:
    first = stored("a", NOW, NOW + 2 * EVERY + LONGEST)
    last = NOW + 2 * EVERY
    assert signing_key([first], last, longest_token=LONGEST).kid == "a"
    with pytest.raises(Refused) as caught:
        signing_key([first], last + timedelta(seconds=1), longest_token=LONGEST)
    assert caught.value.kind is Kind.UNAVAILABLE
    assert planned([first], last + timedelta(seconds=1)).create is not None


def test_a_longer_lifetime_of_tokens_brings_the_next_key_forward() -> None:
    """Configured anew, the longest token lets the key sign for half a period only."""
    first = stored("a", NOW, NOW + 2 * EVERY + LONGEST)
    longer = LONGEST + EVERY + EVERY / 2
    for at, signs_from in (
        (NOW + EVERY / 2 - OVERLAP - timedelta(seconds=1), None),
        (NOW + EVERY / 2 - OVERLAP, NOW + EVERY / 2),
    ):
        plan = plan_rotation([first], at, every=EVERY, overlap=OVERLAP, longest_token=longer)
        assert (plan.create and plan.create.signs_from) == signs_from


def test_a_key_goes_when_it_verifies_nothing_any_more() -> None:
    first = stored("a", NOW, NOW + 2 * EVERY + LONGEST)
    second = stored("b", NOW + 2 * EVERY, NOW + 4 * EVERY + LONGEST)
    before, after = first.verifies_to - timedelta(seconds=1), first.verifies_to
    assert planned([first, second], before).retire == ()
    assert planned([first, second], after).retire == ("a",)
    assert jwks([first, second], before) == {"keys": [{"kid": "a"}, {"kid": "b"}]}
    assert jwks([first, second], after) == {"keys": [{"kid": "b"}]}


def test_a_clock_that_is_behind_the_first_key_still_signs() -> None:
    first = stored("a", NOW, NOW + 2 * EVERY + LONGEST)
    second = stored("b", NOW + EVERY, NOW + 3 * EVERY + LONGEST)
    behind = NOW - timedelta(hours=2)
    assert signing_key([second, first], behind, longest_token=LONGEST).kid == "a"
    assert planned([first], behind) == Plan(None, ())
    assert [key["kid"] for key in jwks([first], behind)["keys"]] == ["a"]


@settings(max_examples=150, deadline=None)
@given(
    every=st.integers(2, 60),
    overlap=st.integers(0, 10),
    longest=st.integers(1, 30),
    steps=st.lists(st.integers(1, 40), min_size=20, max_size=60),
)
def test_through_any_life_each_token_verifies_until_it_expires(
    every: int, overlap: int, longest: int, steps: list[int]
) -> None:
    """Days pass unevenly between the runs of the job; at each run a token is signed as soon as the plan is done."""
    lives = {"every": timedelta(days=every), "overlap": timedelta(days=overlap)}
    longest_token = timedelta(days=longest)
    keys: list[TokenKey] = []
    open_tokens: list[tuple[str, datetime]] = []
    now = NOW
    for step in steps:
        plan = plan_rotation(keys, now, **lives, longest_token=longest_token)
        keys = [key for key in keys if key.kid not in plan.retire]
        if plan.create:
            assert plan.create.signs_from >= now
            able = [key for key in keys if now + longest_token <= key.verifies_to]
            if able and plan.create.signs_from < now + lives["overlap"]:
                # Published for less than the overlap only because the one before it has to stop.
                assert plan.create.signs_from == max(key.verifies_to for key in able) - longest_token
            keys.append(stored(f"{len(open_tokens):04}", plan.create.signs_from, plan.create.verifies_to))
        signer = signing_key(keys, now, longest_token=longest_token)
        published = {key["kid"] for key in jwks(keys, now)["keys"]}
        assert signer.kid in published
        open_tokens.append((signer.kid, now + longest_token))
        assert all(kid in published for kid, expires in open_tokens if expires > now)
        again = plan_rotation(keys, now, **lives, longest_token=longest_token)
        assert again.retire == ()
        assert again.create is None or overlap >= every  # a plan that was carried out needs no other
        now += timedelta(days=step)


def test_a_made_key_is_what_its_jwk_says_and_opens() -> None:
    new = NewKey(NOW, NOW + EVERY)
    key = make_key(MASTER, new, now=NOW - OVERLAP, random=os.urandom)
    assert (key.created, key.signs_from, key.verifies_to) == (NOW - OVERLAP, NOW, NOW + EVERY)
    opened = open_key(MASTER, key)
    assert (opened.kid, opened.verifies_to) == (key.kid, key.verifies_to)
    assert opened.private.public_key() == public_key_from(key.public_jwk)
    assert key.public_jwk["kid"] == key.kid == thumbprint(key.public_jwk)
    assert set(key.public_jwk) == {"kty", "crv", "x", "y", "kid", "alg", "use"}  # never `d`
    assert "sealed" not in repr(key)
    assert verifying_keys([key], NOW) == {key.kid: opened.private.public_key()}


def test_an_independent_reader_takes_the_published_set() -> None:
    keys = [make_key(MASTER, NewKey(NOW, NOW + EVERY), now=NOW, random=os.urandom) for _ in range(3)]
    read = PyJWKSet.from_dict(jwks(keys, NOW))
    for key in keys:
        assert read[key.kid].algorithm_name == "ES256"
        assert read[key.kid].key == open_key(MASTER, key).private.public_key()


def test_coordinates_keep_their_leading_zeros() -> None:
    """RFC 7518 6.2.1.2: the octets of a coordinate are all 32, however small it is."""
    private = next(
        key
        for key in (derive_private_key(number, SECP256R1()) for number in range(1, 2000))
        if key.public_key().public_numbers().x < 1 << 248
    )
    scalar = private.private_numbers().private_value - 1  # what `make_key` takes as random bytes, before it adds one
    key = make_key(
        MASTER,
        NewKey(NOW, NOW + EVERY),
        now=NOW,
        random=lambda length: scalar.to_bytes(length) if length == 40 else bytes(length),
    )
    assert len(key.public_jwk["x"]) == 43
    assert public_key_from(key.public_jwk) == private.public_key()


def test_a_row_with_the_secret_of_another_does_not_sign() -> None:
    ours, theirs = (make_key(MASTER, NewKey(NOW, NOW + EVERY), now=NOW, random=os.urandom) for _ in range(2))
    pkcs8 = open_key(MASTER, theirs).private.private_bytes(Encoding.DER, PrivateFormat.PKCS8, NoEncryption())
    resealed = seal(MASTER, pkcs8, context=f"token-key:{ours.kid}", random=os.urandom)
    for sealed in (theirs.sealed, resealed, b""):
        with pytest.raises(Refused) as caught:
            open_key(MASTER, replace(ours, sealed=sealed))
        assert caught.value.kind is Kind.UNAVAILABLE


def test_thumbprints_follow_the_vectors() -> None:
    rsa = {  # RFC 7638 3.1
        "kty": "RSA",
        "n": (
            "0vx7agoebGcQSuuPiLJXZptN9nndrQmbXEps2aiAFbWhM78LhWx4cbbfAAtVT86zwu1RK7aPFFxuhDR1L6tSoc_BJECPebWKRXjB"
            "ZCiFV4n3oknjhMstn64tZ_2W-5JsGY4Hc5n9yBXArwl93lqt7_RN5w6Cf0h4QyQ5v-65YGjQR0_FDW2QvzqY368QQMicAtaSqzs8"
            "KJZgnYb9c7d0zgdAZHzu6qMQvRL5hajrn1n91CbOpbISD08qNLyrdkt-bFTWhAI4vMQFh6WeZu0fM4lFd2NcRwr3XPksINHaQ-G_"
            "xBniIqbw0Ls1jF44-csFCur-kEgU8awapJzKnqDKgw"
        ),
        "e": "AQAB",
        "alg": "RS256",
        "kid": "2011-04-29",
    }
    assert thumbprint(rsa) == "NzbLsXh8uDCcd-6MNwXF4W_7noWXFZAfHkxZsRGC9Xs"
    okp = {"kty": "OKP", "crv": "Ed25519", "x": "11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo"}  # RFC 8037 A.3
    assert thumbprint(okp) == "kPrK_qmxVWaYVA9wwBF6Iuo3vVzz7TxHCTwXBygrS4k"
    key = generate_private_key(SECP256R1()).public_key().public_numbers()
    ec = {"y": base64url(key.y.to_bytes(32)), "x": base64url(key.x.to_bytes(32)), "kty": "EC", "crv": "P-256"}
    assert len(thumbprint(ec)) == 43

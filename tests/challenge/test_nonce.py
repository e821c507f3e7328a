"""Challenges: the server knows its own again, for one key, one purpose, one audience, and until they expire."""

import os
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from challenge.nonce import Challenge, Nonce, Purpose, make_challenge, open_challenge, read_challenge
from iam.errors import Kind, Refused

SECRET = bytes(range(32))
NOW = datetime(2026, 3, 6, 12, tzinfo=UTC)
LIFETIME = timedelta(minutes=2)
SPKI = b"the key's SubjectPublicKeyInfo"
AUDIENCE = "https://doorward.example:8443"


def made(
    secret: bytes = SECRET, spki: bytes = SPKI, purpose: Purpose = Purpose.LOGIN, audience: str = AUDIENCE
) -> Challenge:
    return make_challenge(
        secret, spki=spki, purpose=purpose, audience=audience, now=NOW, lifetime=LIFETIME, random=os.urandom
    )


def opened(
    text: str,
    spki: bytes = SPKI,
    purpose: Purpose = Purpose.LOGIN,
    audience: str = AUDIENCE,
    now: datetime = NOW,
) -> Nonce:
    return open_challenge([SECRET], text, spki=spki, purpose=purpose, audience=audience, now=now)


def refused(text: str, **how: object) -> str:
    with pytest.raises(Refused) as caught:
        opened(text, **how)  # type: ignore[arg-type]
    assert caught.value.kind is Kind.UNAUTHENTICATED
    assert caught.value.detail == "Authentication failed."
    return caught.value.reason


@pytest.mark.parametrize("purpose", Purpose)
def test_its_own_challenge_is_known_again(purpose: Purpose) -> None:
    nonce = os.urandom(16)
    challenge = make_challenge(
        SECRET, spki=SPKI, purpose=purpose, audience=AUDIENCE, now=NOW, lifetime=LIFETIME, random=lambda _: nonce
    )
    assert challenge.expires == NOW + LIFETIME
    assert challenge.text.startswith(f"doorward-{purpose}-v1.")
    assert challenge.text.isascii()
    assert challenge.text.isprintable()
    assert opened(challenge.text, purpose=purpose) == Nonce(nonce, NOW + LIFETIME)
    line = read_challenge(challenge.text)
    assert (line.purpose, line.audience, line.expires) == (purpose, AUDIENCE, challenge.expires)


def test_it_serves_one_key_one_purpose_one_audience_one_secret() -> None:
    for text, how in (
        (made(spki=b"another key").text, {}),
        (made(purpose=Purpose.REGISTER).text, {}),
        (made(audience="https://evil.example").text, {}),
        (made(secret=bytes(32)).text, {}),
        (made().text, {"spki": b"another key"}),
        (made().text, {"purpose": Purpose.REGISTER}),
        (made().text, {"audience": "https://evil.example"}),
        (made(purpose=Purpose.REGISTER).text.replace("register", "login"), {}),
        (made(audience="https://evil.example").text.replace("https://evil.example", AUDIENCE), {}),
    ):
        assert "not made by us" in refused(text, **how)


def test_it_lives_until_its_expiry() -> None:
    text = made().text
    assert opened(text, now=NOW + LIFETIME - timedelta(milliseconds=1))
    assert "expired 0 s ago" in refused(text, now=NOW + LIFETIME)
    assert "expired 60 s ago" in refused(text, now=NOW + LIFETIME + timedelta(minutes=1))
    later = text.replace(str(int((NOW + LIFETIME).timestamp())), str(int((NOW + 2 * LIFETIME).timestamp())))
    assert later != text
    assert "not made by us" in refused(later)


def test_no_two_are_alike_and_none_tells_its_key() -> None:
    texts = {made(spki=spki).text for spki in (SPKI, b"an unknown key") for _ in range(50)}
    assert len(texts) == 100
    assert len({len(text) for text in texts}) == 1


@pytest.mark.parametrize(
    "spoilt",
    [
        lambda text: text[:0],
        lambda text: text[:-1],
        lambda text: text + "/",
        lambda text: text + "\n",
        lambda text: " " + text,
        lambda text: text.upper(),
        lambda text: text.replace("-v1", "-v2"),
        lambda text: text.replace("-v1.", "-v1.0"),
        lambda text: text.replace(".", ".+", 1),
        lambda text: text.replace("-v1.1", "-v1.\u0661", 1),  # a digit, but not an ASCII one
        lambda text: text + "x" * 2000,
        lambda text: text.replace("login", "loGin"),
        lambda text: "é" + text,
    ],
)
def test_another_spelling_is_another_challenge(spoilt) -> None:  # type: ignore[no-untyped-def]  # noqa: ANN001 - text to text
    text = made().text
    assert spoilt(text) != text
    refused(spoilt(text))


@given(position=st.integers(0, 150), letter=st.characters())
def test_no_single_change_passes(position: int, letter: str) -> None:
    text = made().text
    position %= len(text)
    changed = text[:position] + letter + text[position + 1 :]
    if changed != text:
        refused(changed)


@given(st.text(max_size=300))
def test_nothing_but_a_refusal_comes_of_any_text(text: str) -> None:
    refused(text)
    with pytest.raises(Refused):
        read_challenge(text)


def test_parts_do_not_run_into_one_another() -> None:
    """The audience stands last: with dots of its own it cannot be taken for other parts of another challenge."""
    text = made(audience="a.b").text
    assert opened(text, audience="a.b")
    refused(text, audience="a")
    refused(text, audience="b")


@pytest.mark.parametrize("audience", ["", "with space", "with\nline", "ünicode", "x" * 513])
def test_an_audience_that_cannot_be_written_is_a_mistake_of_ours(audience: str) -> None:
    with pytest.raises(ValueError, match="not an audience"):
        made(audience=audience)


@pytest.mark.parametrize("text", ["", "hello", "doorward-erase-v1." + "1." + "0" * 32 + "." + "0" * 64 + ".x"])
def test_a_client_is_told_not_to_sign_anything_else(text: str) -> None:
    with pytest.raises(Refused, match="do not sign it") as caught:
        read_challenge(text)
    assert caught.value.kind is Kind.MALFORMED

"""Passwords: which are accepted; and hashing that takes the same work for anybody and a bounded amount of memory."""

import asyncio
import re
import threading
import time
from collections.abc import AsyncIterator

import argon2
import pytest
from hypothesis import given
from hypothesis import strategies as st

from iam import passwords
from iam.errors import Kind, Refused
from iam.passwords import Matched, Mismatched, PasswordHasher, check_password_policy

GOOD = "correct horse battery staple"


@pytest.fixture
async def hasher() -> AsyncIterator[PasswordHasher]:
    made = PasswordHasher(slots=1, queue=4)
    yield made
    made.close()


@pytest.mark.parametrize(
    "password",
    [
        GOOD,
        "wvpkzqtrhmxl",  # no digit, no capital, no sign: nothing is asked of which characters
        "839201748365",
        "пароль-длинный-как-поезд",
        "🦊🐢🌵🚲🪁🎻🧭🪐🍋🐙🧩🪵",
        "x1!qv" + "y" * 251,
        "welcome to the tin roof",
        "kv7 password 9rw qz",
    ],
)
def test_a_password_of_its_own_is_accepted(password: str) -> None:
    check_password_policy(password, name="alice")


@pytest.mark.parametrize(
    ("password", "why"),
    [
        ("", "12 to 256"),
        ("wvpkzqtrhmx", "12 to 256"),
        ("wvpkzqtrhmxl" * 22, "12 to 256"),
        ("wvpkz\u0000qtrhmxl", "control"),
        ("wvpkz\nqtrhmxl", "control"),
        ("wvpkz\ud800qtrhmxl", "control"),
        ("aaaaaaaaaaaaaaaa", "repeats"),
        ("abcabcabcabcabc", "repeats"),
        ("my name is alice", "user's name"),
        ("XX-ALICE-7345-qv", "user's name"),
        ("\uff21\uff2c\uff29\uff23\uff25-7345-qvx", "user's name"),  # full width: the same after NFKC
        ("password1234", "tries first"),
        ("Password!2026", "tries first"),
        ("P@ssw0rd12345", "tries first"),
        ("123456789012", "tries first"),
        ("qwertyuiopasdfgh", "tries first"),
        ("1qaz2wsx3edc!", "tries first"),
        ("adminadminadmin", "tries first"),
        ("welcomeadmin1!", "tries first"),
        ("doorward-admin", "tries first"),
        ("changeme-2026!", "tries first"),
    ],
)
def test_what_everybody_tries_is_refused_with_a_sentence(password: str, why: str) -> None:
    with pytest.raises(Refused) as caught:
        check_password_policy(password, name="alice")
    assert caught.value.kind is Kind.MALFORMED
    assert why in caught.value.detail
    assert caught.value.fields == {"password": caught.value.detail}


def test_of_an_address_the_name_alone_is_sought_too() -> None:
    with pytest.raises(Refused, match="user's name"):
        check_password_policy("fortuna-grace.hopper-9", name="Grace.Hopper@example.org")
    check_password_policy("fortuna-example.org-9", name="Grace.Hopper@example.org")
    check_password_policy("bobsleigh quartz", name="bob")  # a name this short is in too many words


def test_length_is_counted_as_the_password_is_hashed() -> None:
    with pytest.raises(Refused, match="12 to 256"):
        check_password_policy(
            "a\u0301e\u0301i\u0301o\u0301u\u0301y\u0301", name="alice"
        )  # 12 code points, 6 after NFKC
    check_password_policy("ﬃ" * 3 + "qvxz", name="alice")  # 7 code points, 13 after NFKC


async def test_a_hash_is_argon2id_as_promised_and_an_independent_reader_takes_it(hasher: PasswordHasher) -> None:
    hashed = await hasher.hash(GOOD)
    assert re.fullmatch(r"\$argon2id\$v=19\$m=65536,t=1,p=4\$[A-Za-z0-9+/]{22}\$[A-Za-z0-9+/]{43}", hashed)
    assert argon2.PasswordHasher().verify(hashed, GOOD)
    assert await hasher.hash(GOOD) != hashed


async def test_right_wrong_and_nobody(hasher: PasswordHasher) -> None:
    hashed = await hasher.hash(GOOD)
    assert await hasher.verify(GOOD, hashed) == Matched(needs_rehash=False)
    for wrong in (await hasher.verify(GOOD + " ", hashed), await hasher.verify(GOOD, None)):
        assert isinstance(wrong, Mismatched)
        assert not wrong
    assert await hasher.verify(GOOD, "not a hash") == Mismatched("the stored hash cannot be read")
    assert not await hasher.verify("\ud800", hashed)


async def test_one_password_on_every_keyboard(hasher: PasswordHasher) -> None:
    hashed = await hasher.hash("Zu\u0308rich ﬁnds Å")
    assert await hasher.verify("Z\u00fcrich finds \u212b", hashed)


async def test_a_hash_of_other_parameters_compares_and_asks_to_be_made_again(hasher: PasswordHasher) -> None:
    older = argon2.PasswordHasher(time_cost=2, memory_cost=8192, parallelism=1).hash(GOOD)
    assert await hasher.verify(GOOD, older) == Matched(needs_rehash=True)


async def test_nobody_costs_as_much_as_somebody(hasher: PasswordHasher, monkeypatch: pytest.MonkeyPatch) -> None:
    """The work is compared, not the clock: what is verified for nobody has the parameters of every other hash."""
    nobodys, somebodys = hasher._nobodys(), await hasher.hash(GOOD)
    parameters = argon2.extract_parameters(somebodys)
    assert argon2.extract_parameters(nobodys) == parameters
    assert parameters.memory_cost == 65536
    assert (parameters.time_cost, parameters.parallelism, parameters.hash_len, parameters.salt_len) == (1, 4, 32, 16)
    seen: list[str] = []
    compare = passwords._compare

    def watched(password: str, stored: str) -> Matched | Mismatched:
        seen.append(stored)
        return compare(password, stored)

    monkeypatch.setattr(passwords, "_compare", watched)
    await hasher.verify(GOOD, None)
    assert [argon2.extract_parameters(stored) for stored in seen] == [parameters]


async def test_above_the_bound_the_next_is_told_to_come_back() -> None:
    hasher = PasswordHasher(slots=1, queue=2)
    answers = await asyncio.gather(*(hasher.verify(GOOD, None) for _ in range(8)), return_exceptions=True)
    refusals = [answer for answer in answers if isinstance(answer, Refused)]
    assert len(refusals) == 5
    assert {(refusal.kind, refusal.retry_after) for refusal in refusals} == {(Kind.THROTTLED, 2)}
    assert sum(isinstance(answer, Mismatched) for answer in answers) == 3
    assert isinstance(await hasher.verify(GOOD, None), Mismatched)  # the places are free again
    hasher.close()


async def test_never_more_at_once_than_there_are_slots() -> None:
    hasher = PasswordHasher(slots=2, queue=20)
    inside, most, lock = 0, 0, threading.Lock()

    def work() -> None:
        nonlocal inside, most
        with lock:
            inside += 1
            most = max(most, inside)
        time.sleep(0.01)
        with lock:
            inside -= 1

    await asyncio.gather(*(hasher._in_thread(work) for _ in range(12)))
    assert most == 2
    hasher.close()


async def test_one_who_hangs_up_leaves_no_place_behind() -> None:
    hasher = PasswordHasher(slots=1, queue=1)
    gate = threading.Event()
    running = asyncio.create_task(hasher._in_thread(gate.wait))
    waiting = asyncio.create_task(hasher._in_thread(gate.wait))
    await asyncio.sleep(0.05)
    for task in (running, waiting):
        task.cancel()
    await asyncio.gather(running, waiting, return_exceptions=True)
    # The first still runs and holds its place; the second never began, and has given its own back.
    again = asyncio.create_task(hasher._in_thread(lambda: "served"))
    await asyncio.sleep(0)
    with pytest.raises(Refused):
        await hasher._in_thread(lambda: "one too many")
    gate.set()
    assert await again == "served"
    hasher.close()


async def test_the_loop_goes_on_while_passwords_are_hashed(hasher: PasswordHasher) -> None:
    hashing = asyncio.create_task(hasher.hash(GOOD))
    turns = 0
    while not hashing.done():
        await asyncio.sleep(0)
        turns += 1
    assert turns > 10


async def test_work_that_fails_gives_its_place_back(hasher: PasswordHasher) -> None:
    for _ in range(10):
        with pytest.raises(ZeroDivisionError):
            await hasher._in_thread(lambda: 1 // 0)
    hasher.close()
    with pytest.raises(RuntimeError):
        await hasher.hash(GOOD)


@given(st.text(max_size=300), st.text(max_size=40))
def test_the_policy_takes_or_refuses_any_text(password: str, name: str) -> None:
    try:
        check_password_policy(password, name=name)
    except Refused as refusal:
        assert refusal.kind is Kind.MALFORMED  # noqa: PT017 - either outcome is right, another exception is not


def test_the_salt_is_what_the_given_randomness_gives() -> None:
    async def hashed() -> str:
        hasher = PasswordHasher(slots=1, queue=0, random=lambda length: b"\x07" * length)
        try:
            return await hasher.hash(GOOD)
        finally:
            hasher.close()

    assert asyncio.run(hashed()) == asyncio.run(hashed())
    assert argon2.low_level.hash_secret(
        GOOD.encode(), b"\x07" * 16, 1, 65536, 4, 32, argon2.Type.ID
    ).decode() == asyncio.run(hashed())

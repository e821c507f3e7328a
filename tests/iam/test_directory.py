"""`iam.directory`: what is believed, how long, and what makes it forgotten."""

import asyncio
import time
from datetime import timedelta
from uuid import UUID, uuid4

import pytest

from iam.access import Denied
from iam.directory import AGE_LIMIT, AGE_LIMIT_UNFED, Directory
from iam.events import Affected, Effect
from iam.store.standing import Standing
from tests.conftest import TurnableClock

ROLE, TENANT, PARENT = UUID(int=1), UUID(int=2), UUID(int=3)


class Source:
    """Counts what is read, and can be held up."""

    def __init__(self) -> None:
        self.reads: list[str] = []
        self.gate = asyncio.Event()
        self.asked = asyncio.Event()
        self.gate.set()
        self.fed = True

    async def read(self, identity: str) -> Standing:
        self.reads.append(identity)
        self.asked.set()
        answer = Denied(f"read {len(self.reads)}")
        await self.gate.wait()
        return Standing(answer, (ROLE,), (PARENT, TENANT), frozenset())


@pytest.fixture
def source() -> Source:
    return Source()


@pytest.fixture
def directory(source: Source, clock: TurnableClock) -> Directory:
    return Directory(source.read, clock, lambda: source.fed, capacity=3)


async def test_a_standing_is_read_once_and_believed(source: Source, directory: Directory) -> None:
    first = await directory.standing("a")
    assert await directory.standing("a") is first
    assert source.reads == ["a"]


async def test_many_at_once_share_one_read(source: Source, directory: Directory) -> None:
    source.gate.clear()
    asking = [asyncio.create_task(directory.standing("a")) for _ in range(50)]
    await asyncio.sleep(0)
    source.gate.set()
    await asyncio.gather(*asking)
    assert source.reads == ["a"]


@pytest.mark.parametrize(
    ("effect", "dropped"),
    [
        (Effect(Affected.IDENTITY, "a"), True),
        (Effect(Affected.IDENTITY, "b"), False),
        (Effect(Affected.ROLE, str(ROLE)), True),
        (Effect(Affected.ROLE, str(TENANT)), False),
        (Effect(Affected.TENANT, str(TENANT)), True),
        (Effect(Affected.TENANT, str(PARENT)), True),
        (Effect(Affected.TENANT, str(ROLE)), False),
    ],
)
async def test_an_event_drops_what_it_touches(
    source: Source, directory: Directory, effect: Effect, dropped: bool
) -> None:
    await directory.standing("a")
    directory.apply([effect])
    await directory.standing("a")
    assert len(source.reads) == (2 if dropped else 1)


async def test_a_read_that_an_event_overtook_is_done_again(source: Source, directory: Directory) -> None:
    source.gate.clear()
    asking = asyncio.create_task(directory.standing("a"))
    await source.asked.wait()
    directory.apply([Effect(Affected.IDENTITY, "a")])
    source.gate.set()
    assert (await asking).access == Denied("read 2")
    assert source.reads == ["a", "a"]


@pytest.mark.parametrize(("fed", "limit"), [(True, AGE_LIMIT), (False, AGE_LIMIT_UNFED)])
async def test_a_standing_is_believed_as_long_as_the_feed_allows(
    source: Source, directory: Directory, clock: TurnableClock, fed: bool, limit: timedelta
) -> None:
    source.fed = fed
    await directory.standing("a")
    clock.turn(limit - timedelta(seconds=1))
    await directory.standing("a")
    assert len(source.reads) == 1
    clock.turn(timedelta(seconds=1.1))
    await directory.standing("a")
    assert len(source.reads) == 2


@pytest.mark.parametrize(("fed", "limit"), [(True, AGE_LIMIT), (False, AGE_LIMIT_UNFED)])
async def test_a_clock_that_is_set_back_prolongs_nothing(
    source: Source, clock: TurnableClock, fed: bool, limit: timedelta
) -> None:
    seconds = 0.0
    directory = Directory(source.read, clock, lambda: fed, monotonic=lambda: seconds)
    await directory.standing("a")
    clock.turn(-timedelta(hours=1))
    seconds = limit.total_seconds() - 0.1
    await directory.standing("a")
    assert len(source.reads) == 1
    seconds = limit.total_seconds() + 0.1
    await directory.standing("a")
    assert len(source.reads) == 2


async def test_an_event_looks_at_nobody_whom_it_does_not_touch(clock: TurnableClock) -> None:
    async def read(_: str) -> Standing:
        return Standing(Denied("read"), (uuid4(),), (PARENT, uuid4()), frozenset())

    directory = Directory(read, clock, lambda: True)
    for number in range(20_000):
        await directory._read_until_settled(str(number))
    effects = [Effect(kind, str(uuid4())) for kind in (Affected.ROLE, Affected.TENANT) for _ in range(50)]
    began = time.perf_counter()
    directory.apply(effects)
    assert time.perf_counter() - began < 0.1  # to look at each for each takes seconds
    directory.apply([Effect(Affected.TENANT, str(PARENT))])
    assert (directory._held, directory._touched_by) == ({}, {})


async def test_what_has_left_is_in_no_index(source: Source, directory: Directory) -> None:
    for identity in ("a", "b", "c", "d"):
        await directory.standing(identity)
    assert set(map(frozenset, directory._touched_by.values())) == {frozenset({"b", "c", "d"})}
    for identity in ("b", "c", "d"):
        directory.apply([Effect(Affected.IDENTITY, identity)])
    assert directory._touched_by == {}
    assert source.reads == ["a", "b", "c", "d"]


async def test_the_one_asked_for_longest_ago_leaves_first(source: Source, directory: Directory) -> None:
    for identity in ("a", "b", "c", "a", "d"):
        await directory.standing(identity)
    source.reads.clear()
    for identity in ("a", "c", "d"):
        await directory.standing(identity)
    assert source.reads == []
    await directory.standing("b")
    assert source.reads == ["b"]


async def test_a_failed_read_is_not_remembered(clock: TurnableClock) -> None:
    fails = True

    async def read(_: str) -> Standing:
        if fails:
            raise OSError
        return Standing(Denied("read"), (), (), frozenset())

    directory = Directory(read, clock, lambda: True)
    with pytest.raises(OSError):  # noqa: PT011 - any
        await directory.standing("a")
    fails = False
    assert (await directory.standing("a")).access == Denied("read")


async def test_memory_tells_what_was_read_for_as_long_as_it_is_believed(
    source: Source, directory: Directory, clock: TurnableClock
) -> None:
    assert directory.known("a") is directory.known_access("a") is None
    standing = await directory.standing("a")
    assert directory.known("a") is standing
    assert directory.known_access("a") == standing.access
    clock.turn(AGE_LIMIT)
    assert directory.known("a") is None
    standing = await directory.standing("a")
    directory.apply([Effect(Affected.ROLE, str(ROLE))])
    assert directory.known("a") is None
    assert source.reads == ["a", "a"]

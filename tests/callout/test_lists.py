"""The list of a server that others leave while it is read."""

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import orjson
import pytest

from callout.broker.watch import _PAGE, Watch
from tests.callout.brokers import People


class Shrinking:
    """A server whose clients go between one page and the next."""

    def __init__(self, numbers: range, gone: Callable[[int, int], bool]) -> None:
        self._numbers = list(numbers)
        self._gone = gone
        self.asked = 0

    def page(self, offset: int, limit: int) -> dict[str, Any]:
        shown = self._numbers[offset : offset + limit]
        self.asked += 1
        self._numbers = [one for one in self._numbers if not self._gone(self.asked, one)]
        return {"connections": [{"cid": one} for one in shown], "now": "now"}

    async def request(self, _: str, payload: bytes, timeout: float) -> SimpleNamespace:  # noqa: ASYNC109 - the library's
        assert timeout > 0
        wanted = orjson.loads(payload)
        return SimpleNamespace(data=orjson.dumps({"data": self.page(wanted["offset"], wanted["limit"])}))


async def listed(server: Shrinking) -> list[int]:
    people = People()
    watch = Watch([], people, people.ended_proofs)
    first = server.page(0, _PAGE)
    return [each["cid"] async for each, _ in watch._pages(server, "N", first)]  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("what", "gone"),
    [
        ("nobody", lambda _, __: False),
        ("one after each page", lambda asked, number: number == 100 * asked),
        ("a third after the first page", lambda asked, number: asked == 1 and number % 3 == 0),
        ("almost all that were shown", lambda asked, number: asked == 2 and number < 1500),
        ("all that were shown", lambda asked, number: asked == 1 and number < _PAGE),
    ],
)
async def test_whoever_stays_is_in_the_list_once(what: str, gone: Callable[[int, int], bool]) -> None:
    server = Shrinking(range(5000), gone)
    found = await listed(server)
    stayed = {number for number in range(5000) if not any(gone(asked, number) for asked in range(1, server.asked + 1))}
    assert stayed <= set(found), what
    assert len(found) == len(set(found))


async def test_lists_of_just_a_page_and_of_nobody() -> None:
    assert await listed(Shrinking(range(_PAGE), lambda _, __: False)) == list(range(_PAGE))
    assert await listed(Shrinking(range(0), lambda _, __: False)) == []


async def test_a_server_that_does_not_finish_its_list_takes_nothing_from_the_others(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    class Halting(Shrinking):
        async def request(self, _: str, payload: bytes, timeout: float) -> SimpleNamespace:  # noqa: ARG002, ASYNC109 - the same
            raise TimeoutError

    people = People()
    watch = Watch([], people, people.ended_proofs)
    servers: dict[Any, str] = {
        Halting(range(5000), lambda _, __: False): "M",
        Shrinking(range(3), lambda _, __: False): "N",
    }

    async def server_of(client: Any) -> str:
        return servers[client]

    async def ask_all(client: Any, own: str) -> list[dict[str, Any]]:
        return [{**client.page(0, _PAGE), "server_id": own}]

    monkeypatch.setattr("callout.broker.watch._server_of", server_of)
    monkeypatch.setattr("callout.broker.watch._address", lambda client: servers[client])
    monkeypatch.setattr(watch, "_ask_all", ask_all)
    monkeypatch.setattr(watch, "_servers", SimpleNamespace(connected=list(servers)))
    found, silent = await watch._listed()
    assert (list(found), silent) == (["N"], ["M"])

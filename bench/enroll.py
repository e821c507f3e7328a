"""What an enrolment costs: simpleenroll over mTLS, against a bare mTLS handshake with the same listener in the same run.

    python -m bench.enroll [--rounds 5] [--each 120] [--workers 2]

Measured on a node with its own PostgreSQL, every certificate durably stored (`fsync` on) before its answer leaves:

- a bare handshake: TLS 1.3 with client certificate, then the end; nothing is asked;
- GET /cacerts on a kept connection: TLS records, aiohttp and the guard, with next to no work behind them;
- simpleenroll with a new connection for each device, and on a kept connection, as a factory's station does it.

Each one after another, and with several clients at once. Keys are P-256; each device has a new key and a new name, and a
connection one of 64 bootstrap certificates, issued by the node's factory authority. CPU is that of the node; for
enrolments it includes what they cause afterwards (events to NATS, the audit's chain). The clients are threads of Python's
`ssl` on the same machine. At the end, the parts of an enrolment are measured by themselves, in one process.
"""

import argparse
import asyncio
import socket
import ssl
import statistics
import threading
import time
from base64 import b64encode
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from itertools import count, cycle, islice
from pathlib import Path

import uvloop
from cryptography.hazmat.primitives.asymmetric import ec

from bench.measuring import Gauge, Spent, percentile, print_heading, print_table
from bench.node import LOOPBACK, Node, running_node, settle
from ca.inventory import AuthorityKind
from ca.issue import SERIAL_BYTES, device
from certs.csr import decode_base64_request, parse_request
from certs.names import device_identifier
from certs.pem import read_certificate, write_certificates
from certs.pkcs7 import certs_only
from doorward.app import App
from doorward.commands.login import ApiClient
from doorward.keys import random_bytes
from doorward.worker import utc_now
from est.client import make_request
from est.codec import PKCS10, encode_base64
from est.rules import judge_peer
from est.service import EstService

LABEL = "bench"
STATIONS = 64
AT_ONCE = 4
TARGET = 2.5

_ENROL = f"/.well-known/est/{LABEL}/simpleenroll"
_CACERTS = f"/.well-known/est/{LABEL}/cacerts"


# --- The clients --------------------------------------------------------------------------------------------------------


@dataclass
class Station:
    """Somebody with a bootstrap certificate, who enrols devices."""

    port: int
    context: ssl.SSLContext

    def connect(self) -> ssl.SSLSocket:
        """Open a connection."""
        raw = socket.create_connection((LOOPBACK, self.port))
        raw.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return self.context.wrap_socket(raw, server_hostname=LOOPBACK)

    def handshake(self) -> None:
        """Connect, and leave."""
        leave(self.connect())

    def enrol(self, request: bytes) -> None:
        """Connect, enrol a device, and leave."""
        connection = self.connect()
        ask(connection, "POST", _ENROL, request)
        leave(connection)


def ask(connection: ssl.SSLSocket, method: str, path: str, body: bytes = b"") -> bytes:
    """Ask, and return the body of the answer."""
    lines = [f"{method} {path} HTTP/1.1", f"Host: {LOOPBACK}"]
    if body:
        lines += [f"Content-Type: {PKCS10}", "Content-Transfer-Encoding: base64", f"Content-Length: {len(body)}"]
    connection.sendall("\r\n".join((*lines, "", "")).encode() + body)
    head, separator, content = connection.recv(65_536).partition(b"\r\n\r\n")
    if not head.startswith(b"HTTP/1.1 200") or not separator:
        raise SystemExit(f"unexpected answer: {head!r} {content!r}")
    length = next(int(line[15:]) for line in head.split(b"\r\n") if line.lower().startswith(b"content-length:"))
    while len(content) < length:
        content += connection.recv(65_536)
    return content


def leave(connection: ssl.SSLSocket) -> None:
    """Say close_notify, wait for the server's, and end."""
    connection.unwrap().close()


Work = Callable[[], None]


def run_all(lanes: Sequence[Sequence[Work]]) -> tuple[list[float], float]:
    """Do the work, each lane in a thread of its own; return the seconds of each, and of all."""
    took: list[list[float]] = [[] for _ in lanes]

    def run(lane: Sequence[Work], times: list[float]) -> None:
        for work in lane:
            began = time.perf_counter()
            work()
            times.append(time.perf_counter() - began)

    threads = [threading.Thread(target=run, args=arguments) for arguments in zip(lanes, took, strict=True)]
    began = time.perf_counter()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    lasted = time.perf_counter() - began
    times = [each for lane in took for each in lane]
    if len(times) != sum(map(len, lanes)):
        raise SystemExit("a client failed; see above")
    return times, lasted


# --- What is measured ---------------------------------------------------------------------------------------------------


@dataclass
class Found:
    """What the rounds of one load found."""

    rounds: list[Spent] = field(default_factory=list)
    times: list[list[float]] = field(default_factory=list)

    def median(self, of: Callable[[Spent], float]) -> float:
        """Return the median of a figure."""
        return statistics.median(map(of, self.rounds))

    def milliseconds(self, percent: int) -> float:
        """Return the median of a percentile of the times."""
        return statistics.median(percentile(times, percent) for times in self.times) * 1e3


@dataclass
class Bench:
    """A node, and stations in front of it."""

    node: Node
    app: App
    stations: list[Station]
    chain: tuple[bytes, ...]
    requests: Iterator[bytes] = field(default_factory=lambda: endless_requests())

    def loads(self, each: int) -> dict[tuple[str, int], Callable[[], list[list[Work]]]]:
        """Return what is measured, by name and number of clients: what makes the work of a round."""
        stations = cycle(self.stations)

        def new(lanes: int, work: Callable[[Station], Work]) -> list[list[Work]]:
            return [[work(next(stations)) for _ in range(each // lanes)] for _ in range(lanes)]

        def kept(lanes: int, work: Callable[[ssl.SSLSocket], Work]) -> list[list[Work]]:
            connections = [next(stations).connect() for _ in range(lanes)]
            return [
                [*(work(connection) for _ in range(each // lanes)), lambda c=connection: leave(c)]
                for connection in connections
            ]

        def enrol(station: Station) -> Work:
            request = next(self.requests)
            return lambda: station.enrol(request)

        def enrol_kept(connection: ssl.SSLSocket) -> Work:
            request = next(self.requests)
            return lambda: void(ask(connection, "POST", _ENROL, request))

        def cacerts(connection: ssl.SSLSocket) -> Work:
            return lambda: void(ask(connection, "GET", _CACERTS))

        loads: dict[tuple[str, int], Callable[[], list[list[Work]]]] = {}
        for lanes in (1, AT_ONCE):
            loads["bare handshake", lanes] = lambda n=lanes: new(n, lambda station: station.handshake)
            loads["GET /cacerts, kept connection", lanes] = lambda n=lanes: kept(n, cacerts)
            loads["simpleenroll, new connection", lanes] = lambda n=lanes: new(n, enrol)
            loads["simpleenroll, kept connection", lanes] = lambda n=lanes: kept(n, enrol_kept)
        return loads

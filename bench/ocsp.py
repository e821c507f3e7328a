"""What an OCSP answer costs over plain HTTP, against the least that our HTTP can do, in one run.

    python -m bench.ocsp [--rounds 5] [--seconds 2] [--certificates 1000]

Measured on one worker of a node with its own PostgreSQL, on kept connections:

- GET /ca/issuing.crt: aiohttp and the guard with next to no work behind them, the yardstick of the ratios;
- GET and POST of an answer that is prepared, of `--certificates` certificates in turn;
- POST with a nonce: looked up in the store and signed each time;
- GET with If-None-Match: 304.

The client is one process on the same machine, which asks on several connections, on each as soon as it was answered.
CPU is the worker's and PostgreSQL's; a rate per core is what the worker's CPU for one answer comes to, since on a
machine with few cores the client takes its share.
"""

import argparse
import asyncio
import base64
import time
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import cycle
from urllib.parse import quote

import uvloop
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.ocsp import OCSPRequestBuilder, load_der_ocsp_response

from bench.measuring import Found, Gauge, print_heading, print_table
from bench.node import LOOPBACK, running_node, settle
from ca.http.status import REQUEST
from ca.inventory import AuthorityKind
from doorward.app import App

CONNECTIONS = 16
TARGET = 3_000.0
WORKERS, DATABASE = "workers", "PostgreSQL"
LEAST, GET, POST, NONCE, KNOWN = (
    "GET /ca/issuing.crt",
    "GET, prepared",
    "POST, prepared",
    "POST with a nonce, signed",
    "GET, If-None-Match",
)


def get(path: str, *headers: str) -> bytes:
    """Return a request by GET."""
    return "\r\n".join((f"GET {path} HTTP/1.1", f"Host: {LOOPBACK}", *headers, "", "")).encode()


def post(body: bytes) -> bytes:
    """Return a request by POST."""
    head = ("POST /ocsp HTTP/1.1", f"Host: {LOOPBACK}", f"Content-Type: {REQUEST}", f"Content-Length: {len(body)}")
    return "\r\n".join((*head, "", "")).encode() + body


class Asking(asyncio.Protocol):
    """One kept connection, on which the next request follows each answer; answers are told apart by their lengths."""

    def __init__(self, requests: Sequence[bytes]) -> None:
        self._requests = cycle(requests)
        self._received = b""
        self._is_ending = False
        self.answered = 0
        self.first = b""
        self.has_ended = asyncio.Event()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Begin to ask."""
        self._transport = transport
        self._ask()

    def data_received(self, data: bytes) -> None:
        """Ask again once the answer is whole."""
        self._received += data
        head, separator, content = self._received.partition(b"\r\n\r\n")
        length = head.lower().partition(b"content-length:")[2].split(maxsplit=1)
        expected = int(length[0]) if length and b" 304 " not in head[:13] else 0
        if not separator or len(content) < expected:
            return
        self.first = self.first or self._received
        self._received = b""
        self.answered += 1
        self._ask()

    def end(self) -> None:
        """Ask no more."""
        self._is_ending = True

    def _ask(self) -> None:
        if self._is_ending:
            self.has_ended.set()
            return
        self._transport.write(next(self._requests))  # type: ignore[attr-defined] # TCP has it


@dataclass(frozen=True)
class Load:
    """Requests of one kind, and how their answers begin."""

    requests: Sequence[bytes]
    begins: bytes = b"HTTP/1.1 200"


async def run(port: int, load: Load, seconds: float) -> tuple[int, bytes]:
    """Ask for so long on several connections; return how many answers came, and one of them."""
    loop = asyncio.get_running_loop()
    asking = [Asking(load.requests[number:] + load.requests[:number]) for number in range(CONNECTIONS)]
    transports = [(await loop.create_connection(lambda one=one: one, LOOPBACK, port))[0] for one in asking]
    await asyncio.sleep(seconds)
    for one in asking:
        one.end()
    for one in asking:
        await one.has_ended.wait()
    for transport in transports:
        transport.close()
    first = asking[0].first
    if not first.startswith(load.begins):
        raise SystemExit(f"unexpected answer: {first!r}")
    return sum(one.answered for one in asking), first


async def make_requests(app: App, count: int) -> list[bytes]:
    """Issue certificates, and return the requests about them."""
    issuer = app.authorities.current(AuthorityKind.FACTORY).certificate
    found = []
    for number in range(count):
        made = await app.certificates.issue_bootstrap(f"ocsp-{number}", actor="bench")
        certificate = x509.load_pem_x509_certificate(made.chain)
        builder = OCSPRequestBuilder().add_certificate(certificate, issuer, hashes.SHA256())
        found.append(builder.build().public_bytes(Encoding.DER))
        if number == 0:
            nonce = builder.add_extension(x509.OCSPNonce(bytes(32)), critical=False)
            with_nonce = nonce.build().public_bytes(Encoding.DER)
    return [with_nonce, *found]


def get_path(der: bytes) -> str:
    """Return the path of a request by GET."""
    return "/ocsp/" + quote(base64.b64encode(der), safe="")


async def measure(rounds: int, seconds: float, certificates: int) -> None:
    """Measure, and print."""
    with running_node({"node": {"workers": 1, "log_level": "error"}}) as node:
        async with node.opened() as (app, _):
            with_nonce, *asked = await make_requests(app, certificates)
            await settle(app)
        port = node.configuration.publication.port
        loads = {
            LEAST: Load([get("/ca/issuing.crt")]),
            GET: Load([get(get_path(der)) for der in asked]),
            POST: Load([post(der) for der in asked]),
            NONCE: Load([post(with_nonce)]),
        }
        _, first = await run(port, loads[GET], seconds)  # prepares them
        load_der_ocsp_response(first.partition(b"\r\n\r\n")[2])
        tag = first.partition(b"ETag: ")[2].partition(b"\r\n")[0].decode()
        loads[KNOWN] = Load([get(get_path(asked[0]), f"If-None-Match: {tag}")], b"HTTP/1.1 304")
        gauge = Gauge(node.parts)
        await gauge.learn_idle(2.0)
        found = {kind: Found() for kind in loads}
        for _ in range(rounds):
            for kind, load in loads.items():
                stretch = gauge.begin()
                began = time.perf_counter()
                answered, _ = await run(port, load, seconds)
                found[kind].add(stretch.end(answered, time.perf_counter() - began), [])
    least = found[LEAST].cpu(WORKERS)
    rows = []
    for kind, one in found.items():
        each = one.cpu(WORKERS)
        rows.append(
            (
                kind,
                f"{one.median(lambda spent: spent.per_second):,.0f}",
                f"{each:,.0f}",
                f"{one.cpu(DATABASE):,.0f}",
                f"{1e6 / each:,.0f}",
                f"{each / least:.2f}",
            )
        )
    print_table(("", "a second", "worker us", "PostgreSQL us", "a second per core", "ratio"), rows)
    per_core = 1e6 / found[GET].cpu(WORKERS)
    print(f"prepared answers per core: {per_core:,.0f} a second; the target is {TARGET:,.0f}")


def main() -> None:
    """Read the arguments, and measure."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=2.0)
    parser.add_argument("--certificates", type=int, default=1_000)
    given = parser.parse_args()
    print_heading(f"{given.rounds} rounds of {given.seconds:g} s each", "aiohttp", "uvloop", "cryptography", "asyncpg")
    uvloop.run(measure(given.rounds, given.seconds, given.certificates))


if __name__ == "__main__":
    main()

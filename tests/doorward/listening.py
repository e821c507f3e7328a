"""A listener with a small application, and what its clients say: the tests of `doorward.listener` stand on it."""

import asyncio
import hashlib
import logging
import os
import socket
import ssl
import subprocess
import threading
import time
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import pytest
import trustme
import uvloop
from aiohttp import web

from doorward.listener import Listener, ListenerLimits, listening_sockets, serve_https
from doorward.tls import ServerIdentity, ServerTLS
from iam.responses import Speech

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
        sockets = listening_sockets("127.0.0.1", 0)
        self.listener = await serve_https(self.runner, sockets, self.tls, limits=limits, speech=Speech.PROBLEM)

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


def s_client(server: Server, *options: str, said: bytes) -> subprocess.CompletedProcess[bytes]:
    command = ["openssl", "s_client", "-connect", f"127.0.0.1:{server.port}", *options]
    return subprocess.run(command, input=said, capture_output=True, timeout=20, check=False)


HALF_A_BODY = request("/digest", method="POST", headers="Content-Length: 9\r\n") + b"half"

"""HTTPS: aiohttp's server on our TLS, with the deadlines that it lacks.

Rules enforced here:

- A block of headers has a deadline and a size. A client that drips it gets 408, one that swells it 431; one that says
  nothing at all is closed without a word. (A body's deadline is the application's: it knows how large one may be.)
- A connection on which nothing is asked is closed after a while.
- After the client's close_notify, a request that arrived whole is still answered; one that did not is not waited for.
- Malformed HTTP and clients that vanish are no errors of ours: one line in the log, no traceback.
- `Server` says who we are, and nothing of what we are made of (RFC 9110 10.2.4).
- Closing accepts what has come, since the kernel would reset it, then stops accepting, closes idle connections at once,
  and lets running requests finish for a grace period.
- Several processes share a port (SO_REUSEPORT); all limits count in one process.

A handler reads the client's certificates with `request.transport.get_extra_info("peer_chain")`.
"""

import asyncio
import logging
import socket
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from http import HTTPStatus
from typing import Any

from aiohttp import StreamReader, hdrs, web
from aiohttp.http_exceptions import LineTooLong

from doorward.admission import Admission
from doorward.tls import ServerTLS
from doorward.transport import TLSEndpoint
from iam.responses import Speech, respond_to_unreadable

log = logging.getLogger("doorward.listener")

_READ_AHEAD_BYTES = 65_536  # of a body, before its reader
_CANCEL_SECONDS = 0.1
_SERVER = "Doorward"
_TURNS_TO_ACCEPT = 3  # of the loop: it finds the connections that wait, takes them all, and makes their protocols

# Set on the listening socket, from which each connection takes them.
_INHERITED_OPTIONS = (
    (socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1),
    (socket.IPPROTO_TCP, socket.TCP_NODELAY, 1),
    # Of what is not sent the kernel keeps little, so that a slow client is cheap and one that stalls is noticed.
    (socket.IPPROTO_TCP, socket.TCP_NOTSENT_LOWAT, 131_072),
)


@dataclass(frozen=True)
class ListenerLimits:
    """What a client may take of one listener in one process: seconds, counts and bytes."""

    handshake_seconds: float = 10.0
    header_seconds: float = 10.0
    keepalive_seconds: float = 75.0
    stall_seconds: float = 30.0
    """How long a client may take nothing of an answer; the kernel tells of what it takes in steps of 64 kB."""
    close_seconds: float = 2.0
    """How long closing waits for what is not sent and for the client's end."""
    max_connections: int = 10_000
    max_connections_per_address: int = 1_024
    max_handshakes: int = 1_024
    max_handshakes_per_address: int = 64
    max_header_line_bytes: int = 8_190
    max_header_lines: int = 64
    max_header_block_bytes: int = 65_536


def listening_sockets(host: str, port: int, *, backlog: int = 1_024) -> list[socket.socket]:
    """Listen on each address of `host` ("" is all), on a port that other processes of this user may share.

    Port 0 takes a free one, the same for all addresses. Raises OSError.
    """
    sockets: list[socket.socket] = []
    found = socket.getaddrinfo(host or None, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    try:
        for family, kind, protocol, _, address in found:
            listening = socket.socket(family, kind, protocol)
            sockets.append(listening)
            listening.setblocking(False)
            listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
            for level, option, value in _INHERITED_OPTIONS:
                listening.setsockopt(level, option, value)
            if family == socket.AF_INET6:
                listening.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            listening.bind((address[0], port, *address[2:]))
            listening.listen(backlog)
            port = listening.getsockname()[1]
    except OSError:
        for each in sockets:
            each.close()
        raise
    return sockets


class HTTPConnection(web.RequestHandler):
    """aiohttp's protocol for one connection, and the deadlines and ends that this module rules."""

    __slots__ = ("_header_bytes", "_header_timer", "_last_body", "_limits", "_speech")

    def __init__(
        self,
        server: web.Server,
        limits: ListenerLimits,
        access_log: logging.Logger | None,
        speech: Speech = Speech.PLAIN,
    ) -> None:
        options: dict[str, Any] = {"access_log": access_log}
        super().__init__(
            server,
            loop=asyncio.get_running_loop(),
            tcp_keepalive=False,  # set already, on the listening socket
            keepalive_timeout=limits.keepalive_seconds,
            max_line_size=limits.max_header_line_bytes,
            max_field_size=limits.max_header_line_bytes,
            max_headers=limits.max_header_lines,
            read_bufsize=_READ_AHEAD_BYTES,
            auto_decompress=False,  # a body is what was sent: none grows on arrival
            logger=log,
            **options,
        )
        self._limits = limits
        self._speech = speech
        self._header_bytes = 0
        self._header_timer: asyncio.TimerHandle | None = None
        self._last_body: StreamReader | None = None

    @property
    def awaits_request(self) -> bool:
        """Whether no request is being served, and none has arrived whole."""
        waiter = self._waiter
        return self._request_count == 0 or (waiter is not None and not waiter.done())

    @property
    def _expects_header(self) -> bool:
        """Whether what comes next belongs to a block of headers: the body of the last request has come whole.

        Whoever refuses a request without reading its body may have answered long before that.
        """
        return self._last_body is None or self._last_body.is_eof()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Expect the first block of headers."""
        super().connection_made(transport)
        self._start_header_timer()

    def data_received(self, data: bytes) -> None:
        """Parse, and watch over a block of headers that is not complete."""
        requests, is_header = self._request_count, self._expects_header
        super().data_received(data)
        if self._request_count != requests:
            _, self._last_body = self._messages[-1]  # nobody has taken it yet: that is for the loop's next turn
            self._header_bytes = 0
            self._stop_header_timer()
        elif data and is_header:
            self._header_bytes += len(data)
            if self._header_bytes > self._limits.max_header_block_bytes:
                self._refuse(HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE)
            elif self._header_timer is None:
                self._start_header_timer()

    def eof_received(self) -> bool:  # type: ignore[override] # asyncio's contract; aiohttp narrows it to None
        """Answer what arrived whole before the client's close_notify, and end."""
        if self.awaits_request:
            return False
        request = self._current_request
        bodies = [body for _, body in self._messages] + ([request.content] if request is not None else [])
        incomplete = [body for body in bodies if not body.is_eof()]
        for body in incomplete:
            body.set_exception(ConnectionResetError("the client closed before its body was complete"))
        self.close()
        return not incomplete

    def connection_lost(self, exc: BaseException | None) -> None:
        """Stop watching."""
        self._stop_header_timer()
        super().connection_lost(exc)

    def finish(self) -> None:
        """Close now if idle, else after the request that is being served."""
        if self.awaits_request:
            self.force_close()
        else:
            self.close()

    def handle_error(
        self,
        request: web.BaseRequest,
        status: int = 500,
        exc: BaseException | None = None,
        message: str | None = None,
    ) -> web.StreamResponse:
        """Answer malformed HTTP, and give up on a client that is gone, without a traceback."""
        if isinstance(exc, ConnectionError):
            log.debug("%s went away during its request: %s", request.remote, exc)
            raise ConnectionResetError("the client went away during its request") from exc
        if status >= HTTPStatus.INTERNAL_SERVER_ERROR:
            return super().handle_error(request, status, exc, message)
        if isinstance(exc, LineTooLong):
            status = HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE
        log.info("malformed request from %s: %s", request.remote, " ".join(str(exc).split()))
        response = respond_to_unreadable(HTTPStatus(status), self._speech)
        response.force_close()
        return response

    async def finish_response(
        self, request: web.BaseRequest, resp: web.StreamResponse, start_time: float | None
    ) -> tuple[web.StreamResponse, bool]:
        """Say who answers, where the library would say what it is."""
        resp.headers.setdefault(hdrs.SERVER, _SERVER)
        return await super().finish_response(request, resp, start_time)

    def _start_header_timer(self) -> None:
        seconds = self._limits.header_seconds
        self._header_timer = self._loop.call_later(seconds, self._header_is_late)

    def _header_is_late(self) -> None:
        if self.awaits_request:
            self._refuse(HTTPStatus.REQUEST_TIMEOUT)
        else:  # an earlier request is still being served: its answer is not cut short
            self._start_header_timer()

    def _stop_header_timer(self) -> None:
        if self._header_timer is not None:
            self._header_timer.cancel()
            self._header_timer = None

    def _refuse(self, status: HTTPStatus) -> None:
        log.info("headers from %s refused: %d %s", self.peername, status, status.phrase)
        if self.transport is not None and self._header_bytes:
            response = respond_to_unreadable(status, self._speech)
            assert isinstance(response.body, bytes)  # noqa: S101 - as it is made there
            self.transport.write(
                f"HTTP/1.1 {status} {status.phrase}\r\nContent-Type: {response.headers[hdrs.CONTENT_TYPE]}\r\n"
                f"Content-Length: {len(response.body)}\r\nServer: {_SERVER}\r\nConnection: close\r\n\r\n".encode()
                + response.body
            )
        self.force_close()


async def accept_what_waits() -> None:
    """Let the loop take the connections that the kernel holds for us: those would be reset when listening ends."""
    for _ in range(_TURNS_TO_ACCEPT):
        await asyncio.sleep(0)


class Listener:
    """An HTTPS server that is listening."""

    def __init__(self, endpoint: TLSEndpoint, servers: Sequence[asyncio.Server]) -> None:
        self._endpoint = endpoint
        self._servers = servers
        self.addresses: list[Any] = [each.getsockname() for server in servers for each in server.sockets]

    @property
    def admission(self) -> Admission:
        """The counts of connections, open handshakes and refusals."""
        return self._endpoint.admission

    async def close(self, *, grace_seconds: float) -> None:
        """Stop accepting, let running requests finish for `grace_seconds`, then cut what is left."""
        await accept_what_waits()
        for server in self._servers:
            server.close()
        for connection in tuple(self._endpoint.connections):
            if isinstance(connection.inner, HTTPConnection):
                connection.inner.finish()
            else:
                connection.close()
        try:
            async with asyncio.timeout(grace_seconds):
                await self._endpoint.is_idle.wait()
        except TimeoutError:
            late = [each.inner for each in self._endpoint.open if isinstance(each.inner, HTTPConnection)]
            log.warning("%d requests did not finish in %g s and are cut", len(late), grace_seconds)
            await asyncio.gather(*(each.shutdown(_CANCEL_SECONDS) for each in late))
        for connection in tuple(self._endpoint.connections):
            connection.abort()
        for server in self._servers:
            await server.wait_closed()


async def serve_https(
    application: web.BaseRunner | web.Server,
    sockets: Sequence[socket.socket],
    tls: ServerTLS,
    *,
    limits: ListenerLimits,
    speech: Speech = Speech.PLAIN,
    access_log: logging.Logger | None = None,
) -> Listener:
    """Serve `application` on `sockets`, which are listening; the listener owns and closes them.

    A runner has been set up before; its clean-up comes after `Listener.close` and is the caller's. What reaches no
    route is refused in `speech`.
    """
    server = application.server if isinstance(application, web.BaseRunner) else application
    if server is None:
        raise RuntimeError("the runner is not set up")
    endpoint = TLSEndpoint(
        tls,
        partial(HTTPConnection, server, limits, access_log, speech),
        Admission(
            max_connections=limits.max_connections,
            max_connections_per_address=limits.max_connections_per_address,
            max_handshakes=limits.max_handshakes,
            max_handshakes_per_address=limits.max_handshakes_per_address,
        ),
        handshake_seconds=limits.handshake_seconds,
        stall_seconds=limits.stall_seconds,
        close_seconds=limits.close_seconds,
    )
    loop = asyncio.get_running_loop()
    return Listener(endpoint, [await loop.create_server(endpoint, sock=each) for each in sockets])

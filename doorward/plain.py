"""Plain HTTP, for what is signed anyway: relying parties fetch lists and ask OCSP without TLS (RFC 5280 8).

Rules enforced here, beside those on headers and idle connections of `doorward.listener`, which hold here too:

- A connection that is not admitted (`doorward.admission`) is aborted before anything is read from it.
- A peer that takes nothing of an answer for `stall_seconds` is cut, by the kernel (TCP_USER_TIMEOUT).
- Closing stops accepting, closes idle connections at once, lets running requests finish for a grace period.
"""

import asyncio
import logging
import socket
from collections.abc import Sequence
from typing import Any

from aiohttp import web

from doorward.admission import Admission, throttled_address
from doorward.listener import HTTPConnection, ListenerLimits, accept_what_waits

log = logging.getLogger("doorward.plain")

_CANCEL_SECONDS = 0.1


class PlainEndpoint:
    """What the connections of one listener share; called, it makes the protocol for the next one."""

    def __init__(self, server: web.Server, limits: ListenerLimits) -> None:
        self._server = server
        self._limits = limits
        self.admission = Admission(
            max_connections=limits.max_connections,
            max_connections_per_address=limits.max_connections_per_address,
            max_handshakes=limits.max_connections,  # there are none: who enters has none open
            max_handshakes_per_address=limits.max_connections_per_address,
        )
        self.connections: set[PlainConnection] = set()
        self.is_idle = asyncio.Event()
        self.is_idle.set()

    def __call__(self) -> "PlainConnection":
        """Make the protocol of a connection that is about to be made."""
        return PlainConnection(self, self._server, self._limits)

    def opened(self, connection: "PlainConnection") -> None:
        """Count a connection."""
        self.connections.add(connection)
        self.is_idle.clear()

    def ended(self, connection: "PlainConnection") -> None:
        """Count it out again."""
        self.connections.discard(connection)
        if not self.connections:
            self.is_idle.set()


class PlainConnection(HTTPConnection):
    """A connection without TLS, if it is admitted."""

    __slots__ = ("_address", "_endpoint")

    def __init__(self, endpoint: PlainEndpoint, server: web.Server, limits: ListenerLimits) -> None:
        super().__init__(server, limits, None)
        self._endpoint = endpoint
        self._address: str | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Begin, or abort what is not admitted."""
        address = throttled_address(transport.get_extra_info("peername"))
        refusal = self._endpoint.admission.enter(address)
        if refusal is not None:
            log.debug("connection from %s refused: %s", address, refusal.value)
            assert isinstance(transport, asyncio.Transport)  # noqa: S101 - TCP has no other
            transport.abort()
            return
        self._endpoint.admission.end_handshake(address)
        self._address = address
        self._endpoint.opened(self)
        super().connection_made(transport)

    def connection_lost(self, exc: BaseException | None) -> None:
        """Count it out, if it was ever in."""
        if self._address is None:
            return
        self._endpoint.admission.leave(self._address)
        self._endpoint.ended(self)
        super().connection_lost(exc)


class PlainListener:
    """A plain HTTP server that is listening."""

    def __init__(self, endpoint: PlainEndpoint, servers: Sequence[asyncio.Server]) -> None:
        self._endpoint = endpoint
        self._servers = servers
        self.addresses: list[Any] = [each.getsockname() for server in servers for each in server.sockets]

    @property
    def admission(self) -> Admission:
        """The counts of connections and refusals."""
        return self._endpoint.admission

    async def close(self, *, grace_seconds: float) -> None:
        """Stop accepting, let running requests finish for `grace_seconds`, then cut what is left."""
        await accept_what_waits()
        for server in self._servers:
            server.close()
        for connection in tuple(self._endpoint.connections):
            connection.finish()
        try:
            async with asyncio.timeout(grace_seconds):
                await self._endpoint.is_idle.wait()
        except TimeoutError:
            late = tuple(self._endpoint.connections)
            log.warning("%d requests did not finish in %g s and are cut", len(late), grace_seconds)
            await asyncio.gather(*(each.shutdown(_CANCEL_SECONDS) for each in late))
        for server in self._servers:
            await server.wait_closed()


async def serve_http(
    application: web.BaseRunner, sockets: Sequence[socket.socket], *, limits: ListenerLimits
) -> PlainListener:
    """Serve `application`, which is set up, on `sockets`, which are listening; the listener owns and closes them."""
    server = application.server
    if server is None:
        raise RuntimeError("the runner is not set up")
    for each in sockets:  # from which each connection takes it
        each.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, int(limits.stall_seconds * 1_000))
    endpoint = PlainEndpoint(server, limits)
    loop = asyncio.get_running_loop()
    return PlainListener(endpoint, [await loop.create_server(endpoint, sock=each) for each in sockets])

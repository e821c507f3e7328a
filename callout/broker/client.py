"""nats-py's client for connections that are kept: it goes on after whatever fails, and says so sparingly.

A connection whose upgrade to TLS failed is closed by asyncio, and the plain stream as which it began is never told:
nats-py waits for that stream's end for ever, in its first connection and in `close()` (nats.py issues 382 and 718, seen
in 2.16.0 under asyncio and uvloop alike). So one server that ends at the wrong moment would keep a worker from ever
joining it, or from ending. Here a failed handshake leaves no stream to wait for.

Before Python 3.12 `asyncio.wait_for` loses a cancellation that comes together with the outcome that it waits for, and
nats-py would go on connecting: here a task of its is cancelled until it has ended.
"""

import asyncio
import logging
import time
from ssl import SSLContext
from urllib.parse import ParseResult

from nats.aio.client import Client, Srv
from nats.aio.transport import TcpTransport

_REPEATED_SECONDS = 60.0
_CANCELLED_AGAIN_SECONDS = 0.1


class SparingLog:
    """Says the same warning once a minute: a server that is away is called several times a second."""

    def __init__(self, log: logging.Logger) -> None:
        self._log = log
        self._said: dict[str, float] = {}

    def warning(self, message: str) -> None:
        """Log it, unless it was logged less than a minute ago."""
        now = time.monotonic()
        self._said = {each: since for each, since in self._said.items() if now - since < _REPEATED_SECONDS}
        if message not in self._said:
            self._said[message] = now
            self._log.warning("%s", message)

    def forget(self) -> None:
        """What failed works again: whatever fails from now on is new."""
        self._said.clear()


class LastingClient(Client):
    """The client for connections that are kept for as long as a process lives."""

    async def close(self) -> None:
        """Close the connection, or the search for one."""
        reconnecting = self._reconnection_task
        if reconnecting is not None and reconnecting is not asyncio.current_task():
            await give_up(reconnecting)
        if not self.is_connected:  # there is nobody to send it to, and the library would try
            self._pending, self._pending_data_size = [], 0
        await super().close()

    async def _connect_to_server(self, s: Srv) -> None:
        if not self._transport and s.uri.scheme not in {"ws", "wss"}:
            self._transport = _Transport()
        await super()._connect_to_server(s)


async def give_up(connecting: asyncio.Task[None]) -> None:
    """Cancel a task until it has ended, with whatever outcome."""
    while not connecting.done():
        connecting.cancel()
        await asyncio.wait([connecting], timeout=_CANCELLED_AGAIN_SECONDS)


class _Transport(TcpTransport):
    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]  # the library's is
        self._is_usable = True

    def __bool__(self) -> bool:
        """Tell the library that it need not make one of its own."""
        return self._is_usable

    async def connect_tls(
        self, uri: str | ParseResult, ssl_context: SSLContext, buffer_size: int, connect_timeout: int
    ) -> None:
        try:
            await super().connect_tls(uri, ssl_context, buffer_size, connect_timeout)
        except BaseException:
            self._io_reader = self._io_writer = None
            self._is_usable = False
            raise

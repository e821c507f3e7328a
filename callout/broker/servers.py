"""The servers that we are joined to: one connection to each, kept for as long as it is wanted.

1. Each server has its own connection, in the callout's account to answer and in the system account to watch. A server
   must be answered although the way between servers is down, and although other servers are not there: each is joined
   for itself, as soon as it can be reached.
2. A server that goes away or reloads is called again at once, several times a second, for ever.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from dataclasses import dataclass, field
from ssl import SSLContext
from typing import Any

from nats.aio.client import Client
from nats.errors import Error as NatsError

from callout.broker.client import LastingClient, SparingLog, give_up

_RECONNECT_SECONDS = 0.1
_OTHER_SERVERS_SECONDS = 0.5

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Endpoint:
    """A server, and a static user of ours in it."""

    url: str
    user: str
    password: str = field(repr=False)
    tls: SSLContext | None = None


class Tasks:
    """Tasks that were begun and must not be lost."""

    def __init__(self) -> None:
        self._running: set[asyncio.Task[None]] = set()

    def begin(self, work: Coroutine[Any, Any, None]) -> None:
        """Begin one."""
        task = asyncio.create_task(work)
        self._running.add(task)
        task.add_done_callback(self._running.discard)

    async def finish(self) -> None:
        """Wait until all are done."""
        if self._running:
            await asyncio.wait(self._running)


class Servers:
    """One connection to each server, each made as soon as that server is there (rules 1 and 2).

    Args:
        joined: Awaited with each connection when it is made; those that were lost come back by themselves.
        reconnected: Called when one of them is back.
    """

    def __init__(
        self,
        endpoints: Sequence[Endpoint],
        joined: Callable[[Client], Awaitable[None]],
        reconnected: Callable[[], None] = lambda: None,
    ) -> None:
        self._endpoints = endpoints
        self._joined = joined
        self._reconnected = reconnected
        self._joining: list[asyncio.Task[None]] = []
        self._clients: list[Client] = []

    @property
    def connected(self) -> list[Client]:
        """The connections that are there now."""
        return [client for client in self._clients if client.is_connected]

    async def join(self) -> None:
        """Begin to join all; return when the first is joined and the others had a moment, or were joined too."""
        self._joining = [asyncio.create_task(self._join(each)) for each in self._endpoints]
        _, others = await asyncio.wait(self._joining, return_when=asyncio.FIRST_COMPLETED)
        if others:
            await asyncio.wait(others, timeout=_OTHER_SERVERS_SECONDS)

    async def join_no_more(self) -> None:
        """Give up those that are not there yet."""
        await asyncio.gather(*(give_up(task) for task in self._joining))
        self._joining = []

    async def leave(self) -> None:
        """Take leave of all; what was sent is sent."""
        clients, self._clients = self._clients, []
        await asyncio.gather(*(client.drain() if client.is_connected else client.close() for client in clients))

    async def _join(self, endpoint: Endpoint) -> None:
        failures = SparingLog(_log)
        while True:
            client = LastingClient()
            try:
                await _connect(client, endpoint, self._reconnected, failures)
                self._clients.append(client)
                await self._joined(client)
            except asyncio.CancelledError:
                if client not in self._clients:
                    await client.close()
                raise
            except (NatsError, OSError, TimeoutError) as error:
                failures.warning(f"{endpoint.url} cannot be joined yet: {error!r}")
                if client in self._clients:
                    self._clients.remove(client)
                await client.close()
                await asyncio.sleep(_RECONNECT_SECONDS)
            else:
                return


async def _connect(client: Client, endpoint: Endpoint, reconnected: Callable[[], None], failures: SparingLog) -> None:
    """Connect to a server, for ever (rule 2)."""

    async def on_error(error: Exception) -> None:
        failures.warning(f"{endpoint.url}: {error!r}")

    async def on_reconnect() -> None:
        failures.forget()
        _log.info("connected to %s again", endpoint.url)
        reconnected()

    await client.connect(
        endpoint.url,
        user=endpoint.user,
        password=endpoint.password,
        tls=endpoint.tls,
        name="doorward-callout",
        allow_reconnect=True,
        max_reconnect_attempts=-1,
        reconnect_time_wait=_RECONNECT_SECONDS,  # type: ignore[arg-type]  # the library waits any number of seconds
        connect_timeout=2,
        ping_interval=5,
        max_outstanding_pings=2,
        error_cb=on_error,
        reconnected_cb=on_reconnect,
    )

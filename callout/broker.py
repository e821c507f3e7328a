"""The brokers: their questions come in here, and what they hold is seen and cut from here.

1. Each server has its own connection, in the callout's account to answer and in the system account to watch. A server
   must be answered although the way between servers is down, and although other servers are not there: each is joined
   for itself, as soon as it can be reached.
2. Nodes and workers share the questions as one queue group. A question that memory cannot answer is a task of its own:
   the client library calls back one at a time, and one slow answer would hold up all.
3. A server that goes away or reloads is called again at once, several times a second, for ever.
4. Stopping means: take no more questions, answer those that came, then leave.
5. A broker says when a connection appears and when it is gone; a list of all is asked for at the start, after every
   reconnect, and at intervals. Lists are paged; servers that are reached in two ways are asked once.
6. To cut a connection is asked of the server that holds it, over whichever connection reaches it.
"""

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from ssl import SSLContext
from typing import Any

import orjson
from nats.aio.client import Client
from nats.aio.msg import Msg
from nats.aio.subscription import Subscription
from nats.errors import Error as NatsError

from callout.claims import REQUEST_SUBJECT, SERVER_KEY_HEADER
from callout.connections import Connection, Key, read_connection
from callout.reconcile import CurrentAccess, Reconciler
from callout.service import REFUSED, CalloutService
from iam.errors import Kind, Refused
from iam.events import Event
from iam.identifiers import Clock

QUEUE_GROUP = "callout"

_RECONNECT_SECONDS = 0.1
_FIRST_SERVER_SECONDS = 2.0
_OTHER_SERVERS_SECONDS = 0.5
_KICK_SECONDS = 0.5
_SERVERS_ANSWER_WITHIN = 0.3
_PAGE = 1024

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Endpoint:
    """A server, and a static user of ours in it."""

    url: str
    user: str
    password: str = field(repr=False)
    tls: SSLContext | None = None


class Broker:
    """Answers the authorization requests of all servers.

    Args:
        endpoints: One for each server, with a user in the callout's account.
    """

    def __init__(self, endpoints: Sequence[Endpoint], service: CalloutService) -> None:
        self._service = service
        self._servers = _Servers(endpoints, self._joined)
        self._questions: dict[Client, Subscription] = {}
        self._tasks = _Tasks()

    async def start(self) -> None:
        """Begin to answer each server as soon as it is there; return when the first is, and go on with the others."""
        await self._servers.join()

    async def stop(self) -> None:
        """Leave by rule 4; also what has not been joined yet."""
        await self._servers.join_no_more()
        for client, subscription in self._questions.items():
            if client.is_connected:
                await subscription.drain()  # type: ignore[no-untyped-call]  # the library annotates the rest
        await self._tasks.finish()
        self._questions = {}
        await self._servers.leave()

    async def _joined(self, client: Client) -> None:
        self._questions[client] = await client.subscribe(REQUEST_SUBJECT, queue=QUEUE_GROUP, cb=self._asked)
        await client.flush()

    async def _asked(self, message: Msg) -> None:
        server_key = (message.headers or {}).get(SERVER_KEY_HEADER, "")
        answer = self._service.answer(message.data, server_key) if server_key else REFUSED
        if isinstance(answer, bytes):
            await _respond(message, answer)
        else:
            self._tasks.begin(_respond_later(message, answer))


class Watch:
    """Sees the connections of all servers, and cuts those that have lost their right.

    Args:
        endpoints: One for each server, with a user in the system account.
        current_access: What an identity may do now.
        account: The account that clients are in.
        sweep_seconds: Between two looks at everything.
    """

    def __init__(
        self,
        endpoints: Sequence[Endpoint],
        current_access: CurrentAccess,
        clock: Clock,
        *,
        account: str = "APP",
        sweep_seconds: float = 30,
    ) -> None:
        self._clock = clock
        self._account = account
        self._sweep_seconds = sweep_seconds
        self._tasks = _Tasks()
        self._sweep_now = asyncio.Event()
        self._servers = _Servers(endpoints, self._joined, reconnected=self._sweep_now.set)
        self._sweeping: asyncio.Task[None] | None = None
        self.reconciler = Reconciler(self._kick, current_access, clock)

    async def start(self) -> None:
        """Join the servers, look at what is there, and begin to watch; each server that comes later is looked at then.

        Returns soon also while no server is there: whoever keeps the watch can give it back.
        """
        with suppress(TimeoutError):
            async with asyncio.timeout(_FIRST_SERVER_SECONDS):
                await self._servers.join()
        try:
            await self.sweep()
        except Refused as refusal:
            _log.warning("%s", refusal.reason)
            self._sweep_now.set()
        self._sweeping = asyncio.create_task(self._sweep_at_intervals())

    async def stop(self) -> None:
        """Stop watching; what was begun is finished."""
        if self._sweeping is not None:
            self._sweeping.cancel()
            await asyncio.wait([self._sweeping])
        await self._servers.join_no_more()
        await self._tasks.finish()
        await self._servers.leave()

    async def heard(self, event: Event) -> None:
        """Act on an event, once the directory has taken it in."""
        await self.reconciler.heard(event)

    async def sweep(self) -> None:
        """Ask for all connections and look at each; raise `Refused` (unavailable) if the servers do not answer."""
        asked = self._clock()
        try:
            listed = await self._listed()
        except (NatsError, TimeoutError) as error:
            raise Refused(Kind.UNAVAILABLE, "The brokers do not answer.", reason=f"no sweep: {error!r}") from error
        await self.reconciler.sweep(listed, asked)

    async def _sweep_at_intervals(self) -> None:
        while True:
            try:
                async with asyncio.timeout(self._sweep_seconds):
                    await self._sweep_now.wait()
            except TimeoutError:
                pass
            self._sweep_now.clear()
            try:
                await self.sweep()
            except Refused as refusal:
                _log.warning("%s", refusal.reason)
            except Exception:  # noqa: BLE001 - whatever it was, the next sweep may mend it
                _log.exception("a sweep was not finished")

    async def _joined(self, client: Client) -> None:
        await client.subscribe(f"$SYS.ACCOUNT.{self._account}.*", cb=self._noticed)
        await client.flush()
        self._sweep_now.set()

    async def _noticed(self, message: Msg) -> None:
        event = _object(message.data)
        client, server = event.get("client", {}), event.get("server", {})
        if message.subject.endswith(".DISCONNECT"):
            self.reconciler.disappeared((server.get("id", ""), client.get("id", 0)))
            return
        if not message.subject.endswith(".CONNECT"):
            return
        connection = read_connection(server.get("id", ""), client.get("id"), client.get("user"), client.get("start"))
        work = self.reconciler.appeared(connection) if connection is not None else None
        if work is not None:
            self._tasks.begin(work)

    async def _listed(self) -> dict[str, list[Connection]]:
        """Return the connections of every server that answers, by server (rule 5); TimeoutError if none does."""
        listed: dict[str, list[Connection]] = {}
        clients = self._servers.connected
        answers = await asyncio.gather(*(self._ask_all(client, self._page(0)) for client in clients))
        for client, pages in zip(clients, answers, strict=True):
            for first in pages:
                server = first.get("server_id", "")
                if server not in listed:
                    listed[server] = [
                        connection
                        async for each in self._pages(client, server, first)
                        if (connection := _connection(server, each)) is not None
                    ]
        if not listed:
            raise TimeoutError("no server answers")
        return listed

    async def _pages(self, client: Client, server: str, page: dict[str, Any]) -> AsyncIterator[dict[str, Any]]:
        """Give the entries of a server's list, of which `page` is the first page."""
        offset = 0
        while entries := page.get("connections"):
            for entry in entries:
                yield entry
            offset += len(entries)
            if len(entries) < _PAGE:
                return
            reply = await client.request(f"$SYS.REQ.SERVER.{server}.CONNZ", self._page(offset), timeout=2)
            page = _object(reply.data).get("data", {})

    def _page(self, offset: int) -> bytes:
        return orjson.dumps({"auth": True, "acc": self._account, "offset": offset, "limit": _PAGE})

    async def _ask_all(self, client: Client, question: bytes) -> list[dict[str, Any]]:
        """Return the first pages of all servers that are reached over one connection."""
        inbox = client.new_inbox()
        subscription = await client.subscribe(inbox)
        answers = []
        try:
            await client.publish("$SYS.REQ.SERVER.PING.CONNZ", question, reply=inbox)
            async with asyncio.timeout(_SERVERS_ANSWER_WITHIN):
                while True:
                    answers.append(_object((await subscription.next_msg(timeout=None)).data).get("data", {}))
        except TimeoutError:
            return answers
        finally:
            await subscription.unsubscribe()

    async def _kick(self, key: Key) -> bool:
        """Cut a connection (rule 6); tell whether its server said that it did."""
        server, number = key
        for client in self._servers.connected:
            try:
                await client.request(
                    f"$SYS.REQ.SERVER.{server}.KICK", orjson.dumps({"cid": number}), timeout=_KICK_SECONDS
                )
            except (NatsError, TimeoutError) as error:
                _log.debug("server %s is not reached this way: %r", server, error)
            else:
                return True
        return False


async def _respond(message: Msg, answer: bytes) -> None:
    try:
        await message.respond(answer)
    except NatsError as error:
        _log.warning("an answer was lost: %s", error)


async def _respond_later(message: Msg, answer: Coroutine[Any, Any, bytes]) -> None:
    await _respond(message, await answer)


class _Tasks:
    """Tasks that were begun and must not be lost."""

    def __init__(self) -> None:
        self._running: set[asyncio.Task[None]] = set()

    def begin(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work)
        self._running.add(task)
        task.add_done_callback(self._running.discard)

    async def finish(self) -> None:
        if self._running:
            await asyncio.wait(self._running)


class _Servers:
    """One connection to each server, each made as soon as that server is there (rules 1 and 3).

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
        for task in self._joining:
            task.cancel()
        await asyncio.gather(*self._joining, return_exceptions=True)
        self._joining = []

    async def leave(self) -> None:
        """Take leave of all; what was sent is sent."""
        clients, self._clients = self._clients, []
        await asyncio.gather(*(client.drain() if client.is_connected else client.close() for client in clients))

    async def _join(self, endpoint: Endpoint) -> None:
        while True:
            client = Client()
            try:
                await _connect(client, endpoint, self._reconnected)
                self._clients.append(client)
                await self._joined(client)
            except asyncio.CancelledError:
                if client not in self._clients:
                    await client.close()
                raise
            except (NatsError, OSError, TimeoutError) as error:
                _log.warning("%s cannot be joined yet: %r", endpoint.url, error)
                if client in self._clients:
                    self._clients.remove(client)
                await client.close()
                await asyncio.sleep(_RECONNECT_SECONDS)
            else:
                return


async def _connect(client: Client, endpoint: Endpoint, reconnected: Callable[[], None]) -> None:
    """Connect to a server, for ever (rule 3)."""

    async def on_error(error: Exception) -> None:
        _log.warning("%s: %r", endpoint.url, error)

    async def on_reconnect() -> None:
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


def _connection(server: str, entry: dict[str, Any]) -> Connection | None:
    return read_connection(server, entry.get("cid"), entry.get("authorized_user"), entry.get("start"))


def _object(text: bytes) -> dict[str, Any]:
    try:
        value = orjson.loads(text)
    except orjson.JSONDecodeError:
        return {}
    return value if isinstance(value, dict) else {}

"""What the brokers hold is seen and cut from here.

1. A broker says when a connection appears and when it is gone; a list of all is asked for at the start, after every
   reconnect, and at intervals. Lists are paged, and whoever goes meanwhile moves all that come after him forward: so
   each page begins within the one before, and nobody is passed over. Servers that are reached in two ways are asked
   once.
2. A list that a server which is joined did not give whole and in time is asked for again soon: what it holds is not
   known until then, and nobody could cut it. What other servers hold is looked at all the same.
3. To cut a connection is asked of the server that holds it, over whichever connection reaches it.
"""

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import suppress
from typing import Any

import orjson
from nats.aio.client import Client
from nats.aio.msg import Msg
from nats.errors import Error as NatsError

from callout.broker.servers import Endpoint, Servers, Tasks
from callout.connections import Connection, Key, read_connection
from callout.reconcile import CurrentAccess, EndedProofs, Reconciler
from iam.directory import Monotonic
from iam.errors import Kind, Refused
from iam.events import Event

_FIRST_SERVER_SECONDS = 2.0
_KICK_SECONDS = 0.5
_OWN_SERVER_SECONDS = 2.0
_OTHER_SERVERS_SECONDS = 0.3
_SWEEP_AGAIN_SECONDS = 1.0
_PAGE = 1024
_OVERLAP = 8
"""Which part of a page the next one shows again."""

_log = logging.getLogger(__name__)


class Watch:
    """Sees the connections of all servers, and cuts those that have lost their right.

    Args:
        endpoints: One for each server, with a user in the system account.
        current_access: What an identity may do now.
        ended_proofs: Which of the things that somebody was let in by hold no more.
        account: The account that clients are in.
        sweep_seconds: Between two looks at everything.
    """

    def __init__(
        self,
        endpoints: Sequence[Endpoint],
        current_access: CurrentAccess,
        ended_proofs: EndedProofs,
        *,
        account: str = "APP",
        sweep_seconds: float = 30,
        monotonic: Monotonic = time.monotonic,
    ) -> None:
        self._monotonic = monotonic
        self._account = account
        self._sweep_seconds = sweep_seconds
        self._tasks = Tasks()
        self._sweep_now = asyncio.Event()
        self._servers = Servers(endpoints, self._joined, reconnected=self._sweep_now.set)
        self._sweeping: asyncio.Task[None] | None = None
        self.reconciler = Reconciler(self._kick, current_access, ended_proofs, monotonic=monotonic)

    async def start(self) -> None:
        """Join the servers, look at what is there, and begin to watch; each server that comes later is looked at then.

        Returns soon also while no server is there: whoever keeps the watch can give it back.
        """
        self.reconciler.mistrust()
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
        await self.reconciler.finish()
        await self._servers.leave()

    async def heard(self, *events: Event) -> None:
        """Act on events, once the directory has taken them in."""
        await self.reconciler.heard(*events)

    async def sweep(self) -> None:
        """Ask for all connections and look at each.

        Raises:
            Refused: (unavailable) The servers, or one that is joined, did not answer; what was learned is acted on.
        """
        asked = self._monotonic()
        try:
            listed, silent = await self._listed()
        except (NatsError, TimeoutError) as error:
            raise Refused(Kind.UNAVAILABLE, "The brokers do not answer.", reason=f"no sweep: {error!r}") from error
        await self.reconciler.sweep(listed, asked)
        if silent:
            raise Refused(Kind.UNAVAILABLE, "A broker does not answer.", reason=f"no list of {', '.join(silent)}")

    async def _sweep_at_intervals(self) -> None:
        seconds = self._sweep_seconds
        while True:
            with suppress(TimeoutError):
                async with asyncio.timeout(seconds):
                    await self._sweep_now.wait()
            self._sweep_now.clear()
            seconds = min(_SWEEP_AGAIN_SECONDS, self._sweep_seconds)
            try:
                await self.sweep()
            except Refused as refusal:
                _log.warning("%s", refusal.reason)
            except Exception:  # noqa: BLE001 - whatever it was, the next sweep may mend it
                _log.exception("a sweep was not finished")
            else:
                seconds = self._sweep_seconds

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
        connection = read_connection(
            server.get("id", ""),
            client.get("id"),
            client.get("user"),
            client.get("start"),
            event.get("timestamp"),
            self._monotonic(),
        )
        work = self.reconciler.appeared(connection) if connection is not None else None
        if work is not None:
            self._tasks.begin(work)

    async def _listed(self) -> tuple[dict[str, list[Connection]], list[str]]:
        """Return the connections of every server that answers, by server, and which of those joined do not (rule 2).

        Raises TimeoutError if none does.
        """
        listed: dict[str, list[Connection]] = {}
        clients = self._servers.connected
        own = await asyncio.gather(*(_server_of(client) for client in clients))
        answers = await asyncio.gather(*(self._ask_all(*each) for each in zip(clients, own, strict=True)))
        for client, pages in zip(clients, answers, strict=True):
            for first in pages:
                server = first.get("server_id", "")
                if server in listed:
                    continue
                try:
                    listed[server] = [
                        connection
                        async for each, told in self._pages(client, server, first)
                        if (connection := self._connection(server, each, told)) is not None
                    ]
                except (NatsError, TimeoutError) as error:  # it is as good as silent, and takes nothing from others
                    _log.warning("the list of server %s was not finished: %r", server, error)
        if not listed:
            raise TimeoutError("no server answers")
        return listed, [_address(client) for client, one in zip(clients, own, strict=True) if one not in listed]

    async def _pages(
        self, client: Client, server: str, page: dict[str, Any]
    ) -> AsyncIterator[tuple[dict[str, Any], object]]:
        """Give the entries of a server's list, of which `page` is the first, and what its clock showed at each."""
        offset, last = 0, -1  # entries stand in the order of their numbers
        while True:
            entries = page.get("connections") or []
            if offset == 0 or (entries and entries[0]["cid"] <= last):
                for entry in entries:
                    if entry["cid"] > last:
                        yield entry, page.get("now")
                if len(entries) < _PAGE:
                    return
                last = max(last, entries[-1]["cid"])
                offset += len(entries) - max(1, _PAGE // _OVERLAP)
            else:  # more are gone than pages overlap by
                offset = max(0, offset - _PAGE)
            reply = await client.request(f"$SYS.REQ.SERVER.{server}.CONNZ", self._page(offset), timeout=2)
            page = _object(reply.data).get("data", {})

    def _page(self, offset: int) -> bytes:
        return orjson.dumps({"auth": True, "acc": self._account, "sort": "cid", "offset": offset, "limit": _PAGE})

    def _connection(self, server: str, entry: dict[str, Any], told: object) -> Connection | None:
        name, accepted = entry.get("authorized_user"), entry.get("start")
        return read_connection(server, entry.get("cid"), name, accepted, told, self._monotonic())

    async def _ask_all(self, client: Client, own: str | None) -> list[dict[str, Any]]:
        """Return the first pages of all servers that are reached over one connection.

        How many those are nobody knows: all have a moment, and the one at the other end, `own`, some seconds.
        """
        inbox = client.new_inbox()
        subscription = await client.subscribe(inbox)
        answers: list[dict[str, Any]] = []
        asked, missing = self._monotonic(), own
        try:
            await client.publish("$SYS.REQ.SERVER.PING.CONNZ", self._page(0), reply=inbox)
            while True:
                ends = asked + (_OTHER_SERVERS_SECONDS if missing is None else _OWN_SERVER_SECONDS)
                message = await subscription.next_msg(timeout=max(0.001, ends - self._monotonic()))
                answers.append(_object(message.data).get("data", {}))
                if answers[-1].get("server_id") == own:
                    missing = None
        except TimeoutError:
            return answers
        finally:
            await subscription.unsubscribe()

    async def _kick(self, key: Key) -> bool:
        """Cut a connection (rule 3); tell whether its server said that it did."""
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


async def _server_of(client: Client) -> str | None:
    """Return the id of the server at the other end; None if it does not say."""
    try:
        reply = await client.request("$SYS.REQ.USER.INFO", b"", timeout=_OWN_SERVER_SECONDS)
    except (NatsError, TimeoutError):
        return None
    server = _object(reply.data).get("server", {}).get("id")
    return server if isinstance(server, str) else None


def _address(client: Client) -> str:
    return client.connected_url.netloc if client.connected_url is not None else "a server that has just gone"


def _object(text: bytes) -> dict[str, Any]:
    try:
        value = orjson.loads(text)
    except orjson.JSONDecodeError:
        return {}
    return value if isinstance(value, dict) else {}

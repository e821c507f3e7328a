"""The brokers' questions come in here.

1. Nodes and workers share the questions as one queue group. A question that memory cannot answer is a task of its own:
   the client library calls back one at a time, and one slow answer would hold up all.
2. Stopping means: take no more questions, answer those that came, then leave.
"""

import logging
from collections.abc import Coroutine, Sequence
from typing import Any

from nats.aio.client import Client
from nats.aio.msg import Msg
from nats.aio.subscription import Subscription
from nats.errors import Error as NatsError

from callout.broker.servers import Endpoint, Servers, Tasks
from callout.claims import REQUEST_SUBJECT, SERVER_KEY_HEADER
from callout.service import REFUSED, CalloutService

QUEUE_GROUP = "callout"

_log = logging.getLogger(__name__)


class Broker:
    """Answers the authorization requests of all servers.

    Args:
        endpoints: One for each server, with a user in the callout's account.
    """

    def __init__(self, endpoints: Sequence[Endpoint], service: CalloutService) -> None:
        self._service = service
        self._servers = Servers(endpoints, self._joined)
        self._questions: dict[Client, Subscription] = {}
        self._tasks = Tasks()

    async def start(self) -> None:
        """Begin to answer each server as soon as it is there; return when the first is, and go on with the others."""
        await self._servers.join()

    async def stop(self) -> None:
        """Leave by rule 2; also what has not been joined yet."""
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


async def _respond(message: Msg, answer: bytes) -> None:
    try:
        await message.respond(answer)
    except NatsError as error:
        _log.warning("an answer was lost: %s", error)


async def _respond_later(message: Msg, answer: Coroutine[Any, Any, bytes]) -> None:
    await _respond(message, await answer)

"""Our own events over NATS: heard by every worker, published by the relay.

The rules:

1. Every event goes into the stream, for the rest of the platform. What nodes act on (`iam.events.is_for_nodes`) is told
   to the workers besides, on a subject of its own: most events are not of that kind.
2. The feed is healthy while the relay's heartbeat is not older than `HEARTBEAT_LIMIT`. The relay beats after it has
   published everything that was committed and that nodes act on; so a healthy feed means that nothing
   older of that kind is missing.
3. Whoever listens is told of a gap, since events may have been missed in it: at a reconnection, after a late
   heartbeat, when the client had to drop messages.
4. With NATS gone everything else works on; the bus comes back by itself.
"""

import asyncio
import logging
import re
import ssl
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import timedelta

import nats
from nats.aio.msg import Msg
from nats.errors import Error as NatsError
from nats.js import JetStreamContext
from nats.js.api import PubAck, RetentionPolicy, StorageType, StreamConfig

from callout.broker.client import LastingClient, SparingLog, give_up
from iam.errors import Kind, Refused
from iam.events import EVENT_SUBJECTS, MEDIA_TYPE, Event, decode_event, encode_event

STREAM = "EVENTS"
URGENT = "doorward.urgent"
HEARTBEAT = "doorward.heartbeat"
WAKE = "doorward.wake"
HEARTBEAT_LIMIT = timedelta(seconds=3)
_KEPT = timedelta(days=7)
_PUBLISH_SECONDS = 2.0
_RECONNECT_SECONDS = 1
_PING_SECONDS = 2
_SUBJECT = re.compile(r"[^\s.*>]+(\.[^\s.*>]+)*")

_log = logging.getLogger("doorward.bus")


@dataclass(frozen=True, slots=True)
class NatsAccount:
    """Who one is on a nats-server, and how its certificate is checked."""

    servers: tuple[str, ...]
    user: str
    password: str
    tls: ssl.SSLContext | None

    def __repr__(self) -> str:
        return f"NatsAccount({self.user} at {', '.join(self.servers)})"


class Bus:
    """A connection to the account that carries Doorward's events."""

    def __init__(self, account: NatsAccount, name: str) -> None:
        self._account = account
        self._name = name
        self._client = LastingClient()
        self._failures = SparingLog(_log)
        self._listeners: list[Callable[[Event], None]] = []
        self._gap_listeners: list[Callable[[], None]] = []
        self._wake_listeners: list[Callable[[], None]] = []
        self._heard: float | None = None
        self._connecting: asyncio.Task[None] | None = None
        self._waking: asyncio.Task[bool] | None = None
        self._stream: JetStreamContext | None = None

    def on_event(self, listener: Callable[[Event], None]) -> None:
        """Call `listener` with every event of every node that nodes act on."""
        self._listeners.append(listener)

    def on_gap(self, listener: Callable[[], None]) -> None:
        """Call `listener` whenever events may have been missed."""
        self._gap_listeners.append(listener)

    def on_wake(self, listener: Callable[[], None]) -> None:
        """Call `listener` when somebody has committed something that should be relayed now."""
        self._wake_listeners.append(listener)

    def start(self) -> None:
        """Connect, and stay connected, in the background: a node serves REST also while NATS is down."""
        self._connecting = asyncio.create_task(self._connect())

    async def stop(self) -> None:
        """Say goodbye."""
        if self._connecting is None:
            return
        await give_up(self._connecting)
        if self._client.is_connected:
            await self._client.drain()
        elif not self._connecting.cancelled():
            await self._client.close()

    @property
    def is_connected(self) -> bool:
        """Whether there is a connection now."""
        return self._client.is_connected

    def feed_is_healthy(self) -> bool:
        """Tell whether every change of access that was committed until a moment ago has been heard (rule 2)."""
        if self._heard is None or not self._client.is_connected:
            return False
        return time.monotonic() - self._heard < HEARTBEAT_LIMIT.total_seconds()

    def wake_relay(self) -> None:
        """Tell the relay, wherever it runs, that there is something to publish; many calls at once are one message."""
        if self._waking is None or self._waking.done():
            self._waking = asyncio.get_running_loop().create_task(self._publish(WAKE, b""))

    async def beat(self) -> None:
        """Tell everybody that all that was committed and that nodes act on is published."""
        await self._publish(HEARTBEAT, b"")

    async def tell(self, event: Event) -> None:
        """Tell every worker of an event that nodes act on; raise `Refused` (unavailable) if that cannot be said now."""
        if not await self._publish(URGENT, encode_event(event)):
            raise Refused(Kind.UNAVAILABLE, "NATS is not reachable.", reason=f"{event.kind} could not be told")

    async def store(self, events: Sequence[Event]) -> list[Event]:
        """Publish events into the stream and return those that NATS stored in time; a repetition is stored once.

        Those that are missing may be published again.

        Raises:
            Refused: (unavailable) NATS is not reachable, or does not keep our stream.
        """
        try:
            if self._stream is None:
                stream = self._client.jetstream()
                await stream.add_stream(_STREAM_CONFIGURATION)
                self._stream = stream
            waiting = {await self._begin(self._stream, event): event for event in events if _can_be_stored(event)}
            if waiting:
                await asyncio.wait(waiting, timeout=_PUBLISH_SECONDS)
        except (NatsError, OSError, TimeoutError) as error:
            self._stream = None
            raise Refused(Kind.UNAVAILABLE, "NATS is not reachable.", reason=f"publishing: {error!r}") from error
        stored = [event for answer, event in waiting.items() if _is_stored(answer)]
        if len(stored) < len(events):
            self._stream = None  # it may have been deleted, and is then made anew
        return stored

    async def _begin(self, stream: JetStreamContext, event: Event) -> "asyncio.Future[PubAck]":
        headers = {"Nats-Msg-Id": str(event.id), "content-type": MEDIA_TYPE}
        return await stream.publish_async(
            event.channel, encode_event(event), headers=headers, wait_stall=_PUBLISH_SECONDS
        )

    async def _publish(self, subject: str, payload: bytes) -> bool:
        """Publish if that is possible now, and tell whether it was."""
        if not self._client.is_connected:
            return False
        try:
            await self._client.publish(subject, payload)
        except (NatsError, OSError) as error:
            _log.debug("nothing published on %s: %r", subject, error)
            return False
        return True

    async def _connect(self) -> None:
        while True:
            try:
                await self._client.connect(
                    list(self._account.servers),
                    user=self._account.user,
                    password=self._account.password,
                    tls=self._account.tls,
                    name=self._name,
                    allow_reconnect=True,
                    max_reconnect_attempts=-1,
                    reconnect_time_wait=_RECONNECT_SECONDS,
                    ping_interval=_PING_SECONDS,
                    connect_timeout=2,
                    error_cb=self._on_error,
                    reconnected_cb=self._on_reconnected,
                    pending_size=8 * 1024 * 1024,
                )
                await self._client.subscribe(URGENT, cb=self._on_event_message)
                await self._client.subscribe(HEARTBEAT, cb=self._on_heartbeat)
                await self._client.subscribe(WAKE, cb=self._on_wake_message)
            except asyncio.CancelledError:
                await self._client.close()
                raise
            except (NatsError, OSError, TimeoutError) as error:
                self._failures.warning(f"NATS is not reachable yet: {error!r}")
                await asyncio.sleep(1.0)
            else:
                return

    async def _on_event_message(self, message: Msg) -> None:
        try:
            event = decode_event(message.data)
        except Refused as error:
            _log.warning("an event on %s cannot be read: %s", message.subject, error.reason)
            self._tell_gap()
            return
        for listener in self._listeners:
            listener(event)

    async def _on_heartbeat(self, _message: Msg) -> None:
        was_healthy = self.feed_is_healthy()
        self._heard = time.monotonic()
        if not was_healthy:
            self._tell_gap()

    async def _on_wake_message(self, _message: Msg) -> None:
        for listener in self._wake_listeners:
            listener()

    async def _on_reconnected(self) -> None:
        self._failures.forget()
        self._heard = None
        self._tell_gap()

    async def _on_error(self, error: Exception) -> None:
        self._failures.warning(f"NATS: {error!r}")
        if isinstance(error, nats.errors.SlowConsumerError):
            self._tell_gap()

    def _tell_gap(self) -> None:
        for listener in self._gap_listeners:
            listener()


def _can_be_stored(event: Event) -> bool:
    """Tell whether NATS takes the subject: the client counts a publication that it refuses itself as under way."""
    if _SUBJECT.fullmatch(event.channel):
        return True
    _log.error("an event of the kind %r cannot be published", event.kind)
    return False


def _is_stored(answer: "asyncio.Future[PubAck]") -> bool:
    if not answer.done():
        answer.cancel()
        return False
    failure = answer.exception()
    if failure is not None:
        _log.warning("an event was not stored: %r", failure)
    return failure is None


_STREAM_CONFIGURATION = StreamConfig(
    name=STREAM,
    subjects=[EVENT_SUBJECTS],
    retention=RetentionPolicy.LIMITS,
    storage=StorageType.FILE,
    max_age=_KEPT.total_seconds(),
    duplicate_window=120,
)

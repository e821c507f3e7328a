"""TLS on asyncio: a TCP connection made into an `asyncio.Transport` for the protocol inside it.

Rules enforced here:

- A connection that is not admitted (`doorward.admission`) is aborted before any TLS work is done for it.
- A handshake has a deadline. The protocol inside is made when it is over, and never sees one that fails.
- Back pressure reaches through both ways: the water marks of TCP pause the protocol inside, and what the protocol
  inside does not read is not read from the peer either.
- A peer that takes nothing of what is written to it for `stall_seconds` is cut.
- Closing flushes, says close_notify, ends the sending half and waits for the peer's end, so that no reset overtakes
  the last answer; all of that for `close_seconds` at most.
- The peer's close_notify is an end of file for the protocol inside, which may still answer. The end of TCP without
  it is `Truncated`, never an end of file.
"""

import asyncio
import logging
from collections.abc import Callable, Iterable
from enum import Enum, auto
from typing import Any, cast

from doorward.admission import Admission, throttled_address
from doorward.tls import BytesLike, ServerSession, ServerTLS, TLSFailure

log = logging.getLogger("doorward.tls")

_READ_BYTES = 65_536
_UNREAD_REPLY_BYTES = 16_384  # of TLS's own making, such as answers to key updates


class Truncated(ConnectionResetError):
    """TCP ended without close_notify: what arrived may be less than what the peer sent."""


class Phase(Enum):
    """Where a connection stands."""

    HANDSHAKE = auto()
    OPEN = auto()
    CLOSING = auto()
    LOST = auto()


class TLSEndpoint:
    """What the connections of one listener share; called, it makes the protocol for the next one."""

    def __init__(
        self,
        tls: ServerTLS,
        make_protocol: Callable[[], asyncio.Protocol],
        admission: Admission,
        *,
        handshake_seconds: float,
        stall_seconds: float,
        close_seconds: float,
    ) -> None:
        self.loop = asyncio.get_running_loop()
        self.tls = tls
        self.make_protocol = make_protocol
        self.admission = admission
        self.handshake_seconds = handshake_seconds
        self.stall_seconds = stall_seconds
        self.close_seconds = close_seconds
        # One buffer for all connections: each empties it before the loop reads the next.
        self.read_buffer = memoryview(bytearray(_READ_BYTES))
        self.connections: set[TLSServerProtocol] = set()
        self.open: set[TLSServerProtocol] = set()
        self.is_idle = asyncio.Event()
        self.is_idle.set()

    def __call__(self) -> "TLSServerProtocol":
        """Make the protocol of a connection that is about to be made."""
        return TLSServerProtocol(self)

    def opened(self, connection: "TLSServerProtocol") -> None:
        """Count a connection in whose inside a protocol lives."""
        self.open.add(connection)
        self.is_idle.clear()

    def ended(self, connection: "TLSServerProtocol") -> None:
        """Count it out again, although TCP may linger."""
        self.open.discard(connection)
        if not self.open:
            self.is_idle.set()


class TLSServerProtocol(asyncio.BufferedProtocol):
    """The TCP side of a connection: drives its `ServerSession` and the protocol inside."""

    __slots__ = (
        "_address",
        "_endpoint",
        "_lost_because",
        "_stall_timer",
        "_taken_bytes",
        "_timer",
        "_unread_reply_bytes",
        "_written_bytes",
        "inner",
        "peer_has_ended",
        "phase",
        "raw",
        "session",
    )

    raw: asyncio.Transport
    session: ServerSession
    inner: asyncio.Protocol | None  # from the end of the handshake to the end of the connection

    def __init__(self, endpoint: TLSEndpoint) -> None:
        self._endpoint = endpoint
        self.phase = Phase.LOST
        self._address = ""
        self.inner = None
        self._lost_because: Exception | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._stall_timer: asyncio.TimerHandle | None = None
        self._unread_reply_bytes = 0
        self._written_bytes = self._taken_bytes = 0
        self.peer_has_ended = False

    # What the loop tells of TCP.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Start the handshake, if the connection is admitted."""
        self.raw = raw = cast("asyncio.Transport", transport)
        endpoint = self._endpoint
        self._address = throttled_address(raw.get_extra_info("peername"))
        refusal = endpoint.admission.enter(self._address)
        if refusal is not None:
            log.debug("connection from %s refused: %s", self._address, refusal.value)
            raw.abort()
            return
        endpoint.connections.add(self)
        self.phase = Phase.HANDSHAKE
        self.session = ServerSession(endpoint.tls.context)
        self._timer = endpoint.loop.call_later(endpoint.handshake_seconds, self._cut, "the handshake took too long")

    def get_buffer(self, sizehint: int) -> memoryview:  # noqa: ARG002 - the loop's hint; the shared buffer has one size
        """Lend the shared buffer to the loop."""
        return self._endpoint.read_buffer

    def buffer_updated(self, nbytes: int) -> None:
        """Decrypt what arrived and hand it on."""
        if self.phase is Phase.CLOSING:
            return  # read only to notice the peer's end
        session = self.session
        try:
            plaintext = session.receive(self._endpoint.read_buffer[:nbytes])
        except TLSFailure as failure:
            self._fail(failure)
            return
        if self.phase is Phase.HANDSHAKE:
            self._continue_handshake()
        else:
            self._send_replies()
        if plaintext and self.inner is not None:
            self.inner.data_received(plaintext)
        if session.peer_has_closed:
            self._end_of_peer()

    def eof_received(self) -> bool:
        """Take the end of TCP: clean after close_notify, `Truncated` before it."""
        self.peer_has_ended = True
        if self.phase is not Phase.OPEN:
            return False
        if self.session.peer_has_closed:
            return True  # the protocol inside is still answering
        self._lost_because = Truncated("the peer ended the connection without close_notify")
        return False

    def connection_lost(self, exc: Exception | None) -> None:
        """Free everything, and tell the protocol inside if it does not know yet."""
        if self.phase is Phase.LOST:
            return  # never admitted
        if self.phase is Phase.HANDSHAKE:
            self._endpoint.admission.end_handshake(self._address)
            log.debug("connection from %s lost during its handshake", self._address)
        self.phase = Phase.LOST
        self._endpoint.admission.leave(self._address)
        self._endpoint.connections.discard(self)
        self._stop_timers()
        self._lose_inner(self._lost_because or exc)

    def pause_writing(self) -> None:
        """Pass the pressure on, and watch that the peer takes something in time."""
        if self.inner is not None:
            self.inner.pause_writing()
        self._watch_for_stall()

    def resume_writing(self) -> None:
        """Pass the relief on."""
        self._unread_reply_bytes = 0
        if self._stall_timer is not None:
            self._stall_timer.cancel()
            self._stall_timer = None
        if self.inner is not None:
            self.inner.resume_writing()

    # What the protocol inside asks for, through its `TLSTransport`.

    def write(self, plaintext: BytesLike) -> None:
        """Encrypt and send; what is written to a connection that is not open is lost, as asyncio has it."""
        if self.phase is not Phase.OPEN or not plaintext:
            return
        try:
            ciphertext = self.session.send(plaintext)
        except TLSFailure as failure:
            self._fail(failure)
        else:
            self._written_bytes += len(ciphertext)
            self.raw.write(ciphertext)

    def close(self) -> None:
        """Flush, say close_notify, and wait for the peer's end, for `close_seconds` at most."""
        if self.phase is Phase.HANDSHAKE:
            self.abort()
        elif self.phase is Phase.OPEN:
            self.session.shut_down()
            self._finish()

    def abort(self) -> None:
        """Cut TCP; what was not sent is lost."""
        self.raw.abort()

    # How a connection goes on and ends.

    def _continue_handshake(self) -> None:
        # TLS 1.3: the tickets go at once, although none can be used: their packet acknowledges the client's Finished,
        # without which a client that heeds Nagle holds its request back until the delayed acknowledgement (40 ms).
        self.raw.write(self.session.take_outgoing())
        if not self.session.is_established:
            return
        self._stop_timers()
        self._endpoint.admission.end_handshake(self._address)
        self.phase = Phase.OPEN
        self.inner = self._endpoint.make_protocol()
        self._endpoint.opened(self)
        self.inner.connection_made(TLSTransport(self))

    def _send_replies(self) -> None:
        replies = self.session.take_outgoing()
        if not replies:
            return
        self._written_bytes += len(replies)
        self.raw.write(replies)
        if self._stall_timer is not None:
            # The peer asks for replies and does not read them: RFC 8446 leaves their number unbounded.
            self._unread_reply_bytes += len(replies)
            if self._unread_reply_bytes > _UNREAD_REPLY_BYTES:
                self._cut("it makes TLS answer and does not read the answers")

    def _end_of_peer(self) -> None:
        if self.phase is Phase.OPEN and self.inner is not None and not self.inner.eof_received():
            self.close()

    def _fail(self, failure: TLSFailure) -> None:
        """End after a fatal alert, ours (which is sent) or the peer's."""
        if self.phase is Phase.HANDSHAKE:
            log.info("TLS handshake with %s failed: %s", self._address, failure)
            self._endpoint.admission.end_handshake(self._address)
        else:
            log.info("TLS with %s failed: %s", self._address, failure)
            self._lost_because = ConnectionAbortedError(f"TLS failed: {failure}")
        self._finish()

    def _finish(self) -> None:
        """Send what waits and end our half; the protocol inside is told as soon as all is sent."""
        self.phase = Phase.CLOSING
        self._stop_timers()
        raw = self.raw
        raw.write(self.session.take_outgoing())
        if self.peer_has_ended or raw.is_closing():
            raw.close()
        else:
            try:
                raw.write_eof()
            except OSError:  # reset already, which the loop has not told yet
                raw.abort()
            else:
                raw.resume_reading()
        loop = self._endpoint.loop
        self._timer = loop.call_later(self._endpoint.close_seconds, raw.abort)
        if not raw.get_write_buffer_size():
            loop.call_soon(self._lose_inner, self._lost_because)

    def _lose_inner(self, because: Exception | None) -> None:
        inner, self.inner = self.inner, None
        if inner is not None:
            self._endpoint.ended(self)
            inner.connection_lost(because)

    def _cut(self, because: str) -> None:
        log.info("connection from %s cut: %s", self._address, because)
        self._lost_because = ConnectionAbortedError(because)
        self.raw.abort()

    def _watch_for_stall(self) -> None:
        self._taken_bytes = self._written_bytes - self.raw.get_write_buffer_size()
        self._stall_timer = self._endpoint.loop.call_later(self._endpoint.stall_seconds, self._check_for_stall)

    def _check_for_stall(self) -> None:
        if self._written_bytes - self.raw.get_write_buffer_size() > self._taken_bytes:
            self._watch_for_stall()
        else:
            self._cut("it takes nothing of what is sent to it")

    def _stop_timers(self) -> None:
        for timer in (self._timer, self._stall_timer):
            if timer is not None:
                timer.cancel()
        self._timer = self._stall_timer = None


_TOLD_BY_TCP = frozenset({"peername", "sockname"})
_TOLD_BY_TLS: dict[str, Callable[[ServerSession], object]] = {
    "peer_chain": ServerSession.peer_chain,
    "channel_binding": ServerSession.channel_binding,
    "tls_version": ServerSession.protocol,
    "cipher": ServerSession.cipher,
    "sslcontext": lambda session: session,  # whatever it is, aiohttp concludes https from it
}


class TLSTransport(asyncio.Transport):
    """What the protocol inside sees of its connection.

    `get_extra_info` knows `peername` and `sockname`; `peer_chain`, a tuple of DER certificates, the client's own first,
    empty if it presented none; `channel_binding`, bytes (see `ServerSession.channel_binding`); `tls_version`; `cipher`;
    and `sslcontext`, which tells that this is TLS. It does not know `socket`: what is under TLS is not to be touched.
    """

    __slots__ = ("_connection",)

    def __init__(self, connection: TLSServerProtocol) -> None:
        super().__init__()
        self._connection = connection

    def get_extra_info(self, name: str, default: Any = None) -> Any:  # noqa: ANN401 - asyncio's own signature
        """Tell what is known about the connection by a name, or `default`."""
        tell = _TOLD_BY_TLS.get(name)
        if tell is not None:
            return tell(self._connection.session)
        return self._connection.raw.get_extra_info(name, default) if name in _TOLD_BY_TCP else default

    def write(self, data: BytesLike) -> None:
        """Send `data`."""
        self._connection.write(data)

    def writelines(self, list_of_data: Iterable[BytesLike]) -> None:
        """Send the pieces as one."""
        self._connection.write(b"".join(list_of_data))

    def close(self) -> None:
        """Close gracefully; `connection_lost` follows."""
        self._connection.close()

    def abort(self) -> None:
        """Close at once."""
        self._connection.abort()

    def is_closing(self) -> bool:
        """Tell whether the connection is closing or closed."""
        return self._connection.phase is not Phase.OPEN or self._connection.raw.is_closing()

    def can_write_eof(self) -> bool:
        """Tell that there is no half close from this side: TLS 1.2 has none (RFC 5246 7.2.1)."""
        return False

    def pause_reading(self) -> None:
        """Read nothing more from the peer."""
        if self._connection.phase is Phase.OPEN:
            self._connection.raw.pause_reading()

    def resume_reading(self) -> None:
        """Read from the peer again."""
        if self._connection.phase is Phase.OPEN:
            self._connection.raw.resume_reading()

    def is_reading(self) -> bool:
        """Tell whether the peer is being read."""
        return self._connection.raw.is_reading()

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        """Set the water marks, in bytes of ciphertext."""
        self._connection.raw.set_write_buffer_limits(high, low)

    def get_write_buffer_limits(self) -> tuple[int, int]:
        """Return the water marks, low and high."""
        return self._connection.raw.get_write_buffer_limits()

    def get_write_buffer_size(self) -> int:
        """Return how much is not sent yet, in bytes of ciphertext."""
        return self._connection.raw.get_write_buffer_size()

    @property
    def _sendfile_compatible(self) -> None:
        """Tell `loop.sendfile` what uvloop tells too; aiohttp then reads a file and writes it."""
        raise NotImplementedError("the kernel cannot encrypt a file")

    def get_protocol(self) -> asyncio.BaseProtocol:
        """Return the protocol inside."""
        return cast("asyncio.BaseProtocol", self._connection.inner)

    def set_protocol(self, protocol: asyncio.BaseProtocol) -> None:
        """Put another protocol inside."""
        self._connection.inner = cast("asyncio.Protocol", protocol)

"""What a connection to a server is, whichever library makes its TLS.

1. TLS 1.2 at least, the chain checked up to a root that was given, the host's name checked (`est.client.trust`). The
   server proves itself before it is shown a certificate or told anything.
2. Nothing is resumed and nothing renegotiated, so that a connection has one handshake.
3. A connection knows what only its two ends know: 32 bytes of the exporter on TLS 1.3 (RFC 9266 2), the first Finished
   message on TLS 1.2, which is the client's (`tls-unique`, RFC 5929 3.1).
4. One deadline holds for all of it, from the first packet to the last: a server that drips does not keep us.
5. The end of TCP without close_notify is not the end of an answer but a broken connection (RFC 8446 6.1).
"""

import io
import socket
import time
from dataclasses import dataclass
from datetime import datetime
from ipaddress import ip_address
from typing import Protocol

from cryptography import x509

EXPORTER_LABEL = b"EXPORTER-Channel-Binding"
EXPORTER_BYTES = 32
RECORD_BYTES = 16_384


class Deadline:
    """The time that one exchange may take."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._ends = time.monotonic() + seconds

    def remaining(self) -> float:
        """Return the seconds that are left; raise `TimeoutError` if there are none."""
        left = self._ends - time.monotonic()
        if left <= 0:
            raise TimeoutError(f"no whole answer within {self._seconds:g} s")
        return left


@dataclass(frozen=True, slots=True)
class Peer:
    """A server, and what it has to prove.

    Attributes:
        roots: Who may vouch for it; nobody in particular if None: what comes must be believed for another reason.
        now: The time at which its chain must be valid.
    """

    host: str
    port: int
    roots: tuple[x509.Certificate, ...] | None
    now: datetime

    def server_name(self) -> str | None:
        """Return the name to ask for (RFC 6066 3); None for an IP address, which is none."""
        try:
            ip_address(self.host)
        except ValueError:
            return self.host.encode("idna").decode("ascii")
        return None


class Connection(io.RawIOBase):
    """A connection on which the handshake is over; read it to its end, write to it, close it.

    Whatever breaks it is an `OSError`; `TimeoutError` when the deadline is over.
    """

    def channel_binding(self) -> bytes:
        """Return what only the two ends of this connection know, by rule 3."""
        raise NotImplementedError

    def protocol(self) -> str:
        """Return the protocol's name: `TLSv1.2` or `TLSv1.3`."""
        raise NotImplementedError

    def sendall(self, data: bytes) -> None:
        """Send all of it."""
        raise NotImplementedError

    def readable(self) -> bool:
        """Say that it can be read."""
        return True


class Identifying(Protocol):
    """How a client shows who it is: it makes the connection, since only it knows where its key is."""

    def connect(self, peer: Peer, deadline: Deadline) -> Connection:
        """Connect to a server that proves itself.

        Raises:
            EstFailure: (untrusted) The server has not proved itself. (unusable) Certificate and key cannot be used.
            OSError: It cannot be reached, or breaks.
        """


class Stream:
    """A TCP connection, each step of which keeps the deadline: to the first of the host's addresses that answers."""

    def __init__(self, host: str, port: int, deadline: Deadline) -> None:
        self._deadline = deadline
        self._socket = _connect(host, port, deadline)

    def recv(self, maximum: int) -> bytes:
        """Return what has come, at least a byte; none at the end."""
        self._socket.settimeout(self._deadline.remaining())
        try:
            return self._socket.recv(maximum)
        except TimeoutError:
            self._deadline.remaining()
            raise

    def sendall(self, data: bytes) -> None:
        """Send all of it."""
        self._socket.settimeout(self._deadline.remaining())
        self._socket.sendall(data)

    def send(self, data: bytes) -> int:
        """Send all of it, and return how much that was."""
        self.sendall(data)
        return len(data)

    def close(self) -> None:
        """Close it."""
        self._socket.close()


def _connect(host: str, port: int, deadline: Deadline) -> socket.socket:
    failed: OSError | None = None
    for family, kind, protocol, _, address in socket.getaddrinfo(host, port, type=socket.SOCK_STREAM):
        made = socket.socket(family, kind, protocol)
        try:
            made.settimeout(deadline.remaining())
            made.connect(address)
        except OSError as error:
            made.close()
            failed = error
        else:
            made.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            return made
    raise failed or OSError("the host has no address")

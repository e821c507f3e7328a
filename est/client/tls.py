"""One TLS connection to a server: made on pyOpenSSL, because the standard `ssl` cannot export keying material.

1. TLS 1.2 at least, the chain checked strictly (RFC 5280) up to a root that was given, the host's name checked
   (`est.client.trust`). The server proves itself before it is shown a certificate or told anything.
2. Nothing is resumed and nothing renegotiated, so that a connection has one handshake.
3. A connection knows what only its two ends know: 32 bytes of the exporter on TLS 1.3 (RFC 9266 2), the first Finished
   message on TLS 1.2, which is the client's (`tls-unique`, RFC 5929 3.1).
4. One deadline holds for all of it, from the first packet to the last: a server that drips does not keep us.
5. The end of TCP without close_notify is not the end of an answer but a broken connection (RFC 8446 6.1).
"""

import io
import socket
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from ipaddress import ip_address
from pathlib import Path
from typing import TYPE_CHECKING

from cryptography import x509
from OpenSSL import SSL, crypto

from certs.errors import CertificateRefused
from certs.pem import read_certificates
from est.client.failure import EstFailure, Failure
from est.client.keys import KeyUnusable, read_key
from est.client.trust import is_called

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer

_RECORD_BYTES = 16_384
_TLS12_CIPHERS = b"ECDHE+AESGCM:ECDHE+CHACHA20:ECDHE+AESCCM:!AESCCM8"
_EXPORTER_LABEL = b"EXPORTER-Channel-Binding"
_EXPORTER_BYTES = 32

_VERIFY_WORDS = {  # X509_verify_cert_error_string(3), with what it usually means for a device
    9: "its certificate is not valid yet; look at this device's clock",
    10: "its certificate has expired; look at this device's clock",
    18: "its certificate is self-signed",
    19: "its chain ends in a root that is not trusted here",
    20: "its certificate was not issued by an authority that is trusted here",
    21: "its certificate was not issued by an authority that is trusted here",
    26: "its certificate is not for servers",
}


@dataclass(frozen=True, slots=True)
class Identification:
    """How a client shows who it is in TLS: its certificate (with intermediates, leaf first) and key, as PEM files."""

    certificate: Path
    key: Path


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


def client_context(
    roots: Sequence[x509.Certificate] | None, identification: Identification | None, now: datetime | None = None
) -> SSL.Context:
    """Return the context of a connection.

    Args:
        roots: Whom to trust; nobody in particular if None: what comes must be believed for another reason.
        now: The time at which the server's chain must be valid; the system's if not said.

    Raises:
        EstFailure: (unusable) The identification's files cannot be used.
    """
    context = SSL.Context(SSL.TLS_CLIENT_METHOD)
    context.set_min_proto_version(SSL.TLS1_2_VERSION)
    context.set_cipher_list(_TLS12_CIPHERS)
    context.set_options(SSL.OP_NO_COMPRESSION | SSL.OP_NO_RENEGOTIATION | SSL.OP_NO_TICKET)
    context.set_session_cache_mode(SSL.SESS_CACHE_OFF)
    store = context.get_cert_store()
    if store is not None and roots is not None:
        store.set_flags(crypto.X509StoreFlags.X509_STRICT)
        if now is not None:
            store.set_time(now)
        for root in roots:
            store.add_cert(crypto.X509.from_cryptography(root))
    if identification is not None:
        _identify(context, identification)
    return context


def _identify(context: SSL.Context, identification: Identification) -> None:
    try:
        leaf, *intermediates = read_certificates(identification.certificate.read_bytes())
        context.use_certificate(leaf)
        for one in intermediates:
            context.add_extra_chain_cert(one)
        read_key(identification.key.read_bytes())  # which says in words what OpenSSL would not, or ask a person for
        # Loaded by OpenSSL itself, which knows more kinds than pyOpenSSL takes (ML-DSA).
        context.use_privatekey_file(str(identification.key))
        context.check_privatekey()
    except (OSError, CertificateRefused, KeyUnusable, SSL.Error) as error:
        words = reason(error) if isinstance(error, SSL.Error) else str(error)
        sentence = f"certificate {identification.certificate} and key {identification.key} cannot be used: {words}"
        raise EstFailure(Failure.UNUSABLE, sentence) from error


class TLSConnection(io.RawIOBase):
    """A connection on which the handshake is over; read it to its end, write to it, close it.

    Raises:
        EstFailure: (untrusted) The server has not proved itself.
        OSError: It cannot be reached, or breaks; `TimeoutError` when the deadline is over.
    """

    def __init__(
        self, host: str, port: int, context: SSL.Context, deadline: Deadline, *, proves_itself: bool = True
    ) -> None:
        super().__init__()
        self._host = host
        self._deadline = deadline
        self._problem: str | None = None
        self._tls = SSL.Connection(context, None)
        if proves_itself:
            self._tls.set_verify(SSL.VERIFY_PEER, self._judge)
        if not _is_address(host):
            self._tls.set_tlsext_host_name(host.encode("idna"))
        self._tls.set_connect_state()
        self._socket = _connect(host, port, deadline)
        try:
            self._handshake()
        except BaseException:
            self._socket.close()
            raise

    def channel_binding(self) -> bytes:
        """Return what only the two ends of this connection know, by rule 3."""
        if self._tls.get_protocol_version() >= SSL.TLS1_3_VERSION:
            return self._tls.export_keying_material(_EXPORTER_LABEL, _EXPORTER_BYTES, b"")
        return self._tls.get_finished() or b""

    def protocol(self) -> str:
        """Return the protocol's name: `TLSv1.2` or `TLSv1.3`."""
        return self._tls.get_protocol_version_name()

    def readable(self) -> bool:
        """Say that it can be read."""
        return True

    def readinto(self, buffer: "WriteableBuffer") -> int:
        """Read what is there, at least a byte; 0 at the end that the server declared, by rule 5."""
        view = memoryview(buffer).cast("B")
        while True:
            try:
                data = self._tls.recv(min(len(view), _RECORD_BYTES))
            except SSL.WantReadError:
                self._send()
                self._receive()
            except SSL.ZeroReturnError:
                return 0
            except SSL.Error as error:
                raise ConnectionError(f"the connection broke: {reason(error)}") from error
            else:
                view[: len(data)] = data
                return len(data)

    def sendall(self, data: bytes) -> None:
        """Send all of it."""
        view = memoryview(data)
        try:
            while view:
                view = view[self._tls.send(view[:_RECORD_BYTES]) :]
                self._send()
        except SSL.Error as error:
            raise ConnectionError(f"the connection broke: {reason(error)}") from error

    def close(self) -> None:
        """Close it, with what courtesy needs no waiting."""
        if not self.closed:
            try:
                self._tls.shutdown()
                self._send()
            except (SSL.Error, OSError):
                pass  # the connection has ended already
            finally:
                self._socket.close()
        super().close()

    def _handshake(self) -> None:
        while True:
            try:
                self._tls.do_handshake()
            except SSL.WantReadError:
                self._send()
                self._receive()
            except SSL.Error as error:
                self._send_alert()
                if self._problem is not None:
                    sentence = f"the server {self._host} is not trusted: {self._problem}"
                    raise EstFailure(Failure.UNTRUSTED, sentence) from error
                raise ConnectionError(f"no TLS connection: {reason(error)}") from error
            else:
                self._send()
                return

    def _judge(
        self, _connection: SSL.Connection, certificate: crypto.X509, error: int, depth: int, accepted: int
    ) -> bool:
        if not accepted:
            self._problem = _VERIFY_WORDS.get(error, f"its chain is not accepted (OpenSSL's code {error})")
            return False
        if depth == 0 and not is_called(certificate.to_cryptography(), self._host):
            self._problem = f"its certificate is not for {self._host}"
            return False
        return True

    def _send(self) -> None:
        while True:
            try:
                pending = self._tls.bio_read(_RECORD_BYTES)
            except SSL.WantReadError:
                return
            self._socket.settimeout(self._deadline.remaining())
            self._socket.sendall(pending)

    def _send_alert(self) -> None:
        with suppress(OSError):  # the server has left before it could be told why
            self._send()

    def _receive(self) -> None:
        self._socket.settimeout(self._deadline.remaining())
        try:
            data = self._socket.recv(_RECORD_BYTES)
        except TimeoutError:
            self._deadline.remaining()
            raise
        if data:
            self._tls.bio_write(data)
        else:
            self._tls.bio_shutdown()


def _connect(host: str, port: int, deadline: Deadline) -> socket.socket:
    """Connect to the first of the host's addresses that answers."""
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


def _is_address(host: str) -> bool:
    try:
        ip_address(host)
    except ValueError:
        return False
    return True


def reason(error: SSL.Error) -> str:
    """Return OpenSSL's own words for an error: the first, which is the cause of those that follow."""
    match error.args:
        case ([(_, _, str(words)), *_],) if words:
            return words
        case (int(), str(words)):
            return words
        case _:
            return str(error) or type(error).__name__

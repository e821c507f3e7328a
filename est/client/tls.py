"""TLS on pyOpenSSL, for keys that are in files: the standard `ssl` cannot export keying material.

The rules are those of `est.client.connection`. Chains are checked by OpenSSL, strictly (RFC 5280).
"""

from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from OpenSSL import SSL, crypto

from certs.errors import CertificateRefused
from certs.pem import read_certificates
from est.client.connection import EXPORTER_BYTES, EXPORTER_LABEL, RECORD_BYTES, Connection, Deadline, Peer, Stream
from est.client.failure import EstFailure, Failure
from est.client.keys import KeyUnusable, read_key
from est.client.trust import is_called

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer

_TLS12_CIPHERS = b"ECDHE+AESGCM:ECDHE+CHACHA20:ECDHE+AESCCM:!AESCCM8"

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

    def connect(self, peer: Peer, deadline: Deadline) -> Connection:
        """Connect as `est.client.connection.Identifying` says."""
        return connect(peer, self, deadline)


def connect(peer: Peer, identification: Identification | None, deadline: Deadline) -> Connection:
    """Connect to a server, which proves itself if the peer has roots.

    Raises:
        EstFailure: (untrusted) The server has not proved itself. (unusable) The identification's files cannot be used.
        OSError: It cannot be reached, or breaks.
    """
    return _OpenSSLConnection(peer, _context(peer, identification), deadline)


def _context(peer: Peer, identification: Identification | None) -> SSL.Context:
    context = SSL.Context(SSL.TLS_CLIENT_METHOD)
    context.set_min_proto_version(SSL.TLS1_2_VERSION)
    context.set_cipher_list(_TLS12_CIPHERS)
    context.set_options(SSL.OP_NO_COMPRESSION | SSL.OP_NO_RENEGOTIATION | SSL.OP_NO_TICKET)
    context.set_session_cache_mode(SSL.SESS_CACHE_OFF)
    store = context.get_cert_store()
    if store is not None and peer.roots is not None:
        store.set_flags(crypto.X509StoreFlags.X509_STRICT)
        store.set_time(peer.now)
        for root in peer.roots:
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


class _OpenSSLConnection(Connection):
    def __init__(self, peer: Peer, context: SSL.Context, deadline: Deadline) -> None:
        super().__init__()
        self._host = peer.host
        self._problem: str | None = None
        self._tls = SSL.Connection(context, None)
        if peer.roots is not None:
            self._tls.set_verify(SSL.VERIFY_PEER, self._judge)
        name = peer.server_name()
        if name is not None:
            self._tls.set_tlsext_host_name(name.encode("ascii"))
        self._tls.set_connect_state()
        self._stream = Stream(peer.host, peer.port, deadline)
        try:
            self._handshake()
        except BaseException:
            self._stream.close()
            raise

    def channel_binding(self) -> bytes:
        """Return what only the two ends of this connection know, by rule 3."""
        if self._tls.get_protocol_version() >= SSL.TLS1_3_VERSION:
            return self._tls.export_keying_material(EXPORTER_LABEL, EXPORTER_BYTES, b"")
        return self._tls.get_finished() or b""

    def protocol(self) -> str:
        """Return the protocol's name: `TLSv1.2` or `TLSv1.3`."""
        return self._tls.get_protocol_version_name()

    def readinto(self, buffer: "WriteableBuffer") -> int:
        """Read what is there, at least a byte; 0 at the end that the server declared, by rule 5."""
        view = memoryview(buffer).cast("B")
        while True:
            try:
                data = self._tls.recv(min(len(view), RECORD_BYTES))
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
                view = view[self._tls.send(view[:RECORD_BYTES]) :]
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
                self._stream.close()
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
                pending = self._tls.bio_read(RECORD_BYTES)
            except SSL.WantReadError:
                return
            self._stream.sendall(pending)

    def _send_alert(self) -> None:
        with suppress(OSError):  # the server has left before it could be told why
            self._send()

    def _receive(self) -> None:
        data = self._stream.recv(RECORD_BYTES)
        if data:
            self._tls.bio_write(data)
        else:
            self._tls.bio_shutdown()


def reason(error: SSL.Error) -> str:
    """Return OpenSSL's own words for an error: the first, which is the cause of those that follow."""
    match error.args:
        case ([(_, _, str(words)), *_],) if words:
            return words
        case (int(), str(words)):
            return words
        case _:
            return str(error) or type(error).__name__

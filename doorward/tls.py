"""TLS on the server's side, as values: what a listener offers, and one connection without any I/O.

Rules enforced here:

- TLS 1.2 and 1.3, nothing older (RFC 9325 3.1.1); forward secrecy and authenticated encryption only (4.2).
- Nothing is resumed. A resumed session skips the client's certificate, so a revoked device would get in: no tickets
  in TLS 1.2, no session cache, and what TLS 1.3 hands out names a session that is kept nowhere.
- No compression, no renegotiation (RFC 9325 3.3, 3.5), no early data.
- A listener either asks for a client certificate or does not; none requires one. Whatever is presented is accepted
  once the handshake has proved possession of its key, and handed on as bytes: whether its chain is good is decided
  in `certs.chain`, so that the client can be told in words.
- The application protocol is http/1.1. A client that offers only others is refused (RFC 7301 3.2).
- A connection ends with close_notify; an end without it may be an attacker's and is told apart (RFC 8446 6.1).

A certificate is replaced while listening: connections made from then on get the new one, living ones keep theirs.
"""

from dataclasses import dataclass, field
from datetime import datetime
from typing import Self

from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.types import PrivateKeyTypes
from OpenSSL import SSL, crypto

RECORD_BYTES = 16_384  # RFC 8446 5.1: no record holds more plaintext
_RECORD_OVERHEAD_BYTES = 512  # header, explicit nonce, tag and padding: more than any suite below adds
_TLS12_CIPHERS = b"ECDHE+AESGCM:ECDHE+CHACHA20:ECDHE+AESCCM:!AESCCM8"
_HTTP_1_1 = b"http/1.1"

BytesLike = bytes | bytearray | memoryview


class ServerIdentityError(Exception):
    """A server's certificate and key that cannot be served: the sentence says why."""


class TLSFailure(Exception):
    """The peer broke the protocol or the connection cannot be agreed on; an alert for it waits in `take_outgoing`."""


class _NoSharedProtocol(SSL.Error):
    """The client offered application protocols, and none of them is ours."""


@dataclass(frozen=True)
class ServerIdentity:
    """What a listener proves itself with: its certificates, leaf first, and the leaf's private key."""

    certificates: tuple[x509.Certificate, ...]
    private_key: PrivateKeyTypes = field(repr=False)

    def __post_init__(self) -> None:
        """Refuse an empty chain and a key that is not the leaf's."""
        if not self.certificates:
            raise ServerIdentityError("there is no certificate")
        if self.certificates[0].public_key() != self.private_key.public_key():
            raise ServerIdentityError("the private key is not that of the first certificate")

    @classmethod
    def from_pem(cls, certificates: bytes, private_key: bytes) -> Self:
        """Read PEM: certificates leaf first, and an unencrypted private key."""
        try:
            return cls(
                tuple(x509.load_pem_x509_certificates(certificates)),
                serialization.load_pem_private_key(private_key, password=None),
            )
        except (ValueError, TypeError) as error:
            raise ServerIdentityError(f"not a certificate chain and key in PEM: {error}") from error

    @property
    def not_after(self) -> datetime:
        """The end of the leaf's validity, aware of its zone (UTC)."""
        return self.certificates[0].not_valid_after_utc


class ServerTLS:
    """What a listener offers now: one context, replaced whole when its certificate is."""

    def __init__(self, identity: ServerIdentity, *, ask_client_certificate: bool) -> None:
        self.ask_client_certificate = ask_client_certificate
        self.replace(identity)

    @property
    def identity(self) -> ServerIdentity:
        """The identity that new connections see."""
        return self._identity

    @property
    def context(self) -> SSL.Context:
        """The context for new connections, shared by all of them."""
        return self._context

    def replace(self, identity: ServerIdentity) -> None:
        """Use another certificate from the next connection on; one that is refused leaves the present in place."""
        context = _server_context(identity, ask_client_certificate=self.ask_client_certificate)
        self._context = context
        self._identity = identity


def _server_context(identity: ServerIdentity, *, ask_client_certificate: bool) -> SSL.Context:
    context = SSL.Context(SSL.TLS_SERVER_METHOD)
    context.set_min_proto_version(SSL.TLS1_2_VERSION)
    context.set_max_proto_version(SSL.TLS1_3_VERSION)
    context.set_cipher_list(_TLS12_CIPHERS)
    context.set_options(SSL.OP_NO_COMPRESSION | SSL.OP_NO_RENEGOTIATION | SSL.OP_NO_TICKET)
    context.set_session_cache_mode(SSL.SESS_CACHE_OFF)
    context.set_mode(SSL.MODE_RELEASE_BUFFERS)  # an idle connection keeps no record buffers
    context.set_alpn_select_callback(_select_protocol)
    if ask_client_certificate:
        context.set_verify(SSL.VERIFY_PEER, _accept_any)
        # OpenSSL builds no chain above the leaf, so a long presented one costs no signature checks here.
        context.set_verify_depth(0)
    leaf, *intermediates = identity.certificates
    try:
        context.use_certificate(leaf)
        for certificate in intermediates:
            context.add_extra_chain_cert(certificate)
        context.use_privatekey(identity.private_key)  # type: ignore[arg-type] # a kind that TLS lacks is refused below
        context.check_privatekey()
    except (SSL.Error, TypeError) as error:
        raise ServerIdentityError(f"TLS cannot use this certificate and key: {_reason(error)}") from error
    return context


def _accept_any(
    _connection: SSL.Connection, _certificate: crypto.X509, _error: int, _depth: int, _accepted: int
) -> bool:
    return True


def _select_protocol(_connection: SSL.Connection, offered: list[bytes]) -> bytes:
    if _HTTP_1_1 not in offered:
        raise _NoSharedProtocol([("", "", "no application protocol in common")])
    return _HTTP_1_1


def _reason(error: Exception) -> str:
    """OpenSSL's own words for an error: the first, which is the cause of those that follow."""
    match error.args:
        case ([(_, _, str(words)), *_],) if words:
            return words
        case ([(str(library), _, _), *_],) if library:
            return f"an error of OpenSSL's {library} that has no name"
        case (int(), str(words)):
            return words
        case _:
            return str(error) or type(error).__name__


class ServerSession:
    """One TLS connection from the server's side: ciphertext in, plaintext out, and the other way round.

    Nothing here waits or writes: after `receive`, `shut_down` or a `TLSFailure`, what `take_outgoing` returns is to be
    sent to the peer; `send` returns it at once.
    """

    __slots__ = ("_connection", "_peer_chain", "is_established", "peer_has_closed")

    def __init__(self, context: SSL.Context) -> None:
        self._connection = SSL.Connection(context, None)
        self._connection.set_accept_state()
        self._peer_chain: tuple[bytes, ...] | None = None
        self.is_established = False
        self.peer_has_closed = False

    def receive(self, ciphertext: memoryview) -> bytes:
        """Take what the peer sent and return the plaintext in it; raise `TLSFailure`.

        What follows the peer's close_notify is ignored (RFC 8446 6.1).
        """
        plaintext: list[bytes] = []
        # Piece by piece, since OpenSSL's buffer grows to the largest piece and stays so for the connection's life.
        for start in range(0, len(ciphertext), RECORD_BYTES):
            if self.peer_has_closed:
                break
            try:
                self._connection.bio_write(ciphertext[start : start + RECORD_BYTES])
                if not self.is_established:
                    self._connection.do_handshake()
                    self.is_established = True
                while True:
                    plaintext.append(self._connection.recv(RECORD_BYTES))
            except SSL.WantReadError:
                continue
            except SSL.ZeroReturnError:
                self.peer_has_closed = True
            except SSL.Error as error:
                raise TLSFailure(_reason(error)) from error
        return plaintext[0] if len(plaintext) == 1 else b"".join(plaintext)

    def send(self, plaintext: BytesLike) -> bytes:
        """Return the records that carry `plaintext`, and whatever else waits to be sent; raise `TLSFailure`."""
        view = memoryview(plaintext).cast("B")
        ciphertext: list[bytes] = []
        start = 0
        try:
            while start < len(view):
                start += self._connection.send(view[start : start + RECORD_BYTES])
                ciphertext.append(self.take_outgoing())
        except SSL.Error as error:
            raise TLSFailure(_reason(error)) from error
        return ciphertext[0] if len(ciphertext) == 1 else b"".join(ciphertext)

    def shut_down(self) -> None:
        """Say close_notify, once, on an established connection; the peer's own is not waited for."""
        if self.is_established:
            try:
                self._connection.shutdown()
            except SSL.Error:
                return  # the connection has failed already, and its alert says more than close_notify would

    def take_outgoing(self) -> bytes:
        """Return what waits to be sent, taking it."""
        pieces: list[bytes] = []
        size = RECORD_BYTES + _RECORD_OVERHEAD_BYTES
        try:
            while True:
                piece = self._connection.bio_read(size)
                pieces.append(piece)
                if len(piece) < size:
                    break
        except SSL.WantReadError:
            pass
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)

    def peer_chain(self) -> tuple[bytes, ...]:
        """Return the certificates that the client presented, in DER, its own first; empty if it presented none."""
        if self._peer_chain is None:
            leaf = self._connection.get_peer_certificate()
            # SSL_get_peer_cert_chain(3): on the server's side it leaves the peer's own certificate out.
            others = self._connection.get_peer_cert_chain() or ()
            presented = (leaf, *others) if leaf is not None else ()
            self._peer_chain = tuple(crypto.dump_certificate(crypto.FILETYPE_ASN1, each) for each in presented)
        return self._peer_chain

    def channel_binding(self) -> bytes:
        """Return the value that both ends of this very connection know, and no other.

        TLS 1.3: 32 bytes of the exporter with an empty context (RFC 9266 2). TLS 1.2: tls-unique, which is the first
        Finished message, the client's, since nothing is ever resumed (RFC 5929 3.1).
        """
        if self._connection.get_protocol_version() >= SSL.TLS1_3_VERSION:
            return self._connection.export_keying_material(b"EXPORTER-Channel-Binding", 32, b"")
        return self._connection.get_peer_finished() or b""

    def protocol(self) -> str:
        """The protocol's name: `TLSv1.2` or `TLSv1.3`."""
        return self._connection.get_protocol_version_name()

    def cipher(self) -> tuple[str, str, int]:
        """The cipher suite's name, the protocol that defines it, and its secret bits, as `ssl` gives them."""
        return (
            self._connection.get_cipher_name() or "",
            self._connection.get_cipher_version() or "",
            self._connection.get_cipher_bits() or 0,
        )

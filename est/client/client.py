"""The operations of EST (RFC 7030), from the side of a device.

The rules:

1. Nothing is asked or told before the server has proved itself (`est.client.trust`, `est.client.tls`); the one
   exception is the question for the authorities by which a root is recognised by its fingerprint.
2. An answer counts if it is one certificate, for the key of the request.
3. A request that is pending (202) is not an error of the request: ask again with the same key when told.
4. A whole exchange, from the first packet to the last byte, has one deadline. (The resolution of the host's name is
   the system's, and has its own.)
"""

import binascii
from base64 import b64decode
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from http import HTTPStatus
from urllib.parse import quote, urlsplit

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from certs.csrattrs import WantedRequest, parse_csr_attributes
from certs.errors import CertificateRefused
from certs.pem import read_certificates, write_certificates
from certs.pkcs7 import parse_certs_only
from est.client.authorization import Authorization
from est.client.connection import Connection, Deadline, Identifying, Peer
from est.client.exchange import Question, Reply, exchange, good, parts
from est.client.failure import EstFailure, Failure
from est.client.keys import PrivateKey, public_bytes
from est.client.opening import Opener, open_key, plain_key
from est.client.request import RequestTemplate
from est.client.tls import connect
from est.client.trust import read_fingerprint, recognised_root
from est.codec import CSRATTRS, PKCS7, PKCS8, PKCS10, encode_base64

_NOTHING_WANTED = frozenset({HTTPStatus.NO_CONTENT, HTTPStatus.NOT_FOUND, HTTPStatus.NOT_IMPLEMENTED})
"""RFC 7030 4.5.2: a server may answer so where it wants nothing in particular."""

_MULTIPART = "multipart/mixed"


@dataclass(frozen=True, slots=True)
class ServerMade:
    """A key that the server made, and its certificate."""

    key: PrivateKey = field(repr=False)
    certificate: x509.Certificate


def utc_now() -> datetime:
    """Return the system's time."""
    return datetime.now(UTC)


class EstClient:
    """A client of one server, under one label. It blocks: call it in a thread from asyncio.

    Args:
        url: Where the server is: `https://host:port`.
        anchors: A PEM bundle of the roots that may vouch for the server.
        root_sha256: Instead of that, the SHA-256 fingerprint of the root's certificate in hexadecimal, with or without
            colons.
        label: The enrolment profile; the server's default one if not said.
        identification: The bootstrap certificate for `enroll`, the device's own for `reenroll`; none for `cacerts`.
        authorization: A secret or a token, where the label wants one, instead of a certificate or beside it.
        timeout_seconds: For one exchange, as a whole.
        clock: The time by which the server's certificate is judged.

    Raises:
        ValueError: An argument cannot be meant.
    """

    def __init__(
        self,
        url: str,
        *,
        anchors: bytes | None = None,
        root_sha256: str | None = None,
        label: str | None = None,
        identification: Identifying | None = None,
        authorization: Authorization | None = None,
        timeout_seconds: float = 15.0,
        clock: Callable[[], datetime] = utc_now,
    ) -> None:
        if (anchors is None) == (root_sha256 is None):
            raise ValueError("give either anchors or the root's fingerprint")
        parts = urlsplit(url)
        if parts.scheme != "https" or parts.hostname is None:
            raise ValueError(f"not an https URL: {url}")
        self._host = parts.hostname
        self._port = parts.port or 443
        self._path = "/.well-known/est" if label is None else f"/.well-known/est/{quote(label, safe='')}"
        self._anchors = anchors
        self._root_sha256 = None if root_sha256 is None else read_fingerprint(root_sha256)
        self._identification = identification
        self._headers = {} if authorization is None else {"Authorization": authorization.authorization()}
        self._timeout_seconds = timeout_seconds
        self._clock = clock

    def anchors(self) -> bytes:
        """Return the roots that are trusted, in PEM: those given, or the one recognised by its fingerprint.

        Raises:
            EstFailure: The root is not known yet, and is not recognised.
        """
        if self._anchors is None:
            self._anchors = write_certificates([self._recognise_root()])
        return self._anchors

    def cacerts(self) -> tuple[x509.Certificate, ...]:
        """Return the authorities of the label, its root among them (RFC 7030 4.1); raise `EstFailure`."""
        return _certificates(self._der(self._ask("GET", "cacerts"), PKCS7))

    def csrattrs(self) -> WantedRequest:
        """Return what the server wants a request to hold (RFC 7030 4.5): empty where it has nothing to say.

        Raises:
            EstFailure: The server did not answer, or what it says cannot be read.
        """
        reply = self._ask("GET", "csrattrs")
        if reply.status in _NOTHING_WANTED:
            return WantedRequest()
        try:
            return parse_csr_attributes(self._der(reply, CSRATTRS))
        except CertificateRefused as refusal:
            raise EstFailure(Failure.MALFORMED, refusal.reason, status=reply.status) from refusal

    def enroll(self, request: bytes | RequestTemplate) -> x509.Certificate:
        """Return the first certificate of a device (RFC 7030 4.2.1); raise `EstFailure`.

        Args:
            request: In DER; or a template, which is signed for this connection, and so may prove possession (3.5).
        """
        return self._certificate("simpleenroll", request)

    def reenroll(self, request: bytes | RequestTemplate) -> x509.Certificate:
        """Return the successor of the certificate presented (RFC 7030 4.2.2); arguments and errors as for `enroll`."""
        return self._certificate("simplereenroll", request)

    def serverkeygen(self, template: RequestTemplate, opener: Opener | None = None) -> ServerMade:
        """Have the server make a key, and return it with its certificate (RFC 7030 4.4).

        Args:
            template: What the certificate is asked for; its key and signature count for nothing.
            opener: What the key is to be encrypted under; within TLS it is sent as it is if None.

        Raises:
            EstFailure: The server refused, or what came is not a key and the certificate of that key.
        """
        if opener is not None:
            template = replace(template, attributes=(*template.attributes, *opener.attributes()))
        reply = self._ask("POST", "serverkeygen", _Request(template))
        good(reply, _MULTIPART, self._clock())
        wanted = PKCS8 if opener is None else PKCS7
        found = parts(reply)
        match found:
            # Both parts are of one type if the key is encrypted: the first is the key (RFC 7030 4.4.2).
            case (first, second) if first.media_type == wanted and second.media_type == PKCS7:
                sealed = self._der(first, wanted)
                key = plain_key(sealed) if opener is None else open_key(sealed, opener)
                return ServerMade(key, only_certificate(self._der(second, PKCS7), public_bytes(key)))
            case _:
                kinds = ", ".join(one.media_type for one in found) or "nothing"
                raise EstFailure(Failure.MALFORMED, f"the answer is not a key and its certificate, but {kinds}")

    def _certificate(self, operation: str, request: bytes | RequestTemplate) -> x509.Certificate:
        sent = _Request(request)
        reply = self._ask("POST", operation, sent)
        return only_certificate(self._der(reply, PKCS7), sent.spki())

    def _ask(self, method: str, operation: str, request: "_Request | None" = None) -> Reply:
        """Ask a server that has proved itself."""
        roots = self._roots()
        return self._exchange(roots, method, operation, request)

    def _exchange(
        self, roots: tuple[x509.Certificate, ...] | None, method: str, operation: str, request: "_Request | None" = None
    ) -> Reply:
        peer, deadline = Peer(self._host, self._port, roots, self._clock()), Deadline(self._timeout_seconds)
        identification = None if roots is None else self._identification
        headers = {} if roots is None else dict(self._headers)
        try:
            made = connect(peer, None, deadline) if identification is None else identification.connect(peer, deadline)
            with made as connection:
                body = None
                if request is not None:
                    body = encode_base64(request.sign(connection))
                    headers |= {"Content-Type": PKCS10, "Content-Transfer-Encoding": "base64"}
                question = Question(method, f"{self._path}/{operation}", headers, body)
                return exchange(connection, self._host, self._port, question)
        except OSError as error:
            words = str(error) or type(error).__name__
            raise EstFailure(Failure.UNREACHABLE, f"{self._host}:{self._port}: {words}") from error

    def _roots(self) -> tuple[x509.Certificate, ...]:
        try:
            return read_certificates(self.anchors())
        except CertificateRefused as refusal:
            raise EstFailure(Failure.UNTRUSTED, f"the anchors cannot be used: {refusal}") from refusal

    def _recognise_root(self) -> x509.Certificate:
        """Ask an unproved server for its authorities, and take the pinned root alone from its answer."""
        found = _certificates(self._der(self._exchange(None, "GET", "cacerts"), PKCS7))
        return recognised_root(found, self._root_sha256 or b"")

    def _der(self, reply: Reply, media_type: str) -> bytes:
        return decode(good(reply, media_type, self._clock()), reply.status)


class _Request:
    """A request on its way: signed for the connection if it is a template."""

    def __init__(self, request: bytes | RequestTemplate) -> None:
        self._request = request

    def sign(self, connection: Connection) -> bytes:
        if isinstance(self._request, bytes):
            return self._request
        return self._request.sign(connection.channel_binding() if self._request.proves_possession else None)

    def spki(self) -> bytes:
        if isinstance(self._request, bytes):
            return _spki(x509.load_der_x509_csr(self._request))
        return self._request.signer.spki


def decode(content: bytes, status: int = HTTPStatus.OK) -> bytes:
    """Return what stands in an answer in base64 (RFC 8951 3); raise `EstFailure`."""
    try:
        return b64decode(b"".join(content.split()), validate=True)
    except binascii.Error as error:
        raise EstFailure(Failure.MALFORMED, "the answer is not base64", status=status) from error


def only_certificate(der: bytes, spki: bytes | None) -> x509.Certificate:
    """Return the one certificate of a certs-only answer, which is for this key (of whatever key if None).

    Raises:
        EstFailure: (malformed) By rule 2.
    """
    found = _certificates(der)
    if len(found) != 1:
        raise EstFailure(Failure.MALFORMED, f"the server gave {len(found)} certificates instead of one")
    if spki is not None and _spki(found[0]) != spki:
        raise EstFailure(Failure.MALFORMED, "the server gave a certificate for another key")
    return found[0]


def _certificates(der: bytes) -> tuple[x509.Certificate, ...]:
    try:
        return tuple(parse_certs_only(der))
    except CertificateRefused as refusal:
        raise EstFailure(Failure.MALFORMED, refusal.reason) from refusal


def _spki(holder: x509.Certificate | x509.CertificateSigningRequest) -> bytes:
    return holder.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)

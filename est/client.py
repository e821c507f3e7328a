"""A client of EST (RFC 7030), for the command line, for demonstrations, and for devices.

It stands on the standard library's `http.client` and `ssl`, and blocks: call it in a thread from asyncio.

The rules:

1. Trust is explicit (RFC 7030 3.6.1, 4.1.1): a bundle of authorities' certificates, or the SHA-256 fingerprint of the
   root, by which the root is recognised in the server's own answer and from then on the only one that is trusted.
   Nothing is asked or told before the server has proved itself by it; the system's trust store plays no part.
2. TLS 1.2 at least, the host's name checked, the chain checked strictly (RFC 5280).
3. An answer counts if it is one certificate, for the key of the request.
4. A request that is pending (202) is not an error of the request: ask again with the same one when told.
"""

import binascii
import http.client
import ssl
from base64 import b64decode, b64encode
from dataclasses import dataclass
from enum import StrEnum
from hashlib import sha256
from pathlib import Path
from urllib.parse import quote, urlsplit

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
)

from certs.errors import CertificateRefused
from certs.names import device_alternative_name, device_identifier, device_subject
from certs.pem import write_certificates
from certs.pkcs7 import parse_certs_only
from est.codec import PKCS7, PKCS10

_ANSWER_LIMIT_BYTES = 512 * 1024
_FINGERPRINT_DIGITS = 64


class Failure(StrEnum):
    """What kept the client from an answer."""

    UNREACHABLE = "unreachable"
    """Nobody answers there, or the connection broke: whether the request arrived is not known; send the same again."""
    UNTRUSTED = "untrusted"
    """Whoever answers has not proved to be trusted."""
    REFUSED = "refused"
    """The server said no, and why."""
    PENDING = "pending"
    """The server said not yet: ask again with the same request."""
    MALFORMED = "malformed"
    """What the server said is not an answer of EST."""


class EstFailure(Exception):
    """No certificate, and why.

    Attributes:
        status: The HTTP status, if there was one.
        retry_after: Seconds after which it is worth asking again, if the server said so.
    """

    def __init__(
        self, failure: Failure, sentence: str, *, status: int | None = None, retry_after: int | None = None
    ) -> None:
        super().__init__(sentence)
        self.failure = failure
        self.status = status
        self.retry_after = retry_after


@dataclass(frozen=True, slots=True)
class Identification:
    """How a client shows who it is: its certificate (with intermediates, leaf first) and key, as PEM files."""

    certificate: Path
    key: Path


def make_key() -> ec.EllipticCurvePrivateKey:
    """Return a new P-256 key."""
    return ec.generate_private_key(ec.SECP256R1())


def write_key(key: ec.EllipticCurvePrivateKey) -> bytes:
    """Return a key as PEM, PKCS #8 without a password."""
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())


def make_request(key: ec.EllipticCurvePrivateKey, identifier: str) -> bytes:
    """Return a request for the certificate of a device, in DER: for enrolling as for renewing.

    Raises:
        CertificateRefused: It is no device identifier.
    """
    checked = device_identifier(identifier)
    names = x509.SubjectAlternativeName(device_alternative_name(checked))
    builder = x509.CertificateSigningRequestBuilder().subject_name(device_subject(checked))
    return builder.add_extension(names, critical=False).sign(key, SHA256()).public_bytes(Encoding.DER)


class EstClient:
    """A client of one server, under one label.

    Args:
        url: Where the server is: `https://host:port`.
        anchors: A PEM bundle of the authorities that may vouch for the server.
        root_sha256: Instead of that, the SHA-256 fingerprint of the root's certificate in hexadecimal, with or without
            colons.
        label: The enrolment profile; the server's default one if not said.
        identification: The bootstrap certificate for `enroll`, the device's own for `reenroll`; none for `cacerts`.
    """

    def __init__(
        self,
        url: str,
        *,
        anchors: bytes | None = None,
        root_sha256: str | None = None,
        label: str | None = None,
        identification: Identification | None = None,
        timeout_seconds: float = 15.0,
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
        self._root_sha256 = None if root_sha256 is None else _fingerprint(root_sha256)
        self._identification = identification
        self._timeout_seconds = timeout_seconds

    def cacerts(self) -> tuple[x509.Certificate, ...]:
        """Return the authorities of the label, its root among them (RFC 7030 4.1); raise `EstFailure`."""
        context = self._context()
        return _certificates(self._ask(context, "GET", "cacerts", None))

    def enroll(self, request: bytes) -> x509.Certificate:
        """Return the first certificate of a device for a request in DER (RFC 7030 4.2.1); raise `EstFailure`."""
        return self._certificate("simpleenroll", request)

    def reenroll(self, request: bytes) -> x509.Certificate:
        """Return the successor of the certificate presented (RFC 7030 4.2.2); raise `EstFailure`."""
        return self._certificate("simplereenroll", request)

    def _certificate(self, operation: str, request: bytes) -> x509.Certificate:
        body = b64encode(request)
        found = _certificates(self._ask(self._context(), "POST", operation, body))
        if len(found) != 1:
            raise EstFailure(Failure.MALFORMED, f"the server gave {len(found)} certificates instead of one")
        requested = x509.load_der_x509_csr(request).public_key()
        encoding = Encoding.DER, PublicFormat.SubjectPublicKeyInfo
        if found[0].public_key().public_bytes(*encoding) != requested.public_bytes(*encoding):
            raise EstFailure(Failure.MALFORMED, "the server gave a certificate for another key")
        return found[0]

    def _context(self) -> ssl.SSLContext:
        """Return the context for a connection on which the server proves itself."""
        if self._anchors is None:
            self._anchors = self._recognise_root()
        try:
            context = ssl.create_default_context(cadata=self._anchors.decode("ascii"))
            context.verify_flags |= ssl.VERIFY_X509_STRICT
            self._identify(context)
        except (ssl.SSLError, OSError, UnicodeDecodeError) as error:
            raise EstFailure(Failure.UNTRUSTED, f"anchors or certificate and key cannot be used: {error}") from error
        return context

    def _identify(self, context: ssl.SSLContext) -> None:
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        if self._identification is not None:
            context.load_cert_chain(self._identification.certificate, self._identification.key)

    def _recognise_root(self) -> bytes:
        """Ask an unproved server for its authorities, and take the pinned root alone from its answer (rule 1)."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE  # what comes is believed by its fingerprint, and nothing else is asked
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        for one in _certificates(self._ask(context, "GET", "cacerts", None)):
            if sha256(one.public_bytes(Encoding.DER)).digest() == self._root_sha256:
                _check_is_root(one)
                return write_certificates([one])
        raise EstFailure(Failure.UNTRUSTED, "the server does not know the root of that fingerprint")

    def _ask(self, context: ssl.SSLContext, method: str, operation: str, body: bytes | None) -> bytes:
        connection = http.client.HTTPSConnection(self._host, self._port, timeout=self._timeout_seconds, context=context)
        headers = {"Accept": "*/*"}
        if body is not None:
            headers |= {"Content-Type": PKCS10, "Content-Transfer-Encoding": "base64"}
        try:
            connection.request(method, f"{self._path}/{operation}", body=body, headers=headers)
            response = connection.getresponse()
            content = response.read(_ANSWER_LIMIT_BYTES)
        except ssl.SSLCertVerificationError as error:
            raise EstFailure(Failure.UNTRUSTED, f"the server is not trusted: {error.verify_message}") from error
        except (OSError, http.client.HTTPException) as error:
            raise EstFailure(Failure.UNREACHABLE, f"{self._host}:{self._port}: {error}") from error
        finally:
            connection.close()
        return _answer(response, content)


def _answer(response: http.client.HTTPResponse, content: bytes) -> bytes:
    """Return the DER of a good answer (RFC 7030 4.2.3)."""
    if response.status == http.HTTPStatus.OK:
        if not response.headers.get("Content-Type", "").startswith(PKCS7):
            raise EstFailure(Failure.MALFORMED, "the answer is not of EST's content type", status=response.status)
        try:
            return b64decode(b"".join(content.split()), validate=True)
        except binascii.Error as error:
            raise EstFailure(Failure.MALFORMED, "the answer is not base64", status=response.status) from error
    said = " ".join(content.decode("utf-8", "replace").split())[:500]
    after = response.headers.get("Retry-After", "")
    pending = response.status == http.HTTPStatus.ACCEPTED
    raise EstFailure(
        Failure.PENDING if pending else Failure.REFUSED,
        said or response.reason,
        status=response.status,
        retry_after=int(after) if after.isascii() and after.isdigit() else None,
    )


def _certificates(der: bytes) -> tuple[x509.Certificate, ...]:
    try:
        return tuple(parse_certs_only(der))
    except CertificateRefused as refusal:
        raise EstFailure(Failure.MALFORMED, refusal.reason) from refusal


def _check_is_root(certificate: x509.Certificate) -> None:
    try:
        certificate.verify_directly_issued_by(certificate)
    except (InvalidSignature, ValueError, TypeError) as error:
        raise EstFailure(Failure.UNTRUSTED, "the certificate of that fingerprint is not a root") from error


def _fingerprint(text: str) -> bytes:
    digits = text.replace(":", "").strip().lower()
    if len(digits) != _FINGERPRINT_DIGITS:
        raise ValueError("a SHA-256 fingerprint has 64 hexadecimal digits")
    return bytes.fromhex(digits)

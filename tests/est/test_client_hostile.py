"""A server that is broken or means ill: the client says what is wrong, in time, and gives nothing away."""

import socket
import ssl
import threading
import time
from base64 import b64encode
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
import trustme
from cryptography import x509
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding

from certs.pkcs7 import certs_only
from est.client import EstClient, EstFailure, Failure, make_key, make_request
from est.client.trust import _matches

SECONDS = 1.5
MARGIN = 1.0
CERTS_ONLY = b"Content-Type: application/pkcs7-mime; smime-type=certs-only\r\n"
CHUNKED = CERTS_ONLY + b"Transfer-Encoding: chunked\r\n"
CHUNK = b"4000\r\n" + b"A" * 0x4000 + b"\r\n"
Answer = Callable[[ssl.SSLSocket], None]


class Villain:
    """A TLS server on a thread of its own that does to each connection what it is told."""

    def __init__(self, names: tuple[str, ...] = ("localhost", "127.0.0.1"), **certificate: Any) -> None:
        self.authority = trustme.CA()
        self.answer: Answer = lambda _: None
        self.asked: list[bytes] = []
        self.version: ssl.TLSVersion | None = None
        self._context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self.authority.issue_cert(*names, **certificate).configure_cert(self._context)
        self._listening = socket.create_server(("127.0.0.1", 0))
        self.port = self._listening.getsockname()[1]
        threading.Thread(target=self._serve, daemon=True).start()

    def client(self, host: str = "127.0.0.1", **more: Any) -> EstClient:
        more.setdefault("anchors", self.authority.cert_pem.bytes())
        return EstClient(f"https://{host}:{self.port}", timeout_seconds=SECONDS, **more)

    def close(self) -> None:
        self._listening.close()

    def _serve(self) -> None:
        while True:
            try:
                raw, _ = self._listening.accept()
            except OSError:
                return
            threading.Thread(target=self._one, args=(raw,), daemon=True).start()

    def _one(self, raw: socket.socket) -> None:
        try:
            with raw, self._context.wrap_socket(raw, server_side=True) as connection:
                connection.settimeout(5)
                text = b""
                while b"\r\n\r\n" not in text:
                    text += connection.recv(65536) or b"\r\n\r\n"
                self.asked.append(text)
                self.answer(connection)
                connection.unwrap()
        except (OSError, ValueError):
            pass  # the client has left, as it should, or the answer was to leave it


@pytest.fixture
def villain() -> Iterator[Villain]:
    made = Villain()
    yield made
    made.close()


def says(text: bytes) -> Answer:
    return lambda connection: connection.sendall(text)


def whole(head: bytes, body: bytes, status: bytes = b"200 OK") -> Answer:
    return says(b"HTTP/1.1 %b\r\n%bContent-Length: %d\r\n\r\n%b" % (status, head, len(body), body))


def drips(head: bytes) -> Answer:
    def answer(connection: ssl.SSLSocket) -> None:
        connection.sendall(head)
        for _ in range(100):
            connection.sendall(b"A")
            time.sleep(0.1)

    return answer


def endless(head: bytes, piece: bytes) -> Answer:
    def answer(connection: ssl.SSLSocket) -> None:
        connection.sendall(head)
        while True:
            connection.sendall(piece)

    return answer


def cuts_tcp(connection: ssl.SSLSocket) -> None:
    """End TCP without close_notify in the middle of an answer whose length only its end would tell."""
    connection.sendall(b"HTTP/1.1 200 OK\r\n" + CERTS_ONLY + b"\r\nMIIB")
    connection.shutdown(socket.SHUT_RDWR)


BROKEN = {
    "an HTML page": (
        whole(b"Content-Type: text/html\r\n", b"<h1>Log in to the hotel's network</h1>"),
        Failure.MALFORMED,
        "text/html",
    ),
    "no content type": (whole(b"", b"MIIB"), Failure.MALFORMED, "is this an EST server?"),
    "no base64": (whole(CERTS_ONLY, b"%%%%"), Failure.MALFORMED, "not base64"),
    "base64 of nothing": (whole(CERTS_ONLY, b"AAAA"), Failure.MALFORMED, "CMS"),
    "an empty body": (whole(CERTS_ONLY, b""), Failure.MALFORMED, "CMS"),
    "no HTTP": (says(b"SSH-2.0-OpenSSH_9.2\r\n\r\n"), Failure.MALFORMED, "HTTP"),
    "a line without end": (endless(b"HTTP/1.1 200 OK\r\nX: ", b"y" * 65536), Failure.MALFORMED, "HTTP"),
    "headers without end": (endless(b"HTTP/1.1 200 OK\r\n", b"X: y\r\n" * 100), Failure.MALFORMED, "HTTP"),
    "a chunk of no size": (
        says(b"HTTP/1.1 200 OK\r\n" + CHUNKED + b"\r\nzz\r\n"),
        Failure.UNREACHABLE,
        "ended before",
    ),
    "a body without end": (
        endless(b"HTTP/1.1 200 OK\r\n" + CERTS_ONLY + b"\r\n", b"A" * 65536),
        Failure.MALFORMED,
        "longer than",
    ),
    "chunks without end": (
        endless(b"HTTP/1.1 200 OK\r\n" + CHUNKED + b"\r\n", CHUNK),
        Failure.MALFORMED,
        "longer than",
    ),
    "half a body": (
        says(b"HTTP/1.1 200 OK\r\n" + CERTS_ONLY + b"Content-Length: 4000\r\n\r\nMIIB"),
        Failure.UNREACHABLE,
        "before its end",
    ),
    "TCP cut": (cuts_tcp, Failure.UNREACHABLE, "the connection broke"),
    "nothing at all": (lambda _: None, Failure.UNREACHABLE, "ended before"),
    "silence": (lambda _: time.sleep(SECONDS + MARGIN), Failure.UNREACHABLE, "no whole answer within 1.5 s"),
    "a body that drips": (
        drips(b"HTTP/1.1 200 OK\r\n" + CERTS_ONLY + b"Content-Length: 1000\r\n\r\n"),
        Failure.UNREACHABLE,
        "no whole answer within 1.5 s",
    ),
    "a header that drips": (drips(b"HTTP/1.1 200 OK\r\nX: "), Failure.UNREACHABLE, "no whole answer within 1.5 s"),
    "100 without end": (
        endless(b"", b"HTTP/1.1 100 Continue\r\n\r\n"),
        Failure.UNREACHABLE,
        "no whole answer within 1.5 s",
    ),
    "a redirection": (
        whole(b"Location: https://elsewhere.example/\r\n", b"", b"302 Found"),
        Failure.MALFORMED,
        "redirects to https://elsewhere.example/, which is not followed",
    ),
    "204": (says(b"HTTP/1.1 204 No Content\r\n\r\n"), Failure.MALFORMED, "204"),
    "an HTML error": (
        whole(b"Content-Type: text/html\r\n", b"<h1>Forbidden</h1>", b"403 Forbidden"),
        Failure.REFUSED,
        "403 Forbidden",
    ),
    "control characters": (
        whole(b"Content-Type: text/plain\r\n", b"no\x1b[2J\r\n way\x9b\n", b"403 Forbidden"),
        Failure.REFUSED,
        "no [2J way",
    ),
    "busy": (
        whole(b"Content-Type: text/plain\r\nRetry-After: 7\r\n", b"Later.", b"503 Service Unavailable"),
        Failure.BUSY,
        "Later.",
    ),
}


@pytest.mark.parametrize("kind", BROKEN)
def test_broken_answers(villain: Villain, kind: str) -> None:
    villain.answer, failure, words = BROKEN[kind]
    began = time.monotonic()
    with pytest.raises(EstFailure) as failed:
        villain.client().cacerts()
    assert (failed.value.failure, time.monotonic() - began < SECONDS + MARGIN) == (failure, True)
    assert words in str(failed.value)
    assert str(failed.value).isprintable()


def certificate(key: Any, *, count: int = 1) -> bytes:
    now = datetime.now(UTC)
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "meter-001")])
    builder = x509.CertificateBuilder().subject_name(name).issuer_name(name).public_key(key.public_key())
    builder = builder.not_valid_before(now).not_valid_after(now + timedelta(days=1))
    made = [builder.serial_number(serial + 1).sign(key, SHA256()) for serial in range(count)]
    return b64encode(certs_only(one.public_bytes(Encoding.DER) for one in made))


def test_a_certificate_for_another_key(villain: Villain) -> None:
    villain.answer = whole(CERTS_ONLY, certificate(make_key()))
    with pytest.raises(EstFailure, match="for another key") as failed:
        villain.client().enroll(make_request(make_key(), "meter-001"))
    assert failed.value.failure is Failure.MALFORMED


def test_two_certificates(villain: Villain) -> None:
    key = make_key()
    villain.answer = whole(CERTS_ONLY, certificate(key, count=2))
    with pytest.raises(EstFailure, match="2 certificates instead of one"):
        villain.client().enroll(make_request(key, "meter-001"))


@pytest.mark.parametrize(("header", "seconds"), [(b"90", 90), (b"Fri, 31 Dec 1999 23:59:59 GMT", 0), (b"soon", None)])
def test_not_yet(villain: Villain, header: bytes, seconds: int | None) -> None:
    villain.answer = whole(b"Content-Type: text/plain\r\nRetry-After: %b\r\n" % header, b"Wait.", b"202 Accepted")
    with pytest.raises(EstFailure) as failed:
        villain.client().enroll(make_request(make_key(), "meter-001"))
    assert (failed.value.failure, failed.value.retry_after) == (Failure.PENDING, seconds)


def test_a_server_that_never_answers_the_handshake() -> None:
    with socket.create_server(("127.0.0.1", 0)) as deaf:
        asks = EstClient(
            f"https://127.0.0.1:{deaf.getsockname()[1]}",
            anchors=trustme.CA().cert_pem.bytes(),
            timeout_seconds=SECONDS,
        )
        began = time.monotonic()
        with pytest.raises(EstFailure, match="no whole answer within") as failed:
            asks.cacerts()
    assert (failed.value.failure, time.monotonic() - began < SECONDS + MARGIN) == (Failure.UNREACHABLE, True)


@pytest.mark.parametrize(
    ("names", "host", "is_trusted"),
    [
        (("localhost",), "localhost", True),
        (("127.0.0.1",), "127.0.0.1", True),
        (("other.example",), "localhost", False),
        (("localhost",), "127.0.0.1", False),
        (("127.0.0.1",), "localhost", False),
    ],
)
def test_the_host_is_the_certificates(names: tuple[str, ...], host: str, is_trusted: bool) -> None:
    villain = Villain(names)
    villain.answer = whole(CERTS_ONLY, b"")
    with pytest.raises(EstFailure) as failed:
        villain.client(host).cacerts()
    assert failed.value.failure is (Failure.MALFORMED if is_trusted else Failure.UNTRUSTED), failed.value
    assert bool(villain.asked) is is_trusted
    villain.close()


@pytest.mark.parametrize(
    ("pattern", "host", "matches"),
    [
        ("est.example", "EST.example", True),
        ("*.example", "est.example", True),
        ("*.example", "a.est.example", False),
        ("*.example", "example", False),
        ("*", "localhost", False),
        ("e*.example", "est.example", False),
        ("*.*.example", "a.b.example", False),
    ],
)
def test_a_star_stands_for_one_label(pattern: str, host: str, matches: bool) -> None:
    assert _matches(pattern, host) is matches


def test_a_common_name_is_no_host_name() -> None:
    villain = Villain(("other.example",), common_name="127.0.0.1")
    with pytest.raises(EstFailure, match=r"its certificate is not for 127\.0\.0\.1"):
        villain.client().cacerts()
    villain.close()


def test_another_root(villain: Villain) -> None:
    with pytest.raises(EstFailure, match="not issued by an authority that is trusted here") as failed:
        villain.client(anchors=trustme.CA().cert_pem.bytes()).cacerts()
    assert (failed.value.failure, villain.asked) == (Failure.UNTRUSTED, [])


@pytest.mark.parametrize(
    ("ahead", "words"),
    [
        (timedelta(days=365 * 1200), "has expired; look at this device's clock"),
        (timedelta(days=-365 * 50), "not valid yet"),
    ],
)
def test_a_clock_that_is_wrong(villain: Villain, ahead: timedelta, words: str) -> None:
    with pytest.raises(EstFailure, match=words) as failed:
        villain.client(clock=lambda: datetime.now(UTC) + ahead).cacerts()
    assert (failed.value.failure, villain.asked) == (Failure.UNTRUSTED, [])


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1, ssl.TLSVersion.TLSv1_1])
def test_old_tls(villain: Villain, version: ssl.TLSVersion) -> None:
    villain._context.set_ciphers("ALL:@SECLEVEL=0")
    with pytest.warns(DeprecationWarning, match="TLS"):
        villain._context.minimum_version = villain._context.maximum_version = version
    with pytest.raises(EstFailure, match="no TLS connection") as failed:
        villain.client().cacerts()
    assert (failed.value.failure, villain.asked) == (Failure.UNREACHABLE, [])

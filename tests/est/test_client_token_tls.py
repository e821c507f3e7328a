"""TLS with a key in a token: whom it believes, what it says of itself and when, and what keeps it from an answer."""

import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import pytest
import trustme
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from tlslite.api import HandshakeSettings, TLSConnection, X509CertChain, parsePEMKey
from tlslite.messages import Certificate, CertificateVerify
from tlslite.utils.ecdsakey import ECDSAKey

from est.client import EstClient, EstFailure, Failure, KeyKind
from est.client.connection import Stream
from est.client.token import TokenSigner
from est.client.token_tls import _Handshake
from tests.ca.softhsm import needs_softhsm
from tests.est.test_client_hostile import BROKEN, CERTS_ONLY, MARGIN, SECONDS, Villain, whole
from tests.est.tokens import SoftToken, soft_token

pytestmark = needs_softhsm
DAY = timedelta(days=1)
VERSIONS = {"1.2": (3, 3), "1.3": (3, 4)}


@pytest.fixture
def token(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[SoftToken]:
    with soft_token(tmp_path / "softhsm", monkeypatch) as made:
        yield made


@pytest.fixture(params=VERSIONS)
def version(request: pytest.FixtureRequest) -> str:
    return str(request.param)


class Server(Villain):
    """A server of one version of TLS that asks for a certificate, and says which one it was shown."""

    def __init__(self, version: str, names: tuple[str, ...] = ("127.0.0.1",), **certificate: Any) -> None:
        super().__init__(names, **certificate)
        self.shown: list[bytes | None] = []
        self._context.minimum_version = self._context.maximum_version = {
            "1.2": ssl.TLSVersion.TLSv1_2,
            "1.3": ssl.TLSVersion.TLSv1_3,
        }[version]
        self.answer = whole(CERTS_ONLY, b"")

    def show(self, chain: list[x509.Certificate], key: ec.EllipticCurvePrivateKey, folder: Path) -> None:
        """Show this certificate from now on."""
        file = folder / "server.pem"
        pem = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
        file.write_bytes(pem + b"".join(one.public_bytes(Encoding.PEM) for one in chain))
        self._context.load_cert_chain(file)


def refusal(client: EstClient) -> str:
    with pytest.raises(EstFailure) as failed:
        client.cacerts()
    assert failed.value.failure is Failure.UNTRUSTED, failed.value
    return str(failed.value)


def issued(
    *, name: str = "127.0.0.1", usage: Any = x509.ExtendedKeyUsageOID.SERVER_AUTH, begins: timedelta = -DAY,
    ends: timedelta = DAY, is_authority: bool = False, key: Any = None,
) -> tuple[x509.Certificate, x509.Certificate, Any]:  # fmt: skip
    """Return a root, a server's certificate that it issued, and its key."""
    now = datetime.now(UTC)
    root_key, own = (ec.generate_private_key(ec.SECP256R1()) for _ in range(2))
    key = key or own
    root_name, own_name = (x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, one)]) for one in ("root", "own"))

    def builder(subject: x509.Name, public: Any, start: timedelta, end: timedelta, ca: bool) -> x509.CertificateBuilder:
        made = x509.CertificateBuilder().subject_name(subject).issuer_name(root_name).public_key(public)
        made = made.serial_number(x509.random_serial_number()).not_valid_before(now + start).not_valid_after(now + end)
        return made.add_extension(x509.BasicConstraints(ca, None), critical=True)

    root = builder(root_name, root_key.public_key(), -9 * DAY, 9 * DAY, True).sign(root_key, SHA256())
    made = builder(own_name, key.public_key(), begins, ends, is_authority)
    made = made.add_extension(x509.SubjectAlternativeName([x509.DNSName(name), *_addresses(name)]), critical=False)
    if usage is not None:
        made = made.add_extension(x509.ExtendedKeyUsage([usage]), critical=False)
    return root, made.sign(root_key, SHA256()), key


def _addresses(name: str) -> list[x509.GeneralName]:
    return [x509.IPAddress(ip_address(name))] if name[0].isdigit() else []


REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "ended": ({"begins": -2 * DAY, "ends": -DAY}, "has expired; look at this device's clock"),
    "not begun": ({"begins": DAY, "ends": 2 * DAY}, "not valid yet; look at this device's clock"),
    "another name": ({"name": "127.0.0.2"}, "its certificate is not for 127.0.0.1"),
    "no purpose": ({"usage": None}, "is not for servers"),
    "another purpose": ({"usage": x509.ExtendedKeyUsageOID.CLIENT_AUTH}, "is not for servers"),
    "an authority's": ({"is_authority": True}, "authorities do not connect"),
}


@pytest.mark.parametrize("wrong", REFUSED)
def test_a_server_that_is_not_trusted(token: SoftToken, tmp_path: Path, version: str, wrong: str) -> None:
    made, words = REFUSED[wrong]
    root, certificate, key = issued(**made)
    server = Server(version)
    server.show([certificate], key, tmp_path)
    client = server.client(anchors=root.public_bytes(Encoding.PEM), identification=token.identification())
    assert words in refusal(client)
    assert server.asked == []
    server.close()


def test_a_server_that_is_trusted(
    token: SoftToken, tmp_path: Path, version: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its signature is verified by the key that was judged, and not by what the library read."""
    monkeypatch.delattr(ECDSAKey, "verify")
    root, certificate, key = issued()
    server = Server(version)
    server.show([certificate], key, tmp_path)
    client = server.client(anchors=root.public_bytes(Encoding.PEM), identification=token.identification())
    with pytest.raises(EstFailure, match="CMS"):
        client.cacerts()
    assert len(server.asked) == 1
    server.close()


@pytest.mark.parametrize("is_trusted", [True, False])
def test_nothing_is_shown_to_a_server_before_it_is_trusted(
    token: SoftToken, monkeypatch: pytest.MonkeyPatch, is_trusted: bool
) -> None:
    """On TLS 1.2 a client's certificate is sent in the clear: it is in what was sent, or it is not."""
    sent = bytearray()
    send = Stream.sendall

    def listening(stream: Stream, data: bytes) -> None:
        sent.extend(data)
        send(stream, data)

    monkeypatch.setattr(Stream, "sendall", listening)
    server = Server("1.2")
    server._context.verify_mode = ssl.CERT_OPTIONAL
    server._context.load_verify_locations(cadata=trustme.CA().cert_pem.bytes().decode())
    anchors = server.authority.cert_pem.bytes() if is_trusted else trustme.CA().cert_pem.bytes()
    identification = token.identification()
    with pytest.raises(EstFailure):
        server.client(anchors=anchors, identification=identification).cacerts()
    shown = x509.load_pem_x509_certificate(identification.certificate.read_bytes()).public_bytes(Encoding.DER)
    assert (len(sent) > 100, shown in sent) == (True, is_trusted)
    server.close()


def test_another_root(token: SoftToken, version: str) -> None:
    server = Server(version)
    client = server.client(anchors=trustme.CA().cert_pem.bytes(), identification=token.identification())
    assert "not issued by an authority that is trusted here" in refusal(client)
    assert server.asked == []
    server.close()


def test_another_root_of_the_same_name(token: SoftToken, tmp_path: Path, version: str) -> None:
    (root, _, _), (_, certificate, key) = issued(), issued()
    server = Server(version)
    server.show([certificate], key, tmp_path)
    client = server.client(anchors=root.public_bytes(Encoding.PEM), identification=token.identification())
    assert "not issued by an authority that is trusted here" in refusal(client)
    server.close()


@pytest.mark.parametrize("kind", ["its own", "another's"])
def test_a_server_without_the_key_of_its_certificate(token: SoftToken, version: str, kind: str) -> None:
    """A server shows somebody's certificate, and signs with a key of its own."""
    root, certificate, key = issued()
    signs = key if kind == "its own" else ec.generate_private_key(ec.SECP256R1())
    port = tlslite_server(certificate, signs, VERSIONS[version])
    anchors = root.public_bytes(Encoding.PEM)
    client = EstClient(
        f"https://127.0.0.1:{port}", anchors=anchors, identification=token.identification(), timeout_seconds=SECONDS
    )
    with pytest.raises(EstFailure) as failed:
        client.cacerts()
    if kind == "its own":  # which shows that it is the signature that the other fails by
        assert (failed.value.failure, "CMS" in str(failed.value)) == (Failure.MALFORMED, True), failed.value
    else:
        assert (failed.value.failure, "no TLS connection" in str(failed.value)) == (Failure.UNREACHABLE, True)


@pytest.mark.parametrize("is_offered", [True, False])
def test_a_signature_that_was_not_offered(token: SoftToken, monkeypatch: pytest.MonkeyPatch, is_offered: bool) -> None:
    """RFC 8446 4.4.3: PKCS #1 v1.5 signs no CertificateVerify, though it may sign certificates."""
    if not is_offered:
        monkeypatch.setattr(
            TLSConnection,
            "_pickServerKeyExchangeSig",
            staticmethod(lambda _settings, _hello, chain, key, *_: ("rsa_pkcs1_sha256", chain, key)),
        )
    root, certificate, key = issued(key=rsa.generate_private_key(65537, 2048))
    port = tlslite_server(certificate, key, VERSIONS["1.3"])
    anchors = root.public_bytes(Encoding.PEM)
    client = EstClient(
        f"https://127.0.0.1:{port}", anchors=anchors, identification=token.identification(), timeout_seconds=SECONDS
    )
    with pytest.raises(EstFailure, match="CMS" if is_offered else "alert illegal_parameter"):
        client.cacerts()


def tlslite_server(certificate: x509.Certificate, key: Any, version: tuple[int, int]) -> int:
    """Serve one connection with a library that lets a certificate and another key be one's own; return the port."""
    listening = socket.create_server(("127.0.0.1", 0))
    chain = X509CertChain()
    chain.parsePemList(certificate.public_bytes(Encoding.PEM).decode())
    pem = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode()
    private = parsePEMKey(pem, private=True)
    settings = HandshakeSettings()
    settings.minVersion = settings.maxVersion = version
    settings.versions, settings.eccCurves, settings.keyShares = [version], ["x25519", "secp256r1"], []

    def serve() -> None:
        accepted, _ = listening.accept()
        connection = TLSConnection(accepted)
        try:
            connection.handshakeServer(certChain=chain, privateKey=private, settings=settings)
            connection.read(max=65536)
            connection.write(b"HTTP/1.1 200 OK\r\n" + CERTS_ONLY + b"Content-Length: 0\r\n\r\n")
            connection.close()
        except Exception:  # noqa: BLE001, S110 - the client has left, as it should
            pass
        finally:
            accepted.close()
            listening.close()

    threading.Thread(target=serve, daemon=True).start()
    return int(listening.getsockname()[1])


@pytest.mark.parametrize("kind", ["TCP cut", "nothing at all", "silence", "a body that drips", "half a body"])
def test_broken_answers(token: SoftToken, kind: str) -> None:
    villain = Villain()
    villain.answer, failure, words = BROKEN[kind]
    client = villain.client(identification=token.identification())
    began = time.monotonic()
    with pytest.raises(EstFailure) as failed:
        client.cacerts()
    assert (failed.value.failure, time.monotonic() - began < SECONDS + MARGIN) == (failure, True)
    assert words in str(failed.value)
    villain.close()


NOISE: dict[str, Callable[[socket.socket], None]] = {
    "silence": lambda _: time.sleep(SECONDS + MARGIN),
    "another protocol": lambda peer: peer.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n"),
    "an end": lambda _: None,
    "an alert": lambda peer: peer.sendall(b"\x15\x03\x03\x00\x02\x02\x28"),
    "a hello that is cut": lambda peer: peer.sendall(b"\x16\x03\x03\x00\x08\x02\x00\x00\x04\x03\x03\x00\x00"),
    "a record without end": lambda peer: peer.sendall(b"\x16\x03\x03\xff\xff" + bytes(65535)),
}


@pytest.mark.parametrize("noise", NOISE)
def test_what_is_no_handshake(token: SoftToken, noise: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listening:

        def serve() -> None:
            peer, _ = listening.accept()
            with peer:
                peer.recv(65536)
                NOISE[noise](peer)

        threading.Thread(target=serve, daemon=True).start()
        url = f"https://127.0.0.1:{listening.getsockname()[1]}"
        client = EstClient(
            url,
            anchors=trustme.CA().cert_pem.bytes(),
            identification=token.identification(),
            timeout_seconds=SECONDS,
        )
        began = time.monotonic()
        with pytest.raises(EstFailure) as failed:
            client.cacerts()
    assert (failed.value.failure, time.monotonic() - began < SECONDS + MARGIN) == (Failure.UNREACHABLE, True)
    assert str(failed.value).isprintable()


@pytest.mark.parametrize("kind", [KeyKind.P256, KeyKind.RSA2048])
def test_a_wrong_signature_of_the_token_is_not_sent(
    token: SoftToken, monkeypatch: pytest.MonkeyPatch, version: str, kind: KeyKind
) -> None:
    """A token that errs could give its key away (RSA by a fault, ECDSA by its nonce)."""
    sign = TokenSigner._sign

    def errs(signer: TokenSigner, data: bytes, **how: Any) -> bytes:
        made = bytearray(sign(signer, data, **how))
        made[-1] ^= 1
        return bytes(made)

    send, sent = _Handshake._sendMsg, []

    def listening(handshake: _Handshake, message: Any, *rest: Any, **more: Any) -> Iterator[Any]:
        sent.append(type(message))
        return send(handshake, message, *rest, **more)

    server = Server(version)
    server._context.verify_mode = ssl.CERT_REQUIRED
    server._context.load_verify_locations(cadata=server.authority.cert_pem.bytes().decode())
    identification = token.identification(kind)
    monkeypatch.setattr(_Handshake, "_sendMsg", listening)
    for is_sent in (True, False):
        sent.clear()
        with pytest.raises(EstFailure) as failed:
            server.client(identification=identification).cacerts()
        assert (failed.value.failure, server.asked) == (Failure.UNREACHABLE, [])
        assert (Certificate in sent, CertificateVerify in sent) == (True, is_sent)
        monkeypatch.setattr(TokenSigner, "_sign", errs)
    server.close()


def test_a_certificate_of_another_key(token: SoftToken) -> None:
    identification = token.identification()
    _, certificate, _ = issued()
    identification.certificate.write_bytes(certificate.public_bytes(Encoding.PEM))
    with pytest.raises(EstFailure, match="the certificate is that of another key") as failed:
        EstClient("https://127.0.0.1:9", anchors=b"", identification=identification)._exchange((), "GET", "cacerts")
    assert failed.value.failure is Failure.UNUSABLE

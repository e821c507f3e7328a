"""The server's side of TLS against Python's own `ssl` and against pyOpenSSL, byte by byte and without a socket."""

import os
import ssl
from collections.abc import Iterator
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import trustme
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from OpenSSL import SSL

from doorward.admission import Admission, Refusal, throttled_address
from doorward.tls import ServerIdentity, ServerIdentityError, ServerSession, ServerTLS, TLSFailure

VERSIONS = pytest.mark.parametrize(
    "version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3], ids=["TLSv1.2", "TLSv1.3"]
)
AUTHORITY = trustme.CA(key_type=trustme.KeyType.ECDSA)
NOW = datetime.now(UTC)


def identity(*names: str) -> ServerIdentity:
    return from_leaf(AUTHORITY.create_child_ca().issue_cert(*(names or ("localhost",))))


def from_leaf(leaf: trustme.LeafCert) -> ServerIdentity:
    chain = b"".join(pem.bytes() for pem in leaf.cert_chain_pems)
    return ServerIdentity.from_pem(chain, leaf.private_key_pem.bytes())


@pytest.fixture(scope="module")
def asking() -> ServerTLS:
    return ServerTLS(identity(), ask_client_certificate=True)


def client_context(version: ssl.TLSVersion | None = None) -> ssl.SSLContext:
    context = ssl.create_default_context()
    AUTHORITY.configure_trust(context)
    if version is not None:
        context.minimum_version = context.maximum_version = version
    return context


class Conversation:
    """A client of the standard library and a `ServerSession`, with the bytes carried between them by hand."""

    def __init__(self, tls: ServerTLS, context: ssl.SSLContext, session: ssl.SSLSession | None = None) -> None:
        self.server = ServerSession(tls.context)
        self.to_client = ssl.MemoryBIO()
        self.to_server = ssl.MemoryBIO()
        self.client = context.wrap_bio(self.to_client, self.to_server, server_hostname="localhost", session=session)
        self.heard = b""

    def carry(self) -> None:
        """Carry what the client has said to the server, and the server's reply back."""
        try:
            self.heard += self.server.receive(memoryview(self.to_server.read()))
        finally:
            self.to_client.write(self.server.take_outgoing())

    def shake_hands(self) -> "Conversation":
        for _ in range(4):
            try:
                self.client.do_handshake()
            except ssl.SSLWantReadError:
                self.carry()
            else:
                break
        self.carry()
        return self

    def client_reads(self) -> bytes:
        pieces = []
        try:
            while piece := self.client.read(65_536):
                pieces.append(piece)
        except (ssl.SSLWantReadError, ssl.SSLZeroReturnError):
            pass
        return b"".join(pieces)


@VERSIONS
def test_both_versions_are_spoken_and_carry_data_both_ways(asking: ServerTLS, version: ssl.TLSVersion) -> None:
    talk = Conversation(asking, client_context(version)).shake_hands()
    assert talk.server.is_established
    assert talk.server.protocol() == talk.client.version() == version.name.replace("_", ".")
    talk.client.write(b"question")
    talk.carry()
    talk.to_client.write(talk.server.send(b"answer"))
    assert (talk.heard, talk.client_reads()) == (b"question", b"answer")


@VERSIONS
def test_eight_megabytes_arrive_equal_both_ways(asking: ServerTLS, version: ssl.TLSVersion) -> None:
    talk = Conversation(asking, client_context(version)).shake_hands()
    document = os.urandom(8 * 1024 * 1024 + 7)
    talk.client.write(document)
    talk.carry()
    assert talk.heard == document
    talk.to_client.write(talk.server.send(memoryview(document)))
    assert talk.client_reads() == document


@pytest.mark.filterwarnings("ignore:ssl.TLSVersion.TLSv1_1 is deprecated:DeprecationWarning")
def test_tls_1_1_is_refused_with_an_alert(asking: ServerTLS) -> None:
    context = client_context()
    context.set_ciphers("ALL:@SECLEVEL=0")
    context.minimum_version = context.maximum_version = ssl.TLSVersion.TLSv1_1
    talk = Conversation(asking, context)
    with pytest.raises(TLSFailure, match="unsupported protocol"):
        talk.shake_hands()
    with pytest.raises(ssl.SSLError, match="PROTOCOL_VERSION"):
        talk.client.do_handshake()


@pytest.mark.parametrize("cipher", ["ECDHE-ECDSA-AES128-SHA", "ECDHE-ECDSA-AES128-SHA256", "AES128-GCM-SHA256"])
def test_a_cipher_without_forward_secrecy_or_authenticated_encryption_is_refused(
    asking: ServerTLS, cipher: str
) -> None:
    context = client_context(ssl.TLSVersion.TLSv1_2)
    context.set_ciphers(cipher)
    with pytest.raises(TLSFailure, match="no shared cipher"):
        Conversation(asking, context).shake_hands()


@VERSIONS
@pytest.mark.parametrize("asks", [True, False])
def test_no_session_is_resumed(version: ssl.TLSVersion, asks: bool) -> None:
    tls = ServerTLS(identity(), ask_client_certificate=asks)
    context = client_context(version)
    first = Conversation(tls, context).shake_hands()
    first.to_client.write(first.server.send(b"the tickets of TLS 1.3 come before this"))
    assert first.client_reads()
    session = first.client.session
    assert session is not None
    assert version is ssl.TLSVersion.TLSv1_3 or not session.has_ticket
    second = Conversation(tls, context, session).shake_hands()
    assert second.server.is_established
    assert not second.client.session_reused


def self_signed(*, days: range, authority: bool = False, key: ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey) -> bytes:
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "anyone\x00else")])
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(NOW + timedelta(days.start))
        .not_valid_after(NOW + timedelta(days.stop))
        .add_extension(x509.BasicConstraints(ca=authority, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    return certificate.public_bytes(serialization.Encoding.PEM)


def unlikely_certificates() -> Iterator[tuple[str, bytes, bytes]]:
    """Yield a name, certificates in PEM and a key in PEM."""

    def key_pem(key: ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey) -> bytes:
        return key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )

    key = ec.generate_private_key(ec.SECP256R1())
    weak = rsa.generate_private_key(65_537, 1_024)  # noqa: S505 - weak on purpose
    yield "self-signed", self_signed(days=range(-1, 1), key=key), key_pem(key)
    yield "expired", self_signed(days=range(-9, -1), key=key), key_pem(key)
    yield "not yet valid", self_signed(days=range(1, 9), key=key), key_pem(key)
    yield "an authority's", self_signed(days=range(-1, 1), authority=True, key=key), key_pem(key)
    yield "of a weak key", self_signed(days=range(-1, 1), key=weak), key_pem(weak)
    foreign = trustme.CA().create_child_ca().create_child_ca().issue_cert("device.example")
    chain = b"".join(pem.bytes() for pem in foreign.cert_chain_pems)
    yield "foreign, with two intermediates", chain, foreign.private_key_pem.bytes()


@VERSIONS
@pytest.mark.parametrize(("kind", "chain", "key"), [*unlikely_certificates()])
def test_any_certificate_is_accepted_and_handed_on_byte_for_byte(
    asking: ServerTLS, version: ssl.TLSVersion, kind: str, chain: bytes, key: bytes, tmp_path: Path
) -> None:
    context = client_context(version)
    context.set_ciphers("DEFAULT:@SECLEVEL=0")
    (tmp_path / "client.pem").write_bytes(chain + key)
    context.load_cert_chain(tmp_path / "client.pem")
    talk = Conversation(asking, context).shake_hands()
    assert talk.server.is_established, kind
    expected = [each.public_bytes(serialization.Encoding.DER) for each in x509.load_pem_x509_certificates(chain)]
    assert list(talk.server.peer_chain()) == expected


def test_no_certificate_is_an_empty_chain(asking: ServerTLS) -> None:
    assert Conversation(asking, client_context()).shake_hands().server.peer_chain() == ()


def test_a_listener_that_does_not_ask_gets_none(tmp_path: Path) -> None:
    context = client_context()
    AUTHORITY.issue_cert("device.example").private_key_and_cert_chain_pem.write_to_path(str(tmp_path / "client.pem"))
    context.load_cert_chain(tmp_path / "client.pem")
    talk = Conversation(ServerTLS(identity(), ask_client_certificate=False), context).shake_hands()
    assert talk.server.is_established
    assert talk.server.peer_chain() == ()


def test_a_certificate_whose_key_is_not_proved_is_refused(asking: ServerTLS, tmp_path: Path) -> None:
    context = client_context(ssl.TLSVersion.TLSv1_2)
    AUTHORITY.issue_cert("device.example").private_key_and_cert_chain_pem.write_to_path(str(tmp_path / "client.pem"))
    context.load_cert_chain(tmp_path / "client.pem")
    talk = Conversation(asking, context)
    with pytest.raises(ssl.SSLWantReadError):
        talk.client.do_handshake()
    talk.carry()
    with pytest.raises(ssl.SSLWantReadError):
        talk.client.do_handshake()
    flight = bytearray(talk.to_server.read())
    position = 0
    while flight[position + 5] != 15:  # CertificateVerify, in the clear in TLS 1.2
        position += 5 + int.from_bytes(flight[position + 3 : position + 5])
    end = position + 5 + int.from_bytes(flight[position + 3 : position + 5])
    flight[end - 1] ^= 1
    with pytest.raises(TLSFailure, match="signature"):
        talk.server.receive(memoryview(flight))
    assert not talk.server.is_established


def test_a_client_of_today_agrees_on_a_key_that_a_quantum_computer_does_not_find(asking: ServerTLS) -> None:
    context = SSL.Context(SSL.TLS_CLIENT_METHOD)
    client, server = SSL.Connection(context, None), ServerSession(asking.context)
    client.set_connect_state()
    for _ in range(4):
        with suppress(SSL.WantReadError):
            client.do_handshake()
        with suppress(SSL.WantReadError):
            server.receive(memoryview(client.bio_read(65_536)))
        if answer := server.take_outgoing():
            client.bio_write(answer)
    assert server.is_established
    assert client.get_group_name() == "X25519MLKEM768"  # RFC 9794's hybrid, as draft-ietf-tls-ecdhe-mlkem names it


def test_tls_unique_is_the_same_at_both_ends(asking: ServerTLS) -> None:
    talk = Conversation(asking, client_context(ssl.TLSVersion.TLSv1_2)).shake_hands()
    assert talk.server.channel_binding() == talk.client.get_channel_binding("tls-unique")
    assert len(talk.server.channel_binding()) == 12


def openssl_conversation(tls: ServerTLS, version: int) -> tuple[ServerSession, SSL.Connection]:
    context = SSL.Context(SSL.TLS_CLIENT_METHOD)
    context.set_max_proto_version(version)
    client = SSL.Connection(context, None)
    client.set_connect_state()
    server = ServerSession(tls.context)
    while not server.is_established:
        with suppress(SSL.WantReadError):
            client.do_handshake()
        server.receive(memoryview(client.bio_read(65_536)))
        if reply := server.take_outgoing():
            client.bio_write(reply)
    client.do_handshake()
    return server, client


def test_the_exporter_gives_the_same_at_both_ends_and_another_for_each_connection(asking: ServerTLS) -> None:
    server, client = openssl_conversation(asking, SSL.TLS1_3_VERSION)
    value = server.channel_binding()
    assert value == client.export_keying_material(b"EXPORTER-Channel-Binding", 32, b"")
    assert len(value) == 32
    another, _ = openssl_conversation(asking, SSL.TLS1_3_VERSION)
    assert another.channel_binding() != value


def test_renegotiation_is_refused(asking: ServerTLS) -> None:
    server, client = openssl_conversation(asking, SSL.TLS1_2_VERSION)
    client.renegotiate()
    with pytest.raises(SSL.WantReadError):
        client.do_handshake()
    assert server.receive(memoryview(client.bio_read(65_536))) == b""
    client.bio_write(server.take_outgoing())
    with pytest.raises(SSL.Error, match="no renegotiation"):
        client.do_handshake()


@pytest.mark.parametrize(
    ("offered", "agreed"), [([], None), (["http/1.1"], "http/1.1"), (["h2", "http/1.1"], "http/1.1")]
)
def test_http_1_1_is_agreed_on(asking: ServerTLS, offered: list[str], agreed: str | None) -> None:
    context = client_context()
    context.set_alpn_protocols(offered)
    assert Conversation(asking, context).shake_hands().client.selected_alpn_protocol() == agreed


def test_a_client_of_other_protocols_is_refused(asking: ServerTLS) -> None:
    context = client_context()
    context.set_alpn_protocols(["h2"])
    talk = Conversation(asking, context)
    with pytest.raises(TLSFailure, match="no application protocol in common"):
        talk.shake_hands()
    with pytest.raises(ssl.SSLError, match=r"(?i)no.application.protocol"):
        talk.client.do_handshake()
    assert Conversation(asking, client_context()).shake_hands().server.is_established


@pytest.mark.parametrize(
    "noise", [b"GET / HTTP/1.1\r\n\r\n", b"\x00" * 512, b"\x16\x03\x01\x40\x00" + b"\xff" * 20_000]
)
def test_what_is_not_tls_is_refused(asking: ServerTLS, noise: bytes) -> None:
    with pytest.raises(TLSFailure):
        ServerSession(asking.context).receive(memoryview(noise))


def test_a_tampered_record_is_refused(asking: ServerTLS) -> None:
    talk = Conversation(asking, client_context()).shake_hands()
    talk.client.write(b"pay 10")
    record = bytearray(talk.to_server.read())
    record[-1] ^= 1
    with pytest.raises(TLSFailure, match="bad record mac"):
        talk.server.receive(memoryview(record))


@VERSIONS
def test_the_clients_close_notify_ends_its_half_alone(asking: ServerTLS, version: ssl.TLSVersion) -> None:
    talk = Conversation(asking, client_context(version)).shake_hands()
    talk.client.write(b"last words")
    with pytest.raises(ssl.SSLWantReadError):
        talk.client.unwrap()
    closing = talk.to_server.read()
    assert talk.server.receive(memoryview(closing + b"\x17\x03\x03\x00\x01x")) == b"last words"
    assert talk.server.peer_has_closed
    assert talk.server.receive(memoryview(b"anything")) == b""
    answer = talk.server.send(b"answer")
    talk.server.shut_down()
    talk.to_client.write(answer + talk.server.take_outgoing())
    assert talk.client_reads() == b"answer"


@VERSIONS
def test_our_close_notify_is_the_clients_end_of_file(asking: ServerTLS, version: ssl.TLSVersion) -> None:
    talk = Conversation(asking, client_context(version)).shake_hands()
    assert not talk.server.peer_has_closed
    talk.server.shut_down()
    with pytest.raises(ssl.SSLWantReadError):
        talk.client.read(1)
    talk.to_client.write(talk.server.take_outgoing())
    assert talk.client.read(1) == b""


def test_another_certificate_serves_from_the_next_connection_on() -> None:
    old, new = identity(), identity()
    tls = ServerTLS(old, ask_client_certificate=True)
    living = Conversation(tls, client_context()).shake_hands()
    tls.replace(new)
    following = Conversation(tls, client_context()).shake_hands()
    shown = [each.client.getpeercert(binary_form=True) for each in (living, following)]
    assert shown == [each.certificates[0].public_bytes(serialization.Encoding.DER) for each in (old, new)]
    living.client.write(b"still here")
    living.carry()
    assert living.heard == b"still here"


def test_an_identity_that_tls_cannot_use_leaves_the_present_one_in_place() -> None:
    present = identity()
    tls = ServerTLS(present, ask_client_certificate=False)
    weak = rsa.generate_private_key(65_537, 1_024)  # noqa: S505 - weak on purpose
    certificate = x509.load_pem_x509_certificate(self_signed(days=range(-1, 1), key=weak))
    with pytest.raises(ServerIdentityError, match="TLS cannot use this certificate and key"):
        tls.replace(ServerIdentity((certificate,), weak))
    assert tls.identity is present
    assert Conversation(tls, client_context()).shake_hands().server.is_established


def test_an_identity_keeps_its_key_to_itself() -> None:
    read = from_leaf(AUTHORITY.issue_cert("localhost"))
    assert read.not_after == read.certificates[0].not_valid_after_utc
    assert "private" not in repr(read)


def test_an_identity_that_does_not_fit_together_is_refused() -> None:
    leaf, other = AUTHORITY.issue_cert("localhost"), AUTHORITY.issue_cert("localhost")
    certificate, key = leaf.cert_chain_pems[0].bytes(), leaf.private_key_pem.bytes()
    with pytest.raises(ServerIdentityError, match="not that of the first"):
        ServerIdentity.from_pem(certificate, other.private_key_pem.bytes())
    with pytest.raises(ServerIdentityError, match="no certificate"):
        ServerIdentity((), serialization.load_pem_private_key(key, None))
    for chain, secret in ((b"", key), (certificate, b""), (b"\x00", b"\x00"), (key, certificate)):
        with pytest.raises(ServerIdentityError):
            ServerIdentity.from_pem(chain, secret)


def test_a_listener_admits_by_count_and_says_why_not() -> None:
    admission = Admission(
        max_connections=4, max_connections_per_address=3, max_handshakes=3, max_handshakes_per_address=2
    )
    assert [admission.enter("a"), admission.enter("a")] == [None, None]
    assert admission.enter("a") is Refusal.HANDSHAKES_OF_ADDRESS
    assert admission.enter("b") is None
    assert admission.enter("c") is Refusal.HANDSHAKES
    admission.end_handshake("a")
    assert admission.enter("a") is None
    for address in ("a", "a", "b"):
        admission.end_handshake(address)
    assert admission.enter("c") is Refusal.CONNECTIONS
    admission.leave("b")
    assert admission.enter("a") is Refusal.CONNECTIONS_OF_ADDRESS
    assert admission.enter("c") is None
    assert (admission.connections, admission.handshakes) == (4, 1)
    assert admission.refused.total() == 4


@pytest.mark.parametrize(
    ("peername", "address"),
    [
        (("192.0.2.7", 1), "192.0.2.7"),
        (("2001:db8:1:2:aaaa::7", 1, 0, 0), "2001:db8:1:2::/64"),
        (("2001:db8:1:2:bbbb::7", 1, 0, 0), "2001:db8:1:2::/64"),
        (("::ffff:192.0.2.7", 1, 0, 0), "192.0.2.7"),
        (("fe80::1%eth0", 1, 0, 2), "fe80::/64"),
        ("", "local"),
        (None, "local"),
    ],
)
def test_limits_count_by_what_one_host_may_call_itself(peername: object, address: str) -> None:
    assert throttled_address(peername) == address

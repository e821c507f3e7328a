"""TLS with a key in a PKCS#11 token, on tlslite-ng: written in Python, it lets anything that can sign be the key.

pyOpenSSL's and the standard library's OpenSSL load neither engines nor providers, so they take keys from memory alone.

1. The rules of `est.client.connection` hold. The library judges no chain: `est.client.trust` does, in the moment in
   which the server shows it, before the client says anything of itself. A handshake in which nothing was judged fails.
2. The server's signature is verified by `cryptography`, with the key of the certificate that was judged, and only if it
   is by an algorithm that was offered: SHA-256 and up; ECDSA, Ed25519, RSA of 2048 bits and more.
3. What the token signs is verified before it is sent: a token that fails now and then gives nothing away.
4. Whatever the library raises at what a stranger sent is a broken connection.

The keys of the one connection are handled by Python code whose time depends on them. So this does not hold against
somebody on the device who measures that; the token's own key is not among them.

Needs `doorward[pkcs11]`.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, padding, rsa
from cryptography.hazmat.primitives.asymmetric.utils import Prehashed
from cryptography.hazmat.primitives.hashes import SHA256, SHA384, SHA512, HashAlgorithm
from cryptography.hazmat.primitives.serialization import Encoding, load_der_public_key
from tlslite.constants import AlertDescription, CipherSuite
from tlslite.errors import TLSAbruptCloseError, TLSAlert, TLSLocalAlert
from tlslite.handshakesettings import HandshakeSettings
from tlslite.messages import Certificate, CertificateVerify, Finished
from tlslite.tlsconnection import TLSConnection
from tlslite.utils.cryptomath import derive_secret
from tlslite.x509 import X509
from tlslite.x509certchain import X509CertChain

from certs.errors import CertificateRefused
from certs.pem import read_certificates
from est.client.connection import EXPORTER_BYTES, EXPORTER_LABEL, RECORD_BYTES, Connection, Deadline, Peer, Stream
from est.client.failure import EstFailure, Failure
from est.client.keys import KeyUnusable
from est.client.token import TokenSigner, open_key
from est.client.token_uri import TokenKey
from est.client.trust import judge_server

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer

_TLS_1_2, _TLS_1_3 = (3, 3), (3, 4)
_NAMES = {_TLS_1_2: "TLSv1.2", _TLS_1_3: "TLSv1.3"}
_HASH_NAMES = ["sha256", "sha384", "sha512"]
_HASHES: dict[str, HashAlgorithm] = {"sha256": SHA256(), "sha384": SHA384(), "sha512": SHA512()}
_BY_LENGTH: dict[int, HashAlgorithm] = {one.digest_size: one for one in _HASHES.values()}
_CURVES = {"secp256r1": "NIST256p", "secp384r1": "NIST384p", "secp521r1": "NIST521p"}
"""Curves, as `cryptography` and as the library calls them."""


@dataclass(frozen=True, slots=True)
class TokenIdentification:
    """How a client shows who it is in TLS: its certificate (with intermediates, leaf first) and a key in a token."""

    certificate: Path
    key: TokenKey

    def connect(self, peer: Peer, deadline: Deadline) -> Connection:
        """Connect as `est.client.connection.Identifying` says."""
        try:
            chain = read_certificates(self.certificate.read_bytes())
            key = _Key.of(open_key(self.key), chain[0])
        except (OSError, CertificateRefused, KeyUnusable) as error:
            raise self._unusable(error) from error
        try:
            return _TokenConnection(peer, _shown(chain, key), key, deadline)
        except KeyUnusable as error:
            raise self._unusable(error) from error

    def _unusable(self, error: Exception) -> EstFailure:
        sentence = f"certificate {self.certificate} and key {self.key} cannot be used: {error}"
        return EstFailure(Failure.UNUSABLE, sentence)


def _shown(chain: tuple[x509.Certificate, ...], key: "_Key") -> X509CertChain:
    """Return a client's chain as the library wants it, which need not understand it for that."""
    found = []
    for one in chain:
        made = X509()
        made.bytes = bytearray(one.public_bytes(Encoding.DER))
        found.append(made)
    found[0].certAlg, found[0].publicKey = key.key_type, key
    return X509CertChain(found)


class _Key:
    """A key as the library wants one: it signs by the token if it is the client's, and verifies by `cryptography`."""

    def __init__(self, public: object, signer: TokenSigner | None = None) -> None:
        self._public = public
        self._signer = signer
        self._bits = 0
        match public:
            case ec.EllipticCurvePublicKey() if public.curve.name in _CURVES:
                self.key_type = "ecdsa"
                self.curve_name = _CURVES[public.curve.name]
                self._bits = public.key_size
                self.public_key = self.private_key = SimpleNamespace(
                    curve=SimpleNamespace(baselen=(public.key_size + 7) // 8)
                )
            case rsa.RSAPublicKey():
                self.key_type = "rsa"
                self.n = public.public_numbers().n
                self._bits = public.key_size
            case ed25519.Ed25519PublicKey() if signer is None:
                self.key_type = "Ed25519"
            case _:
                raise KeyUnusable("TLS is not made with such a key here")

    @classmethod
    def of(cls, signer: TokenSigner, certificate: x509.Certificate) -> "_Key":
        """Return the client's key, which is that of its certificate; raise `KeyUnusable`."""
        public = load_der_public_key(signer.spki)
        if certificate.public_key() != public:
            raise KeyUnusable("the certificate is that of another key")
        return cls(public, signer)

    def __len__(self) -> int:
        return self._bits

    def __bool__(self) -> bool:
        return True

    def sign(
        self,
        data: bytes,
        padding: str | None = None,
        hashAlg: str | None = None,  # noqa: N803 - the library's name
        saltLen: int | None = None,  # noqa: N803, ARG002 - the same; as long as the hash
    ) -> bytearray:
        """Sign a hash, or for PKCS #1 v1.5 a DigestInfo; raise `KeyUnusable`."""
        assert self._signer is not None  # noqa: S101 - only the client's own key is asked to sign
        content = bytes(data)
        if self.key_type == "ecdsa":
            return bytearray(self._signer.ecdsa(content))
        if padding == "pss":
            return bytearray(self._signer.pss(content, str(hashAlg)))
        return bytearray(self._signer.pkcs1(content))

    def verify(
        self,
        signature: bytes,
        data: bytes,
        padding: str | None = None,
        hashAlg: str | None = None,  # noqa: N803 - the library's names
        saltLen: int | None = None,  # noqa: N803 - the same
    ) -> bool:
        """Say whether this is the signature of a hash, or for PKCS #1 v1.5 without a hash's name of a DigestInfo."""
        try:
            self._verify(bytes(signature), bytes(data), padding, hashAlg, saltLen)
        except (InvalidSignature, ValueError, KeyError):
            return False
        return True

    def hashAndVerify(self, signature: bytes, data: bytes, *_: object) -> bool:  # noqa: N802 - the library's name
        """Say whether this is the signature of data that the algorithm hashes by itself."""
        try:
            self._verify(bytes(signature), bytes(data), None, None, None)
        except (InvalidSignature, ValueError):
            return False
        return True

    def _verify(
        self, signature: bytes, data: bytes, scheme: str | None, hash_name: str | None, salt: int | None
    ) -> None:
        match self._public:
            case ec.EllipticCurvePublicKey():
                self._public.verify(signature, data, ec.ECDSA(Prehashed(_BY_LENGTH[len(data)])))
            case ed25519.Ed25519PublicKey():
                self._public.verify(signature, data)
            case rsa.RSAPublicKey() if scheme == "pss":
                hashed = _HASHES[str(hash_name)]
                padded = padding.PSS(padding.MGF1(hashed), salt or 0)
                self._public.verify(signature, data, padded, Prehashed(hashed))
            case rsa.RSAPublicKey() if hash_name is not None:
                self._public.verify(signature, data, padding.PKCS1v15(), Prehashed(_HASHES[hash_name]))
            case rsa.RSAPublicKey():
                if self._public.recover_data_from_signature(signature, padding.PKCS1v15(), None) != data:
                    raise InvalidSignature


class _Handshake(TLSConnection):  # type: ignore[misc]  # the library has no types
    """The library's connection, with the judgement of rule 1 in the midst of its handshake."""

    def __init__(self, stream: Stream, peer: Peer, offered: frozenset[tuple[int, int]]) -> None:
        super().__init__(stream)
        self._peer = peer
        self._offered = offered
        self.is_judged = False
        self.failure: EstFailure | None = None
        self.first_finished = b""
        self._until_server_finished: Any = None

    def exported(self) -> bytes:
        """Return what the exporter of TLS 1.3 gives for a channel binding (RFC 8446 7.5)."""
        hash_name = "sha384" if self.session.cipherSuite in CipherSuite.sha384PrfSuites else "sha256"
        # RFC 8446 7.1: the exporter's secret stands on the messages up to the server's Finished. The library goes on to
        # the client's certificate, which no other end of a connection does.
        self.session.exporterMasterSecret = derive_secret(
            self.session.masterSecret, bytearray(b"exp master"), self._until_server_finished, hash_name
        )
        return bytes(self.keyingMaterialExporter(bytearray(EXPORTER_LABEL), EXPORTER_BYTES))

    def _getMsg(self, *expected: Any, **more: Any) -> Iterator[Any]:  # noqa: N802, ANN401 - the library's
        for message in super()._getMsg(*expected, **more):
            if isinstance(message, Certificate) and not self.is_judged:
                yield from self._judge(message)
            elif isinstance(message, Finished):
                self._until_server_finished = self._handshake_hash.copy()
            elif isinstance(message, CertificateVerify) and tuple(message.signatureAlgorithm) not in self._offered:
                yield from self._sendError(AlertDescription.illegal_parameter, "a signature that was not offered")
            yield message

    def _sendMsg(self, message: Any, *rest: Any, **more: Any) -> Iterator[Any]:  # noqa: N802, ANN401 - the library's
        if isinstance(message, Finished) and not self.first_finished:
            self.first_finished = bytes(message.verify_data)
        yield from super()._sendMsg(message, *rest, **more)

    def _judge(self, message: Any) -> Iterator[Any]:  # noqa: ANN401 - the library's
        shown = message.cert_chain.x509List if message.cert_chain is not None else []
        chain = [bytes(one.bytes) for one in shown]
        try:
            leaf = judge_server(self._peer.host, chain, self._peer.roots or (), self._peer.now)
            shown[0].publicKey = _Key(leaf.public_key())  # the one that was judged, however the library read it
        except EstFailure as failure:
            self.failure = failure
        except KeyUnusable as error:
            self.failure = EstFailure(Failure.UNTRUSTED, f"the server {self._peer.host} is not trusted: {error}")
        if self.failure is not None:
            yield from self._sendError(AlertDescription.bad_certificate)
        self.is_judged = True


class _TokenConnection(Connection):
    def __init__(self, peer: Peer, shown: X509CertChain, key: _Key, deadline: Deadline) -> None:
        super().__init__()
        settings = _settings()
        self._stream = Stream(peer.host, peer.port, deadline)
        # A server signs by itself in TLS 1.3 alone; what TLS 1.2 would allow is not for that (RFC 8446 4.4.3).
        offered = frozenset(map(tuple, TLSConnection._sigHashesToList(settings, version=_TLS_1_3)))  # noqa: SLF001 - the library has no other
        self._tls = _Handshake(self._stream, peer, offered)
        try:
            self._shake_hands(peer, shown, key, settings)
        except BaseException:
            self._stream.close()
            raise

    def channel_binding(self) -> bytes:
        """Return what only the two ends of this connection know."""
        return self._tls.exported() if self._tls.version == _TLS_1_3 else self._tls.first_finished

    def protocol(self) -> str:
        """Return the protocol's name."""
        return _NAMES[self._tls.version]

    def readinto(self, buffer: "WriteableBuffer") -> int:
        """Read what is there, at least a byte; 0 at the end that the server declared."""
        view = memoryview(buffer).cast("B")
        try:
            data = self._tls.read(max=min(len(view), RECORD_BYTES), min=1)
        except Exception as error:
            raise _broken(error) from error
        view[: len(data)] = data
        return len(data)

    def sendall(self, data: bytes) -> None:
        """Send all of it."""
        try:
            self._tls.write(data)
        except Exception as error:
            raise _broken(error) from error

    def close(self) -> None:
        """Close it, with what courtesy needs no waiting."""
        if not self.closed:
            try:
                self._tls.close()
            except Exception:  # noqa: BLE001, S110 - rule 4; and the connection has ended already
                pass
            finally:
                self._stream.close()
        super().close()

    def _shake_hands(self, peer: Peer, shown: X509CertChain, key: _Key, settings: HandshakeSettings) -> None:
        try:
            self._tls.handshakeClientCert(shown, key, settings=settings, serverName=peer.server_name(), reqTack=False)
        except (OSError, KeyUnusable):
            raise
        except Exception as error:
            if self._tls.failure is not None:
                raise self._tls.failure from error
            raise ConnectionError(f"no TLS connection: {_words(error)}") from error
        if not self._tls.is_judged:
            raise EstFailure(Failure.UNTRUSTED, f"the server {peer.host} is not trusted: it showed no certificate")


def _settings() -> HandshakeSettings:
    """Return what is offered: as `est.client.tls` offers it, as far as the library has it."""
    settings = HandshakeSettings()
    settings.minVersion, settings.maxVersion = _TLS_1_2, _TLS_1_3
    settings.versions = [_TLS_1_3, _TLS_1_2]
    settings.cipherNames = ["aes256gcm", "chacha20-poly1305", "aes128gcm"]
    settings.macNames = ["aead"]
    settings.keyExchangeNames = ["ecdhe_ecdsa", "ecdhe_rsa"]
    settings.eccCurves = ["x25519", "secp256r1", "secp384r1", "secp521r1"]
    settings.keyShares = ["x25519"]
    settings.dhGroups = []
    settings.minKeySize = 2048
    settings.rsaSigHashes = settings.ecdsaSigHashes = _HASH_NAMES
    settings.dsaSigHashes = []
    settings.more_sig_schemes = ["Ed25519"]
    settings.use_heartbeat_extension = False
    settings.certificate_compression_send = []
    settings.certificate_compression_receive = []
    return settings


def _broken(error: Exception) -> OSError:
    return error if isinstance(error, OSError) else ConnectionError(f"the connection broke: {_words(error)}")


def _words(error: Exception) -> str:
    if isinstance(error, KeyError | SyntaxError):
        return f"what the server shows is not understood here ({error})"
    if isinstance(error, TLSAbruptCloseError):
        return "it ended before the server said so"
    if isinstance(error, TLSAlert):
        said = f" ({error.message})" if isinstance(error, TLSLocalAlert) and error.message else ""
        return f"alert {AlertDescription.toStr(error.description)}{said}"
    return str(error) or type(error).__name__

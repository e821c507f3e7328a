"""A key that the server made: taken out of every envelope that it can be in, and out of no other."""

import os
from base64 import encodebytes
from collections.abc import Callable, Iterator
from contextlib import suppress

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from certs.cms import SharedSecret, SigningIdentity, envelop, signed_key_package
from certs.cms_algorithms import ContentCipher
from certs.csr import parse_keyless_request
from certs.pkcs7 import certs_only
from est.client import EstFailure, Failure, KeyKind, enrolment_request, make_key
from est.client.client import ServerMade
from est.client.keys import KeyUnusable, PrivateKey, public_bytes
from est.client.opening import Opener, PrivateKeyOpener, SecretOpener, open_key, opener_of
from tests.est.test_client_folder import certificate
from tests.est.test_client_hostile import Villain, whole

SIGNING_KEY = ec.generate_private_key(ec.SECP256R1())
SIGNER = SigningIdentity((certificate(SIGNING_KEY),), SIGNING_KEY)
OWN = {kind: make_key(kind) for kind in (KeyKind.RSA2048, KeyKind.P256, KeyKind.P384, KeyKind.P521)}
OPENERS: dict[str, Opener] = {
    **{f"secret {length}": SecretOpener(b"meter", os.urandom(length)) for length in (16, 24, 32)},
    **{str(kind): opener_of(key) for kind, key in OWN.items()},
}


def pkcs8(key: PrivateKey) -> bytes:
    return key.private_bytes(Encoding.DER, PrivateFormat.PKCS8, NoEncryption())


def sent_to(name: str, key: PrivateKey, cipher: ContentCipher | None = None) -> bytes:
    """Encrypt as the server does, to what the opener's own request says."""
    opener = OPENERS[name]
    request = enrolment_request(make_key(), "meter-001")
    wanted = parse_keyless_request(
        type(request)(request.signer, request.subject, request.extensions, opener.attributes()).sign()
    ).protection
    assert wanted is not None
    if isinstance(opener, SecretOpener):
        recipient = wanted.to_secret(opener.secret)
    else:
        assert isinstance(opener, PrivateKeyOpener)
        recipient = wanted.to_certificate(certificate(opener.key))
    return envelop(signed_key_package(pkcs8(key), SIGNER), recipient, cipher or wanted.cipher(), os.urandom)


@pytest.mark.parametrize("cipher", [None, *ContentCipher], ids=str)
@pytest.mark.parametrize("name", OPENERS)
def test_every_envelope(name: str, cipher: ContentCipher | None) -> None:
    for made in (make_key(), make_key(KeyKind.ED25519)):
        assert public_bytes(open_key(sent_to(name, made, cipher), OPENERS[name])) == public_bytes(made)


@pytest.mark.parametrize("name", OPENERS)
def test_what_is_for_somebody_else(name: str) -> None:
    envelope = sent_to(name, make_key())
    for other in (SecretOpener(b"meter", os.urandom(16)), opener_of(make_key()), opener_of(make_key(KeyKind.RSA2048))):
        with pytest.raises(EstFailure, match="cannot be taken out of its envelope") as failed:
            open_key(envelope, other)
        assert failed.value.failure is Failure.MALFORMED


def spoiled(envelope: bytes) -> Iterator[bytes]:
    yield b""
    yield envelope + b"\0"
    for length in range(1, len(envelope), 37):
        yield envelope[:length]
    for at in range(0, len(envelope), 11):
        yield envelope[:at] + bytes([envelope[at] ^ 0x55]) + envelope[at + 1 :]


@pytest.mark.parametrize("cipher", [ContentCipher.AES_256_CBC, ContentCipher.AES_256_GCM], ids=str)
@pytest.mark.parametrize("name", ["secret 32", "P-256"])
def test_what_is_spoiled_is_no_key(name: str, cipher: ContentCipher) -> None:
    made = make_key()
    for one in spoiled(sent_to(name, made, cipher)):
        with suppress(EstFailure):  # and nothing else
            opened = open_key(one, OPENERS[name])
            assert public_bytes(opened) == public_bytes(made)  # what was spoiled said nothing of the key


def test_a_key_that_is_signed_by_nobody_who_came_with_it() -> None:
    stranger = SigningIdentity((certificate(make_key()),), SIGNING_KEY)
    opener = SecretOpener(b"meter", os.urandom(32))
    signed = signed_key_package(pkcs8(make_key()), stranger)
    envelope = envelop(signed, SharedSecret(b"meter", opener.secret), ContentCipher.AES_256_CBC, os.urandom)
    with pytest.raises(EstFailure, match="its signature is not that of a certificate"):
        open_key(envelope, opener)


def test_keys_that_nothing_can_be_encrypted_to() -> None:
    with pytest.raises(KeyUnusable):
        opener_of(make_key(KeyKind.ED25519))
    with pytest.raises(ValueError, match="16, 24 or 32"):
        SecretOpener(b"meter", b"short").attributes()


# --- The answer in parts --------------------------------------------------------------------------------------------

MULTIPART = b"Content-Type: multipart/mixed; boundary=x\r\n"


def part(kind: str, der: bytes, *, encoding: str = "base64") -> bytes:
    head = f"--x\r\nContent-Type: {kind}\r\nContent-Transfer-Encoding: {encoding}\r\n\r\n"
    return head.encode() + encodebytes(der).replace(b"\n", b"\r\n")


def answered(key: PrivateKey, *, of: PrivateKey | None = None) -> tuple[bytes, bytes]:
    signed = certificate(of or key)
    leaf = part("application/pkcs7-mime; smime-type=certs-only", certs_only([signed.public_bytes(Encoding.DER)]))
    return part("application/pkcs8", pkcs8(key)), leaf


@pytest.fixture
def villain() -> Iterator[Villain]:
    made = Villain()
    yield made
    made.close()


def ask(villain: Villain, body: bytes, opener: Opener | None = None, head: bytes = MULTIPART) -> ServerMade:
    villain.answer = whole(head, body)
    return villain.client().serverkeygen(enrolment_request(make_key(), "meter-001"), opener)


@pytest.mark.parametrize("encoding", ["base64", "BASE64", "7bit", "binary"])
def test_key_and_certificate(villain: Villain, encoding: str) -> None:
    key = make_key()
    _, second = answered(key)
    made = ask(villain, part("application/pkcs8", pkcs8(key), encoding=encoding) + second + b"--x--\r\n")
    assert (public_bytes(made.key), made.certificate.public_key()) == (public_bytes(key), key.public_key())
    assert "key" not in repr(made)


def test_an_encrypted_key(villain: Villain) -> None:
    key = make_key()
    _, second = answered(key)
    first = part("application/pkcs7-mime; smime-type=server-generated-key", sent_to("P-256", key))
    assert public_bytes(ask(villain, first + second + b"--x--\r\n", OPENERS["P-256"]).key) == public_bytes(key)
    with pytest.raises(EstFailure, match="not a key and its certificate"):
        ask(villain, first + second + b"--x--\r\n")


BROKEN: dict[str, Callable[[bytes, bytes], bytes]] = {
    "no end": lambda first, second: first + second,
    "one part": lambda first, _: first + b"--x--\r\n",
    "the wrong way round": lambda first, second: second + first + b"--x--\r\n",
    "three parts": lambda first, second: first + second + second + b"--x--\r\n",
    "half of the key": lambda first, second: first[:150] + b"\r\n" + second + b"--x--\r\n",
    "nothing": lambda _first, _second: b"",
    "another boundary": lambda first, second: (first + second + b"--x--\r\n").replace(b"--x", b"--y"),
    "a part in parts": lambda first, second: (
        b"--x\r\nContent-Type: multipart/mixed; boundary=z\r\n\r\n--z\r\n"
        + first
        + b"--z--\r\n"
        + second
        + b"--x--\r\n"
    ),
}


@pytest.mark.parametrize("kind", BROKEN)
def test_parts_that_are_not_whole(villain: Villain, kind: str) -> None:
    with pytest.raises(EstFailure) as failed:
        ask(villain, BROKEN[kind](*answered(make_key())))
    assert failed.value.failure is Failure.MALFORMED


def test_a_certificate_for_another_key_than_the_one_made(villain: Villain) -> None:
    first, second = answered(make_key(), of=make_key())
    with pytest.raises(EstFailure, match="for another key"):
        ask(villain, first + second + b"--x--\r\n")


def test_a_key_in_the_clear_where_an_encrypted_one_was_asked_for(villain: Villain) -> None:
    first, second = answered(make_key())
    with pytest.raises(EstFailure, match="not a key and its certificate"):
        ask(villain, first + second + b"--x--\r\n", OPENERS["secret 32"])


def test_an_answer_of_one_type(villain: Villain) -> None:
    with pytest.raises(EstFailure, match="not multipart/mixed"):
        ask(villain, b"", head=b"Content-Type: application/pkcs8\r\n")

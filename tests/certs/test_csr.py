from base64 import b64encode, encodebytes
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from hypothesis import given, settings
from hypothesis import strategies as st

from certs.csr import (
    BASE64_MAXIMUM_BYTES,
    REQUEST_MAXIMUM_BYTES,
    CertificateRequest,
    decode_base64_request,
    parse_request,
)
from certs.der import BIT_STRING, CONTEXT_0, INTEGER, OBJECT_IDENTIFIER, SEQUENCE, SET, UTF8_STRING, encode
from certs.errors import CertificateRefused, RefusalKind
from certs.names import subject_identifier

CHALLENGE_PASSWORD = "2a864886f70d010907"
EXTENSION_REQUEST = "2a864886f70d01090e"
MICROSOFT_EXTENSION_REQUEST = "2b060104018237020 10e".replace(" ", "")
SUBJECT_ALTERNATIVE_NAME = "551d11"
ED25519 = encode(SEQUENCE, bytes.fromhex("06032b6570"))
UNKNOWN = encode(SEQUENCE, bytes.fromhex("06032a0304"))
KEY = ed25519.Ed25519PrivateKey.generate()


def spki_of(key: ed25519.Ed25519PrivateKey) -> bytes:
    return key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)


def rsa_key(modulus: int, exponent: int) -> bytes:
    numbers = (encode(INTEGER, number.to_bytes(number.bit_length() // 8 + 1)) for number in (modulus, exponent))
    algorithm = encode(SEQUENCE, bytes.fromhex("06092a864886f70d0101010500"))
    return encode(SEQUENCE, algorithm, encode(BIT_STRING, b"\0", encode(SEQUENCE, *numbers)))


def attribute(kind: str, *values: bytes) -> bytes:
    return encode(SEQUENCE, encode(OBJECT_IDENTIFIER, bytes.fromhex(kind)), encode(SET, *values))


def name(*common_names: bytes) -> bytes:
    identifier = encode(OBJECT_IDENTIFIER, bytes.fromhex("550403"))
    return encode(
        SEQUENCE, *(encode(SET, encode(SEQUENCE, identifier, encode(UTF8_STRING, each))) for each in common_names)
    )


def alternative_names(*uris: bytes) -> bytes:
    names = encode(SEQUENCE, *(encode(0x86, uri) for uri in uris))
    return encode(SEQUENCE, encode(OBJECT_IDENTIFIER, bytes.fromhex(SUBJECT_ALTERNATIVE_NAME)), encode(0x04, names))


def request(
    *attributes: bytes,
    subject: bytes = name(b"meter-001"),
    key: bytes = spki_of(KEY),
) -> bytes:
    """Build a request by hand, whatever it says, and sign it well with Ed25519."""
    information = encode(SEQUENCE, encode(INTEGER, b"\0"), subject, key, encode(CONTEXT_0, *attributes))
    return encode(SEQUENCE, information, ED25519, encode(BIT_STRING, b"\0" + KEY.sign(information)))


def unused_bits() -> bytes:
    """Take a request whose signature ends in a zero bit, and say that this bit is not part of it."""
    texts = (b"meter-%d" % number for number in range(1000))
    der = next(der for der in (request(subject=name(text)) for text in texts) if der[-1] % 2 == 0)
    return der[:-65] + b"\1" + der[-64:]


def refusal(der: bytes) -> CertificateRefused:
    with pytest.raises(CertificateRefused) as refused:
        parse_request(der)
    return refused.value


def password(*texts: bytes, tag: int = UTF8_STRING) -> bytes:
    return attribute(CHALLENGE_PASSWORD, *(encode(tag, text) for text in texts))


def test_a_request_is_read_whole() -> None:
    der = request(
        password(b"a channel's binding"),
        attribute(EXTENSION_REQUEST, encode(SEQUENCE, alternative_names(b"urn:doorward:device:meter-001"))),
    )
    read = parse_request(der)
    assert read.der == der
    assert read.sha256 == sha256(der).digest()
    assert subject_identifier(read.subject) == "meter-001"
    assert read.subject_alternative_name == (x509.UniformResourceIdentifier("urn:doorward:device:meter-001"),)
    assert read.public_key == KEY.public_key()
    assert read.spki_der == spki_of(KEY)
    assert read.spki_sha256 == sha256(spki_of(KEY)).digest()
    assert read.challenge_password == "a channel's binding"
    assert [extension.oid.dotted_string for extension in read.extensions] == ["2.5.29.17"]


def test_a_plain_request_asks_for_nothing() -> None:
    read = parse_request(request())
    assert (read.challenge_password, read.extensions, read.subject_alternative_name) == (None, (), ())


def test_a_request_cannot_be_changed() -> None:
    with pytest.raises(AttributeError):
        parse_request(request()).der = b""  # type: ignore[misc]


@pytest.mark.parametrize(
    ("der", "kind"),
    [
        (b"", RefusalKind.MALFORMED),
        (b"\x30", RefusalKind.MALFORMED),
        (b"not a request", RefusalKind.MALFORMED),
        (request() + b"\0", RefusalKind.MALFORMED),
        (request()[:-1], RefusalKind.MALFORMED),
        (b"\x30\x80" + request()[2:] + b"\0\0", RefusalKind.MALFORMED),
        (request() + bytes(20 * 1024), RefusalKind.MALFORMED),
        (request(attribute("2a03", encode(0x04, bytes(20 * 1024)))), RefusalKind.MALFORMED),
        (request()[:-1] + bytes((request()[-1] ^ 1,)), RefusalKind.SIGNATURE),
        (request(subject=name(b"meter-001")).replace(b"meter-001", b"meter-002"), RefusalKind.SIGNATURE),
        (request(subject=name(b"meter\0-001")), RefusalKind.MALFORMED),
        (request(subject=name(b"meter\n001")), RefusalKind.MALFORMED),
        (request(subject=name(b"\xff")), RefusalKind.MALFORMED),
        (request(subject=name(b"m" * 65)), RefusalKind.MALFORMED),
        (request(subject=name(b"")), RefusalKind.MALFORMED),
        (unused_bits(), RefusalKind.MALFORMED),
        (request(password(b"one"), password(b"two")), RefusalKind.MALFORMED),
        (request(password(b"same"), password(b"same")), RefusalKind.MALFORMED),
        (request(password(b"one", b"two")), RefusalKind.MALFORMED),
        (request(password()), RefusalKind.MALFORMED),
        (request(password(b"")), RefusalKind.MALFORMED),
        (request(password(b"p" * 256)), RefusalKind.MALFORMED),
        (request(password(b"a\0b")), RefusalKind.MALFORMED),
        (request(password(b"\xff\xfe", tag=0x13)), RefusalKind.MALFORMED),
        (
            request(
                attribute(EXTENSION_REQUEST, encode(SEQUENCE, alternative_names(b"urn:a"))),
                attribute(EXTENSION_REQUEST, encode(SEQUENCE, alternative_names(b"urn:b"))),
            ),
            RefusalKind.MALFORMED,
        ),
        (
            request(
                attribute(EXTENSION_REQUEST, encode(SEQUENCE, alternative_names(b"urn:a"))),
                attribute(MICROSOFT_EXTENSION_REQUEST, encode(SEQUENCE, alternative_names(b"urn:b"))),
            ),
            RefusalKind.MALFORMED,
        ),
        (
            request(
                attribute(EXTENSION_REQUEST, encode(SEQUENCE, alternative_names(b"urn:a"), alternative_names(b"urn:b")))
            ),
            RefusalKind.MALFORMED,
        ),
        (
            request(attribute(EXTENSION_REQUEST, encode(SEQUENCE, alternative_names(b"urn:a\0b")))),
            RefusalKind.MALFORMED,
        ),
        (
            request(attribute(EXTENSION_REQUEST, encode(SEQUENCE, alternative_names(b"\xff")))),
            RefusalKind.MALFORMED,
        ),
        (request(attribute(EXTENSION_REQUEST, b"\x05\x00")), RefusalKind.MALFORMED),
        (request(key=encode(SEQUENCE, ED25519, encode(BIT_STRING, b"\0short"))), RefusalKind.MALFORMED),
        (request(key=rsa_key((1 << 2047) + 1, 65538)), RefusalKind.MALFORMED),
        (request(key=rsa_key((1 << 2047) + 1, 65535)), RefusalKind.POLICY),
        (request(key=encode(SEQUENCE, UNKNOWN, encode(BIT_STRING, bytes(33)))), RefusalKind.POLICY),
    ],
)
def test_a_hostile_request_is_refused(der: bytes, kind: RefusalKind) -> None:
    assert refusal(der).kind is kind


@pytest.mark.parametrize("common_names", [(), (b"meter-001", b"meter-002"), (b"meter+001",)])
def test_a_request_that_names_no_one_device_is_read_but_gives_no_identifier(common_names: tuple[bytes, ...]) -> None:
    read = parse_request(request(subject=name(*common_names)))
    with pytest.raises(CertificateRefused) as refused:
        subject_identifier(read.subject)
    assert refused.value.kind is RefusalKind.MALFORMED


def test_the_size_limit_is_exact() -> None:
    fixed = len(request(attribute("2a03", encode(0x04, bytes(16_000))))) - 16_000
    largest = request(attribute("2a03", encode(0x04, bytes(REQUEST_MAXIMUM_BYTES - fixed))))
    assert len(largest) == REQUEST_MAXIMUM_BYTES
    assert parse_request(largest)
    assert "longer" in refusal(largest + b"\0").reason


OPENSSL_KEYS = {
    "P-256": ("ec", "ec_paramgen_curve:P-256"),
    "P-384": ("ec", "ec_paramgen_curve:P-384"),
    "P-521": ("ec", "ec_paramgen_curve:P-521"),
    "Ed25519": ("ed25519",),
    "RSA-2048": ("rsa", "rsa_keygen_bits:2048"),
}
OPENSSL_KEYS_REFUSED = {
    "P-192": ("ec", "ec_paramgen_curve:prime192v1"),
    "secp256k1": ("ec", "ec_paramgen_curve:secp256k1"),
    "explicit": ("ec", "ec_paramgen_curve:P-256", "ec_param_enc:explicit"),
    "RSA-1024": ("rsa", "rsa_keygen_bits:1024"),
    "RSA-e3": ("rsa", "rsa_keygen_bits:2048", "rsa_keygen_pubexp:3"),
    "RSA-PSS": ("rsa-pss", "rsa_keygen_bits:2048"),
    "Ed448": ("ed448",),
}


def openssl_request(openssl: Callable[..., bytes], algorithm: tuple[str, ...], *arguments: str) -> bytes:
    options = [part for option in algorithm[1:] for part in ("-pkeyopt", option)]
    openssl("genpkey", "-algorithm", algorithm[0], *options, "-out", "key.pem")
    return openssl("req", "-new", "-key", "key.pem", "-outform", "DER", *arguments)


@pytest.mark.parametrize("key", OPENSSL_KEYS)
def test_requests_of_openssl_are_read(openssl: Callable[..., bytes], key: str) -> None:
    extension = "subjectAltName=URI:urn:doorward:device:meter-001"
    der = openssl_request(openssl, OPENSSL_KEYS[key], "-subj", "/CN=meter-001", "-addext", extension)
    read = parse_request(der)
    assert subject_identifier(read.subject) == "meter-001"
    assert read.spki_der == openssl("pkey", "-in", "key.pem", "-pubout", "-outform", "DER")
    assert [each.value for each in read.subject_alternative_name] == ["urn:doorward:device:meter-001"]


@pytest.mark.parametrize("key", OPENSSL_KEYS_REFUSED)
def test_requests_of_openssl_with_other_keys_are_refused(openssl: Callable[..., bytes], key: str) -> None:
    der = openssl_request(openssl, OPENSSL_KEYS_REFUSED[key], "-subj", "/CN=meter-001")
    assert refusal(der).kind is RefusalKind.POLICY


@pytest.mark.parametrize("digest", ["-md5", "-sha1", "-sha224"])
def test_requests_signed_over_weak_hashes_are_refused(openssl: Callable[..., bytes], digest: str) -> None:
    der = openssl_request(openssl, OPENSSL_KEYS["RSA-2048"], "-subj", "/CN=meter-001", digest)
    assert refusal(der).kind is RefusalKind.POLICY


def test_a_challenge_password_of_openssl_is_read(openssl: Callable[..., bytes], tmp_path: Path) -> None:
    (tmp_path / "request.cnf").write_text(
        "[req]\nprompt=no\ndistinguished_name=name\nattributes=attributes\n"
        "[name]\nCN=meter-001\n[attributes]\nchallengePassword=5f1e0c\n"
    )
    der = openssl_request(openssl, OPENSSL_KEYS["P-256"], "-config", "request.cnf")
    assert parse_request(der).challenge_password == "5f1e0c"


def test_a_request_of_a_small_rsa_key_is_refused_before_its_signature_is_tried() -> None:
    key = rsa.generate_private_key(65537, 1024)  # noqa: S505 - a weak key is the point
    builder = x509.CertificateSigningRequestBuilder().subject_name(x509.Name([]))
    der = builder.sign(key, hashes.SHA256()).public_bytes(Encoding.DER)
    broken = der[:-1] + bytes((der[-1] ^ 1,))
    assert refusal(broken).kind is RefusalKind.POLICY


def test_a_compressed_point_is_refused() -> None:
    key = ec.generate_private_key(ec.SECP256R1())
    compressed = encode(BIT_STRING, b"\0" + key.public_key().public_bytes(Encoding.X962, PublicFormat.CompressedPoint))
    algorithm = bytes.fromhex("301306072a8648ce3d020106082a8648ce3d030107")
    information = encode(
        SEQUENCE, encode(INTEGER, b"\0"), name(b"meter-001"), encode(SEQUENCE, algorithm, compressed), encode(CONTEXT_0)
    )
    signature = key.sign(information, ec.ECDSA(hashes.SHA256()))
    ecdsa = encode(SEQUENCE, bytes.fromhex("06082a8648ce3d040302"))
    der = encode(SEQUENCE, information, ecdsa, encode(BIT_STRING, b"\0" + signature))
    assert refusal(der).kind is RefusalKind.POLICY


@given(st.data())
@settings(max_examples=200, deadline=None)
def test_a_damaged_request_is_refused_and_nothing_else_happens(data: st.DataObject) -> None:
    der = bytearray(
        request(password(b"word"), attribute(EXTENSION_REQUEST, encode(SEQUENCE, alternative_names(b"u:a"))))
    )
    position = data.draw(st.integers(0, len(der) - 1))
    der[position] ^= data.draw(st.integers(1, 255))
    with pytest.raises(CertificateRefused):
        parse_request(bytes(der))


@pytest.mark.parametrize(
    "body",
    [
        b64encode(request()),
        encodebytes(request()),
        encodebytes(request()).replace(b"\n", b"\r\n"),
        b"\r\n\t " + encodebytes(request()).replace(b"\n", b" \t\r\n") + b"\r\n\r\n",
        b"-----BEGIN CERTIFICATE REQUEST-----\n" + encodebytes(request()) + b"-----END CERTIFICATE REQUEST-----\n",
        b"-----BEGIN NEW CERTIFICATE REQUEST-----\r\n"
        + encodebytes(request())
        + b"-----END NEW CERTIFICATE REQUEST-----",
    ],
)
def test_base64_with_any_white_space_and_one_pem_block_are_decoded(body: bytes) -> None:
    assert isinstance(parse_request(decode_base64_request(body)), CertificateRequest)
    assert decode_base64_request(body) == request()


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b" \r\n",
        b"MIIB!",
        b"MIIB\x0b",
        b"MIIB\0",
        b"MII",
        b"MIIB=",
        b"MI==MIIB",
        b"MIIB====",
        b"MIIB-_==",
        "MIIBé".encode(),
        b"-----BEGIN CERTIFICATE REQUEST-----\nMIIB\n-----END CERTIFICATE-----\n",
        b"-----BEGIN CERTIFICATE-----\nMIIB\n-----END CERTIFICATE-----\n",
        b"-----BEGIN CERTIFICATE REQUEST-----\nMIIB\n-----END CERTIFICATE REQUEST-----\n" * 2,
        b"subject\n-----BEGIN CERTIFICATE REQUEST-----\nMIIB\n-----END CERTIFICATE REQUEST-----\n",
        b"-----BEGIN CERTIFICATE REQUEST-----\n-----END CERTIFICATE REQUEST-----\n",
        b"A" * (BASE64_MAXIMUM_BYTES + 4),
    ],
)
def test_anything_else_is_not_decoded(body: bytes) -> None:
    with pytest.raises(CertificateRefused) as refused:
        decode_base64_request(body)
    assert refused.value.kind is RefusalKind.MALFORMED


@given(st.binary(max_size=64))
def test_arbitrary_bodies_are_decoded_or_refused(body: bytes) -> None:
    try:
        decoded = decode_base64_request(body)
    except CertificateRefused:
        return
    assert b64encode(decoded)[:-4] == body.translate(None, b"\r\n\t ")[: len(b64encode(decoded)) - 4]

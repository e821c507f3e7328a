"""DER that is none, and requests that are something else. Each row's bytes are what is sent, before its base64."""

from cryptography.hazmat.primitives.serialization import BestAvailableEncryption, Encoding, NoEncryption, PrivateFormat

from certs.der import CONTEXT_0, INTEGER, OCTET_STRING, SEQUENCE, SET, encode
from certs.pkcs7 import certs_only
from tests.est.hostile.der import (
    CHALLENGE_PASSWORD,
    ECDSA_SHA256,
    KEY,
    SPKI,
    algorithm,
    bits,
    extension,
    information,
    integer,
    oid,
    password,
    request,
    requested,
    sequence,
    signed_by,
)
from tests.est.hostile.rows import Row

GOOD = request()
MALFORMED, UNREADABLE = "REQUEST_MALFORMED", "the request cannot be read"


def content(der: bytes) -> bytes:
    """What is in the outermost element of a request of more than 255 and less than 65536 bytes."""
    return der[4:] if der[1] == 0x82 else der[3:] if der[1] == 0x81 else der[2:]


def lengthened(length: bytes) -> bytes:
    """The good request, with another length."""
    return bytes([SEQUENCE]) + length + content(GOOD)


def nested(depth: int) -> bytes:
    der = b""
    for _ in range(depth):
        der = encode(SEQUENCE, der)
    return der


def unsigned_attribute() -> bytes:
    """An attribute that was put in after signing: the lengths are right, the signature is not."""
    asked = information(attributes=(requested(extension("2.5.29.19", sequence(b"\x01\x01\xff"))),))
    return sequence(asked, algorithm(ECDSA_SHA256), bits(signed_by(KEY)(information())))


LENGTHS: list[Row] = [
    Row("nothing but a tag", lambda: b"\x30", 400, UNREADABLE),
    Row("an empty sequence", lambda: b"\x30\x00", 400, UNREADABLE),
    Row("half of it", lambda: GOOD[: len(GOOD) // 2], 400, UNREADABLE),
    Row("without its last byte", lambda: GOOD[:-1], 400, UNREADABLE),
    Row("without its first byte", lambda: GOOD[1:], 400, UNREADABLE),
    Row("with a tail", lambda: GOOD + b"\0", 400, UNREADABLE),
    Row("twice", lambda: GOOD + GOOD, 400, UNREADABLE),
    Row("with a tail within", lambda: sequence(content(GOOD), integer(1)), 400, UNREADABLE),
    Row("an indefinite length", lambda: lengthened(b"\x80") + b"\0\0", 400, UNREADABLE),
    Row("a length in five bytes", lambda: lengthened(b"\x84\0\0" + len(content(GOOD)).to_bytes(2)), 400, UNREADABLE),
    Row("a length of 4 GiB", lambda: lengthened(b"\x84\xff\xff\xff\xff"), 400, UNREADABLE),
    Row("a length of 2^64 - 1", lambda: lengthened(b"\x88" + b"\xff" * 8), 400, UNREADABLE),
    Row("a length of 126 bytes", lambda: lengthened(b"\xfe" + b"\xff" * 126), 400, UNREADABLE),
    Row("a length of the reserved form", lambda: lengthened(b"\xff"), 400, UNREADABLE),
    Row("a length one too long", lambda: lengthened(b"\x82" + (len(content(GOOD)) + 1).to_bytes(2)), 400, UNREADABLE),
    Row("a length one too short", lambda: lengthened(b"\x82" + (len(content(GOOD)) - 1).to_bytes(2)), 400, UNREADABLE),
    Row("a length of zero before it all", lambda: lengthened(b"\x00"), 400, UNREADABLE),
    Row("a set instead of a sequence", lambda: encode(SET, content(GOOD)), 400, UNREADABLE),
    Row("an octet string instead of a sequence", lambda: encode(OCTET_STRING, content(GOOD)), 400, UNREADABLE),
    Row("a tag of several bytes", lambda: b"\x3f\x81\x10" + GOOD[1:], 400, UNREADABLE),
    Row("a private tag", lambda: b"\xf0" + GOOD[1:], 400, UNREADABLE),
    Row("4,000 sequences in each other", lambda: nested(4000), 400, UNREADABLE),
    Row("16 KiB and more", lambda: request(attributes=(password(b"a" * 17_000),)), 400, "longer than 16384 bytes"),
    Row("zeros", lambda: bytes(200), 400, UNREADABLE),
    Row("ones", lambda: b"\xff" * 200, 400, UNREADABLE),
]

PARTS: list[Row] = [
    Row("version 2", lambda: request(version=integer(1)), 400, UNREADABLE),
    Row("version 3", lambda: request(version=integer(2)), 400, UNREADABLE),
    Row("version -1", lambda: request(version=integer(-1)), 400, UNREADABLE),
    Row("version 2^64", lambda: request(version=integer(1 << 64)), 400, UNREADABLE),
    Row("version zero in two bytes", lambda: request(version=encode(INTEGER, b"\0\0")), 400, UNREADABLE),
    Row("a version of no bytes", lambda: request(version=encode(INTEGER)), 400, UNREADABLE),
    Row("no version", lambda: request(version=b""), 400, UNREADABLE),
    Row("a version that is text", lambda: request(version=encode(0x0C, b"1")), 400, UNREADABLE),
    Row("attributes in a set of their own", lambda: request(attributes=encode(SET)), 400, UNREADABLE),
    Row(
        "attributes out of order",
        lambda: request(attributes=encode(CONTEXT_0, *sorted((password(b"a"), requested()), reverse=True))),
        400,
        UNREADABLE,
    ),
    Row("two fields of attributes", lambda: request(attributes=b"\xa0\0\xa0\0"), 400, UNREADABLE),
    Row("an attribute of no value", lambda: request(attributes=(sequence(oid("1.2.3"), encode(SET)),)), 400, MALFORMED),
    Row("an attribute that is a number", lambda: request(attributes=(integer(1),)), 400, UNREADABLE),
    Row("an attribute without values", lambda: request(attributes=(sequence(oid("1.2.3")),)), 400, UNREADABLE),
    Row(
        "an attribute of two values",
        lambda: request(
            attributes=(sequence(oid(CHALLENGE_PASSWORD), encode(SET, encode(0x0C, b"a"), encode(0x0C, b"b"))),)
        ),
        400,
        MALFORMED,
    ),
    Row("the password twice", lambda: request(attributes=(password(b"a"), password(b"b"))), 400, MALFORMED),
    Row("an empty password", lambda: request(attributes=(password(b""),)), 400, "challengePassword"),
    Row("a password of 256 characters", lambda: request(attributes=(password(b"a" * 256),)), 400, "challengePassword"),
    Row("a password with a NUL", lambda: request(attributes=(password(b"a\0b"),)), 400, "challengePassword"),
    Row("a password that is no UTF-8", lambda: request(attributes=(password(b"\xff\xfe"),)), 400, "challengePassword"),
    Row(
        "extensions that are no sequence",
        lambda: request(attributes=(sequence(oid("1.2.840.113549.1.9.14"), encode(SET, integer(1))),)),
        400,
        MALFORMED,
    ),
    Row(
        "a request for extensions of no value",
        lambda: request(attributes=(sequence(oid("1.2.840.113549.1.9.14"), encode(SET)),)),
        400,
        MALFORMED,
    ),
    Row(
        "an extension without content",
        lambda: request(attributes=(requested(sequence(oid("2.5.29.17"))),)),
        400,
        MALFORMED,
    ),
    Row(
        "an extension twice",
        lambda: request(attributes=(requested(extension("1.2.3", b"\5\0"), extension("1.2.3", b"\5\0")),)),
        400,
        MALFORMED,
    ),
    Row(
        "constraints that cannot be read",
        lambda: request(attributes=(requested(extension("2.5.29.19", b"\x30\x81")),)),
        400,
        MALFORMED,
    ),
    Row(
        "usages that cannot be read",
        lambda: request(attributes=(requested(extension("2.5.29.37", integer(1))),)),
        400,
        MALFORMED,
    ),
    Row("an attribute put in after signing", unsigned_attribute, 400, "does not verify with its own key"),
]

OTHER_THINGS: list[Row] = [
    Row("text", lambda: b"hello, world", 400, UNREADABLE),
    Row("a number in a sequence", lambda: b"\x30\x03\x02\x01\x00", 400, UNREADABLE),
    Row("a public key", lambda: SPKI, 400, UNREADABLE),
    Row(
        "a private key",
        lambda: KEY.private_bytes(Encoding.DER, PrivateFormat.PKCS8, NoEncryption()),
        400,
        UNREADABLE,
    ),
    Row(
        "a private key, encrypted",
        lambda: KEY.private_bytes(Encoding.DER, PrivateFormat.PKCS8, BestAvailableEncryption(b"secret")),
        400,
        UNREADABLE,
    ),
    Row("certs-only of nothing", lambda: certs_only([]), 400, UNREADABLE),
    Row("what is signed, alone", information, 400, UNREADABLE),
    Row("the request in an octet string", lambda: encode(OCTET_STRING, GOOD), 400, UNREADABLE),
    Row("the request in another sequence", lambda: sequence(GOOD), 400, UNREADABLE),
    Row("the request in a context", lambda: encode(CONTEXT_0, GOOD), 400, UNREADABLE),
    Row("a program", lambda: b"\x7fELF\x02\x01\x01" + bytes(57), 400, UNREADABLE),
    Row("a page", lambda: b"<!doctype html><title>x</title>", 400, UNREADABLE),
]

TABLES = (LENGTHS, PARTS, OTHER_THINGS)

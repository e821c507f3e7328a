"""A certification request put together by hand, so that each of its parts can be wrong by itself."""

from collections.abc import Callable

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from certs.der import (
    BIT_STRING,
    CONTEXT_0,
    INTEGER,
    OBJECT_IDENTIFIER,
    OCTET_STRING,
    SEQUENCE,
    SET,
    UTF8_STRING,
    encode,
)

NULL = b"\x05\x00"
TRUE = b"\x01\x01\xff"
DEVICE = "meter-001"

KEY = ec.generate_private_key(ec.SECP256R1())
SPKI = KEY.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)

COMMON_NAME, COUNTRY, ORGANIZATION, SERIAL_NUMBER = "2.5.4.3", "2.5.4.6", "2.5.4.10", "2.5.4.5"
EXTENSION_REQUEST, CHALLENGE_PASSWORD = "1.2.840.113549.1.9.14", "1.2.840.113549.1.9.7"
ECDSA_SHA256 = "1.2.840.10045.4.3.2"
SUBJECT_ALTERNATIVE_NAME = "2.5.29.17"

Sign = Callable[[bytes], bytes]


def oid(dotted: str) -> bytes:
    first, second, *others = (int(part) for part in dotted.split("."))
    return encode(OBJECT_IDENTIFIER, *(_base_128(arc) for arc in (first * 40 + second, *others)))


def _base_128(arc: int) -> bytes:
    groups = [arc & 0x7F]
    while arc := arc >> 7:
        groups.append(arc & 0x7F | 0x80)
    return bytes(reversed(groups))


def integer(number: int) -> bytes:
    return encode(INTEGER, number.to_bytes(number.bit_length() // 8 + 1, signed=True))


def sequence(*parts: bytes) -> bytes:
    return encode(SEQUENCE, *parts)


def bits(content: bytes, unused: int = 0) -> bytes:
    return encode(BIT_STRING, bytes([unused]), content)


def attribute(kind: str, value: str | bytes, tag: int = UTF8_STRING) -> bytes:
    """An attribute of a name."""
    return sequence(oid(kind), encode(tag, value.encode() if isinstance(value, str) else value))


def common_name(value: str | bytes = DEVICE, tag: int = UTF8_STRING) -> bytes:
    return attribute(COMMON_NAME, value, tag)


def name(*attributes: bytes) -> bytes:
    """A name with each attribute in a set of its own."""
    return sequence(*(encode(SET, one) for one in attributes))


def extension(kind: str, value: bytes, *, critical: bool = False) -> bytes:
    return sequence(oid(kind), TRUE if critical else b"", encode(OCTET_STRING, value))


def requested(*extensions: bytes, kind: str = EXTENSION_REQUEST) -> bytes:
    """The attribute that asks for extensions (RFC 2985 5.4.2)."""
    return sequence(oid(kind), encode(SET, sequence(*extensions)))


def alternative_names(*names: bytes) -> bytes:
    return extension(SUBJECT_ALTERNATIVE_NAME, sequence(*names))


def uri(value: str | bytes) -> bytes:
    return encode(0x86, value.encode() if isinstance(value, str) else value)


def dns(value: str) -> bytes:
    return encode(0x82, value.encode())


def password(value: bytes, tag: int = UTF8_STRING) -> bytes:
    return sequence(oid(CHALLENGE_PASSWORD), encode(SET, encode(tag, value)))


def algorithm(kind: str, parameters: bytes = b"") -> bytes:
    return sequence(oid(kind), parameters)


def signed_by(key: ec.EllipticCurvePrivateKey, hash_algorithm: hashes.HashAlgorithm | None = None) -> Sign:
    return lambda information: key.sign(information, ec.ECDSA(hash_algorithm or hashes.SHA256()))


def information(
    *,
    version: bytes | None = None,
    subject: bytes | None = None,
    spki: bytes = SPKI,
    attributes: bytes | tuple[bytes, ...] = (),
) -> bytes:
    """What is signed (RFC 2986 4.1). Attributes as bytes stand as they are, with their tag; others in DER's order."""
    return sequence(
        integer(0) if version is None else version,
        name(common_name()) if subject is None else subject,
        spki,
        attributes if isinstance(attributes, bytes) else encode(CONTEXT_0, *sorted(attributes)),
    )


def request(
    *,
    version: bytes | None = None,
    subject: bytes | None = None,
    spki: bytes = SPKI,
    attributes: bytes | tuple[bytes, ...] = (),
    signature_algorithm: bytes | None = None,
    sign: Sign | None = None,
    unused_bits: int = 0,
) -> bytes:
    """A whole request; what is not said is in order, and signed over what is said."""
    asked = information(version=version, subject=subject, spki=spki, attributes=attributes)
    signature = (sign or signed_by(KEY))(asked)
    return sequence(asked, signature_algorithm or algorithm(ECDSA_SHA256), bits(signature, unused_bits))


def named(value: str | bytes, tag: int = UTF8_STRING) -> bytes:
    return request(subject=name(common_name(value, tag)))


def asking(*extensions: bytes) -> bytes:
    return request(attributes=(requested(*extensions),))


def naming(*names: bytes) -> bytes:
    """A request with these alternative names."""
    return asking(alternative_names(*names))

"""DER by hand, as far as this package needs it.

`cryptography` parses every certificate and request first, strictly, and refuses bad DER and trailing bytes. What it
does not hand out are the exact bytes of some fields, and those decide four things here:

1. Names are compared byte for byte (RFC 5280 4.1.2.6: a certification authority's name is encoded in the issuer
   field of what it issues exactly as in its own subject field).
2. The signature algorithm inside the signed part equals the one outside it (RFC 5280 4.1.1.2).
3. A key is judged by the encoding that was sent, not by what a library made of it.
4. A signature is of whole bytes, so that it has one encoding.

So the readers of certificates and requests take bytes that have already been parsed once, and only find their way in
them. Should they meet anything that is not definite-length DER with one-byte tags, they refuse it as malformed.
`read_elements` takes bytes that no library knows the structure of, and is as strict as they are.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache

from cryptography import x509

from certs.errors import CertificateRefused, RefusalKind

BOOLEAN = 0x01
INTEGER = 0x02
BIT_STRING = 0x03
OCTET_STRING = 0x04
OBJECT_IDENTIFIER = 0x06
UTF8_STRING = 0x0C
PRINTABLE_STRING = 0x13
IA5_STRING = 0x16
SEQUENCE = 0x30
SET = 0x31
CONTEXT_0 = 0xA0
CONTEXT_1 = 0xA1
CONTEXT_2 = 0xA2
CONTEXT_0_PRIMITIVE = 0x80

NULL = b"\x05\x00"
TRUE = b"\x01\x01\xff"

_MULTIPLE_BYTE_TAG = 0x1F
_LONG_FORM = 0x80
_LENGTH_BYTES_MAXIMUM = 4
_OBJECT_IDENTIFIER_MAXIMUM_BYTES = 63
_BASE = 128
_ARCS_OF_FIRST_OCTET = 40
_ROOT_ARCS = 2


@dataclass(frozen=True, slots=True)
class CertificateLayout:
    """The exact bytes of a certificate's fields, each with its tag and length."""

    signed: bytes
    inner_algorithm: bytes
    issuer: bytes
    subject: bytes
    subject_public_key_info: bytes
    outer_algorithm: bytes


@dataclass(frozen=True, slots=True)
class RequestLayout:
    """The exact bytes of a certification request's fields, each with its tag and length."""

    signed: bytes
    subject: bytes
    subject_public_key_info: bytes


def read_certificate_layout(der: bytes) -> CertificateLayout:
    """Find the fields of a certificate (RFC 5280 4.1) that `cryptography` has parsed.

    Raises:
        CertificateRefused: MALFORMED.
    """
    content, _ = _expect(der, 0, SEQUENCE)
    signed_content, signed_end = _expect(der, content, SEQUENCE)
    outer_end = _algorithm_end(der, signed_end)
    offset = signed_content
    if der[offset] == CONTEXT_0:  # version; absent in version 1
        _, offset = _expect(der, offset, CONTEXT_0)
    _, algorithm = _expect(der, offset, INTEGER)
    _, issuer = _expect(der, algorithm, SEQUENCE)
    _, validity = _expect(der, issuer, SEQUENCE)
    _, subject = _expect(der, validity, SEQUENCE)
    _, key = _expect(der, subject, SEQUENCE)
    _, key_end = _expect(der, key, SEQUENCE)
    return CertificateLayout(
        signed=der[content:signed_end],
        inner_algorithm=der[algorithm:issuer],
        issuer=der[issuer:validity],
        subject=der[subject:key],
        subject_public_key_info=der[key:key_end],
        outer_algorithm=der[signed_end:outer_end],
    )


def read_request_layout(der: bytes) -> RequestLayout:
    """Find the fields of a certification request (RFC 2986 4.1) that `cryptography` has parsed.

    Raises:
        CertificateRefused: MALFORMED.
    """
    content, _ = _expect(der, 0, SEQUENCE)
    information, information_end = _expect(der, content, SEQUENCE)
    _algorithm_end(der, information_end)
    _, subject = _expect(der, information, INTEGER)
    _, key = _expect(der, subject, SEQUENCE)
    _, key_end = _expect(der, key, SEQUENCE)
    return RequestLayout(
        signed=der[content:information_end], subject=der[subject:key], subject_public_key_info=der[key:key_end]
    )


def read_subject_public_key(spki: bytes) -> bytes:
    """Return the key itself in a SubjectPublicKeyInfo (RFC 5280 4.1): what RFC 6960 4.1.1 hashes.

    Raises:
        CertificateRefused: MALFORMED.
    """
    content, _ = _expect(spki, 0, SEQUENCE)
    _, algorithm_end = _expect(spki, content, SEQUENCE)
    bits, end = _expect(spki, algorithm_end, BIT_STRING)
    return spki[bits + 1 : end]


def read_name_attributes(name: bytes) -> Iterator[tuple[bytes, int, bytes]]:
    """Walk a Name (RFC 5280 4.1.2.4), giving each attribute's type, its value's tag and its value's bytes.

    Raises:
        CertificateRefused: MALFORMED.
    """
    relative, end = _expect(name, 0, SEQUENCE)
    while relative < end:
        attribute, relative = _expect(name, relative, SET)
        while attribute < relative:
            kind, attribute = _expect(name, attribute, SEQUENCE)
            kind_content, kind_end = _expect(name, kind, OBJECT_IDENTIFIER)
            tag, value, value_end = _element(name, kind_end)
            yield name[kind_content:kind_end], tag, name[value:value_end]


def encode(tag: int, *contents: bytes) -> bytes:
    """Return one DER element of `tag`, holding `contents` one after the other."""
    content = b"".join(contents)
    length = len(content)
    if length < _LONG_FORM:
        return bytes((tag, length)) + content
    length_bytes = length.to_bytes((length.bit_length() + 7) // 8)
    return bytes((tag, _LONG_FORM | len(length_bytes))) + length_bytes + content


def encode_integer(value: int) -> bytes:
    """Return a non-negative INTEGER."""
    return encode(INTEGER, value.to_bytes(value.bit_length() // 8 + 1))


@lru_cache(maxsize=256)
def encode_object_identifier(dotted: str) -> bytes:
    """Return an OBJECT IDENTIFIER (X.690 8.19)."""
    first, second, *arcs = map(int, dotted.split("."))
    return encode(OBJECT_IDENTIFIER, *map(_encode_arc, (first * _ARCS_OF_FIRST_OCTET + second, *arcs)))


@dataclass(frozen=True, slots=True)
class Element:
    """One DER element: its tag, what it holds, and both together with the length."""

    tag: int
    content: bytes
    encoded: bytes

    def holds(self, tag: int) -> tuple["Element", ...]:
        """Return the elements that this one holds, if its tag is `tag`; raise `CertificateRefused` (MALFORMED)."""
        return read_elements(self.value(tag))

    def value(self, tag: int) -> bytes:
        """Return the content, if the tag is `tag`; raise `CertificateRefused` (MALFORMED)."""
        if self.tag != tag:
            raise CertificateRefused(RefusalKind.MALFORMED, f"expected ASN.1 tag {tag:#04x}, found {self.tag:#04x}")
        return self.content

    def object_identifier(self) -> x509.ObjectIdentifier:
        """Return the OBJECT IDENTIFIER that this is; raise `CertificateRefused` (MALFORMED)."""
        content = self.value(OBJECT_IDENTIFIER)
        if not 0 < len(content) <= _OBJECT_IDENTIFIER_MAXIMUM_BYTES:
            raise CertificateRefused(RefusalKind.MALFORMED, "an ASN.1 object identifier is empty or too long")
        dotted = _dotted(content)
        if encode_object_identifier(dotted) != self.encoded:
            raise CertificateRefused(RefusalKind.MALFORMED, "an ASN.1 object identifier is not in its one encoding")
        try:
            return x509.ObjectIdentifier(dotted)
        except ValueError as error:
            raise CertificateRefused(RefusalKind.MALFORMED, f"an ASN.1 object identifier: {error}") from error


def read_elements(data: bytes) -> tuple[Element, ...]:
    """Walk elements that stand one after the other, from bytes that nobody has parsed yet: each length in its one form.

    Raises:
        CertificateRefused: MALFORMED.
    """
    found = []
    offset = 0
    while offset < len(data):
        tag, content, end = _element(data, offset)
        element = Element(tag, data[content:end], data[offset:end])
        if encode(tag, element.content) != element.encoded:
            raise CertificateRefused(RefusalKind.MALFORMED, "an ASN.1 length is not in its one encoding")
        found.append(element)
        offset = end
    return tuple(found)


def _dotted(content: bytes) -> str:
    arcs, arc = [], 0
    for octet in content:
        arc = arc * _BASE + octet % _BASE
        if octet < _BASE:
            arcs.append(arc)
            arc = 0
    if not arcs:
        raise CertificateRefused(RefusalKind.MALFORMED, "an ASN.1 object identifier ends too early")
    root = min(arcs[0] // _ARCS_OF_FIRST_OCTET, _ROOT_ARCS)
    return ".".join(map(str, (root, arcs[0] - root * _ARCS_OF_FIRST_OCTET, *arcs[1:])))


def _encode_arc(arc: int) -> bytes:
    octets = [arc % _BASE]
    while arc >= _BASE:
        arc //= _BASE
        octets.append(arc % _BASE | _BASE)
    return bytes(reversed(octets))


def _algorithm_end(der: bytes, offset: int) -> int:
    """Return where the signature algorithm at `offset` ends, having checked that the signature after it is whole bytes.

    A bit string may leave up to seven bits unused; were that let pass, one signature would have two encodings.
    """
    _, end = _expect(der, offset, SEQUENCE)
    signature, signature_end = _expect(der, end, BIT_STRING)
    if signature == signature_end or der[signature] != 0:
        raise CertificateRefused(RefusalKind.MALFORMED, "the signature is not of whole bytes")
    return end


def _expect(data: bytes, offset: int, tag: int) -> tuple[int, int]:
    """Return where the content of the element at `offset` begins and where it ends."""
    found, content, end = _element(data, offset)
    if found != tag:
        raise CertificateRefused(RefusalKind.MALFORMED, f"expected ASN.1 tag {tag:#04x}, found {found:#04x}")
    return content, end


def _element(data: bytes, offset: int) -> tuple[int, int, int]:
    """Return the tag of the element at `offset`, where its content begins and where it ends."""
    try:
        tag, length = data[offset], data[offset + 1]
    except IndexError:
        raise CertificateRefused(RefusalKind.MALFORMED, "the ASN.1 ends too early") from None
    content = offset + 2
    if length >= _LONG_FORM:
        length_bytes = length & ~_LONG_FORM
        if not 0 < length_bytes <= _LENGTH_BYTES_MAXIMUM:
            raise CertificateRefused(RefusalKind.MALFORMED, "an ASN.1 length is not definite and short")
        length = int.from_bytes(data[content : content + length_bytes])
        content += length_bytes
    end = content + length
    if end > len(data) or tag & _MULTIPLE_BYTE_TAG == _MULTIPLE_BYTE_TAG:
        raise CertificateRefused(RefusalKind.MALFORMED, "the ASN.1 ends too early, or has a long tag")
    return tag, content, end

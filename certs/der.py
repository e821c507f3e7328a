"""DER by hand, as far as this package needs it.

`cryptography` parses every certificate and request first, strictly, and refuses bad DER and trailing bytes. What it
does not hand out are the exact bytes of some fields, and those decide four things here:

1. Names are compared byte for byte (RFC 5280 4.1.2.6: a certification authority's name is encoded in the issuer
   field of what it issues exactly as in its own subject field).
2. The signature algorithm inside the signed part equals the one outside it (RFC 5280 4.1.1.2).
3. A key is judged by the encoding that was sent, not by what a library made of it.
4. A signature is of whole bytes, so that it has one encoding.

So the readers below take bytes that have already been parsed once, and only find their way in them. Should they
meet anything that is not definite-length DER with one-byte tags, they refuse it as malformed.
"""

from collections.abc import Iterator
from dataclasses import dataclass

from certs.errors import CertificateRefused, RefusalKind

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

_MULTIPLE_BYTE_TAG = 0x1F
_LONG_FORM = 0x80
_LENGTH_BYTES_MAXIMUM = 4


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


def read_signed_part(der: bytes) -> bytes:
    """Find what is signed of a certificate, request or revocation list that `cryptography` has parsed.

    Raises:
        CertificateRefused: MALFORMED.
    """
    content, _ = _expect(der, 0, SEQUENCE)
    _, signed_end = _expect(der, content, SEQUENCE)
    _algorithm_end(der, signed_end)
    return der[content:signed_end]


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
    return RequestLayout(subject=der[subject:key], subject_public_key_info=der[key:key_end])


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

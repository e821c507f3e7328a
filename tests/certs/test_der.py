from contextlib import suppress
from typing import TYPE_CHECKING

import pytest
from asn1crypto import core
from asn1crypto import x509 as asn1
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from hypothesis import given
from hypothesis import strategies as st

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
    read_certificate_layout,
    read_name_attributes,
    read_request_layout,
)
from certs.errors import CertificateRefused, RefusalKind

if TYPE_CHECKING:
    from tests.certs.conftest import Authority


def test_the_fields_of_a_certificate_are_found_where_another_reader_finds_them(root: "Authority") -> None:
    der = root.sign("meter-001").public_bytes(Encoding.DER)
    layout = read_certificate_layout(der)
    certificate = asn1.Certificate.load(der)
    signed = certificate["tbs_certificate"]
    assert layout.signed == signed.dump()
    assert layout.issuer == signed["issuer"].dump() == root.name.public_bytes()
    assert layout.subject == signed["subject"].dump()
    assert layout.subject_public_key_info == signed["subject_public_key_info"].dump()
    assert layout.inner_algorithm == signed["signature"].dump()
    assert layout.outer_algorithm == certificate["signature_algorithm"].dump()


def test_the_key_is_the_one_of_the_certificate(root: "Authority") -> None:
    key = root.key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    assert read_certificate_layout(root.certificate.public_bytes(Encoding.DER)).subject_public_key_info == key


def part(tag: int) -> bytes:
    return encode(tag, b"\0")


SIGNED = (part(CONTEXT_0), part(INTEGER), *(part(SEQUENCE) for _ in range(5)))
SIGNATURE = (part(SEQUENCE), part(BIT_STRING))


@pytest.mark.parametrize("wrong", range(len(SIGNED)))
def test_a_field_of_another_kind_is_refused(wrong: int) -> None:
    assert read_certificate_layout(encode(SEQUENCE, encode(SEQUENCE, *SIGNED), *SIGNATURE)).subject == part(SEQUENCE)
    fields = [part(OCTET_STRING) if place == wrong else field for place, field in enumerate(SIGNED)]
    with pytest.raises(CertificateRefused) as refused:
        read_certificate_layout(encode(SEQUENCE, encode(SEQUENCE, *fields), *SIGNATURE))
    assert refused.value.kind is RefusalKind.MALFORMED


@pytest.mark.parametrize(
    "signature",
    [
        (),
        (part(SEQUENCE),),
        (part(BIT_STRING), part(SEQUENCE)),
        (part(SEQUENCE), part(OCTET_STRING)),
        (part(SEQUENCE), encode(BIT_STRING)),
        (part(SEQUENCE), encode(BIT_STRING, b"\x01\x00")),
    ],
)
def test_a_signature_of_another_shape_is_refused(signature: tuple[bytes, ...]) -> None:
    request = (part(INTEGER), part(SEQUENCE), part(SEQUENCE))
    assert read_request_layout(encode(SEQUENCE, encode(SEQUENCE, *request), *SIGNATURE))
    with pytest.raises(CertificateRefused):
        read_certificate_layout(encode(SEQUENCE, encode(SEQUENCE, *SIGNED), *signature))
    with pytest.raises(CertificateRefused):
        read_request_layout(encode(SEQUENCE, encode(SEQUENCE, *request), *signature))


@pytest.mark.parametrize(
    "header", [b"\x30", b"\x30\x80", b"\x30\x85\0\0\0\0\x01", b"\x30\x05", b"\x3f\x01\0", b"\x30\x82\xff"]
)
def test_lengths_and_tags_that_are_not_short_and_definite_are_refused(header: bytes) -> None:
    with pytest.raises(CertificateRefused):
        read_certificate_layout(header)


def test_the_attributes_of_a_name_are_walked_in_order() -> None:
    def attribute(kind: bytes, value: bytes) -> bytes:
        return encode(SEQUENCE, encode(OBJECT_IDENTIFIER, kind), encode(UTF8_STRING, value))

    first, second, third = ((kind, b"value " + kind) for kind in (b"U\4\3", b"U\4\6", b"U\4\x0a"))
    name = encode(SEQUENCE, encode(SET, attribute(*first), attribute(*second)), encode(SET, attribute(*third)))
    assert list(read_name_attributes(name)) == [(kind, UTF8_STRING, value) for kind, value in (first, second, third)]


@given(st.binary(max_size=64))
def test_arbitrary_bytes_are_read_or_refused(junk: bytes) -> None:
    for read in (read_certificate_layout, read_request_layout, lambda name: list(read_name_attributes(name))):
        with suppress(CertificateRefused):
            read(junk)


@pytest.mark.parametrize("length", [0, 1, 127, 128, 255, 256, 65535, 65536])
def test_lengths_are_written_as_short_as_they_can_be(length: int) -> None:
    written = encode(OCTET_STRING, bytes(length))
    assert written == core.OctetString(bytes(length)).dump()

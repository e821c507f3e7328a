import re
from collections.abc import Callable
from typing import TYPE_CHECKING

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import NameOID
from hypothesis import given
from hypothesis import strategies as st

from certs.der import IA5_STRING, OBJECT_IDENTIFIER, PRINTABLE_STRING, SEQUENCE, SET, UTF8_STRING, encode
from certs.errors import CertificateRefused, RefusalKind
from certs.names import (
    DEVICE_IDENTIFIER,
    NameComparison,
    alternative_name,
    check_alternative_name,
    check_name,
    compare_names,
    device_alternative_name,
    device_identifier,
    device_named,
    device_subject,
    subject_identifier,
)

if TYPE_CHECKING:
    from tests.certs.conftest import Authority

LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789"
BMP_STRING = 0x1E
TELETEX_STRING = 0x14


def name_of(*values: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, value) for value in values])


def raw_name(value: bytes, tag: int = UTF8_STRING, kind: str = "550403") -> bytes:
    attribute = encode(SEQUENCE, encode(OBJECT_IDENTIFIER, bytes.fromhex(kind)), encode(tag, value))
    return encode(SEQUENCE, encode(SET, attribute))


@pytest.mark.parametrize(
    "text", ["a", "0", "meter-001", "A.b:c_d-e", "urn:dev:mac:0024befffe804ff1", "a" * 128, "idt", "IDT-1", "xidt-1"]
)
def test_an_identifier_of_the_grammar_is_taken(text: str) -> None:
    assert device_identifier(text) == text


@pytest.mark.parametrize(
    "text",
    [
        "",
        "a" * 129,
        "meter-001\n",
        "\nmeter-001",
        "meter 001",
        "-meter",
        ".meter",
        ":meter",
        "_meter",
        "idt-",
        "idt-0190b0c0",
        "a+b",
        "a/b",
        "a#",
        "a*",
        "a>",
        "a%20b",
        "a\0b",
        "mètre",
        "٣",  # an Arabic digit
        "a\u2028",
        "a$b",
        "a{b}",
    ],
)
def test_a_text_that_is_no_identifier_is_refused(text: str) -> None:
    with pytest.raises(CertificateRefused) as refused:
        device_identifier(text)
    assert refused.value.kind is RefusalKind.MALFORMED
    assert "\n" not in refused.value.reason
    assert refused.value.reason.isascii()


@given(st.text(max_size=140))
def test_the_grammar_is_what_its_words_say(text: str) -> None:
    by_words = (
        0 < len(text) <= 128
        and text[0] in LETTERS
        and all(character in f"{LETTERS}_.:-" for character in text)
        and not text.startswith("idt-")
    )
    assert (DEVICE_IDENTIFIER.fullmatch(text) is not None) is by_words


@given(st.from_regex(re.compile(r"[A-Za-z0-9][A-Za-z0-9_.:-]{0,63}", re.ASCII), fullmatch=True))
def test_an_identifier_survives_subject_and_uri(text: str) -> None:
    if text.startswith("idt-"):
        return
    identifier = device_identifier(text)
    assert subject_identifier(device_subject(identifier)) == identifier
    (uri,) = device_alternative_name(identifier)
    assert uri.value == f"urn:doorward:device:{text}"
    check_name(device_subject(identifier).public_bytes())


def test_an_identifier_longer_than_a_common_name_has_no_subject() -> None:
    assert device_subject(device_identifier("a" * 64))
    with pytest.raises(CertificateRefused) as refused:
        device_subject(device_identifier("a" * 65))
    assert refused.value.kind is RefusalKind.POLICY


@pytest.mark.parametrize(
    "name", [x509.Name([]), name_of("one", "two"), name_of("same", "same"), name_of("a\0b"), name_of("a b")]
)
def test_a_subject_without_one_identifier_is_refused(name: x509.Name) -> None:
    with pytest.raises(CertificateRefused) as refused:
        subject_identifier(name)
    assert refused.value.kind is RefusalKind.MALFORMED


def test_a_subject_may_say_more_than_the_identifier() -> None:
    organization = x509.NameAttribute(NameOID.ORGANIZATION_NAME, "Meters & Co")
    assert subject_identifier(x509.Name([organization, *name_of("meter-001")])) == "meter-001"


@pytest.mark.parametrize(
    "name",
    [
        raw_name(b"a\0b"),
        raw_name(b"line\nfeed"),
        raw_name(b"\x7f"),
        raw_name("\u0085".encode()),
        raw_name(b""),
        raw_name(b"a" * 65),
        raw_name(b"\0a", BMP_STRING),
        raw_name(b"a", TELETEX_STRING),
        raw_name(b"FRA", PRINTABLE_STRING, "550406"),
        raw_name(b"o" * 257, UTF8_STRING, "55040a"),
        b"\x30\x03\x31\x05\x00",
    ],
)
def test_a_name_that_is_not_printable_or_out_of_bounds_is_refused(name: bytes) -> None:
    with pytest.raises(CertificateRefused) as refused:
        check_name(name)
    assert refused.value.kind is RefusalKind.MALFORMED


@pytest.mark.parametrize(
    "name",
    [
        encode(SEQUENCE),
        raw_name(b"a" * 64),
        raw_name(b"meter", PRINTABLE_STRING),
        raw_name(b"meter", IA5_STRING),
        raw_name(b"FR", PRINTABLE_STRING, "550406"),
        raw_name("Zähler".encode()),
        raw_name(b"o" * 256, UTF8_STRING, "55040a"),
    ],
)
def test_a_printable_name_passes(name: bytes) -> None:
    check_name(name)


def test_a_control_character_in_an_alternative_name_is_refused() -> None:
    check_alternative_name([x509.DNSName("meter"), x509.UniformResourceIdentifier("urn:a")])
    with pytest.raises(CertificateRefused):
        check_alternative_name([x509.DNSName("meter"), x509.DNSName("meter\0.example")])


A, B = x509.DNSName("a"), x509.DNSName("b")


@pytest.mark.parametrize(
    ("requested", "certified", "expected"),
    [
        ((name_of("x"), ()), (name_of("x"), ()), NameComparison.IDENTICAL),
        ((name_of("x"), (A, B)), (name_of("x"), (B, A)), NameComparison.IDENTICAL),
        ((name_of("x"), (A,)), (name_of("y"), (A,)), NameComparison.SUBJECT_DIFFERS),
        ((name_of("x"), ()), (name_of("X"), ()), NameComparison.SUBJECT_DIFFERS),
        ((name_of("x"), ()), (name_of("x"), (A,)), NameComparison.ALTERNATIVE_NAME_ABSENT),
        ((name_of("x"), (A,)), (name_of("x"), ()), NameComparison.ALTERNATIVE_NAME_DIFFERS),
        ((name_of("x"), (A, B)), (name_of("x"), (A,)), NameComparison.ALTERNATIVE_NAME_DIFFERS),
        ((name_of("x"), (A, A)), (name_of("x"), (A,)), NameComparison.ALTERNATIVE_NAME_DIFFERS),
        (
            (name_of("x"), (x509.RFC822Name("a"),)),
            (name_of("x"), (A,)),
            NameComparison.ALTERNATIVE_NAME_DIFFERS,
        ),
    ],
)
def test_names_are_compared_exactly(
    requested: tuple[x509.Name, tuple[x509.GeneralName, ...]],
    certified: tuple[x509.Name, tuple[x509.GeneralName, ...]],
    expected: NameComparison,
) -> None:
    assert compare_names(*requested, *certified) is expected


@pytest.mark.parametrize(
    ("alternative_names", "kind"),
    [
        ([x509.UniformResourceIdentifier("urn:doorward:device:meter-001")], None),
        ([], RefusalKind.POLICY),
        ([x509.UniformResourceIdentifier("urn:doorward:device:meter-002")], RefusalKind.POLICY),
        ([*device_alternative_name(device_identifier("meter-001")), A], RefusalKind.POLICY),
        ([x509.DNSName("urn:doorward:device:meter-001")], RefusalKind.POLICY),
    ],
)
def test_a_device_certificate_names_one_device_twice(
    root: "Authority", alternative_names: list[x509.GeneralName], kind: RefusalKind | None
) -> None:
    extensions = [(x509.SubjectAlternativeName(alternative_names), False)] if alternative_names else []
    certificate = root.sign("meter-001", extensions=extensions)
    if kind is None:
        assert device_named(certificate.subject, alternative_name(certificate)) == "meter-001"
    else:
        with pytest.raises(CertificateRefused) as refused:
            device_named(certificate.subject, alternative_name(certificate))
        assert refused.value.kind is kind


def test_openssl_reads_the_names_that_we_write(root: "Authority", openssl: Callable[..., bytes]) -> None:
    identifier = device_identifier("meter:01_a.b-c")
    extensions = [(x509.SubjectAlternativeName(device_alternative_name(identifier)), False)]
    certificate = root.sign(device_subject(identifier), extensions=extensions)
    pem = certificate.public_bytes(Encoding.PEM)
    printed = openssl("x509", "-noout", "-subject", "-ext", "subjectAltName", stdin=pem).decode()
    assert "CN = meter:01_a.b-c" in printed
    assert "URI:urn:doorward:device:meter:01_a.b-c" in printed

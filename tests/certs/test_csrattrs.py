"""CSR attributes: what is written is read back, by OpenSSL and asn1crypto too; the RFC's examples; what is refused."""

import subprocess
from base64 import b64decode
from contextlib import suppress
from pathlib import Path

import pytest
from asn1crypto import core
from asn1crypto.csr import CRIAttribute
from cryptography import x509
from cryptography.x509.oid import AttributeOID, ExtensionOID, NameOID, SignatureAlgorithmOID
from hypothesis import given
from hypothesis import strategies as st

from certs.csrattrs import (
    CSR_ATTRIBUTES_MAXIMUM_BYTES,
    EXTENSION_REQUEST,
    EXTENSION_TEMPLATE,
    REQUEST_TEMPLATE,
    SIGNATURES,
    WantedExtension,
    WantedKey,
    WantedName,
    WantedRequest,
    parse_csr_attributes,
    write_attributes,
    write_template,
)
from certs.der import encode, encode_integer, encode_object_identifier
from certs.errors import CertificateRefused, RefusalKind
from certs.keys import KeyAlgorithm

USAGE = bytes.fromhex("03020780")
CLIENT_AUTH = bytes.fromhex("300a06082b06010505070302")
KEY_USAGE = WantedExtension(ExtensionOID.KEY_USAGE, USAGE, critical=True)
EXTENDED_KEY_USAGE = WantedExtension(ExtensionOID.EXTENDED_KEY_USAGE, CLIENT_AUTH)
ALTERNATIVE_NAME = WantedExtension(ExtensionOID.SUBJECT_ALTERNATIVE_NAME, None)
P384 = WantedKey(KeyAlgorithm.P384)
RSA_4096 = WantedKey(KeyAlgorithm.RSA, 4096)

FULL = WantedRequest(
    challenge_password=True,
    key=P384,
    signature=SignatureAlgorithmOID.ECDSA_WITH_SHA384,
    extensions=(KEY_USAGE, EXTENDED_KEY_USAGE),
)
KEYS = [WantedKey(None), WantedKey(KeyAlgorithm.RSA), RSA_4096, *map(WantedKey, set(KeyAlgorithm) - {KeyAlgorithm.RSA})]


class Items(core.SequenceOf):  # type: ignore[misc] # asn1crypto has no types
    _child_spec = core.Any


def asn1parse(der: bytes, tmp_path: Path) -> str:
    file = tmp_path / "csrattrs.der"
    file.write_bytes(der)
    command = ["openssl", "asn1parse", "-inform", "DER", "-in", str(file)]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


def from_openssl(text: str, tmp_path: Path) -> bytes:
    """Let OpenSSL encode what is described in its own words (ASN1_generate_nconf)."""
    configuration, made = tmp_path / "csrattrs.cnf", tmp_path / "made.der"
    configuration.write_text(text)
    command = ["openssl", "asn1parse", "-genconf", str(configuration), "-noout", "-out", str(made)]
    subprocess.run(command, check=True, capture_output=True)
    return made.read_bytes()


def test_nothing_is_an_empty_sequence() -> None:
    assert write_attributes(WantedRequest()) == b"\x30\x00"
    assert parse_csr_attributes(b"\x30\x00") == WantedRequest()


def test_attributes_as_openssl_reads_them(tmp_path: Path) -> None:
    text = asn1parse(write_attributes(FULL), tmp_path)
    for name in (
        ":challengePassword",
        ":id-ecPublicKey",
        ":secp384r1",
        ":Extension Request",
        ":X509v3 Key Usage",
        ":X509v3 Extended Key Usage",
        ":ecdsa-with-SHA384",
    ):
        assert text.count(name) == 1, name


def test_extensions_with_values_are_one_request_of_one_extensions() -> None:
    items = [one.parse() for one in Items.load(write_attributes(FULL))]
    attributes = [CRIAttribute.load(one.dump()) for one in items if isinstance(one, core.Sequence)]
    (request,) = [one for one in attributes if one["type"].native == "extension_request"]
    (extensions,) = request["values"]
    assert [(one["extn_id"].native, one["critical"].native) for one in extensions] == [
        ("key_usage", True),
        ("extended_key_usage", False),
    ]
    assert extensions[0]["extn_value"].parsed.native == {"digital_signature"}


@pytest.mark.parametrize("key", KEYS)
def test_every_kind_of_key_is_read_back_from_attributes(key: WantedKey) -> None:
    assert parse_csr_attributes(write_attributes(WantedRequest(key=key))) == WantedRequest(key=key)


@pytest.mark.parametrize("key", KEYS)
def test_every_kind_of_key_is_read_back_from_a_template(key: WantedKey) -> None:
    wanted = None if key.algorithm is None else key  # a template has no way to ask for any curve
    assert parse_csr_attributes(write_template(WantedRequest(key=key))) == WantedRequest(key=wanted)


def test_the_rfcs_template_is_written_byte_for_byte(tmp_path: Path) -> None:
    """RFC 9908 3.4: the example with a common name and an extended key usage to be filled in, encoded by OpenSSL."""
    names = "30150282107777772e6d795365727665722e636f6d8700"
    names = "3014" + "8210" + b"www.myServer.com".hex() + "8700"
    usage = "03020388"
    expected = from_openssl(
        f"""asn1=SEQUENCE:all
[all]
one=SEQUENCE:attribute
[attribute]
type=OID:1.2.840.113549.1.9.16.2.61
values=SET:templates
[templates]
one=SEQUENCE:template
[template]
version=INTEGER:0
subject=SEQUENCE:subject
key=IMPLICIT:0,SEQUENCE:key
attributes=IMPLICIT:1,SET:requests
[subject]
one=SET:cn
two=SET:dept
three=SET:group
[cn]
one=SEQUENCE:cn_
[cn_]
type=OID:2.5.4.3
[dept]
one=SEQUENCE:dept_
[dept_]
type=OID:2.5.4.11
value=UTF8:myDept
[group]
one=SEQUENCE:group_
[group_]
type=OID:2.5.4.11
value=UTF8:myGroup
[key]
algorithm=SEQUENCE:algorithm
[algorithm]
type=OID:1.2.840.10045.2.1
curve=OID:1.2.840.10045.3.1.7
[requests]
one=SEQUENCE:request
[request]
type=OID:1.2.840.113549.1.9.16.2.62
values=SET:extensions
[extensions]
one=SEQUENCE:extensions_
[extensions_]
one=SEQUENCE:san
two=SEQUENCE:usage
three=SEQUENCE:extended
[san]
type=OID:2.5.29.17
value=FORMAT:HEX,OCTETSTRING:{names}
[usage]
type=OID:2.5.29.15
critical=BOOLEAN:TRUE
value=FORMAT:HEX,OCTETSTRING:{usage}
[extended]
type=OID:2.5.29.37
""",
        tmp_path,
    )
    wanted = WantedRequest(
        key=WantedKey(KeyAlgorithm.P256),
        subject=(
            WantedName(NameOID.COMMON_NAME, None),
            WantedName(NameOID.ORGANIZATIONAL_UNIT_NAME, "myDept"),
            WantedName(NameOID.ORGANIZATIONAL_UNIT_NAME, "myGroup"),
        ),
        extensions=(
            WantedExtension(ExtensionOID.SUBJECT_ALTERNATIVE_NAME, bytes.fromhex(names)),
            WantedExtension(ExtensionOID.KEY_USAGE, bytes.fromhex(usage), critical=True),
            WantedExtension(ExtensionOID.EXTENDED_KEY_USAGE, None),
        ),
    )
    assert write_template(wanted) == expected
    assert parse_csr_attributes(expected) == wanted


@pytest.mark.parametrize("extensions", [(), (KEY_USAGE,), (KEY_USAGE, ALTERNATIVE_NAME)])
def test_a_template_has_one_kind_of_extension_request(extensions: tuple[WantedExtension, ...], tmp_path: Path) -> None:
    wanted = WantedRequest(extensions=extensions)
    text = asn1parse(write_template(wanted), tmp_path)
    is_partial = ALTERNATIVE_NAME in extensions
    assert text.count(f":{EXTENSION_TEMPLATE.dotted_string}\n") == is_partial
    assert text.count(":Extension Request") == (bool(extensions) and not is_partial)
    assert parse_csr_attributes(write_template(wanted)) == wanted


def test_a_template_that_wants_the_link_says_so_in_both_ways(tmp_path: Path) -> None:
    der = write_template(WantedRequest(challenge_password=True))
    assert asn1parse(der, tmp_path).count(":challengePassword") == 2
    assert parse_csr_attributes(der) == WantedRequest(challenge_password=True)


def test_an_rsa_placeholder_is_a_key_of_that_length(tmp_path: Path) -> None:
    text = asn1parse(write_template(WantedRequest(key=RSA_4096)), tmp_path)
    assert ":rsaEncryption" in text
    assert "BIT STRING" in text


EXTENSION_ALONE = (  # one Extension where Extensions belong, as drafts of RFC 9908 had it
    "MGQwYgYJKoZIhvcNAQkOMVUwUwYDVR0RAQH/BEmgRzBFBggrBgEFBQcICgw5cmZjODk5NCtmZDczOWZjMjNjMzQ0MDExMjIz"
    "MzQ0NTUwMDAwMDAwMCtAYWNwLmV4YW1wbGUuY29t"
)
RFC_7030 = "MDIGCSqGSIb3DQEJBzASBgcqhkjOPQIBMQcGBSuBBAAiBgcrBgEBAQEWBggqhkjOPQQDAw=="
RSA_OF_4096 = "MCkGCSqGSIb3DQEJBzARBgkqhkiG9w0BAQExBAICEAAGCSqGSIb3DQEBCw=="
OTHER_NAME = (
    "MGcGCSqGSIb3DQEJBzASBgcqhkjOPQIBMQcGBSuBBAAiMDwGCSqGSIb3DQEJDjEvMC0wKwYDVR0RBCQwIqAgBggrBgEFBQcI"
    "CqAUFhJwb3RhdG9AZXhhbXBsZS5jb20GCCqGSM49BAMD"
)


def test_the_rfcs_examples_are_read() -> None:
    assert parse_csr_attributes(b64decode(RFC_7030)) == WantedRequest(
        challenge_password=True,
        key=P384,
        signature=SignatureAlgorithmOID.ECDSA_WITH_SHA384,
        unknown=(x509.ObjectIdentifier("1.3.6.1.1.1.1.22"),),  # macAddress
    )
    wanted = WantedRequest(challenge_password=True, key=RSA_4096, signature=SignatureAlgorithmOID.RSA_WITH_SHA256)
    assert parse_csr_attributes(b64decode(RSA_OF_4096)) == wanted
    assert write_attributes(wanted) == b64decode(RSA_OF_4096)
    other = parse_csr_attributes(b64decode(OTHER_NAME))
    assert (other.key, [one.oid for one in other.extensions]) == (P384, [ExtensionOID.SUBJECT_ALTERNATIVE_NAME])
    assert write_attributes(other) == b64decode(OTHER_NAME)


def oid(dotted: str) -> bytes:
    return encode_object_identifier(dotted)


def attribute(dotted: str, *values: bytes) -> bytes:
    return encode(0x30, oid(dotted), encode(0x31, *values))


EXTENSIONS = encode(0x30, encode(0x30, oid("2.5.29.15"), encode(0x04, USAGE)))
REQUEST = attribute(EXTENSION_REQUEST.dotted_string, EXTENSIONS)
PARTIAL = attribute(EXTENSION_TEMPLATE.dotted_string, EXTENSIONS)


def template(*parts: bytes, version: int = 0) -> bytes:
    return attribute(REQUEST_TEMPLATE.dotted_string, encode(0x30, encode_integer(version), *parts))


@pytest.mark.parametrize(
    "items",
    [
        (REQUEST, REQUEST),
        (attribute(EXTENSION_REQUEST.dotted_string, EXTENSIONS, EXTENSIONS),),
        (attribute(EXTENSION_REQUEST.dotted_string),),
        (attribute(EXTENSION_REQUEST.dotted_string, oid("2.5.4.5")),),  # an OID where Extensions belong
        (REQUEST, oid("2.5.29.15")),
        (attribute(EXTENSION_REQUEST.dotted_string, encode(0x30, encode(0x30, oid("2.5.29.15")))),),
        (attribute(EXTENSION_REQUEST.dotted_string, encode(0x30, encode(0x30))),),
        (attribute("1.2.840.10045.2.1", oid("1.3.132.0.34"), oid("1.3.132.0.35")),),
        (attribute("1.2.840.10045.2.1", oid("1.3.132.0.34")), attribute("1.2.840.113549.1.1.1")),
        (oid("1.2.840.10045.4.3.2"), oid("1.2.840.10045.4.3.3")),
        (template(encode(0xA1), version=1),),
        (template(),),
        (template(encode(0xA1, REQUEST, PARTIAL)),),
        (template(encode(0xA1, PARTIAL, PARTIAL)),),
        (template(encode(0xA1)), template(encode(0xA1))),
        (template(encode(0xA0), encode(0xA1)),),
        (template(encode(0x30, encode(0x31)), encode(0xA1)),),
        (template(encode(0x30, encode(0x31, encode(0x30, oid("2.5.4.3"), b"\x0c\x01\xff"))), encode(0xA1)),),
        (encode(0x30),),
        (encode(0x31),),
        (b"\x06\x00",),
        (b"\x06\x02\x80\x01",),
        (b"\x30\x80\x00\x00",),
        (b"\x30\x81\x00",),
        (b"\x06\x05\x2a",),
        (encode(0x06, b"\xff" * 4000 + b"\x7f"),),
        (encode(0x06, b"\x2a" * 64),),
        (encode(0x06, b"\x80\x01"),),
        (encode(0x06, b"\x7f\xff"),),
        (attribute("1.2.840.113549.1.1.1", encode(0x02, b"\x7f" * 5000)),),
        (attribute("1.2.840.113549.1.1.1", encode(0x02, b"\xff")),),
        (attribute("1.2.840.113549.1.1.1", encode(0x02)),),
    ],
)
def test_what_is_not_strictly_csr_attributes_is_refused(items: tuple[bytes, ...]) -> None:
    with pytest.raises(CertificateRefused) as refused:
        parse_csr_attributes(encode(0x30, *items))
    assert refused.value.kind is RefusalKind.MALFORMED


@pytest.mark.parametrize(
    "der", [b"", b"\x31\x00", b"\x30\x00\x30\x00", bytes(CSR_ATTRIBUTES_MAXIMUM_BYTES + 1), b64decode(EXTENSION_ALONE)]
)
def test_what_is_not_csr_attributes_at_all_is_refused(der: bytes) -> None:
    with pytest.raises(CertificateRefused):
        parse_csr_attributes(der)


def test_what_nobody_knows_is_told_apart() -> None:
    strange = x509.ObjectIdentifier("1.3.6.1.4.1.99999.1")
    der = encode(0x30, oid(strange.dotted_string), attribute("1.3.6.1.4.1.99999.2", b"\x05\x00"))
    assert parse_csr_attributes(der).unknown == (strange, x509.ObjectIdentifier("1.3.6.1.4.1.99999.2"))
    der = encode(0x30, template(encode(0xA1, attribute(strange.dotted_string))))
    assert parse_csr_attributes(der).unknown == (strange,)


def test_a_template_counts_alone() -> None:
    der = encode(0x30, oid(AttributeOID.CHALLENGE_PASSWORD.dotted_string), REQUEST, template(encode(0xA1)))
    assert parse_csr_attributes(der) == WantedRequest()


OIDS = st.sampled_from([KEY_USAGE, EXTENDED_KEY_USAGE, ALTERNATIVE_NAME])
WANTED = st.builds(
    WantedRequest,
    challenge_password=st.booleans(),
    key=st.none() | st.sampled_from([one for one in KEYS if one.algorithm is not None]),
    signature=st.none() | st.sampled_from(sorted(SIGNATURES.values(), key=lambda one: one.dotted_string)),
    extensions=st.lists(OIDS, unique=True).map(tuple),
    subject=st.lists(st.builds(WantedName, st.just(NameOID.COMMON_NAME), st.none() | st.text())).map(tuple),
)


@given(WANTED)
def test_whatever_is_written_is_read(wanted: WantedRequest) -> None:
    plain = parse_csr_attributes(write_attributes(wanted))
    assert (plain.challenge_password, plain.key, plain.signature) == (
        wanted.challenge_password,
        wanted.key,
        wanted.signature,
    )
    assert set(plain.extensions) == set(wanted.extensions)
    filled = parse_csr_attributes(write_template(wanted))
    assert filled == WantedRequest(wanted.challenge_password, wanted.key, None, wanted.extensions, wanted.subject)


@given(st.binary(max_size=200))
def test_any_bytes_are_read_or_refused(noise: bytes) -> None:
    for der in (noise, encode(0x30, noise), encode(0x30, attribute(REQUEST_TEMPLATE.dotted_string, noise))):
        with suppress(CertificateRefused):
            parse_csr_attributes(der)

"""Names that are none, or not this device's. Each row's bytes are a request in DER."""

from certs.der import (
    BIT_STRING,
    CONTEXT_0,
    IA5_STRING,
    INTEGER,
    OBJECT_IDENTIFIER,
    OCTET_STRING,
    PRINTABLE_STRING,
    SET,
    encode,
)
from tests.est.hostile.der import (
    COUNTRY,
    DEVICE,
    ORGANIZATION,
    alternative_names,
    asking,
    attribute,
    common_name,
    dns,
    extension,
    integer,
    name,
    named,
    naming,
    oid,
    request,
    requested,
    sequence,
    uri,
)
from tests.est.hostile.rows import Row

NUMERIC, TELETEX, VISIBLE, UNIVERSAL, BMP, CONSTRUCTED_UTF8 = 0x12, 0x14, 0x1A, 0x1C, 0x1E, 0x2C
OURS = f"urn:doorward:device:{DEVICE}"
MICROSOFT_EXTENSION_REQUEST = "1.3.6.1.4.1.311.2.1.14"
NOT_ONE, NO_GRAMMAR, CONTROL = "common names instead of one", "not a device identifier", "control character"
NO_TEXT = "use UTF8String or PrintableString"
OTHER_NAMES = "OTHER_NAMES"

IDENTIFIERS: list[Row] = [
    Row(f"the identifier {text!a}", lambda text=text: named(text), 400, NO_GRAMMAR)  # type: ignore[misc]
    for text in (
        "+",
        "meter/001",
        "meter+001",
        "meter#001",
        "meter*",
        "meter>",
        "*.meter",
        "meter 001",
        "meter-001 ",
        "../meter-001",
        "meter-001'; DROP TABLE device; --",
        "${jndi:ldap://example}",
        "%s%n",
        "<script>",
        ".meter",
        "-meter",
        "$SYS",
        "CN=meter-001",
        "idt-0198c5f0-0000-7000-8000-000000000000",
        # The same to the eye.
        "m\u0435ter-001",
        "meter\u2010001",
        "meter-\uff10\uff10\uff11",
        "meter-001\u200b",
        "\ufeffmeter-001",
        "meter-001\u00a0",
        "\u202e100-retem",
        "m\u00e9ter",
        "me\u0301ter",
        "meter-\U0001d7ce01",
    )
]

CONTROLS: list[Row] = [
    Row(f"the identifier {text!a}", lambda text=text: named(text), 400, CONTROL)  # type: ignore[misc]
    for text in (
        "meter\x00001",
        "meter-001\x00",
        "\x00",
        "meter-001\x00.example",
        "meter\n001",
        "meter-001\r\nX: y",
        "meter-001\n",
        "meter\t001",
        "meter\x07",
        "\x1b[2Jmeter",
        "meter\x7f",
        "meter\u0085001",
        "meter\u2028001",
    )
]

STRINGS: list[Row] = [
    Row("a BMPString", lambda: named(DEVICE.encode("utf-16-be"), BMP), 400, NO_TEXT),
    Row("a T61String", lambda: named(DEVICE, TELETEX), 400, NO_TEXT),
    Row("a UniversalString", lambda: named(DEVICE.encode("utf-32-be"), UNIVERSAL), 400, NO_TEXT),
    Row("a NumericString", lambda: named("001", NUMERIC), 400, NO_TEXT),
    Row("a VisibleString", lambda: named(DEVICE, VISIBLE), 400, NO_TEXT),
    Row("an OCTET STRING for a name", lambda: named(DEVICE, OCTET_STRING), 400, NO_TEXT),
    Row("an INTEGER for a name", lambda: named(b"\x01", INTEGER), 400, NO_TEXT),
    Row("a BIT STRING for a name", lambda: named(b"\0meter-001", BIT_STRING), 400, NO_TEXT),
    Row("a BOOLEAN for a name", lambda: named(b"\xff", 0x01), 400, NO_TEXT),
    Row("a constructed UTF8String", lambda: named(encode(0x0C, b"meter-001"), CONSTRUCTED_UTF8), 400, "tag"),
    Row("a NUL made too long for UTF-8", lambda: named(b"meter\xc0\x80001"), 400, "cannot be read"),
    Row("half a character of UTF-8", lambda: named(b"meter-001\xe2\x82"), 400, "cannot be read"),
    Row("a surrogate in UTF-8", lambda: named(b"meter-\xed\xa0\x80"), 400, "cannot be read"),
    Row("Latin-1 for UTF-8", lambda: named(b"m\xe9ter"), 400, "cannot be read"),
    Row("a PrintableString that is not", lambda: named("meter_*@001", PRINTABLE_STRING), 400, "cannot be read"),
    Row("an IA5String of eight bits", lambda: named(b"m\xe9ter", IA5_STRING), 400, "cannot be read"),
]

SUBJECTS: list[Row] = [
    Row("no name at all", lambda: request(subject=name()), 400, NOT_ONE),
    Row("an organization alone", lambda: request(subject=name(attribute(ORGANIZATION, "ACME"))), 400, NOT_ONE),
    Row("two names", lambda: request(subject=name(common_name(), common_name("meter-002"))), 400, NOT_ONE),
    Row("the same name twice", lambda: request(subject=name(common_name(), common_name())), 400, NOT_ONE),
    Row(
        "two names in one set",
        lambda: request(subject=sequence(encode(SET, common_name(), common_name("meter-002")))),
        400,
        NOT_ONE,
    ),
    Row("an empty set in the subject", lambda: request(subject=sequence(encode(SET))), 400, "REQUEST"),
    Row("an empty common name", lambda: named(""), 400, "outside the bounds"),
    Row("65 characters", lambda: named("m" * 65), 400, "outside the bounds"),
    Row("129 characters", lambda: named("m" * 129), 400, "outside the bounds"),
    Row("10,000 characters", lambda: named("m" * 10_000), 400, "outside the bounds"),
    Row(
        "an organization of 257 bytes",
        lambda: request(subject=name(common_name(), attribute(ORGANIZATION, "o" * 257))),
        400,
        "outside the bounds",
    ),
    Row(
        "a country of three letters",
        lambda: request(subject=name(attribute(COUNTRY, "DEU", PRINTABLE_STRING), common_name())),
        400,
        "outside the bounds",
    ),
    Row(
        "an organization with a line feed",
        lambda: request(subject=name(common_name(), attribute(ORGANIZATION, "A\nB"))),
        400,
        CONTROL,
    ),
    Row("a subject that is a set", lambda: request(subject=encode(SET, encode(SET, common_name()))), 400, "REQUEST"),
    Row("an attribute without a value", lambda: request(subject=name(sequence(oid("2.5.4.3")))), 400, "REQUEST"),
    Row(
        "an attribute with two values",
        lambda: request(subject=name(sequence(oid("2.5.4.3"), encode(0x0C, b"a"), encode(0x0C, b"b")))),
        400,
        "REQUEST",
    ),
    Row(
        "an attribute of an empty type",
        lambda: request(subject=name(sequence(encode(OBJECT_IDENTIFIER), encode(0x0C, b"meter-001")))),
        400,
        "REQUEST",
    ),
    Row("a subject that is choice [0]", lambda: request(subject=encode(CONTEXT_0, b"")), 400, "REQUEST"),
    Row("another device's identifier", lambda: named("meter-002"), 403, "NOT_NAMED"),
    Row("its identifier in capitals", lambda: named("METER-001"), 403, "NOT_NAMED"),
    Row("its identifier and a dot", lambda: named("meter-001."), 403, "NOT_NAMED"),
]

ALTERNATIVE_NAMES: list[Row] = [
    Row("the URI of another device", lambda: naming(uri("urn:doorward:device:meter-002")), 403, OTHER_NAMES),
    Row("its URI, and another device's", lambda: naming(uri(OURS), uri(OURS[:-1] + "2")), 403, OTHER_NAMES),
    Row("its URI twice", lambda: naming(uri(OURS), uri(OURS)), 403, OTHER_NAMES),
    Row("its URI in capitals", lambda: naming(uri(OURS.upper())), 403, OTHER_NAMES),
    Row("its URI with an escape", lambda: naming(uri(OURS.replace("-", "%2D"))), 403, OTHER_NAMES),
    Row("its URI with a fragment", lambda: naming(uri(OURS + "#")), 403, OTHER_NAMES),
    Row("a URI with a NUL", lambda: naming(uri(OURS + "\0.example")), 400, CONTROL),
    Row("a URI of eight bits", lambda: naming(uri(OURS.encode() + b"\xff")), 400, "REQUEST_MALFORMED"),
    Row("an empty URI", lambda: naming(uri("")), 403, OTHER_NAMES),
    Row("a DNS name", lambda: naming(dns(DEVICE)), 403, OTHER_NAMES),
    Row("a wildcard", lambda: naming(uri(OURS), dns("*.example")), 403, OTHER_NAMES),
    Row("a wildcard of everything", lambda: naming(uri(OURS), dns("*")), 403, OTHER_NAMES),
    Row("a DNS name with a line feed", lambda: naming(dns("a\nb")), 400, CONTROL),
    Row("an address", lambda: naming(uri(OURS), encode(0x87, bytes([127, 0, 0, 1]))), 403, OTHER_NAMES),
    Row("an address of five bytes", lambda: naming(encode(0x87, bytes(5))), 400, "REQUEST_MALFORMED"),
    Row("a mailbox", lambda: naming(encode(0x81, b"root@example")), 403, OTHER_NAMES),
    Row(
        "a directory name",
        lambda: naming(uri(OURS), encode(0xA4, name(common_name("Doorward root")))),
        403,
        OTHER_NAMES,
    ),
    Row("a registered number", lambda: naming(encode(0x88, oid("1.2.3")[2:])), 403, OTHER_NAMES),
    Row(
        "a user's principal name",
        lambda: naming(
            encode(CONTEXT_0, oid("1.3.6.1.4.1.311.20.2.3"), encode(CONTEXT_0, encode(0x0C, b"root@example")))
        ),
        403,
        OTHER_NAMES,
    ),
    Row("an X.400 address", lambda: naming(encode(0xA3, b"")), 400, "REQUEST_MALFORMED"),
    Row("a name of no kind", lambda: naming(encode(0x8F, b"a")), 400, "REQUEST_MALFORMED"),
    Row("a thousand names", lambda: naming(*[dns(f"a{number}") for number in range(1000)]), 403, OTHER_NAMES),
    Row("names that are no sequence", lambda: asking(extension("2.5.29.17", integer(1))), 400, "REQUEST_MALFORMED"),
    Row(
        "names with a tail",
        lambda: asking(extension("2.5.29.17", sequence(uri(OURS)) + b"\0")),
        400,
        "REQUEST_MALFORMED",
    ),
    Row(
        "the names twice",
        lambda: asking(alternative_names(uri(OURS)), alternative_names(uri("urn:doorward:device:meter-002"))),
        400,
        "REQUEST_MALFORMED",
    ),
    Row(
        "two requests for extensions",
        lambda: request(attributes=(requested(alternative_names(uri(OURS))), requested(alternative_names(dns("a"))))),
        400,
        "more than one extension request",
    ),
    Row(
        "two requests for extensions, one in Microsoft's way",
        lambda: request(
            attributes=(
                requested(alternative_names(uri(OURS))),
                requested(alternative_names(dns("a")), kind=MICROSOFT_EXTENSION_REQUEST),
            )
        ),
        400,
        "more than one extension request",
    ),
    Row(
        "another device's URI in Microsoft's way",
        lambda: request(
            attributes=(
                requested(alternative_names(uri("urn:doorward:device:meter-002")), kind=MICROSOFT_EXTENSION_REQUEST),
            )
        ),
        403,
        OTHER_NAMES,
    ),
]

TABLES = (IDENTIFIERS, CONTROLS, STRINGS, SUBJECTS, ALTERNATIVE_NAMES)

"""Wishes that a profile does not grant: the request is in order, and what it asks for is not in the certificate.

Each row is the extensions that are asked for, in DER. They are asked for beside the right names.
"""

from certs.der import BIT_STRING, encode
from tests.est.hostile.der import (
    COMMON_NAME,
    ORGANIZATION,
    SERIAL_NUMBER,
    TRUE,
    attribute,
    common_name,
    extension,
    integer,
    name,
    oid,
    sequence,
    uri,
)

BASIC_CONSTRAINTS, KEY_USAGE, EXTENDED_KEY_USAGE = "2.5.29.19", "2.5.29.15", "2.5.29.37"
SERVER_AUTH, CODE_SIGNING, OCSP_SIGNING, ANY_USAGE = (
    "1.3.6.1.5.5.7.3.1",
    "1.3.6.1.5.5.7.3.3",
    "1.3.6.1.5.5.7.3.9",
    "2.5.29.37.0",
)
ELSEWHERE = sequence(sequence(encode(0xA0, encode(0xA0, uri("http://evil.example/x.crl")))))

EXTENSIONS: dict[str, tuple[bytes, ...]] = {
    "to be an authority": (extension(BASIC_CONSTRAINTS, sequence(TRUE), critical=True),),
    "to be an authority of any depth": (extension(BASIC_CONSTRAINTS, sequence(TRUE, integer(255))),),
    "to sign certificates": (extension(KEY_USAGE, encode(BIT_STRING, b"\x01\x06"), critical=True),),
    "every usage of a key": (extension(KEY_USAGE, encode(BIT_STRING, b"\x07\xff\x80")),),
    "to be a server": (extension(EXTENDED_KEY_USAGE, sequence(oid(SERVER_AUTH))),),
    "to sign code": (extension(EXTENDED_KEY_USAGE, sequence(oid(CODE_SIGNING))),),
    "to answer OCSP": (
        extension(EXTENDED_KEY_USAGE, sequence(oid(OCSP_SIGNING))),
        extension("1.3.6.1.5.5.7.48.1.5", b"\x05\x00"),
    ),
    "any purpose": (extension(EXTENDED_KEY_USAGE, sequence(oid(ANY_USAGE))),),
    "an authority with a server's purpose": (
        extension(BASIC_CONSTRAINTS, sequence(TRUE), critical=True),
        extension(KEY_USAGE, encode(BIT_STRING, b"\x01\x86"), critical=True),
        extension(EXTENDED_KEY_USAGE, sequence(oid(SERVER_AUTH), oid(ANY_USAGE))),
    ),
    "the root's identifier": (extension("2.5.29.14", encode(0x04, bytes(20))),),
    "another authority's identifier": (extension("2.5.29.35", sequence(encode(0x80, bytes(20)))),),
    "its own revocation list": (extension("2.5.29.31", ELSEWHERE),),
    "its own OCSP": (
        extension("1.3.6.1.5.5.7.1.1", sequence(sequence(oid("1.3.6.1.5.5.7.48.1"), uri("http://evil.example/ocsp")))),
    ),
    "a policy": (extension("2.5.29.32", sequence(sequence(oid("2.5.29.32.0")))),),
    "names for those below": (
        extension("2.5.29.30", sequence(encode(0xA0, sequence(encode(0x82, b"example")))), critical=True),
    ),
    "not to be revoked": (extension("2.5.29.56", b"\x05\x00"),),
    "a template of Microsoft's": (extension("1.3.6.1.4.1.311.20.2", encode(0x1E, "SubCA".encode("utf-16-be"))),),
    "a logon": (extension(EXTENDED_KEY_USAGE, sequence(oid("1.3.6.1.4.1.311.20.2.2"))),),
    "a kind of Netscape's": (extension("2.16.840.1.113730.1.1", encode(BIT_STRING, b"\x00\x07")),),
    "something critical that nobody knows": (extension("1.2.3.4.5", b"\x05\x00", critical=True),),
}

SUBJECTS = {
    "an organization": lambda device: name(attribute(ORGANIZATION, "Doorward"), common_name(device)),
    "a serial number": lambda device: name(common_name(device), attribute(SERIAL_NUMBER, "1")),
    "two names of which one is another kind": lambda device: name(
        attribute("2.5.4.41", "root"), attribute(COMMON_NAME, device)
    ),
    "a mailbox": lambda device: name(common_name(device), attribute("1.2.840.113549.1.9.1", "root@example", 0x16)),
}
"""Subjects that hold more than the device's name: only that is taken."""

"""Bodies that are no request in base64. Each row's bytes are the body, as it is sent."""

import gzip
from base64 import b32encode, b64encode, encodebytes, urlsafe_b64encode
from quopri import encodestring

from tests.est.hostile.der import request
from tests.est.hostile.rows import Row

GOOD = request()
TEXT = b64encode(GOOD)
NO_BASE64, NO_PEM = "is not base64", "not one PEM block"


def pem(label: bytes = b"CERTIFICATE REQUEST", content: bytes | None = None, *, end: bytes | None = None) -> bytes:
    lines = encodebytes(GOOD) if content is None else content
    return b"-----BEGIN " + label + b"-----\n" + lines + b"-----END " + (end or label) + b"-----\n"


def unlike_standard() -> bytes:
    """The request in the alphabet of URLs, in which it certainly differs."""
    return urlsafe_b64encode(GOOD).rstrip(b"=") + b"_-=="


BODIES: list[Row] = [
    Row("nothing", lambda: b"", 400, NO_BASE64),
    Row("a line feed", lambda: b"\n", 400, NO_BASE64),
    Row("white space", lambda: b" \t\r\n" * 100, 400, NO_BASE64),
    Row("three bytes", lambda: b"\x00\x01\x02", 400, NO_BASE64),
    Row("DER as it is", lambda: GOOD, 400, NO_BASE64),
    Row("base64 twice", lambda: b64encode(TEXT), 400, "cannot be read"),
    Row("the alphabet of URLs", unlike_standard, 400, NO_BASE64),
    Row("base32", lambda: b32encode(GOOD), 400, "REQUEST_MALFORMED"),
    Row("hexadecimal", lambda: b"0x" + GOOD.hex().encode(), 400, "REQUEST_MALFORMED"),
    Row("without the last three characters", lambda: TEXT.rstrip(b"=")[:-3], 400, "REQUEST_MALFORMED"),
    Row("padding in the middle", lambda: TEXT[:8] + b"==" + TEXT[8:], 400, NO_BASE64),
    Row("padding before", lambda: b"==" + TEXT, 400, NO_BASE64),
    Row("padding of three", lambda: TEXT.rstrip(b"=") + b"===", 400, NO_BASE64),
    Row("padding alone", lambda: b"====", 400, NO_BASE64),
    Row("a NUL in it", lambda: TEXT[:20] + b"\0" + TEXT[20:], 400, NO_BASE64),
    Row("a NUL after it", lambda: TEXT + b"\0", 400, NO_BASE64),
    Row("a form feed in it", lambda: TEXT[:20] + b"\f" + TEXT[20:], 400, NO_BASE64),
    Row("a vertical tab in it", lambda: TEXT[:20] + b"\v" + TEXT[20:], 400, NO_BASE64),
    Row("a hyphen in it", lambda: TEXT[:20] + b"-" + TEXT[20:], 400, NO_BASE64),
    Row("junk in it", lambda: TEXT[:20] + b"!!!!" + TEXT[20:], 400, NO_BASE64),
    Row("junk after it", lambda: TEXT + b" -- sent from my device", 400, NO_BASE64),
    Row("a mark of byte order", lambda: b"\xef\xbb\xbf" + TEXT, 400, NO_BASE64),
    Row("UTF-16", lambda: TEXT.decode().encode("utf-16"), 400, NO_BASE64),
    Row("two requests", lambda: TEXT + b"\n" + TEXT, 400, "REQUEST_MALFORMED"),
    Row("quoted-printable", lambda: encodestring(TEXT.rstrip(b"=") + b"=3D"), 400, NO_BASE64),
    Row("escaped for a URL", lambda: b"csr=" + TEXT.replace(b"+", b"%2B").replace(b"/", b"%2F"), 400, NO_BASE64),
    Row("a data URL", lambda: b"data:application/pkcs10;base64," + TEXT, 400, NO_BASE64),
    Row("JSON", lambda: b'{"csr": "' + TEXT + b'"}', 400, NO_BASE64),
    Row("XML", lambda: b"<csr>" + TEXT + b"</csr>", 400, NO_BASE64),
    Row("gzip", lambda: gzip.compress(TEXT), 400, NO_BASE64),
    Row("gzip in base64", lambda: b64encode(gzip.compress(GOOD)), 400, "cannot be read"),
    Row(
        "a form",
        lambda: b'--x\r\nContent-Disposition: form-data; name="csr"\r\n\r\n' + TEXT + b"\r\n--x--\r\n",
        400,
        NO_PEM,
    ),
    Row("PEM of a certificate", lambda: pem(b"CERTIFICATE"), 400, NO_PEM),
    Row("PEM of a private key", lambda: pem(b"PRIVATE KEY"), 400, NO_PEM),
    Row("PEM of PKCS #7", lambda: pem(b"PKCS7"), 400, NO_PEM),
    Row("PEM in small letters", lambda: pem(b"certificate request"), 400, NO_PEM),
    Row("PEM that begins so and ends otherwise", lambda: pem(end=b"NEW CERTIFICATE REQUEST"), 400, NO_PEM),
    Row("PEM without an end", lambda: pem().partition(b"-----END")[0], 400, NO_PEM),
    Row("PEM without a beginning", lambda: encodebytes(GOOD) + b"-----END CERTIFICATE REQUEST-----\n", 400, NO_BASE64),
    Row("PEM of nothing", lambda: pem(content=b"\n"), 400, "REQUEST_MALFORMED"),
    Row("PEM with headers", lambda: pem(content=b"Proc-Type: 4,ENCRYPTED\n\n" + encodebytes(GOOD)), 400, NO_PEM),
    Row("PEM with four hyphens", lambda: pem().replace(b"-----", b"----"), 400, NO_PEM),
    Row("PEM twice", lambda: pem() + pem(), 400, NO_PEM),
    Row("PEM with a certificate after it", lambda: pem() + pem(b"CERTIFICATE"), 400, NO_PEM),
    Row("PEM with text before it", lambda: b"Certificate Request:\n" + pem(), 400, NO_BASE64),
    Row("PEM in base64", lambda: b64encode(pem()), 400, "cannot be read"),
    Row("16 KiB of letters", lambda: b"A" * 16_384, 400, "cannot be read"),
    Row("32 KiB and one byte", lambda: b"A" * (32 * 1024 + 1), 413, "at most 32768 bytes"),
    Row("a megabyte", lambda: b"A" * 1_000_000, 413, "at most 32768 bytes"),
    Row("a megabyte of white space", lambda: b" " * 1_000_000, 413, "at most 32768 bytes"),
]

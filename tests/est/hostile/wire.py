"""HTTP that is none. Each row's bytes are what is sent in the TLS connection, and it gets one answer at most."""

import gzip
from base64 import b64encode

from tests.est.hostile.der import request
from tests.est.hostile.rows import Row

BODY = b64encode(request())
PATH = b"/.well-known/est/simpleenroll"
START = b"POST " + PATH + b" HTTP/1.1"
MALFORMED = "malformed request"


def post(
    *headers: bytes, body: bytes = BODY, start: bytes = START, content_type: bytes | None = b"application/pkcs10"
) -> bytes:
    lines = [start, b"Host: localhost", *headers]
    if content_type is not None:
        lines.append(b"Content-Type: " + content_type)
    return b"\r\n".join(lines) + b"\r\n\r\n" + body


def sized(
    *headers: bytes, body: bytes = BODY, content_type: bytes | None = b"application/pkcs10", start: bytes = START
) -> bytes:
    return post(*headers, b"Content-Length: %d" % len(body), body=body, content_type=content_type, start=start)


def chunked(body: bytes, *headers: bytes) -> bytes:
    return post(b"Transfer-Encoding: chunked", *headers, body=body)


def chunk(body: bytes, *, extension: bytes = b"") -> bytes:
    return b"%x" % len(body) + extension + b"\r\n" + body + b"\r\n"


SMUGGLED = b"GET /.well-known/est/cacerts HTTP/1.1\r\nHost: localhost\r\n\r\n"

MEDIA_TYPES: list[Row] = [
    Row(f"the type {kind!a}", lambda kind=kind: sized(content_type=kind), 415, "application/pkcs10")  # type: ignore[misc]
    for kind in (
        b"application/json",
        b"application/pkcs7-mime",
        b"application/pkcs7-mime; smime-type=certs-only",
        b"application/pkcs10x",
        b"application/x-pkcs10",
        b"application/*",
        b"*/*",
        b"text/plain",
        b"text/plain; application/pkcs10",
        b"application/x-www-form-urlencoded",
        b"multipart/form-data; boundary=x",
        b"pkcs10",
        b"",
    )
] + [Row("no type", lambda: sized(content_type=None), 415, "application/pkcs10")]

FRAMING: list[Row] = [
    Row(
        "two lengths that differ", lambda: post(b"Content-Length: %d" % len(BODY), b"Content-Length: 4"), 400, MALFORMED
    ),
    Row("two lengths that agree", lambda: post(*[b"Content-Length: %d" % len(BODY)] * 2), 400, MALFORMED),
    Row("two lengths in one", lambda: post(b"Content-Length: %d, %d" % (len(BODY), len(BODY))), 400, MALFORMED),
    Row("a length with a sign", lambda: post(b"Content-Length: +%d" % len(BODY)), 400, MALFORMED),
    Row("a negative length", lambda: post(b"Content-Length: -1"), 400, MALFORMED),
    Row("a length in hexadecimal", lambda: post(b"Content-Length: 0x100"), 400, MALFORMED),
    Row("a length with an exponent", lambda: post(b"Content-Length: 1e3"), 400, MALFORMED),
    Row("a length with a fraction", lambda: post(b"Content-Length: 10.0"), 400, MALFORMED),
    Row("a length of other digits", lambda: post("Content-Length: \u0661\u0662".encode()), 400, MALFORMED),
    Row("an empty length", lambda: post(b"Content-Length: "), 400, MALFORMED),
    Row("a length of 2^64", lambda: post(b"Content-Length: 18446744073709551616"), 400, MALFORMED),
    Row("a length of a terabyte", lambda: post(b"Content-Length: 1099511627776"), 413, "at most 32768 bytes"),
    Row("a length and chunks", lambda: chunked(b"0\r\n\r\n" + SMUGGLED, b"Content-Length: 5"), 400, MALFORMED),
    Row(
        "chunks spelt otherwise",
        lambda: post(b"Transfer-Encoding: xchunked", body=chunk(BODY) + b"0\r\n\r\n"),
        400,
        MALFORMED,
    ),
    Row(
        "chunks twice",
        lambda: post(b"Transfer-Encoding: chunked, chunked", body=chunk(BODY) + b"0\r\n\r\n"),
        400,
        MALFORMED,
    ),
    Row(
        "chunks, then the identity",
        lambda: post(b"Transfer-Encoding: chunked, identity", body=chunk(BODY) + b"0\r\n\r\n"),
        400,
        MALFORMED,
    ),
    Row(
        "an encoding with a space before its colon",
        lambda: post(b"Transfer-Encoding : chunked", body=chunk(BODY) + b"0\r\n\r\n"),
        400,
        MALFORMED,
    ),
    Row(
        "an encoding on a folded line",
        lambda: post(b"X: y\r\n Transfer-Encoding: chunked", b"Content-Length: 4"),
        400,
        MALFORMED,
    ),
    Row("a chunk of a size that is none", lambda: chunked(b"xyz\r\n" + BODY), 400, MALFORMED),
    Row("a chunk of a negative size", lambda: chunked(b"-5\r\nhello\r\n0\r\n\r\n"), 400, MALFORMED),
    Row("a chunk of 2^64 bytes", lambda: chunked(b"10000000000000000\r\n" + BODY), 400, MALFORMED),
    Row("a chunk whose end is not where it says", lambda: chunked(b"4\r\nAAAABBBB\r\n0\r\n\r\n"), 400, MALFORMED),
    Row("chunks ended by line feeds", lambda: chunked(b"4\nAAAA\n0\n\n"), 400, MALFORMED),
    Row(
        "chunks of more than may be",
        lambda: chunked(chunk(b"A" * 20_000) * 4 + b"0\r\n\r\n"),
        413,
        "at most 32768 bytes",
    ),
    Row("chunks of nothing", lambda: chunked(b"0\r\n\r\n"), 400, "is not base64"),
    Row(
        "a body in gzip that says so",
        lambda: sized(b"Content-Encoding: gzip", body=gzip.compress(BODY)),
        400,
        "is not base64",
    ),
    Row(
        "a megabyte packed into a kilobyte",
        lambda: sized(b"Content-Encoding: gzip", body=gzip.compress(b"A" * 1_000_000)),
        400,
        "is not base64",
    ),
    Row("a request hidden in the body", lambda: sized(body=SMUGGLED), 400, "is not base64"),
]

HEADS: list[Row] = [
    Row("a NUL in a header", lambda: sized(b"X: a\0b"), 400, MALFORMED),
    Row("a carriage return in a header", lambda: sized(b"X: a\rContent-Length: 4"), 400, MALFORMED),
    Row("a header without a colon", lambda: sized(b"X-Nothing"), 400, MALFORMED),
    Row("a header without a name", lambda: sized(b": nothing"), 400, MALFORMED),
    Row("a space in a header's name", lambda: sized(b"X Y: z"), 400, MALFORMED),
    Row("a space before a header's name", lambda: sized(b" X: z"), 400, MALFORMED),
    Row("65 headers", lambda: sized(*[b"X%d: y" % number for number in range(65)]), 400, MALFORMED),
    Row("a header of 9,000 bytes", lambda: sized(b"X: " + b"y" * 9_000), 431, MALFORMED),
    Row("a path of 9,000 bytes", lambda: sized(start=b"POST /" + b"a" * 9_000 + b" HTTP/1.1"), 431, MALFORMED),
    Row("a version of its own", lambda: sized(start=b"POST " + PATH + b" HTTP/9.9"), 400, MALFORMED),
    Row("the version of 1991", lambda: sized(start=b"POST " + PATH), 400, "HTTP/1.1"),
    Row("the version of 2015, as text", lambda: sized(start=b"POST " + PATH + b" HTTP/2.0"), 400, "HTTP/1.1"),
    Row("another protocol", lambda: sized(start=b"POST " + PATH + b" ICAP/1.0"), 400, MALFORMED),
    Row("the preface of HTTP/2", lambda: b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 400, MALFORMED),
    Row("SMTP", lambda: b"EHLO example\r\n\r\n", 400, MALFORMED),
    Row("bytes of no meaning", lambda: bytes(range(256)) + b"\r\n\r\n", 400, MALFORMED),
    Row("a method with a NUL", lambda: sized(start=b"PO\0ST " + PATH + b" HTTP/1.1"), 400, MALFORMED),
    Row("a method in small letters", lambda: sized(start=b"post " + PATH + b" HTTP/1.1"), 400, MALFORMED),
    Row("a method of its own", lambda: sized(start=b"ENROL " + PATH + b" HTTP/1.1"), 400, MALFORMED),
    Row("a method that is not taken", lambda: sized(start=b"PUT " + PATH + b" HTTP/1.1"), 405, "Use POST here"),
    Row("a path with a line feed", lambda: sized(start=b"POST " + PATH + b"%0a HTTP/1.1"), 404, "There is no"),
    Row("a path with a NUL", lambda: sized(start=b"POST " + PATH + b"%00 HTTP/1.1"), 404, "There is no"),
    Row(
        "a path that climbs",
        lambda: sized(start=b"POST /.well-known/est/../../simpleenroll HTTP/1.1"),
        404,
        "There is no",
    ),
    Row(
        "a query that nobody asked for", lambda: sized(start=b"POST " + PATH + b"?label=x HTTP/1.1"), 400, "Some fields"
    ),
]

TABLES = (MEDIA_TYPES, FRAMING, HEADS)

"""What EST looks like on the wire, byte for byte: by curl, and by sockets that read every header as it is spelt."""

import re
from base64 import b64decode, b64encode

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from OpenSSL import SSL

from certs.pkcs7 import parse_certs_only
from est.profiles import ServerKey
from tests.est.wire import Raw, TlsClient, on_connection, parsed
from tests.est.world import EstWorld, Holder, b64, only, request

P256 = ServerKey.P256
PATHS = ("", "/default", "/meters")
ONCE = ("Content-Type", "Content-Length", "Cache-Control", "Connection", "Date", "Server")


def new_request(identifier: str = "meter-001") -> bytes:
    return request(ec.generate_private_key(ec.SECP256R1()), identifier)


async def ask(est: EstWorld, method: str, path: str, body: bytes | None = None, holder: Holder | None = None) -> Raw:
    return await on_connection(est, holder, lambda client: client.ask(method, path, body))


def check_frame(raw: Raw) -> None:
    """Check what holds of every answer, good or bad (RFC 7030 3.2.4, RFC 9112 6)."""
    assert not 300 <= raw.status < 400
    names = [name for name, _ in raw.headers]
    for name in ONCE:
        assert [one for one in names if one.lower() == name.lower()] == [name], (name, raw.headers)
    assert "transfer-encoding" not in {name.lower() for name in names}
    assert raw.header("Content-Length") == [str(len(raw.body))]
    assert raw.header("Connection") == ["close"]
    assert "location" not in {name.lower() for name in names}


@pytest.mark.parametrize("version", [SSL.TLS1_2_VERSION, SSL.TLS1_3_VERSION])
@pytest.mark.parametrize("prefix", PATHS)
async def test_every_good_answer(est: EstWorld, prefix: str, version: int) -> None:
    await est.label("meters", server_key_generation=P256)
    bootstrap, device = await est.bootstrap("meter-001"), await est.enrolled("meter-002", label=prefix[1:] or "default")
    other = await est.bootstrap("meter-003")
    renewal = request(ec.generate_private_key(ec.SECP256R1()), "meter-002")
    for method, operation, holder, csr, content_type in (
        ("GET", "cacerts", None, None, "application/pkcs7-mime"),
        ("GET", "csrattrs", None, None, "application/csrattrs"),
        ("POST", "simpleenroll", bootstrap, new_request(), "application/pkcs7-mime; smime-type=certs-only"),
        ("POST", "simplereenroll", device, renewal, "application/pkcs7-mime; smime-type=certs-only"),
        (
            "POST",
            "serverkeygen",
            other,
            new_request("meter-003"),
            "multipart/mixed; boundary=doorward-est-serverkeygen",
        ),
    ):
        if operation == "serverkeygen" and prefix != "/meters":
            continue
        body = None if csr is None else b64(csr)
        path = f"{prefix}/{operation}"
        raw = await on_connection(est, holder, lambda client: client.ask(method, path, body), version)  # noqa: B023 - awaited here
        assert raw.status == 200, (operation, raw.body)
        check_frame(raw)
        assert raw.header("Content-Type") == [content_type]
        is_multipart = operation == "serverkeygen"
        assert raw.header("Content-Transfer-Encoding") == ([] if is_multipart else ["base64"])
        if not is_multipart:
            assert re.fullmatch(rb"([A-Za-z0-9+/]{64}\n)*[A-Za-z0-9+/]{1,64}={0,2}\n", raw.body)


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("POST", "/fullcmc", 501),
        ("POST", "/default/fullcmc", 501),
        ("POST", "/serverkeygen", 501),
        ("GET", "/nosuch/cacerts", 404),
        ("GET", "/nosuch/csrattrs", 404),
        ("POST", "/nosuch/simpleenroll", 404),
        ("POST", "/nosuch/simplereenroll", 404),
        ("POST", "/nosuch/serverkeygen", 404),
        ("POST", "/nosuch/fullcmc", 404),
        ("GET", "/CACERTS", 404),
        ("GET", "/cacerts/", 404),
        ("GET", "//cacerts", 404),
        ("GET", "/default/../cacerts", 404),
        ("GET", "/default%2Fcacerts", 404),
        ("GET", "/no%20such/cacerts", 404),
        ("GET", "/", 404),
        ("GET", "", 404),
        ("GET", "/a/b/cacerts", 404),
        ("POST", "/cacerts", 405),
        ("GET", "/simpleenroll", 405),
        ("HEAD", "/simpleenroll", 405),
        ("PUT", "/simpleenroll", 405),
        ("POST", "/simpleenroll", 401),
        ("POST", "/simplereenroll", 401),
    ],
)
async def test_every_bad_answer(est: EstWorld, method: str, path: str, status: int) -> None:
    before = await est.written()
    raw = await ask(est, method, path, b64(new_request()) if method == "POST" else None)
    assert raw.status == status, raw
    if method == "HEAD":
        assert raw.body == b""
        return
    check_frame(raw)
    assert raw.header("Content-Type") == ["text/plain"]
    assert raw.body.endswith(b".\n")
    assert raw.header("WWW-Authenticate") == (['Basic realm="doorward"'] if status == 401 else [])
    assert await est.written() == before


async def test_fullcmc_is_not_offered_whoever_asks(est: EstWorld) -> None:
    device = await est.enrolled("meter-001")
    answer = await est.curl(
        "/fullcmc", "-H", "Content-Type: application/pkcs7-mime; smime-type=CMC-request", holder=device, body=b"MAA="
    )
    assert (answer.status, answer.body) == (501, b"This operation of EST is not offered here.\n")


@pytest.mark.parametrize("path", ["/cacerts", "/csrattrs", "/default/cacerts"])
async def test_head_says_what_get_says_without_the_body(est: EstWorld, path: str) -> None:
    got, head = await ask(est, "GET", path), await ask(est, "HEAD", path)
    assert (head.status, head.body) == (200, b"")
    told = [[pair for pair in one.headers if pair[0] != "Date"] for one in (got, head)]
    assert told[0] == told[1]


async def test_a_connection_that_is_kept_answers_again_and_closes_when_told(est: EstWorld) -> None:
    def talk(client: TlsClient) -> Raw:
        first = b"GET /.well-known/est/cacerts HTTP/1.1\r\nHost: localhost\r\n\r\n"
        client.connection.sendall(first)
        came = b""
        while not came.endswith(b"=\n") and b"\r\n\r\n" not in came[-2:]:
            came += client.connection.recv(65_536)
            head, _, body = came.partition(b"\r\n\r\n")
            length = re.search(rb"Content-Length: (\d+)", head)
            if length and len(body) == int(length[1]):
                break
        kept = parsed(came)
        assert kept.status == 200
        assert kept.header("Connection") == []
        return client.ask("GET", "/csrattrs")

    raw = await on_connection(est, None, talk)
    assert (raw.status, raw.body) == (200, b"MAA=\n")


def wrapped(der: bytes, columns: int, separator: bytes) -> bytes:
    text = b64encode(der)
    return separator.join(text[start : start + columns] for start in range(0, len(text), columns)) + separator


@pytest.mark.parametrize(
    "separator", [b"", b"\n", b"\r\n", b"\r", b" ", b"\t", b" \r\n\t"], ids=lambda value: value.hex() or "none"
)
@pytest.mark.parametrize("operation", ["simpleenroll", "serverkeygen"])
async def test_base64_may_be_broken_by_any_white_space(est: EstWorld, operation: str, separator: bytes) -> None:
    await est.label("meters", server_key_generation=P256)
    body = separator + wrapped(new_request(), 61, separator)
    raw = await ask(est, "POST", f"/meters/{operation}", body, await est.bootstrap("meter-001"))
    assert raw.status == 200


@pytest.mark.parametrize("body", [b"\x00", b"MIH\x0bA", b"MIH-_A==", b"MIIB=MIIB", b"", b"\r\n", b"MII\xc3\xa9"])
@pytest.mark.parametrize("operation", ["simpleenroll", "serverkeygen"])
async def test_anything_else_in_base64_is_a_bad_request(est: EstWorld, operation: str, body: bytes) -> None:
    await est.label("meters", server_key_generation=P256)
    bootstrap = await est.bootstrap("meter-001")
    before = await est.written()
    raw = await ask(est, "POST", f"/meters/{operation}", body, bootstrap)
    assert (raw.status, raw.header("Content-Type")) == (400, ["text/plain"])
    assert await est.written() == before


@pytest.mark.parametrize("encoding", [None, "base64", "BASE64", "binary", "7bit"])
async def test_what_a_client_says_of_its_encoding_is_not_read(est: EstWorld, encoding: str | None) -> None:
    """RFC 8951 3.1."""
    bootstrap = await est.bootstrap("meter-001")
    header = [] if encoding is None else ["-H", f"Content-Transfer-Encoding: {encoding}"]
    answer = await est.curl(
        "/simpleenroll", "-H", "Content-Type: application/pkcs10", *header, holder=bootstrap, body=b64(new_request())
    )
    assert answer.status == 200


async def test_a_body_that_a_client_sends_in_chunks_is_taken(est: EstWorld) -> None:
    bootstrap = await est.bootstrap("meter-001")
    chunked = ("-H", "Content-Type: application/pkcs10", "-H", "Transfer-Encoding: chunked")
    answer = await est.curl("/simpleenroll", *chunked, holder=bootstrap, body=b64(new_request()))
    assert answer.status == 200
    assert only(b64decode(answer.body))


@pytest.mark.parametrize("operation", ["simpleenroll", "serverkeygen"])
async def test_another_content_type_is_told_so(est: EstWorld, operation: str) -> None:
    await est.label("meters", server_key_generation=P256)
    answer = await est.curl(
        f"/meters/{operation}", "-H", "Content-Type: text/plain", holder=await est.bootstrap("meter-001"), body=b"x"
    )
    assert (answer.status, answer.body) == (415, b"Send this as application/pkcs10.\n")


async def test_every_certificate_of_cacerts_leads_to_a_root_in_the_same_answer(est: EstWorld) -> None:
    """RFC 7030 4.1.3."""
    certificates = parse_certs_only(b64decode((await ask(est, "GET", "/cacerts")).body))
    assert any(one.issuer == one.subject for one in certificates)
    for one in certificates:
        while one.issuer != one.subject:
            (above,) = [issuer for issuer in certificates if issuer.subject == one.issuer]
            one.verify_directly_issued_by(above)
            one = above  # noqa: PLW2901 - up to the root
        one.verify_directly_issued_by(one)

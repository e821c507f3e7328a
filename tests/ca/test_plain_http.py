"""Relying parties over plain HTTP: openssl and curl, and the listener's own limits."""

import asyncio
import base64
import socket
import subprocess
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

import pytest
from aiohttp import web
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.ocsp import OCSPCertStatus, OCSPResponseStatus, load_der_ocsp_response

from ca.http import distribution
from ca.http import status as status_routes
from ca.inventory import RevocationReason
from doorward.listener import ListenerLimits, listening_sockets
from doorward.plain import PlainListener, serve_http
from iam.guard import Call, Guard, Public, Route
from iam.responses import Answer
from tests.ca.test_ocsp import issuer, leaf, ready, request, revoke
from tests.ca.world import StoreGate, World, serving_plainly

RESPONSE = "application/ocsp-response"


@dataclass(frozen=True)
class Got:
    status: int
    headers: dict[str, str]
    content: bytes


@dataclass(frozen=True)
class Place:
    """Where it is served, and a folder for clients' files."""

    world: World
    url: str
    folder: Path

    async def curl(self, path: str, *arguments: str, body: bytes | None = None) -> Got:
        command = ["curl", "-sS", "-i", "--path-as-is", "--max-time", "20", *arguments]
        if body is not None:
            command += ["--data-binary", "@-", "-H", "Content-Type: application/ocsp-request"]
        done = await asyncio.to_thread(
            subprocess.run, [*command, f"{self.url}{path}"], input=body, capture_output=True, check=True
        )
        head, _, content = done.stdout.partition(b"\r\n\r\n")
        status, *lines = head.decode().split("\r\n")
        return Got(int(status.split()[1]), dict(line.split(": ", 1) for line in lines), content)

    async def openssl(self, *arguments: str) -> str:
        """Ask with `openssl ocsp` about leaf.pem, and return what it says."""
        command = ["openssl", "ocsp", "-url", f"{self.url}/ocsp", "-issuer", "issuer.pem", "-CAfile", "root.pem"]
        done = await asyncio.to_thread(
            subprocess.run, [*command, *arguments], cwd=self.folder, capture_output=True, text=True, check=False
        )
        return done.stdout + done.stderr

    def write(self, name: str, certificate: x509.Certificate) -> None:
        (self.folder / name).write_bytes(certificate.public_bytes(Encoding.PEM))


@pytest.fixture
async def place(world: World, tmp_path: Path) -> AsyncIterator[Place]:
    routes = [*distribution.routes(world.shelf, world.authorities), *status_routes.routes(world.status, world.clock)]
    async with serving_plainly(world, routes) as url:
        made = Place(world, url, tmp_path)
        made.write("issuer.pem", issuer(world))
        made.write("root.pem", world.authorities.by_name("root").certificate)
        yield made


@pytest.mark.parametrize("arguments", [[], ["-sha256"], ["-no_nonce"]])
async def test_openssl_asks_and_verifies(place: Place, arguments: list[str]) -> None:
    one, other = await ready(place.world), await leaf(place.world)
    place.write("leaf.pem", one)
    place.write("other.pem", other)
    await revoke(place.world, other, RevocationReason.KEY_COMPROMISE)
    said = await place.openssl(*arguments, "-cert", "leaf.pem", "-cert", "other.pem")
    assert "Response verify OK" in said
    assert "leaf.pem: good" in said
    assert "other.pem: revoked" in said
    assert "Reason: keyCompromise" in said
    assert "WARNING" not in said, said


@pytest.mark.parametrize("form", ["quoted", "raw", "unpadded", "twice"])
async def test_get_takes_base64_as_clients_send_it(place: Place, form: str) -> None:
    one = await ready(place.world)
    asked = request(place.world, one, bytes(range(1, 19)) + b"\xfb\xff\xfe\xff")  # base64 has + and / of this
    encoded = base64.b64encode(asked).decode()
    assert "+" in encoded or "/" in encoded
    path = {
        "quoted": quote(encoded, safe=""),
        "raw": encoded,
        "unpadded": encoded.rstrip("="),
        "twice": "/" + encoded,
    }[form]
    got = await place.curl(f"/ocsp/{path}")
    assert (got.status, got.headers["Content-Type"]) == (200, RESPONSE)
    assert load_der_ocsp_response(got.content).certificate_status is OCSPCertStatus.GOOD


async def test_get_may_be_kept_and_post_not(place: Place) -> None:
    one = await ready(place.world)
    asked = request(place.world, one)
    path = "/ocsp/" + quote(base64.b64encode(asked), safe="")
    got = await place.curl(path)
    answer = load_der_ocsp_response(got.content)
    assert got.headers["Last-Modified"] == answer.this_update_utc.strftime("%a, %d %b %Y %H:%M:%S GMT")
    assert answer.next_update_utc is not None
    assert got.headers["Expires"] == answer.next_update_utc.strftime("%a, %d %b %Y %H:%M:%S GMT")
    age, *rest = got.headers["Cache-Control"].split(", ")
    assert rest == ["public", "no-transform", "must-revalidate"]
    assert 1_700 < int(age.removeprefix("max-age=")) <= 1_800
    again = await place.curl(path, "-H", f"If-None-Match: {got.headers['ETag']}")
    assert (again.status, again.content) == (304, b"")
    since = await place.curl(path, "-H", f"If-Modified-Since: {got.headers['Last-Modified']}")
    assert since.status == 304
    head = await place.curl(path, "--head")
    assert (head.headers["Content-Length"], head.content) == (str(len(got.content)), b"")
    posted = await place.curl("/ocsp", body=asked)
    assert (posted.content, posted.headers["Cache-Control"], posted.headers["Content-Type"]) == (
        got.content,
        "no-store",
        RESPONSE,
    )
    nonce = await place.curl("/ocsp/" + quote(base64.b64encode(request(place.world, one, bytes(20))), safe=""))
    assert nonce.headers["Cache-Control"] == "no-store"


@pytest.mark.parametrize("path", ["MAA=", "x", "%00", "M!", "%FF%FE", "MFEw", "A" * 4_000])
async def test_what_is_no_request_gets_a_response_that_says_so(place: Place, path: str) -> None:
    got = await place.curl(f"/ocsp/{path}")
    assert (got.status, got.headers["Content-Type"], got.headers["Cache-Control"]) == (200, RESPONSE, "no-store")
    assert load_der_ocsp_response(got.content).response_status is OCSPResponseStatus.MALFORMED_REQUEST


async def test_bodies_that_are_not_taken(place: Place) -> None:
    assert (await place.curl("/ocsp", body=bytes(20_000))).status == 413
    assert (await place.curl("/ocsp", "-H", "Content-Type: text/plain", "--data", "x")).status == 415
    assert (await place.curl("/ocsp")).status == 405
    garbage = await place.curl("/ocsp", body=b"x")
    assert load_der_ocsp_response(garbage.content).response_status is OCSPResponseStatus.MALFORMED_REQUEST


@pytest.mark.parametrize("path", ["/", "/docs", "/api/ca/v1/cas", "/.well-known/est/cacerts", "/healthz", "/x"])
async def test_nothing_else_is_there(place: Place, path: str) -> None:
    assert (await place.curl(path)).status == 404


async def test_openssl_fetches_a_list_and_an_authority(place: Place) -> None:
    await place.world.publisher.publish_lists()
    crl = await asyncio.to_thread(
        subprocess.run,
        ["openssl", "crl", "-inform", "DER", "-noout", "-CAfile", "root.pem"],
        input=(await place.curl("/crl/root.crl")).content,
        cwd=place.folder,
        capture_output=True,
        check=True,
    )
    assert b"verify OK" in crl.stderr
    fetched = await place.curl("/ca/factory.crt")
    assert x509.load_der_x509_certificate(fetched.content) == issuer(place.world)


# --- The listener by itself -------------------------------------------------------------------------------------------


async def serving(limits: ListenerLimits, content: bytes = b"x") -> tuple[web.AppRunner, PlainListener]:
    async def handle(_: web.Request) -> web.Response:
        return web.Response(body=content)

    application = web.Application()
    application.router.add_get("/", handle)
    runner = web.AppRunner(application)
    await runner.setup()
    return runner, await serve_http(runner, listening_sockets("127.0.0.1", 0), limits=limits)


def is_cut(client: socket.socket) -> bool:
    try:
        return client.recv(1) == b""
    except ConnectionResetError:
        return True


async def test_so_many_connections_of_one_address_and_no_more() -> None:
    runner, listener = await serving(ListenerLimits(max_connections_per_address=2))
    address = listener.addresses[0][:2]
    held = [await asyncio.open_connection(*address) for _ in range(2)]
    for reader, writer in held:
        writer.write(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
        assert (await reader.readline()).startswith(b"HTTP/1.1 200")
    with socket.create_connection(address) as refused:
        refused.settimeout(5)
        assert await asyncio.to_thread(is_cut, refused)
    assert (listener.admission.connections, listener.admission.handshakes) == (2, 0)
    for _, one in held:
        one.close()
        await one.wait_closed()
    await listener.close(grace_seconds=2)
    assert listener.admission.connections == 0
    await runner.cleanup()


@pytest.mark.parametrize(
    ("sent", "status"), [(b"GET / HTTP/1.1\r\nHost:", b"408"), (b"GET / HTTP/1.1\r\n" + b"A: " + b"b" * 70_000, b"431")]
)
async def test_headers_have_a_deadline_and_a_size(sent: bytes, status: bytes) -> None:
    runner, listener = await serving(ListenerLimits(header_seconds=0.2))
    reader, writer = await asyncio.open_connection(*listener.addresses[0][:2])
    writer.write(sent)
    assert (await asyncio.wait_for(reader.readline(), 5)).split()[1] == status
    writer.close()
    await writer.wait_closed()
    await listener.close(grace_seconds=2)
    await runner.cleanup()


async def test_who_takes_nothing_of_an_answer_is_cut() -> None:
    runner, listener = await serving(ListenerLimits(stall_seconds=1.0), bytes(16 << 20))
    with socket.socket() as client:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4_096)
        client.connect(listener.addresses[0][:2])
        client.sendall(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
        async with asyncio.timeout(20):
            while listener.admission.connections != 1:  # noqa: ASYNC110 - there is no event for it
                await asyncio.sleep(0.05)
            while listener.admission.connections:  # noqa: ASYNC110 - as above
                await asyncio.sleep(0.05)
    await listener.close(grace_seconds=2)
    await runner.cleanup()


async def test_a_long_answer_is_sent_in_pieces_as_the_client_takes_them(world: World) -> None:
    content = bytes(range(256)) * (32 << 12)

    async def give(_: Call) -> Answer:
        return Answer(content=content, headers={"Content-Type": "application/pkix-crl"})

    route = Route("GET", "/long", give, Public("a test"), "long", "test")
    runner = web.AppRunner(Guard(StoreGate(world)).application([route]))
    await runner.setup()
    listener = await serve_http(runner, listening_sockets("127.0.0.1", 0), limits=ListenerLimits())
    reader, writer = await asyncio.open_connection(*listener.addresses[0][:2], limit=1 << 16)
    writer.write(b"GET /long HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
    head = await reader.readuntil(b"\r\n\r\n")
    assert f"content-length: {len(content)}".encode() in head.lower()
    (connection,) = listener._endpoint.connections
    waiting, received = 0, b""
    while part := await reader.read(1 << 16):
        received += part
        if connection.transport is not None:
            waiting = max(waiting, connection.transport.get_write_buffer_size())
    assert received == content
    assert waiting < 1 << 20
    writer.close()
    await writer.wait_closed()
    await listener.close(grace_seconds=2)
    await runner.cleanup()

"""The HTTPS listener against real clients over loopback: Python's `ssl`, pyOpenSSL, `openssl s_client` and `curl`."""

import asyncio
import hashlib
import json
import logging
import socket
import ssl
import subprocess
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import aiohttp
import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding
from OpenSSL import SSL

from doorward.listener import listening_sockets
from tests.doorward.listening import (
    DOCUMENT,
    QUICK,
    Server,
    ask,
    connect,
    read_to_end,
    request,
    s_client,
    server_identity,
    trusting,
    wait_for,
)


def test_a_handler_sees_who_is_calling_and_how(server: Server, certificate: Path) -> None:
    context = trusting(ssl.TLSVersion.TLSv1_2)
    context.load_cert_chain(certificate)
    with connect(server, context) as connection:
        binding = connection.get_channel_binding("tls-unique")
        local = connection.getsockname()
        seen = json.loads(ask(connection, "/who"))
    presented = x509.load_pem_x509_certificates(certificate.read_bytes())
    assert seen["chain"] == [each.public_bytes(Encoding.DER).hex() for each in presented]
    assert binding is not None
    assert seen["binding"] == binding.hex()
    assert seen["cipher"][0].startswith("ECDHE-ECDSA-")
    assert (seen["version"], seen["scheme"], seen["remote"]) == ("TLSv1.2", "https", local[0])
    assert (seen["sockname"], seen["unknown"]) == (["127.0.0.1", server.port], "none")


def test_a_client_without_a_certificate_is_served(server: Server) -> None:
    with connect(server) as connection:
        assert json.loads(ask(connection, "/who"))["chain"] == []


def test_the_exporter_of_a_real_connection_is_the_same_at_both_ends(server: Server) -> None:
    raw = socket.create_connection(("127.0.0.1", server.port), 10)
    raw.setblocking(True)
    client = SSL.Connection(SSL.Context(SSL.TLS_CLIENT_METHOD), raw)
    client.set_connect_state()
    client.do_handshake()
    client.sendall(request("/who"))
    answer = b""
    with suppress(SSL.ZeroReturnError):
        while True:
            answer += client.recv(65_536)
    raw.close()
    seen = json.loads(answer.partition(b"\r\n\r\n")[2])
    assert seen["version"] == "TLSv1.3"
    assert seen["binding"] == client.export_keying_material(b"EXPORTER-Channel-Binding", 32, b"").hex()


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
def test_no_session_is_resumed_over_the_wire(server: Server, version: ssl.TLSVersion) -> None:
    context = trusting(version)
    with connect(server, context) as connection:
        ask(connection, "/who")
        session = connection.session
    with connect(server, context, session=session) as connection:
        ask(connection, "/who")
        assert not connection.session_reused


def test_curl_presents_its_certificate(server: Server, certificate: Path, authority: Path) -> None:
    url = f"https://localhost:{server.port}/who"
    options = ["--silent", "--show-error", "--cacert", str(authority), "--cert", str(certificate)]
    answer = subprocess.run(
        ["curl", *options, "--resolve", f"localhost:{server.port}:127.0.0.1", url, url], capture_output=True, check=True
    )
    first, second = (json.loads(each + b"}") for each in answer.stdout.split(b"}")[:2])
    assert first == second
    assert len(first["chain"]) == 2


def test_openssl_half_closes_and_still_gets_its_answer(server: Server, certificate: Path) -> None:
    options = ["-quiet", "-ign_eof", "-cert", str(certificate), "-key", str(certificate)]
    answer = s_client(server, *options, said=request("/who"))
    assert b"HTTP/1.1 200 OK" in answer.stdout


def test_openssl_with_small_fragments_gets_all_of_a_document(server: Server) -> None:
    answer = s_client(server, "-quiet", "-ign_eof", "-tls1_2", "-maxfraglen", "512", said=request("/document"))
    assert answer.stdout.partition(b"\r\n\r\n")[2] == DOCUMENT


def test_openssl_may_not_renegotiate(server: Server) -> None:
    answer = s_client(server, "-tls1_2", said=b"R\n")
    assert b"RENEGOTIATING" in answer.stdout + answer.stderr
    assert b"no renegotiation" in answer.stderr
    with connect(server) as connection:
        assert ask(connection, "/who")


def test_openssl_may_update_its_keys(server: Server) -> None:
    command = ["openssl", "s_client", "-connect", f"127.0.0.1:{server.port}", "-tls1_3"]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, bufsize=0
    ) as client:
        assert client.stdin is not None
        assert client.stdout is not None
        said = b""
        for step, sign in ((b"", b"Verify return code"), (b"K\n", b"KEYUPDATE"), (request("/who"), b"200 OK")):
            client.stdin.write(step)
            while sign not in said:
                said += client.stdout.read(65_536) or pytest.fail(f"it ended: {said!r}")


def test_openssl_with_tls_1_1_is_refused(server: Server) -> None:
    answer = s_client(server, "-tls1_1", "-cipher", "ALL:@SECLEVEL=0", said=b"")
    assert b"alert protocol version" in answer.stderr


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
def test_large_bodies_arrive_equal_both_ways(server: Server, version: ssl.TLSVersion) -> None:
    with connect(server, trusting(version)) as connection:
        digest = ask(connection, "/digest", method="POST", body=DOCUMENT)
    assert digest.decode() == hashlib.sha256(DOCUMENT).hexdigest()
    for path in ("/document", "/file"):
        with connect(server, trusting(version)) as connection:
            assert ask(connection, path) == DOCUMENT


def test_a_slow_reader_holds_the_writer_back(server: Server) -> None:
    with connect(server) as connection:
        connection.sendall(request("/stream"))
        answer = b""
        for _ in range(20):
            answer += connection.recv(4_096)
            time.sleep(0.01)
        answer += read_to_end(connection)
    assert answer.partition(b"\r\n\r\n")[2] == DOCUMENT
    assert 0 < server.largest_backlog < 256 * 1024


def test_a_body_that_nobody_reads_is_not_taken(server: Server) -> None:
    sent = 0
    with connect(server) as connection:
        connection.sendall(request("/patient", method="POST", headers="Content-Length: 100000000\r\n"))
        connection.settimeout(0.5)
        with suppress(TimeoutError):
            while sent < 100_000_000:
                sent += connection.send(bytes(16_384))
    server.patience.set()
    assert 65_536 < sent < 50_000_000


def test_a_client_that_stops_reading_is_cut(start: Callable[..., Server], caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "doorward")
    server = start(replace(QUICK, stall_seconds=0.3))
    with connect(server) as connection:
        connection.sendall(request("/stream"))
        wait_for(lambda: bool(server.endings))
        wait_for(lambda: server.listener.admission.connections == 0)
    assert "takes nothing of what is sent to it" in caplog.text


def test_a_slow_reader_is_not_cut_while_it_reads(start: Callable[..., Server]) -> None:
    server = start(replace(QUICK, stall_seconds=0.6))
    with connect(server, receive_buffer=65_536) as connection:
        connection.sendall(request("/document"))
        answer = b""
        end = time.monotonic() + 1.8
        while time.monotonic() < end:
            answer += connection.recv(65_536)
            time.sleep(0.02)
        assert 0 < len(answer) < len(DOCUMENT) / 2
        answer += read_to_end(connection)
    assert answer.endswith(DOCUMENT)


def test_a_new_certificate_is_shown_while_an_old_connection_lives(server: Server) -> None:
    old = connect(server)
    replacement = server_identity()
    server.loop.call_soon_threadsafe(server.tls.replace, replacement)
    time.sleep(0.05)
    with connect(server) as new:
        assert new.getpeercert(binary_form=True) == replacement.certificates[0].public_bytes(Encoding.DER)
    assert old.getpeercert(binary_form=True) != replacement.certificates[0].public_bytes(Encoding.DER)
    assert ask(old, "/who")
    old.close()


def test_a_websocket_is_served(server: Server) -> None:
    async def greet() -> str:
        url = f"https://localhost:{server.port}/greeting"
        async with aiohttp.ClientSession() as client, client.ws_connect(url, ssl=trusting()) as connection:
            await connection.send_str("you")
            answer = await connection.receive_str()
        await asyncio.sleep(0.1)  # the client's session does not wait until its TLS has ended
        return answer

    assert asyncio.run(greet()) == "hello you"


def test_two_listeners_share_a_port(start: Callable[..., Server]) -> None:
    first = start()
    second = listening_sockets("127.0.0.1", first.port)
    assert second[0].getsockname() == first.listener.addresses[0]
    second[0].close()


def test_an_address_that_is_taken_otherwise_is_an_error() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken, pytest.raises(OSError, match="in use"):
        listening_sockets("127.0.0.1", taken.getsockname()[1])

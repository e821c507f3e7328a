"""How connections to the listener end: by either side, cleanly or not, and when it is closed."""

import asyncio
import concurrent.futures
import errno
import logging
import socket
import ssl
import struct
import time
from contextlib import suppress
from pathlib import Path

import pytest
from OpenSSL import SSL

from doorward.transport import Truncated
from tests.doorward.listening import (
    HALF_A_BODY,
    QUICK,
    Server,
    ask,
    assert_quiet,
    connect,
    read_to_end,
    request,
    wait_for,
)


def test_after_close_notify_a_request_that_arrived_whole_is_answered(server: Server) -> None:
    with connect(server) as connection:
        connection.sendall(request("/slow", close=False))
        connection.setblocking(False)
        with suppress(ssl.SSLWantReadError):
            connection.unwrap()
        connection.setblocking(True)
        connection.settimeout(5)
        with suppress(ssl.SSLZeroReturnError):
            answer = connection.recv(65_536)
    assert answer.endswith(b"done")
    assert not server.endings


def test_after_close_notify_and_the_end_of_tcp_it_is_answered_too(server: Server) -> None:
    with socket.create_connection(("127.0.0.1", server.port), 5) as raw:
        raw.setblocking(True)
        client = SSL.Connection(SSL.Context(SSL.TLS_CLIENT_METHOD), raw)
        client.set_connect_state()
        client.sendall(request("/slow", close=False))
        client.shutdown()
        client.sock_shutdown(socket.SHUT_WR)
        assert client.recv(65_536).endswith(b"done")
        with pytest.raises(SSL.ZeroReturnError):
            client.recv(1)


def test_after_close_notify_a_request_that_did_not_arrive_whole_is_not_waited_for(
    server: Server, caplog: pytest.LogCaptureFixture
) -> None:
    with connect(server) as connection:
        connection.sendall(request("/digest", method="POST", headers="Content-Length: 100\r\n") + b"half")
        connection.unwrap()
        wait_for(lambda: bool(server.endings))
    assert isinstance(server.endings[0], ConnectionError)
    assert_quiet(server, caplog)


def test_the_end_of_tcp_without_close_notify_is_told_apart(server: Server, caplog: pytest.LogCaptureFixture) -> None:
    connection = connect(server)
    connection.sendall(request("/digest", method="POST", headers="Content-Length: 100\r\n") + b"half")
    connection.shutdown(socket.SHUT_WR)
    wait_for(lambda: bool(server.endings))
    connection.close()
    assert isinstance(server.endings[0], Truncated)
    assert_quiet(server, caplog)


def test_our_end_is_a_close_notify(server: Server) -> None:
    with connect(server, suppress_ragged_eofs=False) as connection:
        assert ask(connection, "/who")


def test_an_answer_outlives_what_the_client_still_sends(server: Server) -> None:
    with connect(server) as connection:
        connection.sendall(b"nonsense\r\n\r\n")
        for _ in range(64):
            connection.sendall(bytes(16_384))  # a reset would end this
        assert read_to_end(connection).startswith(b"HTTP/1.0 400 Bad Request")


@pytest.mark.parametrize(
    "said",
    [b"", b"GET /who HT", HALF_A_BODY, request("/stream")],
    ids=["nothing", "headers", "body", "answer"],
)
def test_a_reset_leaves_no_traceback(server: Server, caplog: pytest.LogCaptureFixture, said: bytes) -> None:
    caplog.set_level(logging.INFO)
    with connect(server) as connection:
        ask_first = request("/who", close=False)
        connection.sendall(ask_first)
        connection.recv(65_536)
        connection.sendall(said)
        time.sleep(0.05)
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    assert_quiet(server, caplog)


def test_malformed_http_is_answered_and_leaves_one_line(server: Server, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "doorward")
    for said, status in ((b"\x00\x01\r\n\r\n", b"400"), (request("/" + "a" * 9_000), b"431")):
        caplog.clear()
        with connect(server) as connection:
            connection.sendall(said)
            answer = read_to_end(connection)
        assert answer.startswith(b"HTTP/1.0 " + status)
        assert b"\r\nContent-Type: application/problem+json\r\n" in answer
        assert b'"urn:doorward:problem:malformed"' in answer
        wait_for(lambda: bool(caplog.records))
        assert len(caplog.records) == 1
        assert caplog.records[0].exc_info is None


def test_an_answer_says_nothing_of_what_the_server_is_made_of(server: Server) -> None:
    for said in (request("/who"), request("/unknown"), b"nonsense\r\n\r\n"):
        with connect(server) as connection:
            connection.sendall(said)
            answer = read_to_end(connection)
        assert answer.count(b"\r\nServer: ") == answer.count(b"\r\nServer: Doorward\r\n") == 1
        assert b"aiohttp" not in answer


def test_closing_lets_a_running_request_finish_and_idle_ones_go_at_once(server: Server) -> None:
    idle, busy, shaking = connect(server), connect(server), socket.create_connection(("127.0.0.1", server.port), 5)
    busy.sendall(request("/slow", close=False))
    time.sleep(0.1)
    with concurrent.futures.ThreadPoolExecutor() as pool:
        stopping = pool.submit(server.stop, 5)
        assert idle.recv(1) == b""
        assert not server.finished.is_set()
        assert read_to_end(busy).endswith(b"done")
        stopping.result(3)
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", server.port), 5)
    for each in (idle, busy, shaking):
        each.close()


def test_closing_cuts_a_request_that_takes_longer_than_the_grace(server: Server) -> None:
    with connect(server) as busy:
        busy.sendall(request("/slow"))
        time.sleep(0.1)
        server.stop(0.05)
        assert read_to_end(busy) == b""
    assert not server.finished.is_set()


def test_a_peer_that_is_gone_when_its_connection_ends_leaves_no_traceback(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    server = Server(asyncio.new_event_loop(), tmp_path, QUICK)  # uvloop's transports let nobody put a fault in
    try:
        with connect(server) as connection:
            wait_for(lambda: server.listener.admission.connections == 1)
            (protocol,) = server.listener._endpoint.connections

            def write_eof() -> None:
                raise OSError(errno.ENOTCONN, "Transport endpoint is not connected")

            protocol.raw.write_eof = write_eof  # type: ignore[method-assign]
            connection.sendall(request("/who"))
            with suppress(ConnectionError):
                read_to_end(connection)
        assert_quiet(server, caplog)
    finally:
        server.stop()

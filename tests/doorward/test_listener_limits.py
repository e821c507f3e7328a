"""What the listener lets a client take: time, connections, headers."""

import hashlib
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import pytest

from doorward.admission import Refusal
from tests.doorward.listening import (
    QUICK,
    Server,
    ask,
    connect,
    read_to_end,
    request,
    wait_for,
)


def test_a_slow_handshake_is_cut(start: Callable[..., Server]) -> None:
    server = start(replace(QUICK, handshake_seconds=0.2))
    with socket.create_connection(("127.0.0.1", server.port), 5) as connection:
        connection.sendall(b"\x16\x03\x01")
        began = time.monotonic()
        with suppress(ConnectionResetError):
            assert connection.recv(1) == b""
        assert time.monotonic() - began < 2
    wait_for(lambda: server.listener.admission.handshakes == 0)


def test_open_handshakes_from_one_address_are_bounded(start: Callable[..., Server]) -> None:
    server = start(replace(QUICK, max_handshakes_per_address=3))
    idle = [socket.create_connection(("127.0.0.1", server.port), 5) for _ in range(3)]
    admission = server.listener.admission
    wait_for(lambda: admission.handshakes == 3)
    with socket.create_connection(("127.0.0.1", server.port), 5) as refused, suppress(ConnectionResetError):
        assert refused.recv(1) == b""
    assert admission.refused == {Refusal.HANDSHAKES_OF_ADDRESS: 1}
    idle.pop().close()
    wait_for(lambda: admission.handshakes == 2)
    open_connections = []
    for _ in range(5):
        open_connections.append(connect(server))
        wait_for(lambda: admission.handshakes == 2)
    for each in (*idle, *open_connections):
        each.close()
    wait_for(lambda: (admission.handshakes, admission.connections) == (0, 0))


def test_connections_are_bounded(start: Callable[..., Server]) -> None:
    server = start(replace(QUICK, max_connections=2))
    kept = [connect(server), connect(server)]
    with pytest.raises(OSError, match=r"(?i)reset|EOF|abort"):
        connect(server)
    kept[0].close()
    wait_for(lambda: server.listener.admission.connections == 1)
    with connect(server) as connection:
        assert ask(connection, "/who")
    kept[1].close()


def test_connections_from_one_address_are_bounded(start: Callable[..., Server]) -> None:
    server = start(replace(QUICK, max_connections_per_address=2))
    kept = [connect(server), connect(server)]
    with pytest.raises(OSError, match=r"(?i)reset|EOF|abort"):
        connect(server)
    assert server.listener.admission.refused == {Refusal.CONNECTIONS_OF_ADDRESS: 1}
    kept[0].close()
    wait_for(lambda: server.listener.admission.connections == 1)
    with connect(server) as connection:
        assert ask(connection, "/who")
    kept[1].close()


@pytest.mark.parametrize("requests_before", [0, 1])
def test_dripped_headers_are_cut_with_408(start: Callable[..., Server], requests_before: int) -> None:
    server = start(replace(QUICK, header_seconds=0.4))
    with connect(server) as connection:
        for _ in range(requests_before):
            connection.sendall(request("/who", close=False))
            connection.recv(65_536)
            time.sleep(0.6)  # idle is not late
        began = time.monotonic()
        connection.sendall(b"GET /who HTTP/1.1\r\n")
        connection.settimeout(0.05)
        answer = b""
        while not answer and time.monotonic() - began < 5:
            connection.sendall(b"X-Drip: drop\r\n")
            with suppress(TimeoutError):
                answer = connection.recv(65_536)
    assert answer.startswith(b"HTTP/1.1 408 Request Timeout\r\nContent-Type: application/problem+json\r\n")
    assert b'"urn:doorward:problem:timeout"' in answer
    assert time.monotonic() - began < 2


def test_headers_that_stop_are_cut_soon_after_an_earlier_request(start: Callable[..., Server]) -> None:
    server = start(replace(QUICK, header_seconds=0.4))
    with connect(server) as connection:
        connection.sendall(request("/who", close=False))
        connection.recv(65_536)
        connection.sendall(b"GET /who HTTP/1.1\r\n")
        connection.settimeout(3)
        assert connection.recv(65_536).startswith(b"HTTP/1.1 408 ")


def test_a_client_that_asks_nothing_is_closed_without_a_word(start: Callable[..., Server]) -> None:
    server = start(replace(QUICK, header_seconds=0.2))
    with connect(server, suppress_ragged_eofs=False) as connection:
        assert connection.recv(1) == b""


def test_a_swollen_block_of_headers_is_cut_with_431(start: Callable[..., Server]) -> None:
    server = start(replace(QUICK, max_header_block_bytes=4_096))
    with connect(server) as connection:
        connection.sendall(b"GET /who HTTP/1.1\r\n")
        with suppress(OSError):
            for _ in range(60):
                connection.sendall(b"X-Swell: " + b"x" * 1_000 + b"\r\n")
                time.sleep(0.001)
        assert read_to_end(connection).startswith(b"HTTP/1.1 431 ")


def test_a_long_body_is_not_late_headers(start: Callable[..., Server]) -> None:
    server = start(replace(QUICK, header_seconds=0.2))
    with connect(server) as connection:
        connection.sendall(request("/digest", method="POST", headers="Content-Length: 8\r\n"))
        for _ in range(8):
            time.sleep(0.1)
            connection.sendall(b"x")
        assert read_to_end(connection).endswith(hashlib.sha256(b"x" * 8).hexdigest().encode())


def test_a_body_that_is_refused_unread_is_no_header(
    start: Callable[..., Server], caplog: pytest.LogCaptureFixture
) -> None:
    server = start(replace(QUICK, max_header_block_bytes=4_096))
    for _ in range(10):
        with connect(server) as connection:
            body = b"A" * 1_000_000
            connection.sendall(request("/nowhere", method="POST", headers=f"Content-Length: {len(body)}\r\n") + body)
            answer = read_to_end(connection)
        assert answer.startswith(b"HTTP/1.1 404 ")
        assert b"HTTP/1.1 431 " not in answer
    assert not [record for record in caplog.records if record.levelname == "ERROR"]


def test_an_idle_connection_is_closed(start: Callable[..., Server]) -> None:
    server = start(replace(QUICK, keepalive_seconds=0.3))
    with connect(server, suppress_ragged_eofs=False) as connection:
        connection.sendall(request("/who", close=False))
        assert connection.recv(65_536).startswith(b"HTTP/1.1 200")
        began = time.monotonic()
        assert connection.recv(1) == b""
        assert 0.2 < time.monotonic() - began < 3


def test_a_client_that_never_ends_is_let_go(start: Callable[..., Server]) -> None:
    server = start(replace(QUICK, keepalive_seconds=0.2, close_seconds=0.2))
    with connect(server) as connection:
        connection.sendall(request("/who", close=False))
        wait_for(lambda: server.listener.admission.connections == 0)
        assert connection.recv(65_536).startswith(b"HTTP/1.1 200")


CROWD = 2_000
IDLE = """
import socket, ssl, sys
context = ssl.create_default_context(cafile=sys.argv[1])
crowd = []
for _ in range(int(sys.argv[3])):
    raw = socket.create_connection(("127.0.0.1", int(sys.argv[2])), 20)
    crowd.append(context.wrap_socket(raw, server_hostname="localhost"))
print("connected", flush=True)
sys.stdin.read()
"""


def resident_kilobytes() -> int:
    status = Path("/proc/self/status").read_text(encoding="ascii")
    return int(next(line.split()[1] for line in status.splitlines() if line.startswith("VmRSS")))


def test_two_thousand_idle_connections_take_little_and_keep_nobody_waiting(
    start: Callable[..., Server], authority: Path
) -> None:
    server = start(replace(QUICK, max_connections_per_address=CROWD + 10))
    with connect(server) as first:
        assert ask(first, "/who")
    before = resident_kilobytes()
    command = [sys.executable, "-c", IDLE, str(authority), str(server.port), str(CROWD)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as crowd:
        assert crowd.stdin is not None
        assert crowd.stdout is not None
        assert crowd.stdout.readline() == b"connected\n"
        assert server.listener.admission.connections == CROWD
        each = (resident_kilobytes() - before) / CROWD
        with connect(server) as another:
            assert ask(another, "/who")
        crowd.stdin.close()
    wait_for(lambda: server.listener.admission.connections == 0, 20)
    assert each < 100, f"{each:.0f} kB of resident memory for each idle connection"

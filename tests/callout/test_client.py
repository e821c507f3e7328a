"""Our client of NATS where the library's own would wait for ever."""

import asyncio
import logging
import ssl
from collections.abc import Callable

import pytest
import uvloop

from callout.broker.client import LastingClient, SparingLog, give_up

LOOPS: dict[str, Callable[[], asyncio.AbstractEventLoop]] = {
    "asyncio": asyncio.new_event_loop,
    "uvloop": uvloop.new_event_loop,
}
PLAIN = b'INFO {"server_id": "x", "version": "2.15.1", "max_payload": 1000}\r\n'
WITH_TLS = b'INFO {"server_id": "x", "version": "2.15.1", "tls_required": true, "max_payload": 1000}\r\n'


class EndsInTheHandshake:
    """A server that ends when a client begins TLS; the first `plain` clients it lets in without, and leaves."""

    def __init__(self, plain: int) -> None:
        self._plain = plain
        self._calls = 0
        self.called_often = asyncio.Event()

    async def answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._calls += 1
        if self._calls > self._plain + 3:
            self.called_often.set()
        if self._calls <= self._plain:
            writer.write(PLAIN)
            await reader.readuntil(b"PING\r\n")
            writer.write(b"PONG\r\n")
        else:
            writer.write(WITH_TLS)
            await reader.read(10)
        writer.close()


async def _connect_and_close(server: EndsInTheHandshake) -> None:
    listening = await asyncio.start_server(server.answer, "127.0.0.1", 0)
    async with listening:
        client = LastingClient()
        connecting = asyncio.create_task(
            client.connect(
                f"tls://127.0.0.1:{listening.sockets[0].getsockname()[1]}",
                tls=ssl.create_default_context(),
                max_reconnect_attempts=-1,
                reconnect_time_wait=0.01,  # type: ignore[arg-type]  # the library waits any number of seconds
                error_cb=_ignore,
            )
        )
        async with asyncio.timeout(5):
            await server.called_often.wait()
            await give_up(connecting)
            await client.close()


async def _ignore(_: Exception) -> None:
    """Each failed handshake is an error, as it should be."""


@pytest.mark.parametrize("plain", [0, 1], ids=["connecting", "reconnecting"])
@pytest.mark.parametrize("loop", LOOPS)
def test_a_handshake_that_fails_is_tried_again_and_closing_does_not_wait_for_it(loop: str, plain: int) -> None:
    with asyncio.Runner(loop_factory=LOOPS[loop]) as runner:
        runner.run(_connect_and_close(EndsInTheHandshake(plain)))


def test_the_same_failure_is_said_once_until_it_is_over(caplog: pytest.LogCaptureFixture) -> None:
    failures = SparingLog(logging.getLogger("broker"))
    for _ in range(3):
        failures.warning("tls://hub: refused")
    failures.warning("tls://hub: reset")
    assert caplog.messages == ["tls://hub: refused", "tls://hub: reset"]
    failures.forget()
    failures.warning("tls://hub: refused")
    assert caplog.messages == ["tls://hub: refused", "tls://hub: reset", "tls://hub: refused"]

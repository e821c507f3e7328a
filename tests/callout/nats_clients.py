"""NATS clients, what each was told that it may not do, and a client that is refused."""

import asyncio
from typing import Any
from weakref import WeakKeyDictionary

import nats
import orjson
from nats.aio.client import Client

from tests.callout.brokers import Server

FAILURE = 128
"""The SUBACK of MQTT 3.1.1 (3.9.3) for what is not allowed."""

ERRORS: WeakKeyDictionary[Client, list[str]] = WeakKeyDictionary()
"""What each NATS client was told that it may not do."""


async def nats_client(server: Server, secret: str, *, token: bool = False, **options: Any) -> Client:
    credentials: dict[str, Any] = {"token": secret} if token else {"user": "anybody", "password": secret}
    errors: list[str] = []

    async def on_error(error: Exception) -> None:
        errors.append(str(error))

    client = await nats.connect(
        options.pop("url", server.url), allow_reconnect=False, error_cb=on_error, **credentials, **options
    )
    ERRORS[client] = errors
    return client


async def refused(server: Server, user: str, password: str) -> bool:
    """Try to get in, by hand: the client library leaves its socket open when it is refused."""
    reader, writer = await asyncio.open_connection("127.0.0.1", server.nats)
    options = {"user": user, "pass": password, "verbose": False, "pedantic": False}
    writer.write(b"CONNECT " + orjson.dumps(options) + b"\r\nPING\r\n")
    answer = await reader.readline()
    while answer.startswith(b"INFO"):
        answer = await reader.readline()
    writer.close()
    await writer.wait_closed()
    return answer.startswith(b"-ERR 'Authorization Violation'")


async def flushed(client: Client) -> list[str]:
    await client.flush()
    await asyncio.sleep(0.05)
    return ERRORS[client]

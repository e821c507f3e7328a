"""Our pair of embedded brokers with a PKI, a small real callout, and real clients of both."""

import asyncio
import base64
import binascii
import hashlib
import json
import socket
import ssl
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Literal

import nats
import paho.mqtt.client as mqtt
import trustme
from nacl.signing import SigningKey
from nats.aio.client import Client
from nats.aio.msg import Msg
from paho.mqtt.enums import CallbackAPIVersion

from callout.broker.client import LastingClient
from doorward.embedded.nats import EmbeddedNats, NatsAddresses, choose_ports
from doorward.embedded.nats_config import NatsListen

ALL = {"allow": [">"]}
CONNECTED = b"\x20\x02\x00\x00"  # CONNACK, accepted
LONG_PASSWORD = "t" * 4500


def encoded(part: bytes) -> str:
    return base64.urlsafe_b64encode(part).decode().rstrip("=")


def token(claims: dict[str, Any], key: SigningKey, issuer: str) -> str:
    """A JWT of the NATS kind: `ed25519-nkey`, its jti the hash of its claims."""
    claims = {"iat": int(time.time()), "iss": issuer, **claims}
    claims["jti"] = base64.b32encode(hashlib.sha256(json.dumps(claims).encode()).digest()).decode().rstrip("=")
    text = encoded(b'{"typ":"JWT","alg":"ed25519-nkey"}') + "." + encoded(json.dumps(claims).encode())
    return text + "." + encoded(key.sign(text.encode()).signature)


class Responder:
    """Lets everyone into APP with everything allowed, save who calls himself `refused`."""

    def __init__(self) -> None:
        self._key = SigningKey.generate()
        body = b"\0" + bytes(self._key.verify_key)  # the nkey prefix of an account is 0
        check = binascii.crc_hqx(body, 0).to_bytes(2, "little")
        self.issuer = base64.b32encode(body + check).decode().rstrip("=")
        self.requests: list[dict[str, Any]] = []
        self.times_cut = 0

    async def serve(self, connection: Client) -> None:
        async def answer(message: Msg) -> None:
            await message.respond(self._answer(message.data))

        await connection.subscribe("$SYS.REQ.USER.AUTH", queue="callout", cb=answer)
        await connection.flush()

    def _answer(self, data: bytes) -> bytes:
        part = data.decode().split(".")[1]
        request = json.loads(base64.urlsafe_b64decode(part + "=" * (-len(part) % 4)))["nats"]
        self.requests.append(request)
        subject, name = request["user_nkey"], request["connect_opts"].get("user") or "certificate"
        user = {"type": "user", "version": 2, "pub": ALL, "sub": ALL, "subs": -1, "data": -1, "payload": -1}
        signed = token({"sub": subject, "aud": "APP", "name": name, "nats": user}, self._key, self.issuer)
        outcome = {"error": "no"} if name == "refused" else {"jwt": signed}
        answer = {**outcome, "type": "authorization_response", "version": 2}
        envelope = {"sub": subject, "aud": request["server_id"]["id"], "nats": answer}
        return token(envelope, self._key, self.issuer).encode()

    def asked(self, **wanted: str) -> list[dict[str, Any]]:
        """The requests whose `client_info` holds what is wanted."""
        return [each for each in self.requests if wanted.items() <= dict(each["client_info"]).items()]


class Device:
    """A paho client that remembers what happened to it."""

    def __init__(
        self,
        name: str,
        port: int,
        folder: Path,
        *,
        password: str | None = None,
        certificate: str | None = "device",
        transport: Literal["tcp", "websockets"] = "tcp",
        clean: bool = True,
    ) -> None:
        self.happened: list[str] = []
        self.received: list[tuple[str, bytes, int]] = []
        self.client = mqtt.Client(CallbackAPIVersion.VERSION2, client_id=name, clean_session=clean, transport=transport)
        if password is not None:
            self.client.username_pw_set(name, password)
        if transport == "websockets":
            self.client.ws_set_options(path="/mqtt")
        self.client.tls_set(
            ca_certs=str(folder / "root.pem"),
            certfile=str(folder / f"{certificate}.pem") if certificate else None,
            keyfile=str(folder / f"{certificate}.key") if certificate else None,
        )
        self.client.on_connect = lambda _c, _u, _f, reason, _p: self.happened.append(f"connect {reason}")
        self.client.on_disconnect = lambda _c, _u, _f, _reason, _p: self.happened.append("disconnect")
        self.client.on_subscribe = lambda _c, _u, _m, reasons, _p: self.happened.append(f"subscribe {reasons[0]}")
        self.client.on_publish = lambda _c, _u, _m, _reason, _p: self.happened.append("published")
        self.client.on_message = lambda _c, _u, m: self.received.append((m.topic, bytes(m.payload), m.qos))
        self.client.reconnect_delay_set(1, 1)
        self.client.connect_async("127.0.0.1", port)
        self.client.loop_start()

    async def until(self, what: str, times: int = 1) -> None:
        await until(lambda: self.happened.count(what) >= times, f"{what} x{times}, happened: {self.happened}")

    def close(self) -> None:
        self.client.disconnect()
        self.client.loop_stop()


async def until(condition: Callable[[], object], what: str = "", seconds: float = 8.0) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, f"not in time: {what}"
        await asyncio.sleep(0.01)


def write_pair(folder: Path, name: str, pair: trustme.LeafCert) -> None:
    (folder / f"{name}.pem").write_bytes(b"".join(blob.bytes() for blob in pair.cert_chain_pems))
    pair.private_key_pem.write_to_path(str(folder / f"{name}.key"))


def free_ports(count: int) -> list[int]:
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [each.getsockname()[1] for each in sockets]
    for each in sockets:
        each.close()
    return ports


class Broker:
    """One pair of servers with its PKI and its callout."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.servers_root, self.devices_root, self.foreign_root = trustme.CA(), trustme.CA(), trustme.CA()
        self.servers_root.cert_pem.write_to_path(str(folder / "root.pem"))
        self.devices_root.cert_pem.write_to_path(str(folder / "anchors.pem"))
        write_pair(folder, "server", self.servers_root.issue_cert("localhost", "127.0.0.1"))
        write_pair(folder, "device", self.devices_root.issue_cert("meter-001"))
        write_pair(folder, "foreign", self.foreign_root.issue_cert("meter-001"))
        self.listen = choose_ports(NatsListen("127.0.0.1", *free_ports(4)))
        self.callout = Responder()
        self.tls = ssl.create_default_context(cafile=str(folder / "root.pem"))
        self.servers = self.another()
        self.addresses: NatsAddresses

    def another(self) -> EmbeddedNats:
        return EmbeddedNats(
            self.folder / "data",
            self.listen,
            server_certificate=self.folder / "server.pem",
            server_key=self.folder / "server.key",
            client_anchors=self.folder / "anchors.pem",
            callout_issuer=self.callout.issuer,
        )

    async def connect(self, user: str, password: str, url: str | None = None) -> Client:
        hub = self.addresses.hub_url
        client = LastingClient()
        await client.connect(
            url or hub,
            user=user,
            password=password,
            tls=self.tls if url is None else None,
            max_reconnect_attempts=-1 if user == self.addresses.callout.name else 0,
            reconnect_time_wait=0.1,  # type: ignore[arg-type]  # the library waits any number of seconds
            allow_reconnect=user == self.addresses.callout.name,
            error_cb=ignore,
        )
        return client

    def gateway(self, *, password: str | None = None, clean: bool = True) -> Device:
        port, password = self.listen.mqtt_password, password or "a password"
        return Device("gateway", port, self.folder, password=password, certificate=None, clean=clean)

    def device(self, name: str = "meter-001", *, certificate: str | None = "device") -> Device:
        return Device(name, self.listen.mqtt_certificate, self.folder, certificate=certificate)

    def connect_raw(
        self, context: ssl.SSLContext, session: ssl.SSLSession | None
    ) -> tuple[bytes, ssl.SSLSession | None, bool | None]:
        """An MQTT CONNECT to the edge, in an earlier TLS session: its answer, the session, and if it was resumed."""
        with (
            socket.create_connection(("127.0.0.1", self.listen.mqtt_certificate), timeout=5) as plain,
            context.wrap_socket(plain, server_hostname="localhost", session=session) as wrapped,
        ):
            wrapped.sendall(b"\x10\x12\x00\x04MQTT\x04\x02\x00\x3c\x00\x06meter1")
            answer = wrapped.recv(4)
            if not answer:
                raise ConnectionResetError
            return answer, wrapped.session, wrapped.session_reused

    def serial(self, port: int) -> str:
        """The serial number of the certificate that a listener shows now."""
        context = ssl.create_default_context(cafile=str(self.folder / "root.pem"))
        context.load_cert_chain(self.folder / "device.pem", self.folder / "device.key")
        with socket.create_connection(("127.0.0.1", port), timeout=5) as plain:
            if port == self.listen.nats:
                plain.recv(4096)  # INFO comes before TLS
            with context.wrap_socket(plain, server_hostname="localhost") as wrapped:
                shown = wrapped.getpeercert()
                assert shown is not None
                return str(shown["serialNumber"])


async def ignore(_: Exception) -> None:
    """nats-py prints errors otherwise; the tests look at what happened."""


@asynccontextmanager
async def running(folder: Path) -> AsyncIterator[Broker]:
    broker = Broker(folder)
    try:
        broker.addresses = await broker.servers.start()
        handler = await broker.connect(broker.addresses.callout.name, broker.addresses.callout.password)
        try:
            await broker.callout.serve(handler)
            yield broker
        finally:
            await handler.close()
    finally:
        await broker.servers.stop()
        assert not broker.servers.alive


async def ask(connection: Client, subject: str, **body: object) -> list[dict[str, Any]]:
    """Every answer to one request that arrives within 0.3 s of the last."""
    inbox = connection.new_inbox()
    subscription = await connection.subscribe(inbox)
    await connection.publish(subject, json.dumps(body).encode(), reply=inbox)
    answers: list[dict[str, Any]] = []
    while True:
        try:
            answers.append(json.loads((await subscription.next_msg(timeout=0.3)).data))
        except nats.errors.TimeoutError:
            await subscription.unsubscribe()
            return answers

"""The embedded brokers, on the real nats-server, with real NATS and MQTT clients and a small real callout."""

import asyncio
import base64
import binascii
import hashlib
import json
import os
import shutil
import signal
import socket
import ssl
import stat
import tempfile
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Literal

import nats
import paho.mqtt.client as mqtt
import pytest
import trustme
from nacl.signing import SigningKey
from nats.aio.client import Client
from nats.aio.msg import Msg
from paho.mqtt.enums import CallbackAPIVersion

from doorward.embedded.nats import EmbeddedNats, NatsAddresses, choose_ports
from doorward.embedded.nats_config import Callout, NatsListen, quoted
from doorward.embedded.process import EmbeddedError, Failure

LONG_PASSWORD = "t" * 4500
ALL = {"allow": [">"]}
CONNECTED = b"\x20\x02\x00\x00"  # CONNACK, accepted


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
        return await nats.connect(
            url or hub,
            user=user,
            password=password,
            tls=self.tls if url is None else None,
            max_reconnect_attempts=-1 if user == self.addresses.callout.name else 0,
            reconnect_time_wait=0.1,
            allow_reconnect=user == self.addresses.callout.name,
            error_cb=ignore,
        )

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


@pytest.fixture
def folder() -> Iterator[Path]:
    """A folder whose name would end an unquoted string, a comment, a variable and a map."""
    made = Path(tempfile.mkdtemp(prefix='we"ird\\ $HOME # {}'))
    yield made
    shutil.rmtree(made)


@pytest.fixture
async def broker(folder: Path) -> AsyncIterator[Broker]:
    async with running(folder) as made:
        yield made


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


async def test_messages_of_qos_1_pass_both_ways_between_the_two_servers(broker: Broker) -> None:
    gateway, device = broker.gateway(), broker.device()
    try:
        await gateway.until("connect Success")
        await device.until("connect Success")
        gateway.client.subscribe("acme/devices/meter-001/telemetry", 1)
        device.client.subscribe("acme/devices/meter-001/commands", 1)
        await gateway.until("subscribe Granted QoS 1")
        await device.until("subscribe Granted QoS 1")
        device.client.publish("acme/devices/meter-001/telemetry", b"21.5", 1)
        gateway.client.publish("acme/devices/meter-001/commands", b"restart", 1)
        await until(lambda: gateway.received == [("acme/devices/meter-001/telemetry", b"21.5", 1)], "telemetry")
        await until(lambda: device.received == [("acme/devices/meter-001/commands", b"restart", 1)], "commands")
    finally:
        gateway.close()
        device.close()


async def test_the_callout_on_the_hub_is_asked_for_both_and_sees_the_verified_chain(broker: Broker) -> None:
    gateway, device = broker.gateway(), broker.device()
    try:
        await gateway.until("connect Success")
        await device.until("connect Success")
        [of_device] = broker.callout.asked(mqtt_id="meter-001")
        [of_gateway] = broker.callout.asked(mqtt_id="gateway")
        assert of_device["server_id"]["name"] == "edge"
        assert of_gateway["server_id"]["name"] == "hub"
        [[leaf, *_]] = of_device["client_tls"]["verified_chains"]
        assert leaf.strip() in (broker.folder / "device.pem").read_text()
    finally:
        gateway.close()
        device.close()


async def test_a_resumed_tls_session_is_judged_again_and_ends_with_its_anchors(broker: Broker) -> None:
    context = ssl.create_default_context(cafile=str(broker.folder / "root.pem"))
    context.load_cert_chain(broker.folder / "device.pem", broker.folder / "device.key")
    first, session, was_resumed = await asyncio.to_thread(broker.connect_raw, context, None)
    assert (first, was_resumed) == (CONNECTED, False)
    again, session, was_resumed = await asyncio.to_thread(broker.connect_raw, context, session)
    assert (again, was_resumed) == (CONNECTED, True)
    chains = [request["client_tls"]["verified_chains"] for request in broker.callout.requests]
    assert len(chains) == 2
    assert chains[0] == chains[1]
    (broker.folder / "anchors.pem").write_bytes(broker.foreign_root.cert_pem.bytes())
    await broker.servers.reload()
    await asyncio.sleep(0.5)
    with pytest.raises(OSError):  # noqa: PT011 (an alert or a reset, as the version of TLS has it)
        await asyncio.to_thread(broker.connect_raw, context, session)
    assert len(broker.callout.requests) == 2


@pytest.mark.parametrize("certificate", [None, "foreign"])
async def test_the_edge_refuses_who_has_no_certificate_of_the_anchors(broker: Broker, certificate: str | None) -> None:
    device = broker.device(certificate=certificate)
    try:
        await device.until("disconnect")
        assert "connect Success" not in device.happened
        assert broker.callout.asked(type="mqtt") == []
    finally:
        device.close()


async def test_a_password_of_4500_bytes_reaches_the_callout_on_every_way_in(broker: Broker) -> None:
    plain = await broker.connect("program", LONG_PASSWORD)
    gateway = broker.gateway(password=LONG_PASSWORD)
    websocket = Device(
        "browser",
        broker.listen.websocket,
        broker.folder,
        password=LONG_PASSWORD,
        certificate=None,
        transport="websockets",
    )
    try:
        await gateway.until("connect Success")
        await websocket.until("connect Success")
        passwords = [request["connect_opts"]["pass"] for request in broker.callout.requests]
        assert passwords == [LONG_PASSWORD] * 3
    finally:
        await plain.close()
        gateway.close()
        websocket.close()


async def test_the_plain_port_of_the_edge_asks_the_callout_too(broker: Broker) -> None:
    connection = await broker.connect("program", "a password", broker.addresses.edge_url)
    await connection.close()
    reader, writer = await asyncio.open_connection("127.0.0.1", broker.listen.edge)
    await reader.readline()
    writer.write(b'CONNECT {"user": "refused", "pass": "a password", "verbose": false}\r\nPING\r\n')
    assert await reader.readline() == b"-ERR 'Authorization Violation'\r\n"
    writer.close()
    await writer.wait_closed()
    assert len(broker.callout.asked(kind="Client")) == 2


async def test_one_system_connection_sees_and_cuts_clients_of_both(broker: Broker) -> None:
    gateway, device = broker.gateway(), broker.device()
    system = await broker.connect(broker.addresses.system.name, broker.addresses.system.password)
    try:
        await gateway.until("connect Success")
        await device.until("connect Success")
        found = {}
        for answer in await ask(system, "$SYS.REQ.SERVER.PING.CONNZ", acc="APP", auth=True):
            for each in answer["data"]["connections"]:
                if "mqtt_client" in each:
                    found[each["mqtt_client"]] = (answer["server"]["id"], each["cid"], each["authorized_user"])
        assert found["meter-001"][2] == "certificate"
        assert found["gateway"][2] == "gateway"
        for server, number, _ in found.values():
            assert len(await ask(system, f"$SYS.REQ.SERVER.{server}.KICK", cid=number)) == 1
        await device.until("connect Success", 2)
        await gateway.until("connect Success", 2)
        assert len(broker.callout.asked(mqtt_id="meter-001")) == 2
    finally:
        await system.close()
        gateway.close()
        device.close()


async def test_static_users_keep_to_their_rooms(broker: Broker) -> None:
    bus = await broker.connect(broker.addresses.bus.name, broker.addresses.bus.password)
    program = await broker.connect("program", "a password")
    overheard = await program.subscribe(">")
    await program.flush()
    await bus.jetstream().add_stream(name="EVENTS", subjects=["events.>"])
    assert (await bus.jetstream().publish("events.pairing", b"changed")).seq == 1
    with pytest.raises(nats.errors.TimeoutError):
        await overheard.next_msg(timeout=0.2)
    await program.close()
    await bus.close()
    for name in ("users.json", "hub.conf", "edge.conf"):
        assert stat.S_IMODE((broker.folder / "data" / "nats" / name).stat().st_mode) == 0o600


async def test_a_reload_renews_certificate_and_anchors_on_every_listener(broker: Broker) -> None:
    ports = (broker.listen.nats, broker.listen.mqtt_password, broker.listen.websocket, broker.listen.mqtt_certificate)
    device = broker.device()
    bus = await broker.connect(broker.addresses.bus.name, broker.addresses.bus.password)
    try:
        await device.until("connect Success")
        before = broker.serial(ports[0])
        renewed = broker.servers_root.issue_cert("localhost", "127.0.0.1")
        write_pair(broker.folder, "server", renewed)
        (broker.folder / "anchors.pem").write_bytes(broker.foreign_root.cert_pem.bytes())
        write_pair(broker.folder, "device", broker.foreign_root.issue_cert("meter-001"))
        await broker.servers.reload()
        # Measured: who was let in by the callout is cut; the static user stays.
        await device.until("disconnect")
        await device.until("disconnect", 2)
        assert device.happened.count("connect Success") == 1, "its certificate is not of the new anchors"
        await until(lambda: all(broker.serial(port) != before for port in ports), "new certificates")
        assert bus.is_connected
        assert broker.servers.alive
        newcomer = broker.device("meter-002")
        await newcomer.until("connect Success")
        newcomer.close()
    finally:
        await bus.close()
        device.close()


async def test_a_certificate_that_cannot_be_read_is_not_taken(broker: Broker) -> None:
    port = broker.listen.mqtt_password
    before = broker.serial(port)
    (broker.folder / "server.pem").write_text("half a certificate")
    await broker.servers.reload()
    log = broker.folder / "data" / "log" / "nats-hub.log"
    await until(lambda: "Failed to reload" in log.read_text(), "the refusal in the log")
    assert broker.servers.alive
    assert broker.serial(port) == before


async def test_a_killed_hub_comes_back_with_everything_acknowledged(broker: Broker) -> None:
    device, gateway = broker.device(), broker.gateway(clean=False)
    bus = await broker.connect(broker.addresses.bus.name, broker.addresses.bus.password)
    try:
        await device.until("connect Success")
        await gateway.until("connect Success")
        gateway.client.subscribe("telemetry", 1)
        await gateway.until("subscribe Granted QoS 1")
        await bus.jetstream().add_stream(name="EVENTS", subjects=["events.>"])
        acknowledged = [(await bus.jetstream().publish("events.x", b"%d" % n)).seq for n in range(50)]
        hub, edge = broker.servers.processes
        os.kill(hub.pid, signal.SIGKILL)
        assert await broker.servers.ended() == f"hub ended with status {-signal.SIGKILL}"
        assert not broker.servers.alive
        await broker.servers.start()
        assert broker.servers.alive
        assert broker.servers.processes[1] is edge
        again = await broker.connect(broker.addresses.bus.name, broker.addresses.bus.password)
        assert (await again.jetstream().stream_info("EVENTS")).state.last_seq == acknowledged[-1] == 50
        await again.close()
        await gateway.until("connect Success", 2)
        await until(lambda: publish_until_received(device, gateway), "the session of the gateway goes on")
    finally:
        await bus.close()
        device.close()
        gateway.close()


def publish_until_received(device: Device, gateway: Device) -> bool:
    """The device publishes until the gateway, which does not subscribe again, receives."""
    if device.client.is_connected() and not gateway.received:
        device.client.publish("telemetry", b"21.5", 1)
        time.sleep(0.1)
    return bool(gateway.received)


async def test_a_killed_edge_comes_back_and_devices_with_it(broker: Broker) -> None:
    device = broker.device()
    try:
        await device.until("connect Success")
        hub, edge = broker.servers.processes
        os.kill(edge.pid, signal.SIGKILL)
        assert await broker.servers.ended() == f"edge ended with status {-signal.SIGKILL}"
        await broker.servers.start()
        assert broker.servers.processes[0] is hub
        await device.until("connect Success", 2)
    finally:
        device.close()


async def test_servers_left_behind_are_ended_and_acknowledged_messages_are_there(broker: Broker) -> None:
    bus = await broker.connect(broker.addresses.bus.name, broker.addresses.bus.password)
    await bus.jetstream().add_stream(name="EVENTS", subjects=["events.>"])
    await bus.jetstream().publish("events.x", b"kept")
    later = broker.another()
    addresses = await later.start()
    try:
        assert not any(process.alive for process in broker.servers.processes)
        assert addresses.bus == broker.addresses.bus
        again = await broker.connect(addresses.bus.name, addresses.bus.password)
        assert (await again.jetstream().get_msg("EVENTS", 1)).data == b"kept"
        await again.close()
    finally:
        await bus.close()
        await later.stop()


async def test_a_port_in_use_is_said(folder: Path) -> None:
    broker = Broker(folder)
    with socket.create_server(("127.0.0.1", broker.listen.nats)):
        with pytest.raises(EmbeddedError, match="address already in use") as refused:
            await broker.servers.start()
        assert refused.value.kind is Failure.ENDED
    await broker.servers.stop()


def test_what_is_not_an_nkey_or_not_text_is_refused() -> None:
    issuer = Responder().issuer
    assert Callout(issuer).xkey is None
    for wrong in (issuer.replace("A", "U", 1), issuer[:-1], issuer + "\n", ""):
        with pytest.raises(ValueError, match="issuer"):
            Callout(wrong)
    with pytest.raises(ValueError, match="xkey"):
        Callout(issuer, issuer)
    assert quoted('a"b\\c') == '"a\\"b\\\\c"'
    with pytest.raises(ValueError, match="control"):
        quoted("a\nb")

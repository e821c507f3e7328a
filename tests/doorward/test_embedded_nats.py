"""The embedded brokers, on the real nats-server, with real NATS and MQTT clients and a small real callout."""

import asyncio
import os
import shutil
import signal
import socket
import ssl
import stat
import tempfile
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import suppress
from pathlib import Path

import nats
import pytest
from nats.aio.client import Client
from nats.errors import Error as NatsError

from doorward.embedded.nats_config import Callout, quoted
from doorward.embedded.process import EmbeddedError, Failure
from tests.doorward.embedded_brokers import (
    CONNECTED,
    LONG_PASSWORD,
    Broker,
    Device,
    Responder,
    ask,
    running,
    until,
    write_pair,
)


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


@pytest.mark.skipif(os.geteuid() != 0, reason="a file system of its own needs root")
async def test_a_hub_stores_again_after_the_disk_was_full(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("doorward.embedded.nats.STORE_LOOK_SECONDS", 0.3)
    mount = await asyncio.create_subprocess_exec("mount", "-t", "tmpfs", "-o", "size=200m", "tmpfs", str(folder))
    if await mount.wait() != 0:
        pytest.skip("nothing may be mounted here")
    try:
        async with running(folder) as broker:
            bus = await broker.connect(broker.addresses.bus.name, broker.addresses.bus.password)
            await bus.jetstream().add_stream(name="EVENTS", subjects=["doorward.events.>"])
            await bus.jetstream().publish("doorward.events.a", b"before")
            ballast = await asyncio.to_thread(fill_up, folder)
            with pytest.raises(NatsError):
                await publish_long(bus, times=2000)
            ended = asyncio.create_task(broker.servers.ended())  # as its supervisor does
            ballast.unlink()
            while not ended.done():
                with suppress(NatsError):
                    await publish_long(bus, times=1)
                await asyncio.sleep(0.1)
            assert "hub ended" in await ended
            await bus.close()
            await broker.servers.start()
            bus = await broker.connect(broker.addresses.bus.name, broker.addresses.bus.password)
            await publish_long(bus, times=10)
            assert (await bus.jetstream().get_msg("EVENTS", 1)).data == b"before"
            await bus.close()
    finally:
        await (await asyncio.create_subprocess_exec("umount", "--lazy", str(folder))).wait()


async def publish_long(bus: Client, *, times: int) -> None:
    for _ in range(times):
        await bus.jetstream().publish("doorward.events.a", b"x" * 4000, timeout=1)


def fill_up(folder: Path) -> Path:
    """Fill the file system that a folder is on to its last byte, and return the file that does."""
    ballast = folder / "ballast"
    with ballast.open("wb", buffering=0) as file:
        for size in (1 << 20, 1 << 12):
            with suppress(OSError):
                while True:
                    file.write(bytes(size))
    return ballast

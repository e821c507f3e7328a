"""Two nats-servers as in production, a hub and an edge that is its leafnode, and a callout that answers both."""

import os
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from datetime import datetime
from pathlib import Path

import pytest
import trustme

from callout.broker.answering import Broker
from callout.broker.watch import Watch
from callout.nkeys import SealingKey, SigningKey
from callout.service import CalloutService
from tests.callout.brokers import (
    EDGE,
    HUB,
    ISSUER_SEED,
    LONG,
    XKEY_SEED,
    Anchors,
    Mqtt,
    People,
    Server,
    client_tls,
    free_port,
    now,
    start_server,
)

NATS_SERVER = Path(sys.executable).with_name("nats-server")

MakeMqtt = Callable[..., Mqtt]
Certified = Callable[..., Mqtt]


@pytest.fixture(scope="session")
def authority() -> trustme.CA:
    return trustme.CA()


@pytest.fixture(scope="session")
def anchors(authority: trustme.CA, tmp_path_factory: pytest.TempPathFactory) -> Anchors:
    folder = tmp_path_factory.mktemp("certificates")
    issued = authority.issue_cert("127.0.0.1")
    authority.cert_pem.write_to_path(folder / "authority.pem")
    issued.private_key_pem.write_to_path(folder / "key.pem")
    for block in issued.cert_chain_pems:
        block.write_to_path(folder / "certificate.pem", append=True)
    return Anchors(folder / "authority.pem", folder / "certificate.pem", folder / "key.pem")


@pytest.fixture(scope="session")
def servers(anchors: Anchors, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Server, Server]]:
    folder = tmp_path_factory.mktemp("servers")
    hub = Server(free_port(), free_port(), free_port())
    edge = Server(free_port(), free_port(), 0)
    common = {
        "issuer": SigningKey.from_seed(ISSUER_SEED).public,
        "xkey": SealingKey.from_seed(XKEY_SEED).public,
        "leaf": free_port(),
        "storage": folder / "jetstream",
        "certificate": anchors.certificate,
        "key": anchors.key,
        "authority": anchors.authority,
    }
    running: list[subprocess.Popen[bytes]] = []
    try:
        for name, server, template in (("hub", hub, HUB), ("edge", edge, EDGE)):
            settings = common | {"name": name, "nats": server.nats, "mqtt": server.mqtt, "websocket": server.websocket}
            server.process = start_server(NATS_SERVER, folder, settings, template)
            running.append(server.process)
        yield hub, edge
    finally:
        for process in running:
            process.terminate()
            process.wait(10)


@pytest.fixture
def lonely_server(tmp_path: Path) -> Iterator[Callable[[], Server]]:
    """Start a server of one's own, and start it again."""
    server = Server(free_port(), free_port(), free_port())
    settings = {
        "name": "lonely",
        "nats": server.nats,
        "mqtt": server.mqtt,
        "websocket": server.websocket,
        "leaf": free_port(),
        "storage": tmp_path / "jetstream",
        "issuer": SigningKey.from_seed(ISSUER_SEED).public,
        "xkey": SealingKey.from_seed(XKEY_SEED).public,
    }

    def start() -> Server:
        server.process = start_server(NATS_SERVER, tmp_path, settings, HUB)
        return server

    yield start
    if server.process is not None:
        server.process.terminate()
        server.process.wait(10)


@pytest.fixture
def hub(servers: tuple[Server, Server]) -> Server:
    return servers[0]


@pytest.fixture
def edge(servers: tuple[Server, Server]) -> Server:
    return servers[1]


@pytest.fixture
def people() -> People:
    return People()


@pytest.fixture
def service(people: People) -> CalloutService:
    return CalloutService(
        people.prove_token,
        people.prove_certificate,
        issuer=ISSUER_SEED,
        xkey=XKEY_SEED,
        clock=now,
        random=os.urandom,
    )


@pytest.fixture
async def broker(hub: Server, edge: Server, service: CalloutService) -> AsyncIterator[Broker]:
    answering = Broker([hub.endpoint("callout"), edge.endpoint("callout")], service)
    await answering.start()
    yield answering
    await answering.stop()


@pytest.fixture
async def watch(hub: Server, edge: Server, people: People, broker: Broker) -> AsyncIterator[Watch]:
    assert broker
    watching = Watch([hub.endpoint("sys"), edge.endpoint("sys")], people, people.ended_proofs)
    await watching.start()
    yield watching
    await watching.stop()


@pytest.fixture
def make_mqtt(hub: Server) -> Iterator[MakeMqtt]:
    made: list[Mqtt] = []

    def make(client: str, secret: str | None = None, **options: object) -> Mqtt:
        port = int(str(options.pop("port", hub.mqtt)))
        client_ = Mqtt(port, client, secret, **options)
        made.append(client_)
        return client_

    yield make
    for client in made:
        client.close()


@pytest.fixture
def certified(
    edge: Server, authority: trustme.CA, anchors: Anchors, tmp_path: Path, make_mqtt: MakeMqtt
) -> Callable[..., Mqtt]:
    """Make MQTT clients that show a certificate for a device."""

    def make(device: str, **options: object) -> Mqtt:
        expires = options.pop("not_after", now() + LONG)
        assert isinstance(expires, datetime)
        issued = authority.issue_cert(device, common_name=device, not_after=expires)
        issued.private_key_and_cert_chain_pem.write_to_path(tmp_path / f"{device}.pem")
        tls = client_tls(anchors.authority, tmp_path / f"{device}.pem")
        client = str(options.pop("client", device))
        return make_mqtt(client, port=edge.mqtt, tls=tls, **options)

    return make

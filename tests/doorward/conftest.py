"""A listener for a test, on each kind of loop, and what its clients hold."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import trustme

from doorward.listener import ListenerLimits
from tests.doorward.listening import AUTHORITY, LOOPS, QUICK, Server


@pytest.fixture(params=LOOPS)
def start(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Callable[..., Server]]:
    servers: list[Server] = []

    def start(limits: ListenerLimits = QUICK) -> Server:
        servers.append(Server(LOOPS[request.param](), tmp_path, limits))
        return servers[-1]

    yield start
    for server in servers:
        server.stop()


@pytest.fixture
def server(start: Callable[..., Server]) -> Server:
    return start()


@pytest.fixture
def certificate(tmp_path: Path) -> Path:
    path = tmp_path / "device.pem"
    trustme.CA().create_child_ca().issue_cert("device.example").private_key_and_cert_chain_pem.write_to_path(str(path))
    return path


@pytest.fixture
def authority(tmp_path: Path) -> Path:
    path = tmp_path / "authority.pem"
    AUTHORITY.cert_pem.write_to_path(str(path))
    return path

"""A whole node, as `doorward serve` runs it, on ports and in a folder of its own."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from doorward.commands.login import ApiClient
from doorward.demo.mqtt import Place

READY_SECONDS = 60.0


class RunningNode:
    """A node in processes of its own."""

    def __init__(self, data: Path, *, workers: int = 2, keepalive: dict[str, str] | None = None) -> None:
        ports = free_ports(9)
        self.data = data
        self.api = f"https://127.0.0.1:{ports[0]}"
        self.est = f"https://127.0.0.1:{ports[1]}"
        self.publication = f"http://127.0.0.1:{ports[8]}"
        self.nats_port, self.mqtt_certificate_port, self.mqtt_password_port, self.websocket_port = ports[2:6]
        self.environment = {
            **os.environ,
            "DOORWARD_NODE_DATA": str(data),
            "DOORWARD_NODE_WORKERS": str(workers),
            "DOORWARD_NODE_PUBLIC_URL": self.api,
            "DOORWARD_API_PORT": str(ports[0]),
            "DOORWARD_EST_PORT": str(ports[1]),
            "DOORWARD_NATS_PORT": str(ports[2]),
            "DOORWARD_NATS_MQTT_CERTIFICATE_PORT": str(ports[3]),
            "DOORWARD_NATS_MQTT_PASSWORD_PORT": str(ports[4]),
            "DOORWARD_NATS_WEBSOCKET_PORT": str(ports[5]),
            "DOORWARD_NATS_EDGE_PORT": str(ports[6]),
            "DOORWARD_NATS_LEAFNODE_PORT": str(ports[7]),
            "DOORWARD_PUBLICATION_PORT": str(ports[8]),
            **(keepalive or {}),
        }
        self.log = data.with_name(data.name + ".log")
        self.token: str | None = None
        self.process: subprocess.Popen[bytes] | None = None

    @property
    def root(self) -> Path:
        """The root certificate, for clients to trust."""
        return self.data / "ca" / "root.pem"

    def start(self) -> "RunningNode":
        """Start it and wait until it says that it is ready."""
        with self.log.open("ab") as log:
            begins = log.tell()
            self.process = subprocess.Popen(
                [sys.executable, "-m", "doorward", "serve"], env=self.environment, stdout=log, stderr=log
            )
        deadline = time.monotonic() + READY_SECONDS
        while time.monotonic() < deadline:
            if b"Doorward is ready" in self.log.read_bytes()[begins:]:
                return self
            assert self.process.poll() is None, self.log.read_text()
            time.sleep(0.05)
        raise AssertionError(self.log.read_text())

    def stop(self) -> int:
        """Stop it as Ctrl-C does, and return its status."""
        assert self.process is not None
        self.process.send_signal(signal.SIGINT)
        return self.process.wait(30)

    def kill(self) -> None:
        """End the supervisor without giving it a chance."""
        assert self.process is not None
        self.process.kill()
        self.process.wait(10)

    def command(self, *arguments: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        """Run `doorward` with these arguments against the node."""
        return subprocess.run(
            [sys.executable, "-m", "doorward", *arguments],
            env=self.environment,
            capture_output=True,
            text=True,
            check=check,
            timeout=60,
        )

    def admin(self, *, anew: bool = False) -> ApiClient:
        """A client with a token of root; with one of a session of its own if `anew`."""
        if self.token is None or anew:
            self.token = json.loads(self.command("admin", "token", "--json").stdout)["token"]
        return ApiClient(self.api, self.root, self.token)

    def place(self, port: int, trust: Any) -> Place:
        """Where an MQTT client connects."""
        return Place("127.0.0.1", port, trust)


def free_ports(count: int) -> list[int]:
    """Return ports that nobody listens on now."""
    held = [socket.socket() for _ in range(count)]
    for one in held:
        one.bind(("127.0.0.1", 0))
    ports = [one.getsockname()[1] for one in held]
    for one in held:
        one.close()
    return ports


@pytest.fixture(scope="module")
def node(scratch: Path, request: pytest.FixtureRequest) -> Iterator[RunningNode]:
    """A node that the tests of a module share."""
    running = RunningNode(scratch / request.module.__name__.rpartition(".")[2]).start()
    yield running
    assert running.process is not None
    if running.process.poll() is None:
        assert running.stop() == 0, running.log.read_text()

"""A node of the benchmark's own.

It lives in a temporary folder and on free ports of loopback; it is ended by its process number and its folder removed,
also when the benchmark fails. Nothing that runs already is touched. Its Python finds compiled modules, as after an
installation, from the second start on, whatever the environment here says.
"""

import asyncio
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from doorward.app import App
from doorward.commands.local import local_app, root_token
from doorward.commands.login import ApiClient
from doorward.config import load_configuration
from iam.store.database import EVERYWHERE

LOOPBACK = "127.0.0.1"

_PORTS = ("port", "mqtt_certificate_port", "mqtt_password_port", "websocket_port", "edge_port", "leafnode_port")
_READY_SECONDS = 60.0
_STOP_SECONDS = 30.0
_SETTLE_SECONDS = 60.0

Settings = Mapping[str, Mapping[str, object]]


@contextmanager
def running_node(settings: Settings | None = None) -> Iterator["Node"]:
    """Run a node with these settings beside those that keep it apart, by section and key."""
    end_cleanly()
    with tempfile.TemporaryDirectory(prefix="doorward-bench-") as name:
        node = Node(Path(name), settings or {})
        try:
            node.start()
            yield node
        finally:
            node.stop()


@dataclass
class Node:
    """A node in `folder`, which may be stopped and started again.

    Attributes:
        environment: What its processes find there besides what is there.
    """

    folder: Path
    settings: Settings = field(default_factory=dict)
    environment: Mapping[str, str] = field(default_factory=dict)
    _process: "subprocess.Popen[str] | None" = None

    def __post_init__(self) -> None:
        """Choose the ports, and write the configuration."""
        api, est, publication, *nats = free_ports(3 + len(_PORTS))
        sections: dict[str, dict[str, object]] = {
            "node": {
                "data": str(self.folder / "data"),
                "public_url": f"https://{LOOPBACK}:{api}",
                "log_level": "warning",
            },
            "api": {"port": api},
            "est": {"port": est},
            "publication": {"port": publication},
            "nats": dict(zip(_PORTS, nats, strict=True)),
        }
        for section, values in self.settings.items():
            sections.setdefault(section, {}).update(values)
        self._file = self.folder / "doorward.toml"
        self._file.write_text(
            "".join(
                f"[{section}]\n" + "".join(f"{key} = {json.dumps(value)}\n" for key, value in values.items())
                for section, values in sections.items()
            ),
            encoding="utf-8",
        )
        self.configuration = load_configuration(self._file, {})

    @property
    def root(self) -> Path:
        """Its root certificate."""
        return self.configuration.node.data / "ca" / "root.pem"

    def start(self) -> float:
        """Start it; return the seconds until it said that it is ready."""
        began = time.perf_counter()
        with (self.folder / "node.log").open("a") as log:
            self._process = subprocess.Popen(
                self._command("serve"),
                env=self._environment(),
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
            )
        assert self._process.stdout is not None  # noqa: S101 - it was asked for above
        late = threading.Timer(_READY_SECONDS, self._process.kill)
        late.start()
        is_ready = any(line.startswith("Doorward is ready") for line in self._process.stdout)
        late.cancel()
        if not is_ready:
            raise SystemExit(f"the node did not start:\n{(self.folder / 'node.log').read_text()[-2000:]}")
        return time.perf_counter() - began

    def command(self, *arguments: str) -> "subprocess.CompletedProcess[str]":
        """Run a command of doorward's beside it, and return what came of it."""
        return subprocess.run(
            self._command(*arguments), env=self._environment(), capture_output=True, text=True, check=False
        )

    def _command(self, *arguments: str) -> list[str]:
        return [sys.executable, "-m", "doorward", *arguments, "--config", str(self._file)]

    def _environment(self) -> dict[str, str]:
        kept = (name for name in os.environ if not name.startswith("DOORWARD_") and name != "PYTHONDONTWRITEBYTECODE")
        own = {name: os.environ[name] for name in kept}
        return {**own, "PYTHONPYCACHEPREFIX": str(self.folder / "bytecode"), **self.environment}

    def stop(self) -> None:
        """Stop it; nothing if it does not run."""
        if self._process is not None:
            end(self._process)
            self._process = None

    def kill(self) -> None:
        """Kill its supervisor; the kernel ends the rest."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            close_output(self._process)
            self._process = None

    def forget(self) -> None:
        """Remove all that it has kept: the next start is its first."""
        shutil.rmtree(self.configuration.node.data, ignore_errors=True)

    def parts(self) -> dict[str, list[int]]:
        """Return its processes, by what they are."""
        assert self._process is not None, "not started"  # noqa: S101 - a mistake of the benchmark's own
        found: dict[str, list[int]] = {"supervisor": [self._process.pid]}
        for process in descendants(self._process.pid):
            found.setdefault(_part_of(process), []).append(process)
        return found

    @asynccontextmanager
    async def opened(self) -> AsyncIterator[tuple[App, ApiClient]]:
        """Open its database from here, as the command line does, and its REST API as root."""
        issued = await root_token(self.configuration)
        async with local_app(self.configuration) as app:
            yield app, ApiClient(f"https://{LOOPBACK}:{self.configuration.api.port}", self.root, issued.token)


async def settle(app: App) -> None:
    """Wait until a node has done what it put off: events published, audit chained."""
    async with asyncio.timeout(_SETTLE_SECONDS):
        while True:
            async with app.pool.transaction(EVERYWHERE) as transaction:  # what waits is the node's own
                is_waiting = await transaction.fetchval(
                    "SELECT EXISTS (SELECT FROM outbox) OR EXISTS (SELECT FROM audit_pending)"
                )
            if not is_waiting:
                return
            await asyncio.sleep(0.1)


def free_ports(count: int) -> list[int]:
    """Return ports of loopback that were free a moment ago."""
    sockets = [socket.create_server((LOOPBACK, 0)) for _ in range(count)]
    ports = [each.getsockname()[1] for each in sockets]
    for each in sockets:
        each.close()
    return ports


def end_cleanly() -> None:
    """Let SIGTERM end this program as Ctrl-C does, with all that it has started."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))


def end(process: "subprocess.Popen[str]") -> None:
    """End a process of ours: by SIGTERM, and by SIGKILL when that takes too long."""
    process.terminate()
    try:
        process.wait(_STOP_SECONDS)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
    close_output(process)


def close_output(process: "subprocess.Popen[str]") -> None:
    """Let go of what it said."""
    if process.stdout is not None:
        process.stdout.close()


def descendants(root: int) -> list[int]:
    """Return the processes below one."""
    children: dict[int, list[int]] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                parent = (entry / "stat").read_text().rpartition(")")[2].split()[1]
            except OSError:
                continue  # it has ended meanwhile
            children.setdefault(int(parent), []).append(int(entry.name))
    found = [root]
    for process in found:
        found.extend(children.get(process, ()))
    return found[1:]


def _part_of(process: int) -> str:
    try:
        arguments = Path(f"/proc/{process}/cmdline").read_bytes().decode().split("\0")
    except OSError:
        return "ended"
    program = Path(arguments[0].partition(":")[0]).name
    if program == "nats-server":
        return f"nats-server, {Path(arguments[2]).stem}"
    return "PostgreSQL" if program == "postgres" else "workers"

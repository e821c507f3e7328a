"""`serve` and `worker`: the processes of a node, and what a newcomer is told."""

import asyncio
import os
import shutil
import sys
from pathlib import Path

from doorward.config import Configuration
from doorward.log import begin_logging
from doorward.serve import Ready, run_node


def serve(configuration: Configuration, config_file: Path | None) -> int:
    """Run a node until Ctrl-C or SIGTERM."""
    begin_logging(configuration.node.log_level)
    command = ["-m", "doorward", "worker", "--data", str(configuration.node.data)]
    if config_file is not None:
        command += ["--config", str(config_file)]
    asyncio.run(run_node(configuration, command, lambda ready: _welcome(configuration, ready)))
    return 0


def work(configuration: Configuration) -> int:
    """Run a worker until SIGTERM."""
    from doorward.worker import run_worker  # noqa: PLC0415 - the supervisor needs none of what a worker is made of

    begin_logging(configuration.node.log_level)
    run_worker(configuration)
    return 0


def _as_called() -> str:
    """Return how `doorward` is called from here: by its name if the shell finds it, else by its path."""
    return "doorward" if shutil.which("doorward") else os.path.relpath(sys.argv[0])


def _welcome(configuration: Configuration, ready: Ready) -> None:
    node, nats = configuration.node, configuration.nats
    data = "" if node.data == Path("var") else f" --data {node.data}"
    lines = [
        "",
        f"Doorward is ready after {ready.seconds:.1f} s. Ctrl-C stops it.",
        "",
        f"  API            {configuration.public_url}   (reference: {configuration.public_url}/docs)",
        f"  EST            https://{configuration.est.host}:{configuration.est.port}/.well-known/est",
    ]
    published = configuration.publication
    if published.enabled:
        lines.append(f"  Publication    http://{published.host}:{published.port}: /crl, /ca, /ocsp")
    if configuration.embeds_nats:
        lines += [
            f"  NATS           tls://{nats.host}:{nats.port}, WebSocket wss://{nats.host}:{nats.websocket_port}",
            (
                f"  MQTT           {nats.host}:{nats.mqtt_certificate_port} with a device certificate,"
                f" {nats.host}:{nats.mqtt_password_port} with a token as password"
            ),
        ]
    lines += [
        f"  Root CA        {ready.root}",
        f"                 SHA-256 {ready.root_fingerprint}",
        "",
        f"  A token        {_as_called()} admin token{data}",
    ]
    if configuration.embeds_nats:
        lines.append("  What next      make demo, in a second terminal, shows the whole journey")
    lines.append("")
    sys.stdout.write("\n".join(lines) + "\n")
    sys.stdout.flush()

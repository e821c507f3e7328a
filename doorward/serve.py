"""`doorward serve`: the supervisor of a node, from the services it embeds to the workers, top to bottom."""

import asyncio
import os
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from callout.nkeys import SealingKey, SigningKey
from doorward.addresses import addresses_file, gather_addresses, write_addresses
from doorward.clock import utc_now
from doorward.config import Configuration
from doorward.embedded.nats import EmbeddedNats
from doorward.embedded.nats_config import NatsListen
from doorward.embedded.postgres import EmbeddedPostgres
from doorward.keys import callout_keys, random_bytes
from doorward.master_key import master_key
from doorward.ports import check_ports
from doorward.preparation import Preparation, device_anchors_file, root_file, server_certificate_files
from doorward.supervisor import Supervised, Supervisor, Worker, data_folder_lock

_READY_SECONDS = 120.0


@dataclass(frozen=True)
class Ready:
    """What is told when a node is ready."""

    root: Path
    root_fingerprint: str
    seconds: float


class _Announcement:
    """Writes the addresses of what runs, for workers and the command line."""

    name = "addresses"

    def __init__(self, write: Callable[[], None]) -> None:
        self._write = write

    async def start(self) -> None:
        self._write()

    async def ended(self) -> str:
        await asyncio.Event().wait()
        return ""

    async def stop(self) -> None:
        """Leave the file: a later start overwrites it."""

    def hurry(self) -> None:
        """Nothing takes long here."""


async def run_node(configuration: Configuration, worker_command: list[str], on_ready: Callable[[Ready], None]) -> None:
    """Run a node until SIGTERM or SIGINT.

    Args:
        worker_command: What to run for each worker, after the interpreter.

    Raises:
        EmbeddedError: A service did not start, or the data folder is in use.
        Refused: The configuration or a key stands in the way.
    """
    began = time.monotonic()
    os.umask(0o077)  # what a node writes is its owner's, except what it opens on purpose
    data = configuration.node.data
    with data_folder_lock(data):
        check_ports(configuration)
        addresses_file(configuration).unlink(missing_ok=True)  # workers wait for those of this start
        master = master_key(configuration, random_bytes)
        keys = callout_keys(configuration, master, random_bytes)
        services: list[Supervised] = []

        postgres = None
        if configuration.embeds_database:
            connections = configuration.database.pool_size * configuration.node.workers + 20
            postgres = EmbeddedPostgres(data, max_connections=connections)
            services.append(postgres)

        def database_urls() -> tuple[str, str]:
            if postgres is not None and postgres.addresses is not None:
                return postgres.addresses.node_dsn, postgres.addresses.owner_dsn
            return configuration.database.url or "", configuration.database.owner_url or ""

        preparation = Preparation(configuration, database_urls, master, utc_now, random_bytes)
        services.append(preparation)

        nats = None
        if configuration.embeds_nats:
            certificate, key = server_certificate_files(data)
            listen = configuration.nats
            nats = EmbeddedNats(
                data,
                NatsListen(
                    host=listen.host,
                    nats=listen.port,
                    mqtt_certificate=listen.mqtt_certificate_port,
                    mqtt_password=listen.mqtt_password_port,
                    websocket=listen.websocket_port,
                    leafnode=listen.leafnode_port,
                    edge=listen.edge_port,
                ),
                server_certificate=certificate,
                server_key=key,
                client_anchors=device_anchors_file(data),
                callout_issuer=SigningKey.from_seed(keys.issuer_seed).public,
                callout_xkey=SealingKey.from_seed(keys.xkey_seed).public,
            )
            preparation.after_renewal(nats.reload)
            services.append(nats)

        def announce() -> None:
            found = gather_addresses(
                configuration, postgres.addresses if postgres else None, nats.addresses if nats else None
            )
            write_addresses(configuration, found)

        services.append(_Announcement(announce))
        workers = [
            Worker(f"worker {number}", [sys.executable, *worker_command], ready_seconds=_READY_SECONDS)
            for number in range(1, configuration.node.workers + 1)
        ]

        async def ready() -> None:
            on_ready(Ready(root_file(data), preparation.root_fingerprint, time.monotonic() - began))

        await Supervisor(services, workers, on_ready=ready).run()

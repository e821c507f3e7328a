"""Where a node's database and brokers are, and as whom one connects: from the configuration, or from what it embeds.

What is embedded is known only once it runs; the supervisor then writes `<data>/run/addresses.json`, for its owner
alone, and workers and the command line read it.
"""

import json
import ssl
from dataclasses import asdict, dataclass
from pathlib import Path

from doorward.bus import NatsAccount
from doorward.config import Configuration
from doorward.embedded.nats import NatsAddresses
from doorward.embedded.postgres import PostgresAddresses
from doorward.embedded.process import write_private
from doorward.keys import read_secret
from iam.errors import Kind, Refused


@dataclass(frozen=True)
class Addresses:
    """All that a worker connects to."""

    database: str
    database_owner: str
    nats: tuple[str, ...]
    callout_user: str
    callout_password: str
    system_user: str
    system_password: str
    bus_user: str
    bus_password: str

    def __repr__(self) -> str:
        return f"Addresses(nats={self.nats})"


def addresses_file(configuration: Configuration) -> Path:
    """Return where the addresses of embedded parts are written."""
    return configuration.node.data / "run" / "addresses.json"


def gather_addresses(
    configuration: Configuration, postgres: PostgresAddresses | None, nats: NatsAddresses | None
) -> Addresses:
    """Return the addresses of a node whose embedded parts run."""
    database, broker = configuration.database, configuration.nats
    return Addresses(
        database=postgres.node_dsn if postgres else database.url or "",
        database_owner=postgres.owner_dsn if postgres else database.owner_url or "",
        nats=(nats.hub_url,) if nats else broker.servers,
        callout_user=nats.callout.name if nats else broker.callout_user,
        callout_password=nats.callout.password if nats else _secret(broker.callout_password_file),
        system_user=nats.system.name if nats else broker.system_user,
        system_password=nats.system.password if nats else _secret(broker.system_password_file),
        bus_user=nats.bus.name if nats else broker.bus_user,
        bus_password=nats.bus.password if nats else _secret(broker.bus_password_file),
    )


def write_addresses(configuration: Configuration, addresses: Addresses) -> None:
    """Write the addresses for the workers and the command line of this node."""
    path = addresses_file(configuration)
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    write_private(path, json.dumps(asdict(addresses)))


def read_addresses(configuration: Configuration) -> Addresses:
    """Return the addresses of this node.

    Raises:
        Refused: (unavailable) They are those of embedded parts, which were never started.
    """
    if not configuration.embeds_database and not configuration.embeds_nats:
        return gather_addresses(configuration, None, None)
    path = addresses_file(configuration)
    try:
        raw = json.loads(path.read_bytes())
    except (OSError, ValueError) as error:
        raise Refused(
            Kind.UNAVAILABLE,
            f"There is no running node in {configuration.node.data}: start `doorward serve` there, or name another"
            " folder with --data.",
        ) from error
    return Addresses(**{**raw, "nats": tuple(raw["nats"])})


def nats_trust(configuration: Configuration) -> ssl.SSLContext | None:
    """Return how the certificates of the nats-servers are checked: by our own root, or by the configured one."""
    anchors = configuration.nats.ca_file
    if configuration.embeds_nats:
        anchors = configuration.node.data / "ca" / "root.pem"
    if anchors is None:
        return (
            None
            if all(server.startswith("nats://") for server in configuration.nats.servers)
            else ssl.create_default_context()
        )
    return ssl.create_default_context(cafile=str(anchors))


def account(addresses: Addresses, user: str, password: str, tls: ssl.SSLContext | None) -> NatsAccount:
    """Return who one is on the nats-servers."""
    return NatsAccount(addresses.nats, user, password, tls)


def _secret(path: Path | None) -> str:
    if path is None:
        raise Refused(Kind.INVALID, "A password file for NATS is missing.")
    return read_secret(path)

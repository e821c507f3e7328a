"""Whether our listeners' addresses are free, asked before anything is started, so that the answer is one sentence."""

import errno
import socket

from doorward.config import Configuration
from iam.errors import Kind, Refused


def check_ports(configuration: Configuration) -> None:
    """Raise `Refused` (conflict) if somebody listens where a listener of this node shall be, naming the key."""
    api, est, nats = configuration.api, configuration.est, configuration.nats
    wanted = [("api.port", api.host, api.port), ("est.port", est.host, est.port)]
    publication = configuration.publication
    if publication.enabled:
        wanted.append(("publication.port", publication.host, publication.port))
    if configuration.embeds_nats:
        wanted += [
            ("nats.port", nats.host, nats.port),
            ("nats.mqtt_certificate_port", nats.host, nats.mqtt_certificate_port),
            ("nats.mqtt_password_port", nats.host, nats.mqtt_password_port),
            ("nats.websocket_port", nats.host, nats.websocket_port),
            ("nats.edge_port", "127.0.0.1", nats.edge_port),
            ("nats.leafnode_port", "127.0.0.1", nats.leafnode_port),
        ]
    for key, host, port in wanted:
        _check(key, host, port)


def _check(key: str, host: str, port: int) -> None:
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        with socket.socket(family, kind, protocol) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(address)
    except OSError as error:
        if error.errno != errno.EADDRINUSE:
            raise Refused(Kind.CONFLICT, f"Nothing can listen on {host}:{port} ({key}): {error}.") from error
        raise Refused(
            Kind.CONFLICT, f"{host}:{port} ({key}) is in use: stop what listens there, or choose another port."
        ) from error

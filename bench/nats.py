"""A nats-server of the benchmark's own, and static users beside those whom the callout lets in.

It has the accounts and the callout of the embedded hub, and no leafnode; TLS is for whoever asks for it. It runs in a
temporary folder, is ended by its process number, and its folder is removed, also when the benchmark fails.
"""

import secrets
import socket
import ssl
import subprocess
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from bench.node import LOOPBACK, end, end_cleanly, free_ports
from bench.tls import make_certificates
from callout.nkeys import Prefix, SealingKey, SigningKey, encode_seed
from callout.permissions import BROKERS_OWN
from doorward.embedded.nats import ENVIRONMENT, locate_program
from doorward.embedded.nats_config import (
    Callout,
    NatsUser,
    StaticUsers,
    credentials,
    everywhere,
    shared_accounts,
    to_text,
)
from doorward.keys import random_bytes

_USERS = ("callout", "bus", "system", "leaf-application", "leaf-system", "leaf-authorization")
_DEVICES_EACH = 4


@dataclass
class Nats:
    """A nats-server with the hub's accounts, its callout, and static users of the same account as the gateways."""

    folder: Path
    static_users: int

    def __post_init__(self) -> None:
        """Choose ports, keys and passwords."""
        self.port = free_ports(1)[0]
        self.issuer = encode_seed(Prefix.ACCOUNT, random_bytes(32))
        self.xkey = encode_seed(Prefix.CURVE, random_bytes(32))
        self.users = StaticUsers(*(NatsUser(name, secrets.token_urlsafe()) for name in _USERS))
        self.static = [NatsUser(f"static-{number}", secrets.token_urlsafe()) for number in range(self.static_users)]

    def configuration(self) -> str:
        """Return what it is told."""
        ours = (self.users.callout, self.users.bus, self.users.system)
        application = [credentials(user) | {"permissions": _permissions(user.name)} for user in self.static]
        return to_text(
            {
                "server_name": "bench",
                "host": LOOPBACK,
                "port": self.port,
                "tls": {"cert_file": str(self.folder / "server.pem"), "key_file": str(self.folder / "server.pem")},
                "allow_non_tls": True,
                "jetstream": {"store_dir": str(self.folder / "jetstream"), "sync_interval": "always"},
                "accounts": {
                    **shared_accounts(self.users),
                    "APP": {"jetstream": "enabled", "users": application},
                    "DOORWARD": {"jetstream": "enabled", "users": [credentials(self.users.bus)]},
                },
                **everywhere(
                    Callout(SigningKey.from_seed(self.issuer).public, SealingKey.from_seed(self.xkey).public),
                    self.folder / "nats.log",
                    (*ours, *self.static),
                ),
            }
        )

    def tls(self) -> ssl.SSLContext:
        """Return what a client needs to shake hands."""
        return ssl.create_default_context(cafile=str(self.folder / "root.pem"))

    def settings(self) -> Mapping[str, object]:
        """Return what a node is told about it."""
        secret = {
            "callout_password": self.users.callout.password,
            "system_password": self.users.system.password,
            "bus_password": self.users.bus.password,
            "issuer_seed": self.issuer,
            "xkey_seed": self.xkey,
        }
        for name, value in secret.items():
            (self.folder / name).write_text(value, encoding="ascii")
        named = {f"{name}_file": str(self.folder / name) for name in secret}
        return {"servers": [f"nats://{LOOPBACK}:{self.port}"], **named}


def _permissions(name: str) -> dict[str, object]:
    """Return permissions of the size that a gateway with four devices has."""
    devices = [f"bench.devices.{name}-{which}" for which in range(_DEVICES_EACH)]
    return {
        "publish": {"allow": [*(f"{each}.commands.>" for each in devices), "_INBOX.>"], "deny": list(BROKERS_OWN)},
        "subscribe": {"allow": [*(f"{each}.>" for each in devices), f"_INBOX.{name}.>"], "deny": list(BROKERS_OWN)},
    }


@contextmanager
def running_nats(static_users: int) -> Iterator[tuple[Nats, int]]:
    """Run it in a temporary folder; gives it and its process number."""
    end_cleanly()
    with tempfile.TemporaryDirectory(prefix="doorward-bench-nats-") as name:
        nats = Nats(Path(name), static_users)
        make_certificates(nats.folder)
        file = nats.folder / "nats.conf"
        file.write_text(nats.configuration(), encoding="utf-8")
        process = subprocess.Popen([str(locate_program()), "-c", str(file)], text=True, env=ENVIRONMENT)
        try:
            _wait_for(nats.port)
            yield nats, process.pid
        finally:
            end(process)


def _wait_for(port: int) -> None:
    for _ in range(500):
        try:
            socket.create_connection((LOOPBACK, port)).close()
        except OSError:
            time.sleep(0.02)
        else:
            return
    raise SystemExit("nats-server did not start")

"""What the two embedded nats-servers are told: pure functions from values to configuration text.

A nats-server has one MQTT listener, which either requires client certificates or never asks for one. So
there are two servers: the `hub` holds JetStream and serves those who prove themselves by password or token;
the `edge` serves X.509 devices and is a leafnode of the hub, by which both share one APP account, its
streams and its MQTT sessions.

Rules enforced here:

1. Who is not a static user is judged by the callout, on both servers, by the same issuer; it may put a
   user only in APP.
2. The static users each have a random password and do one thing: `callout` in AUTH answers authorization
   requests, `bus` in DOORWARD carries our own events, `system` in SYS watches and cuts connections, and three
   bind the edge's leafnode to APP, SYS and AUTH.
3. AUTH is joined too: so a callout handler is a client of the hub alone and answers the edge's requests as well.
4. The leafnode port and the edge's plain client port (a nats-server always has one) are on loopback.
5. TLS 1.2 and 1.3 only; every listener that may be reached from elsewhere has TLS.
6. A message is on the disk before it is acknowledged: `sync_interval: always`. Without it an acknowledged message
   still survives the server's `kill -9`, and not a power cut; 1,300 a second from one publisher against 4,000.
7. Logs are bounded: a stranger's failed handshakes cannot fill the disk.
8. APP and DOORWARD have a budget of JetStream each, which together do not exceed the server's: a client's sleeping
   sessions can fill APP's and never ours.
9. Text is made from nested values by `to_text`, which quotes every string: no value can end its string.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

LOOPBACK = "127.0.0.1"
ACCOUNT_NKEY = re.compile(r"A[A-Z2-7]{55}")
CURVE_NKEY = re.compile(r"X[A-Z2-7]{55}")

# A CONNECT line holds a token of up to 3 KB as its password, and what the client says of itself.
MAX_CONTROL_LINE = 16 * 1024
CALLOUT_SECONDS = 2
TLS_SECONDS = 5
JETSTREAM_DOMAIN = "hub"
JOINED_ACCOUNTS = frozenset({"APP", "SYS", "AUTH"})
LOG_BYTES = 16 * 1024 * 1024

MEBIBYTE = 1024 * 1024
STORE = {"max_memory_store": 64 * MEBIBYTE, "max_file_store": 10 * 1024 * MEBIBYTE}
APP_BUDGET = {"max_mem": 48 * MEBIBYTE, "max_file": 8 * 1024 * MEBIBYTE}
DOORWARD_BUDGET = {"max_mem": 16 * MEBIBYTE, "max_file": 2 * 1024 * MEBIBYTE}


@dataclass(frozen=True)
class NatsListen:
    """Where the two servers listen; port 0 of the last two means a free one, chosen at each start."""

    host: str = LOOPBACK
    nats: int = 4222
    mqtt_certificate: int = 8883
    mqtt_password: int = 8884
    websocket: int = 9222
    leafnode: int = 0
    edge: int = 0


@dataclass(frozen=True)
class NatsUser:
    """A static user."""

    name: str
    password: str = field(repr=False)


@dataclass(frozen=True)
class StaticUsers:
    """The users that do not go through the callout (rule 2)."""

    callout: NatsUser
    bus: NatsUser
    system: NatsUser
    leaf_application: NatsUser
    leaf_system: NatsUser
    leaf_authorization: NatsUser


@dataclass(frozen=True)
class ServerTls:
    """The certificate (chain, PEM) and key that the servers show."""

    certificate: Path
    key: Path


@dataclass(frozen=True)
class Callout:
    """Who answers authorization requests: the account nkey that signs, the curve nkey that requests are sealed to."""

    issuer: str
    xkey: str | None = None

    def __post_init__(self) -> None:
        """Refuse what is not a public nkey of its kind."""
        if not ACCOUNT_NKEY.fullmatch(self.issuer):
            raise ValueError("the callout issuer is not a public account nkey (A...)")
        if self.xkey is not None and not CURVE_NKEY.fullmatch(self.xkey):
            raise ValueError("the callout xkey is not a public curve nkey (X...)")


@dataclass(frozen=True)
class Shared:
    """What both servers have in common."""

    listen: NatsListen
    tls: ServerTls
    callout: Callout
    users: StaticUsers


def render_hub(shared: Shared, *, storage: Path, log: Path, sync_interval: str = "always") -> str:
    """Give the hub's configuration: NATS, MQTT by password and WebSocket, JetStream under `storage`."""
    listen, tls, users = shared.listen, shared.tls, shared.users
    return to_text(
        {
            "server_name": "hub",
            "host": listen.host,
            "port": listen.nats,
            "tls": shown(tls),
            "mqtt": {"host": listen.host, "port": listen.mqtt_password, "tls": shown(tls)},
            "websocket": {"host": listen.host, "port": listen.websocket, "tls": shown(tls), "compression": False},
            "leafnodes": {
                "host": LOOPBACK,
                "port": listen.leafnode,
                "authorization": {
                    "users": [
                        credentials(users.leaf_application) | {"account": "APP"},
                        credentials(users.leaf_system) | {"account": "SYS"},
                        credentials(users.leaf_authorization) | {"account": "AUTH"},
                    ]
                },
            },
            "jetstream": {
                "store_dir": str(storage),
                "domain": JETSTREAM_DOMAIN,
                **STORE,
                "sync_interval": sync_interval,
            },
            "accounts": {
                **shared_accounts(users),
                "APP": {"jetstream": APP_BUDGET},
                "DOORWARD": {"jetstream": DOORWARD_BUDGET, "users": [credentials(users.bus)]},
            },
            **everywhere(shared.callout, log, (users.callout, users.system, users.bus)),
        }
    )


def render_edge(shared: Shared, *, client_anchors: Path, log: Path) -> str:
    """Give the edge's configuration: MQTT by client certificate, and the leafnode that joins it to the hub."""
    listen, tls, users = shared.listen, shared.tls, shared.users

    def remote(user: NatsUser, account: str) -> dict[str, object]:
        return {"url": f"nats-leaf://{user.name}:{user.password}@{LOOPBACK}:{listen.leafnode}", "account": account}

    return to_text(
        {
            "server_name": "edge",
            "host": LOOPBACK,
            "port": listen.edge,
            "mqtt": {
                "host": listen.host,
                "port": listen.mqtt_certificate,
                "js_domain": JETSTREAM_DOMAIN,
                "tls": shown(tls) | {"ca_file": str(client_anchors), "verify": True},
            },
            "leafnodes": {
                "reconnect": "1s",
                "remotes": [
                    remote(users.leaf_application, "APP"),
                    remote(users.leaf_system, "SYS"),
                    remote(users.leaf_authorization, "AUTH"),
                ],
            },
            "accounts": {**shared_accounts(users), "APP": {}},
            **everywhere(shared.callout, log, (users.callout, users.system)),
        }
    )


def shared_accounts(users: StaticUsers) -> dict[str, object]:
    """Give the accounts that both servers have with the same users; AUTH's may answer requests and nothing else."""
    answering = {
        "subscribe": {"allow": ["$SYS.REQ.USER.AUTH", "_INBOX.>"]},
        "publish": {"allow": ["$SYS._INBOX.>", "_INBOX.>"]},
    }
    return {
        "SYS": {"users": [credentials(users.system)]},
        "AUTH": {"users": [credentials(users.callout) | {"permissions": answering}]},
    }


def everywhere(callout: Callout, log: Path, static: Sequence[NatsUser]) -> dict[str, object]:
    """Give what both servers are told alike; the `static` users do not go through the callout."""
    sealed = {"xkey": callout.xkey} if callout.xkey else {}
    return {
        "system_account": "SYS",
        "max_control_line": MAX_CONTROL_LINE,
        "logtime_utc": True,
        "log_file": str(log),
        "logfile_size_limit": LOG_BYTES,
        "logfile_max_num": 2,
        "authorization": {
            "timeout": CALLOUT_SECONDS,
            "auth_callout": {
                "issuer": callout.issuer,
                "account": "AUTH",
                "auth_users": [user.name for user in static],
                "allowed_accounts": ["APP"],
                **sealed,
            },
        },
    }


def shown(tls: ServerTls) -> dict[str, object]:
    """Give a listener's `tls` block."""
    return {
        "cert_file": str(tls.certificate),
        "key_file": str(tls.key),
        "min_version": "1.2",
        "timeout": TLS_SECONDS,
    }


def credentials(user: NatsUser) -> dict[str, object]:
    """Give a user's name and password as an entry of a `users` list."""
    return {"user": user.name, "password": user.password}


def to_text(values: Mapping[str, object]) -> str:
    """Write a configuration: keys are ours, strings are quoted, lists and maps nest."""
    return "\n".join(f"{key}: {_value(value, 0)}" for key, value in values.items()) + "\n"


def _value(value: object, depth: int) -> str:
    inner, outer = "  " * (depth + 1), "  " * depth
    match value:
        case bool():
            return "true" if value else "false"
        case int():
            return str(value)
        case str():
            return quoted(value)
        case Mapping():
            lines = [f"{inner}{key}: {_value(each, depth + 1)}\n" for key, each in value.items()]
        case list():
            lines = [f"{inner}{_value(each, depth + 1)}\n" for each in value]
            return f"[\n{''.join(lines)}{outer}]"
        case _:
            raise TypeError(f"no configuration value: {value!r}")
    return f"{{\n{''.join(lines)}{outer}}}"


def quoted(text: str) -> str:
    """Quote a string as the configuration grammar does: backslash and quote escaped, control characters refused."""
    if not text.isprintable():
        raise ValueError(f"no configuration string may hold a control character: {text!r}")
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'

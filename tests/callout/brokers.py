"""Real nats-servers, real MQTT clients, and people and devices who connect to them."""

import asyncio
import socket
import ssl
import subprocess
import time
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from queue import Empty, Queue
from threading import Event as Flag
from typing import Any, Self
from uuid import UUID, uuid4

import paho.mqtt.client as mqtt
from cryptography import x509
from paho.mqtt.enums import CallbackAPIVersion

from callout.broker.servers import Endpoint
from callout.nkeys import Prefix, encode_seed
from iam.access import Access, Authenticated, Denied, Grant, Proof, ProofKind
from iam.errors import unauthenticated
from iam.events import Affected, Effect, Event, affects
from iam.identifiers import identity_id
from iam.model import (
    NONE,
    SYSTEM_TENANT,
    Extent,
    Identity,
    IdentityStatus,
    IdentityType,
    Role,
    Scope,
    Tenant,
    TenantStatus,
    TopicAction,
    TopicRule,
)
from iam.model import Effect as RuleEffect

ISSUER_SEED = encode_seed(Prefix.ACCOUNT, bytes(range(32)))
XKEY_SEED = encode_seed(Prefix.CURVE, bytes(range(1, 33)))
START = datetime(2026, 1, 1, tzinfo=UTC)
LONG = timedelta(hours=1)

Devices = Sequence[str] | Extent


def now() -> datetime:
    return datetime.now(UTC)


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port: int = listener.getsockname()[1]
        return port


def allow(action: str, topic: str) -> TopicRule:
    return TopicRule(RuleEffect.ALLOW, TopicAction(action), topic)


def deny(action: str, topic: str) -> TopicRule:
    return TopicRule(RuleEffect.DENY, TopicAction(action), topic)


def tenant(name: str) -> Tenant:
    own = uuid4()
    root = name == SYSTEM_TENANT
    return Tenant(own, name, None if root else uuid4(), (own,), TenantStatus.ACTIVE, Scope(), START)


def grant(where: Tenant, rules: Sequence[TopicRule], devices: Devices = ()) -> Grant:
    role = Role(uuid4(), where.id, "role", (), tuple(rules), Scope(), START)
    return Grant(role, devices if isinstance(devices, Extent) else Extent(names=frozenset(devices)), NONE)


def identity(where: Tenant, *, name: str = "someone", device: str | None = None) -> Identity:
    kind = IdentityType.DEVICE if device else IdentityType.GATEWAY
    return Identity(
        identity_id(START, lambda count: uuid4().bytes[-count:].rjust(count, b"\0")),
        kind,
        where.id,
        name,
        IdentityStatus.ACTIVE,
        Scope(),
        device,
        START,
    )


def access(
    rules: Sequence[TopicRule] = (),
    devices: Devices = (),
    *,
    where: Tenant | None = None,
    name: str = "someone",
    device: str | None = None,
) -> Access:
    where = where or tenant("acme")
    return Access(where, identity(where, name=name, device=device), (grant(where, rules, devices),))


@dataclass
class People:
    """Who there is, what each may do, and what each proves himself by: the callout's two provers."""

    accesses: dict[str, Access | Denied] = field(default_factory=dict)
    tokens: dict[str, tuple[str, timedelta]] = field(default_factory=dict)
    sessions: dict[str, UUID] = field(default_factory=dict)
    certificates: dict[str, bytes] = field(default_factory=dict)
    ended: set[Proof] = field(default_factory=set)
    asked: int = 0
    enough: asyncio.Semaphore = field(default_factory=lambda: asyncio.Semaphore(0))
    delay: float = 0
    after_reading: asyncio.Event | None = None
    remembers: bool = False

    def add(self, who: Access, *, valid: timedelta = LONG) -> str:
        """Take in an identity; return its token."""
        self.accesses[who.identity.id] = who
        token = f"token-{uuid4()}"
        self.tokens[token] = (who.identity.id, valid)
        self.sessions[token] = uuid4()
        return token

    def end(self, shown: str) -> None:
        """From now on what was proved by a token or by a device's certificate holds no more; proving goes on."""
        if shown in self.sessions:
            self.ended.add(Proof(ProofKind.SESSION, self.sessions[shown].bytes))
        else:
            self.ended.add(Proof(ProofKind.CERTIFICATE, self.certificates[shown]))

    async def ended_proofs(self, proofs: Collection[Proof]) -> frozenset[Proof]:
        return frozenset(self.ended & set(proofs))

    def change(self, who: Access, rules: Sequence[TopicRule], devices: Devices = ()) -> Access:
        changed = replace(who, grants=(grant(who.tenant, rules, devices),))
        self.accesses[who.identity.id] = changed
        return changed

    async def asked_by(self, count: int) -> None:
        """Wait until that many tokens were shown."""
        for _ in range(count):
            await self.enough.acquire()

    async def prove_token(self, token: str) -> Authenticated:
        self.asked += 1
        self.enough.release()
        if token not in self.tokens:
            raise unauthenticated("no such token")
        who, valid = self.tokens[token]
        found = await self._read(who)
        return Authenticated(found, now() + valid, self.sessions[token], ("token",))

    async def prove_certificate(self, chain: Sequence[bytes]) -> Authenticated:
        leaf = x509.load_der_x509_certificate(chain[0])
        name = str(leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName).value[0].value)
        for who, each in self.accesses.items():
            if isinstance(each, Access) and each.identity.device == name:
                serial = self.certificates[name] = leaf.serial_number.to_bytes(20)
                return Authenticated(await self._read(who), leaf.not_valid_after_utc, None, ("x509",), serial)
        raise unauthenticated(f"no device {name}")

    async def access(self, who: str) -> Access | Denied:
        return self.accesses.get(who, Denied("nobody"))

    def known_access(self, who: str) -> Access | Denied | None:
        return self.accesses.get(who) if self.remembers else None

    async def _read(self, who: str) -> Access:
        found = self.accesses[who]
        if self.after_reading is not None:
            await self.after_reading.wait()
        if self.delay:
            await asyncio.sleep(self.delay)
        if isinstance(found, Denied):
            raise unauthenticated(found.reason)
        return found


def changed(kind: str, *effects: tuple[Affected, str]) -> Event:
    data = affects(*(Effect(affected, subject) for affected, subject in effects))
    return Event(uuid4(), UUID(int=0), START, "test", kind, "test", data)


def identity_changed(who: Access, kind: str = "pairing.removed") -> Event:
    return changed(kind, (Affected.IDENTITY, who.identity.id))


@dataclass
class Server:
    """A nats-server."""

    nats: int
    mqtt: int
    websocket: int
    process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return f"nats://127.0.0.1:{self.nats}"

    def endpoint(self, user: str) -> Endpoint:
        return Endpoint(self.url, user, f"{user}-password")


@dataclass(frozen=True)
class Anchors:
    """The certificates of the edge."""

    authority: Path
    certificate: Path
    key: Path


SETTINGS = """
server_name: {name}
listen: "127.0.0.1:{nats}"
max_control_line: {control_line}
system_account: SYS
accounts {{
  SYS {{ users: [ {{ user: sys, password: sys-password }} ] }}
  AUTH {{ users: [ {{ user: callout, password: callout-password, permissions {{
    subscribe: ["$SYS.REQ.USER.AUTH", "_INBOX.>"], publish: ["$SYS._INBOX.>", "_INBOX.>"] }} }} ] }}
  APP {{ {streams} users: [ {{ user: static, password: static-password }} ] }}
}}
authorization {{
  timeout: 2
  auth_callout {{ issuer: {issuer}, xkey: {xkey}, account: AUTH, allowed_accounts: [APP],
    auth_users: [callout, sys] }}
}}
{more}
"""

HUB = """
jetstream {{ store_dir: "{storage}", domain: hub }}
mqtt {{ listen: "127.0.0.1:{mqtt}" }}
websocket {{ listen: "127.0.0.1:{websocket}", no_tls: true }}
leafnodes {{ listen: "127.0.0.1:{leaf}", authorization {{ users: [
  {{ user: leaf-app, password: leaf, account: APP }}, {{ user: leaf-sys, password: leaf, account: SYS }} ] }} }}
"""

EDGE = """
mqtt {{ listen: "127.0.0.1:{mqtt}", js_domain: hub,
  tls {{ cert_file: "{certificate}", key_file: "{key}", ca_file: "{authority}", verify: true }} }}
leafnodes {{ reconnect: "1s", remotes: [
  {{ url: "nats-leaf://leaf-app:leaf@127.0.0.1:{leaf}", account: APP }},
  {{ url: "nats-leaf://leaf-sys:leaf@127.0.0.1:{leaf}", account: SYS }} ] }}
"""


def start_server(
    program: Path,
    folder: Path,
    settings: Mapping[str, object],
    template: str,
    *,
    control_line: int = 16384,
) -> subprocess.Popen[bytes]:
    name = str(settings["name"])
    more = template.format(**settings)
    streams = "jetstream: enabled," if template is HUB else ""
    text = SETTINGS.format(**settings, more=more, streams=streams, control_line=control_line)
    (folder / f"{name}.conf").write_text(text)
    process = subprocess.Popen([program, "-c", folder / f"{name}.conf", "-l", folder / f"{name}.log"])
    deadline = time.monotonic() + 10
    for port in (settings["nats"], settings["mqtt"]):
        while True:
            try:
                socket.create_connection(("127.0.0.1", int(str(port))), 1).close()
                break
            except OSError:
                assert process.poll() is None, (folder / f"{name}.log").read_text()
                assert time.monotonic() < deadline, (folder / f"{name}.log").read_text()
                time.sleep(0.02)
    return process


@dataclass(frozen=True)
class Received:
    """A message that an MQTT client got."""

    topic: str
    payload: bytes
    retained: bool


class Mqtt:
    """A paho client, driven from asyncio."""

    def __init__(self, port: int, client: str, secret: str | None = None, **options: Any) -> None:
        self.port = port
        self.messages: Queue[Received] = Queue()
        self.answers: Queue[int] = Queue()
        self.subscribed: Queue[list[int]] = Queue()
        self.gone = Flag()
        self.paho = mqtt.Client(
            CallbackAPIVersion.VERSION2,
            client_id=client,
            clean_session=options.get("clean", True),
            transport=options.get("transport", "tcp"),
            protocol=mqtt.MQTTv311,
            reconnect_on_failure=options.get("reconnect", False),
        )
        if self.paho.transport == "websockets":
            self.paho.ws_set_options(path="/mqtt")
        if secret is not None:
            self.paho.username_pw_set(options.get("user", "anybody"), secret)
        if (tls := options.get("tls")) is not None:
            self.paho.tls_set_context(tls)
        self.paho.reconnect_delay_set(0.01, 1)  # type: ignore[arg-type]  # the library waits any number of seconds
        self.paho.on_connect = lambda _c, _u, _f, reason, _p: self.answers.put(reason.value)
        self.paho.on_disconnect = lambda *_: self.gone.set()
        self.paho.on_message = lambda _c, _u, message: self.messages.put(
            Received(message.topic, bytes(message.payload), message.retain)
        )
        self.paho.on_subscribe = lambda _c, _u, _m, reasons, _p: self.subscribed.put([each.value for each in reasons])

    async def connect(self) -> int | None:
        """Return the CONNACK's code, or nothing where the server closed without one."""
        try:
            await asyncio.to_thread(self.paho.connect, "127.0.0.1", self.port, 30)
        except (OSError, mqtt.WebsocketConnectionError):
            return None
        self.paho.loop_start()
        for _ in range(300):
            try:
                return self.answers.get_nowait()
            except Empty:
                if self.gone.is_set():
                    return self.answers.get_nowait() if not self.answers.empty() else None
                await asyncio.sleep(0.01)
        raise AssertionError("no answer to CONNECT")

    async def connected(self) -> Self:
        assert (code := await self.connect()) == 0, code
        return self

    async def subscribe(self, topic: str, qos: int = 0) -> int:
        """Return what the SUBACK says: 0 to 2, or 128."""
        self.paho.subscribe(topic, qos)
        return (await asyncio.to_thread(self.subscribed.get, True, 3))[0]

    async def publish(self, topic: str, payload: bytes = b"x", qos: int = 0, *, retain: bool = False) -> bool:
        """Publish, and tell whether the handshake of the message was completed."""
        info = self.paho.publish(topic, payload, qos, retain)
        try:
            await asyncio.to_thread(info.wait_for_publish, 2)
        except RuntimeError:
            return False
        return info.is_published()

    async def received(self, within: float = 3) -> Received | None:
        try:
            return await asyncio.to_thread(self.messages.get, True, within)
        except Empty:
            return None

    async def was_cut(self, within: float = 3) -> bool:
        return await asyncio.to_thread(self.gone.wait, within)

    def close(self) -> None:
        self.paho.disconnect()
        self.paho.loop_stop()
        self.paho._reset_sockets()  # the library leaves its own pair of sockets to the garbage collector


def client_tls(authority: Path, certificate: Path | None = None) -> ssl.SSLContext:
    context = ssl.create_default_context(cafile=str(authority))
    if certificate is not None:
        context.load_cert_chain(certificate)
    return context

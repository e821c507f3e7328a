"""The journey: each step does one thing with a real client and returns what it proved, or raises `NotProved`."""

import secrets
import ssl
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding

from doorward.commands.login import ApiClient
from doorward.demo.mqtt import MqttClient, NotConnected, Place
from doorward.demo.standing import standing
from est.client import EstClient, EstFailure, Identification, PrivateKey, make_key, make_request, write_key
from iam.errors import Kind, Refused
from iam.public_keys import SigningKey

_CUT_SECONDS = 3.0
_LABELS = "/api/dmsmanager/v1/dms"

_T = TypeVar("_T")


class NotProved(Exception):
    """A step did not come out as it must."""


@dataclass(frozen=True)
class Bootstrap:
    """What a device comes out of the factory with."""

    certificate: bytes
    key: bytes


@dataclass(frozen=True)
class Node:
    """The node that the journey runs against."""

    api: str
    est: str
    mqtt_host: str
    mqtt_certificate_port: int
    mqtt_password_port: int
    root: Path
    token: str


@dataclass(frozen=True)
class Step:
    """One step: what it is called, and what it does."""

    title: str
    run: Callable[[], str]


class Journey:
    """What the steps share as they go.

    Args:
        bootstrap: Makes a bootstrap certificate with the node's factory authority.
        folder: A private folder for keys.
    """

    def __init__(self, node: Node, bootstrap: Callable[[str], Bootstrap], folder: Path) -> None:
        self._node = node
        self._bootstrap = bootstrap
        self._folder = folder
        self._admin = ApiClient(node.api, node.root, node.token)
        self._gateway_key = SigningKey(ec.generate_private_key(ec.SECP256R1()))
        self._tenant, suffix = self._free_name()
        self._suffix = suffix
        self._meter = f"meter-001{suffix}"
        self._other_meter = f"meter-002{suffix}"
        self._gateway_id = ""
        self._gateway_token = ""
        self._gateway: MqttClient | None = None
        self._device: MqttClient | None = None
        self._device_key: PrivateKey = make_key()
        self._certificate: x509.Certificate | None = None

    @property
    def steps(self) -> tuple[Step, ...]:
        """All of it, in order."""
        return (
            Step(f"Create the group {self._tenant} and its roles", self._create),
            Step("Register the gateway's P-256 key", self._register_gateway),
            Step("Challenge, signature, token", self._log_in),
            Step("Connect the gateway to MQTT by its token", self._connect_gateway),
            Step(f"Bootstrap {self._meter} and enrol it over mTLS", self._enrol),
            Step("Ask how its certificate stands, by OCSP", self._ask_standing),
            Step("Connect the device to MQTT by its certificate", self._connect_device),
            Step("The gateway may not read the device", self._cannot_read),
            Step(f"Pair {self._meter} with the gateway", self._pair),
            Step(f"It still may not read {self._other_meter}", self._cannot_read_other),
            Step("Unpair", self._unpair),
            Step(f"Enrol {self._other_meter} without a certificate, by an operator's approval", self._approve),
            Step("Find the devices of a filter", self._find_devices),
            Step("Renew the certificate with the same key", self._renew),
            Step("Renew it with a new key", self._rekey),
            Step("Revoke it", self._revoke),
        )

    def close(self) -> None:
        """Leave the brokers."""
        for client in (self._gateway, self._device):
            if client is not None:
                client.close()

    def _create(self) -> str:
        admin, group = self._admin, f"/api/v1/iam/groups/{self._tenant}"
        admin.request("POST", "/api/v1/iam/groups", {"name": self._tenant})
        read = {"action": "subscribe", "topic": "${tenant}/devices/${device}/#"}
        command = {"action": "publish", "topic": "${tenant}/devices/${device}/commands/#"}
        admin.request("POST", f"{group}/roles", {"name": "gateway", "topics": [read, command]})
        permissions = [{"resource": "devices", "actions": ["read"]}]
        admin.request("POST", f"{group}/roles", {"name": "technician", "permissions": permissions})
        for device in (self._meter, self._other_meter):
            admin.request("POST", f"/api/v1/devices?tenant={self._tenant}", {"deviceIdentifier": device})
        return "group, roles gateway and technician, two devices without identity"

    def _register_gateway(self) -> str:
        path = f"/api/v1/iam/groups/{self._tenant}/roles/gateway/users"
        invited = self._admin.request("POST", path, {"name": "gateway-1", "type": "gateway"})
        client = ApiClient(self._node.api, self._node.root)
        fields = {"type": "gateway", "name": "gateway-1", "code": invited["code"]}
        self._gateway_id = client.register(self._gateway_key, fields)["identity_id"]
        with _refused(Kind.UNAUTHENTICATED, "the invitation code worked twice"):
            client.register(SigningKey(ec.generate_private_key(ec.SECP256R1())), fields)
        return f"{self._gateway_id}, by an invitation that works once"

    def _log_in(self) -> str:
        proved = ApiClient(self._node.api, self._node.root).prove(self._gateway_key)
        self._gateway_token = proved["token"]
        return f"an ES256 token of {len(self._gateway_token)} bytes, until {proved['expires_at'][:16]}Z"

    def _connect_gateway(self) -> str:
        self._gateway = self._gateway_client().connect()
        try:
            self._gateway_client(password="wrong").connect()  # noqa: S106 - a password that must not work
        except NotConnected:
            return f"connected to {self._node.mqtt_password_port}; a wrong token is refused"
        raise NotProved("a wrong token was let in")

    def _enrol(self) -> str:
        made = self._bootstrap(self._meter)
        identification = self._identification("bootstrap", made.certificate, made.key)
        client = self._est(identification)
        self._certificate = client.enroll(make_request(self._device_key, self._meter))
        try:
            client.enroll(make_request(make_key(), self._other_meter))
        except EstFailure as failure:
            return (
                f"certificate {self._certificate.serial_number:x}; another device's name is refused ({failure.status})"
            )
        raise NotProved("a bootstrap certificate enrolled a device that it does not name")

    def _ask_standing(self) -> str:
        said = standing(_there(self._certificate), self._issuer())
        if said != "good":
            raise NotProved(f"OCSP says {said}")
        return "good, says a responder to whom the authority delegated it"

    def _connect_device(self) -> str:
        self._device = self._device_client().connect()
        return f"connected to {self._node.mqtt_certificate_port}"

    def _cannot_read(self) -> str:
        if _there(self._gateway).subscribe(self._telemetry(self._meter)):
            raise NotProved("the subscription was granted")
        return f"SUBACK 128 on {self._telemetry(self._meter)}"

    def _pair(self) -> str:
        began = time.monotonic()
        self._admin.request(
            "POST",
            f"/api/v1/iam/pair?tenant={self._tenant}",
            {"deviceIdentifier": [self._meter], "level": "user", "holder": self._gateway_id},
        )
        took = self._until_cut(self._gateway, began)
        self._gateway = self._gateway_client().connect()
        if not self._gateway.subscribe(self._telemetry(self._meter)):
            raise NotProved("the subscription was refused after pairing")
        _there(self._device).publish(self._telemetry(self._meter), b'{"kWh": 42.1}')
        if self._gateway.message() != (self._telemetry(self._meter), b'{"kWh": 42.1}'):
            raise NotProved("the device's message did not arrive")
        return f"reached the live connection in {took * 1000:.0f} ms; the device's message arrived"

    def _cannot_read_other(self) -> str:
        if _there(self._gateway).subscribe(self._telemetry(self._other_meter)):
            raise NotProved("the subscription was granted")
        return f"SUBACK 128 on {self._telemetry(self._other_meter)}"

    def _unpair(self) -> str:
        began = time.monotonic()
        path = f"/api/v1/iam/pair/{self._meter}?tenant={self._tenant}&level=user&holder={self._gateway_id}"
        self._admin.request("DELETE", path)
        took = self._until_cut(self._gateway, began)
        self._gateway = self._gateway_client().connect()
        if self._gateway.subscribe(self._telemetry(self._meter)):
            raise NotProved("the subscription was granted after unpairing")
        return f"cut after {took * 1000:.0f} ms, and refused after that"

    def _approve(self) -> str:
        label = f"by-hand{self._suffix}"
        by_hand = {"est_rfc7030_settings": {"auth_mode": "MANUAL_APPROVAL", "manual_approval": {"retry_after": 1}}}
        profile = {"id": label, "settings": {"enrollment_settings": by_hand}}
        self._admin.request("POST", f"{_LABELS}?tenant={self._tenant}", profile)
        client = EstClient(self._node.est, anchors=self._node.root.read_bytes(), label=label)
        request = make_request(make_key(), self._other_meter)
        try:
            client.enroll(request)
        except EstFailure as failure:
            told = failure.status
        else:
            raise NotProved("nobody had to approve")
        approvals = f"{_LABELS}/{label}/approvals"
        (waiting,) = self._admin.request("GET", f"{approvals}?tenant={self._tenant}")["list"]
        self._admin.request("POST", f"{approvals}/{waiting['id']}/approve?tenant={self._tenant}", {})
        certificate = client.enroll(request)
        return f"told to wait ({told}); approved; certificate {certificate.serial_number:x}"

    def _find_devices(self) -> str:
        query = f"tenant={self._tenant}&filter=status[eq]ACTIVE&sort_by=id"
        found = self._admin.request("GET", f"/api/devmanager/v1/devices?{query}")["list"]
        names = [one["id"] for one in found]
        if names != [self._meter, self._other_meter]:
            raise NotProved(f"found {', '.join(names) or 'none'}")
        return f"those that are ACTIVE: {', '.join(names)}"

    def _renew(self) -> str:
        before = self._serial()
        self._certificate = self._est(self._own()).reenroll(make_request(self._device_key, self._meter))
        return f"{before[:8]}… became {self._serial()[:8]}…, the connection lives on"

    def _rekey(self) -> str:
        own, before = self._own(), self._serial()
        self._device_key = make_key()
        self._certificate = self._est(own).reenroll(make_request(self._device_key, self._meter))
        took = self._until_cut(self._device, time.monotonic())
        try:
            self._est(own).reenroll(make_request(make_key(), self._meter))
        except EstFailure as failure:
            refused = failure.status
        else:
            raise NotProved("the superseded certificate renewed itself again")
        self._device = self._device_client().connect()
        return (
            f"{before[:8]}… became {self._serial()[:8]}…; the old key's connection was cut after {took * 1000:.0f} ms, "
            f"the old certificate is refused ({refused})"
        )

    def _revoke(self) -> str:
        began = time.monotonic()
        path = f"/api/ca/v1/certificates/{self._serial()}/status?tenant={self._tenant}"
        self._admin.request("PUT", path, {"status": "REVOKED", "revocation_reason": "KeyCompromise"})
        took = self._until_cut(self._device, began)
        try:
            self._device_client().connect()
        except NotConnected:
            pass
        else:
            raise NotProved("MQTT let the revoked certificate in")
        try:
            self._est(self._own()).reenroll(make_request(self._device_key, self._meter))
        except EstFailure as failure:
            refused = failure.status
        else:
            raise NotProved("EST renewed a revoked certificate")
        said = standing(_there(self._certificate), self._issuer())
        if said != "revoked":
            raise NotProved(f"OCSP says {said}")
        return f"MQTT cut after {took * 1000:.0f} ms and refused; EST refuses ({refused}); OCSP says revoked"

    def _free_name(self) -> tuple[str, str]:
        """Return the group's name and what to append to devices' names: nothing at the first run on this node."""
        try:
            self._admin.request("GET", "/api/v1/iam/groups/acme")
        except Refused as refusal:
            if refusal.kind is Kind.NOT_FOUND:
                return "acme", ""
            raise
        suffix = f"-{secrets.token_hex(3)}"
        return f"acme{suffix}", suffix

    def _gateway_client(self, password: str | None = None) -> MqttClient:
        trust = ssl.create_default_context(cafile=str(self._node.root))
        place = Place(self._node.mqtt_host, self._node.mqtt_password_port, trust)
        return MqttClient(place, self._gateway_id, password=password or self._gateway_token)

    def _device_client(self) -> MqttClient:
        own = self._own()
        trust = ssl.create_default_context(cafile=str(self._node.root))
        trust.load_cert_chain(own.certificate, own.key)
        return MqttClient(Place(self._node.mqtt_host, self._node.mqtt_certificate_port, trust), self._meter)

    def _est(self, identification: Identification) -> EstClient:
        return EstClient(self._node.est, anchors=self._node.root.read_bytes(), identification=identification)

    def _own(self) -> Identification:
        certificate = _there(self._certificate)
        name = f"{certificate.serial_number:x}"
        return self._identification(name, certificate.public_bytes(Encoding.PEM), write_key(self._device_key))

    def _identification(self, name: str, certificate: bytes, key: bytes) -> Identification:
        files = Identification(self._folder / f"{name}.pem", self._folder / f"{name}.key")
        files.certificate.write_bytes(certificate)
        files.key.touch(mode=0o600)
        files.key.write_bytes(key)
        return files

    def _issuer(self) -> x509.Certificate:
        issuer = _there(self._certificate).issuer
        return next(one for one in self._est(self._own()).cacerts() if one.subject == issuer)

    def _serial(self) -> str:
        return f"{_there(self._certificate).serial_number:032x}"

    def _telemetry(self, device: str) -> str:
        return f"{self._tenant}/devices/{device}/telemetry"

    def _until_cut(self, client: MqttClient | None, began: float) -> float:
        if not _there(client).is_cut_within(_CUT_SECONDS):
            raise NotProved(f"the live connection was not cut within {_CUT_SECONDS:.0f} s")
        return time.monotonic() - began


def _there(value: _T | None) -> _T:
    if value is None:
        raise NotProved("an earlier step left nothing to go on with")
    return value


@contextmanager
def _refused(kind: Kind, otherwise: str) -> Iterator[None]:
    try:
        yield
    except Refused as refusal:
        if refusal.kind is kind:
            return
        raise
    raise NotProved(otherwise)

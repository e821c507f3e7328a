"""The clients of a torture: devices that enrol and renew, operators who revoke, change and pair.

All of them do what a client of ours shall do: what was not answered is asked again, with the same request, until it is.
"""

import ssl
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import TypeVar

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_pem_private_key

from bench.node import LOOPBACK, Node
from bench.torture_journal import Journal, Told
from certs.pem import write_certificates
from doorward.commands.login import ApiClient
from doorward.demo.mqtt import MqttClient, NotConnected, Place
from est.client import EstClient, EstFailure, Failure, Identification, make_request, write_key
from iam.errors import Kind, Refused

GROUP, ROLE, LABEL = "torture", "worker", "torture"
MANY = "-many"
"""How the names of those devices end that are revoked together."""

PATIENCE_SECONDS = 90.0
PAUSE_SECONDS = 0.15
GRACE_SECONDS = 5.0
"""After a revocation was acknowledged: how long something may still succeed (security.md, I5)."""

T = TypeVar("T")
_BY_A_WRONG_CLOCK = "not valid yet"
"""What a node says of a certificate while its clock is behind; the devices' own are right."""

_MAY_PASS = frozenset({Failure.UNREACHABLE, Failure.UNTRUSTED})


class Fleet:
    """Devices, and the files that they keep."""

    def __init__(self, node: Node, journal: Journal, folder: Path, station: Identification) -> None:
        self._node = node
        self._journal = journal
        self._folder = folder
        self._station = station
        self._trust = node.root.read_bytes()

    def enrol(self, device: str) -> None:
        """Enrol a device, however often that takes, with one and the same request."""
        key = ec.generate_private_key(ec.SECP256R1())
        request = make_request(key, device)
        given = self._until_given(lambda: self._client(self._station).enroll(request), device)
        if given is not None:
            self._keep(device, given, key)

    def renew(self, device: str, *, rekey: bool) -> None:
        """Renew a device's certificate; one that was revoked meanwhile is refused, and that is right."""
        old = self.identification(device)
        key = ec.generate_private_key(ec.SECP256R1()) if rekey else _load_key(old.key)
        request = make_request(key, device)
        given = self._until_given(lambda: self._client(old).reenroll(request), device, may_be_refused=True)
        if given is not None:
            self._keep(device, given, key)
            self._journal.renewed.add(device)

    def identification(self, device: str) -> Identification:
        """The certificate and key that a device has now."""
        return Identification(self._folder / f"{device}.pem", self._folder / f"{device}.key")

    def connect(self, device: str) -> MqttClient | None:
        """Connect a device to MQTT by its certificate; None if the broker does not let it in, or is not there."""
        own = self.identification(device)
        trust = ssl.create_default_context(cafile=str(self._node.root))
        trust.load_cert_chain(own.certificate, own.key)
        place = Place(LOOPBACK, self._node.configuration.nats.mqtt_certificate_port, trust)
        try:
            return MqttClient(place, device).connect()
        except NotConnected:
            return None

    def is_refused(self, device: str) -> bool:
        """Tell whether a renewal by the certificate that a device has is refused, once somebody answers."""
        own = self.identification(device)
        request = make_request(_load_key(own.key), device)
        deadline = time.monotonic() + PATIENCE_SECONDS
        while time.monotonic() < deadline:
            try:
                self._client(own).reenroll(request)
            except EstFailure as failure:
                if failure.status == 403:
                    return True
                time.sleep(PAUSE_SECONDS)
            else:
                return False
        return False

    def _client(self, identification: Identification) -> EstClient:
        url = f"https://{LOOPBACK}:{self._node.configuration.est.port}"
        return EstClient(url, anchors=self._trust, label=LABEL, identification=identification)

    def _until_given(
        self, ask: Callable[[], x509.Certificate], device: str, *, may_be_refused: bool = False
    ) -> x509.Certificate | None:
        deadline = time.monotonic() + PATIENCE_SECONDS
        while True:
            try:
                return ask()
            except EstFailure as failure:
                if may_be_refused and failure.status == 403:
                    return None
                is_early = failure.status == 403 and _BY_A_WRONG_CLOCK in str(failure)
                if failure.failure not in _MAY_PASS and failure.status != 503 and not is_early:
                    what = f"{device}: {failure.status} {failure}"
                    self._journal.check("a device is refused nothing without a reason", holds=False, otherwise=what)
                    return None
                if time.monotonic() > deadline:
                    self._journal.check("a device is answered at last", holds=False, otherwise=f"{device}: {failure}")
                    return None
            self._journal.retry()
            time.sleep(PAUSE_SECONDS)

    def _keep(self, device: str, certificate: x509.Certificate, key: ec.EllipticCurvePrivateKey) -> None:
        own = self.identification(device)
        own.key.write_bytes(write_key(key))
        own.certificate.write_bytes(write_certificates([certificate]))
        spki = certificate.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
        self._journal.give(
            Told(
                device,
                certificate.serial_number.to_bytes(16),
                certificate.public_bytes(Encoding.DER),
                sha256(spki).digest(),
            )
        )


def _load_key(file: Path) -> ec.EllipticCurvePrivateKey:
    key = load_pem_private_key(file.read_bytes(), None)
    assert isinstance(key, ec.EllipticCurvePrivateKey)  # noqa: S101 - it is one that we wrote
    return key


@dataclass
class Operator:
    """Somebody who may do everything, by REST; asks again until he is answered."""

    api: ApiClient
    journal: Journal
    sign_in: Callable[[], str]
    _lock: threading.Lock

    def ask(self, method: str, path: str, body: object = None, *, done_if: Kind | None = None) -> object:
        """Return the answer; None for a refusal of kind `done_if`, by which a lost answer shows when asked again."""
        deadline = time.monotonic() + PATIENCE_SECONDS
        while True:
            try:
                return self.api.request(method, path, body)
            except Refused as refusal:
                if refusal.kind is done_if:
                    return None
                if refusal.kind is Kind.UNAUTHENTICATED:
                    self._sign_in_again()
                elif refusal.kind is not Kind.UNAVAILABLE and "(503)" not in refusal.detail:
                    raise
                if time.monotonic() > deadline:
                    raise
            self.journal.retry()
            time.sleep(PAUSE_SECONDS)

    def _sign_in_again(self) -> None:
        with self._lock:
            self.api.token = self.sign_in()

    def revoke(self, serial: bytes) -> None:
        """Revoke a certificate."""
        path = f"/api/ca/v1/certificates/{serial.hex()}/status?tenant={GROUP}"
        self.ask("PUT", path, {"status": "REVOKED", "revocation_reason": "KeyCompromise"}, done_if=Kind.CONFLICT)
        self.journal.revoke(serial)

    def change_role(self, number: int) -> None:
        """Write a number into the role, where it can be read again."""
        topics = [{"action": "publish", "topic": f"${{tenant}}/torture/{number}"}]
        self.ask("PUT", f"/api/v1/iam/groups/{GROUP}/roles/{ROLE}", {"topics": topics})
        self.journal.role = number

    def pair(self, device: str, *, on: bool) -> None:
        """Pair a device with the role, or unpair it."""
        body = {"deviceIdentifier": [device], "level": "role", "holder": ROLE}
        self.ask("POST" if on else "DELETE", f"/api/v1/iam/pair?tenant={GROUP}", body, done_if=Kind.NOT_FOUND)
        self.journal.paired[device] = on

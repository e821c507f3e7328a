"""The journey of the demo, asserted step by step with independent clients: paho, openssl, curl, urllib.

The tests of this module are one story and run in order; a step that fails makes those after it fail.
"""

import base64
import json
import ssl
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, ed25519
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from doorward.demo.mqtt import MqttClient, NotConnected
from est.client import EstClient, EstFailure, Identification, make_key, make_request, write_key
from iam.public_keys import SigningKey
from tests.journey.conftest import RunningNode

METER = "acme/devices/meter-001/telemetry"
CUT_SECONDS = 1.0


class Story:
    """What the steps share."""

    gateway_key = SigningKey(ec.generate_private_key(ec.SECP256R1()))
    gateway_id = ""
    token = ""
    gateway: MqttClient
    device: MqttClient


@pytest.fixture(scope="module")
def story() -> Story:
    return Story()


@pytest.fixture(scope="module")
def folder(scratch: Path) -> Path:
    made = scratch / "journey-keys"
    made.mkdir()
    return made


def gateway_client(
    node: RunningNode, story: Story, client_id: str | None = None, token: str | None = None
) -> MqttClient:
    trust = ssl.create_default_context(cafile=str(node.root))
    place = node.place(node.mqtt_password_port, trust)
    return MqttClient(place, story.gateway_id if client_id is None else client_id, password=token or story.token)


def device_client(node: RunningNode, folder: Path, name: str = "device", client_id: str = "meter-001") -> MqttClient:
    trust = ssl.create_default_context(cafile=str(node.root))
    trust.load_cert_chain(folder / f"{name}.pem", folder / f"{name}.key")
    return MqttClient(node.place(node.mqtt_certificate_port, trust), client_id)


def openssl(*arguments: str | Path, stdin: bytes | None = None) -> bytes:
    return subprocess.run(["openssl", *map(str, arguments)], input=stdin, capture_output=True, check=True).stdout


def curl(node: RunningNode, *arguments: str | Path) -> tuple[int, bytes]:
    command = ["curl", "-sS", "--cacert", str(node.root), "-w", "\n%{http_code}", *map(str, arguments)]
    body, _, status = subprocess.run(command, capture_output=True, check=True).stdout.rpartition(b"\n")
    return int(status), body


def pair(node: RunningNode, story: Story, method: str) -> None:
    fields = {"deviceIdentifier": ["meter-001"], "level": "user", "holder": story.gateway_id}
    node.admin().request(method, "/api/v1/iam/pair?tenant=acme", fields)


def test_group_roles_and_devices(node: RunningNode) -> None:
    admin = node.admin()
    admin.request("POST", "/api/v1/iam/groups", {"name": "acme"})
    roles = "/api/v1/iam/groups/acme/roles"
    topics = [{"action": "subscribe", "topic": "${tenant}/devices/${device}/telemetry"}]
    admin.request("POST", roles, {"name": "gateway", "topics": topics})
    admin.request("POST", roles, {"name": "technician", "permissions": [{"resource": "devices", "actions": ["read"]}]})
    for device in ("meter-001", "meter-002"):
        made = admin.request("POST", "/api/v1/devices?tenant=acme", {"deviceIdentifier": device})
        assert made["status"] == "NO_IDENTITY"


def test_a_gateway_registers_its_key_and_gets_a_token(node: RunningNode, story: Story) -> None:
    admin = node.admin()
    path = "/api/v1/iam/groups/acme/roles/gateway/users"
    invited = admin.request("POST", path, {"name": "gateway-1", "type": "gateway"})
    registered = admin.register(story.gateway_key, {"type": "gateway", "name": "gateway-1", "code": invited["code"]})
    story.gateway_id = registered["identity_id"]
    proved = admin.prove(story.gateway_key)
    assert proved["identity_id"] == story.gateway_id
    story.token = proved["token"]
    claims = json.loads(base64.urlsafe_b64decode(story.token.split(".")[1] + "=="))
    assert claims["exp"] - claims["iat"] == 24 * 3600
    assert len(story.token) < 3072


def test_the_gateway_connects_by_its_token_and_under_its_own_name_only(node: RunningNode, story: Story) -> None:
    story.gateway = gateway_client(node, story).connect()
    gateway_client(node, story, story.gateway_id + "/second").connect().close()
    for client_id, token in (
        ("somebody-else", None),
        ("", None),
        ("meter-001", None),
        (None, "x"),
        (None, story.token[:-4]),
    ):
        with pytest.raises(NotConnected):
            gateway_client(node, story, client_id, token).connect()


def test_a_device_enrols_with_nothing_but_openssl_and_curl(node: RunningNode, folder: Path) -> None:
    node.command("device", "bootstrap", "--id", "meter-001", "--out", str(folder))
    status, body = curl(node, f"{node.est}/.well-known/est/cacerts")
    assert status == 200
    bundle = openssl("pkcs7", "-inform", "DER", "-print_certs", stdin=base64.b64decode(body))
    assert bundle.count(b"BEGIN CERTIFICATE") >= 2

    openssl("genpkey", "-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:P-256", "-out", folder / "device.key")
    openssl(
        "req", "-new", "-key", folder / "device.key", "-subj", "/CN=meter-001",
        "-addext", "subjectAltName=URI:urn:doorward:device:meter-001",
        "-outform", "DER", "-out", folder / "device.csr",
    )  # fmt: skip
    (folder / "device.b64").write_bytes(base64.encodebytes((folder / "device.csr").read_bytes()))
    enrol = (
        "--cert", folder / "bootstrap.pem", "--key", folder / "bootstrap.key",
        "-H", "Content-Type: application/pkcs10", "--data-binary", f"@{folder / 'device.b64'}",
        f"{node.est}/.well-known/est/simpleenroll",
    )  # fmt: skip
    status, body = curl(node, *enrol)
    assert status == 200, body
    certificate = openssl("pkcs7", "-inform", "DER", "-print_certs", stdin=base64.b64decode(body))
    (folder / "device.pem").write_bytes(certificate)
    authorities = folder / "authorities.pem"
    authorities.write_bytes(bundle)
    openssl("verify", "-x509_strict", "-purpose", "sslclient", "-CAfile", authorities, folder / "device.pem")
    assert curl(node, *enrol) == (200, body), "one request sent again gives the same certificate"
    assert node.admin().request("GET", "/api/v1/devices/meter-001?tenant=acme")["status"] == "ACTIVE"


def test_our_own_client_enrols_another(node: RunningNode, scratch: Path) -> None:
    folder = scratch / "meter-002"
    node.command("device", "bootstrap", "--id", "meter-002", "--out", str(folder))
    enrolled = json.loads(node.command("device", "enroll", "--url", node.est, "--out", str(folder), "--json").stdout)
    again = json.loads(node.command("device", "enroll", "--url", node.est, "--out", str(folder), "--json").stdout)
    assert enrolled["serial"] == again["serial"]
    renewed = json.loads(
        node.command("device", "renew", "--rekey", "--url", node.est, "--out", str(folder), "--json").stdout
    )
    assert renewed["serial"] != enrolled["serial"]
    device_client(node, folder, client_id="meter-002").connect().close()


def test_a_bootstrap_certificate_enrols_no_other_device_and_is_no_login(node: RunningNode, folder: Path) -> None:
    bootstrap = Identification(folder / "bootstrap.pem", folder / "bootstrap.key")
    client = EstClient(node.est, anchors=node.root.read_bytes(), identification=bootstrap)
    with pytest.raises(EstFailure) as refused:
        client.enroll(make_request(make_key(), "meter-003"))
    assert refused.value.status == 403
    with pytest.raises(EstFailure) as refused:
        client.enroll(make_request(make_key(), "meter-001"))
    assert refused.value.status == 403
    with pytest.raises(NotConnected):
        device_client(node, folder, "bootstrap").connect()


def test_the_device_connects_by_its_certificate_under_its_own_name_only(
    node: RunningNode, story: Story, folder: Path
) -> None:
    story.device = device_client(node, folder).connect()
    with pytest.raises(NotConnected):
        device_client(node, folder, client_id="meter-002").connect()


def test_the_gateway_cannot_read_before_it_is_paired(story: Story) -> None:
    assert not story.gateway.subscribe(METER)
    assert not story.gateway.subscribe("acme/devices/+/telemetry")
    assert not story.gateway.subscribe("#")


def test_pairing_reaches_the_live_connection_and_the_message_arrives(node: RunningNode, story: Story) -> None:
    admin = node.admin()
    fields = {"deviceIdentifier": ["meter-001"], "level": "user", "holder": story.gateway_id}
    began = time.monotonic()
    admin.request("POST", "/api/v1/iam/pair?tenant=acme", fields)
    assert story.gateway.is_cut_within(CUT_SECONDS)
    assert time.monotonic() - began < CUT_SECONDS + 0.5
    story.gateway = gateway_client(node, story).connect()
    assert story.gateway.subscribe(METER)
    story.device.publish(METER, b"42.1 kWh")
    assert story.gateway.message() == (METER, b"42.1 kWh")


def test_it_still_cannot_read_the_other_device(story: Story) -> None:
    assert not story.gateway.subscribe("acme/devices/meter-002/telemetry")


def test_nobody_publishes_what_he_may_not(story: Story) -> None:
    story.gateway.publish(METER, b"forged by the gateway")
    story.device.publish("acme/devices/meter-002/telemetry", b"forged by meter-001")
    story.device.publish(METER, b"genuine")
    assert story.gateway.message() == (METER, b"genuine")
    assert story.gateway.message(0.5) is None


def test_unpairing_cuts_the_live_connection(node: RunningNode, story: Story) -> None:
    pair(node, story, "DELETE")
    assert story.gateway.is_cut_within(CUT_SECONDS)
    story.gateway = gateway_client(node, story).connect()
    assert not story.gateway.subscribe(METER)


def test_suspending_the_identity_cuts_it_and_reactivating_lets_it_back(node: RunningNode, story: Story) -> None:
    admin, path = node.admin(), f"/api/v1/iam/users/{story.gateway_id}?tenant=acme"
    admin.request("PATCH", path, {"status": "suspended"})
    assert story.gateway.is_cut_within(CUT_SECONDS)
    with pytest.raises(NotConnected):
        gateway_client(node, story).connect()
    admin.request("PATCH", path, {"status": "active"})
    story.gateway = gateway_client(node, story).connect()


def test_blocking_the_group_cuts_everybody_in_it(node: RunningNode, story: Story, folder: Path) -> None:
    admin, path = node.admin(), "/api/v1/iam/groups/acme"
    admin.request("PATCH", path, {"status": "blocked"})
    assert story.gateway.is_cut_within(CUT_SECONDS)
    assert story.device.is_cut_within(CUT_SECONDS)
    with pytest.raises(NotConnected):
        device_client(node, folder).connect()
    own = Identification(folder / "device.pem", folder / "device.key")
    with pytest.raises(EstFailure) as refused:
        EstClient(node.est, anchors=node.root.read_bytes(), identification=own).reenroll(
            make_request(make_key(), "meter-001")
        )
    assert refused.value.status == 403
    admin.request("PATCH", path, {"status": "active"})
    story.gateway = gateway_client(node, story).connect()
    story.device = device_client(node, folder).connect()


def test_renewing_with_the_same_key_by_curl_lets_the_connection_live(
    node: RunningNode, story: Story, folder: Path
) -> None:
    status, body = curl(
        node,
        "--cert", folder / "device.pem", "--key", folder / "device.key",
        "-H", "Content-Type: application/pkcs10", "--data-binary", f"@{folder / 'device.b64'}",
        f"{node.est}/.well-known/est/simplereenroll",
    )  # fmt: skip
    assert status == 200, body
    (folder / "superseded.pem").write_bytes((folder / "device.pem").read_bytes())
    (folder / "superseded.key").write_bytes((folder / "device.key").read_bytes())
    (folder / "device.pem").write_bytes(
        openssl("pkcs7", "-inform", "DER", "-print_certs", stdin=base64.b64decode(body))
    )
    assert not story.device.is_cut_within(0.7)
    with pytest.raises(NotConnected):
        device_client(node, folder, "superseded").connect()
    device_client(node, folder, client_id="meter-001/again").connect().close()


def test_renewing_with_a_new_key_cuts_what_the_old_one_connected(node: RunningNode, story: Story, folder: Path) -> None:
    own = Identification(folder / "device.pem", folder / "device.key")
    key = make_key()
    client = EstClient(node.est, anchors=node.root.read_bytes(), identification=own)
    certificate = client.reenroll(make_request(key, "meter-001"))
    with pytest.raises(EstFailure, match="successor"):
        client.reenroll(make_request(make_key(), "meter-001"))
    (folder / "device.pem").write_bytes(certificate.public_bytes(Encoding.PEM))
    (folder / "device.key").write_bytes(write_key(key))
    assert story.device.is_cut_within(CUT_SECONDS)
    story.device = device_client(node, folder).connect()
    assert not story.device.is_cut_within(0.5)


def serial_of(folder: Path) -> str:
    return openssl("x509", "-in", folder / "device.pem", "-noout", "-serial").decode().strip().partition("=")[2].lower()


def test_revoking_cuts_the_connection_and_nothing_lets_it_in_again(
    node: RunningNode, story: Story, folder: Path
) -> None:
    answer: Any = node.admin().request(
        "PUT",
        f"/api/ca/v1/certificates/{serial_of(folder)}/status?tenant=acme",
        {"status": "REVOKED", "revocation_reason": "KeyCompromise"},
    )
    assert answer["status"] == "REVOKED"
    assert story.device.is_cut_within(CUT_SECONDS)
    with pytest.raises(NotConnected):
        device_client(node, folder).connect()
    own = Identification(folder / "device.pem", folder / "device.key")
    with pytest.raises(EstFailure, match="revoked") as refused:
        EstClient(node.est, anchors=node.root.read_bytes(), identification=own).reenroll(
            make_request(make_key(), "meter-001")
        )
    assert refused.value.status == 403


def test_the_revoked_certificate_is_in_the_published_list(node: RunningNode, folder: Path) -> None:
    serial = serial_of(folder).lstrip("0").upper().encode()
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline:
        status, crl = curl(node, f"{node.api}/crl/issuing.crl")
        assert status == 200
        if serial in openssl("crl", "-inform", "DER", "-noout", "-text", stdin=crl):
            return
        time.sleep(0.3)
    raise AssertionError("not in the list")


def test_an_allowed_replacement_cuts_the_device_that_is_replaced(node: RunningNode, scratch: Path) -> None:
    replaced, replacing = scratch / "meter-002", scratch / "meter-002-new"
    connection = device_client(node, replaced, client_id="meter-002").connect()
    path = "/api/v1/devices/meter-002?tenant=acme"
    node.admin().request("PATCH", path, {"replacementAllowed": True})
    node.command("device", "bootstrap", "--id", "meter-002", "--out", str(replacing))
    assert not connection.is_cut_within(0.3)
    node.command("device", "enroll", "--url", node.est, "--out", str(replacing), "--json")
    assert connection.is_cut_within(CUT_SECONDS)
    with pytest.raises(NotConnected):
        device_client(node, replaced, client_id="meter-002").connect()
    device_client(node, replacing, client_id="meter-002").connect().close()


def test_logging_out_cuts_the_gateway(node: RunningNode, story: Story) -> None:
    client = node.admin()
    client.token = story.token
    client.request("POST", "/api/v1/iam/logout")
    assert story.gateway.is_cut_within(CUT_SECONDS)
    with pytest.raises(NotConnected):
        gateway_client(node, story).connect()


@pytest.mark.parametrize("form", ["pem", "openssh"])
def test_the_command_line_logs_in_with_a_key_file(node: RunningNode, scratch: Path, form: str) -> None:
    key = ed25519.Ed25519PrivateKey.generate() if form == "openssh" else ec.generate_private_key(ec.SECP256R1())
    name, type_ = f"key-{form}", "developer" if form == "openssh" else "integration"
    encoding = PrivateFormat.OpenSSH if form == "openssh" else PrivateFormat.PKCS8
    file = scratch / f"login.{form}"
    file.write_bytes(key.private_bytes(Encoding.PEM, encoding, NoEncryption()))
    fields = {"name": name, "type": type_, "group": "acme", "role": "technician"}
    registered = node.admin().register(SigningKey(key), fields)
    login = ("login", "--url", node.api, "--root", str(node.root), "--key")
    found = json.loads(node.command(*login, str(file), "--json").stdout)
    assert found["identity_id"] == registered["identity_id"]
    client = node.admin()
    client.token = node.command(*login, str(file)).stdout.strip()
    assert client.request("GET", "/api/v1/iam/token/info")["methods"] == ["pop"]
    absent = scratch / "none"
    refused = node.command(*login, str(absent), check=False)
    assert (refused.returncode, refused.stderr.startswith(f"doorward: {absent} cannot be read")) == (1, True)


def test_the_command_line_revokes_a_certificate(node: RunningNode, scratch: Path) -> None:
    folder = scratch / "meter-002-new"
    serial = serial_of(folder)
    device = device_client(node, folder, client_id="meter-002").connect()
    said = node.command("ca", "revoke", serial, "--reason", "keyCompromise").stdout
    assert said == f"Certificate {serial} is revoked (keyCompromise).\n"
    assert device.is_cut_within(
        2 * CUT_SECONDS
    )  # the relay is not woken by a process that is no worker: it looks by itself
    again = node.command("ca", "revoke", serial, check=False)
    assert again.returncode == 1
    for wrong in (("zz", "--reason", "keyCompromise"), (serial, "--reason", "because"), ("00" * 16,)):
        assert node.command("ca", "revoke", *wrong, check=False).returncode == 1


def test_decommissioning_a_device_withdraws_its_certificates(node: RunningNode, scratch: Path) -> None:
    folder = scratch / "meter-009"
    admin = node.admin()
    admin.request("POST", "/api/v1/devices?tenant=acme", {"deviceIdentifier": "meter-009"})
    node.command("device", "bootstrap", "--id", "meter-009", "--out", str(folder))
    node.command("device", "enroll", "--url", node.est, "--out", str(folder))
    device = device_client(node, folder, client_id="meter-009").connect()
    path = "/api/v1/devices/meter-009?tenant=acme"
    admin.request("PATCH", path, {"status": "DECOMMISSIONED"})
    assert device.is_cut_within(CUT_SECONDS)
    found = admin.request("GET", f"/api/ca/v1/certificates/{serial_of(folder)}?tenant=acme")
    assert (found["status"], found["revocation_reason"]) == ("REVOKED", "CessationOfOperation")
    admin.request("DELETE", path)
    refused = node.command("device", "renew", "--url", node.est, "--out", str(folder), check=False)
    assert refused.returncode == 1


def test_the_audit_tells_all_of_it_and_its_chain_holds(node: RunningNode) -> None:
    time.sleep(1.5)
    lines = node.admin().request("GET", "/api/v1/iam/audit?tenant=acme&limit=1000")["items"]
    kinds = [line["kind"] for line in lines]
    for kind in ("tenant.created", "device.enrolled", "pairing.created", "pairing.deleted", "device.renewed",
                 "identity.suspended", "tenant.blocked", "certificate.revoked", "session.ended"):  # fmt: skip
        assert kind in kinds, kind
    assert kinds.count("device.enrolled") == 4
    found = json.loads(node.command("check", "--json", check=False).stdout)
    assert found["holds"], found


def test_the_demo_itself(node: RunningNode) -> None:
    shown = node.command("demo", "--json", check=False)
    found = json.loads(shown.stdout)
    assert found["failed"] is None, shown.stderr
    assert len(found["steps"]) == 16

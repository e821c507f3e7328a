"""Authorities of a running node with two workers: every worker follows, brokers follow, and a backup restores them.

The tests of this module are one story and run in order.
"""

import json
import shutil
import ssl
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509

from doorward.demo.mqtt import MqttClient, NotConnected
from doorward.embedded.postgres import locate_programs
from tests.journey.conftest import RunningNode

CAS = "/api/ca/v1/cas"
EVERYWHERE_SECONDS = 1.0


@pytest.fixture(scope="module")
def folder(scratch: Path) -> Path:
    made = scratch / "authority-devices"
    made.mkdir()
    return made


def enrol(node: RunningNode, folder: Path, name: str) -> Path:
    out = folder / name
    node.command("device", "bootstrap", "--id", name, "--out", str(out))
    node.command("device", "enroll", "--out", str(out), "--url", node.est, "--root", str(node.root))
    return out


def renew(node: RunningNode, out: Path, *, check: bool = True) -> subprocess.CompletedProcess[str]:
    return node.command(
        "device", "renew", "--rekey", "--out", str(out), "--url", node.est, "--root", str(node.root), check=check
    )


def mqtt(node: RunningNode, out: Path, name: str) -> MqttClient:
    trust = ssl.create_default_context(cafile=str(node.root))
    trust.load_cert_chain(out / "device.pem", out / "device.key")
    return MqttClient(node.place(node.mqtt_certificate_port, trust), name)


def issuer_of(out: Path) -> bytes:
    certificate = x509.load_pem_x509_certificates((out / "device.pem").read_bytes())[0]
    named = certificate.extensions.get_extension_for_class(x509.AuthorityKeyIdentifier).value.key_identifier
    assert named is not None
    return named


def asked_of_every_worker(node: RunningNode, path: str) -> list[Any]:
    """Ask often enough, each time over another connection, for every worker to have answered."""
    return [node.admin().request("GET", path) for _ in range(12)]


def test_every_worker_knows_a_new_authority_within_a_second(node: RunningNode) -> None:
    wanted = {"id": "plant", "parent_id": "root", "subject": {"common_name": "Plant"}}
    made = node.admin().request("POST", CAS, wanted)
    time.sleep(EVERYWHERE_SECONDS)
    assert {one["authority_id"] for one in asked_of_every_worker(node, f"{CAS}/plant")} == {made["authority_id"]}
    listed = json.loads(node.command("ca", "list", "--json").stdout)
    assert {one["name"] for one in listed} == {"root", "issuing", "factory", "plant"}


def test_devices_live_on_across_a_rollover(node: RunningNode, folder: Path) -> None:
    out = enrol(node, folder, "meter-001")
    before = issuer_of(out)
    connected = mqtt(node, out, "meter-001").connect()
    rolled = json.loads(node.command("ca", "rollover", "issuing", "--json").stdout)
    assert rolled["name"] == "issuing.2"
    time.sleep(2 * EVERYWHERE_SECONDS)
    renew(node, out)
    assert issuer_of(out) != before
    connected.close()
    reconnected = until_connected(node, out, "meter-001")  # the broker trusts the new key, too
    reconnected.close()


def until_connected(node: RunningNode, out: Path, name: str) -> MqttClient:
    deadline = time.monotonic() + 10
    while True:
        try:
            return mqtt(node, out, name).connect()
        except (NotConnected, OSError):
            if time.monotonic() > deadline:
                raise
            time.sleep(0.2)


def test_what_a_deactivated_authority_issued_is_cut_and_refused(node: RunningNode, folder: Path) -> None:
    out = folder / "meter-001"
    connected = until_connected(node, out, "meter-001")
    body = {"status": "INACTIVE"}
    current = node.admin().request("GET", f"{CAS}/issuing")["authority_id"]
    node.admin().request("POST", f"{CAS}/{current}/status", body)
    assert connected.is_cut_within(EVERYWHERE_SECONDS + 1)
    time.sleep(EVERYWHERE_SECONDS)
    assert renew(node, out, check=False).returncode == 1
    with pytest.raises((NotConnected, OSError)):
        mqtt(node, out, "meter-001").connect()
    node.admin().request("POST", f"{CAS}/{current}/status", {"status": "ACTIVE"})
    time.sleep(EVERYWHERE_SECONDS)
    renew(node, out)


def test_a_dump_and_the_keys_restore_a_node_that_issues(node: RunningNode, folder: Path, scratch: Path) -> None:
    dump = scratch / "doorward.dump"
    programs = locate_programs()
    owner = json.loads((node.data / "run" / "addresses.json").read_text())["database_owner"]
    subprocess.run([programs / "pg_dump", "--format=custom", f"--file={dump}", owner], check=True)
    second = RunningNode(scratch / "restored")
    second.data.mkdir()
    shutil.copy(node.data / "master.key", second.data)
    shutil.copytree(node.data / "keys", second.data / "keys")
    second.start()
    try:
        owner = json.loads((second.data / "run" / "addresses.json").read_text())["database_owner"]
        restore = [programs / "pg_restore", "--clean", "--if-exists", "--no-owner", "--exit-on-error"]
        subprocess.run([*restore, "--single-transaction", f"--dbname={owner}", dump], check=True)
        assert second.stop() == 0
        second.start()
        restored = {one["name"]: one for one in json.loads(second.command("ca", "list", "--json").stdout)}
        first = {one["name"]: one for one in json.loads(node.command("ca", "list", "--json").stdout)}
        assert restored == first
        renew(second, folder / "meter-001")
        enrol(second, folder, "meter-002")
        assert second.command("ca", "create", "spare", "--common-name", "Spare", "--parent", "root").returncode == 0
    finally:
        second.stop()

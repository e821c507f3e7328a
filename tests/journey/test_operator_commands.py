"""`doorward approvals` and `doorward secrets`, against a whole node and with devices that enrol by them."""

import json
import subprocess
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ed25519
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from doorward.commands.login import ApiClient
from iam.public_keys import SigningKey
from tests.journey.conftest import RunningNode

DMS = "/api/dmsmanager/v1/dms"


@pytest.fixture(scope="module")
def labels(node: RunningNode) -> RunningNode:
    """A group with a label for each command."""
    admin = node.admin()
    admin.request("POST", "/api/v1/iam/groups", {"name": "acme"})
    for role, permissions in (
        ("warden", [{"resource": "est.*", "actions": ["create", "read", "update", "delete"]}]),
        ("clerk", [{"resource": "est.secrets", "actions": ["read"]}]),
    ):
        admin.request("POST", "/api/v1/iam/groups/acme/roles", {"name": role, "permissions": permissions})
    for label, mode in (("sensors", "ENROLLMENT_SECRET"), ("yard", "MANUAL_APPROVAL"), ("field", "MANUAL_APPROVAL")):
        settings = {"enrollment_settings": {"est_rfc7030_settings": {"auth_mode": mode}}}
        admin.request("POST", f"{DMS}?tenant=acme", {"id": label, "settings": settings})
    return node


def run(node: RunningNode, *arguments: str, status: int = 0) -> subprocess.CompletedProcess[str]:
    done = node.command(*arguments, "--group", "acme", check=False)
    assert done.returncode == status, (arguments, done.stdout, done.stderr)
    return done


def enroll(node: RunningNode, folder: Path, identifier: str, label: str, *options: str, status: int = 0) -> str:
    named = () if (folder / "device.id").exists() else ("--id", identifier)
    place = ("--out", str(folder), "--url", node.est, "--root", str(node.root), "--label", label)
    done = node.command("device", "enroll", *named, *place, *options, check=False)
    assert done.returncode == status, (done.stdout, done.stderr)
    return done.stdout + done.stderr


def test_a_secret_from_its_making_to_its_end(labels: RunningNode, tmp_path: Path) -> None:
    node, file = labels, tmp_path / "secret"
    making = ("secrets", "create", "--label", "sensors", "--device", "sensor-1", "--description", "for the roof")
    made = run(node, *making, "--out", str(file))
    assert "A secret of sensors for sensor-1: one use, until " in made.stdout
    secret = file.read_text().strip()
    assert secret.startswith("des_")
    assert secret not in made.stdout + made.stderr
    assert file.stat().st_mode & 0o777 == 0o600
    again = run(node, *making, "--out", str(file), status=1)
    assert "cannot be made: File exists" in again.stderr
    assert "Certificate " in enroll(node, tmp_path / "sensor", "sensor-1", "sensors", "--secret-file", str(file))

    shown = json.loads(run(node, "secrets", "create", "--label", "sensors", "--unlimited", "--json").stdout)
    assert (shown["label"], shown["secret"][:4], "max_uses" in shown) == ("sensors", "des_", False)
    listed = json.loads(run(node, "secrets", "list", "--json").stdout)
    assert [(one["label"], one["uses"], one["description"]) for one in listed] == [
        ("sensors", 1, "for the roof"),
        ("sensors", 0, ""),
    ]
    assert all("secret" not in one for one in listed)
    assert [one["id"] for one in json.loads(run(node, "secrets", "list", "--device", "sensor-1", "--json").stdout)] == [
        listed[0]["id"]
    ]

    assert "enrols nothing more" in run(node, "secrets", "revoke", shown["id"]).stdout
    again = run(node, "secrets", "revoke", shown["id"], status=1)
    assert "There is no such secret" in again.stderr
    assert "revoked" in run(node, "secrets", "list", "--label", "sensors").stdout.splitlines()[2]
    (tmp_path / "withdrawn").write_text(shown["secret"])
    refused = enroll(
        node, tmp_path / "other", "sensor-2", "sensors", "--secret-file", str(tmp_path / "withdrawn"), status=1
    )
    assert "The enrolment secret was not accepted" in refused


def test_nothing_is_left_of_a_secret_that_was_not_made(labels: RunningNode, tmp_path: Path) -> None:
    making = ("secrets", "create", "--out", str(tmp_path / "secret"))
    failed = run(labels, *making, "--label", "nowhere", status=1)
    assert "There is no enrolment profile nowhere" in failed.stderr
    failed = run(labels, *making, "--label", "sensors", "--uses", "0", status=1)
    assert "max_uses" in failed.stderr
    assert not (tmp_path / "secret").exists()
    chosen = tmp_path / "chosen"
    chosen.write_text("too short\n")
    run(labels, "secrets", "create", "--label", "sensors", "--chosen-file", str(chosen), status=1)
    chosen.write_text("a long walk by the sea 7\n")
    made = run(labels, "secrets", "create", "--label", "sensors", "--chosen-file", str(chosen))
    assert "a long walk" not in made.stdout
    assert "It is not shown again" not in made.stdout


def test_who_waits_is_let_in_or_not(labels: RunningNode, tmp_path: Path) -> None:
    node = labels
    assert run(node, "approvals", "list").stdout == "Nobody waits.\n"
    for name, label in (("crane-1", "yard"), ("crane-2", "field")):
        enroll(node, tmp_path / name, name, label, status=3)
    listed = json.loads(run(node, "approvals", "list", "--json").stdout)
    assert {(one["device_identifier"], one["label"]) for one in listed} == {("crane-1", "yard"), ("crane-2", "field")}
    waits = {one["device_identifier"]: one for one in listed}
    table = run(node, "approvals", "list", "--label", "yard").stdout.splitlines()
    assert table[0].split() == ["ID", "LABEL", "DEVICE", "STATE", "SINCE", "BY", "KEY", "(SHA-256)"]
    assert waits["crane-1"]["public_key_sha256"] in table[1]
    assert len(table) == 2

    approved = run(node, "approvals", "approve", waits["crane-1"]["id"], "--reason", "seen on the yard")
    assert approved.stdout.startswith("crane-1 may enrol under yard, until ")
    rejected = json.loads(run(node, "approvals", "reject", waits["crane-2"]["id"], "--label", "field", "--json").stdout)
    assert (rejected["label"], rejected["state"]) == ("field", "rejected")
    assert "Certificate " in enroll(node, tmp_path / "crane-1", "crane-1", "yard")
    assert "An operator has rejected this request" in enroll(node, tmp_path / "crane-2", "crane-2", "field", status=1)
    assert run(node, "approvals", "list").stdout == "Nobody waits.\n"
    decided = json.loads(run(node, "approvals", "list", "--state", "all", "--device", "crane-1", "--json").stdout)
    assert [(one["state"], one["reason"]) for one in decided] == [("approved", "seen on the yard")]

    for identifier, words in (
        ("01a20178-f90f-7bba-a235-94678758872d", "There is no such one among the approvals"),
        ("no-id", "id is a UUID"),
    ):
        missing = run(node, "approvals", "approve", identifier, status=1)
        assert words in missing.stderr, missing.stderr


def signed_up(node: RunningNode, role: str, folder: Path) -> Path:
    """Somebody of that role with a key; returns the key's file."""
    key = ed25519.Ed25519PrivateKey.generate()
    file = folder / f"{role}.key"
    file.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    invited = node.admin().request(
        "POST", f"/api/v1/iam/groups/acme/roles/{role}/users", {"name": role, "type": "developer"}
    )
    client = ApiClient(node.api, node.root)
    client.register(SigningKey(key), {"type": "developer", "name": role, "code": invited["code"]})
    return file


def test_an_operator_is_whoever_has_the_key_or_the_token(labels: RunningNode, tmp_path: Path) -> None:
    node = labels
    place = ("--url", node.api, "--root", str(node.root))
    warden, clerk = signed_up(node, "warden", tmp_path), signed_up(node, "clerk", tmp_path)
    made = json.loads(
        run(node, "secrets", "create", "--label", "sensors", "--json", "--key", str(warden), *place).stdout
    )
    token = tmp_path / "token"
    token.write_text(node.command("login", "--key", str(clerk), *place).stdout)
    by_token = ("--token-file", str(token), *place)
    listed = json.loads(run(node, "secrets", "list", "--label", "sensors", "--json", *by_token).stdout)
    assert made["id"] in {one["id"] for one in listed}
    unknown = run(node, "secrets", "list", *by_token, status=1)
    assert "This needs read on est.profiles. Or say which one with --label." in unknown.stderr
    forbidden = run(node, "secrets", "revoke", made["id"], "--label", "sensors", *by_token, status=1)
    assert "This needs delete on est.secrets." in forbidden.stderr
    token.write_text("no token")
    assert "401" in run(node, "secrets", "list", *by_token, status=1).stderr


def test_an_authority_is_not_revoked_by_its_certificate_alone(node: RunningNode) -> None:
    """Its devices' connections would live on until somebody looked at all of them."""
    admin = node.admin()
    spare = {"id": "spare", "parent_id": "root", "subject": {"common_name": "Spare"}}
    serial = admin.request("POST", "/api/ca/v1/cas", spare)["certificate"]["serial_number"]
    done = node.command("ca", "revoke", serial, check=False)
    said = "doorward: The certificate is an authority's: revoke that"
    assert (done.returncode, done.stderr[: len(said)]) == (1, said)
    assert admin.request("GET", "/api/ca/v1/cas/spare")["status"] == "ACTIVE"

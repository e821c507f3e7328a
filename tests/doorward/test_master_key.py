"""Where the master key comes from, and how it is written down while it changes."""

import base64
import os
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from doorward.config import Configuration, NodeSection, load_configuration
from doorward.master_key import LOOK_SECONDS, Secrets, master_key, read_master_key, read_secrets
from iam.errors import Kind, Refused
from iam.sealing import derive_all, open_sealed, seal, secret_id

A, B, C = (bytes([number]) * 32 for number in (1, 2, 3))
SECRET = st.binary(min_size=32, max_size=32)


def b64(secret: bytes) -> str:
    return base64.b64encode(secret).decode()


def node(**values: object) -> Configuration:
    return Configuration(node=NodeSection(**values))  # type: ignore[arg-type]


@given(st.lists(SECRET, min_size=1, max_size=5, unique=True), st.booleans())
def test_what_is_written_down_is_read(secrets: list[bytes], has_next: bool) -> None:
    first, *others = secrets
    written = Secrets(first, others.pop() if has_next and others else None, tuple(others))
    assert Secrets.read(written.write()) == written
    assert written.in_order[0] == first
    assert all(b64(one) not in repr(written) for one in secrets)


def test_the_three_sources_give_the_same(tmp_path: Path) -> None:
    (tmp_path / "key").write_text(b64(A) + "\n")
    environment = {
        "DOORWARD_MASTER_KEY": f"{b64(A)} next {b64(B)} old {b64(C)}",
        "CREDENTIALS_DIRECTORY": str(tmp_path),
    }
    assert read_secrets(node(master_key_file=tmp_path / "key"), {}) == Secrets(A)
    assert read_secrets(node(master_key_from="environment"), environment) == Secrets(A, B, (C,))
    credential = node(master_key_from="credential", master_key_credential="key")
    assert read_secrets(credential, environment) == Secrets(A)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "next",
        "old " + b64(A),
        b64(A)[:-4],
        b64(A) + " " + b64(B),
        f"{b64(A)} next {b64(B)} next {b64(C)}",
        f"{b64(A)} old {b64(A)}",
        f"{b64(A)} old",
        f"{b64(A)} then {b64(B)}",
        "kilroy-was-here",
    ],
)
def test_what_is_no_master_key_is_refused_and_not_shown(text: str) -> None:
    configuration = node(master_key_from="environment")
    with pytest.raises(Refused) as refused:
        read_secrets(configuration, {"DOORWARD_MASTER_KEY": text})
    assert refused.value.kind is Kind.UNAVAILABLE
    for said in (refused.value.detail, refused.value.reason):
        assert all(word not in said for word in text.split() if len(word) > 4)


@pytest.mark.parametrize(
    ("values", "environment"),
    [
        ({"master_key_from": "environment"}, {}),
        ({"master_key_from": "credential"}, {}),
        ({"master_key_from": "credential"}, {"CREDENTIALS_DIRECTORY": "/nowhere"}),
        ({"master_key_file": Path("/nowhere/master.key")}, {}),
    ],
)
def test_a_master_key_that_is_not_there_is_refused_and_not_made(
    values: dict[str, object], environment: dict[str, str], tmp_path: Path
) -> None:
    configuration = node(data=tmp_path, **values)
    with pytest.raises(Refused):
        read_secrets(configuration, environment)
    with pytest.raises(Refused):
        master_key(configuration, os.urandom)
    assert list(tmp_path.iterdir()) == []


def test_the_environment_holds_it_without_being_configuration(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    environment = {"DOORWARD_MASTER_KEY": b64(A), "DOORWARD_NODE_MASTER_KEY_FROM": "environment"}
    configuration = load_configuration(None, environment)
    assert b64(A) not in repr(configuration)
    monkeypatch.setenv("DOORWARD_MASTER_KEY", b64(A))
    assert read_master_key(configuration).id == secret_id(A)
    with pytest.raises(Refused, match="master_key_file"):
        load_configuration(None, {**environment, "DOORWARD_NODE_MASTER_KEY_FILE": str(tmp_path)})


def test_a_process_that_runs_follows_the_file(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    file = tmp_path / "key"
    file.write_text(Secrets(A).write())
    key = read_master_key(node(master_key_file=file))
    early = seal(key, b"early", context="c", random=os.urandom)

    file.write_text(Secrets(B, old=(A,)).write())  # at once: what is not known makes it look
    other = read_master_key(node(master_key_file=file))
    late = seal(other, b"late", context="c", random=os.urandom)
    assert open_sealed(key, late, context="c") == b"late"
    assert open_sealed(key, early, context="c") == b"early"
    assert key.id == secret_id(B)

    file.write_text(Secrets(C, old=(B,)).write())  # within a second: what it seals
    time.sleep(LOOK_SECONDS * 1.1)
    assert key.id == secret_id(C)
    with pytest.raises(Refused, match="cannot be opened"):
        open_sealed(key, early, context="c")

    file.write_text("nonsense")  # what cannot be read changes nothing, and is told once
    for _ in range(2):
        time.sleep(LOOK_SECONDS * 1.1)
        assert key.id == secret_id(C)
    assert caplog.text.count("cannot be read") == 1
    file.unlink()
    time.sleep(LOOK_SECONDS * 1.1)
    assert open_sealed(key, late, context="c") == b"late"


def test_derived_keys_of_all_secrets_are_known_while_the_master_key_changes(tmp_path: Path) -> None:
    file = tmp_path / "key"
    derived = []
    for secrets in (Secrets(A), Secrets(A, B), Secrets(B, old=(A,)), Secrets(B)):
        file.write_text(secrets.write())
        derived.append(derive_all(read_master_key(node(master_key_file=file)), "challenge"))
    before, announced, switched, after = derived
    assert announced == (*before, *after)
    assert switched == (*after, *before)

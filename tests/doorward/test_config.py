"""`doorward.config`: read once, strictly; what is wrong is named."""

from datetime import timedelta
from pathlib import Path

import pytest
from pydantic import ValidationError

from doorward.config import Configuration, load_configuration
from iam.errors import Refused


def load(tmp_path: Path, text: str, **environment: str) -> Configuration:
    file = tmp_path / "doorward.toml"
    file.write_text(text)
    return load_configuration(file, environment)


def test_nothing_said_is_a_node_that_brings_its_own_parts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    found = load_configuration(None, {})
    assert found.embeds_database
    assert found.embeds_nats
    assert (found.api.host, found.api.port, found.est.port) == ("127.0.0.1", 8443, 9443)


def test_the_environment_wins_over_the_file_and_the_command_line_over_both(tmp_path: Path) -> None:
    file = tmp_path / "doorward.toml"
    file.write_text("[node]\nworkers = 3\nlog_level = 'debug'\n[api]\nport = 1\n")
    environment = {"DOORWARD_NODE_WORKERS": "4", "DOORWARD_API_PORT": "2", "PATH": "/bin"}
    found = load_configuration(file, environment, {"node": {"workers": 5, "data": None}})
    assert (found.node.workers, found.api.port, found.node.log_level) == (5, 2, "debug")


def test_lists_and_durations_come_from_the_environment_as_text(tmp_path: Path) -> None:
    environment = {"DOORWARD_NODE_SERVER_NAMES": "a.example, 10.0.0.1", "DOORWARD_TOKENS_PERSON_LIFETIME": "60"}
    found = load(tmp_path, "", **environment)
    assert found.node.server_names == ("a.example", "10.0.0.1")
    assert found.tokens.person_lifetime == timedelta(minutes=1)


@pytest.mark.parametrize(
    ("text", "environment", "said"),
    [
        ("[node]\nworkerz = 1", {}, "did you mean node.workers?"),
        ("[nods]\nworkers = 1", {}, r"did you mean \[node\]\?"),
        ("workers = 1", {}, "stands outside a section"),
        ("[node", {}, "is not TOML"),
        ("", {"DOORWARD_TOKENS_PERSON_LIFETIME": "inf"}, "tokens.person_lifetime: .*not a number of seconds: inf"),
        ("", {"DOORWARD_TOKENS_PERSON_LIFETIME": "nan"}, "tokens.person_lifetime: .*not a number of seconds: nan"),
        ("", {"DOORWARD_TOKENS_PERSON_LIFETIME": "1e300"}, "not a number of seconds: 1e300"),
        ("", {"DOORWARD_TOKENS_PERSON_LIFETIME": "soon"}, "not a number of seconds: soon"),
        ("[tokens]\nperson_lifetime = -5", {}, "tokens.person_lifetime: .*-5 is not between 1 and 604800 seconds"),
        (
            "[tokens]\nmachine_lifetime = 99999999",
            {},
            "tokens.machine_lifetime: .* is not between 1 and 604800 seconds",
        ),
        ("[tokens]\nrotate_every = 0", {}, "tokens.rotate_every: .*0 is not between 3600 and 31536000 seconds"),
        ("[tokens]\nrotate_every = 99999999", {}, "tokens.rotate_every: .* is not between 3600 and 31536000 seconds"),
        ("[node]\nworkers = 0", {}, "node.workers"),
        ("[node]\nworkers = 'many'", {}, "node.workers"),
        ("[node]\npublic_url = 'http://x'", {}, "node.public_url"),
        ("[node]\npublic_url = 'https://x/y'", {}, "node.public_url"),
        ("[api]\nport = 70000", {}, "api.port"),
        (f"[est]\ntrusted_proxies = ['{'0' * 64}']", {}, "is not client-cert: or xfcc: and a SHA-256"),
        ("", {"DOORWARD_NODE_WORKER": "1"}, "did you mean DOORWARD_NODE_WORKERS?"),
        ("", {"DOORWARD_XYZ": "1"}, "DOORWARD_XYZ is not known"),
        ("[database]\nurl = 'postgresql://x'", {}, "give both or neither"),
        ("[nats]\naccount = 'OTHER'", {}, "nats.account is APP"),
        ("[nats]\nservers = ['tls://x']", {}, "nats.callout_password_file is needed too"),
    ],
)
def test_what_is_wrong_is_refused_and_named(tmp_path: Path, text: str, environment: dict[str, str], said: str) -> None:
    with pytest.raises(Refused, match=said):
        load(tmp_path, text, **environment)


def test_a_file_that_was_named_must_be_there(tmp_path: Path) -> None:
    with pytest.raises(Refused, match="cannot be read"):
        load_configuration(tmp_path / "none.toml", {})


def test_it_cannot_be_changed_once_it_is_read(tmp_path: Path) -> None:
    found = load(tmp_path, "")
    with pytest.raises(ValidationError):
        found.node.workers = 7  # type: ignore[misc]


@pytest.mark.parametrize(
    ("environment", "url"),
    [
        ({}, "http://127.0.0.1:8080"),
        ({"DOORWARD_PUBLICATION_PORT": "80"}, "http://127.0.0.1:80"),
        ({"DOORWARD_PUBLICATION_HOST": "::1"}, "http://[::1]:8080"),
        ({"DOORWARD_PUBLICATION_HOST": "0.0.0.0"}, "http://127.0.0.1:8080"),
        (
            {"DOORWARD_PUBLICATION_HOST": "::", "DOORWARD_NODE_PUBLIC_URL": "https://pki.example.com:8443"},
            "http://pki.example.com:8080",
        ),
        ({"DOORWARD_CA_PUBLICATION_URL": "http://crl.example.com"}, "http://crl.example.com"),
        ({"DOORWARD_PUBLICATION_ENABLED": "false"}, None),
        (
            {"DOORWARD_PUBLICATION_ENABLED": "false", "DOORWARD_CA_PUBLICATION_URL": "http://crl.example.com"},
            "http://crl.example.com",
        ),
    ],
)
def test_certificates_name_where_it_is_published(environment: dict[str, str], url: str | None) -> None:
    assert load_configuration(None, environment).publication_url == url


@pytest.mark.parametrize(
    ("key", "seconds"),
    [
        ("LIST_LIFE", "1"),
        ("OFFLINE_LIST_LIFE", "1e9"),
        ("DELTA_LIFE", "0"),
        ("ANSWER_LIFE", "1"),
        ("RESPONDER_LIFE", "1"),
    ],
)
def test_what_is_published_lives_neither_too_short_nor_too_long(key: str, seconds: str) -> None:
    with pytest.raises(Refused, match=f"publication.{key.lower()}"):
        load_configuration(None, {f"DOORWARD_PUBLICATION_{key}": seconds})

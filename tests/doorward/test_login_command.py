"""`doorward login`: the key file that it takes."""

import subprocess
from pathlib import Path

import pytest

from doorward.commands.login import ApiClient, read_key, trusted_root
from iam.errors import Refused


@pytest.fixture
def protected(tmp_path: Path) -> Path:
    key = tmp_path / "id_ed25519"
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "open sesame", "-f", key], check=True)
    return key


def test_a_passphrase_is_the_first_line_of_a_file(protected: Path, tmp_path: Path) -> None:
    words = tmp_path / "words"
    words.write_text("open sesame\r\nanything else\n")

    assert read_key(protected, words).sign(b"x")


def test_without_it_the_key_is_not_opened(protected: Path, tmp_path: Path) -> None:
    with pytest.raises(Refused, match="has a passphrase"):
        read_key(protected, None)
    wrong = tmp_path / "wrong"
    wrong.write_text("open barley\n")
    with pytest.raises(Refused, match="passphrase is wrong"):
        read_key(protected, wrong)
    with pytest.raises(Refused, match="missing cannot be read: No such file"):
        read_key(protected, tmp_path / "missing")


def test_a_root_that_is_named_is_the_one_that_is_trusted(tmp_path: Path) -> None:
    (tmp_path / "root.pem").write_text("the root beside the key")
    assert trusted_root(None, tmp_path) == tmp_path / "root.pem"
    missing = tmp_path / "missing.pem"
    assert trusted_root(missing, tmp_path) == missing
    with pytest.raises(Refused, match=r"The root .*missing\.pem cannot be read: No such file"):
        ApiClient("https://127.0.0.1:8443", missing)
    with pytest.raises(Refused, match=r"There is no certificate in .*root\.pem"):
        ApiClient("https://127.0.0.1:8443", tmp_path / "root.pem")

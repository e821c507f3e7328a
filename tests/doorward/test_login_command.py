"""`doorward login`: the key file that it takes."""

import subprocess
from pathlib import Path

import pytest

from doorward.commands.login import read_key
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

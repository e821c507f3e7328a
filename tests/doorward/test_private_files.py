"""Private files: whole, ours alone, and on the disk with their names before anything is built on them."""

import os
from pathlib import Path

import pytest

from doorward.embedded.process import write_private


def test_file_and_name_are_on_the_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    synchronised: list[tuple[str, bool]] = []
    file = tmp_path / "master.key"

    def fsync(descriptor: int) -> None:
        synchronised.append((str(Path(f"/proc/self/fd/{descriptor}").readlink()), file.exists()))

    monkeypatch.setattr(os, "fsync", fsync)  # a power cut cannot be made otherwise
    write_private(file, "secret")
    assert synchronised == [(f"{file}.new", False), (str(tmp_path), True)]
    assert (file.read_text(), file.stat().st_mode & 0o777) == ("secret", 0o600)

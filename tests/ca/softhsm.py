"""SoftHSM 2: a token in a folder, as an independent peer behind the PKCS#11 interface."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

_PLACES = map(Path, ("/usr/lib/softhsm/libsofthsm2.so", "/usr/lib64/softhsm/libsofthsm2.so"))
MODULE = next((path for path in _PLACES if path.exists()), None)
LABEL = "doorward"
PIN = "287401"

_missing = MODULE is None or shutil.which("softhsm2-util") is None
needs_softhsm = pytest.mark.skipif(
    _missing and "NOTHING_IS_SKIPPED" not in os.environ, reason="SoftHSM 2 is not installed (Debian: softhsm2)"
)
"""Skips where there is no SoftHSM; in `.ci/run`, which installs it, the tests fail instead."""


def make_token(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Make a token in `folder`, point SoftHSM to it for this test, and return the module."""
    assert MODULE is not None, "SoftHSM 2 is not installed"
    (folder / "tokens").mkdir(parents=True)
    configuration = folder / "softhsm2.conf"
    configuration.write_text(
        f"directories.tokendir = {folder / 'tokens'}\nobjectstore.backend = file\nlog.level = ERROR\n"
    )
    monkeypatch.setenv("SOFTHSM2_CONF", str(configuration))
    options = ["--init-token", "--free", "--label", LABEL, "--pin", PIN, "--so-pin", "99887766"]
    subprocess.run(["softhsm2-util", *options], check=True, capture_output=True)
    return MODULE

"""The examples for device makers, compiled and run as they stand."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from cryptography import x509

from tests.journey.conftest import RunningNode

EXAMPLES = Path(__file__).parents[2] / "examples"


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The C program, compiled without a warning."""
    if shutil.which("gcc") is None:
        pytest.skip("gcc is not installed")
    made = tmp_path_factory.mktemp("c") / "enrol"
    if not Path("/usr/include/openssl/ssl.h").exists():
        pytest.skip("libssl-dev is not installed")
    warnings = ["-Wall", "-Wextra", "-Wpedantic", "-Werror"]
    source = EXAMPLES / "c" / "enrol.c"
    subprocess.run(["gcc", *warnings, "-O2", "-o", made, source, "-lssl", "-lcrypto"], check=True)
    return made


@pytest.fixture
def folder(node: RunningNode, tmp_path: Path) -> Path:
    made = tmp_path / "pump"
    node.command("device", "bootstrap", "--id", f"pump-{tmp_path.name}", "--out", str(made))
    return made


def run(program: Path, node: RunningNode, folder: Path, host: str = "127.0.0.1") -> subprocess.CompletedProcess[str]:
    identifier = (folder / "device.id").read_text().strip()
    command = [str(program), host, node.est.rpartition(":")[2], str(folder), identifier]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)


def serial(folder: Path) -> int:
    return x509.load_pem_x509_certificate((folder / "device.pem").read_bytes()).serial_number


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost"])
def test_the_c_program_enrols_and_renews(program: Path, node: RunningNode, folder: Path, host: str) -> None:
    enrolled = run(program, node, folder, host)
    assert (enrolled.returncode, enrolled.stdout[:15]) == (0, "enrolled until "), enrolled.stderr
    assert (folder / "device.key").stat().st_mode & 0o777 == 0o600
    first, key = serial(folder), (folder / "device.key").read_bytes()
    renewed = run(program, node, folder, host)
    assert (renewed.returncode, renewed.stdout[:14]) == (0, "renewed until "), renewed.stderr
    assert serial(folder) != first
    assert (folder / "device.key").read_bytes() == key


def test_the_c_program_finds_a_lost_answer_again(program: Path, node: RunningNode, folder: Path) -> None:
    assert run(program, node, folder).returncode == 0
    first = serial(folder)
    (folder / "device.pem").unlink()
    assert run(program, node, folder).returncode == 0
    assert serial(folder) == first


def test_the_c_program_trusts_one_root_and_one_name(program: Path, node: RunningNode, folder: Path) -> None:
    (folder / "root.pem").write_bytes((folder / "bootstrap.pem").read_bytes().partition(b"-----END")[0] + b"")
    refused = run(program, node, folder)
    assert (refused.returncode, "root.pem cannot be used" in refused.stderr) == (1, True)
    own = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes"]
    files = ["-keyout", str(folder / "other.key"), "-out", str(folder / "root.pem"), "-subj", "/CN=other"]
    subprocess.run([*own, *files], check=True, capture_output=True)
    refused = run(program, node, folder)
    assert (refused.returncode, "certificate verify failed" in refused.stderr) == (1, True), refused.stderr
    (folder / "root.pem").write_bytes(node.root.read_bytes())
    refused = run(program, node, folder, "127.0.0.2")
    assert refused.returncode == 1
    assert not (folder / "device.pem").exists()


def test_the_c_program_passes_on_the_servers_words(program: Path, node: RunningNode, folder: Path) -> None:
    (folder / "device.id").write_text("another-device\n")
    refused = run(program, node, folder)
    assert (refused.returncode, "403 The client certificate does not entitle" in refused.stderr) == (1, True)


def test_the_python_device(node: RunningNode, folder: Path) -> None:
    program = [sys.executable, EXAMPLES / "device.py", "--once", "--url", node.est]
    done = subprocess.run(
        [*program, "--mqtt", f"127.0.0.1:{node.mqtt_certificate_port}", folder],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    assert [line.split()[0] for line in done.stdout.splitlines()] == ["enrolled", "connected", "renewed", "connected"]

"""Relying parties of a whole node: what certificates name is there, and tells of a revocation within a second."""

import subprocess
import time
from collections import Counter
from pathlib import Path
from urllib.request import urlopen

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import AuthorityInformationAccessOID

from tests.journey.conftest import RunningNode

WITHIN_SECONDS = 1.0
ASKED = 16
"""New connections: the kernel spreads them over the workers."""


@pytest.fixture(scope="module")
def leaf(node: RunningNode, scratch: Path) -> x509.Certificate:
    """A bootstrap certificate, in files beside its issuer's and the root's."""
    folder = scratch / "validation"
    folder.mkdir()
    node.command("device", "bootstrap", "--id", "meter-001", "--out", str(folder))
    made, issuer = x509.load_pem_x509_certificates((folder / "bootstrap.pem").read_bytes())[:2]
    (folder / "leaf.pem").write_bytes(made.public_bytes(Encoding.PEM))
    (folder / "issuer.pem").write_bytes(issuer.public_bytes(Encoding.PEM))
    return made


def fetch(url: str) -> bytes:
    with urlopen(url, timeout=10) as answer:  # noqa: S310 - of a certificate of our own
        content: bytes = answer.read()
    return content


def named_responder(leaf: x509.Certificate) -> str:
    access = leaf.extensions.get_extension_for_class(x509.AuthorityInformationAccess).value
    (url,) = [one.access_location.value for one in access if one.access_method == AuthorityInformationAccessOID.OCSP]
    return str(url)


def standing(node: RunningNode, scratch: Path, leaf: x509.Certificate, *arguments: str) -> str:
    """Ask with openssl at the address that the certificate names."""
    command = ["openssl", "ocsp", "-url", named_responder(leaf), "-issuer", "issuer.pem", "-cert", "leaf.pem"]
    done = subprocess.run(
        [*command, "-CAfile", node.root, *arguments],
        cwd=scratch / "validation",
        capture_output=True,
        text=True,
        check=True,
    )
    assert "Response verify OK" in done.stderr
    return done.stdout.splitlines()[0].removeprefix("leaf.pem: ")


def standings(node: RunningNode, scratch: Path, leaf: x509.Certificate) -> Counter[str]:
    return Counter(standing(node, scratch, leaf, "-no_nonce") for _ in range(ASKED))


def test_what_a_certificate_names_is_there(node: RunningNode, leaf: x509.Certificate, scratch: Path) -> None:
    assert named_responder(leaf) == f"{node.publication}/ocsp"
    point = leaf.extensions.get_extension_for_class(x509.CRLDistributionPoints).value[0]
    assert point.full_name is not None
    published = x509.load_der_x509_crl(fetch(point.full_name[0].value))
    freshest = published.extensions.get_extension_for_class(x509.FreshestCRL).value[0]
    assert freshest.full_name is not None
    assert x509.load_der_x509_crl(fetch(freshest.full_name[0].value)).issuer == published.issuer
    assert standing(node, scratch, leaf) == "good"


def test_a_hold_a_release_and_a_revocation_reach_every_worker_within_a_second(
    node: RunningNode, leaf: x509.Certificate, scratch: Path
) -> None:
    assert standings(node, scratch, leaf) == {"good": ASKED}
    admin, path = node.admin(), f"/api/ca/v1/certificates/{leaf.serial_number:032x}/status"
    admin.request("PUT", path, {"status": "REVOKED", "revocation_reason": "CertificateHold"})
    time.sleep(WITHIN_SECONDS)
    assert standings(node, scratch, leaf) == {"revoked": ASKED}
    admin.request("PUT", path, {"status": "REVOKED", "revocation_reason": "KeyCompromise"})
    time.sleep(WITHIN_SECONDS)
    assert (
        "keyCompromise"
        in subprocess.run(
            [
                "openssl",
                "ocsp",
                "-url",
                named_responder(leaf),
                "-issuer",
                "issuer.pem",
                "-cert",
                "leaf.pem",
                "-noverify",
            ],
            cwd=scratch / "validation",
            capture_output=True,
            text=True,
            check=True,
        ).stdout
    )
    deadline = time.monotonic() + 10
    while leaf.serial_number not in {
        one.serial_number for one in x509.load_der_x509_crl(fetch(f"{node.publication}/crl/factory.crl"))
    }:
        assert time.monotonic() < deadline
        time.sleep(0.2)


def test_the_check_says_until_when_it_counts(node: RunningNode) -> None:
    found = node.command("check").stdout
    (line,) = [one for one in found.splitlines() if "revocation:" in one]
    assert line.startswith("  ok ")
    for name in ("root", "issuing", "factory"):
        assert f"{name}: list " in line


def test_the_summary_names_the_address(node: RunningNode) -> None:
    assert f"Publication    {node.publication}: /crl, /ca, /ocsp" in node.log.read_text()

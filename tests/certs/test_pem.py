from collections.abc import Callable
from typing import TYPE_CHECKING

import pytest
from cryptography.hazmat.primitives.serialization import Encoding

from certs.errors import CertificateRefused, RefusalKind
from certs.pem import fingerprint_sha256, read_certificate, read_certificates, write_certificates

if TYPE_CHECKING:
    from tests.certs.conftest import Authority


def test_a_bundle_is_read_in_its_order(root: "Authority") -> None:
    held = (root.sign("b"), root.certificate, root.sign("a"))
    bundle = write_certificates(held)
    assert read_certificates(bundle) == held
    assert read_certificates(b"subject=CN = b\n" + bundle) == held
    assert bundle.count(b"-----BEGIN CERTIFICATE-----") == 3


def test_a_bundle_is_read_whole_or_not_at_all(root: "Authority") -> None:
    good = write_certificates([root.certificate])
    lines = good.splitlines(keepends=True)
    damaged = b"".join([lines[0], *lines[2:]])
    for bad in (b"", b"nothing here", good + damaged, good.replace(b"CERTIFICATE", b"PUBLIC KEY")):
        with pytest.raises(CertificateRefused) as refused:
            read_certificates(bad)
        assert refused.value.kind is RefusalKind.MALFORMED


def test_one_certificate_is_read_from_der(root: "Authority") -> None:
    der = root.certificate.public_bytes(Encoding.DER)
    assert read_certificate(der) == root.certificate
    for bad in (
        b"",
        der + b"\0",
        der[:-1],
        b"\x30\x80" + der[4:] + b"\0\0",
        der.replace(b"\xa0\x03\x02\x01\x02", b"\xa0\x03\x02\x01\x09"),
    ):
        with pytest.raises(CertificateRefused):
            read_certificate(bad)


def test_a_fingerprint_is_the_one_that_openssl_prints(root: "Authority", openssl: Callable[..., bytes]) -> None:
    pem = root.certificate.public_bytes(Encoding.PEM)
    printed = openssl("x509", "-noout", "-fingerprint", "-sha256", stdin=pem).decode().strip()
    fingerprint = fingerprint_sha256(root.certificate.public_bytes(Encoding.DER))
    assert printed.split("=")[1] == fingerprint
    assert len(fingerprint) == 32 * 3 - 1

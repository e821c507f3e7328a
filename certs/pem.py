"""PEM and fingerprints: certificates as people and configuration files hold them.

1. A bundle is read whole or not at all: every CERTIFICATE block must be one certificate. Text between the blocks is
   let be, since tools write subjects there.
2. A bundle without a certificate is refused: an empty file of anchors must not pass for an answer.
3. A bundle is written in the order given, one block after the other, and nothing between them.
4. A fingerprint is the SHA-256 of the DER, in upper-case hexadecimal with colons, as `openssl x509 -fingerprint` prints
   it.
"""

from collections.abc import Iterable
from hashlib import sha256

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from certs.errors import UNREADABLE, CertificateRefused, RefusalKind


def read_certificates(pem: bytes) -> tuple[x509.Certificate, ...]:
    """Read the certificates of a PEM bundle, in their order.

    Raises:
        CertificateRefused: MALFORMED, if there is none, or one that cannot be read.
    """
    try:
        return tuple(x509.load_pem_x509_certificates(pem))
    except UNREADABLE as error:
        raise CertificateRefused(RefusalKind.MALFORMED, f"the PEM cannot be read: {error}") from error


def read_certificate(der: bytes) -> x509.Certificate:
    """Read one certificate from DER.

    Raises:
        CertificateRefused: MALFORMED.
    """
    try:
        return x509.load_der_x509_certificate(der)
    except UNREADABLE as error:
        raise CertificateRefused(RefusalKind.MALFORMED, f"the certificate cannot be read: {error}") from error


def write_certificates(certificates: Iterable[x509.Certificate]) -> bytes:
    """Return a PEM bundle of the certificates, in their order."""
    return b"".join(certificate.public_bytes(Encoding.PEM) for certificate in certificates)


def fingerprint_sha256(der: bytes) -> str:
    """Return the SHA-256 of `der` as `AB:CD:...`, 32 pairs."""
    return sha256(der).digest().hex(":").upper()

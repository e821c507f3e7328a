"""Signatures: which algorithms count, and whether one verifies.

1. A signature counts if it is made over SHA-256, SHA-384 or SHA-512, or is Ed25519. Never MD5 or SHA-1.
2. The algorithm named outside the signed part of a certificate equals the one named inside (RFC 5280 4.1.1.2).
3. A signature is verified with one given key, whose algorithm is that of the signature. Whose key it is, and whether it
   may sign, is for `certs.chain` to say.
"""

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ec import ECDSA, EllipticCurvePublicKey
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.asymmetric.padding import PSS, PKCS1v15
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import SignatureAlgorithmOID

from certs.der import CertificateLayout, read_certificate_layout
from certs.errors import CertificateRefused, RefusalKind
from certs.keys import PublicKey

_STRONG_HASHES = frozenset({"sha256", "sha384", "sha512"})


def check_signature_algorithm(signed: x509.Certificate | x509.CertificateSigningRequest) -> None:
    """Check that a certificate or request is signed by an algorithm of rule 1.

    Raises:
        CertificateRefused: POLICY.
    """
    try:
        hash_algorithm = signed.signature_hash_algorithm
    except UnsupportedAlgorithm as error:
        raise CertificateRefused(RefusalKind.POLICY, f"unknown signature algorithm: {error}") from error
    if hash_algorithm is None:
        if signed.signature_algorithm_oid != SignatureAlgorithmOID.ED25519:
            oid = signed.signature_algorithm_oid.dotted_string
            raise CertificateRefused(RefusalKind.POLICY, f"signature algorithm {oid} is not accepted")
    elif hash_algorithm.name not in _STRONG_HASHES:
        raise CertificateRefused(RefusalKind.POLICY, f"signatures over {hash_algorithm.name} are not accepted")


def verify_signature(
    certificate: x509.Certificate, issuer_key: PublicKey, layout: CertificateLayout | None = None
) -> None:
    """Verify a certificate's signature with its issuer's key; `layout` spares reading it again.

    Raises:
        CertificateRefused: POLICY for a weak algorithm, SIGNATURE if it does not verify, MALFORMED if unreadable.
    """
    layout = layout or read_certificate_layout(certificate.public_bytes(Encoding.DER))
    if layout.inner_algorithm != layout.outer_algorithm:
        reason = "the signature algorithm inside the certificate is not the one outside"
        raise CertificateRefused(RefusalKind.MALFORMED, reason)
    check_signature_algorithm(certificate)
    try:
        _verify(certificate, issuer_key, layout.signed)
    except InvalidSignature:
        reason = "the signature does not verify with the issuer's key"
        raise CertificateRefused(RefusalKind.SIGNATURE, reason) from None
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:
        reason = f"unreadable signature algorithm: {error}"
        raise CertificateRefused(RefusalKind.MALFORMED, reason) from error


def _verify(certificate: x509.Certificate, key: PublicKey, signed: bytes) -> None:
    parameters = certificate.signature_algorithm_parameters
    match key:
        case EllipticCurvePublicKey() if isinstance(parameters, ECDSA):
            key.verify(certificate.signature, signed, parameters)
        case Ed25519PublicKey() if parameters is None:
            key.verify(certificate.signature, signed)
        case _:
            hash_algorithm = certificate.signature_hash_algorithm
            if isinstance(key, EllipticCurvePublicKey | Ed25519PublicKey) or hash_algorithm is None:
                raise InvalidSignature
            if not isinstance(parameters, PKCS1v15 | PSS):
                raise InvalidSignature
            key.verify(certificate.signature, signed, parameters, hash_algorithm)

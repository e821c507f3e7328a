"""Signatures: which algorithms count, and whether one verifies.

1. A signature counts if it is made over SHA-256, SHA-384 or SHA-512 (ECDSA, RSA), or is Ed25519 (RFC 8410) or ML-DSA
   (RFC 9881), which hash by themselves. Never MD5 or SHA-1.
2. The algorithm named outside the signed part of a certificate equals the one named inside (RFC 5280 4.1.1.2).
3. A signature is verified with one given key, whose algorithm is that of the signature; an ML-DSA signature has the
   parameter set of its key. Whose key it is, and whether it may sign, is for `certs.chain` to say.
4. A request is signed by the key that it holds (RFC 2986 4.2).
"""

from typing import Final

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ec import ECDSA, EllipticCurvePublicKey
from cryptography.hazmat.primitives.asymmetric.padding import PSS, PKCS1v15
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import SignatureAlgorithmOID

from certs.der import CertificateLayout, read_certificate_layout
from certs.errors import UNREADABLE, CertificateRefused, RefusalKind
from certs.keys import KeyAlgorithm, PublicKey, key_algorithm

Signed = x509.Certificate | x509.CertificateSigningRequest

_STRONG_HASHES = frozenset({"sha256", "sha384", "sha512"})
_HASHING_THEMSELVES: Final = {
    SignatureAlgorithmOID.ED25519: KeyAlgorithm.ED25519,
    SignatureAlgorithmOID.ML_DSA_44: KeyAlgorithm.ML_DSA_44,
    SignatureAlgorithmOID.ML_DSA_65: KeyAlgorithm.ML_DSA_65,
    SignatureAlgorithmOID.ML_DSA_87: KeyAlgorithm.ML_DSA_87,
}
"""The algorithms that are given the message and no hash of it, and the keys of each; none has parameters."""


def check_signature_algorithm(signed: Signed) -> None:
    """Check that a certificate or request is signed by an algorithm of rule 1.

    Raises:
        CertificateRefused: POLICY.
    """
    try:
        hash_algorithm = signed.signature_hash_algorithm
    except UnsupportedAlgorithm as error:
        raise CertificateRefused(RefusalKind.POLICY, f"unknown signature algorithm: {error}") from error
    if hash_algorithm is None:
        if signed.signature_algorithm_oid not in _HASHING_THEMSELVES:
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
    _verify(certificate, issuer_key, layout.signed, "the signature does not verify with the issuer's key")


def verify_request(request: x509.CertificateSigningRequest, own_key: PublicKey, signed: bytes) -> None:
    """Verify a request's signature over what is `signed` of it with the key that it holds, by rule 4.

    Raises:
        CertificateRefused: POLICY for a weak algorithm, SIGNATURE if it does not verify, MALFORMED if unreadable.
    """
    check_signature_algorithm(request)
    _verify(request, own_key, signed, "the request's signature does not verify with its own key")


def _verify(signed: Signed, key: PublicKey, content: bytes, otherwise: str) -> None:
    try:
        _verify_content(signed, key, content)
    except InvalidSignature:
        raise CertificateRefused(RefusalKind.SIGNATURE, otherwise) from None
    except (*UNREADABLE, UnsupportedAlgorithm) as error:
        reason = f"unreadable signature algorithm: {error}"
        raise CertificateRefused(RefusalKind.MALFORMED, reason) from error


def _verify_content(signed: Signed, key: PublicKey, content: bytes) -> None:
    parameters, hash_algorithm = signed.signature_algorithm_parameters, signed.signature_hash_algorithm
    match key:
        case EllipticCurvePublicKey():
            if not isinstance(parameters, ECDSA):
                raise InvalidSignature
            key.verify(signed.signature, content, parameters)
        case RSAPublicKey():
            if not isinstance(parameters, PKCS1v15 | PSS) or hash_algorithm is None:
                raise InvalidSignature
            key.verify(signed.signature, content, parameters, hash_algorithm)
        case _:
            if _HASHING_THEMSELVES.get(signed.signature_algorithm_oid) is not key_algorithm(key):
                raise InvalidSignature
            key.verify(signed.signature, content)

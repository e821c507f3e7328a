"""How a certificate stands, asked as a relying party does: by OCSP, at the address that the certificate names."""

import urllib.request
from typing import Final

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509 import ocsp
from cryptography.x509.oid import AuthorityInformationAccessOID, ExtendedKeyUsageOID

_SECONDS: Final = 5
_ANSWER_LIMIT_BYTES: Final = 64 * 1024


class NoAnswer(Exception):
    """Nobody says how the certificate stands, or not in a way that counts."""


def standing(certificate: x509.Certificate, issuer: x509.Certificate) -> str:
    """Return `good`, `revoked` or `unknown`, by an answer that the issuer or its delegate signed (RFC 6960 4.2.2.2)."""
    request = ocsp.OCSPRequestBuilder().add_certificate(certificate, issuer, SHA256()).build()
    asked = urllib.request.Request(  # noqa: S310 - http, by the certificate of a node of ours
        _responder(certificate),
        request.public_bytes(Encoding.DER),
        {"Content-Type": "application/ocsp-request"},
    )
    try:
        with urllib.request.urlopen(asked, timeout=_SECONDS) as answer:  # noqa: S310 - the same
            response = ocsp.load_der_ocsp_response(answer.read(_ANSWER_LIMIT_BYTES))
    except (OSError, ValueError) as error:
        raise NoAnswer(f"no OCSP answer: {error}") from error
    if response.response_status is not ocsp.OCSPResponseStatus.SUCCESSFUL:
        raise NoAnswer(f"the OCSP responder says {response.response_status.name}")
    _check_signature(response, issuer)
    return response.certificate_status.name.lower()


def _check_signature(response: ocsp.OCSPResponse, issuer: x509.Certificate) -> None:
    """Raise `NoAnswer` unless the issuer signed, or somebody to whom it gave that by certificate."""
    delegate = next(iter(response.certificates), issuer)
    key = delegate.public_key()
    try:
        if delegate != issuer:
            delegate.verify_directly_issued_by(issuer)
            usage = delegate.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
            if ExtendedKeyUsageOID.OCSP_SIGNING not in usage:
                raise NoAnswer("the OCSP responder's certificate is not for that")
        if not isinstance(key, ec.EllipticCurvePublicKey) or response.signature_hash_algorithm is None:
            raise NoAnswer("the OCSP answer is signed by a key of another kind than this node's")
        key.verify(response.signature, response.tbs_response_bytes, ec.ECDSA(response.signature_hash_algorithm))
    except (InvalidSignature, x509.ExtensionNotFound, ValueError, TypeError) as error:
        raise NoAnswer("the OCSP answer was not signed by the issuer or its delegate") from error


def _responder(certificate: x509.Certificate) -> str:
    access = certificate.extensions.get_extension_for_class(x509.AuthorityInformationAccess).value
    for one in access:
        if one.access_method == AuthorityInformationAccessOID.OCSP:
            return str(one.access_location.value)
    raise NoAnswer("the certificate names no OCSP responder")

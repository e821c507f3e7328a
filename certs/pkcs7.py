"""Certificates in CMS: the "certs-only" SignedData of EST and its like.

1. Written: a SignedData with no signer, no content, no CRL, holding the certificates (RFC 5652 5.1; RFC 7030 4.1.3 and
   4.2.3). DER, so that the same certificates give the same bytes: a SET OF is in ascending order of its encodings
   (X.690 11.6).
2. Read: the same, from whoever sent it, in DER or BER, and in the order that it stands there. A signer, a content, a
   certificate of another kind, nothing at all or bytes after the end are refused.
"""

from collections.abc import Iterable, Sequence

from asn1crypto.cms import ContentInfo
from cryptography import x509

from certs.der import CONTEXT_0, INTEGER, SEQUENCE, SET, encode
from certs.errors import UNREADABLE, CertificateRefused, RefusalKind

CERTS_ONLY_MAXIMUM_BYTES = 256 * 1024

_SIGNED_DATA = bytes.fromhex("06092a864886f70d010702")  # RFC 5652 5.1: 1.2.840.113549.1.7.2
_DATA = bytes.fromhex("06092a864886f70d010701")  # RFC 5652 4: 1.2.840.113549.1.7.1
_BEFORE_CERTIFICATES = encode(INTEGER, b"\x01") + encode(SET) + encode(SEQUENCE, _DATA)
_AFTER_CERTIFICATES = encode(SET)


def certs_only(certificates: Iterable[bytes]) -> bytes:
    """Return the SignedData that holds these certificates, each in DER, and nothing else, by rule 1."""
    held = encode(CONTEXT_0, *sorted(certificates))
    signed_data = encode(SEQUENCE, _BEFORE_CERTIFICATES, held, _AFTER_CERTIFICATES)
    return encode(SEQUENCE, _SIGNED_DATA, encode(CONTEXT_0, signed_data))


def parse_certs_only(der: bytes) -> list[x509.Certificate]:
    """Read the certificates of a certs-only SignedData, by rule 2.

    Raises:
        CertificateRefused: MALFORMED.
    """
    if len(der) > CERTS_ONLY_MAXIMUM_BYTES:
        raise CertificateRefused(RefusalKind.MALFORMED, f"the CMS is longer than {CERTS_ONLY_MAXIMUM_BYTES} bytes")
    try:
        return [x509.load_der_x509_certificate(each) for each in _held_certificates(der)]
    except UNREADABLE as error:
        raise CertificateRefused(RefusalKind.MALFORMED, f"the CMS cannot be read: {error}") from error


def _held_certificates(der: bytes) -> Sequence[bytes]:
    information = ContentInfo.load(der, strict=True)
    if information["content_type"].native != "signed_data":
        raise ValueError("it is not SignedData")
    signed_data = information["content"]
    if len(signed_data["signer_infos"]) > 0:
        raise ValueError("it has a signer")
    if signed_data["encap_content_info"]["content"].native is not None:
        raise ValueError("it has a content")
    held = signed_data["certificates"]
    if not held or any(choice.name != "certificate" for choice in held):
        raise ValueError("it holds no certificates, or others than X.509")
    return [choice.chosen.dump() for choice in held]

"""The DER that certificates and revocation lists share: times, numbers, extensions, and the signed envelope.

Built by hand on `certs.der`, for three reasons: what is the same for every certificate of one authority and profile is
encoded once; the signature is the signer's own affair, so that a key may lie in a token or be of an algorithm that no
library's builder knows; and a revocation list is one pass over its entries.
"""

from datetime import datetime

from cryptography import x509

from certs.der import (
    BIT_STRING,
    OCTET_STRING,
    SEQUENCE,
    TRUE,
    encode,
    encode_object_identifier,
)

ENUMERATED = 0x0A
UTC_TIME = 0x17
GENERALIZED_TIME = 0x18
CONTEXT_3 = 0xA3

_FIRST_GENERALIZED_YEAR = 2050


def encode_time(moment: datetime) -> bytes:
    """Return a Time of whole seconds in UTC: UTCTime through 2049, GeneralizedTime after (RFC 5280 4.1.2.5)."""
    if moment.year < _FIRST_GENERALIZED_YEAR:
        return encode(UTC_TIME, moment.strftime("%y%m%d%H%M%SZ").encode())
    return encode(GENERALIZED_TIME, moment.strftime("%Y%m%d%H%M%SZ").encode())


def encode_extension(value: x509.ExtensionType, *, critical: bool) -> bytes:
    """Return an Extension (RFC 5280 4.1)."""
    return encode_raw_extension(value.oid, value.public_bytes(), critical=critical)


def encode_raw_extension(oid: x509.ObjectIdentifier, value: bytes, *, critical: bool = False) -> bytes:
    """Return an Extension whose value is given in DER."""
    flag = TRUE if critical else b""  # DER leaves a default out
    return encode(SEQUENCE, encode_object_identifier(oid.dotted_string), flag, encode(OCTET_STRING, value))


def encode_signed(to_be_signed: bytes, algorithm: bytes, signature: bytes, *rest: bytes) -> bytes:
    """Return the SIGNED envelope of a certificate or list (RFC 5280 4.1.1, 5.1.1), and what an answer has after it."""
    return encode(SEQUENCE, to_be_signed, algorithm, encode(BIT_STRING, b"\0", signature), *rest)

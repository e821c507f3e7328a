"""OCSP (RFC 6960, in the narrow form of RFC 5019): a request in, a response out; no I/O.

The rules:

1. A request asks about one certificate or several, `CERTIFICATES_MAXIMUM` at most. Who asks and how he signed is not
   looked at. What cannot be read, and a critical extension that is not known, is `malformedRequest`.
2. A nonce (RFC 9654 2.1) of 16 to 32 octets is answered with the same. One of none, or of more than 128, is
   `malformedRequest`. One of 1 to 15 or of 33 to 128 is ignored, as the RFC permits: the response has none, and is the
   one that is prepared for all.
3. A response says of each certificate: good, revoked (with the time, and the reason unless unspecified) or unknown, by
   the very CertID that was asked with. Each status has a thisUpdate and a nextUpdate (RFC 5019 2.2.4).
4. It is signed by the responder, named by the SHA-1 of its key (RFC 6960 4.2.1), whose certificate comes along.
5. An error is a response without a signature: nothing but its status.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import Enum, IntEnum
from hashlib import sha1, sha256, sha384, sha512
from typing import Final

from asn1crypto import ocsp
from cryptography import x509
from cryptography.x509.oid import OCSPExtensionOID

from ca.encoding import ENUMERATED, GENERALIZED_TIME, encode_raw_extension, encode_signed
from ca.inventory import REASON_CODES, RevocationReason
from ca.issue import encoded_key
from ca.signers import Signer
from certs.der import (
    CONTEXT_0,
    CONTEXT_1,
    CONTEXT_2,
    OCTET_STRING,
    SEQUENCE,
    encode,
    encode_integer,
    encode_object_identifier,
    read_subject_public_key,
)

CERTIFICATES_MAXIMUM: Final = 32
NONCE_ECHOED: Final = range(16, 33)
NONCE_MAXIMUM: Final = 128

HASHES: Final = {
    "1.3.14.3.2.26": sha1,
    "2.16.840.1.101.3.4.2.1": sha256,
    "2.16.840.1.101.3.4.2.2": sha384,
    "2.16.840.1.101.3.4.2.3": sha512,
}
"""By which hash functions an issuer may be named."""

_BASIC = encode_object_identifier("1.3.6.1.5.5.7.48.1.1")
_NULL = b"\x05\x00"
_NONCE = OCSPExtensionOID.NONCE.dotted_string


class ResponseStatus(IntEnum):
    """How a request fares as a whole (RFC 6960 4.2.1)."""

    SUCCESSFUL = 0
    MALFORMED_REQUEST = 1
    INTERNAL_ERROR = 2
    TRY_LATER = 3
    SIGNATURE_REQUIRED = 5
    UNAUTHORIZED = 6


class StatusRefused(Exception):
    """A request that gets an error for its response, for a `reason` that the log may have."""

    def __init__(self, status: ResponseStatus, reason: str) -> None:
        super().__init__(reason)
        self.status = status
        self.reason = reason


@dataclass(frozen=True, slots=True)
class IssuerName:
    """How a request names an issuer: a hash function by its OID, and the hashes of the issuer's name and key."""

    algorithm: str
    name_hash: bytes
    key_hash: bytes


@dataclass(frozen=True, slots=True)
class CertificateId:
    """Which certificate is asked about, and the CertID in DER as it was asked with."""

    issuer: IssuerName
    serial: int
    der: bytes


@dataclass(frozen=True, slots=True)
class StatusRequest:
    """A request that was read; `nonce` is None if there is none to be answered."""

    certificates: tuple[CertificateId, ...]
    nonce: bytes | None


class Standing(Enum):
    """What a certificate that is not revoked is, by the CertStatus in DER."""

    GOOD = b"\x80\x00"
    UNKNOWN = b"\x82\x00"
    """Such a one was never issued here."""


@dataclass(frozen=True, slots=True)
class Revoked:
    """What a certificate is that is revoked or on hold."""

    at: datetime
    reason: RevocationReason


class ResponderIdentity:
    """Who signs: the responder's certificate and key, and what of a response is the same for all of them."""

    def __init__(self, certificate: x509.Certificate, der: bytes, signer: Signer) -> None:
        self.certificate = certificate
        self.signer = signer
        key = read_subject_public_key(encoded_key(signer.public_key))
        # RFC 6960 4.2.1 has SHA-1 here, as a name and not for its strength.
        self.name = encode(CONTEXT_2, encode(OCTET_STRING, sha1(key, usedforsecurity=False).digest()))
        self.certificates = encode(CONTEXT_0, encode(SEQUENCE, der))


def issuer_names(issuer: x509.Certificate) -> list[IssuerName]:
    """Return all names that requests may have for an issuer (RFC 6960 4.1.1)."""
    name = issuer.subject.public_bytes()
    key = read_subject_public_key(encoded_key(issuer.public_key()))  # type: ignore[arg-type] # an authority's signs
    return [IssuerName(oid, hashed(name).digest(), hashed(key).digest()) for oid, hashed in HASHES.items()]


def read_request(der: bytes) -> StatusRequest:
    """Read a request; raise `StatusRefused` (malformed) by rules 1 and 2."""
    try:
        read = ocsp.OCSPRequest.load(der, strict=True)["tbs_request"]
        asked = tuple(_read_certificate_id(one["req_cert"]) for one in read["request_list"])
        extensions = [
            (one["extn_id"].dotted, bool(one["critical"].native), one["extn_value"].contents)
            for one in read["request_extensions"]
        ]
    except (ValueError, TypeError, KeyError, OverflowError) as error:
        raise _malformed(f"not a request: {error}") from error
    if not 1 <= len(asked) <= CERTIFICATES_MAXIMUM:
        raise _malformed(f"it asks about {len(asked)} certificates")
    return StatusRequest(asked, _nonce_to_answer(extensions))


def plain_request(request: StatusRequest) -> bytes | None:
    """Return the request that asks the same and says nothing else, in DER, if all who send that may have one answer.

    There is none for a nonce, for several certificates, and for a CertID that is not written as everybody writes it: in
    DER, the hash function's parameters being NULL or absent. An answer repeats the CertID, so such a one is a response
    of its own; and as each certificate could be named so in any number of ways, none of them is worth keeping.
    """
    if request.nonce is not None or len(request.certificates) > 1:
        return None
    (one,) = request.certificates
    if one.issuer.algorithm not in HASHES or one.serial < 0:
        return None
    algorithm = encode_object_identifier(one.issuer.algorithm)
    named = encode(OCTET_STRING, one.issuer.name_hash) + encode(OCTET_STRING, one.issuer.key_hash)
    rest = named + encode_integer(one.serial)
    if one.der not in (encode(SEQUENCE, encode(SEQUENCE, algorithm, given), rest) for given in (b"", _NULL)):
        return None
    return encode(SEQUENCE, encode(SEQUENCE, encode(SEQUENCE, encode(SEQUENCE, one.der))))


def _read_certificate_id(one: ocsp.CertId) -> CertificateId:
    issuer = IssuerName(
        one["hash_algorithm"]["algorithm"].dotted, one["issuer_name_hash"].native, one["issuer_key_hash"].native
    )
    return CertificateId(issuer, one["serial_number"].native, one.dump())


def _nonce_to_answer(extensions: Sequence[tuple[str, bool, bytes]]) -> bytes | None:
    nonces = [value for oid, _, value in extensions if oid == _NONCE]
    if any(is_critical and oid != _NONCE for oid, is_critical, _ in extensions):
        raise _malformed("a critical extension is not known here")
    if not nonces:
        return None
    if len(nonces) > 1:
        raise _malformed("it has two nonces")
    try:
        nonce = ocsp.OctetString.load(nonces[0], strict=True).native
    except (ValueError, TypeError) as error:
        raise _malformed(f"the nonce is no OCTET STRING: {error}") from error
    if not 1 <= len(nonce) <= NONCE_MAXIMUM:
        raise _malformed(f"the nonce has {len(nonce)} octets")
    return nonce if len(nonce) in NONCE_ECHOED else None


def build_response(
    responder: ResponderIdentity,
    answers: Sequence[tuple[CertificateId, Standing | Revoked]],
    *,
    nonce: bytes | None,
    this_update: datetime,
    next_update: datetime,
) -> bytes:
    """Sign a response; raise `Refused` (unavailable) if the responder's key is gone."""
    updates = _encode_time(this_update) + encode(CONTEXT_0, _encode_time(next_update))
    singles = [encode(SEQUENCE, asked.der, _encode_standing(found), updates) for asked, found in answers]
    extensions = b""
    if nonce is not None:
        extension = encode_raw_extension(OCSPExtensionOID.NONCE, encode(OCTET_STRING, nonce))
        extensions = encode(CONTEXT_1, encode(SEQUENCE, extension))
    to_be_signed = encode(SEQUENCE, responder.name, _encode_time(this_update), encode(SEQUENCE, *singles), extensions)
    signer = responder.signer
    signature = signer.sign(to_be_signed)
    basic = encode_signed(to_be_signed, signer.algorithm, signature, responder.certificates)
    response = encode(CONTEXT_0, encode(SEQUENCE, _BASIC, encode(OCTET_STRING, basic)))
    return encode(SEQUENCE, _encode_status(ResponseStatus.SUCCESSFUL), response)


def error_response(status: ResponseStatus) -> bytes:
    """Return the response that says nothing but that (rule 5)."""
    return encode(SEQUENCE, _encode_status(status))


def _encode_status(status: ResponseStatus) -> bytes:
    return encode(ENUMERATED, bytes((status,)))


def _encode_standing(found: Standing | Revoked) -> bytes:
    if isinstance(found, Standing):
        return found.value
    if found.reason is RevocationReason.UNSPECIFIED:  # RFC 5280 5.3.1: said by silence
        return encode(CONTEXT_1, _encode_time(found.at))
    reason = encode(CONTEXT_0, encode(ENUMERATED, bytes((REASON_CODES[found.reason],))))
    return encode(CONTEXT_1, _encode_time(found.at), reason)


def _encode_time(moment: datetime) -> bytes:
    return encode(GENERALIZED_TIME, moment.strftime("%Y%m%d%H%M%SZ").encode())


def _malformed(reason: str) -> StatusRefused:
    return StatusRefused(ResponseStatus.MALFORMED_REQUEST, reason)

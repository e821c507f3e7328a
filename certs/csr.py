"""Certification requests: bytes that anyone may send, and the checked, frozen request made of them.

1. At most 16 KiB of DER (RFC 2986), strict, with nothing after it.
2. The subject is printable and within its bounds (`certs.names.check_name`); whom it names is decided elsewhere.
3. The key is one that may be certified at all (`certs.keys`), in its one accepted encoding.
4. The request is signed by that key with a strong algorithm: the sender has the private key.
5. At most one challengePassword, of one value, printable, of 1 to 255 characters (RFC 2985 5.4.1).
6. At most one extension request; no extension twice; alternative names without control characters. The extensions are
   what the sender asks for, nothing more: the profile decides (`certs.profile`).
7. A request for a key that somebody else makes (RFC 7030 4.4.1) has a key and a signature only so that it is a request:
   both are ignored, and every other rule holds. It may say how the key is to be encrypted (`certs.key_protection`).
8. In EST the request comes in base64 (RFC 8951 3), where CR, LF, space and tab may stand anywhere and nothing else may.
   A PEM block, alone, is taken too.
"""

import re
from base64 import b64decode
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from hashlib import sha256

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from cryptography.x509.oid import AttributeOID, ObjectIdentifier

from certs.der import CONTEXT_0, SEQUENCE, SET, Element, RequestLayout, read_elements, read_request_layout
from certs.errors import UNREADABLE, CertificateRefused, RefusalKind
from certs.key_protection import WantedProtection, read_wanted_protection
from certs.keys import REQUEST_KEYS, KeyPolicy, PublicKey, check_key_encoding, check_public_key, read_public_key
from certs.names import alternative_name, check_alternative_name, check_name, has_control_character
from certs.signature import verify_request

REQUEST_MAXIMUM_BYTES = 16 * 1024
BASE64_MAXIMUM_BYTES = 2 * REQUEST_MAXIMUM_BYTES
CHALLENGE_PASSWORD_MAXIMUM = 255  # RFC 2985, pkcs-9-ub-challengePassword

_EXTENSION_REQUESTS = frozenset(
    {
        ObjectIdentifier("1.2.840.113549.1.9.14"),  # RFC 2985 5.4.2
        ObjectIdentifier("1.3.6.1.4.1.311.2.1.14"),  # Microsoft's, which the parser reads as well
    }
)
_WHITE_SPACE = b"\r\n\t "
_BASE64 = re.compile(rb"[A-Za-z0-9+/]+={0,2}")
_ARMOUR = re.compile(
    rb"-----BEGIN ((?:NEW )?CERTIFICATE REQUEST)-----[\r\n\t ]+"
    rb"([A-Za-z0-9+/=\r\n\t ]+)"
    rb"-----END \1-----"
)


@dataclass(frozen=True, slots=True)
class CertificateRequest:
    """A request that has passed every rule of this module."""

    der: bytes
    sha256: bytes
    subject: x509.Name
    subject_alternative_name: tuple[x509.GeneralName, ...]
    public_key: PublicKey
    spki_der: bytes
    spki_sha256: bytes
    challenge_password: str | None
    extensions: tuple[x509.Extension[x509.ExtensionType], ...]


@dataclass(frozen=True, slots=True)
class KeylessRequest:
    """A request for a key that somebody else makes; it has passed every rule of this module but 3 and 4.

    Attributes:
        spki_sha256: Of the key that stands in it and counts for nothing: it only tells one request from another.
    """

    der: bytes
    spki_sha256: bytes
    subject: x509.Name
    subject_alternative_name: tuple[x509.GeneralName, ...]
    challenge_password: str | None
    extensions: tuple[x509.Extension[x509.ExtensionType], ...]
    protection: WantedProtection | None

    def with_key(self, key: PublicKey) -> CertificateRequest:
        """Return the request as if `key` had stood in it."""
        spki_der = key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
        return CertificateRequest(
            der=self.der,
            sha256=sha256(self.der).digest(),
            subject=self.subject,
            subject_alternative_name=self.subject_alternative_name,
            public_key=key,
            spki_der=spki_der,
            spki_sha256=sha256(spki_der).digest(),
            challenge_password=self.challenge_password,
            extensions=self.extensions,
        )


NamedRequest = CertificateRequest | KeylessRequest


def decode_base64_request(body: bytes) -> bytes:
    """Decode the body of an EST request, or a PEM block, to DER, by rule 8.

    Raises:
        CertificateRefused: MALFORMED.
    """
    if len(body) > BASE64_MAXIMUM_BYTES:
        raise CertificateRefused(RefusalKind.MALFORMED, f"the request is longer than {BASE64_MAXIMUM_BYTES} bytes")
    text = body.strip(_WHITE_SPACE)
    if text.startswith(b"-"):
        armour = _ARMOUR.fullmatch(text)
        if armour is None:
            raise CertificateRefused(RefusalKind.MALFORMED, "not one PEM block of a certificate request")
        text = armour[2]
    text = text.translate(None, delete=_WHITE_SPACE)
    if _BASE64.fullmatch(text) is None or len(text) % 4:
        raise CertificateRefused(RefusalKind.MALFORMED, "the request is not base64")
    return b64decode(text)


def parse_request(der: bytes, policy: KeyPolicy = REQUEST_KEYS) -> CertificateRequest:
    """Read and check a certification request, by rules 1 to 6.

    Raises:
        CertificateRefused: MALFORMED, POLICY (key, algorithm) or SIGNATURE.
    """
    request, layout = _read(der)
    public_key = check_public_key(read_public_key(request), policy)
    spki_der = check_key_encoding(public_key, layout.subject_public_key_info)
    verify_request(request, public_key, layout.signed)
    rest = _without_key(der, request, layout, None)
    return CertificateRequest(
        der=der,
        sha256=sha256(der).digest(),
        subject=rest.subject,
        subject_alternative_name=rest.subject_alternative_name,
        public_key=public_key,
        spki_der=spki_der,
        spki_sha256=sha256(spki_der).digest(),
        challenge_password=rest.challenge_password,
        extensions=rest.extensions,
    )


def parse_keyless_request(der: bytes) -> KeylessRequest:
    """Read and check a request for a key that somebody else makes, by rules 1, 2 and 5 to 7.

    Raises:
        CertificateRefused: MALFORMED.
    """
    request, layout = _read(der)
    return _without_key(der, request, layout, read_wanted_protection(_attributes(der)))


def _read(der: bytes) -> tuple[x509.CertificateSigningRequest, RequestLayout]:
    if len(der) > REQUEST_MAXIMUM_BYTES:
        raise CertificateRefused(RefusalKind.MALFORMED, f"the request is longer than {REQUEST_MAXIMUM_BYTES} bytes")
    with _malformed("the request cannot be read"):
        request = x509.load_der_x509_csr(der)
    layout = read_request_layout(der)
    check_name(layout.subject)
    return request, layout


def _without_key(
    der: bytes,
    request: x509.CertificateSigningRequest,
    layout: RequestLayout,
    protection: WantedProtection | None,
) -> KeylessRequest:
    challenge_password = _challenge_password(request)
    with _malformed("the requested extensions cannot be read"):
        extensions = tuple(request.extensions)
    subject_alternative_name = alternative_name(request)
    check_alternative_name(subject_alternative_name)
    with _malformed("the subject cannot be read"):
        subject = request.subject
    return KeylessRequest(
        der=der,
        spki_sha256=sha256(layout.subject_public_key_info).digest(),
        subject=subject,
        subject_alternative_name=subject_alternative_name,
        challenge_password=challenge_password,
        extensions=extensions,
        protection=protection,
    )


def _attributes(der: bytes) -> list[tuple[x509.ObjectIdentifier, tuple[Element, ...]]]:
    """Return a request's attributes with all their values (RFC 2986 4.1), of which the library hands out one each."""
    (request,) = read_elements(der)
    _, _, _, *rest = request.holds(SEQUENCE)[0].holds(SEQUENCE)
    found = []
    for attribute in rest[0].holds(CONTEXT_0) if rest else ():
        match attribute.holds(SEQUENCE):
            case (kind, values):
                found.append((kind.object_identifier(), values.holds(SET)))
            case _:
                raise CertificateRefused(RefusalKind.MALFORMED, "an attribute is not a type and its values")
    return found


def _challenge_password(request: x509.CertificateSigningRequest) -> str | None:
    with _malformed("the request's attributes cannot be read"):
        attributes = tuple(request.attributes)
    if sum(attribute.oid in _EXTENSION_REQUESTS for attribute in attributes) > 1:
        raise CertificateRefused(RefusalKind.MALFORMED, "the request has more than one extension request")
    passwords: list[bytes] = [
        attribute.value for attribute in attributes if attribute.oid == AttributeOID.CHALLENGE_PASSWORD
    ]
    if not passwords:
        return None
    if len(passwords) > 1:
        raise CertificateRefused(RefusalKind.MALFORMED, "the request has more than one challengePassword")
    with _malformed("the challengePassword is not text"):
        text = passwords[0].decode("utf-8")
    if not 0 < len(text) <= CHALLENGE_PASSWORD_MAXIMUM or has_control_character(text):
        raise CertificateRefused(RefusalKind.MALFORMED, "the challengePassword is empty, too long or not printable")
    return text


@contextmanager
def _malformed(what: str) -> Iterator[None]:
    """Turn what a parser raises at bad input into a refusal."""
    try:
        yield
    except UNREADABLE as error:
        raise CertificateRefused(RefusalKind.MALFORMED, f"{what}: {error}") from error

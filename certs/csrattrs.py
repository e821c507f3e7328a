"""CSR attributes: what an EST server wants a certification request to hold (RFC 7030 4.5.2, RFC 8951 3.5, RFC 9908).

There are two forms of saying it, and one value, `WantedRequest`, that either says:

1. As attributes (RFC 9908 3.2): an OID for what the client supplies by itself (challengePassword, an extension, the
   signature's algorithm), an attribute for what has a value. The kind of key is one attribute whose type is the key's
   algorithm and whose value is the curve or the modulus' length, or nothing. Extensions with values are one
   id-ExtensionReq that holds exactly one Extensions, in which no extension stands twice.
2. As a template (RFC 9908 3.4): a CertificationRequestInfo in which subject, key and values may be left out. Its
   extensions are an id-ExtensionReq if all have values, else an id-aa-extensionReqTemplate, never both. An RSA key's
   length is that of a placeholder's modulus. A challengePassword is wanted by its attribute without a value, and by its
   OID beside the template, for clients that know no templates.

Written here is one form or the other. Read is whatever a server sent, strictly in DER: a template where there is one,
since it counts alone (RFC 9908 4); what nobody here knows is told apart and never an error (RFC 7030 4.5.2).
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Final, TypeVar

from cryptography import x509
from cryptography.x509.oid import AttributeOID, SignatureAlgorithmOID

from certs.der import (
    BIT_STRING,
    BOOLEAN,
    CONTEXT_0,
    CONTEXT_1,
    IA5_STRING,
    INTEGER,
    NULL,
    OBJECT_IDENTIFIER,
    OCTET_STRING,
    PRINTABLE_STRING,
    SEQUENCE,
    SET,
    TRUE,
    UTF8_STRING,
    Element,
    encode,
    encode_integer,
    encode_object_identifier,
    read_elements,
)
from certs.errors import CertificateRefused, RefusalKind
from certs.keys import RSA_EXPONENT_MINIMUM, KeyAlgorithm

CSR_ATTRIBUTES_MAXIMUM_BYTES = 64 * 1024

EXTENSION_REQUEST = x509.ObjectIdentifier("1.2.840.113549.1.9.14")
REQUEST_TEMPLATE = x509.ObjectIdentifier("1.2.840.113549.1.9.16.2.61")  # id-aa-certificationRequestInfoTemplate
EXTENSION_TEMPLATE = x509.ObjectIdentifier("1.2.840.113549.1.9.16.2.62")  # id-aa-extensionReqTemplate

_EC_PUBLIC_KEY = x509.ObjectIdentifier("1.2.840.10045.2.1")
_RSA_ENCRYPTION = x509.ObjectIdentifier("1.2.840.113549.1.1.1")
_EXTENSION_ARC = "2.5.29."  # RFC 5280 4.2.1: id-ce

_CURVES: Final = {
    KeyAlgorithm.P256: x509.ObjectIdentifier("1.2.840.10045.3.1.7"),
    KeyAlgorithm.P384: x509.ObjectIdentifier("1.3.132.0.34"),
    KeyAlgorithm.P521: x509.ObjectIdentifier("1.3.132.0.35"),
}
_WITHOUT_PARAMETERS: Final = {
    KeyAlgorithm.ED25519: SignatureAlgorithmOID.ED25519,
    KeyAlgorithm.ML_DSA_44: SignatureAlgorithmOID.ML_DSA_44,
    KeyAlgorithm.ML_DSA_65: SignatureAlgorithmOID.ML_DSA_65,
    KeyAlgorithm.ML_DSA_87: SignatureAlgorithmOID.ML_DSA_87,
}
SIGNATURES: Final = {
    KeyAlgorithm.P256: SignatureAlgorithmOID.ECDSA_WITH_SHA256,
    KeyAlgorithm.P384: SignatureAlgorithmOID.ECDSA_WITH_SHA384,
    KeyAlgorithm.P521: SignatureAlgorithmOID.ECDSA_WITH_SHA512,
    KeyAlgorithm.RSA: SignatureAlgorithmOID.RSA_WITH_SHA256,
}
"""What a request is best signed with, by its key; the algorithms that are missing leave no choice."""

_SIGNATURE_OIDS = frozenset(
    {
        *SIGNATURES.values(),
        SignatureAlgorithmOID.RSA_WITH_SHA384,
        SignatureAlgorithmOID.RSA_WITH_SHA512,
        SignatureAlgorithmOID.RSASSA_PSS,
    }
)
_TEXT_TAGS = frozenset({UTF8_STRING, PRINTABLE_STRING, IA5_STRING})
_VERSION_1 = encode_integer(0)
_LENGTH_MAXIMUM_BYTES = 3

Item = TypeVar("Item")


@dataclass(frozen=True, slots=True)
class WantedKey:
    """A kind of key: None for its algorithm is any elliptic curve; None for an RSA key's bits is any length."""

    algorithm: KeyAlgorithm | None
    rsa_bits: int | None = None


@dataclass(frozen=True, slots=True)
class WantedExtension:
    """An extension with its value in DER; None leaves the value to the client."""

    oid: x509.ObjectIdentifier
    value: bytes | None
    critical: bool = False


@dataclass(frozen=True, slots=True)
class WantedName:
    """An attribute of the subject; None leaves the value to the client."""

    oid: x509.ObjectIdentifier
    value: str | None


@dataclass(frozen=True, slots=True)
class WantedRequest:
    """What a request should hold; whatever is None or empty is the client's own affair.

    Attributes:
        signature: What it is signed with; said as attributes alone, as a template has no place for it.
        subject: Its subject; said in a template alone, where an OID among the attributes would not say enough.
        unknown: What a server wants that nobody here knows; read, never written.
    """

    challenge_password: bool = False
    key: WantedKey | None = None
    signature: x509.ObjectIdentifier | None = None
    extensions: tuple[WantedExtension, ...] = ()
    subject: tuple[WantedName, ...] = ()
    unknown: tuple[x509.ObjectIdentifier, ...] = ()


# --- Writing --------------------------------------------------------------------------------------------------------


def write_attributes(wanted: WantedRequest) -> bytes:
    """Return CsrAttrs in the form of attributes, by rule 1; an empty SEQUENCE if nothing is wanted."""
    parts = []
    if wanted.challenge_password:
        parts.append(_oid(AttributeOID.CHALLENGE_PASSWORD))
    if wanted.key is not None:
        parts.append(_attribute(*_key_attribute(wanted.key)))
    parts += [_oid(one.oid) for one in wanted.extensions if one.value is None]
    given = [one for one in wanted.extensions if one.value is not None]
    if given:
        parts.append(_attribute(EXTENSION_REQUEST, [_extensions(given)]))
    if wanted.signature is not None:
        parts.append(_oid(wanted.signature))
    return encode(SEQUENCE, *parts)


def write_template(wanted: WantedRequest) -> bytes:
    """Return CsrAttrs in the form of a template, by rule 2."""
    attributes = []
    beside = b""
    if wanted.challenge_password:
        attributes.append(_attribute(AttributeOID.CHALLENGE_PASSWORD, []))
        beside = _oid(AttributeOID.CHALLENGE_PASSWORD)
    if wanted.extensions:
        is_complete = all(one.value is not None for one in wanted.extensions)
        kind = EXTENSION_REQUEST if is_complete else EXTENSION_TEMPLATE
        attributes.append(_attribute(kind, [_extensions(wanted.extensions)]))
    template = encode(
        SEQUENCE,
        _VERSION_1,
        encode(SEQUENCE, *map(_name, wanted.subject)) if wanted.subject else b"",
        _key_template(wanted.key),
        encode(CONTEXT_1, *sorted(attributes)),
    )
    return encode(SEQUENCE, beside, _attribute(REQUEST_TEMPLATE, [template]))


def _oid(identifier: x509.ObjectIdentifier) -> bytes:
    return encode_object_identifier(identifier.dotted_string)


def _attribute(kind: x509.ObjectIdentifier, values: Sequence[bytes]) -> bytes:
    return encode(SEQUENCE, _oid(kind), encode(SET, *sorted(values)))


def _extensions(extensions: Iterable[WantedExtension]) -> bytes:
    return encode(SEQUENCE, *map(_extension, extensions))


def _extension(one: WantedExtension) -> bytes:
    value = b"" if one.value is None else encode(OCTET_STRING, one.value)
    return encode(SEQUENCE, _oid(one.oid), TRUE if one.critical else b"", value)


def _name(one: WantedName) -> bytes:
    value = b"" if one.value is None else encode(UTF8_STRING, one.value.encode())
    return encode(SET, encode(SEQUENCE, _oid(one.oid), value))


def _key_attribute(key: WantedKey) -> tuple[x509.ObjectIdentifier, list[bytes]]:
    if key.algorithm is None:
        return _EC_PUBLIC_KEY, []
    if key.algorithm is KeyAlgorithm.RSA:
        return _RSA_ENCRYPTION, [] if key.rsa_bits is None else [encode_integer(key.rsa_bits)]
    curve = _CURVES.get(key.algorithm)
    return (_WITHOUT_PARAMETERS[key.algorithm], []) if curve is None else (_EC_PUBLIC_KEY, [_oid(curve)])


def _key_template(key: WantedKey | None) -> bytes:
    """Return the key's part; a template cannot ask for a curve of any kind, so it leaves that out."""
    if key is None or key.algorithm is None:
        return b""
    if key.algorithm is not KeyAlgorithm.RSA:
        kind, values = _key_attribute(key)
        return encode(CONTEXT_0, encode(SEQUENCE, _oid(kind), *values))
    algorithm = encode(SEQUENCE, _oid(_RSA_ENCRYPTION), NULL)
    if key.rsa_bits is None:
        return encode(CONTEXT_0, algorithm)
    # RFC 9908 3.4: a dummy public key value of the desired RSA modulus length
    placeholder = encode(SEQUENCE, encode_integer((1 << key.rsa_bits) - 1), encode_integer(RSA_EXPONENT_MINIMUM))
    return encode(CONTEXT_0, algorithm, encode(BIT_STRING, b"\0", placeholder))


# --- Reading --------------------------------------------------------------------------------------------------------


def parse_csr_attributes(der: bytes) -> WantedRequest:
    """Read what a server wants, in whichever form it says so.

    Raises:
        CertificateRefused: MALFORMED.
    """
    if len(der) > CSR_ATTRIBUTES_MAXIMUM_BYTES:
        reason = f"the CSR attributes are longer than {CSR_ATTRIBUTES_MAXIMUM_BYTES} bytes"
        raise CertificateRefused(RefusalKind.MALFORMED, reason)
    items = _only(read_elements(der), "CsrAttrs").holds(SEQUENCE)
    plain = [one.object_identifier() for one in items if one.tag == OBJECT_IDENTIFIER]
    attributes = [_read_attribute(one) for one in items if one.tag != OBJECT_IDENTIFIER]
    templates = [values for kind, values in attributes if kind == REQUEST_TEMPLATE]
    if templates:
        return _read_template(_only(templates, "template"))
    return _read_plain(plain, attributes)


_Attribute = tuple[x509.ObjectIdentifier, tuple[Element, ...]]


def _read_plain(plain: list[x509.ObjectIdentifier], attributes: list[_Attribute]) -> WantedRequest:
    requests = [values for kind, values in attributes if kind == EXTENSION_REQUEST]
    held = _only(_only(requests, "id-ExtensionReq"), "Extensions").holds(SEQUENCE) if requests else ()
    to_fill_in = [one for one in plain if one.dotted_string.startswith(_EXTENSION_ARC)]
    read = [
        *((kind, _read_key(kind, ())) for kind in plain),
        *((kind, _read_key(kind, values)) for kind, values in attributes if kind != EXTENSION_REQUEST),
    ]
    others = [kind for kind, key in read if key is None]
    signatures = [kind for kind in others if kind in _SIGNATURE_OIDS]
    known = {AttributeOID.CHALLENGE_PASSWORD, *signatures, *to_fill_in}
    return WantedRequest(
        challenge_password=AttributeOID.CHALLENGE_PASSWORD in others,
        key=_at_most_one([key for _, key in read if key is not None], "kind of key"),
        signature=_at_most_one(signatures, "signature algorithm"),
        extensions=_once_each(
            [
                *(_read_extension(one, value_is_optional=False) for one in held),
                *(WantedExtension(one, None) for one in to_fill_in),
            ]
        ),
        unknown=tuple(kind for kind in others if kind not in known),
    )


def _read_template(values: tuple[Element, ...]) -> WantedRequest:
    version, parts = _first(_only(values, "template").holds(SEQUENCE), "version")
    if version.encoded != _VERSION_1:
        raise _malformed("the template's version is not 1")
    subject = tuple(map(_read_name, parts.pop(0).holds(SEQUENCE))) if parts and parts[0].tag == SEQUENCE else ()
    key = _read_key_template(parts.pop(0)) if parts and parts[0].tag == CONTEXT_0 else None
    attributes = [_read_attribute(one) for one in _only(parts, "attributes").holds(CONTEXT_1)]
    requests = [one for one in attributes if one[0] in {EXTENSION_REQUEST, EXTENSION_TEMPLATE}]
    extensions: list[WantedExtension] = []
    if requests:
        kind, held = _only(requests, "extension request")
        read = partial(_read_extension, value_is_optional=kind == EXTENSION_TEMPLATE)
        extensions += map(read, _only(held, "Extensions").holds(SEQUENCE))
    others = [kind for kind, _ in attributes if kind not in {EXTENSION_REQUEST, EXTENSION_TEMPLATE}]
    return WantedRequest(
        challenge_password=AttributeOID.CHALLENGE_PASSWORD in others,
        key=key,
        extensions=_once_each(extensions),
        subject=subject,
        unknown=tuple(one for one in others if one != AttributeOID.CHALLENGE_PASSWORD),
    )


def _read_attribute(element: Element) -> _Attribute:
    match element.holds(SEQUENCE):
        case (kind, values):
            return kind.object_identifier(), values.holds(SET)
        case _:
            raise _malformed("an attribute is not a type and its values")


def _read_extension(element: Element, *, value_is_optional: bool) -> WantedExtension:
    kind, rest = _first(element.holds(SEQUENCE), "type of an extension")
    critical = bool(rest) and rest[0].tag == BOOLEAN
    if critical and rest.pop(0).encoded != TRUE:
        raise _malformed("a critical flag is not TRUE, which is the only one to be said")
    if not rest and value_is_optional:
        return WantedExtension(kind.object_identifier(), None, critical)
    value = _only(rest, "extension value").value(OCTET_STRING)
    return WantedExtension(kind.object_identifier(), value, critical)


def _read_name(element: Element) -> WantedName:
    match _only(element.holds(SET), "attribute of a relative name").holds(SEQUENCE):
        case (kind,):
            return WantedName(kind.object_identifier(), None)
        case (kind, value) if value.tag in _TEXT_TAGS:
            try:
                return WantedName(kind.object_identifier(), value.content.decode())
            except UnicodeDecodeError as error:
                raise _malformed("a name is not text") from error
        case _:
            raise _malformed("a name is not a type with a text or without a value")


def _read_key(kind: x509.ObjectIdentifier, values: Sequence[Element]) -> WantedKey | None:
    """Read the kind of key that an attribute of this type asks for; None if it is about something else."""
    if kind == _EC_PUBLIC_KEY:
        if not values:
            return WantedKey(None)
        curve = _only(values, "curve").object_identifier()
        for algorithm, known in _CURVES.items():
            if known == curve:
                return WantedKey(algorithm)
        return None
    if kind == _RSA_ENCRYPTION:
        values = [one for one in values if one.encoded != NULL]
        return WantedKey(KeyAlgorithm.RSA, _read_length(_only(values, "length")) if values else None)
    for algorithm, known in _WITHOUT_PARAMETERS.items():
        if known == kind:
            return WantedKey(algorithm)
    return None


def _read_length(element: Element) -> int:
    bits = element.value(INTEGER)
    if len(bits) > _LENGTH_MAXIMUM_BYTES or element.encoded != encode_integer(int.from_bytes(bits)):
        raise _malformed("an RSA key's length is not a small number")
    return int.from_bytes(bits)


def _read_key_template(element: Element) -> WantedKey | None:
    algorithm, placeholder = _first(element.holds(CONTEXT_0), "algorithm of the template's key")
    kind, parameters = _first(algorithm.holds(SEQUENCE), "algorithm of the template's key")
    key = _read_key(kind.object_identifier(), parameters)
    if not placeholder or key is None or key.algorithm is not KeyAlgorithm.RSA:
        return key
    bits = _only(placeholder, "placeholder of a key").value(BIT_STRING)
    modulus, _ = _first(_only(read_elements(bits[1:]), "RSA key").holds(SEQUENCE), "modulus in a placeholder")
    return WantedKey(KeyAlgorithm.RSA, int.from_bytes(modulus.value(INTEGER)).bit_length())


def _once_each(extensions: list[WantedExtension]) -> tuple[WantedExtension, ...]:
    if len({one.oid for one in extensions}) < len(extensions):
        raise _malformed("an extension stands there twice")
    return tuple(extensions)


def _first(items: Sequence[Element], what: str) -> tuple[Element, list[Element]]:
    if not items:
        raise _malformed(f"there is no {what}")
    return items[0], list(items[1:])


def _only(items: Sequence[Item], what: str) -> Item:
    if len(items) != 1:
        raise _malformed(f"there are {len(items)} of what there is one of: {what}")
    return items[0]


def _at_most_one(items: Sequence[Item], what: str) -> Item | None:
    return _only(items, what) if items else None


def _malformed(reason: str) -> CertificateRefused:
    return CertificateRefused(RefusalKind.MALFORMED, f"CSR attributes: {reason}")

"""Names: what a device is called, and how a certificate says it.

1. A device identifier is `[A-Za-z0-9][A-Za-z0-9_.:-]{0,127}`, whole, and does not begin with `idt-`: those are the
   identifiers of identities. It holds nothing that a topic, a subject, a path, a URI, SQL or a log line treats
   specially.
2. A device's subject is one common name, its identifier. X.520's upper bound for a common name is 64 characters
   (RFC 5280 appendix A.1), so a longer identifier has no certificate.
3. A device's subject alternative name is one URI, `urn:doorward:device:<identifier>`.
4. Reading a subject takes exactly one common name; other attributes beside it (an organization, a serial number)
   are let stand, because a manufacturer's bootstrap certificate has them.
5. A name that a peer sent is printable: UTF8String, PrintableString or IA5String, within its bounds, with no control
   character and so no NUL, which C libraries take for the end.
6. Subject and subject alternative name are compared exactly (RFC 7030 4.2.2). The order of alternative names says
   nothing (RFC 5280 4.2.1.6), so it does not count; how often each occurs does.
"""

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from enum import Enum
from typing import NewType

from cryptography import x509
from cryptography.x509.oid import NameOID

from certs.der import IA5_STRING, PRINTABLE_STRING, UTF8_STRING, read_name_attributes
from certs.errors import UNREADABLE, CertificateRefused, RefusalKind, quoted

DeviceIdentifier = NewType("DeviceIdentifier", str)

DEVICE_IDENTIFIER = re.compile(r"(?!idt-)[A-Za-z0-9][A-Za-z0-9_.:-]{0,127}", re.ASCII)
"""The grammar of rule 1; use it with `fullmatch`, since `match` and `$` let a final newline through."""

DEVICE_URI_PREFIX = "urn:doorward:device:"
COMMON_NAME_MAXIMUM = 64

_COMMON_NAME = bytes.fromhex("550403")  # 2.5.4.3
_COUNTRY_NAME = bytes.fromhex("550406")  # 2.5.4.6
_COUNTRY_NAME_LENGTH = 2
_VALUE_MAXIMUM = 256
_STRING_TAGS = frozenset({UTF8_STRING, PRINTABLE_STRING, IA5_STRING})
_CONTROL_CHARACTER = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]")


class NameComparison(Enum):
    """How the names of a request stand to those of the certificate that it renews."""

    IDENTICAL = "subject and subject alternative name are identical"
    SUBJECT_DIFFERS = "the subject differs"
    ALTERNATIVE_NAME_ABSENT = "the request has no subject alternative name, the certificate has one"
    ALTERNATIVE_NAME_DIFFERS = "the subject alternative name differs"

    @property
    def reason(self) -> str:
        """The comparison's outcome as a sentence."""
        return self.value


def device_identifier(text: str) -> DeviceIdentifier:
    """Take a text as a device identifier.

    Raises:
        CertificateRefused: MALFORMED, if the text is not of the grammar.
    """
    if DEVICE_IDENTIFIER.fullmatch(text) is None:
        raise CertificateRefused(RefusalKind.MALFORMED, f"not a device identifier: {quoted(text)}")
    return DeviceIdentifier(text)


def device_subject(identifier: DeviceIdentifier) -> x509.Name:
    """Return the subject of a device's certificate.

    Raises:
        CertificateRefused: POLICY, if the identifier is longer than a common name may be.
    """
    if len(identifier) > COMMON_NAME_MAXIMUM:
        reason = f"a common name has at most {COMMON_NAME_MAXIMUM} characters: {quoted(identifier)}"
        raise CertificateRefused(RefusalKind.POLICY, reason)
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, identifier)])


def device_alternative_name(identifier: DeviceIdentifier) -> tuple[x509.GeneralName, ...]:
    """Return the subject alternative name of a device's certificate."""
    return (x509.UniformResourceIdentifier(DEVICE_URI_PREFIX + identifier),)


def subject_identifier(name: x509.Name) -> DeviceIdentifier:
    """Read the device identifier from a subject: its one common name.

    Raises:
        CertificateRefused: MALFORMED, if there is no common name, or more than one, or it is not of the grammar.
    """
    common_names = name.get_attributes_for_oid(NameOID.COMMON_NAME)
    if len(common_names) != 1:
        reason = f"the subject has {len(common_names)} common names instead of one"
        raise CertificateRefused(RefusalKind.MALFORMED, reason)
    value = common_names[0].value
    if not isinstance(value, str):
        raise CertificateRefused(RefusalKind.MALFORMED, "the common name is not text")
    return device_identifier(value)


def device_named(subject: x509.Name, alternative_names: Sequence[x509.GeneralName]) -> DeviceIdentifier:
    """Read the device identifier from the names of a device's certificate: subject, and the URI of rule 3, agreeing.

    Raises:
        CertificateRefused: MALFORMED, if either does not give an identifier, POLICY, if they differ.
    """
    identifier = subject_identifier(subject)
    if not are_same_names(alternative_names, device_alternative_name(identifier)):
        reason = f"the subject alternative name is not the one of device {identifier}"
        raise CertificateRefused(RefusalKind.POLICY, reason)
    return identifier


def alternative_name(holder: x509.Certificate | x509.CertificateSigningRequest) -> tuple[x509.GeneralName, ...]:
    """Return the subject alternative name of a certificate or a request, as it stands there; empty if absent.

    Raises:
        CertificateRefused: MALFORMED, if the extensions cannot be read.
    """
    try:
        extension = holder.extensions.get_extension_for_class(x509.SubjectAlternativeName)
    except x509.ExtensionNotFound:
        return ()
    except UNREADABLE as error:
        raise CertificateRefused(RefusalKind.MALFORMED, f"unreadable extensions: {error}") from error
    return tuple(extension.value)


def compare_names(
    requested_subject: x509.Name,
    requested_alternative_name: Sequence[x509.GeneralName],
    certified_subject: x509.Name,
    certified_alternative_name: Sequence[x509.GeneralName],
) -> NameComparison:
    """Compare what a request asks to be called with what a certificate calls its holder, by rule 6."""
    if requested_subject != certified_subject:
        return NameComparison.SUBJECT_DIFFERS
    if are_same_names(requested_alternative_name, certified_alternative_name):
        return NameComparison.IDENTICAL
    if not requested_alternative_name:
        return NameComparison.ALTERNATIVE_NAME_ABSENT
    return NameComparison.ALTERNATIVE_NAME_DIFFERS


def are_same_names(left: Sequence[x509.GeneralName], right: Sequence[x509.GeneralName]) -> bool:
    """Say whether two subject alternative names hold the same names equally often, in whatever order."""
    return tuple(left) == tuple(right) or Counter(left) == Counter(right)


def check_name(name: bytes) -> None:
    """Check the DER of a name that a peer sent, by rule 5.

    Raises:
        CertificateRefused: MALFORMED, if the name is not printable or passes its bounds.
    """
    for kind, tag, value in read_name_attributes(name):
        if tag not in _STRING_TAGS:
            reason = f"a name has a value of ASN.1 tag {tag:#04x}: use UTF8String or PrintableString"
            raise CertificateRefused(RefusalKind.MALFORMED, reason)
        maximum = COMMON_NAME_MAXIMUM if kind == _COMMON_NAME else _VALUE_MAXIMUM
        if not 0 < len(value) <= maximum or (kind == _COUNTRY_NAME and len(value) != _COUNTRY_NAME_LENGTH):
            reason = f"a name has a value of {len(value)} bytes, outside the bounds of its type"
            raise CertificateRefused(RefusalKind.MALFORMED, reason)
        text = value.decode("utf-8", "replace")
        if has_control_character(text):
            reason = f"a name has a control character: {quoted(text)}"
            raise CertificateRefused(RefusalKind.MALFORMED, reason)


def check_alternative_name(alternative_names: Iterable[x509.GeneralName]) -> None:
    """Check the alternative names that a peer sent: no control character in any text.

    Raises:
        CertificateRefused: MALFORMED.
    """
    for each in alternative_names:
        value = each.value
        if isinstance(value, str) and has_control_character(value):
            reason = f"a subject alternative name has a control character: {quoted(value)}"
            raise CertificateRefused(RefusalKind.MALFORMED, reason)


def has_control_character(text: str) -> bool:
    """Say whether a text has a control character or a line or paragraph separator."""
    return _CONTROL_CHARACTER.search(text) is not None

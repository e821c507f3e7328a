"""Whether a finished certificate says exactly what its profile does.

1. The profile decides and the request only asks: what a finished certificate holds is compared with the profile, never
   with the request's extensions.
2. Extensions: those that the profile names, each with its value and its criticality from `CRITICAL`, and no other. An
   identifier of a key, when named, is there; addresses (CRL, issuer, OCSP) may be absent where the authority has none.
3. Subject and subject alternative name follow the profile's rules, and, where the plan is given, equal it.
4. The period is at most the profile's, backdating included, or ends with the day that the profile names; and it lies
   within the issuer's, save in a certificate that links two keys of one authority (RFC 4210 4.4).
5. The serial number is positive and below 2 ** 159, so that it fits 20 octets (RFC 5280 4.1.2.2).
6. The key is one that the profile's policy accepts, the signature is made with a strong hash.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from ipaddress import IPv4Address, IPv6Address

from cryptography import x509
from cryptography.x509.oid import AuthorityInformationAccessOID, ExtensionOID, NameOID

from certs.errors import UNREADABLE, CertificateRefused, RefusalKind
from certs.keys import check_key_strength, read_public_key
from certs.names import are_same_names, device_named, subject_identifier
from certs.profile import CRITICAL, AlternativeNameRule, Profile, SubjectRule
from certs.signature import check_signature_algorithm

_SERIAL_LIMIT = 1 << 159
_NOT_OF_PROFILE = "not of the profile"

_Extensions = Mapping[x509.ObjectIdentifier, x509.ExtensionType]


class Conformance:
    """What the certificates of one profile are compared with.

    `issuer` adds its period, name and key identifier. Whether a signature verifies is asked of
    `certs.signature.verify_signature`.
    """

    def __init__(self, profile: Profile, issuer: x509.Certificate | None = None) -> None:
        self._profile = profile
        self._issuer = None if issuer is None else _Issuer.of(issuer)

    def check(
        self,
        certificate: x509.Certificate,
        *,
        subject: x509.Name | None = None,
        subject_alternative_name: Sequence[x509.GeneralName] | None = None,
        is_link: bool = False,
    ) -> None:
        """Check that a finished certificate says exactly what its profile allows, by the rules above.

        `subject` and `subject_alternative_name` are what was planned; `is_link` says that the certificate links two
        keys of one authority.

        Raises:
            CertificateRefused: POLICY or MALFORMED, with the first thing that differs.
        """
        self._check_frame(certificate, is_link=is_link)
        found_subject = certificate.subject
        extensions = self._extensions(certificate, subject_is_empty=not found_subject.rdns)
        self._check_extensions(extensions)
        found_names = extensions.get(ExtensionOID.SUBJECT_ALTERNATIVE_NAME)
        names = tuple(found_names) if isinstance(found_names, x509.SubjectAlternativeName) else ()
        self._check_names(found_subject, names)
        if subject is not None and found_subject != subject:
            raise self._differs("the subject is not the planned one")
        if subject_alternative_name is not None and not are_same_names(names, subject_alternative_name):
            raise self._differs("the subject alternative name is not the planned one")

    def _check_frame(self, certificate: x509.Certificate, *, is_link: bool) -> None:
        profile, issuer = self._profile, self._issuer
        check_signature_algorithm(certificate)
        check_key_strength(read_public_key(certificate), profile.key_policy)
        if not 0 < certificate.serial_number < _SERIAL_LIMIT:
            raise self._differs("the serial number is not between 1 and 2 ** 159")
        not_before, not_after = certificate.not_valid_before_utc, certificate.not_valid_after_utc
        last = profile.ends if profile.ends is not None else not_before + profile.validity + profile.backdate
        if not not_before < not_after <= last:
            raise self._differs(f"the period of {not_after - not_before} is longer than the profile's, or empty")
        if issuer is None:
            return
        if not is_link and not issuer.not_before <= not_before < not_after <= issuer.not_after:
            raise self._differs("the period is not within the issuer's")
        if certificate.issuer != issuer.name:
            raise self._differs("the issuer's name is not the subject of the issuer")

    def _extensions(self, certificate: x509.Certificate, *, subject_is_empty: bool) -> _Extensions:
        """Return the extensions, all of them known and of the right criticality."""
        try:
            extensions = certificate.extensions
        except UNREADABLE as error:
            raise CertificateRefused(RefusalKind.MALFORMED, f"unreadable extensions: {error}") from error
        found = {}
        for extension in extensions:
            oid = extension.oid
            critical = subject_is_empty if oid == ExtensionOID.SUBJECT_ALTERNATIVE_NAME else CRITICAL.get(oid)
            if critical is None:
                raise self._differs(f"extension {oid.dotted_string} is not of the profile")
            if extension.critical is not critical:
                raise self._differs(f"extension {oid.dotted_string} has the wrong criticality")
            found[oid] = extension.value
        return found

    def _check_extensions(self, found: _Extensions) -> None:
        profile, issuer = self._profile, self._issuer
        for oid, expected in (
            (ExtensionOID.BASIC_CONSTRAINTS, profile.basic_constraints),
            (ExtensionOID.KEY_USAGE, profile.key_usage),
            (ExtensionOID.EXTENDED_KEY_USAGE, profile.extended_key_usage),
            (ExtensionOID.CERTIFICATE_POLICIES, profile.certificate_policies),
        ):
            if found.get(oid) != expected:
                raise self._differs(f"extension {oid.dotted_string} differs from the profile")
        for oid, is_named in (
            (ExtensionOID.SUBJECT_KEY_IDENTIFIER, profile.subject_key_identifier),
            (ExtensionOID.AUTHORITY_KEY_IDENTIFIER, profile.authority_key_identifier),
            (ExtensionOID.OCSP_NO_CHECK, profile.ocsp_no_check),
        ):
            if (oid in found) is not is_named:
                raise self._differs(f"extension {oid.dotted_string} is {'missing' if is_named else _NOT_OF_PROFILE}")
        for oid, is_named in (
            (ExtensionOID.CRL_DISTRIBUTION_POINTS, profile.crl_distribution_points),
            (ExtensionOID.AUTHORITY_INFORMATION_ACCESS, profile.authority_information_access),
        ):
            if oid in found and not is_named:
                raise self._differs(f"extension {oid.dotted_string} is {_NOT_OF_PROFILE}")
        if not profile.ocsp and _names_responder(found.get(ExtensionOID.AUTHORITY_INFORMATION_ACCESS)):
            raise self._differs("an OCSP responder is not of the profile")
        named = found.get(ExtensionOID.AUTHORITY_KEY_IDENTIFIER)
        if issuer is not None and isinstance(named, x509.AuthorityKeyIdentifier) and not issuer.is_named_by(named):
            raise self._differs("the authority key identifier is not the issuer's subject key identifier")

    def _check_names(self, subject: x509.Name, names: Sequence[x509.GeneralName]) -> None:
        profile = self._profile
        if profile.subject_alternative_name is AlternativeNameRule.DEVICE_URI:
            device_named(subject, names)
        elif profile.subject is SubjectRule.DEVICE_IDENTIFIER:
            subject_identifier(subject)
        if not _subject_follows(profile.subject, subject, names):
            raise self._differs(f"the subject does not follow the rule {profile.subject.value!r}")
        if not _alternative_name_follows(profile.subject_alternative_name, names):
            rule = profile.subject_alternative_name.value
            raise self._differs(f"the subject alternative name does not follow the rule {rule!r}")

    def _differs(self, what: str) -> CertificateRefused:
        return CertificateRefused(RefusalKind.POLICY, f"profile {self._profile.name}: {what}")


@dataclass(frozen=True, slots=True)
class _Issuer:
    """What an issuer's certificate adds, read once."""

    name: x509.Name
    not_before: datetime
    not_after: datetime
    key_identifier: bytes | None

    @classmethod
    def of(cls, certificate: x509.Certificate) -> "_Issuer":
        own = [
            each.value.digest for each in certificate.extensions if isinstance(each.value, x509.SubjectKeyIdentifier)
        ]
        return cls(
            certificate.subject,
            certificate.not_valid_before_utc,
            certificate.not_valid_after_utc,
            own[0] if own else None,
        )

    def is_named_by(self, identifier: x509.AuthorityKeyIdentifier) -> bool:
        """Tell whether it is this issuer's key that an authority key identifier points to."""
        return self.key_identifier is not None and identifier.key_identifier == self.key_identifier


def _names_responder(access: x509.ExtensionType | None) -> bool:
    return isinstance(access, x509.AuthorityInformationAccess) and any(
        each.access_method == AuthorityInformationAccessOID.OCSP for each in access
    )


def _subject_follows(rule: SubjectRule, subject: x509.Name, names: Sequence[x509.GeneralName]) -> bool:
    attributes = [(attribute.oid, attribute.value) for attribute in subject]
    match rule:
        case SubjectRule.AUTHORITY:
            return any(oid == NameOID.COMMON_NAME for oid, _ in attributes)
        case SubjectRule.DEVICE_IDENTIFIER:
            return len(attributes) == 1
        case SubjectRule.RESPONDER:
            return [oid for oid, _ in attributes] == [NameOID.COMMON_NAME]
        case SubjectRule.HOST:
            hosts = {(NameOID.COMMON_NAME, str(name.value)) for name in names}
            return len(attributes) <= 1 and hosts.issuperset(attributes)


def _alternative_name_follows(rule: AlternativeNameRule, names: Sequence[x509.GeneralName]) -> bool:
    match rule:
        case AlternativeNameRule.NONE:
            return not names
        case AlternativeNameRule.DEVICE_URI:
            return len(names) == 1
        case AlternativeNameRule.HOSTS:
            return bool(names) and all(_is_host(name) for name in names)


def _is_host(name: x509.GeneralName) -> bool:
    match name:
        case x509.DNSName():
            return bool(name.value) and "*" not in name.value
        case x509.IPAddress():
            return isinstance(name.value, IPv4Address | IPv6Address)
        case _:
            return False

"""Profiles: what a certificate of each kind says, and the check that one says just that.

1. A profile is a table of settings, in TOML or from the API, in which every key is known and every key is present; an
   unknown one is refused, with the nearest known one named. Nothing is inherited and nothing has a default.
2. The profile decides and the request only asks: what a finished certificate holds is compared with the profile, never
   with the request's extensions.
3. Extensions: those that the profile names, each with its value and its criticality from `CRITICAL`, and no other. An
   identifier of a key, when named, is there; addresses (CRL, issuer, OCSP) may be absent where the authority has none.
4. Subject and subject alternative name follow the profile's rules, and, where the plan is given, equal it.
5. The period is at most the profile's, backdating included, or ends with the day that the profile names; and it lies
   within the issuer's, save in a certificate that links two keys of one authority (RFC 4210 4.4).
6. The serial number is positive and below 2 ** 159, so that it fits 20 octets (RFC 5280 4.1.2.2).
7. The key is one that the profile's policy accepts, the signature is made with a strong hash.
"""

import tomllib
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import Enum
from functools import lru_cache
from importlib.resources import files
from ipaddress import IPv4Address, IPv6Address
from typing import Final

from cryptography import x509
from cryptography.x509.oid import AuthorityInformationAccessOID, ExtendedKeyUsageOID, ExtensionOID, NameOID

from certs.duration import LONGEST
from certs.errors import UNREADABLE, CertificateRefused, ProfileRefused, RefusalKind
from certs.keys import REQUEST_KEYS, KeyAlgorithm, KeyPolicy, check_key_strength, read_public_key
from certs.names import alternative_name, are_same_names, certificate_identifier, subject_identifier
from certs.signature import check_signature_algorithm
from certs.table import StrictTable

CRITICAL: Final[Mapping[x509.ObjectIdentifier, bool]] = {
    ExtensionOID.BASIC_CONSTRAINTS: True,  # RFC 5280 4.2.1.9
    ExtensionOID.KEY_USAGE: True,  # 4.2.1.3
    ExtensionOID.EXTENDED_KEY_USAGE: False,
    ExtensionOID.SUBJECT_ALTERNATIVE_NAME: False,  # 4.2.1.6: critical if and only if the subject is empty
    ExtensionOID.SUBJECT_KEY_IDENTIFIER: False,  # 4.2.1.2
    ExtensionOID.AUTHORITY_KEY_IDENTIFIER: False,  # 4.2.1.1
    ExtensionOID.CRL_DISTRIBUTION_POINTS: False,  # 4.2.1.13
    ExtensionOID.AUTHORITY_INFORMATION_ACCESS: False,  # 4.2.2.1
    ExtensionOID.CERTIFICATE_POLICIES: False,  # 4.2.1.4
    ExtensionOID.OCSP_NO_CHECK: False,  # RFC 6960 4.2.2.2.1
}
"""Which extensions a certificate of ours may have at all, and whether each is critical."""

_KEYS = (
    "name",
    "authority",
    "validity",
    "backdate_minutes",
    "key_algorithms",
    "rsa_minimum_bits",
    "rsa_maximum_bits",
    "key_usage",
    "extended_key_usage",
    "certificate_policies",
    "subject",
    "subject_alternative_name",
    "subject_key_identifier",
    "authority_key_identifier",
    "crl_distribution_points",
    "authority_information_access",
    "ocsp",
    "ocsp_no_check",
)
PATH_LENGTH_MAXIMUM: Final = 4
"""No chain is longer than `certs.chain` climbs."""

_SERIAL_LIMIT = 1 << 159
EXTENDED_KEY_USAGES: Final = {
    "client_auth": ExtendedKeyUsageOID.CLIENT_AUTH,
    "server_auth": ExtendedKeyUsageOID.SERVER_AUTH,
    "ocsp_signing": ExtendedKeyUsageOID.OCSP_SIGNING,
    "code_signing": ExtendedKeyUsageOID.CODE_SIGNING,
    "email_protection": ExtendedKeyUsageOID.EMAIL_PROTECTION,
    "time_stamping": ExtendedKeyUsageOID.TIME_STAMPING,
}
"""The words for what a certificate is good for; any other is said by its object identifier."""

_AGREEING = frozenset({KeyAlgorithm.P256, KeyAlgorithm.P384, KeyAlgorithm.P521})
_ANY_POLICY = x509.ObjectIdentifier("2.5.29.32.0")
KEY_USAGES: Final = (
    "digital_signature",
    "content_commitment",
    "key_encipherment",
    "data_encipherment",
    "key_agreement",
    "key_cert_sign",
    "crl_sign",
)


class SubjectRule(Enum):
    """What the subject of a certificate is."""

    AUTHORITY = "authority"
    """At least one common name: the name of a certification authority."""
    DEVICE_IDENTIFIER = "device_identifier"
    """One common name, the device's identifier, and nothing else."""
    HOST = "host"
    """One common name that is also among the alternative names, or nothing at all."""
    RESPONDER = "responder"
    """One common name: whoever answers OCSP for an authority."""


class AlternativeNameRule(Enum):
    """What the subject alternative name of a certificate is."""

    NONE = "none"
    DEVICE_URI = "device_uri"
    HOSTS = "hosts"
    """At least one DNS name or IP address, without wildcards, and nothing else."""


@dataclass(frozen=True, slots=True)
class Profile:
    """What a certificate of one kind holds.

    Attributes:
        validity: How long it is valid, at most.
        ends: When it ends, where that is the same moment for all.
        ocsp: Whether the access to the authority's information names its OCSP responder too.
        ocsp_no_check: Whether the certificate says that itself is not to be checked (RFC 6960 4.2.2.2.1).
    """

    name: str
    validity: timedelta
    ends: datetime | None
    backdate: timedelta
    key_policy: KeyPolicy
    basic_constraints: x509.BasicConstraints
    key_usage: x509.KeyUsage
    extended_key_usage: x509.ExtendedKeyUsage | None
    certificate_policies: x509.CertificatePolicies | None
    subject: SubjectRule
    subject_alternative_name: AlternativeNameRule
    subject_key_identifier: bool
    authority_key_identifier: bool
    crl_distribution_points: bool
    authority_information_access: bool
    ocsp: bool
    ocsp_no_check: bool

    @property
    def is_authority(self) -> bool:
        """Whether certificates of this profile may sign others."""
        return self.basic_constraints.ca

    def end(self, now: datetime) -> datetime:
        """Return when a certificate that is made now ends, as far as the profile goes."""
        return self.ends if self.ends is not None else now + self.validity


@lru_cache(maxsize=1)
def packaged_profiles() -> Mapping[str, Profile]:
    """Return the profiles that come with the program, by name; they are read-only."""
    found = {}
    for entry in sorted((files("certs") / "profiles").iterdir(), key=lambda one: one.name):
        if entry.name.endswith(".toml"):
            found[entry.name.removesuffix(".toml")] = parse_profile(entry.read_text("utf-8"))
    return found


def load_profile(name: str) -> Profile:
    """Return one of the packaged profiles.

    Raises:
        ProfileRefused: if there is none of that name.
    """
    packaged = packaged_profiles()
    if name not in packaged:
        raise ProfileRefused(f"no profile is named {name!r}; there are {', '.join(packaged)}")
    return packaged[name]


def parse_profile(text: str) -> Profile:
    """Read a profile from TOML, by rule 1.

    Raises:
        ProfileRefused: with the key at fault.
    """
    try:
        settings = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise ProfileRefused(f"not TOML: {error}") from error
    return read_profile(settings)


def read_profile(settings: Mapping[str, object]) -> Profile:
    """Read a profile from its settings, by rule 1; `path_length` is a key of authorities alone.

    Raises:
        ProfileRefused: with the key at fault.
    """
    is_authority = settings.get("authority") is True
    table = StrictTable(settings, (*_KEYS, "path_length") if is_authority else _KEYS)
    path_length = table.take_number("path_length", 0, PATH_LENGTH_MAXIMUM) if is_authority else None
    period = table.take_period("validity")
    extended_key_usages = table.take_object_identifiers("extended_key_usage", EXTENDED_KEY_USAGES)
    policies = table.take_object_identifiers("certificate_policies", {})
    alternative_name_rules = {rule.value: rule for rule in AlternativeNameRule}
    profile = Profile(
        name=table.take("name", str),
        validity=period if isinstance(period, timedelta) else LONGEST,
        ends=period if isinstance(period, datetime) else None,
        backdate=timedelta(minutes=table.take_number("backdate_minutes", 0, 24 * 60)),
        key_policy=_read_key_policy(table),
        basic_constraints=x509.BasicConstraints(table.take("authority", bool), path_length),
        key_usage=_key_usage(table.take_words("key_usage", {usage: usage for usage in KEY_USAGES})),
        extended_key_usage=x509.ExtendedKeyUsage(extended_key_usages) if extended_key_usages else None,
        certificate_policies=_certificate_policies(policies),
        subject=table.take_word("subject", {rule.value: rule for rule in SubjectRule}),
        subject_alternative_name=table.take_word("subject_alternative_name", alternative_name_rules),
        subject_key_identifier=table.take("subject_key_identifier", bool),
        authority_key_identifier=table.take("authority_key_identifier", bool),
        crl_distribution_points=table.take("crl_distribution_points", bool),
        authority_information_access=table.take("authority_information_access", bool),
        ocsp=table.take("ocsp", bool),
        ocsp_no_check=table.take("ocsp_no_check", bool),
    )
    _check_sense(profile)
    return profile


def _read_key_policy(table: StrictTable) -> KeyPolicy:
    rsa_bounds = (REQUEST_KEYS.rsa_minimum_bits, REQUEST_KEYS.rsa_maximum_bits)
    return KeyPolicy(
        algorithms=frozenset(table.take_words("key_algorithms", {each.value: each for each in KeyAlgorithm})),
        rsa_minimum_bits=table.take_number("rsa_minimum_bits", *rsa_bounds),
        rsa_maximum_bits=table.take_number("rsa_maximum_bits", *rsa_bounds),
    )


def _certificate_policies(policies: Sequence[x509.ObjectIdentifier]) -> x509.CertificatePolicies | None:
    if not policies:
        return None
    return x509.CertificatePolicies([x509.PolicyInformation(each, None) for each in policies])


def check_against_profile(
    certificate: x509.Certificate,
    profile: Profile,
    *,
    issuer: x509.Certificate | None = None,
    subject: x509.Name | None = None,
    subject_alternative_name: Sequence[x509.GeneralName] | None = None,
    is_link: bool = False,
) -> None:
    """Check that a finished certificate says exactly what its profile allows, by rules 2 to 7.

    `issuer` adds its period, name and key identifier to the check; `subject` and `subject_alternative_name` are what
    was planned; `is_link` says that the certificate links two keys of one authority. Whether the signature verifies is
    asked of `certs.signature.verify_signature`.

    Raises:
        CertificateRefused: POLICY or MALFORMED, with the first thing that differs.
    """
    _check_frame(certificate, profile, issuer, is_link=is_link)
    try:
        extensions = certificate.extensions
    except UNREADABLE as error:
        raise CertificateRefused(RefusalKind.MALFORMED, f"unreadable extensions: {error}") from error
    subject_is_empty = not certificate.subject.rdns
    for extension in extensions:
        critical = CRITICAL.get(extension.oid)
        if extension.oid == ExtensionOID.SUBJECT_ALTERNATIVE_NAME:
            critical = subject_is_empty
        if critical is None:
            raise _differs(profile, f"extension {extension.oid.dotted_string} is not of the profile")
        if extension.critical is not critical:
            raise _differs(profile, f"extension {extension.oid.dotted_string} has the wrong criticality")
    _check_extensions({extension.oid: extension.value for extension in extensions}, profile, issuer)
    _check_names(certificate, profile, subject, subject_alternative_name)


def _key_usage(usages: Collection[str]) -> x509.KeyUsage:
    return x509.KeyUsage(encipher_only=False, decipher_only=False, **{usage: usage in usages for usage in KEY_USAGES})


def _check_sense(profile: Profile) -> None:
    """Refuse what can be said in a profile but would make certificates that are useless or dangerous."""
    policy, is_authority, usage = profile.key_policy, profile.is_authority, profile.key_usage
    purposes = tuple(profile.extended_key_usage or ())
    is_device = profile.subject is SubjectRule.DEVICE_IDENTIFIER
    policies = [each.policy_identifier for each in profile.certificate_policies or ()]
    is_responder = ExtendedKeyUsageOID.OCSP_SIGNING in purposes
    for holds, otherwise in (
        (bool(policy.algorithms), "key_algorithms is empty, so that no key would do"),
        (policy.rsa_minimum_bits <= policy.rsa_maximum_bits, "rsa_minimum_bits is above rsa_maximum_bits"),
        (usage.key_cert_sign is is_authority, "key_cert_sign is for authorities, each and alone"),
        (usage.crl_sign is is_authority, "crl_sign is for authorities, each and alone"),
        (
            not (usage.key_encipherment or usage.data_encipherment) or policy.algorithms == {KeyAlgorithm.RSA},
            "key_encipherment and data_encipherment are for RSA keys alone (RFC 8813 3, RFC 8410 5)",
        ),
        (
            not usage.key_agreement or policy.algorithms <= _AGREEING,
            "key_agreement is for P-256, P-384 and P-521 keys alone (RFC 5480 3)",
        ),
        (is_authority or bool(purposes), "extended_key_usage is empty, which means any"),
        (ExtendedKeyUsageOID.ANY_EXTENDED_KEY_USAGE not in purposes, "extended_key_usage lists any"),
        (is_authority or _ANY_POLICY not in policies, "certificate_policies lists any"),
        (is_authority is (profile.subject is SubjectRule.AUTHORITY), "subject 'authority' is for authorities"),
        (
            not is_authority or profile.subject_key_identifier,
            "an authority needs a subject_key_identifier (RFC 5280 4.2.1.2)",
        ),
        (
            is_device or profile.subject_alternative_name is not AlternativeNameRule.DEVICE_URI,
            "subject_alternative_name 'device_uri' needs the subject 'device_identifier'",
        ),
        (profile.authority_information_access or not profile.ocsp, "ocsp needs authority_information_access"),
        (is_responder or not profile.ocsp_no_check, "ocsp_no_check is for responders, with 'ocsp_signing'"),
        # RFC 6960 4.2.2.2: the usage gives somebody the authority's voice. Nobody else shall have it.
        (not is_responder or len(purposes) == 1, "extended_key_usage 'ocsp_signing' stands alone"),
        (is_responder is (profile.subject is SubjectRule.RESPONDER), "subject 'responder' is for 'ocsp_signing'"),
    ):
        if not holds:
            raise ProfileRefused(otherwise)


def _check_frame(
    certificate: x509.Certificate, profile: Profile, issuer: x509.Certificate | None, *, is_link: bool
) -> None:
    check_signature_algorithm(certificate)
    check_key_strength(read_public_key(certificate), profile.key_policy)
    if not 0 < certificate.serial_number < _SERIAL_LIMIT:
        raise _differs(profile, "the serial number is not between 1 and 2 ** 159")
    not_before, not_after = certificate.not_valid_before_utc, certificate.not_valid_after_utc
    last = profile.ends if profile.ends is not None else not_before + profile.validity + profile.backdate
    if not not_before < not_after <= last:
        raise _differs(profile, f"the period of {not_after - not_before} is longer than the profile's, or empty")
    if issuer is None:
        return
    if not is_link and not issuer.not_valid_before_utc <= not_before < not_after <= issuer.not_valid_after_utc:
        raise _differs(profile, "the period is not within the issuer's")
    if certificate.issuer != issuer.subject:
        raise _differs(profile, "the issuer's name is not the subject of the issuer")


def _check_extensions(
    found: Mapping[x509.ObjectIdentifier, x509.ExtensionType], profile: Profile, issuer: x509.Certificate | None
) -> None:
    for oid, expected in (
        (ExtensionOID.BASIC_CONSTRAINTS, profile.basic_constraints),
        (ExtensionOID.KEY_USAGE, profile.key_usage),
        (ExtensionOID.EXTENDED_KEY_USAGE, profile.extended_key_usage),
        (ExtensionOID.CERTIFICATE_POLICIES, profile.certificate_policies),
    ):
        if found.get(oid) != expected:
            raise _differs(profile, f"extension {oid.dotted_string} differs from the profile")
    for oid, is_named in (
        (ExtensionOID.SUBJECT_KEY_IDENTIFIER, profile.subject_key_identifier),
        (ExtensionOID.AUTHORITY_KEY_IDENTIFIER, profile.authority_key_identifier),
        (ExtensionOID.OCSP_NO_CHECK, profile.ocsp_no_check),
    ):
        if (oid in found) is not is_named:
            raise _differs(
                profile, f"extension {oid.dotted_string} is {'missing' if is_named else 'not of the profile'}"
            )
    for oid, is_named in (
        (ExtensionOID.CRL_DISTRIBUTION_POINTS, profile.crl_distribution_points),
        (ExtensionOID.AUTHORITY_INFORMATION_ACCESS, profile.authority_information_access),
    ):
        if oid in found and not is_named:
            raise _differs(profile, f"extension {oid.dotted_string} is not of the profile")
    if _names_responder(found.get(ExtensionOID.AUTHORITY_INFORMATION_ACCESS)) and not profile.ocsp:
        raise _differs(profile, "an OCSP responder is not of the profile")
    if issuer is not None and not _points_to(found.get(ExtensionOID.AUTHORITY_KEY_IDENTIFIER), issuer):
        raise _differs(profile, "the authority key identifier is not the issuer's subject key identifier")


def _names_responder(access: x509.ExtensionType | None) -> bool:
    return isinstance(access, x509.AuthorityInformationAccess) and any(
        each.access_method == AuthorityInformationAccessOID.OCSP for each in access
    )


def _points_to(named: x509.ExtensionType | None, issuer: x509.Certificate) -> bool:
    """Tell whether an authority key identifier, if there is one, is of the issuer's key."""
    if not isinstance(named, x509.AuthorityKeyIdentifier):
        return True
    own = [each.value for each in issuer.extensions if isinstance(each.value, x509.SubjectKeyIdentifier)]
    return [named.key_identifier] == [each.digest for each in own]


def _check_names(
    certificate: x509.Certificate,
    profile: Profile,
    planned_subject: x509.Name | None,
    planned_alternative_name: Sequence[x509.GeneralName] | None,
) -> None:
    subject, names = certificate.subject, alternative_name(certificate)
    if profile.subject is SubjectRule.DEVICE_IDENTIFIER:
        subject_identifier(subject)
    if not _subject_follows(profile.subject, subject, names):
        raise _differs(profile, f"the subject does not follow the rule {profile.subject.value!r}")
    if profile.subject_alternative_name is AlternativeNameRule.DEVICE_URI:
        certificate_identifier(certificate)
    if not _alternative_name_follows(profile.subject_alternative_name, names):
        rule = profile.subject_alternative_name.value
        raise _differs(profile, f"the subject alternative name does not follow the rule {rule!r}")
    if planned_subject is not None and subject != planned_subject:
        raise _differs(profile, "the subject is not the planned one")
    if planned_alternative_name is not None and not are_same_names(names, planned_alternative_name):
        raise _differs(profile, "the subject alternative name is not the planned one")


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


def _differs(profile: Profile, what: str) -> CertificateRefused:
    return CertificateRefused(RefusalKind.POLICY, f"profile {profile.name}: {what}")

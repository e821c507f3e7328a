"""Profiles: what a certificate of each kind says.

1. A profile is a table of settings, in TOML or from the API, in which every key is known and every key is present; an
   unknown one is refused, with the nearest known one named. Nothing is inherited and nothing has a default.
2. What can be said and would make certificates that are useless or dangerous is refused when the profile is read.

Whether a certificate says just what its profile does is for `certs.conformance` to check.
"""

import tomllib
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import Enum
from functools import lru_cache
from importlib.resources import files
from typing import Final

from cryptography import x509
from cryptography.x509.oid import ExtendedKeyUsageOID, ExtensionOID

from certs.duration import LONGEST
from certs.errors import ProfileRefused
from certs.keys import REQUEST_KEYS, KeyAlgorithm, KeyPolicy
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

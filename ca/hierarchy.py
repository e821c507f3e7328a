"""Where an authority may stand: its name, its path length, its period, and how its certificate is profiled.

The rules:

1. A path length is at most the profile's for a root, and at least one less than that of the authority above (RFC 5280
   4.2.1.9); an authority whose path length is 0 has no authority below it.
2. An authority never has the name of the one above it: its certificate would count as self-issued, which no path
   length counts (RFC 5280 6.1.4).
3. An authority that may not sign certificates, by its basic constraints or its key usage, has nothing below it.
4. A period is at most the profile's, and ends with the authority above at the latest.
5. A name has a common name, and each attribute at most once, printable and within the bounds of RFC 5280 appendix A.1.
6. What a line is called stands in paths and URLs: letters, digits, `_` and `-`. Later generations add `.2`, `.3`, ...
"""

import re
from collections.abc import Mapping
from dataclasses import replace
from datetime import datetime, timedelta

from cryptography import x509
from cryptography.x509.oid import ExtensionOID, NameOID

from certs.chain import Anchor
from certs.keys import AUTHORITY_KEYS
from certs.profile import PATH_LENGTH_MAXIMUM, AlternativeNameRule, Profile, SubjectRule
from iam.errors import Kind, Refused, malformed

SUBJECT_ATTRIBUTES: dict[str, tuple[x509.ObjectIdentifier, int]] = {
    "country": (NameOID.COUNTRY_NAME, 2),
    "state": (NameOID.STATE_OR_PROVINCE_NAME, 128),
    "locality": (NameOID.LOCALITY_NAME, 128),
    "organization": (NameOID.ORGANIZATION_NAME, 64),
    "organization_unit": (NameOID.ORGANIZATIONAL_UNIT_NAME, 64),
    "common_name": (NameOID.COMMON_NAME, 64),
}
"""The attributes of a name in the order in which they are written, each with its bound (RFC 5280 appendix A.1)."""

_LINE = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,62}")
_UUID = re.compile(r"[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}")
_RESERVED = frozenset({"import", "requests", "cn", "profiles"})
_BACKDATE = timedelta(minutes=5)
_COUNTRY = re.compile(r"[A-Za-z]{2}")


def line_name(text: str) -> str:
    """Return `text` if it can name a line of authorities; raise `Refused` (malformed)."""
    if not _LINE.fullmatch(text) or text.lower() in _RESERVED or _UUID.fullmatch(text):
        raise malformed(
            "The id of an authority is 1 to 63 letters, digits, '_' or '-', starts with a letter or digit, is no UUID "
            f"and none of {', '.join(sorted(_RESERVED))}."
        )
    return text


def generation_name(line: str, generation: int) -> str:
    """Return what a generation of a line is called, by rule 6."""
    return line if generation == 1 else f"{line}.{generation}"


def authority_subject(attributes: Mapping[str, str]) -> x509.Name:
    """Return the name that these attributes make; raise `Refused` (malformed) if they make none, by rule 5."""
    if not attributes.get("common_name"):
        raise malformed("An authority has a common name.", **{"subject.common_name": "is missing"})
    named = []
    for name, (oid, longest) in SUBJECT_ATTRIBUTES.items():
        value = attributes.get(name, "")
        if not value:
            continue
        if len(value) > longest or not value.isprintable():
            fault = {f"subject.{name}": f"at most {longest} printable characters"}
            raise malformed("The name cannot be used.", **fault)
        if oid == NameOID.COUNTRY_NAME and not _COUNTRY.fullmatch(value):
            raise malformed("The name cannot be used.", **{f"subject.{name}": "two letters (ISO 3166)"})
        named.append(x509.NameAttribute(oid, value.upper() if oid == NameOID.COUNTRY_NAME else value))
    return x509.Name(named)


def check_stands_below(subject: x509.Name, above: Anchor, above_subject: x509.Name) -> None:
    """Check that an authority of this name may stand below `above` (rules 1 to 3); raise `Refused` (invalid)."""
    if above.path_length == 0:
        raise _refused(f"{above_subject.rfc4514_string()} allows no authority below it: its path length is 0.")
    if subject == above_subject:
        raise _refused("An authority never has the name of the one above it.")


def path_length_below(above: Anchor | None, wanted: int | None, profile: Profile) -> int:
    """Return the path length of an authority below `above`, or of a root (rule 1).

    Args:
        wanted: What the operator said; None: for a root what the profile says, and below one what the profile says or
            what is left, whichever is less.

    Raises:
        Refused: (invalid) More was wanted than there is.
    """
    left = PATH_LENGTH_MAXIMUM if above is None or above.path_length is None else above.path_length - 1
    if wanted is None:
        return min(profile.basic_constraints.path_length or 0, left)
    if wanted > left:
        raise _refused(f"The path length is at most {left} here.")
    return wanted


def profile_of_authority(
    profile: Profile, path_length: int | None, period: timedelta | datetime | None, now: datetime
) -> Profile:
    """Return the profile of one authority's certificate: as `profile`, with this path length and period (rule 4).

    Raises:
        Refused: (invalid) The profile is none of authorities, or the period is longer than it says, or over already.
    """
    if not profile.is_authority:
        raise _refused(f"The profile {profile.name} is none of authorities.")
    narrowed = replace(profile, basic_constraints=x509.BasicConstraints(ca=True, path_length=path_length))
    if period is None:
        return narrowed
    end = now + period if isinstance(period, timedelta) else period
    if end <= now:
        raise _refused("An authority ends later than now.")
    if end > profile.end(now):
        raise _refused(f"The profile {profile.name} ends at {profile.end(now).isoformat()} at the latest.")
    if isinstance(period, timedelta):
        return replace(narrowed, validity=period, ends=None)
    return replace(narrowed, ends=period)


def profile_like(certificate: x509.Certificate, name: str) -> Profile:
    """Return the profile that an authority's certificate follows, whoever made it: for one just like it.

    Raises:
        Refused: (invalid) It holds what no profile here can say.
    """
    found = {one.oid: one.value for one in certificate.extensions}
    usage = found.get(ExtensionOID.KEY_USAGE)
    constraints = found.get(ExtensionOID.BASIC_CONSTRAINTS)
    purposes = found.get(ExtensionOID.EXTENDED_KEY_USAGE)
    policies = found.get(ExtensionOID.CERTIFICATE_POLICIES)
    if not isinstance(usage, x509.KeyUsage) or not isinstance(constraints, x509.BasicConstraints):
        raise _refused("A certificate without basic constraints and a key usage cannot be made once more here.")
    return Profile(
        name=name,
        validity=certificate.not_valid_after_utc - certificate.not_valid_before_utc,
        ends=None,
        backdate=_BACKDATE,
        key_policy=AUTHORITY_KEYS,
        basic_constraints=constraints,
        key_usage=usage,
        extended_key_usage=purposes if isinstance(purposes, x509.ExtendedKeyUsage) else None,
        certificate_policies=policies if isinstance(policies, x509.CertificatePolicies) else None,
        subject=SubjectRule.AUTHORITY,
        subject_alternative_name=AlternativeNameRule.NONE,
        subject_key_identifier=True,
        authority_key_identifier=ExtensionOID.AUTHORITY_KEY_IDENTIFIER in found,
        crl_distribution_points=certificate.subject != certificate.issuer,
        authority_information_access=certificate.subject != certificate.issuer,
        ocsp=False,
        ocsp_no_check=False,
    )


def _refused(detail: str) -> Refused:
    return Refused(Kind.INVALID, detail)

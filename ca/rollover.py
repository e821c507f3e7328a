"""A new key under the same name, and what vouches for each of the two keys by the other (RFC 4210 4.4, RFC 7030 4.1.3).

The rules:

1. NewWithOld is the new key, signed by the old one: whoever trusts the old key learns the new one by it. It begins with
   the new key and ends with the old one, or with the new one if that is earlier.
2. OldWithNew is the old key, signed by the new one: whoever trusts only the new key accepts what the old one signed. It
   has the period of the old key.
3. Both are certificates of an authority with the same name above and below; so no path length counts them (RFC 5280
   6.1.4). They allow what the old and the new certificate allow: the same path length, the same usages.
"""

from dataclasses import dataclass, replace

from cryptography import x509

from ca.issue import Addresses, Holder, Issued, Template, encoded_key
from ca.signers import Signer
from certs.duration import LONGEST
from certs.keys import AUTHORITY_KEYS
from certs.profile import Profile

LINK_PROFILE = "link"
"""What the profile of such a certificate is called on record."""


@dataclass(frozen=True, slots=True)
class Generation:
    """One key of a line, as far as a link to another needs it."""

    certificate: x509.Certificate
    signer: Signer
    addresses: Addresses | None

    @property
    def holder(self) -> Holder:
        """The name and the key, under the identifier that it has."""
        named = self.certificate.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value
        return Holder(self.certificate.subject, (), encoded_key(self.signer.public_key), named.digest)


@dataclass(frozen=True, slots=True)
class IssuedLinks:
    """The two certificates that link two generations."""

    old_with_new: Issued
    new_with_old: Issued


def link(old: Generation, new: Generation, profile: Profile, serials: tuple[bytes, bytes]) -> IssuedLinks:
    """Make the two links.

    Args:
        profile: That of the new generation's own certificate.
        serials: Of OldWithNew and of NewWithOld.

    Raises:
        Refused: (unavailable) A key is gone.
        CertificateRefused: (policy) The old key is not one that the profile takes.
    """
    ends = min(old.certificate.not_valid_after_utc, new.certificate.not_valid_after_utc)
    begins = max(new.certificate.not_valid_before_utc, old.certificate.not_valid_before_utc)
    old_period = (old.certificate.not_valid_before_utc, old.certificate.not_valid_after_utc)
    return IssuedLinks(
        old_with_new=_template(new, profile).issue_link(old.holder, old_period, serials[0]),
        new_with_old=_template(old, profile).issue_link(new.holder, (begins, ends), serials[1]),
    )


def _template(issuer: Generation, profile: Profile) -> Template:
    linking = replace(
        profile,
        name=LINK_PROFILE,
        key_policy=AUTHORITY_KEYS,  # the old key may be of a kind that is given to nobody any more
        validity=LONGEST,
        ends=None,
        authority_key_identifier=True,
        crl_distribution_points=True,
        authority_information_access=True,
    )
    return Template(linking, issuer.certificate, issuer.signer, issuer.addresses)

"""Enrolment profiles: under which label whom a device may become, and who vouches for it.

The rules:

1. A profile is named by its label (RFC 7030 3.2.2): 1 to 63 letters, digits, `_` or `-`, and never an operation's name.
   The profile `default` answers where the path has no label.
2. Anchors are authorities' certificates, each pinned by its name and key. A profile without any lets nobody in.
3. An identifier pattern is a device identifier in which `*` stands for any characters and `?` for one. Without a
   pattern, a bootstrap certificate enrols only the device that it names.
"""

import re
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum
from fnmatch import fnmatchcase
from functools import cached_property
from uuid import UUID

from cryptography.hazmat.primitives.serialization import Encoding

from certs.chain import Anchor
from certs.errors import CertificateRefused, ProfileRefused
from certs.pem import read_certificate, read_certificates
from certs.profile import AlternativeNameRule, load_profile
from iam.errors import malformed

DEFAULT_LABEL = "default"

OPERATIONS = frozenset({"cacerts", "csrattrs", "fullcmc", "serverkeygen", "simpleenroll", "simplereenroll"})
"""RFC 7030 3.2.2: the operations, which no label may be called."""

ANCHORS_MAXIMUM = 16

_LABEL = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,62}")
_PATTERN = re.compile(r"[A-Za-z0-9_.:*?-]{1,128}")


class EnrolmentMode(StrEnum):
    """What links a bootstrap certificate to a device."""

    JITP = "jitp"
    """Just in time: a holder of a bootstrap certificate enrols the device that it names, or one that the pattern
    covers; the device is registered by that."""
    PRE_REGISTERED = "pre_registered"
    """Only devices that were registered before, each by the one bootstrap certificate that it was bound to."""


class ProofOfPossession(StrEnum):
    """Whether a request is linked to its TLS connection (RFC 7030 3.5); one that claims to be is verified always."""

    OFF = "off"
    """Not asked for."""
    OPTIONAL = "optional"
    """Asked for, and done without."""
    REQUIRED = "required"


class CsrAttributes(StrEnum):
    """How much `csrattrs` tells a client of what its request should hold (RFC 7030 4.5, RFC 9908)."""

    MINIMAL = "minimal"
    """Only what the label could not do without: nothing at all, unless requests are to be linked."""
    ATTRIBUTES = "attributes"
    """Extensions, the kind of key and the signature's hash, each as an attribute (RFC 9908 3.2)."""
    TEMPLATE = "template"
    """The request itself, to be filled in (RFC 9908 3.4)."""


class ServerKey(StrEnum):
    """A kind of key that is made here for devices that cannot make one (RFC 7030 4.4)."""

    P256 = "P-256"
    P384 = "P-384"
    P521 = "P-521"
    ED25519 = "Ed25519"
    RSA_2048 = "RSA-2048"
    RSA_3072 = "RSA-3072"
    RSA_4096 = "RSA-4096"


@dataclass(frozen=True)
class EnrolmentProfile:
    """What a label offers.

    Attributes:
        tenant: Whose label it is: devices registered there or below may enrol, and new ones are registered there.
        authority: Who issues, and whose certificates re-enrol.
        bootstrap_anchors: Authorities' certificates in DER.
        role_name: The role that a new device's identity gets, in the tenant of the device.
        previous_grace: For how long a superseded certificate may still re-enrol.
        server_key_generation: The kind of key that is made here for a device that asks; None: none is made.
        encrypted_server_keys_only: Whether such a key leaves only encrypted to the device, inside of TLS.
    """

    id: UUID
    tenant: UUID
    name: str
    mode: EnrolmentMode
    authority: UUID
    certificate_profile: str
    bootstrap_anchors: tuple[bytes, ...]
    identifier_pattern: str | None
    role_name: str
    expired_may_renew: bool
    previous_grace: timedelta
    created: datetime
    proof_of_possession: ProofOfPossession = ProofOfPossession.OFF
    csr_attributes: CsrAttributes = CsrAttributes.MINIMAL
    server_key_generation: ServerKey | None = None
    encrypted_server_keys_only: bool = False

    @cached_property
    def anchors(self) -> tuple[Anchor, ...]:
        """The bootstrap anchors, pinned."""
        return tuple(Anchor.from_certificate(read_certificate(der)) for der in self.bootstrap_anchors)

    @property
    def names_by_certificate(self) -> bool:
        """Whether a bootstrap certificate enrols the device that it names, and no other."""
        return self.mode is EnrolmentMode.JITP and self.identifier_pattern is None

    def covers(self, identifier: str) -> bool:
        """Tell whether the pattern, if there is one, covers a device identifier."""
        return self.identifier_pattern is not None and fnmatchcase(identifier, self.identifier_pattern)


def label(text: str) -> str:
    """Return `text` if it can name a profile; raise `Refused` (malformed)."""
    if not _LABEL.fullmatch(text) or text.lower() in OPERATIONS:
        raise malformed(
            "A label is 1 to 63 letters, digits, '_' or '-', starts with a letter or digit, and is no operation of EST."
        )
    return text


def identifier_pattern(text: str) -> str:
    """Return `text` if it is a pattern of device identifiers; raise `Refused` (malformed)."""
    if not _PATTERN.fullmatch(text):
        raise malformed("A pattern is a device identifier with '*' for any characters and '?' for one.")
    return text


def certificate_profile(name: str) -> str:
    """Return `name` if it is a profile for devices' own certificates; raise `Refused` (malformed)."""
    try:
        profile = load_profile(name)
    except ProfileRefused as refused:
        raise malformed("There is no such certificate profile.") from refused
    if profile.subject_alternative_name is not AlternativeNameRule.DEVICE_URI:
        raise malformed(f"The certificate profile {name} is not one for devices.")
    return name


def bootstrap_anchors(pem: str) -> tuple[bytes, ...]:
    """Read anchors from PEM, each an authority's certificate.

    Raises:
        Refused: (malformed) There is none, or too many, or one that is not an authority's.
    """
    try:
        certificates = read_certificates(pem.encode())
        for certificate in certificates:
            Anchor.from_certificate(certificate)
    except CertificateRefused as refusal:
        raise malformed(f"The anchors cannot be used: {refusal.reason}.") from refusal
    if len(certificates) > ANCHORS_MAXIMUM:
        raise malformed(f"A label has at most {ANCHORS_MAXIMUM} anchors.")
    return tuple(certificate.public_bytes(Encoding.DER) for certificate in certificates)

"""What becomes of a certificate: its states, what leads from one to another, and what it is good for in each.

The table `TRANSITIONS` is all there is: what it does not list is refused. Expiry is no state: it is a moment, compared
with the clock where it matters.
"""

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from enum import Enum, StrEnum
from typing import Any
from uuid import UUID

from iam.access import Denied
from iam.errors import conflict


class CertificateStatus(StrEnum):
    """What a certificate is, apart from its age."""

    ACTIVE = "active"
    SUPERSEDED = "superseded"
    """Renewed: the device has its successor. It authenticates nothing, save a re-enrolment within a label's grace."""
    HELD = "held"
    """Revoked for the time being (certificateHold): it authenticates nothing until it is released."""
    REVOKED = "revoked"


class CertificateStep(Enum):
    """What can happen to a certificate."""

    SUPERSEDE = "superseded"
    HOLD = "held"
    RELEASE = "released"
    REVOKE = "revoked"


TRANSITIONS: dict[tuple[CertificateStatus, CertificateStep], CertificateStatus] = {
    (CertificateStatus.ACTIVE, CertificateStep.SUPERSEDE): CertificateStatus.SUPERSEDED,
    (CertificateStatus.ACTIVE, CertificateStep.HOLD): CertificateStatus.HELD,
    (CertificateStatus.HELD, CertificateStep.RELEASE): CertificateStatus.ACTIVE,
    (CertificateStatus.ACTIVE, CertificateStep.REVOKE): CertificateStatus.REVOKED,
    (CertificateStatus.SUPERSEDED, CertificateStep.REVOKE): CertificateStatus.REVOKED,
    (CertificateStatus.HELD, CertificateStep.REVOKE): CertificateStatus.REVOKED,
}


def next_status(status: CertificateStatus, step: CertificateStep) -> CertificateStatus:
    """Return the state after `step`; raise `Refused` (conflict) if it does not lead anywhere from here."""
    found = TRANSITIONS.get((status, step))
    if found is None:
        raise conflict(f"A certificate that is {status} cannot be {step.value}.")
    return found


class RevocationReason(StrEnum):
    """Why a certificate was revoked, by the names of RFC 5280 5.3.1."""

    UNSPECIFIED = "unspecified"
    KEY_COMPROMISE = "keyCompromise"
    AFFILIATION_CHANGED = "affiliationChanged"
    SUPERSEDED = "superseded"
    CESSATION_OF_OPERATION = "cessationOfOperation"
    CERTIFICATE_HOLD = "certificateHold"
    """Not for good: what is revoked for this reason is on hold, and can be released."""
    PRIVILEGE_WITHDRAWN = "privilegeWithdrawn"


REASON_CODES: dict[RevocationReason, int] = {
    RevocationReason.UNSPECIFIED: 0,
    RevocationReason.KEY_COMPROMISE: 1,
    RevocationReason.AFFILIATION_CHANGED: 3,
    RevocationReason.SUPERSEDED: 4,
    RevocationReason.CESSATION_OF_OPERATION: 5,
    RevocationReason.CERTIFICATE_HOLD: 6,
    RevocationReason.PRIVILEGE_WITHDRAWN: 9,
}
"""Left out: removeFromCRL, which only delta lists know, and the two of authorities (cACompromise, aACompromise)."""


class AuthorityKind(StrEnum):
    """What an authority is for."""

    ROOT = "root"
    ISSUING = "issuing"
    FACTORY = "factory"
    EXTERNAL = "external"
    """Made elsewhere and without its key: it is trusted where a label says so, and signs nothing here."""


_SERIAL_BYTES = 16


def stored_serial(number: int) -> bytes:
    """Return a serial number as the store has it: big-endian, and as long as ours are where it is shorter."""
    return number.to_bytes(max(_SERIAL_BYTES, (number.bit_length() + 7) // 8))


@dataclass(frozen=True, slots=True)
class StoredCertificate:
    """A certificate that was issued here, as the store has it.

    Attributes:
        serial: Big-endian.
        device: The device identifier that it names, if it names one.
        identity: Whom it proves; None for bootstrap and server certificates.
        request_sha256: Of the request that it answers, if there was one.
        metadata: What operators keep beside it.
    """

    serial: bytes
    authority: UUID
    tenant: UUID
    profile: str
    device: str | None
    identity: str | None
    subject: str
    spki_sha256: bytes
    request_sha256: bytes | None
    not_before: datetime
    not_after: datetime
    der: bytes
    status: CertificateStatus
    issued: datetime
    supersedes: bytes | None = None
    superseded: datetime | None = None
    revoked: datetime | None = None
    reason: RevocationReason | None = None
    metadata: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class ProvedCertificate:
    """A certificate that proves an identity now.

    Attributes:
        not_after: When it ends; nothing derived from it lives longer.
    """

    identity: str
    serial: bytes
    not_after: datetime


def judge_presented(
    presented: bytes, stored: StoredCertificate | None, now: datetime, trusted: Collection[UUID]
) -> str | Denied:
    """Return the identity that a presented certificate (DER) proves, or why it proves none.

    Its chain has been validated. What the store does not know byte for byte was not issued here, whoever signed it;
    and of what was, only that counts which one of the `trusted` authorities issued.
    """
    if stored is None or stored.der != presented:
        return Denied("the certificate is not one that was recorded here")
    if stored.status is not CertificateStatus.ACTIVE:
        return Denied(f"the certificate is {stored.status}")
    if stored.authority not in trusted:
        return Denied("the authority that issued the certificate is not trusted")
    if stored.identity is None:
        return Denied(f"a {stored.profile} certificate proves no identity")
    if not stored.not_before <= now <= stored.not_after:
        return Denied("the certificate's period does not include now")
    return stored.identity

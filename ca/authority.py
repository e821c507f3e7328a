"""What an authority is: one key, the certificate that names it, where it stands, and what it is good for in each state.

The rules:

1. An authority is one key. A new key under the same name is another authority, the next generation of the same line;
   whoever names the line means its newest generation.
2. `TRANSITIONS` is all that can be done to its state. Expiry is no state: it is a moment, compared with the clock.
3. It issues if it is active, its key is at hand, nothing above it is revoked, and no later generation of its line does.
4. It is trusted (an anchor) if it is active and nothing above it is revoked: so an earlier generation is trusted on
   until it expires, and its devices renew across a rollover.
5. One that was deactivated or revoked goes on to sign revocation lists: relying parties want to know.
"""

from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import Enum, StrEnum, auto
from functools import cached_property
from uuid import UUID

from cryptography import x509

from ca.inventory import AuthorityKind
from ca.issue import Addresses
from ca.signers import MessageSigner
from certs.chain import Anchor
from iam.errors import Kind, Refused, conflict


class AuthorityOrigin(StrEnum):
    """Where its key and certificate come from, in Lamassu's words."""

    MANAGED = "MANAGED"
    """Both were made here."""
    REQUESTED = "REQUESTED"
    """The key was made here, the certificate elsewhere, on our request."""
    IMPORTED = "IMPORTED"
    """Both were made elsewhere."""
    EXTERNAL = "EXTERNAL"
    """The certificate alone is here: it is trusted where a label says so, and signs nothing."""


class AuthorityStatus(StrEnum):
    """What was done to it."""

    ACTIVE = "active"
    INACTIVE = "inactive"
    REVOKED = "revoked"


class AuthorityStep(Enum):
    """What can be done to it."""

    ACTIVATE = auto()
    DEACTIVATE = auto()
    REVOKE = auto()


TRANSITIONS: dict[tuple[AuthorityStatus, AuthorityStep], AuthorityStatus] = {
    (AuthorityStatus.ACTIVE, AuthorityStep.DEACTIVATE): AuthorityStatus.INACTIVE,
    (AuthorityStatus.INACTIVE, AuthorityStep.ACTIVATE): AuthorityStatus.ACTIVE,
    (AuthorityStatus.ACTIVE, AuthorityStep.REVOKE): AuthorityStatus.REVOKED,
    (AuthorityStatus.INACTIVE, AuthorityStep.REVOKE): AuthorityStatus.REVOKED,
}


def next_status(status: AuthorityStatus, step: AuthorityStep) -> AuthorityStatus:
    """Return the state after `step`; raise `Refused` (conflict) if it does not lead anywhere from here."""
    found = TRANSITIONS.get((status, step))
    if found is None:
        raise conflict(f"The authority is {status} already.")
    return found


@dataclass(frozen=True, slots=True)
class Links:
    """What links a generation to the one before it (RFC 4210 4.4), as certificates in DER."""

    old_with_new: bytes
    new_with_old: bytes


@dataclass(frozen=True)
class Authority:
    """An authority, ready to be used.

    Attributes:
        name: Its own, which its revocation list and certificate are published under.
        line: The name that all its generations share: that of the first.
        tenant: Whose it is.
        parent: The authority above it, if that is known here.
        chain: The certificates above it that are no authority's here, in DER, the next one first.
        links: To the generation before it.
        profile: What it issues by where nobody says.
        engine: Where its key lies; None where that is elsewhere.
        signer: Its key; None where that is not at hand, as the first root's.
        addresses: Where its list and its certificate are published, if that was configured.
        is_revoked_above: An authority above it is revoked.
        issuance: How long what it issues lasts, or until when, at the most; None: as its profile says.
    """

    id: UUID
    name: str
    line: str
    generation: int
    kind: AuthorityKind
    origin: AuthorityOrigin
    tenant: UUID
    parent: UUID | None
    certificate: x509.Certificate
    der: bytes
    spki_sha256: bytes
    chain: tuple[bytes, ...]
    links: Links | None
    status: AuthorityStatus
    profile: str
    signer: MessageSigner | None
    addresses: Addresses | None
    is_revoked_above: bool = False
    engine: str | None = None
    issuance: timedelta | datetime | None = None

    @cached_property
    def anchor(self) -> Anchor:
        """The authority as one that is trusted: pinned by its name and key."""
        return Anchor.from_certificate(self.certificate)

    @property
    def is_trusted(self) -> bool:
        """Whether what it signed counts, as long as its period lasts (rule 4)."""
        return self.status is AuthorityStatus.ACTIVE and not self.is_revoked_above

    @property
    def is_self_signed(self) -> bool:
        """Whether it stands at the top."""
        return self.certificate.subject == self.certificate.issuer and self.parent is None

    @property
    def path_length(self) -> int | None:
        """How many authorities may stand below it; None: any number."""
        return self.anchor.path_length

    def shown_status(self, now: datetime) -> str:
        """Return its state in Lamassu's words: ACTIVE, INACTIVE, REVOKED, or EXPIRED by the clock."""
        if self.status is not AuthorityStatus.REVOKED and self.has_expired(now):
            return "EXPIRED"
        return self.status.value.upper()

    def has_expired(self, now: datetime) -> bool:
        """Tell whether its period is over."""
        return now > self.certificate.not_valid_after_utc

    def signing(self) -> MessageSigner:
        """Return its key; raise `Refused` (unavailable) if that is not at hand."""
        if self.signer is None:
            mend = " Bring its file back to the folder `keys`, and ask again."
            detail = f"The key of the authority {self.name} is not here."
            raise Refused(Kind.UNAVAILABLE, detail + (mend if self.kind is AuthorityKind.ROOT else ""))
        return self.signer

    def issuing(self, now: datetime) -> MessageSigner:
        """Return its key for issuing, by rule 3; raise `Refused` (unavailable) with what stands against it."""
        for stands_against, why in (
            (self.status is not AuthorityStatus.ACTIVE, f"it is {self.status}"),
            (self.is_revoked_above, "an authority above it is revoked"),
            (self.has_expired(now), "it has expired"),
        ):
            if stands_against:
                raise Refused(Kind.UNAVAILABLE, f"The authority {self.name} issues nothing: {why}.")
        return self.signing()

"""Who may enrol and re-enrol as what: every decision of EST, on facts that are given.

Enrolling (RFC 7030 4.2.1), by a bootstrap certificate:

1. The certificate leads to an anchor of the label, pinned by key, at this time, for client authentication (3.3.2), and
   is not revoked, where it is ours: a maker's own revocations are not asked for, so his label is changed instead. Nor
   was its key ever compromised in a certificate of ours.
2. The request names one device: by its common name, and by no alternative name but the URI of the same device.
3. That device is the one named in the bootstrap certificate, or one that the label's pattern covers; under
   `pre_registered`, one that was registered before and bound to this certificate. A binding counts under any mode.
4. It belongs to the label's tenant or one below it, and nothing there is blocked, suspended or decommissioned.
5. A device that has an identity is not taken over, unless an operator has allowed a replacement: once.
6. One public key belongs to one device, never to an authority, and never again once it was compromised.
7. The same key, proved again, gets the same certificate: so nothing is lost with an answer that was.

Re-enrolling (4.2.2), by the device's own certificate:

8. The label is the one that the device was enrolled under, so that nobody chooses the laxest for himself. Where that
   one was deleted, any other of the tenant serves, and lends neither grace nor leave to have expired.
9. The certificate leads to the label's authority, pinned by key; it may have ended only where the label says so.
10. It is the one on record, neither revoked nor superseded, save within the label's grace, nor was its key compromised;
    its device and identity are in good standing.
11. Subject and alternative name of the request are identical to the certificate's. The same key renews, another rekeys;
    6 holds. A predecessor that asks again with its successor's key gets the successor (7).
"""

from collections.abc import Collection, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime
from enum import Enum, StrEnum
from functools import lru_cache
from typing import Final

import orjson
from cryptography import x509

from certs.chain import Anchor, Purpose, ValidChain, validate_chain
from certs.csr import NamedRequest
from certs.errors import CertificateRefused, RefusalKind
from certs.names import (
    DeviceIdentifier,
    NameComparison,
    alternative_name,
    compare_names,
    device_alternative_name,
    subject_identifier,
)
from certs.pem import read_certificate
from est.profiles import EnrolmentMode, EnrolmentProfile
from iam.errors import Kind, Refused


class Refusal(Enum):
    """Why not: for each reason who can mend it, and the sentence that the device is told."""

    NO_CERTIFICATE = (Kind.UNAUTHENTICATED, "Present a client certificate.")
    NOT_YET_VALID = (Kind.FORBIDDEN, "The client certificate is not valid yet.")
    EXPIRED = (Kind.FORBIDDEN, "The client certificate has expired.")
    FOREIGN = (Kind.FORBIDDEN, "The client certificate was not issued by an authority of this label.")
    NOT_FOR_CLIENTS = (Kind.FORBIDDEN, "The client certificate is not for client authentication.")
    UNUSABLE = (Kind.FORBIDDEN, "The client certificate cannot be accepted.")
    REVOKED = (Kind.FORBIDDEN, "The client certificate is revoked.")
    SUPERSEDED = (Kind.FORBIDDEN, "The client certificate was renewed already: use its successor.")
    NOT_ON_RECORD = (Kind.FORBIDDEN, "The client certificate is not on record here.")

    REQUEST_MALFORMED = (Kind.MALFORMED, "The certification request cannot be read.")
    REQUEST_AGAINST_POLICY = (Kind.FORBIDDEN, "The certification request asks for what is not given here.")
    REQUEST_NAMES_NO_DEVICE = (Kind.MALFORMED, "The request must name one device by one common name.")
    OTHER_NAMES = (Kind.FORBIDDEN, "The only alternative name may be the URI of the device in the common name.")
    NAMES_DIFFER = (Kind.FORBIDDEN, "Subject and alternative name must be identical to the certificate's.")
    NOT_NAMED = (Kind.FORBIDDEN, "The client certificate does not entitle to this device identifier.")
    NOT_LINKED = (Kind.FORBIDDEN, "The request's challengePassword must link it to this TLS connection.")
    LINKED_ELSEWHERE = (Kind.FORBIDDEN, "The request's challengePassword is not that of this TLS connection.")
    UNKNOWN_DECRYPTION_KEY = (Kind.MALFORMED, "The decryption key that the request names is not known here.")
    KEY_PROTECTION_NOT_OFFERED = (
        Kind.FORBIDDEN,
        "The key can be encrypted in no way that the request lists.",
    )
    KEY_MUST_BE_ENCRYPTED = (Kind.FORBIDDEN, "Keys leave here only encrypted: name a decryption key in the request.")
    NO_CONNECTION_TO_LINK = (Kind.FORBIDDEN, "TLS ends at a proxy: no request can be linked to a connection there.")

    NOT_REGISTERED = (Kind.FORBIDDEN, "This label enrols only devices that were registered before.")
    NOT_BOUND = (Kind.FORBIDDEN, "The device is bound to another bootstrap certificate, or to none.")
    OTHER_TENANT = (Kind.FORBIDDEN, "This label does not enrol that device.")
    OTHER_LABEL = (Kind.FORBIDDEN, "The device was enrolled under another label: renew under that one.")
    TENANT_BLOCKED = (Kind.FORBIDDEN, "The device's group is blocked.")
    IDENTITY_SUSPENDED = (Kind.FORBIDDEN, "The device's identity is not active.")
    DECOMMISSIONED = (Kind.FORBIDDEN, "The device is decommissioned.")
    HAS_IDENTITY = (Kind.FORBIDDEN, "The device has an identity; an operator must allow its replacement first.")
    NAME_TAKEN = (Kind.FORBIDDEN, "Another identity of the group has the device's name.")
    NO_ROLE = (Kind.FORBIDDEN, "The device's group lacks the role that this label gives.")
    NOT_THE_DEVICE = (Kind.FORBIDDEN, "The client certificate is not of a device that is registered now.")
    KEY_TAKEN = (Kind.FORBIDDEN, "The public key belongs to somebody else: make a new one.")
    KEY_COMPROMISED = (Kind.FORBIDDEN, "The public key was compromised: make a new one.")

    @property
    def kind(self) -> Kind:
        """Who can mend it."""
        return self.value[0]

    @property
    def sentence(self) -> str:
        """What the device is told."""
        return self.value[1]


@dataclass(frozen=True, slots=True)
class Refuse:
    """No, and why; `detail` says more, for the log."""

    refusal: Refusal
    detail: str = ""

    def as_error(self) -> Refused:
        """Return what is raised for it."""
        reason = f"{self.refusal.name}: {self.detail or self.refusal.sentence}"
        return Refused(self.refusal.kind, self.refusal.sentence, reason=reason)


@dataclass(frozen=True, slots=True)
class Proceed:
    """Yes: issue, if the facts are still these."""


@dataclass(frozen=True, slots=True)
class Repeat:
    """The request was answered before: give the same certificate again."""


Decision = Proceed | Repeat | Refuse
PROCEED: Final = Proceed()
REPEAT: Final = Repeat()


# --- Who is asking --------------------------------------------------------------------------------------------------

_OF_CHAIN: dict[RefusalKind, Refusal] = {
    RefusalKind.NOT_YET_VALID: Refusal.NOT_YET_VALID,
    RefusalKind.EXPIRED: Refusal.EXPIRED,
    RefusalKind.CHAIN_UNTRUSTED: Refusal.FOREIGN,
    RefusalKind.EKU: Refusal.NOT_FOR_CLIENTS,
    RefusalKind.MALFORMED: Refusal.UNUSABLE,
    RefusalKind.POLICY: Refusal.UNUSABLE,
    RefusalKind.SIGNATURE: Refusal.UNUSABLE,
}


def judge_peer(
    chain: Sequence[bytes], anchors: Collection[Anchor], now: datetime, *, expired_is_allowed: bool = False
) -> ValidChain | Refuse:
    """Return the client's certificate and its path if it leads to one of `anchors` (rules 1 and 9)."""
    if not chain:
        return Refuse(Refusal.NO_CERTIFICATE)
    try:
        leaf, *others = map(read_certificate, chain)
        return validate_chain(
            leaf, others, anchors, now, purpose=Purpose.CLIENT_AUTH, allow_expired_leaf=expired_is_allowed
        )
    except CertificateRefused as refusal:
        return Refuse(_OF_CHAIN[refusal.kind], refusal.reason)


# --- What is asked for ----------------------------------------------------------------------------------------------


def judge_request(refusal: CertificateRefused) -> Refuse:
    """Return what a request that `certs.csr` refused is refused for: a bad request, or one against policy."""
    against_policy = refusal.kind is RefusalKind.POLICY
    return Refuse(Refusal.REQUEST_AGAINST_POLICY if against_policy else Refusal.REQUEST_MALFORMED, refusal.reason)


def requested_device(request: NamedRequest) -> DeviceIdentifier | Refuse:
    """Return the device that a request names (rule 2)."""
    try:
        identifier = subject_identifier(request.subject)
    except CertificateRefused as refusal:
        return Refuse(Refusal.REQUEST_NAMES_NO_DEVICE, refusal.reason)
    if request.subject_alternative_name not in ((), device_alternative_name(identifier)):
        return Refuse(Refusal.OTHER_NAMES)
    return identifier


def decide_identifier(profile: EnrolmentProfile, bootstrap: x509.Certificate, wanted: str) -> Proceed | Refuse:
    """Decide whether a bootstrap certificate speaks for the device `wanted` (rule 3).

    Under `pre_registered` it is the binding that decides, with the facts.
    """
    if profile.mode is EnrolmentMode.PRE_REGISTERED or profile.covers(wanted):
        return PROCEED
    try:
        named = subject_identifier(bootstrap.subject)
    except CertificateRefused as refusal:
        return Refuse(Refusal.NOT_NAMED, refusal.reason)
    if named != wanted:
        return Refuse(Refusal.NOT_NAMED, f"the certificate names {named}, the request {wanted}")
    return PROCEED


def decide_names(request: NamedRequest, presented: x509.Certificate) -> Proceed | Refuse:
    """Decide whether a request may renew the certificate presented (rule 11)."""
    # RFC 7030 4.2.2: the Subject field and SubjectAltName extension MUST be identical.
    compared = compare_names(
        request.subject, request.subject_alternative_name, presented.subject, alternative_name(presented)
    )
    return PROCEED if compared is NameComparison.IDENTICAL else Refuse(Refusal.NAMES_DIFFER, compared.reason)


# --- What is on record ----------------------------------------------------------------------------------------------


class DeviceState(StrEnum):
    """What is known of the device that the request names."""

    ABSENT = "absent"
    REGISTERED = "registered"
    IDENTIFIED = "identified"
    DECOMMISSIONED = "decommissioned"
    OTHER = "other"
    """It is there, and the certificate presented is not of its identity."""


class KeyOwner(StrEnum):
    """Whose the public key in the request is."""

    NOBODY = "nobody"
    THIS = "this"
    OTHER = "other"
    AUTHORITY = "authority"
    COMPROMISED = "compromised"


class Binding(StrEnum):
    """How the bootstrap certificate stands to what the device was bound to."""

    ABSENT = "absent"
    MATCHES = "matches"
    DIFFERS = "differs"


class DeviceLabel(StrEnum):
    """How the label that is asked stands to the one that the device was enrolled under."""

    OWN = "own"
    OTHER = "other"
    DELETED = "deleted"
    """It is another one, and the device's own is no more."""


class PresentedState(StrEnum):
    """What the store has of the certificate presented."""

    ABSENT = "absent"
    DIFFERS = "differs"
    ACTIVE = "active"
    RECENTLY_SUPERSEDED = "superseded within grace"
    SUPERSEDED = "superseded"
    REVOKED = "revoked"


@dataclass(frozen=True, slots=True)
class EnrolmentFacts:
    """What `enrol_device` finds, and what it must still find to write."""

    device: DeviceState
    is_within_label: bool = True
    is_tenant_active: bool = True
    is_identity_active: bool = True
    is_name_taken: bool = False
    has_role: bool = True
    is_replacement_allowed: bool = False
    is_bootstrap_revoked: bool = False
    binding: Binding = Binding.ABSENT
    key_owner: KeyOwner = KeyOwner.NOBODY
    is_answered: bool = False


@dataclass(frozen=True, slots=True)
class RenewalFacts:
    """What `reenrol_device` finds, and what it must still find to write."""

    presented: PresentedState
    key_owner: KeyOwner
    device: DeviceState = DeviceState.IDENTIFIED
    label: DeviceLabel = DeviceLabel.OWN
    is_within_label: bool = True
    is_tenant_active: bool = True
    is_identity_active: bool = True
    is_answered: bool = False


def expected_enrolment(profile: EnrolmentProfile) -> EnrolmentFacts:
    """Return the facts of nearly every first enrolment: so it takes one statement, which finds out if they are not."""
    if profile.mode is EnrolmentMode.PRE_REGISTERED:
        return EnrolmentFacts(DeviceState.REGISTERED, binding=Binding.MATCHES)
    return EnrolmentFacts(DeviceState.ABSENT)


def expected_renewal(*, same_key: bool) -> RenewalFacts:
    """Return the facts of nearly every re-enrolment."""
    return RenewalFacts(PresentedState.ACTIVE, KeyOwner.THIS if same_key else KeyOwner.NOBODY)


def decide_enrol(profile: EnrolmentProfile, facts: EnrolmentFacts) -> Decision:
    """Decide on a first enrolment whose names are in order (rules 1 and 3 to 7)."""
    is_new = facts.device is not DeviceState.IDENTIFIED
    for stands_against, refusal in (
        (facts.is_bootstrap_revoked, Refusal.REVOKED),
        (not facts.is_within_label, Refusal.OTHER_TENANT),
        (not facts.is_tenant_active, Refusal.TENANT_BLOCKED),
        (facts.device is DeviceState.DECOMMISSIONED, Refusal.DECOMMISSIONED),
        (not facts.is_identity_active, Refusal.IDENTITY_SUSPENDED),
        (_lacks_registration(profile, facts), Refusal.NOT_REGISTERED),
        (_lacks_binding(profile, facts), Refusal.NOT_BOUND),
        (facts.key_owner is KeyOwner.COMPROMISED, Refusal.KEY_COMPROMISED),
    ):
        if stands_against:
            return Refuse(refusal)
    if facts.is_answered:
        return REPEAT
    for stands_against, refusal in (
        (not is_new and not facts.is_replacement_allowed, Refusal.HAS_IDENTITY),
        (is_new and facts.is_name_taken, Refusal.NAME_TAKEN),
        (is_new and not facts.has_role, Refusal.NO_ROLE),
    ):
        if stands_against:
            return Refuse(refusal)
    return _decide_key(facts.key_owner)


def decide_reenrol(facts: RenewalFacts, *, has_expired: bool) -> Decision:
    """Decide on a re-enrolment whose names are in order (rules 8 to 11)."""
    for stands_against, refusal in (
        (facts.presented in {PresentedState.ABSENT, PresentedState.DIFFERS}, Refusal.NOT_ON_RECORD),
        (facts.presented is PresentedState.REVOKED, Refusal.REVOKED),
        (facts.device is DeviceState.DECOMMISSIONED, Refusal.DECOMMISSIONED),
        (facts.device is not DeviceState.IDENTIFIED, Refusal.NOT_THE_DEVICE),
        (not facts.is_within_label, Refusal.OTHER_TENANT),
        (facts.label is DeviceLabel.OTHER, Refusal.OTHER_LABEL),
        (facts.label is DeviceLabel.DELETED and has_expired, Refusal.EXPIRED),
        (not facts.is_tenant_active, Refusal.TENANT_BLOCKED),
        (not facts.is_identity_active, Refusal.IDENTITY_SUSPENDED),
        (facts.key_owner is KeyOwner.COMPROMISED, Refusal.KEY_COMPROMISED),
    ):
        if stands_against:
            return Refuse(refusal)
    if facts.is_answered:
        return REPEAT
    if facts.presented is PresentedState.SUPERSEDED:
        return Refuse(Refusal.SUPERSEDED)
    return _decide_key(facts.key_owner)


@lru_cache(maxsize=256)
def encode_facts(facts: EnrolmentFacts | RenewalFacts) -> str:
    """Return facts as JSON, as the store speaks of them."""
    return orjson.dumps(asdict(facts)).decode()


def decode_enrolment_facts(text: str) -> EnrolmentFacts:
    """Read the facts that the store found."""
    raw = orjson.loads(text)
    return EnrolmentFacts(
        DeviceState(raw.pop("device")),
        binding=Binding(raw.pop("binding")),
        key_owner=KeyOwner(raw.pop("key_owner")),
        **raw,
    )


def decode_renewal_facts(text: str) -> RenewalFacts:
    """Read the facts that the store found."""
    raw = orjson.loads(text)
    return RenewalFacts(
        PresentedState(raw.pop("presented")),
        KeyOwner(raw.pop("key_owner")),
        DeviceState(raw.pop("device")),
        DeviceLabel(raw.pop("label")),
        **raw,
    )


def _lacks_registration(profile: EnrolmentProfile, facts: EnrolmentFacts) -> bool:
    return profile.mode is EnrolmentMode.PRE_REGISTERED and facts.device is DeviceState.ABSENT


def _lacks_binding(profile: EnrolmentProfile, facts: EnrolmentFacts) -> bool:
    if profile.mode is EnrolmentMode.PRE_REGISTERED:
        return facts.binding is not Binding.MATCHES
    return facts.binding is Binding.DIFFERS


def _decide_key(owner: KeyOwner) -> Decision:
    match owner:
        case KeyOwner.NOBODY | KeyOwner.THIS:
            return PROCEED
        case KeyOwner.COMPROMISED:
            return Refuse(Refusal.KEY_COMPROMISED)
        case KeyOwner.OTHER | KeyOwner.AUTHORITY:
            return Refuse(Refusal.KEY_TAKEN)

"""Who may enrol and re-enrol as what: every decision of EST, on facts that are given.

Enrolling (RFC 7030 4.2.1), by whatever credentials the label asks for, all of them (`est.authentication`):

1. A bootstrap certificate leads to an anchor of the label, pinned by key, within as many steps as the label says, at
   this time (save where the label lets it have ended), for client authentication (3.3.2), and is not revoked, where it
   is ours: a maker's own revocations are not asked for, so his label is changed instead. Nor was its key ever
   compromised in a certificate of ours. An enrolment secret has uses left.
2. The request names one device: by its common name, and by no alternative name but the URI of the same device.
3. That device is the one that each credential names; for a bootstrap certificate, and a secret that names none, also
   one that the label's pattern covers. Under `pre_registered` it was registered before, and bound to the certificate or
   named by a credential that is none. A binding to a certificate counts under any mode.
4. It belongs to the label's tenant or one below it, is not another label's, by its registration or enrolment, unless
   that one was deleted, and nothing there is blocked, suspended or decommissioned.
5. A device that has an identity is not taken over, unless an operator has allowed a replacement: once, and only where
   the label replaces at all.
6. One public key belongs to one device, never to an authority, and never again once it was compromised.
7. The same key, proved again, gets the same certificate: so nothing is lost with an answer that was, and no second use
   of a secret either.

Re-enrolling (4.2.2), by the device's own certificate:

8. The label is the one that the device was enrolled under, so that nobody chooses the laxest for himself. Where that
   one was deleted, any other of the tenant serves, and lends neither grace nor leave to have expired.
9. The certificate leads to the label's authority or to one that it names beside, pinned by key; it may have ended only
   where the label says so.
10. It is the one on record, neither revoked nor superseded, save within the label's grace and only while a successor
    is active, nor was its key compromised; its device and identity are in good standing.
11. Subject and alternative name of the request are identical to the certificate's. The same key renews, another rekeys,
    as far as the label allows either, and within its window; 6 holds. A predecessor that asks again with its
    successor's key gets the successor (7), at any time.

Binding a certificate that was issued here for a device, and proves nobody yet:

12. The label's authority issued it; it names the device, is active, and its period includes now. The device is
    registered, by this label if by any, and has no identity. 4 and 6 hold.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import lru_cache
from uuid import UUID

from cryptography import x509
from cryptography.hazmat.primitives.hashes import SHA256

from ca.inventory import CertificateStatus, StoredCertificate
from certs.chain import REMEMBERED_MAXIMUM, Anchor, Purpose, ValidChain, validate_chain
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
from est.facts import (
    Binding,
    DeviceLabel,
    DeviceState,
    EnrolmentFacts,
    KeyOwner,
    PresentedState,
    RenewalFacts,
    SecretState,
)
from est.profiles import EnrolmentMode, EnrolmentProfile, Way
from est.refusals import PROCEED, REPEAT, Decision, Proceed, Refusal, Refuse
from iam.model import NONE, Device, DeviceStatus, Extent

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


def judge_bootstrap(chain: Sequence[bytes], profile: EnrolmentProfile, now: datetime) -> ValidChain | Refuse:
    """Return a bootstrap certificate and its path if it is one of the label's (rule 1)."""
    terms = profile.settings.bootstrap
    judged = judge_peer(chain, profile.anchors, now, expired_is_allowed=terms.expired_is_allowed)
    if isinstance(judged, Refuse) or terms.longest_path is None:
        return judged
    steps = len(judged.path) + 1
    if steps > terms.longest_path:
        return Refuse(Refusal.PATH_TOO_LONG, f"it is {steps} steps below the anchor")
    return judged


@dataclass(frozen=True, slots=True)
class Entitlement:
    """What one accepted credential speaks for.

    Attributes:
        way: What kind of credential it is.
        by: Who or what it is, for the audit: `secret <id>`, `token of <subject>`; never a secret itself.
        devices: Those that it names.
        otherwise: What a request for another device is refused for.
        goes_by_pattern: Whether it also speaks for what the label's pattern covers: a bootstrap certificate does, and a
            secret that is bound to no device.
        chain: The certificate and its path, where it is one.
        secret: The id of the enrolment secret, where it is one.
    """

    way: Way
    by: str
    devices: Extent
    otherwise: Refusal
    goes_by_pattern: bool = False
    chain: ValidChain | None = None
    secret: UUID | None = None

    def decide_identifier(self, profile: EnrolmentProfile, wanted: str) -> Proceed | Refuse:
        """Decide whether it speaks for the device `wanted` (rule 3)."""
        if wanted in self.devices or (self.goes_by_pattern and profile.covers(wanted)):
            return PROCEED
        if profile.mode is EnrolmentMode.PRE_REGISTERED and self.way is Way.CERTIFICATE:
            return PROCEED  # it is the binding that decides, with the facts
        named = ", ".join(sorted(self.devices.names)[:1]) or "no device"
        return Refuse(self.otherwise, f"{self.by} names {named}, the request {wanted}")

    def binds(self, wanted: str) -> bool:
        """Tell whether it binds the device by itself: a certificate does so only by what an operator has recorded."""
        return self.way is not Way.CERTIFICATE and wanted in self.devices


@lru_cache(maxsize=REMEMBERED_MAXIMUM)
def entitled_by_certificate(chain: ValidChain) -> Entitlement:
    """Return what an accepted bootstrap certificate speaks for: the device in its subject, if there is one."""
    try:
        named = Extent(names=frozenset({str(subject_identifier(chain.leaf.subject))}))
    except CertificateRefused:
        named = NONE
    # By its SHA-256: of a serial number every issuer has his own.
    by = f"certificate {chain.leaf.fingerprint(SHA256()).hex()}"
    return Entitlement(Way.CERTIFICATE, by, named, Refusal.NOT_NAMED, goes_by_pattern=True, chain=chain)


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


def decide_names(request: NamedRequest, presented: x509.Certificate) -> Proceed | Refuse:
    """Decide whether a request may renew the certificate presented (rule 11)."""
    # RFC 7030 4.2.2: the Subject field and SubjectAltName extension MUST be identical.
    compared = compare_names(
        request.subject, request.subject_alternative_name, presented.subject, alternative_name(presented)
    )
    return PROCEED if compared is NameComparison.IDENTICAL else Refuse(Refusal.NAMES_DIFFER, compared.reason)


# --- What is on record ----------------------------------------------------------------------------------------------


def expected_enrolment(profile: EnrolmentProfile, *, is_bound: bool = False, by_secret: bool = False) -> EnrolmentFacts:
    """Return the facts of nearly every first enrolment: so it takes one statement, which finds out if they are not.

    Args:
        is_bound: A credential binds the device by itself.
        by_secret: One of the credentials is an enrolment secret.
    """
    secret = SecretState.USABLE if by_secret else SecretState.NONE
    if profile.mode is EnrolmentMode.PRE_REGISTERED:
        binding = Binding.ABSENT if is_bound else Binding.MATCHES
        return EnrolmentFacts(DeviceState.REGISTERED, binding=binding, secret=secret)
    return EnrolmentFacts(DeviceState.ABSENT, secret=secret)


def expected_renewal(*, same_key: bool) -> RenewalFacts:
    """Return the facts of nearly every re-enrolment."""
    return RenewalFacts(PresentedState.ACTIVE, KeyOwner.THIS if same_key else KeyOwner.NOBODY)


def decide_enrol(profile: EnrolmentProfile, facts: EnrolmentFacts, *, is_bound: bool = False) -> Decision:
    """Decide on a first enrolment whose names are in order (rules 1 and 3 to 7); `is_bound` as above."""
    is_new = facts.device is not DeviceState.IDENTIFIED
    for stands_against, refusal in (
        (facts.is_bootstrap_revoked, Refusal.REVOKED),
        (facts.secret is SecretState.GONE, Refusal.SECRET_REFUSED),
        (not facts.is_within_label, Refusal.OTHER_TENANT),
        (not facts.is_tenant_active, Refusal.TENANT_BLOCKED),
        (facts.device is DeviceState.DECOMMISSIONED, Refusal.DECOMMISSIONED),
        (not facts.is_identity_active, Refusal.IDENTITY_SUSPENDED),
        (_lacks_registration(profile, facts), Refusal.NOT_REGISTERED),
        (facts.is_registered_elsewhere, Refusal.REGISTERED_ELSEWHERE),
        (_lacks_binding(profile, facts, is_bound=is_bound), Refusal.NOT_BOUND),
        (facts.key_owner is KeyOwner.COMPROMISED, Refusal.KEY_COMPROMISED),
    ):
        if stands_against:
            return Refuse(refusal)
    if facts.is_answered:
        return REPEAT
    for stands_against, refusal in (
        (facts.secret is SecretState.SPENT, Refusal.SECRET_SPENT),
        (not is_new and not profile.settings.replaces, Refusal.NEVER_REPLACED),
        (not is_new and not facts.is_replacement_allowed, Refusal.HAS_IDENTITY),
        (is_new and facts.is_name_taken, Refusal.NAME_TAKEN),
        (is_new and not facts.has_role, Refusal.NO_ROLE),
    ):
        if stands_against:
            return Refuse(refusal)
    return _decide_key(facts.key_owner)


@dataclass(frozen=True, slots=True)
class Renewing:
    """What is asked in a re-enrolment, apart from the facts.

    Attributes:
        ends: When the certificate presented ends.
    """

    now: datetime
    ends: datetime
    is_same_key: bool

    @property
    def has_expired(self) -> bool:
        """Whether the certificate presented has ended."""
        return self.now > self.ends


def decide_reenrol(profile: EnrolmentProfile, facts: RenewalFacts, asked: Renewing) -> Decision:
    """Decide on a re-enrolment whose names are in order (rules 8 to 11)."""
    for stands_against, refusal in (
        (facts.presented in {PresentedState.ABSENT, PresentedState.DIFFERS}, Refusal.NOT_ON_RECORD),
        (facts.presented is PresentedState.REVOKED, Refusal.REVOKED),
        (facts.device is DeviceState.DECOMMISSIONED, Refusal.DECOMMISSIONED),
        (facts.device is not DeviceState.IDENTIFIED, Refusal.NOT_THE_DEVICE),
        (not facts.is_within_label, Refusal.OTHER_TENANT),
        (facts.label is DeviceLabel.OTHER, Refusal.OTHER_LABEL),
        (facts.label is DeviceLabel.DELETED and asked.has_expired, Refusal.EXPIRED),
        (not facts.is_tenant_active, Refusal.TENANT_BLOCKED),
        (not facts.is_identity_active, Refusal.IDENTITY_SUSPENDED),
        (facts.key_owner is KeyOwner.COMPROMISED, Refusal.KEY_COMPROMISED),
    ):
        if stands_against:
            return Refuse(refusal)
    if facts.is_answered:
        return REPEAT
    terms = profile.settings.renewal
    for stands_against, refusal in (
        (facts.presented is PresentedState.SUPERSEDED, Refusal.SUPERSEDED),
        (terms.opens is not None and asked.now < asked.ends - terms.opens, Refusal.TOO_EARLY),
        (asked.is_same_key and not terms.with_same_key, Refusal.KEY_MUST_CHANGE),
        (not asked.is_same_key and not terms.with_new_key, Refusal.KEY_MUST_STAY),
    ):
        if stands_against:
            return Refuse(refusal)
    return _decide_key(facts.key_owner)


def decide_bind(
    profile: EnrolmentProfile,
    issuers: Collection[UUID],
    device: Device,
    certificate: StoredCertificate,
    owner: KeyOwner,
    now: datetime,
) -> Proceed | Refuse:
    """Decide whether a certificate becomes the identity of a device that has none (rule 12).

    Args:
        issuers: The label's authority, with all its keys.
    """
    subject = read_certificate(certificate.der).subject
    try:
        names_it = subject_identifier(subject) == device.identifier
    except CertificateRefused:
        names_it = False
    is_active = certificate.status is CertificateStatus.ACTIVE
    for stands_against, refusal in (
        (certificate.identity is not None, Refusal.PROVES_SOMEBODY),
        (not is_active or not certificate.not_before <= now <= certificate.not_after, Refusal.NOT_ACTIVE),
        (certificate.authority not in issuers, Refusal.OTHER_AUTHORITY),
        (not names_it, Refusal.OTHER_DEVICE),
        (device.status is DeviceStatus.DECOMMISSIONED, Refusal.DECOMMISSIONED),
        (device.identity is not None, Refusal.HAS_IDENTITY),
        (device.enrolment_profile not in (None, profile.name), Refusal.REGISTERED_ELSEWHERE),
    ):
        if stands_against:
            return Refuse(refusal)
    decided = _decide_key(owner)
    return decided if isinstance(decided, Refuse) else PROCEED


def _lacks_registration(profile: EnrolmentProfile, facts: EnrolmentFacts) -> bool:
    return profile.mode is EnrolmentMode.PRE_REGISTERED and facts.device is DeviceState.ABSENT


def _lacks_binding(profile: EnrolmentProfile, facts: EnrolmentFacts, *, is_bound: bool) -> bool:
    if profile.mode is EnrolmentMode.PRE_REGISTERED and facts.binding is Binding.ABSENT:
        return not is_bound
    return facts.binding is Binding.DIFFERS


def _decide_key(owner: KeyOwner) -> Decision:
    match owner:
        case KeyOwner.NOBODY | KeyOwner.THIS:
            return PROCEED
        case KeyOwner.COMPROMISED:
            return Refuse(Refusal.KEY_COMPROMISED)
        case KeyOwner.OTHER | KeyOwner.AUTHORITY:
            return Refuse(Refusal.KEY_TAKEN)

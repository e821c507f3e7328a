"""The operations of EST, in the order in which they are decided.

A first enrolment or a re-enrolment is decided on the facts that nearly all of them meet, issued, and recorded in one
statement that also finds out whether the facts are those. If they are not, it is decided again on what was found: then
it is refused, or answered with the certificate that was given before, or recorded on these facts. So the usual case is
one round trip, and every rule stands once, in `est.rules`.

A certificate leaves here only after it was committed. If the store fails in between, nobody knows; the device asks
again with the same key and gets the same certificate.
"""

from collections.abc import Awaitable, Callable, Sequence
from datetime import datetime, timedelta
from hashlib import sha256
from typing import TypeVar
from uuid import UUID

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from ca.authorities import Authorities
from ca.inventory import AuthorityKind, stored_serial
from ca.issue import SERIAL_BYTES, device
from certs.chain import ValidChain
from certs.csr import CertificateRequest, decode_base64_request, parse_request
from certs.errors import CertificateRefused
from certs.names import DeviceIdentifier
from certs.pkcs7 import certs_only
from est.labels import Labels
from est.profiles import DEFAULT_LABEL, EnrolmentMode, EnrolmentProfile
from est.rules import (
    Decision,
    EnrolmentFacts,
    Refuse,
    RenewalFacts,
    Repeat,
    decide_enrol,
    decide_identifier,
    decide_names,
    decide_reenrol,
    expected_enrolment,
    expected_renewal,
    judge_peer,
    judge_request,
    requested_device,
)
from est.store.enrolments import (
    Attempt,
    MeanwhileChanged,
    Recorded,
    StatementDatabase,
    enrol_device,
    reenrol_device,
)
from est.store.profiles import find_profile, insert_profile
from iam.errors import Kind, Refused
from iam.identifiers import Clock, Random, identity_id, uuid7
from iam.store.database import Change

_ATTEMPTS = 8
_DEVICE_ROLE = "device"
_NODE = "doorward"

Facts = TypeVar("Facts", EnrolmentFacts, RenewalFacts)
Answered = TypeVar("Answered")


class EstService:
    """Enrolment over Secure Transport."""

    def __init__(self, database: StatementDatabase, authorities: Authorities, clock: Clock, random: Random) -> None:
        self._database = database
        self._authorities = authorities
        self._clock = clock
        self._random = random
        self._labels = Labels(database, clock)

    async def ensure_default_profile(self, tenant: UUID) -> None:
        """Make the root tenant's profile `default`, unless it is there: our own factory authority is its anchor."""
        factory = self._authorities.current(AuthorityKind.FACTORY)
        now = self._clock()
        profile = EnrolmentProfile(
            id=uuid7(now, self._random),
            tenant=tenant,
            name=DEFAULT_LABEL,
            mode=EnrolmentMode.JITP,
            authority=self._authorities.current(AuthorityKind.ISSUING).id,
            certificate_profile="device",
            bootstrap_anchors=(factory.der,),
            identifier_pattern=None,
            role_name=_DEVICE_ROLE,
            expired_may_renew=False,
            previous_grace=timedelta(0),
            created=now,
        )
        try:
            async with self._database.transaction(tenant) as transaction:
                if await find_profile(transaction, DEFAULT_LABEL) is None:
                    await insert_profile(transaction, profile)
                    await transaction.record(Change(tenant, _NODE, "enrolment_profile.created", DEFAULT_LABEL))
        except Refused as refused:
            if refused.kind is not Kind.CONFLICT:  # another worker was first
                raise

    async def cacerts(self, label: str) -> bytes:
        """Return what leads from the label's authority to its root (RFC 7030 4.1.3), as certs-only in DER."""
        profile = await self._labels.profile(label)
        return certs_only(self._authorities.published_chain(profile.authority))

    async def require_label(self, label: str) -> None:
        """Raise `Refused` (not found) if there is no such label."""
        await self._labels.profile(label)

    async def enrol(self, label: str, chain: Sequence[bytes], body: bytes) -> bytes:
        """Give a device its first certificate (RFC 7030 4.2.1); return it alone, as certs-only in DER.

        Args:
            chain: What the client presented in TLS, in DER, leaf first.
            body: The request as it came, in base64.

        Raises:
            Refused: By one of `est.rules.Refusal`; (not found) no such label; (unavailable) nothing is known.
        """
        profile = await self._labels.profile(label)
        now = self._clock()
        presented = _accepted(judge_peer(chain, profile.anchors, now))
        request = _parsed(body)
        wanted = _accepted(requested_device(request))
        _accepted(decide_identifier(profile, presented.leaf, wanted))
        attempt = self._attempt(profile, presented, request, wanted, now)
        return await _settle(
            expected_enrolment(profile),
            lambda facts: decide_enrol(profile, facts),
            lambda facts: enrol_device(self._database, profile, attempt, facts, identity_id(now, self._random)),
            attempt,
        )

    async def reenrol(self, label: str, chain: Sequence[bytes], body: bytes) -> bytes:
        """Renew or rekey a device's certificate (RFC 7030 4.2.2); arguments, answer and errors as for `enrol`."""
        profile = await self._labels.profile(label)
        now = self._clock()
        anchors = self._authorities.anchors([profile.authority])  # earlier keys too: a rollover shuts nobody out
        presented = _accepted(judge_peer(chain, anchors, now, expired_is_allowed=profile.expired_may_renew))
        request = _parsed(body)
        _accepted(decide_names(request, presented.leaf))
        wanted = _accepted(requested_device(request))
        attempt = self._attempt(profile, presented, request, wanted, now)
        has_expired = now > presented.leaf.not_valid_after_utc
        return await _settle(
            expected_renewal(same_key=attempt.is_same_key),
            lambda facts: decide_reenrol(facts, has_expired=has_expired),
            lambda facts: reenrol_device(self._database, profile, attempt, facts),
            attempt,
        )

    def _attempt(
        self,
        profile: EnrolmentProfile,
        presented: ValidChain,
        request: CertificateRequest,
        wanted: DeviceIdentifier,
        now: datetime,
    ) -> Attempt:
        issuer = self._authorities.issuer(profile.authority)
        template = self._authorities.template(issuer, profile.certificate_profile)
        try:
            issued = template.issue(device(wanted, request.spki_der), now, self._random(SERIAL_BYTES))
        except CertificateRefused as refusal:
            raise judge_request(refusal).as_error() from refusal
        leaf = presented.leaf.public_bytes(Encoding.DER)
        issued_by_anchor = not presented.path
        return Attempt(
            now=now,
            device=wanted,
            presented=leaf,
            presented_serial=stored_serial(presented.leaf.serial_number),
            presented_sha256=sha256(leaf).digest(),
            presented_spki_sha256=_spki_sha256(presented.leaf),
            presented_issuer_spki_sha256=(
                presented.anchor.spki_sha256 if issued_by_anchor else _spki_sha256(presented.path[0])
            ),
            request=request,
            issued=issued,
            authority=issuer.id,
            change=uuid7(now, self._random),
        )


async def _settle(
    expected: Facts,
    decide: Callable[[Facts], Decision],
    record: Callable[[Facts], Awaitable[Recorded[Facts]]],
    attempt: Attempt,
) -> bytes:
    """Decide and record until what was decided on still holds when it is recorded; return the certificate's answer."""
    facts, existing = expected, None
    for _ in range(_ATTEMPTS):
        decision = decide(facts)
        if isinstance(decision, Refuse):
            raise decision.as_error()
        if isinstance(decision, Repeat) and existing is not None:
            return certs_only([existing])
        try:
            recorded = await record(facts)
        except MeanwhileChanged:
            continue
        if recorded.is_written:
            return certs_only([attempt.issued.der])
        facts, existing = recorded.facts, recorded.existing
    raise Refused(
        Kind.UNAVAILABLE,
        "The device is being enrolled elsewhere at this moment.",
        reason=f"{attempt.device}: the facts changed {_ATTEMPTS} times",
        retry_after=1,
    )


def _spki_sha256(certificate: x509.Certificate) -> bytes:
    return sha256(certificate.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)).digest()


def _parsed(body: bytes) -> CertificateRequest:
    try:
        return parse_request(decode_base64_request(body))
    except CertificateRefused as refusal:
        raise judge_request(refusal).as_error() from refusal


def _accepted(answer: Answered | Refuse) -> Answered:
    """Return an answer that is not a refusal; raise that."""
    if isinstance(answer, Refuse):
        raise answer.as_error()
    return answer

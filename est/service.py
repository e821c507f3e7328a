"""The operations of EST, in the order in which they are decided.

Who asks is found out first (`est.authentication`), by what the label asks for: credentials before the request is read,
a webhook and an operator once it is known what is asked for.

A first enrolment or a re-enrolment is decided on the facts that nearly all of them meet, issued, and recorded in one
statement that also finds out whether the facts are those. If they are not, it is decided again on what was found: then
it is refused, or answered with the certificate that was given before, or recorded on these facts. So the usual case is
one round trip, and every rule stands once, in `est.rules`.

Where the key is made here, the facts are looked at first, and who would be refused by them has none made.

A certificate leaves here only after it was committed. If the store fails in between, nobody knows; the device asks
again with the same key and gets the same certificate.
"""

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace
from datetime import datetime, timedelta
from functools import lru_cache
from hashlib import sha256
from typing import TypeVar
from uuid import UUID

from cryptography.hazmat.primitives.serialization import Encoding

from ca.authorities import Authorities
from ca.authority import Authority
from ca.inventory import AuthorityKind, stored_serial
from ca.issue import SERIAL_BYTES, Template, device
from certs.chain import REMEMBERED_MAXIMUM, ValidChain
from certs.csr import (
    CertificateRequest,
    NamedRequest,
    decode_base64_request,
    parse_keyless_request,
    parse_request,
)
from certs.errors import CertificateRefused, ProfileRefused
from certs.names import DeviceIdentifier, subject_identifier
from certs.pkcs7 import certs_only
from est.authentication.asking import NO_EVIDENCE, Asking, Evidence, Wanted
from est.authentication.forwarded import spki_sha256
from est.authentication.table import Authentication, requester
from est.facts import EnrolmentFacts, RenewalFacts
from est.labels import Labels
from est.possession import decide_possession
from est.profiles import DEFAULT_LABEL, EnrolmentMode, EnrolmentProfile, Operation, ProofOfPossession
from est.refusals import Decision, Refuse, Repeat, Wait
from est.rules import (
    Entitlement,
    Renewing,
    decide_enrol,
    decide_names,
    decide_reenrol,
    expected_enrolment,
    expected_renewal,
    judge_peer,
    judge_request,
    requested_device,
)
from est.server_keys import REDELIVERY, KeyAndCertificate, KeyMaking, ServerKeys, with_key
from est.store.enrolments import (
    Attempt,
    Credentials,
    MeanwhileChanged,
    PresentedCertificate,
    Recorded,
    Redelivery,
    StatementDatabase,
    enrol_device,
    look_at_enrolment,
    look_at_renewal,
    reenrol_device,
)
from est.store.profiles import find_profile, insert_profile
from est.wishes import csr_attributes
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

    def __init__(
        self,
        database: StatementDatabase,
        authorities: Authorities,
        authentication: Authentication,
        server_keys: ServerKeys,
        clock: Clock,
        random: Random,
    ) -> None:
        self._database = database
        self._authorities = authorities
        self._authentication = authentication
        self._server_keys = server_keys
        self._clock = clock
        self._random = random
        self._labels = Labels(database, clock, self._followed)
        authorities.on_change(self._labels.forget)

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
            title="Our own factory",
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
        """Return the authorities that the label shows (RFC 7030 4.1.3), as certs-only in DER: each up to its root."""
        profile = await self._labels.profile(label)
        shown = profile.settings.distribution
        named = [profile.authority] if shown.own else []
        if shown.system:
            named.append(self._authorities.current(AuthorityKind.ISSUING).id)
        named += shown.others
        chains = (self._authorities.published_chain(one) for one in named)
        return certs_only(dict.fromkeys(der for chain in chains for der in chain))

    def _followed(self, profile: EnrolmentProfile) -> EnrolmentProfile:
        """Return a profile whose anchors follow our own authorities: to their next keys, and out of trust."""
        return replace(
            profile,
            bootstrap_anchors=self._authorities.followed(profile.bootstrap_anchors),
            additional_anchors=self._authorities.followed(profile.additional_anchors),
        )

    async def csr_attributes(self, label: str, chain: Sequence[bytes] = ()) -> bytes:
        """Return what the label wants of requests (RFC 7030 4.5), in DER; `chain` is what the client showed, if any."""
        profile = await self._labels.profile(label)
        certificates = self._authorities.profile(profile.certificate_profile)
        return csr_attributes(profile, certificates, self._named(profile, chain))

    def _template(self, profile: EnrolmentProfile) -> tuple[Authority, Template]:
        """Return who issues under a label now, and by what."""
        issuer = self._authorities.issuer(profile.authority)
        try:
            return issuer, self._authorities.template(issuer, profile.certificate_profile)
        except ProfileRefused as refused:  # an operator's, that cannot be used any more
            raise Refused(Kind.UNAVAILABLE, "The label's certificate profile cannot be used now.") from refused

    def _named(self, profile: EnrolmentProfile, chain: Sequence[bytes]) -> DeviceIdentifier | None:
        """Return the one device that a client can become by what it showed, if there is just one."""
        now, chain = self._clock(), self._authorities.believable(chain)
        anchors = self._authorities.anchors([profile.authority])
        presented = judge_peer(chain, anchors, now, expired_is_allowed=profile.expired_may_renew)
        if isinstance(presented, Refuse) and profile.names_by_certificate:
            presented = judge_peer(chain, profile.anchors, now)
        if isinstance(presented, Refuse):
            return None
        try:
            return subject_identifier(presented.leaf.subject)
        except CertificateRefused:
            return None

    async def require_label(self, label: str) -> None:
        """Raise `Refused` (not found) if there is no such label."""
        await self._labels.profile(label)

    async def enrol(
        self,
        label: str,
        chain: Sequence[bytes],
        body: bytes,
        channel_binding: bytes | None = None,
        evidence: Evidence = NO_EVIDENCE,
    ) -> bytes | Wait:
        """Give a device its first certificate (RFC 7030 4.2.1); return it alone, as certs-only in DER.

        Args:
            chain: What the client presented in TLS, in DER, leaf first.
            body: The request as it came, in base64.
            channel_binding: The value that links a request to its TLS connection; None where there is none of ours.
            evidence: What came beside it.

        Raises:
            Refused: By one of `est.refusals.Refusal`; (not found) no such label; (unavailable) nothing is known;
                (throttled) too many attempts.
        """
        asking = await self._asking(label, chain, evidence)
        return await self._enrol(asking, body, channel_binding)

    async def _asking(self, label: str, chain: Sequence[bytes], evidence: Evidence) -> Asking:
        profile = await self._labels.profile(label)
        asking = _accepted(self._authentication.asking(profile, chain, evidence, self._clock()))
        return replace(asking, chain=self._authorities.believable(asking.chain))

    async def _enrol(
        self, asking: Asking, body: bytes, channel_binding: bytes | None, making: KeyMaking | None = None
    ) -> bytes | Wait:
        profile, now = asking.profile, asking.now
        entitled = _accepted(await self._authentication.judge(asking))
        request = _linked(asking, _parsed(body, making), channel_binding)
        wanted = _accepted(requested_device(request))
        for one in entitled:
            _accepted(one.decide_identifier(profile, wanted))
        operation = Operation.ENROL if making is None else Operation.GENERATE
        said = await self._consulted(asking, Wanted(wanted, request, requester(entitled), operation))
        if isinstance(said, Wait):
            return said
        entitled += said
        is_bound = any(one.binds(wanted) for one in entitled)
        credentials = _credentials(entitled)
        facts = expected_enrolment(profile, is_bound=is_bound, by_secret=credentials.secret is not None)
        redelivery = None
        if making is not None:
            redelivery = making.redelivery(entitled, credentials, wanted)
            facts = await look_at_enrolment(self._database, profile, credentials, wanted, now, redelivery)
            _accepted(decide_enrol(profile, facts, is_bound=is_bound))
        keyed = await with_key(request, wanted, asking.chain, making)
        attempt = await self._attempt(profile, keyed, wanted, now)
        return await _settle(
            facts,
            lambda facts: decide_enrol(profile, facts, is_bound=is_bound),
            lambda facts: enrol_device(
                self._database, profile, credentials, attempt, facts, identity_id(now, self._random), redelivery
            ),
            attempt,
        )

    async def reenrol(
        self,
        label: str,
        chain: Sequence[bytes],
        body: bytes,
        channel_binding: bytes | None = None,
        evidence: Evidence = NO_EVIDENCE,
    ) -> bytes:
        """Renew or rekey a device's certificate (RFC 7030 4.2.2); arguments, answer and errors as for `enrol`."""
        asking = await self._asking(label, chain, evidence)
        return await self._reenrol(asking, _accepted(self._judge_own(asking)), body, channel_binding)

    async def generate(
        self,
        label: str,
        chain: Sequence[bytes],
        body: bytes,
        channel_binding: bytes | None = None,
        evidence: Evidence = NO_EVIDENCE,
    ) -> KeyAndCertificate | Wait:
        """Make a key for a device, and its certificate (RFC 7030 4.4): the first one, or the next of the one presented.

        Arguments and errors are as for `enrol`; (unsupported) the label makes no keys.
        """
        asking = await self._asking(label, chain, evidence)
        kind = asking.profile.server_key_generation
        if kind is None:
            raise Refused(Kind.UNSUPPORTED, "This label makes no keys: make one on the device.")
        making = self._server_keys.begin(asking.profile, kind)
        own = self._judge_own(asking)
        if isinstance(own, Refuse):
            given = await self._enrol(asking, body, channel_binding, making)
        else:
            given = await self._reenrol(asking, own, body, channel_binding, making)
        return given if isinstance(given, Wait) else making.finish(given)

    def _judge_own(self, asking: Asking) -> ValidChain | Refuse:
        """Return the certificate presented and its path if it is one that renews under the label."""
        profile = asking.profile
        # Earlier keys of the authority too: a rollover shuts nobody out.
        anchors = (*self._authorities.anchors([profile.authority]), *profile.renewal_anchors)
        return judge_peer(asking.chain, anchors, asking.now, expired_is_allowed=profile.expired_may_renew)

    async def _reenrol(
        self,
        asking: Asking,
        judged: ValidChain,
        body: bytes,
        channel_binding: bytes | None,
        making: KeyMaking | None = None,
    ) -> bytes:
        profile, now = asking.profile, asking.now
        request = _linked(asking, _parsed(body, making), channel_binding)
        _accepted(decide_names(request, judged.leaf))
        wanted = _accepted(requested_device(request))
        presented = _presented(judged)
        is_same_key = isinstance(request, CertificateRequest) and request.spki_sha256 == presented.spki_sha256
        asked = Renewing(now, judged.leaf.not_valid_after_utc, is_same_key)
        facts, redelivery = expected_renewal(same_key=is_same_key), None
        if making is not None:
            redelivery = Redelivery(presented.sha256, REDELIVERY)
            facts = await look_at_renewal(self._database, profile, presented, wanted, now, redelivery)
            _accepted(decide_reenrol(profile, facts, asked))
        keyed = await with_key(request, wanted, asking.chain, making)
        attempt = await self._attempt(profile, keyed, wanted, now)
        return await _settle(
            facts,
            lambda facts: decide_reenrol(profile, facts, asked),
            lambda facts: reenrol_device(self._database, profile, presented, attempt, facts, redelivery),
            attempt,
        )

    async def _consulted(self, asking: Asking, wanted: Wanted) -> tuple[Entitlement, ...] | Wait:
        said = await self._authentication.consult(asking, wanted)
        if isinstance(said, Refuse):
            raise said.as_error()
        if not isinstance(said, Wait):
            for one in said:
                _accepted(one.decide_identifier(asking.profile, wanted.device))
        return said

    async def _attempt(
        self, profile: EnrolmentProfile, request: CertificateRequest, wanted: DeviceIdentifier, now: datetime
    ) -> Attempt:
        issuer, template = self._template(profile)
        try:
            holder = device(wanted, request.spki_der)
            issued = await template.issue_in_turn(holder, now, self._random(SERIAL_BYTES))
        except CertificateRefused as refusal:
            raise judge_request(refusal).as_error() from refusal
        return Attempt(
            now=now,
            device=wanted,
            request=request,
            issued=issued,
            authority=issuer.id,
            change=uuid7(now, self._random),
        )


def _credentials(entitled: Sequence[Entitlement]) -> Credentials:
    (certificate, *_) = [*(one.chain for one in entitled if one.chain), None]
    (secret, *_) = [*(one.secret for one in entitled if one.secret), None]
    return Credentials(
        tuple(one.by for one in entitled), None if certificate is None else _presented(certificate), secret
    )


@lru_cache(maxsize=REMEMBERED_MAXIMUM)
def _presented(chain: ValidChain) -> PresentedCertificate:
    der = chain.leaf.public_bytes(Encoding.DER)
    return PresentedCertificate(
        der,
        stored_serial(chain.leaf.serial_number),
        sha256(der).digest(),
        spki_sha256(chain.leaf),
        spki_sha256(chain.path[0]) if chain.path else chain.anchor.spki_sha256,
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


def _parsed(body: bytes, making: KeyMaking | None) -> NamedRequest:
    parse = parse_request if making is None else parse_keyless_request
    try:
        return parse(decode_base64_request(body))
    except CertificateRefused as refusal:
        raise judge_request(refusal).as_error() from refusal


def _linked(asking: Asking, request: NamedRequest, channel_binding: bytes | None) -> NamedRequest:
    """Return the request if it is linked to its connection as far as the label wants."""
    known = None if asking.is_passed_on else channel_binding  # behind a proxy it is the proxy's connection
    # Who brings no key has none to prove; a link that is there is verified all the same.
    brings_key = isinstance(request, CertificateRequest)
    policy = asking.profile.proof_of_possession if brings_key else ProofOfPossession.OFF
    _accepted(decide_possession(policy, request.challenge_password, known))
    return request


def _accepted(answer: Answered | Refuse) -> Answered:
    """Return an answer that is not a refusal; raise that."""
    if isinstance(answer, Refuse):
        raise answer.as_error()
    return answer

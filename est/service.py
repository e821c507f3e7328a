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

from ca.authorities import Authorities, Authority
from ca.inventory import AuthorityKind, stored_serial
from ca.issue import SERIAL_BYTES, device
from certs.chain import ValidChain
from certs.csr import (
    CertificateRequest,
    NamedRequest,
    decode_base64_request,
    parse_keyless_request,
    parse_request,
)
from certs.errors import CertificateRefused
from certs.names import DeviceIdentifier, subject_identifier
from certs.pkcs7 import certs_only
from est.labels import Labels
from est.possession import decide_possession
from est.profiles import DEFAULT_LABEL, EnrolmentMode, EnrolmentProfile, ProofOfPossession
from est.rules import (
    Decision,
    EnrolmentFacts,
    Refusal,
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
from est.server_keys import REDELIVERY, KeyAndCertificate, KeyMaking, ServerKeys
from est.store.enrolments import (
    Attempt,
    MeanwhileChanged,
    Recorded,
    StatementDatabase,
    enrol_device,
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
        clock: Clock,
        random: Random,
        *,
        server_keys: ServerKeys,
    ) -> None:
        self._database = database
        self._authorities = authorities
        self._clock = clock
        self._random = random
        self._labels = Labels(database, clock)
        self._server_keys = server_keys

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
        """Return the label's authority and those above it up to the root (RFC 7030 4.1.3), as certs-only in DER."""
        profile = await self._labels.profile(label)
        found = [self._authorities.by_id(profile.authority)]
        while (parent := found[-1].parent) is not None:
            found.append(self._authorities.by_id(parent))
        return certs_only(one.der for one in found)

    async def csr_attributes(self, label: str, chain: Sequence[bytes] = ()) -> bytes:
        """Return what the label wants of requests (RFC 7030 4.5), in DER; `chain` is what the client showed, if any."""
        profile = await self._labels.profile(label)
        issuer = self._authorities.by_id(profile.authority)
        template = self._authorities.template(issuer, profile.certificate_profile)
        return csr_attributes(profile, template.profile, self._named(profile, issuer, chain))

    def _named(self, profile: EnrolmentProfile, issuer: Authority, chain: Sequence[bytes]) -> DeviceIdentifier | None:
        """Return the one device that a client can become by what it showed, if there is just one."""
        now = self._clock()
        presented = judge_peer(chain, (issuer.anchor,), now, expired_is_allowed=profile.expired_may_renew)
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
        self, label: str, chain: Sequence[bytes], body: bytes, channel_binding: bytes | None = None
    ) -> bytes:
        """Give a device its first certificate (RFC 7030 4.2.1); return it alone, as certs-only in DER.

        Args:
            chain: What the client presented in TLS, in DER, leaf first.
            body: The request as it came, in base64.
            channel_binding: The value that links a request to its TLS connection; None where there is none of ours.

        Raises:
            Refused: By one of `est.rules.Refusal`; (not found) no such label; (unavailable) nothing is known.
        """
        return await self._enrol(await self._labels.profile(label), chain, body, channel_binding)

    async def _enrol(
        self,
        profile: EnrolmentProfile,
        chain: Sequence[bytes],
        body: bytes,
        channel_binding: bytes | None,
        making: KeyMaking | None = None,
    ) -> bytes:
        now = self._clock()
        presented = _accepted(judge_peer(chain, profile.anchors, now))
        request = _linked(profile, _parsed(body, making), channel_binding)
        wanted = _accepted(requested_device(request))
        _accepted(decide_identifier(profile, presented.leaf, wanted))
        keyed = await _with_key(request, wanted, presented, making)
        attempt = self._attempt(profile, presented, keyed, wanted, now)
        redelivery = None if making is None else REDELIVERY
        return await _settle(
            expected_enrolment(profile),
            lambda facts: decide_enrol(profile, facts),
            lambda facts: enrol_device(
                self._database, profile, attempt, facts, identity_id(now, self._random), redelivery
            ),
            attempt,
        )

    async def reenrol(
        self, label: str, chain: Sequence[bytes], body: bytes, channel_binding: bytes | None = None
    ) -> bytes:
        """Renew or rekey a device's certificate (RFC 7030 4.2.2); arguments, answer and errors as for `enrol`."""
        return await self._reenrol(await self._labels.profile(label), chain, body, channel_binding)

    async def _reenrol(
        self,
        profile: EnrolmentProfile,
        chain: Sequence[bytes],
        body: bytes,
        channel_binding: bytes | None,
        making: KeyMaking | None = None,
    ) -> bytes:
        now = self._clock()
        issuer = self._authorities.by_id(profile.authority)
        presented = _accepted(judge_peer(chain, (issuer.anchor,), now, expired_is_allowed=profile.expired_may_renew))
        request = _linked(profile, _parsed(body, making), channel_binding)
        _accepted(decide_names(request, presented.leaf))
        wanted = _accepted(requested_device(request))
        keyed = await _with_key(request, wanted, presented, making)
        attempt = self._attempt(profile, presented, keyed, wanted, now)
        redelivery = None if making is None else REDELIVERY
        has_expired = now > presented.leaf.not_valid_after_utc
        return await _settle(
            expected_renewal(same_key=attempt.is_same_key),
            lambda facts: decide_reenrol(facts, has_expired=has_expired),
            lambda facts: reenrol_device(self._database, profile, attempt, facts, redelivery),
            attempt,
        )

    async def generate(
        self, label: str, chain: Sequence[bytes], body: bytes, channel_binding: bytes | None = None
    ) -> KeyAndCertificate:
        """Make a key for a device, and its certificate (RFC 7030 4.4): the first one, or the next of the one presented.

        Arguments and errors are as for `enrol`; (unsupported) the label makes no keys.
        """
        profile = await self._labels.profile(label)
        if profile.server_key_generation is None:
            raise Refused(Kind.UNSUPPORTED, "This label makes no keys: make one on the device.")
        making = self._server_keys.begin(profile, profile.server_key_generation)
        issuer = self._authorities.by_id(profile.authority)
        own = judge_peer(chain, (issuer.anchor,), self._clock(), expired_is_allowed=profile.expired_may_renew)
        is_foreign = isinstance(own, Refuse) and own.refusal in {Refusal.NO_CERTIFICATE, Refusal.FOREIGN}
        give = self._enrol if is_foreign else self._reenrol
        return making.finish(await give(profile, chain, body, channel_binding, making))

    def _attempt(
        self,
        profile: EnrolmentProfile,
        presented: ValidChain,
        request: CertificateRequest,
        wanted: DeviceIdentifier,
        now: datetime,
    ) -> Attempt:
        issuer = self._authorities.by_id(profile.authority)
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


def _parsed(body: bytes, making: KeyMaking | None) -> NamedRequest:
    parse = parse_request if making is None else parse_keyless_request
    try:
        return parse(decode_base64_request(body))
    except CertificateRefused as refusal:
        raise judge_request(refusal).as_error() from refusal


async def _with_key(
    request: NamedRequest, device: DeviceIdentifier, presented: ValidChain, making: KeyMaking | None
) -> CertificateRequest:
    """Return the request with its key, which is made now if the client brings none."""
    if isinstance(request, CertificateRequest):
        return request
    if making is None:
        raise TypeError("a request without a key is one for a key that is made here")
    return await making.complete(request, device, presented.leaf)


def _linked(profile: EnrolmentProfile, request: NamedRequest, channel_binding: bytes | None) -> NamedRequest:
    """Return the request if it is linked to its connection as far as the label wants."""
    # Who brings no key has none to prove; a link that is there is verified all the same.
    policy = profile.proof_of_possession if isinstance(request, CertificateRequest) else ProofOfPossession.OFF
    _accepted(decide_possession(policy, request.challenge_password, channel_binding))
    return request


def _accepted(answer: Answered | Refuse) -> Answered:
    """Return an answer that is not a refusal; raise that."""
    if isinstance(answer, Refuse):
        raise answer.as_error()
    return answer

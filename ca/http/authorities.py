"""Authorities over REST, in the paths and the JSON of Lamassu's CA API."""

import base64
import binascii
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Annotated, Literal
from uuid import UUID

from pydantic import Field

from ca.administration import AuthorityAdministration, Wish
from ca.authorities import Authorities
from ca.authority import Authority, AuthorityStep
from ca.certification import Certification
from ca.http.authority_shapes import (
    ImportedAuthority,
    NewAuthority,
    NewProfile,
    NewStatus,
    Patches,
    Reference,
    Reissue,
    RequestedAuthority,
    Rollover,
    ShownAuthority,
    ShownRequest,
    show_authority,
    show_request,
)
from ca.http.certificate_shapes import ShownCertificate, show_certificate
from ca.http.certificates import read_reason
from ca.importing import read_one_certificate, read_pem, read_private_key
from ca.intake import AuthorityIntake, Offer
from ca.keystore import in_turn
from ca.messages import sign
from ca.register import AuthorityRegister
from ca.signing import Message, SigningAlgorithm, verify_message
from ca.store.authorities import AuthorityDetails
from certs.csr import decode_base64_request
from iam.errors import malformed, not_found
from iam.guard import Call, Needs, Route
from iam.json_patch import read_patch
from iam.listing import Listed, ListQuery
from iam.permissions import Action, Resource
from iam.responses import Answer
from iam.schema import SnakeModel, SnakeShown

_TAG = "Authorities"
_BASE = "/api/ca/v1"
_CAS = f"{_BASE}/cas"
_CA = f"{_CAS}/{{authority}}"
_REQUESTS = f"{_CAS}/requests"
_REQUEST = f"{_REQUESTS}/{{request}}"
_MESSAGE = Annotated[str, Field(max_length=128 * 1024, description="In base64.")]
_STEPS = {
    "ACTIVE": AuthorityStep.ACTIVATE,
    "INACTIVE": AuthorityStep.DEACTIVATE,
    "REVOKED": AuthorityStep.REVOKE,
}


class RequestToCertify(SnakeModel):
    """A request for a certificate."""

    csr: Annotated[str, Field(max_length=64 * 1024, description="PKCS #10: PEM, or PEM in base64 once more.")]
    profile_id: Reference | None = Field(None, description="The authority's own, if not said.")


class MessageToSign(SnakeModel):
    """A message for an authority's key."""

    message: _MESSAGE
    message_type: Literal["RAW", "DIGEST"] = "RAW"
    signature_algorithm: SigningAlgorithm

    @property
    def content(self) -> Message:
        """The message itself."""
        return Message(_from_base64(self.message), is_digest=self.message_type == "DIGEST")


class MessageToVerify(MessageToSign):
    """A message and a signature of it."""

    signature: Annotated[str, Field(max_length=16 * 1024, description="In base64.")]


class ShownSignature(SnakeShown):
    """A signature."""

    signed_data: str = Field(description="The signature, in base64.")


class ShownVerdict(SnakeShown):
    """Whether a signature is one."""

    valid: bool


class AuthorityStatistics(SnakeShown):
    """How many authorities there are."""

    total: int
    engine_distribution: dict[str, int]
    status_distribution: dict[str, int]


class CertificateStatistics(SnakeShown):
    """How many certificates there are."""

    total: int
    ca_distribution: dict[str, int]
    status_distribution: dict[str, int]


class Statistics(SnakeShown):
    """How many there are of both."""

    cas: AuthorityStatistics
    certificates: CertificateStatistics


class StatusCounts(SnakeShown):
    """How many certificates of an authority there are, by what they are good for."""

    active: int = Field(alias="ACTIVE")
    expired: int = Field(alias="EXPIRED")
    inactive: int = Field(alias="INACTIVE")
    revoked: int = Field(alias="REVOKED")


@dataclass(frozen=True, slots=True)
class _Handlers:
    """What the routes below do."""

    authorities: Authorities
    administration: AuthorityAdministration
    intake: AuthorityIntake
    register: AuthorityRegister
    certification: Certification

    async def list_all(self, call: Call) -> Answer:
        return await self._list(call, None)

    async def list_by_name(self, call: Call) -> Answer:
        return await self._list(call, call.path["commonName"])

    async def create(self, call: Call) -> Answer:
        body: NewAuthority = call.body
        wish = Wish(
            subject=body.subject.model_dump(),
            line=body.id,
            parent=body.parent_id,
            key=body.key_metadata.wish(body.key_id),
            own_profile=body.ca_issuance_profile_id,
            profile=body.profile_id,
            path_length=body.path_length,
            period=body.ca_expiration.period if body.ca_expiration else None,
            metadata=body.metadata,
        )
        return await self._shown(call, await self.administration.create(call.caller.access, call.tenant, wish), 201)

    async def take_in(self, call: Call) -> Answer:
        body: ImportedAuthority = call.body
        offer = Offer(
            certificate=read_one_certificate(body.ca, "certificate"),
            chain=tuple(read_one_certificate(one, "chain") for one in body.ca_chain),
            key=read_private_key(body.private_key) if body.private_key else None,
            line=body.id,
            request=body.ca_request_id,
            profile=body.profile_id,
            metadata=body.metadata,
        )
        return await self._shown(call, await self.intake.take_in(call.caller.access, call.tenant, offer), 201)

    async def get(self, call: Call) -> Answer:
        return await self._shown(call, self._named(call))

    async def delete(self, call: Call) -> Answer:
        await self.administration.delete(call.caller.access, call.tenant, call.path["authority"])
        return Answer(204)

    async def set_status(self, call: Call) -> Answer:
        body: NewStatus = call.body
        one = await self.administration.set_status(
            call.caller.access,
            call.tenant,
            call.path["authority"],
            _STEPS[body.status],
            read_reason(body.revocation_reason),
        )
        return await self._shown(call, one)

    async def patch_metadata(self, call: Call) -> Answer:
        body: Patches = call.body
        patch = read_patch(body.patches)
        access, tenant, reference = call.caller.access, call.tenant, call.path["authority"]
        return await self._shown(call, await self.administration.patch_metadata(access, tenant, reference, patch))

    async def set_profile(self, call: Call) -> Answer:
        body: NewProfile = call.body
        access, tenant, reference = call.caller.access, call.tenant, call.path["authority"]
        return await self._shown(
            call, await self.administration.set_profile(access, tenant, reference, body.profile_id)
        )

    async def reissue(self, call: Call) -> Answer:
        body: Reissue = call.body
        period = body.ca_expiration.period if body.ca_expiration else None
        access, tenant, reference = call.caller.access, call.tenant, call.path["authority"]
        return await self._shown(call, await self.administration.reissue(access, tenant, reference, period))

    async def roll_over(self, call: Call) -> Answer:
        body: Rollover = call.body
        period = body.ca_expiration.period if body.ca_expiration else None
        key = body.key_metadata.wish(body.key_id) if body.key_metadata else None
        if key is None and body.key_id is not None:
            raise malformed("Say the kind of the key too: key_metadata.")
        access, tenant, reference = call.caller.access, call.tenant, call.path["authority"]
        return await self._shown(call, await self.administration.roll_over(access, tenant, reference, key, period))

    async def sign(self, call: Call) -> Answer:
        body: MessageToSign = call.body
        able = self.authorities.with_root_key(self._named(call))
        able.issuing(self.register.now)
        signer = able.signing()
        signature = await in_turn([signer], sign, signer, body.signature_algorithm, body.content)
        await self.register.note_signature(call.caller.access, able, body.signature_algorithm)
        return Answer(content=ShownSignature(signed_data=base64.b64encode(signature).decode()))

    async def verify(self, call: Call) -> Answer:
        body: MessageToVerify = call.body
        key = self._named(call).anchor.public_key
        signature = _from_base64(body.signature)
        return Answer(
            content=ShownVerdict(valid=verify_message(key, body.signature_algorithm, body.content, signature))
        )

    async def certify(self, call: Call) -> Answer:
        body: RequestToCertify = call.body
        request = decode_base64_request(read_pem(body.csr, "request"))
        made = await self.certification.certify(
            call.caller.access, call.tenant, call.path["authority"], request, body.profile_id
        )
        return Answer(201, content=show_certificate(made, self.authorities, self.register.now))

    async def statistics(self, call: Call) -> Answer:
        cas, certificates = await self.register.count(call.tenant)
        by_line: Counter[str] = Counter()
        for one in certificates:
            by_line[self.authorities.by_id(UUID(one.by)).line] += one.number
        return Answer(
            content=Statistics(
                cas=AuthorityStatistics(
                    total=sum(one.number for one in cas),
                    engine_distribution=_summed((one.by, one.number) for one in cas),
                    status_distribution=_summed((one.standing, one.number) for one in cas),
                ),
                certificates=CertificateStatistics(
                    total=sum(one.number for one in certificates),
                    ca_distribution=dict(by_line),
                    status_distribution=_summed((one.standing, one.number) for one in certificates),
                ),
            )
        )

    async def statistics_of_one(self, call: Call) -> Answer:
        counted = await self.register.count_issued(call.tenant, self._named(call))
        numbers = _summed((one.standing, one.number) for one in counted)
        return Answer(
            content=StatusCounts(
                active=numbers.get("ACTIVE", 0),
                expired=numbers.get("EXPIRED", 0),
                inactive=numbers.get("INACTIVE", 0),
                revoked=numbers.get("REVOKED", 0),
            )
        )

    async def request(self, call: Call) -> Answer:
        body: RequestedAuthority = call.body
        wish = body.key_metadata.wish(body.key_id)
        made = await self.intake.request(
            call.caller.access, call.tenant, body.id, body.subject.model_dump(), wish, body.metadata
        )
        return Answer(201, content=show_request(made))

    async def list_requests(self, call: Call) -> Answer:
        page = await self.register.page_of_requests(call.tenant, call.query)
        return Answer(content=Listed(next=page.next, items=[show_request(one) for one in page.items]))

    async def get_request(self, call: Call) -> Answer:
        return Answer(content=show_request(await self.intake.get_request(call.tenant, _request_id(call))))

    async def withdraw_request(self, call: Call) -> Answer:
        await self.intake.withdraw_request(call.caller.access, call.tenant, _request_id(call))
        return Answer(204)

    def _named(self, call: Call) -> Authority:
        return self.administration.visible(call.tenant, call.path["authority"])

    async def _list(self, call: Call, common_name: str | None) -> Answer:
        page = await self.register.page(call.tenant, call.query, common_name)
        shown = [self._show(self.authorities.by_id(details.id), details) for details in page.items]
        return Answer(content=Listed(next=page.next, items=shown))

    async def _shown(self, call: Call, one: Authority, status: int = 200) -> Answer:
        details = await self.register.details(call.tenant, one)
        return Answer(status, content=self._show(one, details))

    def _show(self, one: Authority, details: AuthorityDetails) -> ShownAuthority:
        can_sign = self.authorities.with_root_key(one).signer is not None
        return show_authority(one, details, self.authorities, self.register.now, can_sign=can_sign)


def routes(
    authorities: Authorities,
    administration: AuthorityAdministration,
    intake: AuthorityIntake,
    register: AuthorityRegister,
    certification: Certification,
) -> list[Route]:
    """Return the routes of authorities; those with a fixed last segment come before those that name an authority."""
    do = _Handlers(authorities, administration, intake, register, certification)
    create, read, update, delete = (Needs(action, Resource.CA_AUTHORITIES) for action in Action)
    signs, verifies = (Needs(action, Resource.CA_SIGNATURES) for action in (Action.CREATE, Action.READ))
    shown, listed = ShownAuthority, Listed[ShownAuthority]
    return [
        Route("GET", _CAS, do.list_all, read, "List authorities", _TAG, query=ListQuery, answers=listed),
        Route(
            "GET",
            f"{_CAS}/cn/{{commonName}}",
            do.list_by_name,
            read,
            "List the authorities of a common name",
            _TAG,
            query=ListQuery,
            answers=listed,
        ),
        Route("POST", _CAS, do.create, create, "Make an authority", _TAG, body=NewAuthority, answers=shown, status=201),
        Route(
            "POST",
            f"{_CAS}/import",
            do.take_in,
            create,
            "Take in an authority that was made elsewhere",
            _TAG,
            body=ImportedAuthority,
            answers=shown,
            status=201,
        ),
        Route(
            "POST",
            _REQUESTS,
            do.request,
            create,
            "Make a key and a request for a certificate from elsewhere",
            _TAG,
            body=RequestedAuthority,
            answers=ShownRequest,
            status=201,
        ),
        Route(
            "GET",
            _REQUESTS,
            do.list_requests,
            read,
            "List requests",
            _TAG,
            query=ListQuery,
            answers=Listed[ShownRequest],
        ),
        Route("GET", _REQUEST, do.get_request, read, "Get a request", _TAG, answers=ShownRequest),
        Route("DELETE", _REQUEST, do.withdraw_request, delete, "Withdraw a request", _TAG, status=204),
        Route(
            "GET",
            f"{_BASE}/stats",
            do.statistics,
            read,
            "Count authorities and certificates",
            _TAG,
            answers=Statistics,
        ),
        Route(
            "GET",
            f"{_BASE}/stats/{{authority}}",
            do.statistics_of_one,
            read,
            "Count an authority's certificates",
            _TAG,
            answers=StatusCounts,
        ),
        Route("GET", _CA, do.get, read, "Get an authority", _TAG, answers=shown),
        Route("DELETE", _CA, do.delete, delete, "Delete an authority that nothing depends on", _TAG, status=204),
        *(
            Route(
                method,
                f"{_CA}/metadata",
                do.patch_metadata,
                update,
                "Change an authority's metadata by JSON Patch",
                _TAG,
                body=Patches,
                answers=shown,
            )
            for method in ("PATCH", "PUT")  # Lamassu's clients use either
        ),
        Route(
            "POST",
            f"{_CA}/status",
            do.set_status,
            update,
            "Activate, deactivate or revoke an authority",
            _TAG,
            body=NewStatus,
            answers=shown,
        ),
        Route(
            "POST",
            f"{_CA}/profile",
            do.set_profile,
            update,
            "Say what an authority issues by",
            _TAG,
            body=NewProfile,
            answers=shown,
        ),
        Route(
            "POST",
            f"{_CA}/reissue",
            do.reissue,
            update,
            "Certify an authority's key once more",
            _TAG,
            body=Reissue,
            answers=shown,
        ),
        Route(
            "POST",
            f"{_CA}/rollover",
            do.roll_over,
            update,
            "Give an authority its next key",
            _TAG,
            body=Rollover,
            answers=shown,
        ),
        Route(
            "POST",
            f"{_CA}/certificates/sign",
            do.certify,
            Needs(Action.CREATE, Resource.CA_CERTIFICATES),
            "Certify a request by a profile",
            _TAG,
            body=RequestToCertify,
            answers=ShownCertificate,
            status=201,
        ),
        Route(
            "POST",
            f"{_CA}/signature/sign",
            do.sign,
            signs,
            "Sign a message that is no certificate, list or OCSP response",
            _TAG,
            body=MessageToSign,
            answers=ShownSignature,
        ),
        Route(
            "POST",
            f"{_CA}/signature/verify",
            do.verify,
            verifies,
            "Verify a signature by an authority",
            _TAG,
            body=MessageToVerify,
            answers=ShownVerdict,
        ),
    ]


def _request_id(call: Call) -> UUID:
    try:
        return UUID(call.path["request"])
    except ValueError as error:
        raise not_found("such request") from error


def _from_base64(text: str) -> bytes:
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError) as error:
        raise malformed("This is not base64.") from error


def _summed(numbers: Iterable[tuple[str, int]]) -> dict[str, int]:
    counted: Counter[str] = Counter()
    for name, number in numbers:
        counted[name] += number
    return dict(counted)

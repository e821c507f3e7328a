"""What authorities sign on request over REST: certificates by a profile, and messages that they could never mean."""

import base64
import binascii
from dataclasses import dataclass
from typing import Annotated, Literal

from pydantic import Field

from ca.administration import AuthorityAdministration
from ca.authorities import Authorities
from ca.authority import Authority
from ca.certification import Certification
from ca.http.authorities import CA, TAG
from ca.http.authority_bodies import Reference
from ca.http.certificate_shapes import ShownCertificate, show_certificate
from ca.importing import read_pem
from ca.messages import sign
from ca.register import AuthorityRegister
from ca.signers import in_turn
from ca.signing import Message, SigningAlgorithm, verify_message
from certs.csr import decode_base64_request
from iam.errors import malformed
from iam.guard import Call, Needs, Route
from iam.permissions import Action, Resource
from iam.responses import Answer
from iam.schema import SnakeModel, SnakeShown

_MESSAGE = Annotated[str, Field(max_length=128 * 1024, description="In base64.")]


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


@dataclass(frozen=True, slots=True)
class _Handlers:
    """What the routes below do."""

    authorities: Authorities
    administration: AuthorityAdministration
    register: AuthorityRegister
    certification: Certification

    async def certify(self, call: Call) -> Answer:
        body: RequestToCertify = call.body
        request = decode_base64_request(read_pem(body.csr, "request"))
        made = await self.certification.certify(
            call.caller.access, call.tenant, call.path["authority"], request, body.profile_id
        )
        return Answer(201, content=show_certificate(made, self.authorities, self.register.now))

    async def sign(self, call: Call) -> Answer:
        body: MessageToSign = call.body
        able = self.authorities.with_root_key(await self._named(call))
        able.issuing(self.register.now)
        signer = able.signing()
        signature = await in_turn([signer], sign, signer, body.signature_algorithm, body.content)
        await self.register.note_signature(call.caller.access, able, body.signature_algorithm)
        return Answer(content=ShownSignature(signed_data=base64.b64encode(signature).decode()))

    async def verify(self, call: Call) -> Answer:
        body: MessageToVerify = call.body
        key = (await self._named(call)).anchor.public_key
        signature = _from_base64(body.signature)
        return Answer(
            content=ShownVerdict(valid=verify_message(key, body.signature_algorithm, body.content, signature))
        )

    async def _named(self, call: Call) -> Authority:
        return await self.administration.visible(call.tenant, call.path["authority"])


def routes(
    authorities: Authorities,
    administration: AuthorityAdministration,
    register: AuthorityRegister,
    certification: Certification,
) -> list[Route]:
    """Return the routes of what authorities sign."""
    do = _Handlers(authorities, administration, register, certification)
    signs, verifies = (Needs(action, Resource.CA_SIGNATURES) for action in (Action.CREATE, Action.READ))
    return [
        Route(
            "POST",
            f"{CA}/certificates/sign",
            do.certify,
            Needs(Action.CREATE, Resource.CA_CERTIFICATES),
            "Certify a request by a profile",
            TAG,
            body=RequestToCertify,
            answers=ShownCertificate,
            status=201,
        ),
        Route(
            "POST",
            f"{CA}/signature/sign",
            do.sign,
            signs,
            "Sign a message that is no certificate, list or OCSP response",
            TAG,
            body=MessageToSign,
            answers=ShownSignature,
        ),
        Route(
            "POST",
            f"{CA}/signature/verify",
            do.verify,
            verifies,
            "Verify a signature by an authority",
            TAG,
            body=MessageToVerify,
            answers=ShownVerdict,
        ),
    ]


def _from_base64(text: str) -> bytes:
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError) as error:
        raise malformed("This is not base64.") from error

"""`/auth/challenge`, `/auth/verify` and `/identity/register`, in the words of the Novacore API."""

from datetime import datetime
from typing import Literal

from pydantic import ConfigDict, Field

from challenge.nonce import Purpose
from challenge.service import Answered, ChallengeService
from iam.access import Denied, decide
from iam.errors import forbidden, malformed, not_found
from iam.guard import Call, Gate, Public, Route
from iam.http.shapes import ScopeFields
from iam.identifiers import identity_name, role_name, tenant_name
from iam.model import Identity, IdentityType
from iam.permissions import Action, Resource
from iam.responses import Answer
from iam.schema import Model, Shown

_TAG = "Key login"
_KEY = (
    "An Ed25519 or P-256 public key: raw bytes or SubjectPublicKeyInfo in base64, an OpenSSH public key line, or PEM."
)


class ChallengeBody(Model):
    """Which key wants to prove itself, and what for."""

    model_config = ConfigDict(alias_generator=None)

    public_key: str = Field(max_length=4096, description=_KEY)
    purpose: Purpose = Field(Purpose.LOGIN, description="`login`, or `register` for POST /identity/register.")


class ShownChallenge(Shown):
    """What to sign: the bytes of `challenge` exactly as they are here."""

    model_config = ConfigDict(alias_generator=None)

    challenge: str
    expires_at: datetime


class ProofBody(Model):
    """The signature over a challenge."""

    model_config = ConfigDict(alias_generator=None)

    public_key: str = Field(max_length=4096, description=_KEY)
    challenge: str = Field(max_length=1024)
    signature: str = Field(max_length=512, description="Base64; ES256 as r||s or DER.")

    @property
    def answered(self) -> Answered:
        """The proof, as the service speaks of it."""
        return Answered(self.public_key, self.challenge, self.signature)


class ProvedAnswer(Shown):
    """A token for a proved key."""

    model_config = ConfigDict(alias_generator=None)

    token: str
    identity_id: str
    expires_at: datetime


class RegistrationBody(ProofBody, ScopeFields):
    """A key to register, with either an invitation code or an administrator's token and a role."""

    model_config = ConfigDict(alias_generator=None)

    type: Literal["root", "admin", "user", "developer", "gateway", "integration", "internal"]
    name: str = Field(max_length=128)
    code: str | None = Field(None, max_length=128, description="The invitation code.")
    group: str | None = Field(None, max_length=63, description="With a token: where; the caller's own if not said.")
    role: str | None = Field(None, max_length=63, description="With a token: which role it gets.")


class Registered(Shown):
    """A registered identity: it can log in at once."""

    model_config = ConfigDict(alias_generator=None)

    identity_id: str
    type: str
    name: str
    status: str


def routes(service: ChallengeService, gate: Gate) -> list[Route]:
    """Return the routes of key login."""

    async def challenge(call: Call) -> Answer:
        body: ChallengeBody = call.body
        made = service.challenge(body.public_key, body.purpose)
        return Answer(content=ShownChallenge(challenge=made.text, expires_at=made.expires))

    async def verify(call: Call) -> Answer:
        body: ProofBody = call.body
        issued = await service.log_in(body.answered)
        return Answer(content=ProvedAnswer(token=issued.token, identity_id=issued.identity, expires_at=issued.expires))

    async def register(call: Call) -> Answer:
        body: RegistrationBody = call.body
        name, type_ = identity_name(body.name), IdentityType(body.type)
        if body.code is not None:
            if body.role is not None or body.group is not None:
                raise malformed("With a code, role and group are the invitation's: do not send them.")
            identity = await service.register_invited(body.answered, body.code, type_, name)
        else:
            identity = await _register_by_token(service, gate, call, body, type_, name)
        return Answer(201, Registered(identity_id=identity.id, type=identity.type, name=identity.name, status="active"))

    return [
        Route(
            "POST",
            "/auth/challenge",
            challenge,
            Public("it is how one starts to prove oneself"),
            "Ask for a challenge",
            _TAG,
            body=ChallengeBody,
            answers=ShownChallenge,
        ),
        Route(
            "POST",
            "/auth/verify",
            verify,
            Public("the signature is the proof"),
            "Answer a challenge and get a token",
            _TAG,
            body=ProofBody,
            answers=ProvedAnswer,
        ),
        Route(
            "POST",
            "/identity/register",
            register,
            Public("the invitation code, or the administrator's token that the handler asks for, is the proof"),
            "Register a key",
            _TAG,
            body=RegistrationBody,
            answers=Registered,
            status=201,
        ),
    ]


async def _register_by_token(
    service: ChallengeService, gate: Gate, call: Call, body: RegistrationBody, type_: IdentityType, name: str
) -> Identity:
    access = (await gate.authenticate(call.request.headers.get("Authorization", ""))).access
    tenant = access.tenant
    if body.group is not None and body.group != tenant.name:
        found = await gate.find_tenant(tenant_name(body.group))
        if found is None or not found.is_within(tenant):
            raise not_found(f"group {body.group}")
        tenant = found
    decision = decide(access, Action.CREATE, Resource.IAM_USERS, tenant=tenant)
    if isinstance(decision, Denied):
        raise forbidden(f"This needs create on {Resource.IAM_USERS}.", reason=decision.reason)
    if body.role is None:
        raise malformed("Say which role it gets.", role="Needed where no invitation code is sent.")
    return await service.register_by(access, tenant, body.answered, type_, name, role_name(body.role), body.scope)

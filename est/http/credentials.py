"""Enrolment secrets, and requests that wait for an operator, over REST."""

from base64 import b64encode
from datetime import datetime
from uuid import UUID

from pydantic import Field

from certs.names import device_identifier
from est.approvals import ApprovalService
from est.durations import duration
from est.http.dms import DMS_TAG, ONE_DMS, named_label
from est.http.dms_shapes import Period
from est.profiles import Operation
from est.secrets import MadeSecret, NewSecret, SecretService
from est.store.approvals import ApprovalRequest, ApprovalState
from est.store.secrets import EnrolmentSecret
from iam.errors import malformed
from iam.guard import Call, Needs, Route
from iam.listing import Listed, ListQuery
from iam.permissions import Action, Resource
from iam.responses import Answer
from iam.schema import SnakeModel, SnakeShown

_SECRETS = ONE_DMS + "/secrets"
_SECRET = _SECRETS + "/{secret}"
_APPROVALS = ONE_DMS + "/approvals"
_APPROVAL = _APPROVALS + "/{approval}"


class SecretBody(SnakeModel):
    """A secret to make."""

    username: str | None = Field(
        None, pattern=r"^[A-Za-z0-9][A-Za-z0-9_.@+-]{0,127}$", description="For HTTP Basic; the label if not said."
    )
    device_identifier: str | None = Field(
        None, max_length=128, description="The one device that it enrols; those of the label's pattern if not said."
    )
    max_uses: int | None = Field(1, ge=1, le=1_000_000, description="How often it may be used; null for any number.")
    expires_in: Period = "30d"
    description: str = Field("", max_length=256)
    secret: str | None = Field(None, max_length=256, description="A chosen one; one of 256 random bits if not said.")


class ShownSecret(SnakeShown):
    """A secret: what it is for. What it is, is shown once, by the answer that made it."""

    id: UUID
    username: str
    device_identifier: str | None
    is_chosen: bool
    description: str
    uses: int
    max_uses: int | None
    creation_ts: datetime
    created_by: str
    expires_at: datetime
    revoked_at: datetime | None
    last_used_at: datetime | None
    secret: str | None = None


class ShownSecrets(Listed[ShownSecret]):
    """A page of secrets."""


class ReasonBody(SnakeModel):
    """Why it was decided so."""

    reason: str | None = Field(None, max_length=256)


class ShownApproval(SnakeShown):
    """A request that waits for an operator, or was decided on."""

    id: UUID
    device_identifier: str
    operation: Operation = Field(description="`serverkeygen`: the key is made here, and the request proves none.")
    requester: str
    public_key_sha256: str | None = Field(description="Of the key that the request proves.")
    csr: str | None = Field(description="The certification request in PEM, if it proves a key.")
    address: str
    state: str
    requested_at: datetime
    expires_at: datetime
    decided_at: datetime | None
    decided_by: str | None
    reason: str | None
    vouched_by: str | None = Field(description="The webhook's answer that spoke for it, where one was asked.")


class ShownApprovals(Listed[ShownApproval]):
    """A page of requests."""


def secret_routes(service: SecretService) -> list[Route]:
    """Return the routes of enrolment secrets."""

    async def create(call: Call) -> Answer:
        body: SecretBody = call.body
        name = named_label(call)
        wanted = NewSecret(
            username=body.username or name,
            device=None if body.device_identifier is None else str(device_identifier(body.device_identifier)),
            uses_allowed=body.max_uses,
            life=duration(body.expires_in),
            description=body.description,
            chosen=body.secret,
        )
        made = await service.create(call.caller.access, call.tenant, name, wanted)
        return Answer(201, _show_made(made))

    async def list_secrets(call: Call) -> Answer:
        page = await service.page(call.caller.access, call.tenant, named_label(call), call.query)
        return Answer(content=ShownSecrets(items=[_show_secret(one) for one in page.items], next=page.next))

    async def get(call: Call) -> Answer:
        found = await service.get(call.caller.access, call.tenant, named_label(call), _uuid(call.path["secret"]))
        return Answer(content=_show_secret(found))

    async def withdraw(call: Call) -> Answer:
        await service.withdraw(call.caller.access, call.tenant, named_label(call), _uuid(call.path["secret"]))
        return Answer(204)

    may_create, may_read, may_delete = (
        Needs(action, Resource.EST_SECRETS) for action in (Action.CREATE, Action.READ, Action.DELETE)
    )
    return [
        Route(
            "POST",
            _SECRETS,
            create,
            may_create,
            "Make an enrolment secret; it is shown once",
            DMS_TAG,
            body=SecretBody,
            answers=ShownSecret,
            status=201,
        ),
        Route("GET", _SECRETS, list_secrets, may_read, "List secrets", DMS_TAG, query=ListQuery, answers=ShownSecrets),
        Route("GET", _SECRET, get, may_read, "Get a secret's particulars", DMS_TAG, answers=ShownSecret),
        Route("DELETE", _SECRET, withdraw, may_delete, "Withdraw a secret, at once", DMS_TAG, status=204),
    ]


def approval_routes(service: ApprovalService) -> list[Route]:
    """Return the routes of requests that wait for an operator."""

    async def list_requests(call: Call) -> Answer:
        page = await service.page(call.caller.access, call.tenant, named_label(call), call.query)
        return Answer(content=ShownApprovals(items=[_show_approval(one) for one in page.items], next=page.next))

    async def approve(call: Call) -> Answer:
        return await decide(call, ApprovalState.APPROVED)

    async def reject(call: Call) -> Answer:
        return await decide(call, ApprovalState.REJECTED)

    async def decide(call: Call, state: ApprovalState) -> Answer:
        body: ReasonBody = call.body
        identifier = _uuid(call.path["approval"])
        decided = await service.decide(
            call.caller.access, call.tenant, named_label(call), identifier, state, body.reason
        )
        return Answer(content=_show_approval(decided))

    may_read, may_update = (Needs(action, Resource.EST_APPROVALS) for action in (Action.READ, Action.UPDATE))
    decisions = (("approve", approve, "Approve a request"), ("reject", reject, "Reject a request"))
    return [
        Route(
            "GET",
            _APPROVALS,
            list_requests,
            may_read,
            "List requests that wait for an operator, or were decided on",
            DMS_TAG,
            query=ListQuery,
            answers=ShownApprovals,
        ),
        *(
            Route(
                "POST",
                f"{_APPROVAL}/{verb}",
                handler,
                may_update,
                summary,
                DMS_TAG,
                body=ReasonBody,
                answers=ShownApproval,
            )
            for verb, handler, summary in decisions
        ),
    ]


def _uuid(text: str) -> UUID:
    try:
        return UUID(text)
    except ValueError as error:
        raise malformed("Its id is a UUID.") from error


def _show_made(made: MadeSecret) -> ShownSecret:
    return _show_secret(made.secret).model_copy(update={"secret": made.shown})


def _show_secret(one: EnrolmentSecret) -> ShownSecret:
    return ShownSecret(
        id=one.id,
        username=one.username,
        device_identifier=one.device,
        is_chosen=one.is_chosen,
        description=one.description,
        uses=one.uses,
        max_uses=one.uses_allowed,
        creation_ts=one.created,
        created_by=one.created_by,
        expires_at=one.expires,
        revoked_at=one.revoked,
        last_used_at=one.last_used,
    )


def _show_approval(one: ApprovalRequest) -> ShownApproval:
    brings_key = one.operation.brings_key
    return ShownApproval(
        id=one.id,
        device_identifier=one.device,
        operation=one.operation,
        requester=one.requester,
        public_key_sha256=one.told_apart_by.hex() if brings_key else None,
        csr=_pem(one.request) if brings_key else None,
        address=one.address,
        state=one.state,
        requested_at=one.requested,
        expires_at=one.expires,
        decided_at=one.decided,
        decided_by=one.decided_by,
        reason=one.reason,
        vouched_by=one.vouched_by,
    )


def _pem(request: bytes) -> str:
    lines = b64encode(request).decode()
    wrapped = "\n".join(lines[start : start + 64] for start in range(0, len(lines), 64))
    return f"-----BEGIN CERTIFICATE REQUEST-----\n{wrapped}\n-----END CERTIFICATE REQUEST-----\n"

"""Users and every other identity: inviting, signing up, looking, suspending, roles and credentials."""

from datetime import datetime
from typing import Literal
from uuid import UUID

from pydantic import Field

from iam.errors import malformed
from iam.guard import Call, Needs, Public, Route
from iam.http.shapes import Identities, ScopeFields, ShownIdentity, show_identity
from iam.identifiers import checked_identity_id, identity_name, is_identity_id, role_name
from iam.model import Credential, IdentityStatus, IdentityType
from iam.paging import PageQuery
from iam.permissions import Action, Resource
from iam.responses import Answer
from iam.schema import Model, Shown
from iam.service.identities import Holder, IdentityService

_TAG = "Users and other identities"
_ROLE_USERS = "/api/v1/iam/groups/{groupName}/roles/{roleName}/users"
_USERS = "/api/v1/iam/users"
_USER = _USERS + "/{identity}"


class NewUser(ScopeFields):
    """Somebody to invite. Devices come by enrolment and are not invited."""

    name: str = Field(max_length=128, examples=["alice@acme.example", "gateway-17"])
    type: Literal["root", "admin", "user", "developer", "gateway", "integration", "internal"] = "user"


class Invitation(Shown):
    """The reserved name, and the code that completes it; the code is shown this once."""

    id: str
    name: str
    type: str
    code: str
    expires_at: datetime


class SignUp(Model):
    """The completion of an invitation by a person."""

    name: str = Field(max_length=128)
    code: str = Field(max_length=128)
    password: str = Field(max_length=1024)


class IdentityChange(ScopeFields):
    """What shall be different. What is not sent stays; null is unset."""

    status: Literal["active", "suspended"] | None = None


class RoleName(Model):
    """A role to give."""

    role: str = Field(max_length=63)


class UserQuery(PageQuery):
    """Whom to list."""

    role: str | None = Field(None, max_length=63, description="Only the holders of this role.")


class ShownCredential(Shown):
    """A credential; never its secret."""

    id: str
    kind: str
    created: datetime
    last_used: datetime | None
    expires: datetime | None


class Credentials(Shown):
    """The live credentials of an identity."""

    items: list[ShownCredential]


def routes(service: IdentityService) -> list[Route]:
    """Return the routes of identities."""

    async def invite(call: Call) -> Answer:
        body: NewUser = call.body
        invited = await service.invite(
            call.caller.access,
            call.tenant,
            role_name(call.path["roleName"]),
            body.name,
            IdentityType(body.type),
            body.scope,
        )
        identity = invited.identity
        return Answer(
            201,
            Invitation(
                id=identity.id,
                name=identity.name,
                type=identity.type,
                code=invited.code,
                expires_at=invited.expires,
            ),
            {"Location": f"{_USERS}/{identity.id}"},
        )

    async def sign_up(call: Call) -> Answer:
        body: SignUp = call.body
        await service.sign_up(identity_name(body.name), body.code, body.password, call.address)
        return Answer(204)

    async def list_users(call: Call) -> Answer:
        query: UserQuery = call.query
        page = await service.page(call.tenant, query, role_name(query.role) if query.role else None)
        return Answer(content=Identities(items=[show_identity(one) for one in page.items], next=page.next))

    async def get_user(call: Call) -> Answer:
        return _shown(await service.get(call.tenant, _named(call)))

    async def change_user(call: Call) -> Answer:
        body: IdentityChange = call.body
        status = IdentityStatus(body.status) if body.status else None
        return _shown(await service.change(call.caller.access, call.tenant, _named(call), status, body.changed))

    async def delete_user(call: Call) -> Answer:
        await service.delete(call.caller.access, call.tenant, _named(call))
        return Answer(204)

    async def give_role(call: Call) -> Answer:
        name = role_name(call.body.role)
        return _shown(await service.give_role(call.caller.access, call.tenant, _named(call), name))

    async def take_role(call: Call) -> Answer:
        await service.take_role(call.caller.access, call.tenant, _named(call), role_name(call.path["roleName"]))
        return Answer(204)

    users = Resource.IAM_USERS
    return [
        Route(
            "POST",
            _ROLE_USERS,
            invite,
            Needs(Action.CREATE, users),
            "Invite somebody into a role",
            _TAG,
            body=NewUser,
            answers=Invitation,
            status=201,
        ),
        Route(
            "POST",
            "/api/v1/iam/signup",
            sign_up,
            Public("the invitation code is the proof"),
            "Complete an invitation with a password",
            _TAG,
            body=SignUp,
            status=204,
        ),
        Route(
            "GET",
            _USERS,
            list_users,
            Needs(Action.READ, users),
            "List identities",
            _TAG,
            query=UserQuery,
            answers=Identities,
        ),
        Route("GET", _USER, get_user, Needs(Action.READ, users), "Get an identity", _TAG, answers=ShownIdentity),
        Route(
            "PATCH",
            _USER,
            change_user,
            Needs(Action.UPDATE, users),
            "Suspend or reactivate an identity, or change its scope",
            _TAG,
            body=IdentityChange,
            answers=ShownIdentity,
        ),
        Route("DELETE", _USER, delete_user, Needs(Action.DELETE, users), "Delete an identity", _TAG, status=204),
        Route(
            "POST",
            _USER + "/roles",
            give_role,
            Needs(Action.UPDATE, users),
            "Give a role",
            _TAG,
            body=RoleName,
            answers=ShownIdentity,
        ),
        Route(
            "DELETE",
            _USER + "/roles/{roleName}",
            take_role,
            Needs(Action.UPDATE, users),
            "Take a role",
            _TAG,
            status=204,
        ),
        *_credential_routes(service),
    ]


def _credential_routes(service: IdentityService) -> list[Route]:
    async def list_credentials(call: Call) -> Answer:
        found = await service.credentials(call.tenant, _named(call))
        return Answer(content=Credentials(items=[_shown_credential(one) for one in found]))

    async def revoke_credential(call: Call) -> Answer:
        try:
            credential = UUID(call.path["credential"])
        except ValueError as error:
            raise malformed("A credential's id is a UUID.") from error
        await service.revoke_credential(call.caller.access, call.tenant, _named(call), credential)
        return Answer(204)

    users = Resource.IAM_USERS
    return [
        Route(
            "GET",
            _USER + "/credentials",
            list_credentials,
            Needs(Action.READ, users),
            "List live credentials",
            _TAG,
            answers=Credentials,
        ),
        Route(
            "DELETE",
            _USER + "/credentials/{credential}",
            revoke_credential,
            Needs(Action.UPDATE, users),
            "Revoke a credential and end its owner's sessions",
            _TAG,
            status=204,
        ),
    ]


def _named(call: Call) -> str:
    text = call.path["identity"]
    return checked_identity_id(text) if is_identity_id(text) else identity_name(text)


def _shown(holder: Holder) -> Answer:
    return Answer(content=show_identity(holder.identity, holder.roles))


def _shown_credential(credential: Credential) -> ShownCredential:
    return ShownCredential(
        id=str(credential.id),
        kind=credential.kind,
        created=credential.created,
        last_used=credential.last_used,
        expires=credential.expires,
    )

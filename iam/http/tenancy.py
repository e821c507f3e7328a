"""Groups (tenants) and roles."""

from typing import Literal

from pydantic import Field

from iam.guard import Call, Needs, Route
from iam.http.shapes import (
    PermissionBody,
    Roles,
    ScopeFields,
    ShownRole,
    ShownTenant,
    Tenants,
    TopicBody,
    show_role,
    show_tenant,
)
from iam.identifiers import role_name
from iam.model import TenantStatus
from iam.paging import PageQuery
from iam.permissions import Action, Resource
from iam.responses import Answer
from iam.service.tenancy import RoleSpecification, TenancyService, keep_scope

_TAG = "Groups and roles"
_GROUPS = "/api/v1/iam/groups"
_GROUP = _GROUPS + "/{groupName}"
_ROLES = _GROUP + "/roles"
_ROLE = _ROLES + "/{roleName}"


class NewTenant(ScopeFields):
    """A group to make, below the caller's own or below `?tenant=`."""

    name: str = Field(max_length=63, examples=["acme"])


class TenantChange(ScopeFields):
    """What shall be different about a group. What is not sent stays; null is unset."""

    status: Literal["active", "blocked"] | None = None


class RoleBody(ScopeFields):
    """What a role shall hold."""

    permissions: list[PermissionBody] = Field(default=[], max_length=256)
    topics: list[TopicBody] = Field(default=[], max_length=256)

    @property
    def specification(self) -> RoleSpecification:
        """The same, as `iam` speaks of it."""
        return RoleSpecification(
            tuple(one.permission for one in self.permissions), tuple(one.rule for one in self.topics), self.scope
        )


class NewRole(RoleBody):
    """A role to make."""

    name: str = Field(max_length=63, examples=["technician"])


def routes(service: TenancyService) -> list[Route]:
    """Return the routes of groups and roles."""

    async def list_tenants(call: Call) -> Answer:
        page = await service.list_tenants(call.tenant, call.query)
        return Answer(content=Tenants(items=[show_tenant(one) for one in page.items], next=page.next))

    async def create_tenant(call: Call) -> Answer:
        body: NewTenant = call.body
        tenant = await service.create_tenant(call.caller.access, call.tenant, body.name, body.scope)
        return Answer(201, show_tenant(tenant), {"Location": f"{_GROUPS}/{tenant.name}"})

    async def get_tenant(call: Call) -> Answer:
        return Answer(content=show_tenant(call.tenant))

    async def change_tenant(call: Call) -> Answer:
        body: TenantChange = call.body
        status = TenantStatus(body.status) if body.status else None
        changed = await service.change_tenant(call.caller.access, call.tenant, status, body.changed)
        return Answer(content=show_tenant(changed))

    async def delete_tenant(call: Call) -> Answer:
        await service.change_tenant(call.caller.access, call.tenant, TenantStatus.DELETED, keep_scope)
        return Answer(204)

    groups = Resource.IAM_GROUPS
    return [
        Route(
            "GET",
            _GROUPS,
            list_tenants,
            Needs(Action.READ, groups),
            "List groups: the caller's own and those below",
            _TAG,
            query=PageQuery,
            answers=Tenants,
        ),
        Route(
            "POST",
            _GROUPS,
            create_tenant,
            Needs(Action.CREATE, groups),
            "Create a group",
            _TAG,
            body=NewTenant,
            answers=ShownTenant,
            status=201,
        ),
        Route("GET", _GROUP, get_tenant, Needs(Action.READ, groups), "Get a group", _TAG, answers=ShownTenant),
        Route(
            "PATCH",
            _GROUP,
            change_tenant,
            Needs(Action.UPDATE, groups),
            "Block or unblock a group, or change its scope",
            _TAG,
            body=TenantChange,
            answers=ShownTenant,
        ),
        Route(
            "DELETE",
            _GROUP,
            delete_tenant,
            Needs(Action.DELETE, groups),
            "Delete a group and all below it, for good; its name stays taken",
            _TAG,
            status=204,
        ),
        *_role_routes(service),
    ]


def _role_routes(service: TenancyService) -> list[Route]:
    async def list_roles(call: Call) -> Answer:
        page = await service.list_roles(call.tenant, call.query)
        return Answer(content=Roles(items=[show_role(one) for one in page.items], next=page.next))

    async def create_role(call: Call) -> Answer:
        body: NewRole = call.body
        role = await service.create_role(call.caller.access, call.tenant, body.name, body.specification)
        return Answer(201, show_role(role), {"Location": f"{_GROUPS}/{call.tenant.name}/roles/{role.name}"})

    async def get_role(call: Call) -> Answer:
        return Answer(content=show_role(await service.role(call.tenant, role_name(call.path["roleName"]))))

    async def replace_role(call: Call) -> Answer:
        name = role_name(call.path["roleName"])
        body: RoleBody = call.body
        role = await service.change_role(call.caller.access, call.tenant, name, body.specification)
        return Answer(content=show_role(role))

    async def delete_role(call: Call) -> Answer:
        await service.delete_role(call.caller.access, call.tenant, role_name(call.path["roleName"]))
        return Answer(204)

    roles = Resource.IAM_ROLES
    return [
        Route(
            "GET",
            _ROLES,
            list_roles,
            Needs(Action.READ, roles),
            "List a group's roles",
            _TAG,
            query=PageQuery,
            answers=Roles,
        ),
        Route(
            "POST",
            _ROLES,
            create_role,
            Needs(Action.CREATE, roles),
            "Create a role",
            _TAG,
            body=NewRole,
            answers=ShownRole,
            status=201,
        ),
        Route("GET", _ROLE, get_role, Needs(Action.READ, roles), "Get a role", _TAG, answers=ShownRole),
        Route(
            "PUT",
            _ROLE,
            replace_role,
            Needs(Action.UPDATE, roles),
            "Replace what a role holds",
            _TAG,
            body=RoleBody,
            answers=ShownRole,
        ),
        Route(
            "DELETE",
            _ROLE,
            delete_role,
            Needs(Action.DELETE, roles),
            "Delete a role that nobody holds",
            _TAG,
            status=204,
        ),
    ]

"""The JSON of tenants, roles, identities, devices and scopes: what comes in, what goes out, and the way between."""

import re
from datetime import datetime
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field

from certs.errors import CertificateRefused
from certs.names import device_identifier
from iam.model import ALL, Device, Effect, Extent, Identity, Role, Scope, Tenant, TopicAction, TopicRule
from iam.permissions import Permission, permission
from iam.schema import Model, Shown

Names = Literal["*"] | list[str]
"""`*` for everything that the level above permits, or a list; left out: the level above decides."""

LONGEST_LIST = 1_000
"""Names in a scope; what has to reach more says `*`, or is paired."""

_SERVICE = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.:-]{0,127}")


def _device(text: str) -> str:
    try:
        return device_identifier(text)
    except CertificateRefused as refusal:
        raise ValueError(refusal.reason) from refusal


def _service(text: str) -> str:
    if not _SERVICE.fullmatch(text):
        raise ValueError("a service's name is letters, digits or any of '_.:-', starting with a letter or digit")
    return text


DeviceNames = Literal["*"] | Annotated[list[Annotated[str, AfterValidator(_device)]], Field(max_length=LONGEST_LIST)]
ServiceNames = Literal["*"] | Annotated[list[Annotated[str, AfterValidator(_service)]], Field(max_length=LONGEST_LIST)]


class ScopeFields(Model):
    """The part of a body that says which devices and services are reached."""

    devices: DeviceNames | None = Field(None, description="`*`, a list, or left out: inherited.")
    services: ServiceNames | None = Field(None, description="`*`, a list, or left out: inherited.")

    @property
    def scope(self) -> Scope:
        """The scope that the body says."""
        return Scope(extent_of(self.devices), extent_of(self.services))

    def changed(self, scope: Scope) -> Scope:
        """Return `scope` with what the body says of it; what was not sent stays, and null is unset."""
        said = self.model_fields_set
        return Scope(
            extent_of(self.devices) if "devices" in said else scope.devices,
            extent_of(self.services) if "services" in said else scope.services,
        )


class PermissionBody(Model):
    """A resource, and what may be done to it."""

    resource: str = Field(max_length=128, examples=["devices", "iam.*", "*"])
    actions: list[Literal["create", "read", "update", "delete"]] = Field(min_length=1, max_length=4)

    @property
    def permission(self) -> Permission:
        """The checked permission."""
        return permission(self.resource, self.actions)


class TopicBody(Model):
    """A rule on topics, in MQTT syntax with `${tenant} ${identity} ${device} ${name}`."""

    effect: Effect = Effect.ALLOW
    action: TopicAction
    topic: str = Field(max_length=512, examples=["${tenant}/devices/${device}/telemetry"])

    @property
    def rule(self) -> TopicRule:
        """The rule, not checked yet."""
        return TopicRule(self.effect, self.action, self.topic)


class ShownTenant(Shown):
    """A group (tenant)."""

    id: str
    name: str
    parent: str | None
    status: str
    devices: Names | None
    services: Names | None
    created: datetime


class ShownPermission(Shown):
    """A resource, and what may be done to it."""

    resource: str
    actions: list[str]


class ShownTopic(Shown):
    """A rule on topics."""

    effect: str
    action: str
    topic: str


class ShownRole(Shown):
    """A role."""

    id: str
    name: str
    permissions: list[ShownPermission]
    topics: list[ShownTopic]
    devices: Names | None
    services: Names | None
    created: datetime


class ShownIdentity(Shown):
    """An identity: a person, a gateway, a device, a program."""

    id: str
    type: str
    name: str
    status: str
    roles: list[str] | None = None
    device_identifier: str | None
    devices: Names | None
    services: Names | None
    created: datetime


class ShownDevice(Shown):
    """A device."""

    device_identifier: str
    identity: str | None
    status: str
    labels: dict[str, str]
    metadata: dict[str, Any]
    enrolment_profile: str | None
    replacement_allowed: bool
    created: datetime


class Tenants(Shown):
    """A page of groups."""

    items: list[ShownTenant]
    next: str | None


class Roles(Shown):
    """A page of roles."""

    items: list[ShownRole]
    next: str | None


class Identities(Shown):
    """A page of identities."""

    items: list[ShownIdentity]
    next: str | None


class Devices(Shown):
    """A page of devices."""

    items: list[ShownDevice]
    next: str | None


def extent_of(names: Names | None) -> Extent | None:
    """Read an extent from JSON."""
    if names is None:
        return None
    return ALL if names == "*" else Extent(names=frozenset(names))


def names_of(extent: Extent | None) -> Names | None:
    """Write an extent as JSON."""
    if extent is None:
        return None
    return "*" if extent.everything else sorted(extent.names)


def show_tenant(tenant: Tenant) -> ShownTenant:
    """Return what callers see of a tenant."""
    return ShownTenant(
        id=str(tenant.id),
        name=tenant.name,
        parent=str(tenant.parent) if tenant.parent else None,
        status=tenant.status,
        devices=names_of(tenant.scope.devices),
        services=names_of(tenant.scope.services),
        created=tenant.created,
    )


def show_role(role: Role) -> ShownRole:
    """Return what callers see of a role."""
    return ShownRole(
        id=str(role.id),
        name=role.name,
        permissions=[show_permission(one) for one in role.permissions],
        topics=[ShownTopic(effect=one.effect, action=one.action, topic=one.topic) for one in role.topics],
        devices=names_of(role.scope.devices),
        services=names_of(role.scope.services),
        created=role.created,
    )


def show_permission(held: Permission) -> ShownPermission:
    """Return what callers see of a permission."""
    return ShownPermission(resource=held.resource, actions=sorted(held.actions))


def show_identity(identity: Identity, roles: tuple[str, ...] | None = None) -> ShownIdentity:
    """Return what callers see of an identity."""
    return ShownIdentity(
        id=identity.id,
        type=identity.type,
        name=identity.name,
        status=identity.status,
        roles=list(roles) if roles is not None else None,
        device_identifier=identity.device,
        devices=names_of(identity.scope.devices),
        services=names_of(identity.scope.services),
        created=identity.created,
    )


def show_device(device: Device) -> ShownDevice:
    """Return what callers see of a device."""
    return ShownDevice(
        device_identifier=device.identifier,
        identity=device.identity,
        status=device.status,
        labels=device.labels,
        metadata=device.metadata,
        enrolment_profile=device.enrolment_profile,
        replacement_allowed=device.replacement_allowed,
        created=device.created,
    )

"""How the rows of `iam` become values, and back; the only place that knows the columns' encodings."""

from typing import Any

import orjson

from iam.model import (
    ALL,
    Device,
    DeviceStatus,
    Effect,
    Extent,
    Identity,
    IdentityStatus,
    IdentityType,
    Role,
    Scope,
    Tenant,
    TenantStatus,
    TopicAction,
    TopicRule,
)
from iam.permissions import Action, Permission
from iam.store.database import Row

_EVERYTHING = "*"


def extent_from(column: list[str] | None) -> Extent | None:
    """Read an array: NULL is unset, `{*}` is everything."""
    if column is None:
        return None
    return ALL if column == [_EVERYTHING] else Extent(names=frozenset(column))


def extent_to(extent: Extent | None) -> list[str] | None:
    """Write an array: the other way round."""
    if extent is None:
        return None
    return [_EVERYTHING] if extent.everything else sorted(extent.names)


def scope_from(row: Row) -> Scope:
    """Read the columns `devices` and `services`."""
    return Scope(extent_from(row["devices"]), extent_from(row["services"]))


def tenant_from(row: Row) -> Tenant:
    """Read a tenant whose `status` is the effective one."""
    return Tenant(
        id=row["id"],
        name=row["name"],
        parent=row["parent_id"],
        path=tuple(row["path"]),
        status=TenantStatus(row["status"]),
        scope=scope_from(row),
        created=row["created_at"],
    )


def role_from(row: Row) -> Role:
    """Read a role."""
    return Role(
        id=row["id"],
        tenant=row["tenant_id"],
        name=row["name"],
        permissions=permissions_from(orjson.loads(row["permissions"])),
        topics=topics_from(orjson.loads(row["topics"])),
        scope=scope_from(row),
        created=row["created_at"],
    )


def permissions_from(raw: list[dict[str, Any]]) -> tuple[Permission, ...]:
    """Read permissions as they stand in JSON."""
    return tuple(Permission(one["resource"], frozenset(map(Action, one["actions"]))) for one in raw)


def permissions_to(permissions: tuple[Permission, ...]) -> str:
    """Write permissions as JSON."""
    return orjson.dumps(
        [{"resource": one.resource, "actions": sorted(one.actions)} for one in sorted(permissions, key=_by_resource)]
    ).decode()


def topics_from(raw: list[dict[str, str]]) -> tuple[TopicRule, ...]:
    """Read topic rules as they stand in JSON."""
    return tuple(TopicRule(Effect(one["effect"]), TopicAction(one["action"]), one["topic"]) for one in raw)


def topics_to(topics: tuple[TopicRule, ...]) -> str:
    """Write topic rules as JSON."""
    return orjson.dumps([{"effect": one.effect, "action": one.action, "topic": one.topic} for one in topics]).decode()


def identity_from(row: Row) -> Identity:
    """Read an identity joined with its device, if it has one (`device_identifier`)."""
    return Identity(
        id=row["id"],
        type=IdentityType(row["type"]),
        tenant=row["tenant_id"],
        name=row["name"],
        status=IdentityStatus(row["status"]),
        scope=scope_from(row),
        device=row["device_identifier"],
        created=row["created_at"],
    )


def device_from(row: Row) -> Device:
    """Read a device."""
    return Device(
        identifier=row["device_identifier"],
        tenant=row["tenant_id"],
        identity=row["identity_id"],
        status=DeviceStatus(row["status"]),
        labels=orjson.loads(row["labels"]),
        metadata=orjson.loads(row["metadata"]),
        enrolment_profile=row["enrolment_profile"],
        replacement_allowed=row["replacement_allowed"],
        created=row["created_at"],
        alias=row["alias"],
        tags=tuple(row["tags"]),
        icon=row["icon"],
        icon_color=row["icon_color"],
    )


def _by_resource(permission: Permission) -> str:
    return permission.resource

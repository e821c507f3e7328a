"""What an administrator may hand out: rules for roles and scopes, applied wherever one is made, changed or given.

1. Nobody hands out a permission that he does not hold himself, by one role of his own that reaches every device and
   service for which the receiver would have it. Two roles of his are not joined.
2. Nobody hands out a topic on devices that he does not reach: a topic with `${device}` needs all the devices that the
   receiver reaches, one without it needs all devices of the tenant.
3. In `system`, a topic that is not bound to `${tenant}` reaches every tenant: only who may do everything hands it out.
4. Nobody gives a scope wider than his own.
5. Only `root` makes a `root`, in `system`; `admin` and `internal` are made by those who may do everything.
6. Who changes somebody could have made him: the same rules hold for taking and suspending.

Pairing is a permission of its own (`iam.pair.*`): whoever has it adds devices of his tenant that he does not reach yet.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from functools import reduce
from operator import and_

from iam.access import Access, Grant
from iam.errors import forbidden
from iam.model import ALL, Extent, IdentityType, Role, Scope, Tenant, TopicRule
from iam.model import Effect as TopicEffect
from iam.permissions import ALL_ACTIONS, EVERYTHING, Action, Permission
from iam.topics import DEVICE, TENANT

_HIGH = frozenset({IdentityType.ADMIN, IdentityType.INTERNAL})


@dataclass(frozen=True, slots=True)
class Gift:
    """What somebody would have by a role: its permissions and topics, and how far they reach."""

    permissions: tuple[Permission, ...]
    topics: tuple[TopicRule, ...]
    devices: Extent
    services: Extent


def gift_of(tenant: Tenant, permissions: tuple[Permission, ...], topics: tuple[TopicRule, ...], *scopes: Scope) -> Gift:
    """Return what a role with these gives in `tenant`, within all of `scopes`: the role's own and the receiver's."""
    levels = (tenant.scope, *scopes)
    return Gift(
        permissions,
        topics,
        reduce(and_, (level.devices if level.devices is not None else ALL for level in levels)),
        reduce(and_, (level.services if level.services is not None else ALL for level in levels)),
    )


def check_gift(access: Access, tenant: Tenant, gift: Gift) -> None:
    """Raise `Refused` (forbidden) unless the caller may hand this out (rules 1 to 3)."""
    for wanted in gift.permissions:
        for action in sorted(wanted.actions):
            if not any(_covers(grant, action, wanted.resource, gift) for grant in access.grants):
                raise forbidden(
                    f"You cannot grant {action} on {wanted.resource} that far: you do not hold it so yourself."
                )
    for rule in gift.topics:
        if rule.effect is TopicEffect.ALLOW:
            _check_topic(access, tenant, rule.topic, gift.devices)


def check_hands_out(access: Access, tenant: Tenant, roles: Iterable[Role], receiver: Scope) -> None:
    """Raise `Refused` (forbidden) unless the caller may hand these roles to somebody of this scope."""
    for role in roles:
        check_gift(access, tenant, gift_of(tenant, role.permissions, role.topics, role.scope, receiver))


def check_scope(access: Access, tenant: Tenant, scope: Scope) -> None:
    """Raise `Refused` (forbidden) if `scope` reaches further in `tenant` than the caller does (rule 4)."""
    wanted = gift_of(tenant, (), (), scope)
    for dimension, asked, held in (
        ("devices", wanted.devices, access.devices),
        ("services", wanted.services, access.services),
    ):
        if not is_within(asked, held):
            raise forbidden(f"You cannot grant {dimension} that you do not reach yourself.")


def check_type(access: Access, tenant: Tenant, wanted: IdentityType) -> None:
    """Raise `Refused` (forbidden) if the caller may not make an identity of this type (rule 3)."""
    if wanted is IdentityType.ROOT and access.identity.type is not IdentityType.ROOT:
        raise forbidden("Only root makes another root.")
    if wanted is IdentityType.ROOT and tenant.parent is not None:
        raise forbidden("A root identity belongs to the tenant system.")
    if wanted in _HIGH:
        _check_may_do_everything(access, f"An identity of type {wanted} may do much")


def is_within(wanted: Extent, held: Extent) -> bool:
    """Tell whether everything in `wanted` is in `held`."""
    return held.everything or (not wanted.everything and wanted.names <= held.names)


def _covers(grant: Grant, action: Action, resource: str, gift: Gift) -> bool:
    if not any(held.covers(action, resource) for held in grant.permissions):
        return False
    return is_within(gift.devices, grant.devices) and is_within(gift.services, grant.services)


def _check_topic(access: Access, tenant: Tenant, topic: str, devices: Extent) -> None:
    levels = topic.split("/")
    if tenant.parent is None and levels[0] != TENANT:
        _check_may_do_everything(access, f"The topic {topic} reaches every group")
    reach = devices if DEVICE in levels else ALL
    if not is_within(reach, access.devices):
        raise forbidden(f"You cannot grant the topic {topic}: it is about devices that you do not reach yourself.")


def _check_may_do_everything(access: Access, what: str) -> None:
    everything = Gift((EVERYTHING,), (), ALL, ALL)
    if not all(
        any(_covers(grant, action, EVERYTHING.resource, everything) for grant in access.grants)
        for action in ALL_ACTIONS
    ):
        raise forbidden(f"{what}: only who may do everything hands it out.")

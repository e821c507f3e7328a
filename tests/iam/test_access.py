"""`iam.access`: what roles, scopes and pairings come to, and the answer to "may it?"."""

from dataclasses import replace
from datetime import UTC, datetime
from uuid import UUID

import pytest

from iam.access import Access, Allowed, Denied, compute_access, decide, visible_devices
from iam.errors import Kind, Refused
from iam.model import (
    ALL,
    NONE,
    Extent,
    Identity,
    IdentityStatus,
    IdentityType,
    Pairing,
    PairingLevel,
    Role,
    Scope,
    Tenant,
    TenantStatus,
)
from iam.permissions import ALL_ACTIONS, EVERYTHING, Action, Permission, permission

NOW = datetime(2026, 11, 22, tzinfo=UTC)
SYSTEM = Tenant(UUID(int=1), "system", None, (UUID(int=1),), TenantStatus.ACTIVE, Scope(), NOW)
ACME = Tenant(UUID(int=2), "acme", SYSTEM.id, (SYSTEM.id, UUID(int=2)), TenantStatus.ACTIVE, Scope(), NOW)
EAST = Tenant(UUID(int=3), "acme-east", ACME.id, (*ACME.path, UUID(int=3)), TenantStatus.ACTIVE, Scope(), NOW)
OTHER = Tenant(UUID(int=4), "other", SYSTEM.id, (SYSTEM.id, UUID(int=4)), TenantStatus.ACTIVE, Scope(), NOW)
READ_DEVICES = Permission("devices", frozenset({Action.READ}))
ALICE = Identity("idt-a", IdentityType.USER, ACME.id, "alice", IdentityStatus.ACTIVE, Scope(), None, NOW)


def role(number: int, *permissions: Permission, devices: Extent | None = None) -> Role:
    return Role(UUID(int=100 + number), ACME.id, f"role-{number}", permissions, (), Scope(devices), NOW)


def listed(*names: str) -> Extent:
    return Extent(names=frozenset(names))


def paired(level: PairingLevel, holder: str, device: str) -> Pairing:
    return Pairing(ACME.id, level, holder, device, NOW, "idt-x")


def access_of(
    *roles: Role, tenant: Tenant = ACME, identity: Identity = ALICE, pairings: tuple[Pairing, ...] = ()
) -> Access:
    access = compute_access(tenant, identity, roles, pairings)
    assert isinstance(access, Access)
    return access


@pytest.mark.parametrize("status", [TenantStatus.BLOCKED, TenantStatus.DELETED])
def test_a_tenant_that_is_not_active_gives_no_access(status: TenantStatus) -> None:
    found = compute_access(replace(ACME, status=status), ALICE, [role(1, EVERYTHING)], [])
    assert found == Denied(f"tenant acme is {status}")


@pytest.mark.parametrize("status", [one for one in IdentityStatus if one is not IdentityStatus.ACTIVE])
def test_an_identity_that_is_not_active_has_no_access(status: IdentityStatus) -> None:
    found = compute_access(ACME, replace(ALICE, status=status), [role(1, EVERYTHING)], [])
    assert found == Denied(f"identity idt-a is {status}")


def test_nothing_granted_means_nothing_allowed() -> None:
    assert decide(access_of(), Action.READ, "devices") == Denied("no role allows read on devices")


@pytest.mark.parametrize(
    ("tenant", "own_role", "own", "reached"),
    [
        (None, None, None, ALL),
        (ALL, ALL, ALL, ALL),
        (None, listed("a", "b"), None, listed("a", "b")),
        (listed("a", "c"), listed("a", "b"), None, listed("a")),
        (listed("a"), None, listed("b"), NONE),
        (None, None, NONE, NONE),
        (ALL, NONE, ALL, NONE),
    ],
)
def test_a_scope_is_the_intersection_from_the_tenant_down(
    tenant: Extent | None, own_role: Extent | None, own: Extent | None, reached: Extent
) -> None:
    access = access_of(
        role(1, READ_DEVICES, devices=own_role),
        tenant=replace(ACME, scope=Scope(tenant)),
        identity=replace(ALICE, scope=Scope(own)),
    )
    assert access.devices == reached


@pytest.mark.parametrize(
    ("level", "holder"),
    [
        (PairingLevel.USER, ALICE.id),
        (PairingLevel.ROLE, str(role(1).id)),
        (PairingLevel.GROUP, str(ACME.id)),
    ],
)
def test_a_pairing_adds_to_the_list_of_its_own_level_only(level: PairingLevel, holder: str) -> None:
    empty = dict.fromkeys(PairingLevel, NONE)
    tenant = replace(ACME, scope=Scope(empty[PairingLevel.GROUP] if level is PairingLevel.GROUP else None))
    one = role(1, READ_DEVICES, devices=NONE if level is PairingLevel.ROLE else None)
    who = replace(ALICE, scope=Scope(NONE if level is PairingLevel.USER else None))
    before = access_of(one, tenant=tenant, identity=who)
    after = access_of(one, tenant=tenant, identity=who, pairings=(paired(level, holder, "meter"),))
    assert before.devices == NONE
    assert after.devices == listed("meter")


def test_a_pairing_never_narrows_a_level_that_is_unset_and_so_unpairing_never_widens() -> None:
    access = access_of(role(1, READ_DEVICES), pairings=(paired(PairingLevel.USER, ALICE.id, "meter"),))
    assert access.devices == ALL


def test_a_pairing_of_a_user_does_not_reach_past_his_role() -> None:
    access = access_of(
        role(1, READ_DEVICES, devices=listed("a")),
        identity=replace(ALICE, scope=Scope(NONE)),
        pairings=(paired(PairingLevel.USER, ALICE.id, "b"),),
    )
    assert access.devices == NONE


def test_a_permission_reaches_the_devices_of_its_own_role_and_no_others() -> None:
    access = access_of(
        role(1, READ_DEVICES, devices=listed("a")),
        role(2, Permission("devices", frozenset({Action.DELETE})), devices=listed("b")),
    )
    assert decide(access, Action.READ, "devices", device="a") == Allowed()
    assert decide(access, Action.READ, "devices", device="b") == Denied("read on devices does not reach device b")
    assert decide(access, Action.DELETE, "devices", device="a") == Denied("delete on devices does not reach device a")
    assert visible_devices(access, Action.READ, "devices") == listed("a")


def test_a_device_reaches_itself_whatever_its_scope() -> None:
    meter = replace(ALICE, type=IdentityType.DEVICE, device="meter", scope=Scope(NONE))
    assert access_of(role(1), identity=meter).devices == listed("meter")


@pytest.mark.parametrize(
    ("where", "answer"),
    [
        (ACME, Allowed()),
        (EAST, Allowed()),
        (SYSTEM, Denied("tenant system is not within acme")),
        (OTHER, Denied("tenant other is not within acme")),
    ],
)
def test_a_caller_acts_in_his_tenant_and_below_and_nowhere_else(where: Tenant, answer: Allowed | Denied) -> None:
    assert decide(access_of(role(1, EVERYTHING)), Action.READ, "devices", tenant=where) == answer


@pytest.mark.parametrize(
    ("held", "wanted", "covers"),
    [
        ("*", "iam.users", True),
        ("*", "*", True),
        ("iam.*", "iam.users", True),
        ("iam.*", "iam.pair.user", True),
        ("iam.*", "iam", False),
        ("iam.*", "iamx", False),
        ("iam.users", "iam.*", False),
        ("iam.users", "iam.users.secret", False),
        ("iam.*", "*", False),
    ],
)
def test_what_a_permission_covers(held: str, wanted: str, covers: bool) -> None:
    assert Permission(held, ALL_ACTIONS).covers(Action.READ, wanted) is covers


@pytest.mark.parametrize("resource", ["", "IAM", "a..b", ".a", "a.", "*.a", "a.*.b", "a b", "a\n", "*" * 2, "a" * 129])
def test_a_resource_out_of_grammar_is_refused(resource: str) -> None:
    with pytest.raises(Refused) as refused:
        permission(resource, ["read"])
    assert refused.value.kind is Kind.MALFORMED

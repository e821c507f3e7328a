"""What an administrator may hand out: rules for roles and scopes, applied wherever one is made or changed.

1. Nobody grants a permission that he does not hold in the same tenant (`access.check_may_grant`).
2. Nobody grants a wider scope than his own: a caller limited to a list of devices or services gives a list within it.
3. Only `root` makes a `root`; and identities of type `root`, `admin` and `internal` are made by holders of everything
   in their tenant.
4. Topic rules are in grammar and, outside `system`, begin with `${tenant}` (`iam.topics`).
"""

from collections.abc import Iterable

from iam.access import Access, check_may_grant
from iam.errors import forbidden
from iam.model import Extent, IdentityType, Role, Scope, Tenant
from iam.permissions import EVERYTHING, Permission

_HIGH = frozenset({IdentityType.ADMIN, IdentityType.INTERNAL})


def check_role(access: Access, permissions: Iterable[Permission], scope: Scope) -> None:
    """Raise `Refused` (forbidden) if a role with these would hold what the caller does not (rules 1 and 2)."""
    check_may_grant(access, permissions)
    check_scope(access, scope)


def check_scope(access: Access, scope: Scope) -> None:
    """Raise `Refused` (forbidden) if `scope` reaches further than the caller does (rule 2)."""
    for dimension, wanted, held in (
        ("devices", scope.devices, access.devices),
        ("services", scope.services, access.services),
    ):
        if not _is_within(wanted, held):
            raise forbidden(f"You cannot grant {dimension} that you do not reach yourself.")


def check_type(access: Access, tenant: Tenant, wanted: IdentityType) -> None:
    """Raise `Refused` (forbidden) if the caller may not make an identity of this type (rule 3)."""
    if wanted is IdentityType.ROOT and access.identity.type is not IdentityType.ROOT:
        raise forbidden("Only root makes another root.")
    if wanted is IdentityType.ROOT and tenant.parent is not None:
        raise forbidden("A root identity belongs to the tenant system.")
    if wanted in _HIGH:
        check_may_grant(access, [EVERYTHING])


def check_hands_out(access: Access, roles: Iterable[Role]) -> None:
    """Raise `Refused` (forbidden) if the caller may not give these roles to somebody (rule 1)."""
    for role in roles:
        check_may_grant(access, role.permissions)


def _is_within(wanted: Extent | None, held: Extent) -> bool:
    if held.everything:
        return True
    if wanted is None or wanted.everything:
        return False
    return wanted.names <= held.names

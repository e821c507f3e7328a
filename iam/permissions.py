"""Resources, actions, and when a permission covers a request.

A permission is a resource and the actions allowed on it. Resources are dotted names; `*` is all of them and `crm.*`
all below `crm` (not `crm` itself). Doorward's own resources are the enum below, in alphabetical order; the platform's
other services may put any further name into a role, and Doorward carries it in tokens without knowing it.
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum

from iam.errors import malformed

_RESOURCE = re.compile(r"\*|[a-z][a-z0-9_-]*(\.[a-z][a-z0-9_-]*)*(\.\*)?")
_LONGEST_RESOURCE = 128


class Action(StrEnum):
    """What can be done to a resource."""

    CREATE = "create"
    READ = "read"
    UPDATE = "update"
    DELETE = "delete"


class Resource(StrEnum):
    """The resources that Doorward itself guards."""

    CA_AUTHORITIES = "ca.authorities"
    CA_CERTIFICATES = "ca.certificates"
    CA_PROFILES = "ca.profiles"
    CA_SIGNATURES = "ca.signatures"
    DEVICES = "devices"
    DEVICES_GROUPS = "devices.groups"
    EST_APPROVALS = "est.approvals"
    EST_ENROLMENTS = "est.enrolments"
    EST_PROFILES = "est.profiles"
    EST_SECRETS = "est.secrets"
    IAM_AUDIT = "iam.audit"
    IAM_GROUPS = "iam.groups"
    IAM_PAIR_GROUP = "iam.pair.group"
    IAM_PAIR_ROLE = "iam.pair.role"
    IAM_PAIR_USER = "iam.pair.user"
    IAM_ROLES = "iam.roles"
    IAM_USERS = "iam.users"
    KMS_KEYS = "kms.keys"


@dataclass(frozen=True, slots=True, order=True)
class Permission:
    """Actions allowed on a resource.

    Attributes:
        resource: A dotted name, `*`, or a name that ends in `.*`.
        actions: At least one.
    """

    resource: str
    actions: frozenset[Action]

    def covers(self, action: Action, resource: str) -> bool:
        """Tell whether this permission allows `action` on `resource`, which may itself be a pattern."""
        return action in self.actions and _covers(self.resource, resource)


def permission(resource: str, actions: Iterable[str]) -> Permission:
    """Return a checked permission; raise `Refused` (malformed) for a name or action out of grammar."""
    if len(resource) > _LONGEST_RESOURCE or not _RESOURCE.fullmatch(resource):
        raise malformed(
            f"'{resource[:_LONGEST_RESOURCE]}' is not a resource: use lower-case dotted names, '*' or 'name.*'."
        )
    try:
        checked = frozenset(Action(action) for action in actions)
    except ValueError as error:
        raise malformed("An action is one of create, read, update, delete.") from error
    if not checked:
        raise malformed(f"The permission on '{resource}' names no action.")
    return Permission(resource, checked)


ALL_ACTIONS = frozenset(Action)
EVERYTHING = Permission("*", ALL_ACTIONS)


def _covers(pattern: str, resource: str) -> bool:
    if pattern in ("*", resource):
        return True
    return pattern.endswith(".*") and resource.startswith(pattern[:-1])

"""The decision: what an identity may do now in one tenant, and the one answer to "may it?".

The rules, in the order in which they are applied:

1. A tenant that is not active, or an identity that is not active, has no Access at all.
2. Each role is a grant of its own: its permissions reach its own scope and no other role's.
3. A scope is the intersection of tenant, role and identity; a level that is unset adds no limit. A pairing adds a
   device to the list of its level. A level that is unset or `*` stays so when something is paired to it: pairing
   never narrows, and so unpairing never widens.
4. `*` at a tenant means the devices of that tenant.
5. A device identity always reaches itself.
6. A caller may act in his own tenant and in those below it, never beside or above.
7. Nothing granted means nothing allowed.
"""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from uuid import UUID

from iam.errors import forbidden, malformed, unauthenticated
from iam.model import (
    ALL,
    NONE,
    Extent,
    Identity,
    IdentityStatus,
    Pairing,
    PairingLevel,
    Role,
    Tenant,
    TenantStatus,
    TopicRule,
)
from iam.permissions import Action, Permission


@dataclass(frozen=True, slots=True)
class Grant:
    """What one role gives to one identity: its permissions and topics, within its effective scope."""

    role: Role
    devices: Extent
    services: Extent

    @property
    def permissions(self) -> tuple[Permission, ...]:
        """The role's permissions."""
        return self.role.permissions

    @property
    def topics(self) -> tuple[TopicRule, ...]:
        """The role's topic rules, as templates."""
        return self.role.topics


@dataclass(frozen=True, slots=True)
class Access:
    """What an identity may do now in one tenant. The same value answers REST, EST, MQTT and `token/info`."""

    tenant: Tenant
    identity: Identity
    grants: tuple[Grant, ...]

    @property
    def permissions(self) -> dict[str, frozenset[Action]]:
        """All permissions of all grants, joined by resource."""
        joined: dict[str, frozenset[Action]] = {}
        for grant in self.grants:
            for held in grant.permissions:
                joined[held.resource] = joined.get(held.resource, frozenset()) | held.actions
        return joined

    @property
    def devices(self) -> Extent:
        """Every device that some grant reaches."""
        return _union(grant.devices for grant in self.grants)

    @property
    def services(self) -> Extent:
        """Every service that some grant reaches."""
        return _union(grant.services for grant in self.grants)


class ProofKind(StrEnum):
    """What can be asked for later, whether it still holds."""

    CERTIFICATE = "c"
    SESSION = "s"


@dataclass(frozen=True, slots=True)
class Proof:
    """What somebody was let in by: a certificate, by its serial number, or a session, by the bytes of its id."""

    kind: ProofKind
    id: bytes

    def __str__(self) -> str:
        """Spell it in letters and digits; `read_proof` reads it."""
        return f"{self.kind}{self.id.hex()}"


_PROOF = re.compile(r"(c)((?:[0-9a-f]{2}){1,20})|(s)([0-9a-f]{32})")


def read_proof(text: str) -> Proof:
    """Read what `str` makes of a proof; raise `Refused` (malformed) for anything else."""
    found = _PROOF.fullmatch(text)
    if found is None:
        raise malformed("Not a proof.")
    return Proof(ProofKind(found[1] or found[3]), bytes.fromhex(found[2] or found[4]))


@dataclass(frozen=True, slots=True)
class Authenticated:
    """Somebody who has proved who he is, what he may do, and until when the proof holds.

    Attributes:
        expires: When the credential does; nothing derived from it lives longer.
        session: The session of the token, where one was used.
        methods: How he proved it, as `amr` values (RFC 8176).
        certificate: The serial number of the certificate, where one was used.
    """

    access: Access
    expires: datetime
    session: UUID | None
    methods: tuple[str, ...]
    certificate: bytes | None = None

    @property
    def proof(self) -> Proof:
        """What he was let in by; raise `Refused` (unauthenticated) if that is nothing that ends."""
        if self.certificate is not None:
            return Proof(ProofKind.CERTIFICATE, self.certificate)
        if self.session is not None:
            return Proof(ProofKind.SESSION, self.session.bytes)
        raise unauthenticated("neither a certificate nor a session: nobody could end it")


@dataclass(frozen=True, slots=True)
class Allowed:
    """Yes."""


@dataclass(frozen=True, slots=True)
class Denied:
    """No, and why: a sentence for the log."""

    reason: str


Decision = Allowed | Denied
ALLOWED = Allowed()


def compute_access(
    tenant: Tenant, identity: Identity, roles: Sequence[Role], pairings: Sequence[Pairing]
) -> Access | Denied:
    """Return what `identity` may do in `tenant`, or why it may do nothing (rules 1 to 5).

    Args:
        roles: Those that the identity holds in this tenant.
        pairings: Those of this tenant whose holder is the identity, one of the roles or the tenant.
    """
    if tenant.status is not TenantStatus.ACTIVE:
        return Denied(f"tenant {tenant.name} is {tenant.status}")
    if identity.status is not IdentityStatus.ACTIVE:
        return Denied(f"identity {identity.id} is {identity.status}")
    paired = _devices_by_holder(pairings)
    at_tenant = _level(tenant.scope.devices, paired.get((PairingLevel.GROUP, str(tenant.id)), NONE))
    at_identity = _level(identity.scope.devices, paired.get((PairingLevel.USER, identity.id), NONE))
    itself = Extent(names=frozenset({identity.device})) if identity.device else NONE
    grants = []
    for role in roles:
        at_role = _level(role.scope.devices, paired.get((PairingLevel.ROLE, str(role.id)), NONE))
        devices = (at_tenant & at_role & at_identity) | itself
        services = _level(tenant.scope.services) & _level(role.scope.services) & _level(identity.scope.services)
        grants.append(Grant(role, devices, services))
    return Access(tenant, identity, tuple(grants))


def decide(
    access: Access, action: Action, resource: str, *, tenant: Tenant | None = None, device: str | None = None
) -> Decision:
    """Answer whether `access` allows `action` on `resource` (rules 6 and 7).

    Args:
        tenant: Where; the Access's own if not said.
        device: Which device, of that tenant, where the request is about one.
    """
    where = tenant or access.tenant
    if not where.is_within(access.tenant):
        return Denied(f"tenant {where.name} is not within {access.tenant.name}")
    holds_permission = False
    for grant in access.grants:
        if any(held.covers(action, resource) for held in grant.permissions):
            holds_permission = True
            if device is None or device in grant.devices:
                return ALLOWED
    if holds_permission:
        return Denied(f"{action} on {resource} does not reach device {device}")
    return Denied(f"no role allows {action} on {resource}")


def visible_devices(access: Access, action: Action, resource: str) -> Extent:
    """Return which devices the grants that allow `action` on `resource` reach; lists are filtered by it."""
    return _union(
        grant.devices for grant in access.grants if any(held.covers(action, resource) for held in grant.permissions)
    )


def require(decision: Decision, what: str) -> None:
    """Raise `Refused` (forbidden) with the sentence `what` unless `decision` is yes."""
    if isinstance(decision, Denied):
        raise forbidden(what, reason=decision.reason)


def _level(declared: Extent | None, paired: Extent = NONE) -> Extent:
    """Return one level's limit: unset and `*` add none; a list grows by what is paired to it (rule 3)."""
    if declared is None:
        return ALL
    return declared | paired


def _devices_by_holder(pairings: Iterable[Pairing]) -> dict[tuple[PairingLevel, str], Extent]:
    found: dict[tuple[PairingLevel, str], Extent] = {}
    for pairing in pairings:
        key = (pairing.level, pairing.holder)
        found[key] = found.get(key, NONE) | Extent(names=frozenset({pairing.device}))
    return found


def _union(extents: Iterable[Extent]) -> Extent:
    total = NONE
    for extent in extents:
        total = total | extent
    return total

"""The nouns: tenant, role, identity, credential, pairing, device. Frozen values, checked where they are made.

What each may hold is said here; how they combine into a decision is `iam.access`.
"""

from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from uuid import UUID

from iam.permissions import Permission

SYSTEM_TENANT = "system"
"""The root of the tenant tree."""


class TenantStatus(StrEnum):
    """A blocked tenant's identities get no token and no connection, at once; a deleted one keeps its name forever."""

    ACTIVE = "active"
    BLOCKED = "blocked"
    DELETED = "deleted"


class IdentityType(StrEnum):
    """What kind of being authenticates."""

    ROOT = "root"
    ADMIN = "admin"
    USER = "user"
    DEVELOPER = "developer"
    GATEWAY = "gateway"
    DEVICE = "device"
    INTEGRATION = "integration"
    INTERNAL = "internal"


class KeyAlgorithm(StrEnum):
    """The algorithms of registered public keys, by their JWA names (RFC 7518 3.1, RFC 8037 3.1)."""

    ED25519 = "EdDSA"
    P256 = "ES256"


KEY_ALGORITHM: dict[IdentityType, KeyAlgorithm] = {
    IdentityType.ROOT: KeyAlgorithm.ED25519,
    IdentityType.ADMIN: KeyAlgorithm.ED25519,
    IdentityType.USER: KeyAlgorithm.ED25519,
    IdentityType.DEVELOPER: KeyAlgorithm.ED25519,
    IdentityType.INTERNAL: KeyAlgorithm.ED25519,
    IdentityType.GATEWAY: KeyAlgorithm.P256,
    IdentityType.DEVICE: KeyAlgorithm.P256,
    IdentityType.INTEGRATION: KeyAlgorithm.P256,
}
"""Which algorithm a public key of an identity of this type must have."""

PEOPLE = frozenset({IdentityType.ROOT, IdentityType.ADMIN, IdentityType.USER, IdentityType.DEVELOPER})
"""Types whose names are login names: unique over all tenants, and allowed a password."""

STARTS_WITH_NO_DEVICES = frozenset({IdentityType.GATEWAY, IdentityType.DEVICE, IdentityType.INTEGRATION})
"""Machines see no device until one is listed or paired; people inherit their role's devices unless told otherwise."""


class IdentityStatus(StrEnum):
    """Only an active identity can prove anything."""

    INVITED = "invited"
    ACTIVE = "active"
    SUSPENDED = "suspended"
    DELETED = "deleted"


class CredentialKind(StrEnum):
    """The ways to prove an identity."""

    PASSWORD = "password"  # noqa: S105 - the name of a kind, not a secret
    PUBLIC_KEY = "public_key"
    CERTIFICATE = "certificate"


class DeviceStatus(StrEnum):
    """A device's life cycle; what leads from one to another is `iam.life_cycle`."""

    NO_IDENTITY = "NO_IDENTITY"
    ACTIVE = "ACTIVE"
    RENEWAL_PENDING = "RENEWAL_PENDING"
    EXPIRING_SOON = "EXPIRING_SOON"
    EXPIRED = "EXPIRED"
    REVOKED = "REVOKED"
    DECOMMISSIONED = "DECOMMISSIONED"


class PairingLevel(StrEnum):
    """Whose list of devices a pairing adds to, narrowest first."""

    USER = "user"
    ROLE = "role"
    GROUP = "group"


@dataclass(frozen=True, slots=True)
class Extent:
    """How far a grant reaches along one dimension, devices or services.

    Attributes:
        everything: All that the level above permits.
        names: The list, where it is not everything.
    """

    everything: bool = False
    names: frozenset[str] = frozenset()

    def __contains__(self, name: object) -> bool:
        return self.everything or name in self.names

    def __and__(self, other: "Extent") -> "Extent":
        if self.everything:
            return other
        if other.everything:
            return self
        return Extent(names=self.names & other.names)

    def __or__(self, other: "Extent") -> "Extent":
        if self.everything or other.everything:
            return ALL
        return Extent(names=self.names | other.names)


ALL = Extent(everything=True)
NONE = Extent()


@dataclass(frozen=True, slots=True)
class Scope:
    """Which devices and services a level names; `None` is unset: the level above decides."""

    devices: Extent | None = None
    services: Extent | None = None


@dataclass(frozen=True, slots=True)
class Tenant:
    """A customer, an organization, a group: a node in a tree whose root is `system`.

    Attributes:
        path: Ids from the root down to and including this tenant.
        status: The effective one: a tenant below a blocked tenant is blocked.
    """

    id: UUID
    name: str
    parent: UUID | None
    path: tuple[UUID, ...]
    status: TenantStatus
    scope: Scope
    created: datetime

    def is_within(self, other: "Tenant") -> bool:
        """Tell whether this tenant is `other` or one below it."""
        return other.id in self.path


class Effect(StrEnum):
    """What a topic rule does; deny wins."""

    ALLOW = "allow"
    DENY = "deny"


class TopicAction(StrEnum):
    """What a topic rule speaks of."""

    PUBLISH = "publish"
    SUBSCRIBE = "subscribe"
    ALL = "all"


@dataclass(frozen=True, slots=True)
class TopicRule:
    """A rule on topics, in MQTT syntax with `${tenant} ${identity} ${device} ${name}`; checked by `iam.topics`."""

    effect: Effect
    action: TopicAction
    topic: str


@dataclass(frozen=True, slots=True)
class Role:
    """Permissions, scope and topics under one name, in one tenant."""

    id: UUID
    tenant: UUID
    name: str
    permissions: tuple[Permission, ...]
    topics: tuple[TopicRule, ...]
    scope: Scope
    created: datetime


@dataclass(frozen=True, slots=True)
class Identity:
    """Whoever can authenticate.

    Attributes:
        id: `idt-` and a UUIDv7.
        device: The device identifier, for an identity that is a device or gateway in the world.
    """

    id: str
    type: IdentityType
    tenant: UUID
    name: str
    status: IdentityStatus
    scope: Scope
    device: str | None
    created: datetime


@dataclass(frozen=True, slots=True)
class Credential:
    """One way in which an identity proves itself.

    Attributes:
        public_key: SubjectPublicKeyInfo in DER, for a `public_key`.
        password_hash: Argon2id in PHC format, for a `password`.
    """

    id: UUID
    identity: str
    tenant: UUID
    kind: CredentialKind
    created: datetime
    last_used: datetime | None = None
    expires: datetime | None = None
    revoked: datetime | None = None
    public_key: bytes | None = None
    password_hash: str | None = None


@dataclass(frozen=True, slots=True)
class Pairing:
    """Adds a device to the list of a holder: an identity's id, a role's id or a tenant's id, by level."""

    tenant: UUID
    level: PairingLevel
    holder: str
    device: str
    created: datetime
    created_by: str


@dataclass(frozen=True, slots=True)
class Device:
    """What an identity of type `device` or `gateway` is in the world.

    Attributes:
        enrolment_profile: The label that it enrolled under; before that, the one it was registered for, if any.
        alias: What people call it.
        tags: Plain words, for finding it; labels are names with values.
    """

    identifier: str
    tenant: UUID
    identity: str | None
    status: DeviceStatus
    labels: dict[str, str] = field(hash=False)
    metadata: dict[str, object] = field(hash=False)
    enrolment_profile: str | None
    replacement_allowed: bool
    created: datetime
    alias: str = ""
    tags: tuple[str, ...] = ()
    icon: str = ""
    icon_color: str = ""


@dataclass(frozen=True, slots=True)
class DeviceGroup:
    """Devices under one name, by what they are: who fits all criteria, and those of the groups above, belongs to it.

    Attributes:
        criteria: Filters, as `iam.listing` reads them.
        inherited: Those of the groups above, from the uppermost down.
    """

    id: UUID
    tenant: UUID
    name: str
    description: str
    parent: UUID | None
    criteria: tuple[str, ...]
    created: datetime
    updated: datetime
    inherited: tuple[str, ...] = ()

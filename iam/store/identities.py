"""Identities, the roles they hold, their credentials and invitations in SQL."""

from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

import asyncpg

from iam.errors import conflict, not_found
from iam.identifiers import is_identity_id
from iam.model import Credential, CredentialKind, Identity, IdentityStatus, IdentityType
from iam.paging import Page, PageQuery, decode_cursor, page_of
from iam.store.database import Row, Transaction
from iam.store.rows import extent_to, identity_from

_IDENTITY = """
    SELECT i.id, i.tenant_id, i.type, i.name, i.status, i.devices, i.services, i.created_at, d.device_identifier
    FROM identity i LEFT JOIN device d ON d.identity_id = i.id"""

_BY_ID = f"{_IDENTITY} WHERE i.id = $1 AND i.status <> 'deleted'"
_BY_NAME = f"{_IDENTITY} WHERE i.tenant_id = $1 AND i.name = $2 AND i.status <> 'deleted'"


async def identity_by_id(transaction: Transaction, identity: str) -> Identity:
    """Return an identity that this transaction may see; raise `Refused` (not found) if there is none."""
    row = await transaction.fetchrow(_BY_ID, identity)
    if row is None:
        raise not_found(f"identity {identity}")
    return identity_from(row)


async def identity_by_id_or_name(
    transaction: Transaction, tenant: UUID, text: str, *, to_change: bool = False
) -> Identity:
    """Return an identity of `tenant` by its id or its name; raise `Refused` (not found) if there is none.

    Args:
        to_change: Keep others from changing it until the end of the transaction.
    """
    lock = " FOR UPDATE OF i" if to_change else ""
    if is_identity_id(text):
        row = await transaction.fetchrow(f"{_BY_ID} AND i.tenant_id = $2{lock}", text, tenant)
    else:
        row = await transaction.fetchrow(f"{_BY_NAME}{lock}", tenant, text)
    if row is None:
        raise not_found(f"identity {text}")
    return identity_from(row)


_LIST = f"""{_IDENTITY}
    WHERE i.tenant_id = $1 AND i.id > $2 AND i.status <> 'deleted'
      AND ($3::uuid IS NULL OR EXISTS (
          SELECT FROM identity_role r WHERE r.identity_id = i.id AND r.role_id = $3))
    ORDER BY i.id LIMIT $4"""


async def list_identities(
    transaction: Transaction, tenant: UUID, query: PageQuery, role: UUID | None
) -> Page[Identity]:
    """Return a tenant's identities in the order in which they came, all or the holders of a role."""
    after = decode_cursor(query.cursor, 1) or ("",)
    rows = await transaction.fetch(_LIST, tenant, after[0], role, query.limit + 1)
    found = [identity_from(row) for row in rows]
    return page_of(found, query.limit, [(one.id,) for one in found])


_INSERT = """
    INSERT INTO identity (id, tenant_id, type, name, status, devices, services, created_at)
    VALUES ($1, $2, $3, $4, $5, $6, $7, $8)"""


async def insert_identity(transaction: Transaction, identity: Identity) -> None:
    """Store a new identity; raise `Refused` (conflict) if its name is taken."""
    try:
        await transaction.execute(
            _INSERT,
            identity.id,
            identity.tenant,
            identity.type,
            identity.name,
            identity.status,
            extent_to(identity.scope.devices),
            extent_to(identity.scope.services),
            identity.created,
        )
    except asyncpg.UniqueViolationError as error:
        raise conflict(f"The name {identity.name} is taken.") from error


_UPDATE = "UPDATE identity SET status = $2, devices = $3, services = $4 WHERE id = $1"


async def update_identity(transaction: Transaction, identity: Identity) -> None:
    """Set an identity's status and scope."""
    await transaction.execute(
        _UPDATE,
        identity.id,
        identity.status,
        extent_to(identity.scope.devices),
        extent_to(identity.scope.services),
    )


# A deleted identity gives its name back; its id stays for the audit.
_DELETE = "UPDATE identity SET status = 'deleted', name = id WHERE id = $1"
_DELETE_PAIRINGS = "DELETE FROM pairing WHERE level = 'user' AND holder = $1"
_REVOKE_CREDENTIALS = "UPDATE credential SET revoked_at = $2 WHERE identity_id = $1 AND revoked_at IS NULL"
_DELETE_INVITATIONS = "DELETE FROM invitation WHERE identity_id = $1"
_DELETE_ROLES = "DELETE FROM identity_role WHERE identity_id = $1"


async def delete_identity(transaction: Transaction, identity: str) -> None:
    """Delete an identity: its credentials are revoked; roles, pairings and invitations go."""
    await transaction.execute(_DELETE_PAIRINGS, identity)
    await transaction.execute(_DELETE_INVITATIONS, identity)
    await transaction.execute(_DELETE_ROLES, identity)
    await transaction.execute(_REVOKE_CREDENTIALS, identity, transaction.now)
    await transaction.execute(_DELETE, identity)


_GIVE_ROLE = """
    INSERT INTO identity_role (identity_id, role_id, tenant_id) VALUES ($1, $2, $3) ON CONFLICT DO NOTHING"""
_TAKE_ROLE = "DELETE FROM identity_role WHERE identity_id = $1 AND role_id = $2"
_ROLE_NAMES = """
    SELECT r.name FROM identity_role h JOIN role r ON r.id = h.role_id WHERE h.identity_id = $1 ORDER BY r.name"""


async def give_role(transaction: Transaction, identity: str, role: UUID, tenant: UUID) -> bool:
    """Give a role to an identity; tell whether it is new to it. Raise `Refused` (conflict) if it was just deleted."""
    try:
        return bool(await transaction.execute(_GIVE_ROLE, identity, role, tenant))
    except asyncpg.ForeignKeyViolationError as error:
        raise conflict("The role was deleted meanwhile.") from error


async def take_role(transaction: Transaction, identity: str, role: UUID) -> bool:
    """Take a role from an identity; tell whether it held it."""
    return bool(await transaction.execute(_TAKE_ROLE, identity, role))


async def role_names(transaction: Transaction, identity: str) -> list[str]:
    """Return the names of the roles that an identity holds."""
    return [row["name"] for row in await transaction.fetch(_ROLE_NAMES, identity)]


_INSERT_CREDENTIAL = """
    INSERT INTO credential (id, identity_id, tenant_id, kind, public_key, password_hash, created_at)
    VALUES ($1, $2, $3, $4, $5, $6, $7)"""


async def insert_credential(transaction: Transaction, credential: Credential) -> None:
    """Store a credential; raise `Refused` (conflict) for a key that was ever registered, or a second password."""
    try:
        await transaction.execute(
            _INSERT_CREDENTIAL,
            credential.id,
            credential.identity,
            credential.tenant,
            credential.kind,
            credential.public_key,
            credential.password_hash,
            credential.created,
        )
    except asyncpg.UniqueViolationError as error:
        raise conflict("This credential is registered already.") from error


_CREDENTIAL = """
    SELECT id, identity_id, tenant_id, kind, public_key, password_hash, created_at, last_used_at, expires_at,
           revoked_at
    FROM credential"""
_CREDENTIALS = f"{_CREDENTIAL} WHERE identity_id = $1 AND revoked_at IS NULL ORDER BY created_at"
_BY_PUBLIC_KEY = f"{_CREDENTIAL} WHERE kind = 'public_key' AND sha256(public_key) = sha256($1)"


async def list_credentials(transaction: Transaction, identity: str) -> list[Credential]:
    """Return an identity's credentials that are not revoked."""
    return [_credential_from(row) for row in await transaction.fetch(_CREDENTIALS, identity)]


async def credential_by_public_key(transaction: Transaction, spki: bytes) -> Credential | None:
    """Return the credential of a public key in DER, revoked or not."""
    row = await transaction.fetchrow(_BY_PUBLIC_KEY, spki)
    return _credential_from(row) if row else None


_USE = """
    UPDATE credential SET last_used_at = $2::timestamptz
    WHERE id = $1 AND (last_used_at IS NULL OR last_used_at < $2::timestamptz - interval '1 minute')"""


async def mark_used(transaction: Transaction, credential: UUID) -> None:
    """Remember that a credential was used, to the minute."""
    await transaction.execute(_USE, credential, transaction.now)


_REPLACE_HASH = "UPDATE credential SET password_hash = $2 WHERE id = $1 AND kind = 'password'"


async def replace_password_hash(transaction: Transaction, credential: UUID, password_hash: str) -> None:
    """Store the hash of the same password by other parameters."""
    await transaction.execute(_REPLACE_HASH, credential, password_hash)


_REVOKE_CREDENTIAL = """
    UPDATE credential SET revoked_at = $3 WHERE id = $1 AND identity_id = $2 AND revoked_at IS NULL"""


async def revoke_credential(transaction: Transaction, credential: UUID, identity: str) -> None:
    """Revoke one credential; raise `Refused` (not found) if the identity has no such live one."""
    if not await transaction.execute(_REVOKE_CREDENTIAL, credential, identity, transaction.now):
        raise not_found(f"credential {credential}")


_REVOKE_SESSIONS = "UPDATE session SET revoked_at = $2 WHERE identity_id = $1 AND revoked_at IS NULL"


async def revoke_sessions(transaction: Transaction, identity: str) -> None:
    """End all sessions of an identity."""
    await transaction.execute(_REVOKE_SESSIONS, identity, transaction.now)


@dataclass(frozen=True, slots=True)
class PasswordOwner:
    """Whom a login name names, and the password to compare with."""

    identity: str
    tenant: UUID
    type: IdentityType
    status: IdentityStatus
    credential: UUID
    password_hash: str


_OF_LOGIN_NAME = """
    SELECT i.id, i.tenant_id, i.type, i.status, c.id AS credential_id, c.password_hash
    FROM identity i JOIN credential c ON c.identity_id = i.id AND c.kind = 'password' AND c.revoked_at IS NULL
    WHERE lower(i.name) = lower($1) AND i.type IN ('root', 'admin', 'user', 'developer')"""


async def password_owner(transaction: Transaction, name: str) -> PasswordOwner | None:
    """Return whom `name` names, if he has a password."""
    row = await transaction.fetchrow(_OF_LOGIN_NAME, name)
    if row is None:
        return None
    return PasswordOwner(
        row["id"],
        row["tenant_id"],
        IdentityType(row["type"]),
        IdentityStatus(row["status"]),
        row["credential_id"],
        row["password_hash"],
    )


@dataclass(frozen=True, slots=True)
class Invitation:
    """A code that was used up, and whom it invited."""

    identity: str
    tenant: UUID


_INSERT_INVITATION = """
    INSERT INTO invitation (code_sha256, identity_id, tenant_id, created_at, expires_at) VALUES ($1, $2, $3, $4, $5)"""
_USE_INVITATION = """
    UPDATE invitation SET used_at = $2
    WHERE code_sha256 = $1 AND used_at IS NULL AND expires_at > $2
    RETURNING identity_id, tenant_id"""


async def insert_invitation(
    transaction: Transaction, code_sha256: bytes, identity: Identity, expires: datetime
) -> None:
    """Store an invitation by the hash of its code."""
    await transaction.execute(_INSERT_INVITATION, code_sha256, identity.id, identity.tenant, transaction.now, expires)


_INVITATION_IS_OPEN = """
    SELECT EXISTS (SELECT FROM invitation WHERE code_sha256 = $1 AND used_at IS NULL AND expires_at > $2)"""


async def invitation_is_open(transaction: Transaction, code_sha256: bytes) -> bool:
    """Tell whether an invitation can still be used."""
    return bool(await transaction.fetchval(_INVITATION_IS_OPEN, code_sha256, transaction.now))


async def use_invitation(transaction: Transaction, code_sha256: bytes) -> Invitation | None:
    """Use up an invitation: of a hundred at once, one gets it."""
    row = await transaction.fetchrow(_USE_INVITATION, code_sha256, transaction.now)
    return Invitation(row["identity_id"], row["tenant_id"]) if row else None


_ACTIVATE = "UPDATE identity SET status = 'active' WHERE id = $1 AND status = 'invited'"


async def activate(transaction: Transaction, identity: str) -> bool:
    """Make an invited identity active; tell whether it was invited."""
    return bool(await transaction.execute(_ACTIVATE, identity))


def _credential_from(row: Row) -> Credential:
    return Credential(
        id=row["id"],
        identity=row["identity_id"],
        tenant=row["tenant_id"],
        kind=CredentialKind(row["kind"]),
        created=row["created_at"],
        last_used=row["last_used_at"],
        expires=row["expires_at"],
        revoked=row["revoked_at"],
        public_key=row["public_key"],
        password_hash=row["password_hash"],
    )

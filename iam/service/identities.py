"""Identities: inviting, signing up, suspending, deleting, and the roles they hold.

The rules:

1. An identity is made by an invitation: its code is shown once, stored as a hash, and works once.
2. People complete it with a password (`sign_up`), machines with a public key (`challenge`).
3. Nobody changes himself, and nobody changes somebody who holds what he does not.
"""

import hashlib
import secrets
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from uuid import UUID

from iam.access import Access
from iam.errors import conflict, not_found, unauthenticated
from iam.events import affects_identity
from iam.grants import check_hands_out, check_scope, check_type
from iam.identifiers import Clock, Random, identity_id, identity_name, uuid7
from iam.model import (
    NONE,
    PEOPLE,
    STARTS_WITH_NO_DEVICES,
    Credential,
    CredentialKind,
    DeviceStatus,
    Identity,
    IdentityStatus,
    IdentityType,
    Role,
    Scope,
    Tenant,
)
from iam.paging import Page, PageQuery
from iam.passwords import PasswordHasher, check_password_policy
from iam.service.throttle import by_address, charge
from iam.store import devices, identities, tenants
from iam.store.database import EVERYWHERE, Change, Database, Transaction

INVITATION_LIFETIME = timedelta(days=7)
ROOT = "root"
"""The name of the first identity (`iam.service.foundation`) and of its role."""

_CODE_BYTES = 20


@dataclass(frozen=True, slots=True)
class Invited:
    """A new identity and the code that completes it; the code exists nowhere else."""

    identity: Identity
    code: str
    expires: datetime


@dataclass(frozen=True, slots=True)
class Holder:
    """An identity and the names of the roles it holds."""

    identity: Identity
    roles: tuple[str, ...]


class IdentityService:
    """Identities."""

    def __init__(self, database: Database, passwords: PasswordHasher, clock: Clock, random: Random) -> None:
        self._database = database
        self._passwords = passwords
        self._clock = clock
        self._random = random

    async def invite(
        self, access: Access, tenant: Tenant, role_name: str, name: str, type_: IdentityType, scope: Scope
    ) -> Invited:
        """Make an identity with a role, and the code with which it completes itself.

        Raises:
            Refused: As for `creation`.
        """
        code = secrets.token_urlsafe(_CODE_BYTES)
        creation = self.creation(access, tenant, role_name, name, type_, scope, status=IdentityStatus.INVITED)
        async with creation as (transaction, identity):
            expires = transaction.now + INVITATION_LIFETIME
            await identities.insert_invitation(transaction, _hash(code), identity, expires)
        return Invited(identity, code, expires)

    @asynccontextmanager
    async def creation(
        self,
        access: Access,
        tenant: Tenant,
        role_name: str,
        name: str,
        type_: IdentityType,
        scope: Scope,
        *,
        status: IdentityStatus,
    ) -> AsyncIterator[tuple[Transaction, Identity]]:
        """Make an identity with a role: gives the transaction in which it gets its invitation or first credential.

        Raises:
            Refused: (not found) The role. (forbidden) The caller may not hand it out. (conflict) The name is taken.
        """
        check_type(access, tenant, type_)
        check_scope(access, tenant, _starting_scope(type_, scope))
        now = self._clock()
        identity = Identity(
            id=identity_id(now, self._random),
            type=type_,
            tenant=tenant.id,
            name=identity_name(name),
            status=status,
            scope=_starting_scope(type_, scope),
            device=None,
            created=now,
        )
        async with self._database.transaction(tenant.id) as transaction:
            role = await tenants.role_by_name(transaction, tenant.id, role_name)
            check_hands_out(access, tenant, [role], identity.scope)
            await identities.insert_identity(transaction, identity)
            await identities.give_role(transaction, identity.id, role.id, tenant.id)
            data: dict[str, object] = {"type": type_, "name": name, "role": role.name}
            kind = "identity.invited" if status is IdentityStatus.INVITED else "identity.registered"
            await self._record(transaction, access, identity, kind, data)
            yield transaction, identity

    async def sign_up(self, name: str, code: str, password: str, address: str) -> None:
        """Complete an invitation with a password.

        Raises:
            Refused: (malformed) The password is against the policy. (unauthenticated) The code does not hold, or is
                for another name or for a machine. (throttled) Too many codes from this address did not hold, or
                too many passwords are being hashed.
        """
        check_password_policy(password, name=name)
        await self._check_code_is_open(code, address)
        hashed = await self._passwords.hash(password)
        async with self.completion(code) as (transaction, identity):
            if identity.name.lower() != name.lower():
                raise unauthenticated(f"the code invites {identity.name}, not the name that was sent")
            if identity.type not in PEOPLE:
                raise unauthenticated(f"the code invites a {identity.type}, which has no password")
            await identities.insert_credential(
                transaction,
                Credential(
                    id=uuid7(transaction.now, self._random),
                    identity=identity.id,
                    tenant=identity.tenant,
                    kind=CredentialKind.PASSWORD,
                    created=transaction.now,
                    password_hash=hashed,
                ),
            )

    async def _check_code_is_open(self, code: str, address: str) -> None:
        """Refuse what cannot hold before any work is done for it; whether a code holds is decided when it is used."""
        # Everywhere: whose tenant it is, the code says.
        async with self._database.transaction(EVERYWHERE) as transaction:
            if await identities.invitation_is_open(transaction, _hash(code)):
                return
            await charge(transaction, [by_address(address)])
        raise unauthenticated(f"an invitation code from {address} that is unknown, used or expired")

    @asynccontextmanager
    async def completion(self, code: str) -> AsyncIterator[tuple[Transaction, Identity]]:
        """Use up an invitation: gives the transaction in which the new identity gets its first credential.

        Raises:
            Refused: (unauthenticated) The code is unknown, used or expired; or whatever ends the transaction, and
                then the code can still be used.
        """
        # Everywhere: whose tenant it is, the code says.
        async with self._database.transaction(EVERYWHERE) as transaction:
            invitation = await identities.use_invitation(transaction, _hash(code))
            if invitation is None:
                raise unauthenticated("an invitation code that is unknown, used or expired")
            identity = await identities.identity_by_id(transaction, invitation.identity)
            if not await identities.activate(transaction, identity.id):
                raise unauthenticated(f"identity {identity.id} is {identity.status}, not invited")
            await transaction.record(
                Change(identity.tenant, identity.id, "identity.activated", identity.id, affects_identity(identity.id))
            )
            yield transaction, identity

    async def get(self, tenant: Tenant, identity: str) -> Holder:
        """Return an identity by id or name; raise `Refused` (not found)."""
        async with self._database.transaction(tenant.id) as transaction:
            found = await identities.identity_by_id_or_name(transaction, tenant.id, identity)
            return Holder(found, tuple(await identities.role_names(transaction, found.id)))

    async def page(self, tenant: Tenant, query: PageQuery, role_name: str | None) -> Page[Identity]:
        """Return a tenant's identities, all or the holders of a role."""
        async with self._database.transaction(tenant.id) as transaction:
            role = await tenants.role_by_name(transaction, tenant.id, role_name) if role_name else None
            return await identities.list_identities(transaction, tenant.id, query, role.id if role else None)

    async def change(
        self,
        access: Access,
        tenant: Tenant,
        identity: str,
        status: IdentityStatus | None,
        change_scope: Callable[[Scope], Scope],
    ) -> Holder:
        """Suspend or reactivate an identity, or change its scope; its connections are looked at again.

        Raises:
            Refused: (not found) There is none. (forbidden) It holds what the caller does not. (conflict) It is the
                caller himself, or an invited one that would skip its invitation.
        """
        async with self._database.transaction(tenant.id) as transaction:
            found, roles = await self._changeable(transaction, access, tenant, identity)
            await _check_step(transaction, found, status)
            changed = replace(found, status=status or found.status, scope=change_scope(found.scope))
            if changed.scope != found.scope:
                check_scope(access, tenant, changed.scope)
                check_hands_out(access, tenant, roles, changed.scope)
            await identities.update_identity(transaction, changed)
            kind = f"identity.{changed.status}" if status else "identity.updated"
            await self._record(transaction, access, changed, kind, affects_identity(changed.id))
        return Holder(changed, tuple(role.name for role in roles))

    async def delete(self, access: Access, tenant: Tenant, identity: str) -> None:
        """Delete an identity: its credentials end at once; its id stays in the audit.

        Raises:
            Refused: As for `change`; (conflict) also for a device's, which goes with its device.
        """
        async with self._database.transaction(tenant.id) as transaction:
            found, _ = await self._changeable(transaction, access, tenant, identity)
            if found.device is not None:
                raise conflict("This is a device's identity: decommission and delete the device.")
            await identities.delete_identity(transaction, found.id)
            await self._record(transaction, access, found, "identity.deleted", affects_identity(found.id))

    async def give_role(self, access: Access, tenant: Tenant, identity: str, role_name: str) -> Holder:
        """Give a role to an identity; raise `Refused` as for `change`, or where the caller may not hand it out."""
        async with self._database.transaction(tenant.id) as transaction:
            found, roles = await self._changeable(transaction, access, tenant, identity)
            role = await tenants.role_by_name(transaction, tenant.id, role_name)
            check_hands_out(access, tenant, [role], found.scope)
            if await identities.give_role(transaction, found.id, role.id, tenant.id):
                await self._record(
                    transaction, access, found, "identity.role_given", {"role": role.name, **affects_identity(found.id)}
                )
        return Holder(found, tuple(sorted({role_name, *(held.name for held in roles)})))

    async def take_role(self, access: Access, tenant: Tenant, identity: str, role_name: str) -> None:
        """Take a role from an identity; raise `Refused` as for `change`, or (not found) where it does not hold it."""
        async with self._database.transaction(tenant.id) as transaction:
            found, _ = await self._changeable(transaction, access, tenant, identity)
            role = await tenants.role_by_name(transaction, tenant.id, role_name)
            if not await identities.take_role(transaction, found.id, role.id):
                raise not_found(f"role {role.name} that {found.name} holds")
            await self._record(
                transaction, access, found, "identity.role_taken", {"role": role.name, **affects_identity(found.id)}
            )

    async def revoke_credential(self, access: Access, tenant: Tenant, identity: str, credential: UUID) -> None:
        """Revoke one credential; what was proved with it ends at once. Raise `Refused` (not found)."""
        async with self._database.transaction(tenant.id) as transaction:
            found, _ = await self._changeable(transaction, access, tenant, identity)
            await identities.revoke_credential(transaction, credential, found.id)
            await identities.revoke_sessions(transaction, found.id)
            await self._record(
                transaction,
                access,
                found,
                "credential.revoked",
                {"credential": str(credential), **affects_identity(found.id)},
            )

    async def credentials(self, tenant: Tenant, identity: str) -> list[Credential]:
        """Return the live credentials of an identity; raise `Refused` (not found)."""
        async with self._database.transaction(tenant.id) as transaction:
            found = await identities.identity_by_id_or_name(transaction, tenant.id, identity)
            return await identities.list_credentials(transaction, found.id)

    async def _changeable(
        self, transaction: Transaction, access: Access, tenant: Tenant, identity: str
    ) -> tuple[Identity, list[Role]]:
        """Return an identity that the caller may change, and its roles (rule 3)."""
        found = await identities.identity_by_id_or_name(transaction, tenant.id, identity, to_change=True)
        if found.id == access.identity.id:
            raise conflict("Nobody changes himself.")
        if tenant.parent is None and found.name == ROOT:
            raise conflict("The first identity stays as it is: whoever can read a node's data folder relies on it.")
        roles = await tenants.roles_of(transaction, found.id)
        check_hands_out(access, tenant, roles, found.scope)
        return found, roles

    async def _record(
        self, transaction: Transaction, access: Access, identity: Identity, kind: str, data: dict[str, object]
    ) -> None:
        await transaction.record(Change(identity.tenant, access.identity.id, kind, identity.id, data))


async def _check_step(transaction: Transaction, identity: Identity, wanted: IdentityStatus | None) -> None:
    """Raise `Refused` (conflict) unless an administrator may bring the identity there: active <-> suspended."""
    if wanted is None or wanted is identity.status:
        return
    if identity.status is IdentityStatus.INVITED:
        raise conflict("An invited identity becomes active by its own proof; to take the invitation back, delete it.")
    if wanted is IdentityStatus.ACTIVE and identity.device is not None:
        device = await devices.device_by_identifier(transaction, identity.tenant, identity.device)
        if device.status is DeviceStatus.DECOMMISSIONED:
            raise conflict(f"Device {device.identifier} is decommissioned; that is final.")


def _starting_scope(type_: IdentityType, scope: Scope) -> Scope:
    if scope.devices is None and type_ in STARTS_WITH_NO_DEVICES:
        return replace(scope, devices=NONE)
    return scope


def _hash(code: str) -> bytes:
    return hashlib.sha256(code.encode()).digest()

"""Enrolment profiles as operators see them: making, changing and deleting them.

The rules:

1. A label is one of the whole deployment, since it stands in the path; its profile belongs to one tenant.
2. Whoever makes a profile gives its role to devices; so he must hold what the role holds (`iam.grants`).
3. The profile `default` can be changed and not deleted.
4. A device is bound to a bootstrap certificate by its key, which may be certified again, or by its issuer's key and its
   serial number (which is unique for one issuer only, RFC 5280 4.1.2.2), or by both; binding it again replaces that.
"""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from ca.authorities import Authorities
from ca.inventory import AuthorityKind
from est.profiles import DEFAULT_LABEL, EnrolmentProfile
from est.store.profiles import (
    BootstrapBinding,
    bind_bootstrap,
    delete_profile,
    find_profile,
    insert_profile,
    list_profiles,
    update_profile,
)
from iam.access import Access
from iam.errors import conflict, not_found
from iam.grants import check_hands_out
from iam.identifiers import Clock, Random, uuid7
from iam.model import NONE, Scope, Tenant
from iam.paging import Page, PageQuery
from iam.store.database import Change, Database, Transaction
from iam.store.devices import device_by_identifier
from iam.store.tenants import role_by_name


class ProfileService:
    """Enrolment profiles."""

    def __init__(self, database: Database, authorities: Authorities, clock: Clock, random: Random) -> None:
        self._database = database
        self._authorities = authorities
        self._clock = clock
        self._random = random

    async def create(self, access: Access, tenant: Tenant, settings: Mapping[str, Any]) -> EnrolmentProfile:
        """Make a profile of `settings`: the attributes of `EnrolmentProfile` that an operator chooses.

        Raises:
            Refused: (conflict) The label is taken. (not found) The tenant has no such role. (forbidden) The role holds
                what the caller does not.
        """
        now = self._clock()
        profile = EnrolmentProfile(
            id=uuid7(now, self._random),
            tenant=tenant.id,
            authority=self._authorities.current(AuthorityKind.ISSUING).id,
            created=now,
            **settings,
        )
        async with self._database.transaction(tenant.id) as transaction:
            await _check_role(transaction, access, tenant, profile)
            await insert_profile(transaction, profile)
            await transaction.record(_change(access, profile, "created"))
        return profile

    async def get(self, tenant: Tenant, name: str) -> EnrolmentProfile:
        """Return a profile; raise `Refused` (not found) if the tenant has no such one."""
        async with self._database.transaction(tenant.id) as transaction:
            return await _found(transaction, tenant, name)

    async def page(self, tenant: Tenant, query: PageQuery) -> Page[EnrolmentProfile]:
        """Return a tenant's profiles, by name."""
        async with self._database.transaction(tenant.id) as transaction:
            return await list_profiles(transaction, tenant.id, query)

    async def change(self, access: Access, tenant: Tenant, name: str, settings: Mapping[str, Any]) -> EnrolmentProfile:
        """Change what `settings` names; errors as for `create`."""
        async with self._database.transaction(tenant.id) as transaction:
            profile = replace(await _found(transaction, tenant, name), **settings)
            await _check_role(transaction, access, tenant, profile)
            await update_profile(transaction, profile)
            await transaction.record(_change(access, profile, "updated"))
        return profile

    async def delete(self, access: Access, tenant: Tenant, name: str) -> None:
        """Delete a profile; what was enrolled under it stays, and can renew under another, by the strictest rules."""
        if name == DEFAULT_LABEL:
            raise conflict("The default profile can be changed and not deleted.")
        async with self._database.transaction(tenant.id) as transaction:
            profile = await _found(transaction, tenant, name)
            await delete_profile(transaction, profile.id)
            await transaction.record(_change(access, profile, "deleted"))

    async def bind(self, access: Access, tenant: Tenant, device: str, binding: BootstrapBinding) -> None:
        """Bind a registered device to one bootstrap certificate; raise `Refused` (not found) if it is not there."""
        async with self._database.transaction(tenant.id) as transaction:
            await device_by_identifier(transaction, tenant.id, device)
            await bind_bootstrap(transaction, device, tenant.id, binding)
            named = binding.certificate
            data = {
                "spki_sha256": binding.spki_sha256.hex() if binding.spki_sha256 else None,
                "issuer_spki_sha256": named.issuer_spki_sha256.hex() if named else None,
                "serial": named.serial.hex() if named else None,
            }
            await transaction.record(Change(tenant.id, access.identity.id, "device.bound", device, data))


async def _found(transaction: Transaction, tenant: Tenant, name: str) -> EnrolmentProfile:
    found = await find_profile(transaction, name)
    if found is None or found.tenant != tenant.id:
        raise not_found(f"enrolment profile {name}")
    return found


async def _check_role(transaction: Transaction, access: Access, tenant: Tenant, profile: EnrolmentProfile) -> None:
    role = await role_by_name(transaction, tenant.id, profile.role_name)
    check_hands_out(access, tenant, [role], Scope(devices=NONE))  # a device starts with no devices


def _change(access: Access, profile: EnrolmentProfile, what: str) -> Change:
    return Change(profile.tenant, access.identity.id, f"enrolment_profile.{what}", profile.name)

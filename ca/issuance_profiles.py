"""Issuance profiles as operators see them: those that come with the program, and their own.

The rules:

1. The packaged ones are everybody's and read-only; their ids are their names. One that an operator writes belongs to
   one tenant and can be used by that and those below; its id is a UUID.
2. A profile is stored as it was read strictly (`certs.profile`): what does not make sense is never stored.
3. One that a label or an authority uses is not deleted, and does not change what kind of certificate it makes: whose
   names it says, and whether it is an authority's.
4. A change counts for certificates that are issued from then on, on every node within a second.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from uuid import UUID

from ca.authorities import Authorities
from ca.store.issuance_profiles import (
    StoredProfile,
    delete_profile,
    insert_profile,
    lock_profile,
    page_of_profiles,
    update_profile,
    use_of_profile,
)
from certs.errors import ProfileRefused
from certs.profile import Profile, packaged_profiles, read_profile
from iam.access import Access
from iam.errors import Kind, Refused, conflict, malformed, not_found
from iam.identifiers import Clock, Random, uuid7
from iam.listing import ListQuery
from iam.model import Tenant
from iam.paging import Page
from iam.store.database import EVERYWHERE, Change, Database


@dataclass(frozen=True, slots=True)
class IssuanceProfile:
    """A profile with what stands beside it; `stored` is None for the packaged ones."""

    id: str
    profile: Profile
    stored: StoredProfile | None


class IssuanceProfiles:
    """Makes profiles and changes them."""

    def __init__(self, database: Database, authorities: Authorities, clock: Clock, random: Random) -> None:
        self._database = database
        self._authorities = authorities
        self._clock = clock
        self._random = random

    async def page(self, tenant: Tenant, query: ListQuery) -> Page[IssuanceProfile]:
        """Return a page of the packaged profiles and a tenant's own; errors as for `iam.listing.read_query`."""
        await self._authorities.refresh()
        async with self._database.transaction(tenant.id) as transaction:
            page = await page_of_profiles(transaction, tenant.id, tuple(packaged_profiles()), query)
        found = [self._found(tenant, identifier) for identifier in page.items]
        return Page(tuple(found), page.next)

    async def get(self, tenant: Tenant, identifier: str) -> IssuanceProfile:
        """Return a profile; raise `Refused` (not found) if the tenant has no such one."""
        await self._authorities.refresh()
        return self._found(tenant, identifier)

    async def create(
        self, access: Access, tenant: Tenant, name: str, description: str, settings: Mapping[str, Any]
    ) -> IssuanceProfile:
        """Make a profile; raise `Refused` (invalid) if it makes no sense, (conflict) if the name is taken."""
        now = self._clock()
        one = StoredProfile(uuid7(now, self._random), tenant.id, _checked_name(name), description, settings, now)
        _sound(settings)
        async with self._database.transaction(tenant.id) as transaction:
            await insert_profile(transaction, one)
            await transaction.record(_change(access, one, "created"))
        return await self.get(tenant, str(one.id))

    async def replace(
        self,
        access: Access,
        tenant: Tenant,
        identifier: str,
        name: str,
        description: str,
        settings: Mapping[str, Any],
    ) -> IssuanceProfile:
        """Replace what a profile says; errors as for `create`, and (conflict) by rule 3."""
        fresh = _sound(settings)
        used_by = await self._used_by(tenant, identifier)
        async with self._database.transaction(tenant.id) as transaction:
            old = await lock_profile(transaction, self._own(tenant, identifier))
            if old is None:
                raise not_found("such issuance profile")
            if used_by is not None and _kind(read_profile(old.settings)) != _kind(fresh):
                raise conflict(f"It is used by {used_by}: what kind of certificate it makes stays.")
            one = StoredProfile(old.id, old.tenant, _checked_name(name), description, settings, old.created)
            await update_profile(transaction, one)
            await transaction.record(_change(access, one, "updated"))
        return await self.get(tenant, identifier)

    async def delete(self, access: Access, tenant: Tenant, identifier: str) -> None:
        """Delete a profile; raise `Refused` (conflict) if something uses it."""
        used_by = await self._used_by(tenant, identifier)
        if used_by is not None:
            raise conflict(f"It is used by {used_by}.")
        async with self._database.transaction(tenant.id) as transaction:
            old = await lock_profile(transaction, self._own(tenant, identifier))
            if old is None:
                raise not_found("such issuance profile")
            await delete_profile(transaction, old.id)
            await transaction.record(_change(access, old, "deleted"))
        await self._authorities.refresh()

    async def _used_by(self, tenant: Tenant, identifier: str) -> str | None:
        own = self._own(tenant, identifier)
        async with self._database.transaction(EVERYWHERE) as transaction:  # tenants below may use it
            return await use_of_profile(transaction, own)

    def _own(self, tenant: Tenant, identifier: str) -> UUID:
        if identifier in packaged_profiles():
            raise conflict("The profile comes with the program: make another one of your own.")
        stored = self._authorities.stored_profile(identifier)
        if stored is None or stored.tenant != tenant.id:
            raise not_found("such issuance profile")
        return stored.id

    def _found(self, tenant: Tenant, identifier: str) -> IssuanceProfile:
        stored = self._authorities.stored_profile(identifier)
        if stored is not None and stored.tenant not in tenant.path:
            raise not_found("such issuance profile")
        try:
            return IssuanceProfile(identifier, self._authorities.profile(identifier), stored)
        except ProfileRefused as refused:
            raise not_found("such issuance profile") from refused


def _sound(settings: Mapping[str, Any]) -> Profile:
    try:
        return read_profile(settings)
    except ProfileRefused as refused:
        raise Refused(Kind.INVALID, f"The profile makes no sense: {refused.reason}.") from refused


def _checked_name(name: str) -> str:
    if not name.strip() or not name.isprintable():
        raise malformed("A profile has a name.", name="printable text")
    return name


def _kind(profile: Profile) -> tuple[object, ...]:
    return profile.is_authority, profile.subject, profile.subject_alternative_name


def _change(access: Access, one: StoredProfile, what: str) -> Change:
    data = {"name": one.name}
    return Change(one.tenant, access.identity.id, f"issuance_profile.{what}", str(one.id), data)

"""Authorities as operators look for them: lists, what is noted of each, statistics; and who had what signed."""

from datetime import datetime

from ca.authorities import Authorities
from ca.authority import Authority
from ca.signing import SigningAlgorithm
from ca.store.authority_lists import (
    AuthorityDetails,
    Counted,
    count_authorities,
    count_certificates,
    find_details,
    page_of_authorities,
)
from ca.store.authority_requests import AuthorityRequest, page_of_requests
from iam.access import Access
from iam.identifiers import Clock
from iam.listing import ListQuery
from iam.model import Tenant
from iam.paging import Page
from iam.store.database import Change, Database


class AuthorityRegister:
    """What is told about a tenant's authorities."""

    def __init__(self, database: Database, authorities: Authorities, clock: Clock) -> None:
        self._database = database
        self._authorities = authorities
        self._clock = clock

    @property
    def now(self) -> datetime:
        """The moment that states are told for."""
        return self._clock()

    async def page(self, tenant: Tenant, query: ListQuery, common_name: str | None) -> Page[AuthorityDetails]:
        """Return a page of authorities, each by its newest key; errors as for `iam.listing.read_query`."""
        await self._authorities.refresh()  # what is listed is held
        async with self._database.transaction(tenant.id) as transaction:
            return await page_of_authorities(transaction, tenant.id, query, common_name)

    async def details(self, tenant: Tenant, one: Authority) -> AuthorityDetails:
        """Return what is noted about an authority; raise `Refused` (not found) if the tenant has no such one."""
        async with self._database.transaction(tenant.id) as transaction:
            return await find_details(transaction, one.id, tenant.id)

    async def page_of_requests(self, tenant: Tenant, query: ListQuery) -> Page[AuthorityRequest]:
        """Return a page of requests; errors as for `page`."""
        async with self._database.transaction(tenant.id) as transaction:
            return await page_of_requests(transaction, tenant.id, query)

    async def count(self, tenant: Tenant) -> tuple[list[Counted], list[Counted]]:
        """Count a tenant's authorities and its certificates."""
        await self._authorities.refresh()
        async with self._database.transaction(tenant.id) as transaction:
            cas = await count_authorities(transaction, tenant.id)
            return cas, await count_certificates(transaction, tenant.id, None)

    async def count_issued(self, tenant: Tenant, one: Authority) -> list[Counted]:
        """Count the certificates that all keys of an authority issued for the tenant."""
        line = [each.id for each in self._authorities.generations(one.id)]
        async with self._database.transaction(tenant.id) as transaction:
            return await count_certificates(transaction, tenant.id, line)

    async def note_signature(self, access: Access, one: Authority, algorithm: SigningAlgorithm) -> None:
        """Leave a line about a signature, before anybody has it."""
        async with self._database.transaction(one.tenant) as transaction:
            data = {"id": str(one.id), "algorithm": algorithm.value}
            await transaction.record(Change(one.tenant, access.identity.id, "authority.signed", one.name, data))

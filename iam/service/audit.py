"""The audit: chaining what waits, reading it, and checking that nothing in it was changed."""

from iam.model import Tenant
from iam.paging import Page, PageQuery
from iam.store.database import EVERYWHERE, Database
from iam.store.journal import FIRST, AuditLine, audit_after, chain_pending, check_line, page_of_audit

_BATCH = 1000


class AuditService:
    """The audit."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def chain(self) -> int:
        """Chain what waits: a job of one node. Return how many lines."""
        total = 0
        while True:
            # Everywhere: there is one chain for all tenants.
            async with self._database.transaction(EVERYWHERE) as transaction:
                chained = await chain_pending(transaction, _BATCH)
            total += chained
            if chained < _BATCH:
                return total

    async def page(self, tenant: Tenant, query: PageQuery) -> Page[AuditLine]:
        """Return a tenant's lines, oldest first."""
        async with self._database.transaction(tenant.id) as transaction:
            return await page_of_audit(transaction, tenant.id, query)

    async def check(self) -> tuple[int, int | None]:
        """Follow the chain from its first line; return how many lines hold, and which one does not, if any."""
        previous, sequence = FIRST, 0
        while True:
            async with self._database.transaction(EVERYWHERE) as transaction:
                lines = await audit_after(transaction, sequence, _BATCH)
            if not lines:
                return sequence, None
            for line in lines:
                if not check_line(line, previous, sequence + 1):
                    return sequence, line.sequence
                previous, sequence = line.hash, line.sequence

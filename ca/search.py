"""Certificates as operators look for them: their standing, lists of them, and what is kept beside each.

The rules:

1. A certificate has one standing, which follows from its status and the clock: revoked (also while it is held, which
   its reason says), else expired, else inactive (renewed: its successor is in force), else active.
2. A caller sees the certificates of the devices that his grants for `ca.certificates` reach. Those that name no device
   (servers') are seen only by callers whose grants reach every device of the tenant. What is not seen is not found.
3. What is kept beside a certificate is changed by JSON Patch, all of it or nothing, and changes no certificate.
"""

from collections.abc import Sequence
from datetime import datetime
from enum import StrEnum
from uuid import UUID

from ca.inventory import CertificateStatus, StoredCertificate
from ca.store.certificate_lists import list_certificates
from ca.store.certificates import find_certificate, lock_certificate, set_metadata
from iam.errors import not_found
from iam.identifiers import Clock
from iam.json_patch import Operation, apply_patch
from iam.listing import ListQuery
from iam.model import Extent
from iam.paging import Page
from iam.store.database import Change, Database, Everywhere


class Standing(StrEnum):
    """What a certificate is good for now, in the words of Lamassu's API."""

    ACTIVE = "ACTIVE"
    EXPIRED = "EXPIRED"
    INACTIVE = "INACTIVE"
    """Renewed: its successor is in force."""
    REVOKED = "REVOKED"
    """For good, or on hold: the reason tells."""


def standing(one: StoredCertificate, now: datetime) -> Standing:
    """Return a certificate's standing (rule 1)."""
    if one.status in {CertificateStatus.REVOKED, CertificateStatus.HELD}:
        return Standing.REVOKED
    if one.not_after < now:
        return Standing.EXPIRED
    return Standing.INACTIVE if one.status is CertificateStatus.SUPERSEDED else Standing.ACTIVE


class CertificateSearch:
    """The inventory, for operators."""

    def __init__(self, database: Database, clock: Clock) -> None:
        self._database = database
        self._clock = clock

    @property
    def now(self) -> datetime:
        """The moment that standings are told for."""
        return self._clock()

    async def page(
        self, tenant: UUID, query: ListQuery, visible: Extent, *, authority: UUID | None = None
    ) -> Page[StoredCertificate]:
        """Return a page of a tenant's certificates, of one authority's if that is said.

        Raises:
            Refused: (malformed) The query does not fit the list. (invalid) It takes too long.
        """
        async with self._database.transaction(tenant) as transaction:
            return await list_certificates(transaction, tenant, query, visible, authority=authority)

    async def get(self, tenant: UUID | Everywhere, serial: bytes) -> StoredCertificate:
        """Return a certificate; raise `Refused` (not found) if the tenant has no such one."""
        async with self._database.transaction(tenant) as transaction:
            found = await find_certificate(transaction, serial)
        if found is None:
            raise not_found(f"certificate {serial.hex()}")
        return found

    async def patch_metadata(self, tenant: UUID, serial: bytes, patch: Sequence[Operation], *, actor: str) -> None:
        """Change what is kept beside a certificate.

        Raises:
            Refused: (not found) The tenant has no such certificate. (conflict) The patch does not fit what is there.
                (invalid) Its outcome cannot be kept.
        """
        async with self._database.transaction(tenant) as transaction:
            found = await lock_certificate(transaction, serial)
            await set_metadata(transaction, serial, apply_patch(found.metadata, patch))
            data = {"device": found.device}
            await transaction.record(Change(found.tenant, actor, "certificate.updated", serial.hex(), data))

"""Revoking, and telling everyone: the lists that are published.

The rules:

1. A revocation is acknowledged after its commit, and is in the next list of its authority: both take hold of the
   authority's row, so that a list is made either before a revocation or after it.
2. A new list is made when something was revoked since the last one, or at half of the last one's life. Its number is
   one more than the last one's, whoever makes it.
3. An authority whose key is not at hand publishes nothing new; its last list stands.
"""

from uuid import UUID

from ca.authorities import Authorities, Authority
from ca.crl import LIFE, OFFLINE_LIFE, RevocationList, build_revocation_list
from ca.inventory import AuthorityKind, CertificateStep, RevocationReason, StoredCertificate, next_status
from ca.store.certificates import (
    has_active_certificate,
    live_certificates,
    lock_certificate,
    release_certificate,
    revoke_certificate,
)
from ca.store.revocation_lists import (
    PublishedList,
    count_revocations,
    insert_list,
    latest_list,
    list_revoked,
    lock_revocations,
)
from iam.errors import conflict, not_found
from iam.events import affects_identity
from iam.identifiers import Clock
from iam.store.database import EVERYWHERE, Change, Database, Everywhere, Transaction

CERTIFICATE_REVOKED = "certificate.revoked"
CERTIFICATE_HELD = "certificate.held"
CERTIFICATE_RELEASED = "certificate.released"


class RevocationService:
    """Revokes certificates and publishes lists."""

    def __init__(self, database: Database, authorities: Authorities, clock: Clock) -> None:
        self._database = database
        self._authorities = authorities
        self._clock = clock

    async def revoke(
        self, tenant: UUID | Everywhere, serial: bytes, reason: RevocationReason, *, actor: str
    ) -> StoredCertificate:
        """Revoke a certificate, or hold it if that is the reason, and return it as it was.

        Raises:
            Refused: (not found) The tenant has no such certificate. (conflict) Its state does not let it.
        """
        async with self._database.transaction(tenant) as transaction:
            return await _revoke(transaction, serial, reason, actor)

    async def hold(self, tenant: UUID | Everywhere, serial: bytes, *, actor: str) -> StoredCertificate:
        """Take a certificate out of force until it is released, and return it as it was.

        Raises:
            Refused: (not found) The tenant has no such certificate. (conflict) It is not active.
        """
        return await self.revoke(tenant, serial, RevocationReason.CERTIFICATE_HOLD, actor=actor)

    async def release(self, tenant: UUID | Everywhere, serial: bytes, *, actor: str) -> StoredCertificate:
        """Put a certificate that is held into force again, and return it as it was.

        Raises:
            Refused: (not found) The tenant has no such certificate. (conflict) It is not held, or whom it proves has
                got another one meanwhile.
        """
        async with self._database.transaction(tenant) as transaction:
            found = await lock_certificate(transaction, serial)
            next_status(found.status, CertificateStep.RELEASE)
            if found.identity is not None and await has_active_certificate(transaction, found.identity):
                raise conflict("Another certificate has taken its place meanwhile: this one can only be revoked.")
            await release_certificate(transaction, found)
            data = {"device": found.device, "identity": found.identity}
            await transaction.record(Change(found.tenant, actor, CERTIFICATE_RELEASED, serial.hex(), data))
        return found

    async def withdraw(self, transaction: Transaction, identity: str, actor: str) -> None:
        """Revoke all that an identity has, in the transaction that takes its device out of service."""
        await self.revoke_all(transaction, identity, RevocationReason.CESSATION_OF_OPERATION, actor=actor)

    async def revoke_all(self, transaction: Transaction, identity: str, reason: RevocationReason, *, actor: str) -> int:
        """Revoke all that an identity has, or hold what of it is in force if that is the reason; return how many."""
        is_hold = reason is RevocationReason.CERTIFICATE_HOLD
        serials = await live_certificates(transaction, identity, only_active=is_hold)
        for serial in serials:
            await _revoke(transaction, serial, reason, actor)
        return len(serials)

    async def current_list(self, authority: Authority) -> RevocationList:
        """Return the newest list of an authority; raise `Refused` (not found) before there is one."""
        async with self._database.transaction(EVERYWHERE) as transaction:  # lists belong to no tenant
            found = await latest_list(transaction, authority.id)
        if found is None:
            raise not_found(f"revocation list of {authority.name}")
        return found.content

    async def publish_lists(self) -> int:
        """Make the lists that are due and return how many that were; for a job that runs every second or so."""
        made = 0
        for one in self._authorities.all:
            async with self._database.transaction(EVERYWHERE) as transaction:  # an authority serves every tenant
                if await self._is_due(transaction, one):
                    made += await self._publish(transaction, one)
        return made

    async def _is_due(self, transaction: Transaction, authority: Authority) -> bool:
        latest = await latest_list(transaction, authority.id)
        return self._is_outdated(latest, await count_revocations(transaction, authority.id))

    def _is_outdated(self, latest: PublishedList | None, revocations: int) -> bool:
        if latest is None or latest.revocations != revocations:
            return True
        return latest.content.is_past_half(self._clock())

    async def _publish(self, transaction: Transaction, authority: Authority) -> bool:
        able = self._authorities.with_root_key(authority)
        if able.signer is None:
            return False
        revocations = await lock_revocations(transaction, authority.id)
        latest = await latest_list(transaction, authority.id)
        if not self._is_outdated(latest, revocations):  # another node was first
            return False
        now = self._clock()
        ended_after = latest.content.this_update if latest else now
        content = build_revocation_list(
            authority.certificate,
            able.signer,
            await list_revoked(transaction, authority.id, ended_after),
            number=latest.content.number + 1 if latest else 1,
            now=now,
            life=OFFLINE_LIFE if authority.kind is AuthorityKind.ROOT else LIFE,
        )
        await insert_list(transaction, authority.id, content, revocations)
        return True


async def _revoke(transaction: Transaction, serial: bytes, reason: RevocationReason, actor: str) -> StoredCertificate:
    found = await lock_certificate(transaction, serial)
    is_hold = reason is RevocationReason.CERTIFICATE_HOLD
    next_status(found.status, CertificateStep.HOLD if is_hold else CertificateStep.REVOKE)
    await revoke_certificate(transaction, found, reason)
    data = {
        "reason": reason.value,
        "device": found.device,
        "identity": found.identity,
        **(affects_identity(found.identity) if found.identity else {}),
    }
    kind = CERTIFICATE_HELD if is_hold else CERTIFICATE_REVOKED
    await transaction.record(Change(found.tenant, actor, kind, serial.hex(), data))
    return found

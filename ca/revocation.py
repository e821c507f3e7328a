"""Revoking certificates, holding them, and releasing what is held.

The rules:

1. It is acknowledged after its commit, and is then in the next list of its authority (`ca.list_publishing`) and in
   every OCSP answer (`ca.responding`): the store notes it in the same transaction, whichever statement does it.
2. What is held authenticates nothing, as what is revoked. What is released does again, unless something else has taken
   its place meanwhile.
3. Whom it proved is told to everybody who keeps connections: what is connected by it is cut.
4. Of several, all are held before the first is revoked, in the one order of `iam.store.database`.
"""

from uuid import UUID

from ca.inventory import CertificateStep, RevocationReason, StoredCertificate, next_status
from ca.store.authorities import lock_issuers
from ca.store.certificates import (
    has_active_certificate,
    live_certificates,
    lock_certificate,
    release_certificate,
    revoke_certificate,
)
from iam.errors import conflict
from iam.events import affects_identity
from iam.store.database import Change, Database, Everywhere, Transaction, retried_once

CERTIFICATE_REVOKED = "certificate.revoked"
CERTIFICATE_HELD = "certificate.held"
CERTIFICATE_RELEASED = "certificate.released"


class RevocationService:
    """Revokes, holds and releases certificates."""

    def __init__(self, database: Database) -> None:
        self._database = database

    @retried_once
    async def revoke(
        self, tenant: UUID | Everywhere, serial: bytes, reason: RevocationReason, *, actor: str
    ) -> StoredCertificate:
        """Revoke a certificate, or hold it if that is the reason, and return it as it was.

        Raises:
            Refused: (not found) The tenant has no such certificate. (conflict) Its state does not let it.
        """
        async with self._database.transaction(tenant) as transaction:
            return await _revoke(transaction, await lock_certificate(transaction, serial), reason, actor)

    @retried_once
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
        found = [await lock_certificate(transaction, serial) for serial in serials]
        await lock_issuers(transaction, serials)
        for one in found:
            await _revoke(transaction, one, reason, actor)
        return len(found)


async def _revoke(
    transaction: Transaction, found: StoredCertificate, reason: RevocationReason, actor: str
) -> StoredCertificate:
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
    await transaction.record(Change(found.tenant, actor, kind, found.serial.hex(), data))
    return found

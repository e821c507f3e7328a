"""What falls with an authority, in the transaction that takes its trust away.

The rules:

1. To revoke an authority is to revoke its key: every certificate that was issued here for it and is not revoked yet is
   revoked for the same reason, also what a re-issue superseded, and the links of a rollover. What somebody elsewhere
   certified, he revokes; and an external authority's key is not its tenant's to revoke, if it is somebody's here.
2. They are held in the order of their serial numbers, and then their authorities in one order, before any is revoked:
   so two who revoke never wait for each other. Each is told of by an event. The lists and OCSP follow as for any other
   certificate (`ca.revocation`).
3. Whom its certificates, or those of an authority below it, may prove is told to everybody who keeps connections.
"""

from ca.authority import Authority, AuthorityOrigin
from ca.inventory import CertificateStatus, RevocationReason
from ca.revocation import CERTIFICATE_REVOKED
from ca.store.authorities import identities_below, lock_issuers
from ca.store.certificates import live_certificates_of_key, lock_certificate, revoke_certificate
from iam.events import affects_identity
from iam.store.database import Change, Transaction

_CUT_AT_ONCE = 500
"""Identities that one event tells of."""


async def revoke_key(transaction: Transaction, one: Authority, reason: RevocationReason, *, actor: str) -> None:
    """Revoke all certificates of a locked authority's key (rules 1 and 2)."""
    if one.origin is AuthorityOrigin.EXTERNAL:
        return
    serials = await live_certificates_of_key(transaction, one.spki_sha256)
    certificates = [await lock_certificate(transaction, serial) for serial in serials]
    await lock_issuers(transaction, serials)
    for found in certificates:
        if found.status is CertificateStatus.REVOKED:  # meanwhile, by somebody else
            continue
        await revoke_certificate(transaction, found, reason)
        data = {"reason": reason.value, "device": found.device, "identity": found.identity}
        await transaction.record(Change(found.tenant, actor, CERTIFICATE_REVOKED, found.serial.hex(), data))


async def cut_devices(transaction: Transaction, one: Authority, *, actor: str) -> None:
    """Tell whose connections do not stand any more (rule 3)."""
    identities = await identities_below(transaction, one.id)
    for start in range(0, len(identities), _CUT_AT_ONCE):
        affected = affects_identity(*identities[start : start + _CUT_AT_ONCE])
        await transaction.record(Change(one.tenant, actor, "certificate.distrusted", one.name, affected))

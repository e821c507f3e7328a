"""Deleting authorities: which may go, and what is remembered of them.

The rules:

1. One that is trusted goes if it signs nothing here (an external one) or no more (it has ended), and no label of its
   tenant, or of a tenant below, pins it: the label would go on believing it, and nobody would see whom.
2. One that was revoked, or stands below one that was, goes too. Its key stays distrusted (`ca.trust`, rule 3): labels
   may pin its certificate, and whoever has the key would be believed again.
3. One that was deactivated stays: whether its key is to be believed afterwards, nobody has said yet.
4. What it issued must stay revocable, and what stands below it must have something to stand on: whatever depends on it
   keeps it here.
"""

from datetime import datetime

from ca.authority import Authority, AuthorityOrigin, AuthorityStatus
from ca.inventory import stored_serial
from ca.store.authority_deletion import delete_with_key
from ca.store.authority_keys import insert_distrusted_key, pinned_by_labels
from ca.trust import DistrustedKey
from certs.chain import Anchor
from certs.pem import read_certificate
from iam.errors import conflict
from iam.store.database import Transaction


async def delete_authority(transaction: Transaction, one: Authority, now: datetime) -> None:
    """Delete a locked authority, in a transaction that sees every tenant.

    Raises:
        Refused: (conflict) It stays, by one of the rules.
    """
    if one.status is AuthorityStatus.INACTIVE:
        raise conflict("The authority is inactive. Activate it, or revoke it: a revoked key stays distrusted for good.")
    is_external = one.origin is AuthorityOrigin.EXTERNAL
    if one.is_trusted:
        await _check_is_not_needed(transaction, one, is_external=is_external, now=now)
    else:
        key = DistrustedKey(one.spki_sha256, one.tenant, not is_external, one.name, transaction.now)
        await insert_distrusted_key(transaction, key)
    await delete_with_key(transaction, one.id, stored_serial(one.certificate.serial_number))


async def _check_is_not_needed(transaction: Transaction, one: Authority, *, is_external: bool, now: datetime) -> None:
    if not is_external and not one.has_expired(now):
        raise conflict("Only an authority that was revoked, has ended, or whose key was never here, can be deleted.")
    for label, pinned in await pinned_by_labels(transaction, one.tenant):
        if any(Anchor.from_certificate(read_certificate(der)) == one.anchor for der in pinned):
            raise conflict(f"The label {label} pins it. Take it out there; or revoke it, so that no label believes it.")

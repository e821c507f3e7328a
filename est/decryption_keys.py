"""What keys that are made here are encrypted under on their way (RFC 7030 4.4.1), registered by operators.

The rules:

1. A decryption key belongs to one device, or to one label and so to all its devices; a device's own comes first.
2. It is a secret of 16, 24 or 32 bytes, or the certificate of a public key that keys may be encrypted to
   (`certs.cms.check_recipient`). Registering it again under the same identifier replaces it.
3. A secret is sealed under the node's master key, each in a context of its own, and never shown again.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime
from uuid import UUID

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from certs.pem import read_certificate
from est.store.decryption_keys import (
    KeyHolder,
    StoredDecryptionKey,
    count_decryption_keys,
    delete_decryption_key,
    find_decryption_key,
    list_decryption_keys,
    put_decryption_key,
)
from est.store.profiles import find_profile
from iam.access import Access
from iam.errors import conflict, not_found
from iam.identifiers import Clock, Random, uuid7
from iam.model import Tenant
from iam.sealing import MasterKey, open_sealed, seal
from iam.store.database import EVERYWHERE, Change, Database, Transaction
from iam.store.devices import device_by_identifier

KEYS_MAXIMUM = 64
"""How many one holder has."""


@dataclass(frozen=True)
class DecryptionKey:
    """A secret, or the certificate of a public key."""

    secret: bytes | None = field(default=None, repr=False)
    certificate: x509.Certificate | None = None


@dataclass(frozen=True, slots=True)
class ShownKey:
    """What may be seen of a decryption key."""

    identifier: bytes
    certificate: x509.Certificate | None
    created: datetime


class DecryptionKeys:
    """Decryption keys, as operators register them and as requests name them."""

    def __init__(self, database: Database, master: MasterKey, clock: Clock, random: Random) -> None:
        self._database = database
        self._master = master
        self._clock = clock
        self._random = random

    async def find(self, label: str, device: str, identifier: bytes) -> DecryptionKey | None:
        """Return the key that a device of a label calls by `identifier`, if there is one (rule 1)."""
        async with self._database.transaction(EVERYWHERE) as transaction:  # whose device it is, is not known yet
            stored = await find_decryption_key(transaction, label, device, identifier)
        if stored is None:
            return None
        if stored.certificate is not None:
            return DecryptionKey(certificate=read_certificate(stored.certificate))
        sealed = stored.secret_sealed or b""
        return DecryptionKey(secret=open_sealed(self._master, sealed, context=sealing_context(stored.id)))

    async def put(
        self, access: Access, tenant: Tenant, holder: KeyHolder, identifier: bytes, key: DecryptionKey
    ) -> None:
        """Register a key; raise `Refused` (not found) if the tenant has no such holder, (conflict) if it has enough."""
        now = self._clock()
        name = uuid7(now, self._random)
        if key.certificate is not None:
            stored = StoredDecryptionKey(name, identifier, None, key.certificate.public_bytes(Encoding.DER), now)
        else:
            sealed = seal(self._master, key.secret or b"", context=sealing_context(name), random=self._random)
            stored = StoredDecryptionKey(name, identifier, sealed, None, now)
        async with self._database.transaction(tenant.id) as transaction:
            await _check_holder(transaction, tenant, holder)
            await put_decryption_key(transaction, tenant.id, holder, stored)
            if await count_decryption_keys(transaction, holder) > KEYS_MAXIMUM:
                raise conflict(f"There are {KEYS_MAXIMUM} decryption keys already.")
            await transaction.record(_change(access, tenant, holder, identifier, "registered"))

    async def list(self, tenant: Tenant, holder: KeyHolder) -> Sequence[ShownKey]:
        """Return what a holder has, by identifier; raise `Refused` (not found) if the tenant has no such holder."""
        async with self._database.transaction(tenant.id) as transaction:
            await _check_holder(transaction, tenant, holder)
            stored = await list_decryption_keys(transaction, holder)
        return [
            ShownKey(one.identifier, read_certificate(one.certificate) if one.certificate else None, one.created)
            for one in stored
        ]

    async def delete(self, access: Access, tenant: Tenant, holder: KeyHolder, identifier: bytes) -> None:
        """Forget a key; raise `Refused` (not found) if there is no such holder or key."""
        async with self._database.transaction(tenant.id) as transaction:
            await _check_holder(transaction, tenant, holder)
            if not await delete_decryption_key(transaction, holder, identifier):
                raise not_found("such decryption key")
            await transaction.record(_change(access, tenant, holder, identifier, "deleted"))


async def _check_holder(transaction: Transaction, tenant: Tenant, holder: KeyHolder) -> None:
    if holder.device is not None:
        await device_by_identifier(transaction, tenant.id, holder.device)
        return
    profile = await find_profile(transaction, holder.label or "")
    if profile is None or profile.tenant != tenant.id:
        raise not_found(f"enrolment profile {holder.label}")


def sealing_context(name: UUID) -> str:
    """Return what binds a sealed secret to its row."""
    return f"decryption-key:{name}"


def _change(access: Access, tenant: Tenant, holder: KeyHolder, identifier: bytes, what: str) -> Change:
    data = {"label": holder.label, "device": holder.device}
    return Change(tenant.id, access.identity.id, f"decryption_key.{what}", identifier.hex(), data)

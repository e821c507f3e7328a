"""Giving a device the identity that a certificate of its proves, in SQL."""

from ca.inventory import StoredCertificate
from est.facts import KeyOwner
from iam.store.database import Transaction

_KEY_OWNER = """
    SELECT coalesce(
        (SELECT 'authority' WHERE EXISTS (SELECT FROM authority WHERE spki_sha256 = $1)
            OR EXISTS (SELECT FROM authority_standing WHERE external_spki_sha256 = $1)),
        (SELECT 'compromised' FROM certificate c WHERE c.spki_sha256 = $1 AND c.status = 'revoked'
            AND c.revocation_reason = 'keyCompromise' LIMIT 1),
        (SELECT CASE WHEN k.device_identifier = $2 THEN 'this' ELSE 'other' END
         FROM device_key k WHERE k.spki_sha256 = $1),
        'nobody')"""


async def key_owner(transaction: Transaction, spki_sha256: bytes, device: str) -> KeyOwner:
    """Return whose a public key is, as far as this transaction sees."""
    return KeyOwner(await transaction.fetchval(_KEY_OWNER, spki_sha256, device))


_KEY = """
    INSERT INTO device_key (spki_sha256, device_identifier, tenant_id, first_seen_at)
    VALUES ($1, $2, $3, $4) ON CONFLICT (spki_sha256) DO NOTHING"""
_CERTIFICATE = "UPDATE certificate SET identity_id = $2, device_identifier = $3 WHERE serial = $1"
_DEVICE = """
    UPDATE device SET identity_id = $2, status = 'ACTIVE', enrolment_profile = $3, replacement_allowed = false
    WHERE device_identifier = $1"""
_OWNS_KEY = "SELECT count(*) = 1 FROM device_key WHERE spki_sha256 = $1 AND device_identifier = $2"


async def give_identity(
    transaction: Transaction, certificate: StoredCertificate, device: str, identity: str, label: str
) -> bool:
    """Let a certificate prove an identity, and the device have it; tell whether the key is the device's."""
    await transaction.execute(_KEY, certificate.spki_sha256, device, certificate.tenant, transaction.now)
    await transaction.execute(_CERTIFICATE, certificate.serial, identity, device)
    await transaction.execute(_DEVICE, device, identity, label)
    # Another tenant's device may have had the key: that is behind the wall, and kept the first row from being written.
    owns: bool = await transaction.fetchval(_OWNS_KEY, certificate.spki_sha256, device)
    return owns

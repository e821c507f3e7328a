"""Binding identities: a certificate that was issued here for a device becomes the device's own.

So a device whose certificate was signed by an operator (and not by EST) is a device like any other: it connects, renews
and is revoked by it. The decision is `est.rules.decide_bind`; all of it is one transaction.
"""

from ca.authorities import Authorities
from ca.inventory import StoredCertificate
from ca.store.certificates import lock_certificate
from est.administration import found_profile
from est.profiles import DEFAULT_LABEL, EnrolmentProfile
from est.refusals import Refusal, Refuse
from est.rules import decide_bind
from est.store.identities import give_identity, key_owner
from iam.access import Access
from iam.errors import Kind, Refused
from iam.grants import check_hands_out
from iam.identifiers import Random, identity_id
from iam.model import NONE, Device, Identity, IdentityStatus, IdentityType, Scope, Tenant
from iam.store.database import Change, Database, Transaction
from iam.store.devices import device_by_identifier
from iam.store.identities import give_role, insert_identity
from iam.store.tenants import role_by_name


class IdentityBinder:
    """Binds identities to devices."""

    def __init__(self, database: Database, authorities: Authorities, random: Random) -> None:
        self._database = database
        self._authorities = authorities
        self._random = random

    async def bind(
        self, access: Access, tenant: Tenant, device: str, serial: bytes, label: str | None
    ) -> tuple[Device, StoredCertificate, EnrolmentProfile]:
        """Make a certificate the identity of a device, and return both as they are then, and the label.

        Args:
            label: Whose device it becomes; that for which it was registered, or the default one, if not said.

        Raises:
            Refused: (not found) The device, the certificate or the label. (conflict) They do not fit together.
                (forbidden) The label's role holds what the caller does not.
        """
        async with self._database.transaction(tenant.id) as transaction:
            known = await device_by_identifier(transaction, tenant.id, device, to_change=True)
            certificate = await lock_certificate(transaction, serial)
            profile = await found_profile(transaction, tenant, label or known.enrolment_profile or DEFAULT_LABEL)
            owner = await key_owner(transaction, certificate.spki_sha256, device)
            issuers = {one.id for one in self._authorities.generations(profile.authority)}
            decision = decide_bind(profile, issuers, known, certificate, owner, transaction.now)
            if isinstance(decision, Refuse):
                raise _conflict(decision)
            identity = await self._make_identity(transaction, access, tenant, profile, device)
            if not await give_identity(transaction, certificate, device, identity, profile.name):
                raise _conflict(Refuse(Refusal.KEY_TAKEN))
            data = {"identity": identity, "serial": serial.hex(), "label": profile.name}
            await transaction.record(Change(tenant.id, access.identity.id, "device.identity_bound", device, data))
            bound = await device_by_identifier(transaction, tenant.id, device)
            return bound, await lock_certificate(transaction, serial), profile

    async def _make_identity(
        self, transaction: Transaction, access: Access, tenant: Tenant, profile: EnrolmentProfile, device: str
    ) -> str:
        role = await role_by_name(transaction, tenant.id, profile.role_name)
        scope = Scope(devices=NONE)
        check_hands_out(access, tenant, [role], scope)
        identity = Identity(
            id=identity_id(transaction.now, self._random),
            type=IdentityType.DEVICE,
            tenant=tenant.id,
            name=device,
            status=IdentityStatus.ACTIVE,
            scope=scope,
            device=device,
            created=transaction.now,
        )
        await insert_identity(transaction, identity)
        await give_role(transaction, identity.id, role.id, tenant.id)
        return identity.id


def _conflict(refuse: Refuse) -> Refused:
    return Refused(Kind.CONFLICT, refuse.refusal.sentence, reason=refuse.as_error().reason)

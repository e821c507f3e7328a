"""Enrolment profiles as operators see them: making, changing and deleting them, and binding devices.

The rules:

1. A label is one of the whole deployment, since it stands in the path; its profile belongs to one tenant.
2. Whoever makes a profile gives its role to devices; so he must hold what the role holds (`iam.grants`).
3. The profile `default` can be changed and not deleted.
4. A device is bound to a bootstrap certificate by its key, which may be certified again, or by its issuer's key and its
   serial number (which is unique for one issuer only, RFC 5280 4.1.2.2), or by both; binding it again replaces that.
5. A webhook's secret is made here when there is none yet, or when a new one is asked for; it is shown then and never
   again. A webhook that is taken away takes its secret with it.
6. What a label wants revoked after a grace is revoked by a job, as soon as the grace is over.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from ca.inventory import RevocationReason
from ca.revocation import RevocationService
from est.authentication.webhook import SECRET_BYTES, secret_context, shown_secret
from est.profiles import DEFAULT_LABEL, EnrolmentProfile, check_profile
from est.store.enrolments import owed_revocations
from est.store.profiles import (
    BootstrapBinding,
    bind_bootstrap,
    count_profiles,
    delete_profile,
    find_binding,
    find_profile,
    insert_profile,
    page_of_profiles,
    unbind_bootstrap,
    update_profile,
)
from iam.access import Access
from iam.errors import Kind, Refused, conflict, not_found
from iam.grants import check_hands_out
from iam.identifiers import Clock, Random, uuid7
from iam.listing import ListQuery
from iam.model import NONE, Scope, Tenant
from iam.paging import Page
from iam.sealing import MasterKey, seal
from iam.store.database import EVERYWHERE, Change, Database, Transaction
from iam.store.devices import device_by_identifier
from iam.store.tenants import role_by_name

_NODE = "doorward"

Patched = Callable[[Mapping[str, object]], dict[str, Any]]
"""Makes new metadata of old."""

Revised = Callable[[EnrolmentProfile], Mapping[str, Any]]
"""Says which attributes of a profile are to be others, given what it says now; nobody else changes it meanwhile."""


@dataclass(frozen=True, slots=True)
class Changed:
    """A profile as it is now, and the secret of its webhook if one was just made."""

    profile: EnrolmentProfile
    webhook_secret: str | None = None


class ProfileService:
    """Enrolment profiles."""

    def __init__(
        self,
        database: Database,
        revocation: RevocationService,
        master_key: MasterKey,
        clock: Clock,
        random: Random,
    ) -> None:
        self._database = database
        self._revocation = revocation
        self._master_key = master_key
        self._clock = clock
        self._random = random

    async def create(self, access: Access, tenant: Tenant, settings: Mapping[str, Any]) -> Changed:
        """Make a profile of `settings`: the attributes of `EnrolmentProfile` that an operator chooses.

        Raises:
            Refused: (malformed) They do not fit together. (conflict) The label is taken. (not found) The tenant has no
                such role. (forbidden) The role holds what the caller does not.
        """
        now = self._clock()
        profile = EnrolmentProfile(id=uuid7(now, self._random), tenant=tenant.id, created=now, **settings)
        made = self._with_secret(profile)
        async with self._database.transaction(tenant.id) as transaction:
            await _check(transaction, access, tenant, made.profile)
            await insert_profile(transaction, made.profile)
            await transaction.record(_change(access, profile, "created"))
        return made

    async def get(self, tenant: Tenant, name: str) -> EnrolmentProfile:
        """Return a profile; raise `Refused` (not found) if the tenant has no such one."""
        async with self._database.transaction(tenant.id) as transaction:
            return await found_profile(transaction, tenant, name)

    async def page(self, tenant: Tenant, query: ListQuery) -> Page[EnrolmentProfile]:
        """Return a page of a tenant's profiles."""
        async with self._database.transaction(tenant.id) as transaction:
            return await page_of_profiles(transaction, tenant.id, query)

    async def count(self, tenant: Tenant) -> int:
        """Return how many profiles a tenant has."""
        async with self._database.transaction(tenant.id) as transaction:
            return await count_profiles(transaction, tenant.id)

    async def change(self, access: Access, tenant: Tenant, name: str, revised: Revised) -> Changed:
        """Change what `revised` says of the profile as it is, all of it or nothing; errors as for `create`."""
        async with self._database.transaction(tenant.id) as transaction:
            known = await found_profile(transaction, tenant, name, to_change=True)
            changed = self._with_secret(replace(known, **revised(known)))
            await _check(transaction, access, tenant, changed.profile)
            await update_profile(transaction, changed.profile)
            await transaction.record(_change(access, known, "updated"))
        return changed

    async def change_metadata(self, access: Access, tenant: Tenant, name: str, patched: Patched) -> EnrolmentProfile:
        """Change a profile's metadata; raise `Refused` (conflict) if the patch does not fit."""
        async with self._database.transaction(tenant.id) as transaction:
            known = await found_profile(transaction, tenant, name, to_change=True)
            profile = replace(known, metadata=patched(known.metadata))
            await update_profile(transaction, profile)
            await transaction.record(_change(access, profile, "updated"))
        return profile

    async def new_webhook_secret(self, access: Access, tenant: Tenant, name: str) -> str:
        """Make a new secret for a profile's webhook and return it; raise `Refused` (conflict) without a webhook."""
        async with self._database.transaction(tenant.id) as transaction:
            known = await found_profile(transaction, tenant, name, to_change=True)
            made = self._with_secret(replace(known, webhook_secret=b""))
            if made.webhook_secret is None:
                raise conflict("The label has no webhook.")
            await update_profile(transaction, made.profile)
            await transaction.record(_change(access, known, "webhook_secret_made"))
        return made.webhook_secret

    async def delete(self, access: Access, tenant: Tenant, name: str) -> None:
        """Delete a profile; what was enrolled under it stays, and can renew under another, by the strictest rules."""
        if name == DEFAULT_LABEL:
            raise conflict("The default profile can be changed and not deleted.")
        async with self._database.transaction(tenant.id) as transaction:
            profile = await found_profile(transaction, tenant, name)
            await delete_profile(transaction, profile.id)
            await transaction.record(_change(access, profile, "deleted"))

    async def bind(self, access: Access, tenant: Tenant, device: str, binding: BootstrapBinding) -> None:
        """Bind a registered device to one bootstrap certificate; raise `Refused` (not found) if it is not there."""
        async with self._database.transaction(tenant.id) as transaction:
            await device_by_identifier(transaction, tenant.id, device)
            await bind_bootstrap(transaction, device, tenant.id, binding)
            named = binding.certificate
            data = {
                "spki_sha256": binding.spki_sha256.hex() if binding.spki_sha256 else None,
                "issuer_spki_sha256": named.issuer_spki_sha256.hex() if named else None,
                "serial": named.serial.hex() if named else None,
            }
            await transaction.record(Change(tenant.id, access.identity.id, "device.bound", device, data))

    async def binding(self, tenant: Tenant, device: str) -> BootstrapBinding:
        """Return what a device is bound to; raise `Refused` (not found) if it is not bound."""
        async with self._database.transaction(tenant.id) as transaction:
            found = await find_binding(transaction, device, tenant.id)
        if found is None:
            raise not_found(f"binding of device {device}")
        return found

    async def unbind(self, access: Access, tenant: Tenant, device: str) -> None:
        """Take a device's binding away; raise `Refused` (not found) if it is not bound."""
        async with self._database.transaction(tenant.id) as transaction:
            if not await unbind_bootstrap(transaction, device, tenant.id):
                raise not_found(f"binding of device {device}")
            await transaction.record(Change(tenant.id, access.identity.id, "device.unbound", device))

    async def revoke_predecessors(self) -> int:
        """Revoke what labels want revoked and whose grace is over (rule 6); return how many: a job of one node."""
        async with self._database.transaction(EVERYWHERE) as transaction:  # every tenant's labels may want it
            owed = await owed_revocations(transaction)
        for serial in owed:
            try:
                await self._revocation.revoke(EVERYWHERE, serial, RevocationReason.SUPERSEDED, actor=_NODE)
            except Refused as refused:
                if refused.kind not in (Kind.CONFLICT, Kind.NOT_FOUND):  # somebody else has revoked it meanwhile
                    raise
        return len(owed)

    def _with_secret(self, profile: EnrolmentProfile) -> Changed:
        """Return the profile with a secret for its webhook, made if there was none (rule 5)."""
        if profile.settings.webhook is None:
            return Changed(replace(profile, webhook_secret=b""))
        if profile.webhook_secret:
            return Changed(profile)
        secret = self._random(SECRET_BYTES)
        sealed = seal(self._master_key, secret, context=secret_context(str(profile.id)), random=self._random)
        return Changed(replace(profile, webhook_secret=sealed), shown_secret(secret))


async def found_profile(
    transaction: Transaction, tenant: Tenant, name: str, *, to_change: bool = False
) -> EnrolmentProfile:
    """Return a tenant's profile; raise `Refused` (not found) if it has no such one."""
    found = await find_profile(transaction, name, to_change=to_change)
    if found is None or found.tenant != tenant.id:
        raise not_found(f"enrolment profile {name}")
    return found


async def _check(transaction: Transaction, access: Access, tenant: Tenant, profile: EnrolmentProfile) -> None:
    check_profile(profile)
    role = await role_by_name(transaction, tenant.id, profile.role_name)
    check_hands_out(access, tenant, [role], Scope(devices=NONE))  # a device starts with no devices


def _change(access: Access, profile: EnrolmentProfile, what: str) -> Change:
    return Change(profile.tenant, access.identity.id, f"enrolment_profile.{what}", profile.name)

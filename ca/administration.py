"""What operators do with authorities: making, re-issuing, a new key, and what becomes of them.

The rules:

1. An authority belongs to one tenant; for anybody else there is none (404).
2. Where it may stand and what its certificate holds is decided by `ca.hierarchy`, `ca.making` and a profile; the
   certificate is recorded with the authority, in one transaction. Keys are waited for before it, and what it stands on
   is asked again.
3. A re-issue gives the same key another period and changes nothing else. A rollover gives the line another key of the
   same name, which issues from then on, and links both (`ca.rollover`); the earlier one is trusted until it ends.
4. Revoking is for good: every certificate of its key comes into a list. Deactivating can be undone. After either, it
   issues nothing and is trusted nowhere, and what is connected by its certificates is cut (`ca.distrusting`).
5. What it issues ends when its profile says; or earlier, if the authority's own limit says so.
6. Which authority may be deleted, and what is remembered of it, is decided by `ca.deletion`.
"""

from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

from ca.authorities import Authorities
from ca.authority import Authority, AuthorityOrigin, AuthorityStatus, AuthorityStep, Links, next_status
from ca.deletion import delete_authority
from ca.distrusting import cut_devices, revoke_key
from ca.founding import DEFAULT_PROFILES, addresses_of
from ca.hierarchy import (
    authority_subject,
    check_stands_below,
    generation_name,
    line_name,
    path_length_below,
    profile_of_authority,
)
from ca.inventory import RevocationReason, stored_serial
from ca.issue import SERIAL_BYTES, Holder, encoded_key
from ca.keystore import Keystore
from ca.making import AuthorityMaking, holder_again, kind_below
from ca.publication import Publication
from ca.recording import record_issued
from ca.rollover import Generation, link
from ca.signers import in_turn
from ca.store.authorities import (
    StoredAuthority,
    authority_metadata,
    check_certificate,
    lock_authority,
    set_certificate,
    set_issuance,
    set_metadata,
    set_profile,
    set_serial,
    set_status,
    supersede,
)
from ca.wishes import KeyWish, Wish
from certs.errors import ProfileRefused
from certs.keys import key_algorithm, key_bits
from certs.pem import read_certificate
from certs.profile import Profile
from iam.access import Access
from iam.errors import Kind, Refused, conflict, not_found
from iam.identifiers import Clock, Random, uuid7
from iam.json_patch import Operation, apply_patch
from iam.model import Tenant
from iam.store.database import EVERYWHERE, Change, Collided, Database, retried_once

_MARK_BYTES = 4


class AuthorityAdministration:
    """Makes authorities and changes them."""

    def __init__(
        self,
        database: Database,
        authorities: Authorities,
        keystore: Keystore,
        clock: Clock,
        random: Random,
        publication: Publication,
        *,
        base_url: str | None,
    ) -> None:
        self._database = database
        self._authorities = authorities
        self._clock = clock
        self._random = random
        self._publication = publication
        self._base_url = base_url
        self._making = AuthorityMaking(database, authorities, keystore, clock, random)

    async def visible(self, tenant: Tenant, reference: str) -> Authority:
        """Return a tenant's authority by its line, name or id; raise `Refused` (not found) for any other (rule 1)."""
        found = await self._authorities.sought(reference)
        if found.tenant != tenant.id:
            raise not_found("such authority")
        return found

    # --- Making -----------------------------------------------------------------------------------------------------

    async def create(self, access: Access, tenant: Tenant, wish: Wish) -> Authority:
        """Make a root, or an authority below another.

        Raises:
            Refused: (malformed, invalid) It may not stand there, or be so. (conflict) The name is taken. (not found)
                There is no such parent, profile or key. (unavailable) The key of the parent is not here.
        """
        await self._authorities.refresh()
        now = self._clock()
        line = line_name(wish.line) if wish.line else f"ca-{self._random(_MARK_BYTES).hex()}"
        subject = authority_subject(wish.subject)
        parent = self._making.parent(access.tenant, tenant, wish.parent) if wish.parent else None
        base = self.usable_profile(tenant, wish.own_profile or ("issuing" if parent else "root"))
        if parent is not None:
            check_stands_below(subject, parent.anchor, parent.certificate.subject)
        length = path_length_below(parent.anchor if parent else None, wish.path_length, base)
        profile = profile_of_authority(base, length, wish.period, now)
        kind = kind_below(parent, base)
        default = wish.profile or DEFAULT_PROFILES[kind]
        self.usable_profile(tenant, default)
        identifier = uuid7(now, self._random)
        async with self._making.key(tenant, identifier, line, wish.key, actor=access.identity.id) as made:
            holder = Holder(subject, (), encoded_key(made.signer.public_key))
            issued = await self._making.certify(parent, profile, holder, made.signer)
            one = StoredAuthority(
                id=identifier,
                name=line,
                line=line,
                generation=1,
                kind=kind,
                origin=AuthorityOrigin.MANAGED,
                tenant=tenant.id,
                parent=parent.id if parent else None,
                certificate=issued.der,
                spki_sha256=issued.spki_sha256,
                key=made.stored,
                profile=default,
                serial=None,
                issuance=wish.issuance,
            )
            async with self._database.transaction(tenant.id) as transaction:
                await self._making.insert(transaction, one, wish.metadata, profile.name, made)
                data = {
                    "id": str(one.id),
                    "parent": parent.name if parent else None,
                    "spki_sha256": one.spki_sha256.hex(),
                }
                await transaction.record(_change(access, one, "created", data))
        return await self._begun(one.id)

    @retried_once
    async def reissue(
        self, access: Access, tenant: Tenant, reference: str, period: timedelta | datetime | None
    ) -> Authority:
        """Certify an authority's key once more (rule 3); `period` None: as long as now.

        Raises:
            Refused: (conflict) It was certified elsewhere, or is revoked. (unavailable) A key is not here.
        """
        await self._authorities.refresh()
        one, now = await self.visible(tenant, reference), self._clock()
        parent = self._making.certifier(one)
        profile = self._making.same_profile(one, period, now)
        signer = None if parent else self._authorities.with_root_key(one).signing()
        issued = await self._making.certify(parent, profile, holder_again(one), signer)
        async with self._database.transaction(tenant.id) as transaction:
            status = await lock_authority(transaction, one.id, tenant.id)
            if AuthorityStatus.REVOKED in (status, one.status):  # itself, or by its certificate
                raise conflict("The authority is revoked: make another one.")
            await check_certificate(transaction, one.id, one.der)
            await supersede(transaction, stored_serial(one.certificate.serial_number))
            await set_certificate(transaction, one.id, issued.der, parent.id if parent else None, ())
            issuer = parent.id if parent else one.id
            await record_issued(transaction, issued, issuer, tenant.id)
            await set_serial(transaction, one.id, issued.serial, issued.der)
            data = {"id": str(one.id), "serial": issued.serial.hex()}
            await transaction.record(_change(access, one, "reissued", data))
        return await self._shown(one.id)

    async def roll_over(
        self, access: Access, tenant: Tenant, reference: str, key: KeyWish | None, period: timedelta | datetime | None
    ) -> Authority:
        """Give a line another key of the same name (rule 3); `key` None: one of the same kind.

        Raises:
            Refused: (conflict) It is not the newest of its line, or not active, or was certified elsewhere.
                (unavailable) The key before, or that of the authority above, is not here.
        """
        await self._authorities.refresh()
        old, now = await self.visible(tenant, reference), self._clock()
        if old is not self._authorities.generations(old.id)[-1]:
            raise conflict(f"{old.name} has a successor already.")
        if not old.is_trusted or old.has_expired(now):
            raise conflict(f"{old.name} is not active.")
        parent, old_signer = self._making.certifier(old), self._authorities.with_root_key(old).signing()
        profile = self._making.same_profile(old, period, now)
        identifier, name = uuid7(now, self._random), generation_name(old.line, old.generation + 1)
        wish = key or KeyWish(key_algorithm(old_signer.public_key), key_bits(old_signer.public_key))
        actor = access.identity.id
        async with self._making.key(tenant, identifier, name, wish, beside=old, actor=actor) as made:
            holder = Holder(old.certificate.subject, (), encoded_key(made.signer.public_key))
            issued = await self._making.certify(parent, profile, holder, made.signer)
            linked = await in_turn(
                [old_signer, made.signer],
                link,
                Generation(old.certificate, old_signer, old.addresses),
                Generation(read_certificate(issued.der), made.signer, addresses_of(self._base_url, name)),
                profile,
                (self._random(SERIAL_BYTES), self._random(SERIAL_BYTES)),
            )
            one = StoredAuthority(
                id=identifier,
                name=name,
                line=old.line,
                generation=old.generation + 1,
                kind=old.kind,
                origin=AuthorityOrigin.MANAGED,
                tenant=tenant.id,
                parent=parent.id if parent else None,
                certificate=issued.der,
                spki_sha256=issued.spki_sha256,
                key=made.stored,
                profile=old.profile,
                serial=None,
                links=Links(linked.old_with_new.der, linked.new_with_old.der),
                issuance=old.issuance,
            )
            async with self._database.transaction(tenant.id) as transaction:
                await lock_authority(transaction, old.id, tenant.id)
                metadata = await authority_metadata(transaction, old.id)
                await self._making.insert(transaction, one, metadata, profile.name, made)
                await record_issued(transaction, linked.old_with_new, one.id, tenant.id)
                await record_issued(transaction, linked.new_with_old, old.id, tenant.id)
                data = {"id": str(one.id), "after": str(old.id), "spki_sha256": one.spki_sha256.hex()}
                await transaction.record(_change(access, one, "rolled_over", data))
        return await self._begun(one.id)

    # --- What becomes of it -----------------------------------------------------------------------------------------

    @retried_once
    async def set_status(
        self, access: Access, tenant: Tenant, reference: str, step: AuthorityStep, reason: RevocationReason
    ) -> Authority:
        """Deactivate, activate or revoke an authority (rule 4).

        Raises:
            Refused: (conflict) Its state forbids it. (invalid) It is to be revoked for a reason that is not for good.
        """
        if step is AuthorityStep.REVOKE and reason is RevocationReason.CERTIFICATE_HOLD:
            raise Refused(Kind.INVALID, "An authority is revoked for good. Deactivate it: that can be undone.")
        await self._authorities.refresh()
        one = await self.visible(tenant, reference)
        async with self._database.transaction(EVERYWHERE) as transaction:  # its devices may be of any tenant
            status = next_status(await lock_authority(transaction, one.id, tenant.id), step)
            await set_status(transaction, one.id, status, reason if status is AuthorityStatus.REVOKED else None)
            if status is AuthorityStatus.REVOKED:
                await revoke_key(transaction, one, reason, actor=access.identity.id)
            data = {"id": str(one.id), **({"reason": reason.value} if status is AuthorityStatus.REVOKED else {})}
            await transaction.record(_change(access, one, _DONE[step], data))
            if step is not AuthorityStep.ACTIVATE:
                await cut_devices(transaction, one, actor=access.identity.id)
        return await self._shown(one.id)

    async def patch_metadata(
        self, access: Access, tenant: Tenant, reference: str, patch: Sequence[Operation]
    ) -> Authority:
        """Change what is noted about an authority, by JSON Patch; errors as for `iam.json_patch.apply_patch`."""
        one = await self.visible(tenant, reference)
        async with self._database.transaction(tenant.id) as transaction:
            await lock_authority(transaction, one.id, tenant.id)
            noted = apply_patch(await authority_metadata(transaction, one.id), patch)
            await set_metadata(transaction, one.id, noted)
            await transaction.record(_change(access, one, "described", {"id": str(one.id)}))
        return one

    async def set_profile(self, access: Access, tenant: Tenant, reference: str, profile: str) -> Authority:
        """Say what an authority issues by where nobody says; raise `Refused` (not found) for what is no profile."""
        one = await self.visible(tenant, reference)
        self.usable_profile(tenant, profile)
        async with self._database.transaction(tenant.id) as transaction:
            await lock_authority(transaction, one.id, tenant.id)
            await set_profile(transaction, one.line, profile)
            data = {"id": str(one.id), "profile": profile}
            await transaction.record(_change(access, one, "described", data))
        return await self._shown(one.id)

    async def set_issuance(
        self, access: Access, tenant: Tenant, reference: str, longest: timedelta | datetime
    ) -> Authority:
        """Say how long what an authority issues lasts at the most, or until when (rule 5).

        Raises:
            Refused: (invalid) It would issue nothing any more. (conflict) It issues nothing, since its key is not here.
        """
        one = await self.visible(tenant, reference)
        if one.origin is AuthorityOrigin.EXTERNAL:
            raise conflict("Its key is not here: what it issues, and for how long, is decided where the key is.")
        if isinstance(longest, datetime) and longest <= self._clock():
            raise Refused(Kind.INVALID, "What an authority issues ends later than now: to stop it, deactivate it.")
        async with self._database.transaction(tenant.id) as transaction:
            await lock_authority(transaction, one.id, tenant.id)
            await set_issuance(transaction, one.line, longest)
            data = {"id": str(one.id), "issuance": str(longest)}
            await transaction.record(_change(access, one, "described", data))
        return await self._shown(one.id)

    @retried_once
    async def delete(self, access: Access, tenant: Tenant, reference: str) -> None:
        """Delete an authority (rule 6); raise `Refused` (conflict) if it may not be."""
        await self._authorities.refresh()
        one = await self.visible(tenant, reference)
        async with self._database.transaction(EVERYWHERE) as transaction:  # labels of tenants below may pin it
            status = await lock_authority(transaction, one.id, tenant.id)
            if one.status not in (status, AuthorityStatus.REVOKED):  # it may have been revoked by its certificate
                raise Collided(f"what becomes of the authority {one.name} has changed meanwhile")
            await delete_authority(transaction, one, self._clock())
            await transaction.record(_change(access, one, "deleted", {"id": str(one.id)}))
        await self._authorities.refresh()

    def usable_profile(self, tenant: Tenant, identifier: str) -> Profile:
        """Return a profile that a tenant may use: packaged, its own, or of a tenant above; raise `Refused`."""
        stored = self._authorities.stored_profile(identifier)
        try:
            if stored is None or stored.tenant in tenant.path:
                return self._authorities.profile(identifier)
        except ProfileRefused as refused:
            raise not_found("such issuance profile") from refused
        raise not_found("such issuance profile")

    # --- Parts ------------------------------------------------------------------------------------------------------

    async def _begun(self, identifier: UUID) -> Authority:
        one = await self._shown(identifier)
        await self._publication.begin(one)
        return one

    async def _shown(self, identifier: UUID) -> Authority:
        await self._authorities.refresh()
        return self._authorities.by_id(identifier)


_DONE = {
    AuthorityStep.ACTIVATE: "activated",
    AuthorityStep.DEACTIVATE: "deactivated",
    AuthorityStep.REVOKE: "revoked",
}


def _change(access: Access, one: Authority | StoredAuthority, what: str, data: dict[str, Any]) -> Change:
    return Change(one.tenant, access.identity.id, f"authority.{what}", one.name, data)

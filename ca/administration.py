"""What operators do with authorities: making, re-issuing, a new key, and what becomes of them.

The rules:

1. An authority belongs to one tenant; for anybody else there is none (404). An authority may stand below one of the
   tenant's own, or of a tenant above it whose operator is asking.
2. Where it may stand and what its certificate holds is decided by `ca.hierarchy` and a profile; the certificate is
   recorded with the authority, in one transaction. Keys are waited for before it, and what it stands on is asked again.
3. A re-issue gives the same key another period and changes nothing else. A rollover gives the line another key of the
   same name, which issues from then on, and links both (`ca.rollover`); the earlier one is trusted until it ends.
4. A new key lies where the old one lay: in a file that can be taken away, or in the store.
5. Revoking is for good: every certificate of its key comes into a list. Deactivating can be undone. After either, it
   issues nothing and is trusted nowhere, and what is connected by its certificates is cut (`ca.distrusting`).
6. Only an authority that signs nothing, or was revoked, is deleted; and only if nothing depends on it.
"""

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

from cryptography import x509

from ca.authorities import Authorities
from ca.authority import Authority, AuthorityOrigin, AuthorityStatus, AuthorityStep, Links, next_status
from ca.distrusting import cut_devices, revoke_key
from ca.founding import DEFAULT_PROFILES, addresses_of
from ca.hierarchy import (
    authority_subject,
    check_stands_below,
    generation_name,
    line_name,
    path_length_below,
    profile_like,
    profile_of_authority,
)
from ca.inventory import AuthorityKind, RevocationReason, stored_serial
from ca.issue import SERIAL_BYTES, Holder, Issued, Template, encoded_key
from ca.keystore import Backend, Keystore, Signer, SoftwareSigner, StoredKey, describe, in_turn, make_private_key
from ca.kms import key_for_authority
from ca.recording import put_on_record, record_issued
from ca.rollover import Generation, link
from ca.store.authorities import (
    StoredAuthority,
    authority_metadata,
    delete_authority,
    insert_authority,
    lock_authority,
    set_certificate,
    set_metadata,
    set_profile,
    set_serial,
    set_status,
    supersede,
)
from ca.store.keys import insert_key
from certs.errors import CertificateRefused, ProfileRefused
from certs.keys import KeyAlgorithm, key_algorithm, key_bits
from certs.pem import read_certificate
from certs.profile import Profile
from iam.access import Access
from iam.errors import Kind, Refused, conflict, not_found
from iam.identifiers import Clock, Random, uuid7
from iam.json_patch import Operation, apply_patch
from iam.model import Tenant
from iam.store.database import EVERYWHERE, Change, Database, Transaction

_MARK_BYTES = 4


@dataclass(frozen=True, slots=True)
class KeyWish:
    """Which key an authority is to have: a new one of this kind, or one that is here already and is nobody's yet."""

    algorithm: KeyAlgorithm = KeyAlgorithm.P384
    bits: int = 0
    existing: UUID | None = None


@dataclass(frozen=True, slots=True)
class Wish:
    """What an operator asks for.

    Attributes:
        line: What it is to be called; None gives it a name.
        parent: The authority above it; None for a root.
        own_profile: By which its own certificate is made; None: `root` or `issuing`.
        profile: What it issues by where nobody says; None: by its kind.
        period: How long it is to last, or until when; None: as its own profile says.
    """

    subject: Mapping[str, str]
    line: str | None = None
    parent: str | None = None
    key: KeyWish = KeyWish()
    own_profile: str | None = None
    profile: str | None = None
    path_length: int | None = None
    period: timedelta | datetime | None = None
    metadata: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class _Made:
    """A key on its way into the store, and who signs with it."""

    stored: StoredKey
    signer: Signer
    is_new: bool


class AuthorityAdministration:
    """Makes authorities and changes them."""

    def __init__(
        self,
        database: Database,
        authorities: Authorities,
        keystore: Keystore,
        clock: Clock,
        random: Random,
        *,
        base_url: str | None,
    ) -> None:
        self._database = database
        self._authorities = authorities
        self._keystore = keystore
        self._clock = clock
        self._random = random
        self._base_url = base_url

    def visible(self, tenant: Tenant, reference: str) -> Authority:
        """Return a tenant's authority by its line, name or id; raise `Refused` (not found) for any other (rule 1)."""
        found = self._authorities.find(reference)
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
        parent = self._parent(access, tenant, wish.parent) if wish.parent else None
        base = self.usable_profile(tenant, wish.own_profile or ("issuing" if parent else "root"))
        if parent is not None:
            check_stands_below(subject, parent.anchor, parent.certificate.subject)
        length = path_length_below(parent.anchor if parent else None, wish.path_length, base)
        profile = profile_of_authority(base, length, wish.period, now)
        kind = _kind_of(base, parent)
        default = wish.profile or DEFAULT_PROFILES[kind]
        self.usable_profile(tenant, default)
        identifier = uuid7(now, self._random)
        made = await self._key(tenant, identifier, line, wish.key)
        holder = Holder(subject, (), encoded_key(made.signer.public_key))
        issued = await self._certify(parent, profile, holder, made.signer)
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
        )
        async with self._database.transaction(tenant.id) as transaction:
            await self._insert(transaction, one, wish.metadata, profile.name, is_new_key=made.is_new)
            data = {"id": str(one.id), "parent": parent.name if parent else None, "spki_sha256": one.spki_sha256.hex()}
            await transaction.record(_change(access, one, "created", data))
        return await self._shown(one.id)

    async def reissue(
        self, access: Access, tenant: Tenant, reference: str, period: timedelta | datetime | None
    ) -> Authority:
        """Certify an authority's key once more (rule 3); `period` None: as long as now.

        Raises:
            Refused: (conflict) It was certified elsewhere, or is revoked. (unavailable) A key is not here.
        """
        await self._authorities.refresh()
        one, now = self.visible(tenant, reference), self._clock()
        parent = self._above(one)
        profile = self._same_profile(one, period, now)
        signer = None if parent else self._able(one).signing()
        issued = await self._certify(parent, profile, _holder(one), signer)
        async with self._database.transaction(tenant.id) as transaction:
            status = await lock_authority(transaction, one.id, tenant.id)
            if status is AuthorityStatus.REVOKED:
                raise conflict("The authority is revoked: make another one.")
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
        old, now = self.visible(tenant, reference), self._clock()
        if old is not self._authorities.generations(old.id)[-1]:
            raise conflict(f"{old.name} has a successor already.")
        if not old.is_trusted or old.has_expired(now):
            raise conflict(f"{old.name} is not active.")
        parent, old_signer = self._above(old), self._able(old).signing()
        profile = self._same_profile(old, period, now)
        identifier, name = uuid7(now, self._random), generation_name(old.line, old.generation + 1)
        wish = key or KeyWish(key_algorithm(old_signer.public_key), key_bits(old_signer.public_key))
        made = await self._key(tenant, identifier, name, wish, beside=old)
        holder = Holder(old.certificate.subject, (), encoded_key(made.signer.public_key))
        issued = await self._certify(parent, profile, holder, made.signer)
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
        )
        async with self._database.transaction(tenant.id) as transaction:
            await lock_authority(transaction, old.id, tenant.id)
            metadata = await authority_metadata(transaction, old.id)
            await self._insert(transaction, one, metadata, profile.name, is_new_key=made.is_new)
            await record_issued(transaction, linked.old_with_new, one.id, tenant.id)
            await record_issued(transaction, linked.new_with_old, old.id, tenant.id)
            data = {"id": str(one.id), "after": str(old.id), "spki_sha256": one.spki_sha256.hex()}
            await transaction.record(_change(access, one, "rolled_over", data))
        return await self._shown(one.id)

    # --- What becomes of it -----------------------------------------------------------------------------------------

    async def set_status(
        self, access: Access, tenant: Tenant, reference: str, step: AuthorityStep, reason: RevocationReason
    ) -> Authority:
        """Deactivate, activate or revoke an authority (rule 5); raise `Refused` (conflict) if its state forbids it."""
        await self._authorities.refresh()
        one = self.visible(tenant, reference)
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
        one = self.visible(tenant, reference)
        async with self._database.transaction(tenant.id) as transaction:
            await lock_authority(transaction, one.id, tenant.id)
            noted = apply_patch(await authority_metadata(transaction, one.id), patch)
            await set_metadata(transaction, one.id, noted)
            await transaction.record(_change(access, one, "described", {"id": str(one.id)}))
        return one

    async def set_profile(self, access: Access, tenant: Tenant, reference: str, profile: str) -> Authority:
        """Say what an authority issues by where nobody says; raise `Refused` (not found) for what is no profile."""
        one = self.visible(tenant, reference)
        self.usable_profile(tenant, profile)
        async with self._database.transaction(tenant.id) as transaction:
            await lock_authority(transaction, one.id, tenant.id)
            await set_profile(transaction, one.line, profile)
            data = {"id": str(one.id), "profile": profile}
            await transaction.record(_change(access, one, "described", data))
        return await self._shown(one.id)

    async def delete(self, access: Access, tenant: Tenant, reference: str) -> None:
        """Delete an authority (rule 6); raise `Refused` (conflict) if it may not be."""
        await self._authorities.refresh()
        one = self.visible(tenant, reference)
        if one.origin is not AuthorityOrigin.EXTERNAL and one.status is not AuthorityStatus.REVOKED:
            raise conflict("Only an authority that was revoked, or whose key was never here, can be deleted.")
        async with self._database.transaction(tenant.id) as transaction:
            await lock_authority(transaction, one.id, tenant.id)
            await delete_authority(transaction, one.id, stored_serial(one.certificate.serial_number), one.id)
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

    def _parent(self, access: Access, tenant: Tenant, reference: str) -> Authority:
        found = self._authorities.find(reference)
        is_above = found.tenant in tenant.path and access.tenant.id in tenant.path
        asks_from_above = is_above and tenant.path.index(access.tenant.id) <= tenant.path.index(found.tenant)
        if found.tenant != tenant.id and not asks_from_above:
            raise not_found("such authority above it")
        return self._authorities.issuer(found.id)

    def _above(self, one: Authority) -> Authority | None:
        """Return who certifies an authority anew: the one above it in its newest generation; None: it does itself."""
        if one.origin is AuthorityOrigin.EXTERNAL:
            raise conflict("Its key is not here.")
        if one.parent is not None:
            return self._authorities.issuer(one.parent)
        if not one.is_self_signed:
            raise conflict("It was certified elsewhere: ask for a new certificate there.")
        return None

    def _able(self, one: Authority) -> Authority:
        return self._authorities.with_root_key(one)

    def _same_profile(self, one: Authority, period: timedelta | datetime | None, now: datetime) -> Profile:
        like = profile_like(one.certificate, "root" if one.is_self_signed else one.kind.value)
        longest = self._authorities.profile("root" if one.is_self_signed else "issuing").validity
        allowed = replace(like, validity=max(like.validity, longest))
        return profile_of_authority(like if period is None else allowed, one.path_length, period, now)

    async def _key(
        self, tenant: Tenant, identifier: UUID, name: str, wish: KeyWish, *, beside: Authority | None = None
    ) -> _Made:
        if wish.existing is not None:
            async with self._database.transaction(tenant.id) as transaction:
                found = await key_for_authority(transaction, tenant.id, wish.existing)
            return _Made(found, self._keystore.signer(found), is_new=False)
        private_key = await asyncio.to_thread(make_private_key, wish.algorithm, wish.bits or 3072)
        lies_in_file = beside is not None and beside.kind is AuthorityKind.ROOT and beside.signer is None
        sealed = None if lies_in_file else self._keystore.seal(identifier, private_key)
        if lies_in_file:  # rule 4; it is on the disk before the transaction commits
            self._keystore.keep_later_root(identifier, private_key)
        backend = Backend.FILE if lies_in_file else Backend.SEALED
        public_key = private_key.public_key()
        stored = describe(identifier, tenant.id, name, public_key, backend=backend, sealed=sealed, now=self._clock())
        return _Made(stored, SoftwareSigner(private_key), is_new=True)

    async def _certify(self, parent: Authority | None, profile: Profile, holder: Holder, own: Signer | None) -> Issued:
        now, serial = self._clock(), self._random(SERIAL_BYTES)
        try:
            if parent is not None:
                template = Template(profile, parent.certificate, parent.issuing(now), parent.addresses)
            elif own is not None:
                template = Template(profile, None, own, None)
            else:
                raise Refused(Kind.UNAVAILABLE, "Its key is not here.")
            return await template.issue_in_turn(holder, now, serial)
        except CertificateRefused as refusal:
            raise Refused(Kind.INVALID, f"The authority cannot be so: {refusal.reason}.") from refusal

    async def _insert(
        self,
        transaction: Transaction,
        one: StoredAuthority,
        metadata: Mapping[str, Any],
        profile: str,
        *,
        is_new_key: bool,
    ) -> None:
        if one.key is not None and is_new_key:
            await insert_key(transaction, one.key)
        elif one.key is not None:  # it has signed for this one alone meanwhile
            await key_for_authority(transaction, one.tenant, one.key.id)
        await insert_authority(transaction, one, metadata)
        await put_on_record(transaction, one, profile)

    async def _shown(self, identifier: UUID) -> Authority:
        await self._authorities.refresh()
        return self._authorities.by_id(identifier)


_DONE = {
    AuthorityStep.ACTIVATE: "activated",
    AuthorityStep.DEACTIVATE: "deactivated",
    AuthorityStep.REVOKE: "revoked",
}


def _kind_of(profile: Profile, parent: Authority | None) -> AuthorityKind:
    if parent is None:
        return AuthorityKind.ROOT
    return AuthorityKind.FACTORY if profile.name == AuthorityKind.FACTORY else AuthorityKind.ISSUING


def _holder(one: Authority) -> Holder:
    named = one.certificate.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value
    return Holder(one.certificate.subject, (), encoded_key(one.anchor.public_key), named.digest)


def _change(access: Access, one: Authority | StoredAuthority, what: str, data: dict[str, Any]) -> Change:
    return Change(one.tenant, access.identity.id, f"authority.{what}", one.name, data)

"""What an authority is made of: a key, a certificate, and both on record.

The rules:

1. A new key lies where it is asked to; if nobody says, where the one before lies: in the store, in a token, or in a
   file that can be taken away. That is on the disk before it is on record. Nobody holds anything of the store while he
   waits for a key.
2. A key that is here already becomes an authority's if it is nobody's and has signed nothing that a caller gave
   (`ca.kms`); and never if its authority was deleted as one that nobody believes (`ca.trust`).
3. A certificate is made by the authority above, in the generation that issues, or by the key itself. An authority may
   stand below one of its tenant's own, or of a tenant above whose operator is asking. What was certified elsewhere is
   certified anew elsewhere.
"""

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

from cryptography import x509

from ca.authorities import Authorities
from ca.authority import Authority, AuthorityOrigin
from ca.hierarchy import profile_like, profile_of_authority
from ca.inventory import AuthorityKind
from ca.issue import SERIAL_BYTES, Holder, Issued, Template, encoded_key
from ca.keystore import Backend, Keystore, StoredKey, describe
from ca.kms import Description, KeyService, key_for_authority
from ca.recording import put_on_record
from ca.signers import Signer, SoftwareSigner, make_private_key
from ca.store.authorities import StoredAuthority, insert_authority
from ca.store.keys import insert_key
from ca.wishes import KeyWish
from certs.errors import CertificateRefused
from certs.profile import Profile
from iam.errors import Kind, Refused, conflict, not_found
from iam.identifiers import Clock, Random
from iam.model import Tenant
from iam.store.database import Database, Transaction

_RSA_BITS = 3072


@dataclass(frozen=True, slots=True)
class MadeKey:
    """A key on its way into the store, and who signs with it."""

    stored: StoredKey
    signer: Signer
    is_new: bool


class AuthorityMaking:
    """Makes keys and certificates of authorities."""

    def __init__(
        self, database: Database, authorities: Authorities, keystore: Keystore, clock: Clock, random: Random
    ) -> None:
        self._database = database
        self._authorities = authorities
        self._keystore = keystore
        self._keys = KeyService(database, keystore, clock, random)
        self._clock = clock
        self._random = random

    def parent(self, caller: Tenant, tenant: Tenant, reference: str) -> Authority:
        """Return who certifies a new authority of a tenant's (rule 3), in the generation that issues.

        Raises:
            Refused: (not found) There is no such authority for it. (unavailable) It issues nothing now.
        """
        found = self._authorities.find(reference)
        is_above = found.tenant in tenant.path and caller.id in tenant.path
        asks_from_above = is_above and tenant.path.index(caller.id) <= tenant.path.index(found.tenant)
        if found.tenant != tenant.id and not asks_from_above:
            raise not_found("such authority above it")
        return self._authorities.issuer(found.id)

    def certifier(self, one: Authority) -> Authority | None:
        """Return who certifies an authority anew: the one above it in its newest generation; None: it does itself.

        Raises:
            Refused: (conflict) Somebody elsewhere does (rule 3). (unavailable) The one above issues nothing now.
        """
        if one.origin is AuthorityOrigin.EXTERNAL:
            raise conflict("Its key is not here: whoever has it certifies it anew. Bring that certificate.")
        if not self._authorities.is_certified_here(one):
            raise conflict("It was certified elsewhere: ask for a new certificate there, and bring that.")
        return None if one.parent is None else self._authorities.issuer(one.parent)

    def same_profile(self, one: Authority, period: timedelta | datetime | None, now: datetime) -> Profile:
        """Return the profile of an authority's certificate for another one like it; `period` None: as long as now.

        Raises:
            Refused: (invalid) The certificate, or the period, is none that is made here.
        """
        like = profile_like(one.certificate, "root" if one.is_self_signed else one.kind.value)
        longest = self._authorities.profile("root" if one.is_self_signed else "issuing").validity
        allowed = replace(like, validity=max(like.validity, longest))
        return profile_of_authority(like if period is None else allowed, one.path_length, period, now)

    @asynccontextmanager
    async def key(
        self, tenant: Tenant, identifier: UUID, name: str, wish: KeyWish, *, beside: Authority | None = None, actor: str
    ) -> AsyncIterator[MadeKey]:
        """Make a key for an authority, or take the one that is named (rules 1 and 2), for whoever puts it on record.

        One that is made in a token is destroyed again if that fails.

        Args:
            beside: The authority whose next key it is.

        Raises:
            Refused: (not found) There is no such key. (conflict) It may not be an authority's. (invalid) No such key is
                made there. (unavailable) The token cannot be reached.
        """
        if wish.existing is not None:
            yield await self._existing_key(tenant, wish.existing)
            return
        before = beside.engine if beside else None
        engine, bits = wish.engine or before or Backend.SEALED.value, wish.bits or _RSA_BITS
        follows_file = before == engine == Backend.FILE
        if engine not in self._keys.engines and not follows_file:
            made_in = ", ".join(self._keys.engines)
            raise Refused(Kind.INVALID, f"Keys are not made in {engine} here; they are in {made_in}.")
        if engine != Backend.SEALED and not follows_file:
            said = Description(name, (), {})
            found = await self._keys.create(tenant.id, wish.algorithm, bits, engine, said, actor=actor)
            try:
                yield MadeKey(found, self._keystore.signer(found), is_new=False)
            except BaseException:
                await asyncio.shield(self._keys.delete(tenant.id, str(found.id), actor=actor))
                raise
            return
        private_key = await asyncio.to_thread(make_private_key, wish.algorithm, bits)
        sealed = None if follows_file else self._keystore.seal(identifier, private_key)
        if follows_file:
            self._keystore.keep_later_root(identifier, private_key)
        backend, public_key = Backend.FILE if follows_file else Backend.SEALED, private_key.public_key()
        stored = describe(identifier, tenant.id, name, public_key, backend=backend, sealed=sealed, now=self._clock())
        yield MadeKey(stored, SoftwareSigner(private_key), is_new=True)

    async def _existing_key(self, tenant: Tenant, named: UUID) -> MadeKey:
        async with self._database.transaction(tenant.id) as transaction:
            found = await key_for_authority(transaction, tenant.id, named)
        check_is_believed(self._authorities, found.spki_sha256, tenant)
        return MadeKey(found, self._keystore.signer(found), is_new=False)

    async def keep(self, transaction: Transaction, tenant: UUID, made: MadeKey) -> None:
        """Put a key on record that an authority is to have, or hold the one that is there.

        Raises:
            Refused: (conflict) It has become somebody else's meanwhile.
        """
        if made.is_new:
            await insert_key(transaction, made.stored)
        else:  # it has signed for this one alone meanwhile
            await key_for_authority(transaction, tenant, made.stored.id)

    async def certify(self, parent: Authority | None, profile: Profile, holder: Holder, own: Signer | None) -> Issued:
        """Make an authority's certificate (rule 3).

        Args:
            parent: Who certifies; None: it certifies itself, by its `own` key.

        Raises:
            Refused: (unavailable) The key that is to sign is not here. (invalid) It cannot be so.
        """
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

    async def insert(
        self, transaction: Transaction, one: StoredAuthority, metadata: Mapping[str, Any], profile: str, made: MadeKey
    ) -> None:
        """Store an authority whose certificate was made by that profile; raise `Refused` (conflict) if it is taken."""
        await self.keep(transaction, one.tenant, made)
        await insert_authority(transaction, one, metadata)
        await put_on_record(transaction, one, profile)


def kind_below(parent: Authority | None, profile: Profile) -> AuthorityKind:
    """Return what an authority is that is made below another, or as a root, by this profile."""
    if parent is None:
        return AuthorityKind.ROOT
    return AuthorityKind.FACTORY if profile.name == AuthorityKind.FACTORY else AuthorityKind.ISSUING


def holder_again(one: Authority) -> Holder:
    """Return the holder of an authority's certificate, for another one: with the key identifier that it has."""
    named = one.certificate.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value
    return Holder(one.certificate.subject, (), encoded_key(one.anchor.public_key), named.digest)


def check_is_believed(authorities: Authorities, spki_sha256: bytes, tenant: Tenant) -> None:
    """Raise `Refused` (conflict) for a key whose authority was deleted as one that nobody believes (`ca.trust`)."""
    found = authorities.distrust.was_deleted(spki_sha256, tenant.path)
    if found is None:
        return
    whose = f": it was that of the authority {found.authority}, deleted at {found.deleted:%F %H:%M} UTC"
    mine = whose if found.tenant == tenant.id else ""
    raise conflict(f"The key was revoked{mine}. It stays distrusted, and is not taken in again.")

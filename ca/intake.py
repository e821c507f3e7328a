"""Authorities from elsewhere: taking in one that was made there, and asking for the certificate of one that is here.

The rules:

1. What is taken in was looked at by `ca.importing` first. A key that anybody here has already (an authority, a device,
   a request) is not taken in; nor is one asked for that has ever signed what a caller gave; nor one whose authority was
   deleted as one that nobody believes (`ca.trust`).
2. A certificate without its key makes an authority that signs nothing. It is trusted where a label names it, and never
   proves who a device is. It is what one tenant says of a key elsewhere: others may say the same, or have the key.
3. A request's key is made here and stays here. The certificate that answers it is for that key and that name.
4. What was certified elsewhere is certified anew there. The new certificate is looked at like the first, and is another
   one of the same authority.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from ca.administration import AuthorityAdministration
from ca.authorities import Authorities
from ca.authority import Authority, AuthorityOrigin, AuthorityStatus
from ca.founding import DEFAULT_PROFILES
from ca.hierarchy import authority_subject, line_name
from ca.importing import Taken, check_authority, check_key_pair, check_same_authority, in_der
from ca.inventory import AuthorityKind, stored_serial
from ca.keystore import Backend, Keystore, StoredKey, describe
from ca.making import AuthorityMaking, check_is_believed
from ca.publication import Publication
from ca.request import build_request
from ca.signers import in_turn
from ca.signing import PrivateKey
from ca.store.authorities import (
    StoredAuthority,
    check_certificate,
    insert_authority,
    lock_authority,
    set_certificate,
)
from ca.store.authority_keys import is_key_known
from ca.store.authority_requests import (
    AuthorityRequest,
    RequestStatus,
    delete_request,
    find_request,
    insert_request,
    mark_as_issued,
)
from ca.store.keys import delete_key, insert_key
from ca.wishes import KeyWish
from iam.access import Access
from iam.errors import Kind, Refused, conflict, not_found
from iam.identifiers import Clock, Random, uuid7
from iam.model import Tenant
from iam.store.database import EVERYWHERE, Change, Database, Transaction, retried_once

_MARK_BYTES = 4


@dataclass(frozen=True, slots=True)
class Offer:
    """An authority that an operator brings.

    Attributes:
        line: What it is to be called; None gives it a name.
        key: Its private key; None where it stays elsewhere.
        request: The request that the certificate answers.
        origin: What the operator takes it to be; None if he does not say.
        parent: What he takes it to stand below.
        profile: What it issues by where nobody says; None: by its kind.
        issuance: How long what it issues lasts, or until when, at the most; None: as its profile says.
    """

    certificate: x509.Certificate
    chain: tuple[x509.Certificate, ...] = ()
    key: PrivateKey | None = None
    line: str | None = None
    request: UUID | None = None
    origin: AuthorityOrigin | None = None
    parent: str | None = None
    profile: str | None = None
    issuance: timedelta | datetime | None = None
    metadata: Mapping[str, Any] = field(default_factory=dict)


class AuthorityIntake:
    """Takes authorities in, and asks for certificates."""

    def __init__(
        self,
        database: Database,
        authorities: Authorities,
        administration: AuthorityAdministration,
        keystore: Keystore,
        clock: Clock,
        random: Random,
        publication: Publication,
    ) -> None:
        self._database = database
        self._authorities = authorities
        self._administration = administration
        self._keystore = keystore
        self._clock = clock
        self._random = random
        self._publication = publication
        self._making = AuthorityMaking(database, authorities, keystore, clock, random)

    async def take_in(self, access: Access, tenant: Tenant, offer: Offer) -> Authority:
        """Take in an authority.

        Raises:
            Refused: (malformed, invalid) It is not one that can be taken in. (conflict) Its name or its key is taken.
                (not found) There is no such request or profile.
        """
        await self._authorities.refresh()
        now = self._clock()
        may_sign = offer.key is not None or offer.request is not None
        trusted = self._trusted(tenant)
        taken = self._looked_at(tenant, offer.certificate, offer.chain, trusted, may_stand_alone=not may_sign)
        parent = _above(taken, trusted)
        self._check_expected(tenant, offer, parent)
        identifier = uuid7(now, self._random)
        kind = _kind_of(taken, may_sign=may_sign)
        profile = offer.profile or DEFAULT_PROFILES[kind]
        self._administration.usable_profile(tenant, profile)
        check_is_believed(self._authorities, taken.spki_sha256, tenant)
        await self._check_unknown(tenant, taken, is_answer=offer.request is not None)
        async with self._database.transaction(tenant.id) as transaction:
            line = offer.line
            if offer.request is not None:
                request = await self._answer(transaction, offer.request, taken)
                key: StoredKey | None = request.key
                line = request.line
            else:
                line = line_name(line) if line else f"ca-{self._random(_MARK_BYTES).hex()}"
                key = await self._import_key(transaction, tenant, identifier, line, taken, offer.key)
            one = StoredAuthority(
                id=identifier,
                name=line,
                line=line,
                generation=1,
                kind=kind,
                origin=_origin(offer),
                tenant=tenant.id,
                parent=parent.id if parent else None,
                certificate=taken.certificate.public_bytes(Encoding.DER),
                spki_sha256=taken.spki_sha256,
                key=key,
                profile=profile,
                serial=None,
                chain=in_der(taken.above),
                issuance=offer.issuance if may_sign else None,
            )
            await insert_authority(transaction, one, offer.metadata)
            data = {"id": str(one.id), "origin": one.origin.value, "spki_sha256": one.spki_sha256.hex()}
            await transaction.record(Change(tenant.id, access.identity.id, "authority.imported", line, data))
        await self._authorities.refresh()
        made = self._authorities.by_id(identifier)
        if may_sign:
            await self._publication.begin(made)
        return made

    @retried_once
    async def renew(
        self,
        access: Access,
        tenant: Tenant,
        reference: str,
        certificate: x509.Certificate,
        chain: tuple[x509.Certificate, ...],
    ) -> Authority:
        """Give an authority that was certified elsewhere the certificate that it got there anew (rule 4).

        Raises:
            Refused: (invalid) It cannot be taken in, or is not the authority's. (conflict) It was certified here, or is
                revoked. (not found) There is no such authority.
        """
        await self._authorities.refresh()
        one = await self._administration.visible(tenant, reference)
        is_external = one.origin is AuthorityOrigin.EXTERNAL
        if self._authorities.is_certified_here(one):
            raise conflict("It is certified here: ask for that, and bring no certificate.")
        trusted = self._trusted(tenant)
        taken = self._looked_at(tenant, certificate, chain, trusted, may_stand_alone=is_external)
        check_same_authority(taken, one.certificate)
        if not is_external:
            check_key_pair(taken, one.anchor.public_key)
        parent = _above(taken, trusted)
        der = certificate.public_bytes(Encoding.DER)
        async with self._database.transaction(tenant.id) as transaction:
            if await lock_authority(transaction, one.id, tenant.id) is AuthorityStatus.REVOKED:
                raise conflict("The authority is revoked.")
            await check_certificate(transaction, one.id, one.der)
            await set_certificate(transaction, one.id, der, parent.id if parent else None, in_der(taken.above))
            data = {"id": str(one.id), "serial": stored_serial(certificate.serial_number).hex()}
            await transaction.record(Change(tenant.id, access.identity.id, "authority.reissued", one.name, data))
        await self._authorities.refresh()
        return self._authorities.by_id(one.id)

    async def request(
        self,
        access: Access,
        tenant: Tenant,
        line: str | None,
        subject: Mapping[str, str],
        wish: KeyWish,
        metadata: Mapping[str, Any],
    ) -> AuthorityRequest:
        """Make a key, and the request for a certificate of it; errors as for `AuthorityAdministration.create`."""
        now = self._clock()
        named, name = authority_subject(subject), line_name(line) if line else f"ca-{self._random(_MARK_BYTES).hex()}"
        identifier = uuid7(now, self._random)
        async with self._making.key(tenant, identifier, name, wish, actor=access.identity.id) as made:
            signed = await in_turn([made.signer], build_request, named, made.signer)
            request = AuthorityRequest(
                id=identifier,
                tenant=tenant.id,
                line=name,
                subject=named.rfc4514_string(),
                key=made.stored,
                request=signed,
                metadata=metadata,
                status=RequestStatus.PENDING,
                created=now,
            )
            async with self._database.transaction(tenant.id) as transaction:
                await self._making.keep(transaction, tenant.id, made)
                await insert_request(transaction, request)
                data = {"id": str(identifier), "spki_sha256": made.stored.spki_sha256.hex()}
                await transaction.record(Change(tenant.id, access.identity.id, "authority.requested", name, data))
        return request

    async def get_request(self, tenant: Tenant, identifier: UUID) -> AuthorityRequest:
        """Return a request; raise `Refused` (not found)."""
        async with self._database.transaction(tenant.id) as transaction:
            return await find_request(transaction, identifier)

    async def withdraw_request(self, access: Access, tenant: Tenant, identifier: UUID) -> None:
        """Forget a request that was not answered, and its key; raise `Refused` (conflict) if it was."""
        async with self._database.transaction(tenant.id) as transaction:
            found = await find_request(transaction, identifier, lock=True)
            if found.status is RequestStatus.ISSUED:
                raise conflict("The request was answered: its key is an authority's now.")
            await delete_request(transaction, identifier)
            if found.key.id == found.id:  # made for it; one that was there before stays
                await delete_key(transaction, found.key.id)
            change = Change(tenant.id, access.identity.id, "authority.request_withdrawn", found.line, {})
            await transaction.record(change)

    def _trusted(self, tenant: Tenant) -> list[Authority]:
        """Return the authorities that may stand above one of the tenant: its own, and those of tenants above it.

        Of several with one key, that which has the key comes first, and then the nearest.
        """
        found = [one for one in self._authorities.all if one.is_trusted and one.tenant in tenant.path]
        is_external = AuthorityOrigin.EXTERNAL
        return sorted(found, key=lambda one: (one.origin is is_external, -tenant.path.index(one.tenant)))

    def _looked_at(
        self,
        tenant: Tenant,
        certificate: x509.Certificate,
        chain: Sequence[x509.Certificate],
        trusted: Sequence[Authority],
        *,
        may_stand_alone: bool,
    ) -> Taken:
        believed = [one for one in chain if not self._authorities.distrust.covers(one, tenant.path)]
        anchors = [one.anchor for one in trusted]
        alone = may_stand_alone and not chain
        return check_authority(certificate, believed, anchors, self._clock(), may_stand_alone=alone)

    def _check_expected(self, tenant: Tenant, offer: Offer, parent: Authority | None) -> None:
        """Check that an authority is what the operator takes it to be."""
        found = _origin(offer)
        if offer.origin not in (None, found):
            raise Refused(Kind.INVALID, f"What is brought makes it {found}, and not {offer.origin}.")
        if offer.parent is None:
            return
        named = self._authorities.find(offer.parent)
        if named.tenant not in tenant.path:
            raise not_found("such authority above it")
        if parent is None or parent.line != named.line:
            raise Refused(Kind.INVALID, f"Its certificate does not stand below {named.line}.")

    async def _check_unknown(self, tenant: Tenant, taken: Taken, *, is_answer: bool) -> None:
        async with self._database.transaction(EVERYWHERE) as transaction:  # a key may be anybody's
            if not is_answer and await is_key_known(transaction, taken.spki_sha256, tenant.id):
                raise conflict("The key is somebody's here already.")

    async def _answer(self, transaction: Transaction, identifier: UUID, taken: Taken) -> AuthorityRequest:
        request = await find_request(transaction, identifier, lock=True)
        if request.status is RequestStatus.ISSUED:
            raise conflict("The request was answered already.")
        if (
            request.key.spki_sha256 != taken.spki_sha256
            or request.subject != taken.certificate.subject.rfc4514_string()
        ):
            raise Refused(Kind.INVALID, "The certificate is not for the key and the name that were asked for.")
        check_key_pair(taken, request.key.public_key)
        await mark_as_issued(transaction, identifier)
        return request

    async def _import_key(
        self,
        transaction: Transaction,
        tenant: Tenant,
        identifier: UUID,
        name: str,
        taken: Taken,
        private_key: PrivateKey | None,
    ) -> StoredKey | None:
        if private_key is None:
            return None
        check_key_pair(taken, private_key.public_key())
        key = self._describe(tenant, identifier, name, private_key)
        await insert_key(transaction, key)
        return key

    def _describe(self, tenant: Tenant, identifier: UUID, name: str, private_key: PrivateKey) -> StoredKey:
        sealed = self._keystore.seal(identifier, private_key)
        public_key = private_key.public_key()
        return describe(
            identifier, tenant.id, name, public_key, backend=Backend.SEALED, sealed=sealed, now=self._clock()
        )


def _above(taken: Taken, trusted: Sequence[Authority]) -> Authority | None:
    """Return the authority that a certificate leads to; one that signs itself leads to nobody, whoever has it too."""
    found = (one for one in trusted if one.anchor == taken.anchor and one.spki_sha256 != taken.spki_sha256)
    return next(found, None)


def _kind_of(taken: Taken, *, may_sign: bool) -> AuthorityKind:
    if not may_sign:
        return AuthorityKind.EXTERNAL
    is_top = taken.certificate.subject == taken.certificate.issuer
    return AuthorityKind.ROOT if is_top else AuthorityKind.ISSUING


def _origin(offer: Offer) -> AuthorityOrigin:
    if offer.request is not None:
        return AuthorityOrigin.REQUESTED
    return AuthorityOrigin.IMPORTED if offer.key is not None else AuthorityOrigin.EXTERNAL

"""The authorities of this deployment, in memory: the same on every worker of every node, within a second.

The rules:

1. What is held is read whole, and read again when an event tells of a change, when events may have been missed, and
   otherwise every `LOOK` (while the feed of events is healthy) or `LOOK_UNFED`; a look is one short statement. So no
   enrolment reads anything about its authority, and one that was revoked or deactivated issues nothing and is trusted
   nowhere a second later.
   What is held is one value (`ca.held`), and replaced whole.
2. Whether an authority can sign depends on where its key is. The first root's is in a file that may be away; it is
   opened for each use. A key that cannot be opened leaves its authority unable to sign, and no other.
"""

import asyncio
import contextlib
import logging
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from uuid import UUID

from ca.authority import Authority, AuthorityOrigin, AuthorityStatus
from ca.founding import addresses_of, found_authorities
from ca.held import HeldAuthorities
from ca.inventory import AuthorityKind
from ca.issue import Template
from ca.keystore import Backend, Keystore
from ca.signers import MessageSigner
from ca.store.authorities import StoredAuthority, fingerprint, list_authorities
from ca.store.authority_keys import distrusted_keys
from ca.store.issuance_profiles import StoredProfile, list_profiles
from ca.trust import Distrust, DistrustedKey
from certs.chain import Anchor
from certs.errors import CertificateRefused, ProfileRefused
from certs.pem import read_certificate
from certs.profile import Profile, packaged_profiles, read_profile
from iam.directory import Monotonic
from iam.errors import Refused, not_found
from iam.identifiers import Clock, Random
from iam.model import Tenant
from iam.store.database import EVERYWHERE, Database

LOOK = 5.0
LOOK_UNFED = 0.5
"""Seconds between two looks at the store, with events and without."""

LOOK_FOR_MISSING = 0.05
"""Seconds between two looks for what somebody asked for and is not held."""

FOLLOWED = ("authority.", "issuance_profile.")
"""How the kinds of the events begin that tell of what is held."""

_RETRY = 0.2
_REVOCATIONS = ("certificate.revoked", "certificate.held", "certificate.released")

_log = logging.getLogger("doorward.authorities")


class Authorities:
    """All authorities, and the templates that they issue by.

    Args:
        base_url: Where revocation lists and authorities' certificates are published, without a final slash; None leaves
            the addresses out of certificates.
    """

    def __init__(
        self,
        database: Database,
        keystore: Keystore,
        clock: Clock,
        random: Random,
        *,
        base_url: str | None,
        monotonic: Monotonic = time.monotonic,
    ) -> None:
        self._database = database
        self._keystore = keystore
        self._clock = clock
        self._random = random
        self._base_url = base_url
        self._monotonic = monotonic
        self._looked = float("-inf")
        self._held = HeldAuthorities()
        self._serials: frozenset[str] = frozenset()
        self._profiles: dict[str, Profile] = {}
        self._stored_profiles: dict[str, StoredProfile] = {}
        self._templates: dict[tuple[UUID, str], Template] = {}
        self._fingerprint: str | None = None
        self._listeners: list[Callable[[], None]] = []
        self._reading = asyncio.Lock()
        self._missing = asyncio.Lock()
        self._suspected = asyncio.Event()

    async def ensure(self) -> None:
        """Make the authorities if there are none, and read them.

        Raises:
            Refused: (unavailable) The database or a key cannot be used. (not found) There is no tenant `system` yet.
        """
        await found_authorities(self._database, self._keystore, self._clock, self._random, base_url=self._base_url)
        await self.refresh()

    # --- Following changes (rule 1) ---------------------------------------------------------------------------------

    async def refresh(self) -> bool:
        """Read what has changed, if anything has, and tell; raise `Refused` (unavailable) if the store is gone."""
        async with self._reading, self._database.transaction(EVERYWHERE) as transaction:  # they serve every tenant
            began = self._monotonic()
            seen = await fingerprint(transaction)
            if seen == self._fingerprint:
                self._looked = began
                return False
            profiles = await list_profiles(transaction)
            distrusted = await distrusted_keys(transaction)
            self._hold(await list_authorities(transaction), profiles, distrusted)
            self._fingerprint, self._looked = seen, began
        for listener in self._listeners:
            listener()
        return True

    async def look_for_missing(self) -> None:
        """Do the same for somebody who asks for what is not held: another worker may have made it a moment ago.

        Anybody may ask. So all who ask share a look that begins after they came, and there is one every
        `LOOK_FOR_MISSING` at most.
        """
        asked = self._monotonic()
        async with self._missing:
            if self._looked > asked:
                return
            await asyncio.sleep(max(0.0, self._looked + LOOK_FOR_MISSING - self._monotonic()))
            await self.refresh()

    def on_change(self, listener: Callable[[], None]) -> None:
        """Call `listener` whenever something else is held than before."""
        self._listeners.append(listener)

    def suspect(self) -> None:
        """Look at the store soon: events may have been missed."""
        self._suspected.set()

    def hear(self, kind: str, subject: str) -> None:
        """Take note of a change or an event, whatever it is about."""
        if kind.startswith(FOLLOWED) or (kind in _REVOCATIONS and subject in self._serials):
            self._suspected.set()

    async def follow(self, feed_is_healthy: Callable[[], bool]) -> None:
        """Keep what is held up to date until cancelled."""
        while True:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(LOOK if feed_is_healthy() else LOOK_UNFED):
                    await self._suspected.wait()
            self._suspected.clear()
            try:
                await self.refresh()
            except Refused as refused:
                _log.warning("authorities cannot be read now: %s", refused.reason)
                self._suspected.set()
                await asyncio.sleep(_RETRY)

    # --- What is held (`ca.held`) -----------------------------------------------------------------------------------

    @property
    def all(self) -> tuple[Authority, ...]:
        """All authorities, oldest first."""
        return tuple(self._held.by_id.values())

    @property
    def trusted(self) -> frozenset[UUID]:
        """The authorities of which what they signed counts."""
        return self._held.trusted

    @property
    def device_anchors(self) -> tuple[Anchor, ...]:
        """The authorities whose certificates prove devices."""
        return self._held.device_anchors

    @property
    def distrust(self) -> Distrust:
        """Which keys are believed no more, and by whom."""
        return self._held.distrust

    def by_id(self, identifier: UUID) -> Authority:
        """Return an authority; raise `Refused` (not found) if there is none of that id."""
        return self._held.one(identifier)

    def by_name(self, name: str) -> Authority:
        """Return the authority of just that name; raise `Refused` (not found) if there is none."""
        return self._held.named(name)

    async def published(self, name: str) -> Authority:
        """Do as `by_name` does, and find also one that another worker has just made."""
        if name not in self._held.by_name:
            await self.look_for_missing()
        return self._held.named(name)

    async def expect(self, identifier: UUID) -> None:
        """Look for an authority that something names, and that another worker may have just made, if it is not held."""
        if identifier not in self._held.by_id:
            await self.look_for_missing()

    async def sought(self, reference: str) -> Authority:
        """Do as `find` does, and find also one that another worker has just made."""
        try:
            return self._held.find(reference)
        except Refused:
            await self.look_for_missing()
            return self._held.find(reference)

    def find(self, reference: str) -> Authority:
        """Return the newest generation of a line, or one generation by its name or id; raise `Refused` (not found)."""
        return self._held.find(reference)

    def usable(self, tenant: Tenant, caller: Tenant, reference: str) -> Authority:
        """Return an authority that a caller may use for a tenant; raise `Refused` (not found) for any other."""
        return self._held.usable(tenant, caller, reference)

    def generations(self, identifier: UUID) -> tuple[Authority, ...]:
        """Return all authorities of the line of that authority, oldest first; raise `Refused` (not found)."""
        return self._held.generations(identifier)

    def is_certified_here(self, one: Authority) -> bool:
        """Tell whether who certified an authority has his key here: itself, or the one above it."""
        return self._held.is_certified_here(one)

    def has_certificate(self, serial: bytes) -> bool:
        """Tell whether the certificate of that serial number is an authority's own."""
        return serial.hex() in self._serials

    def anchors(self, identifiers: Iterable[UUID]) -> tuple[Anchor, ...]:
        """Return as anchors all trusted generations of these authorities' lines; of those that are gone, nothing."""
        return self._held.anchors(identifiers)

    def followed(self, pinned: Iterable[bytes], path: Sequence[UUID]) -> tuple[bytes, ...]:
        """Return what authorities' certificates (DER) stand for now, by what tenants of this path say."""
        return self._held.followed(pinned, path)

    def is_claimed(self, spki_sha256: bytes, path: Sequence[UUID]) -> bool:
        """Tell whether a tenant of this path has taken a key in as an external authority's."""
        return self._held.is_claimed(spki_sha256, path)

    def published_chain(self, identifier: UUID) -> tuple[bytes, ...]:
        """Return what a client that trusts this authority needs, in DER: it, those above it, and their rollovers."""
        return self._held.published_chain(identifier, self._clock())

    # --- Issuing (rule 2) -------------------------------------------------------------------------------------------

    def current(self, kind: AuthorityKind) -> Authority:
        """Return the node's own authority of a kind, in the generation that issues; raise `Refused` (not found)."""
        if kind.value not in self._held.lines:
            raise not_found(f"{kind} authority")
        return self._held.issuing(kind.value, self._clock()) or self._held.lines[kind.value][-1]

    def issuer(self, identifier: UUID) -> Authority:
        """Return the generation of that authority's line that issues now.

        Raises:
            Refused: (not found) There is no such authority. (unavailable) None of its line can issue.
        """
        line, now = self.generations(identifier), self._clock()
        found = self._held.issuing(line[-1].line, now)
        if found is None:
            found = self.with_root_key(line[-1])
            found.issuing(now)
        return found

    def profile(self, identifier: str) -> Profile:
        """Return a profile, packaged or written by an operator; raise `ProfileRefused` if there is none of that id."""
        found = packaged_profiles().get(identifier) or self._profiles.get(identifier)
        if found is None:
            raise ProfileRefused(f"no profile has the id {identifier!r}")
        return found

    def stored_profile(self, identifier: str) -> StoredProfile | None:
        """Return a profile that an operator wrote, as the store has it; None for the packaged ones."""
        return self._stored_profiles.get(identifier)

    def template(self, issuer: Authority, profile: str) -> Template:
        """Return what the issuer makes certificates of that profile by.

        Raises:
            Refused: (unavailable) The issuer cannot issue now, or its key is not at hand.
            ProfileRefused: No profile has that id.
        """
        signer = issuer.issuing(self._clock())
        key = (issuer.id, profile)
        found = self._templates.get(key)
        if found is None:
            found = Template(
                self.profile(profile), issuer.certificate, signer, issuer.addresses, longest=issuer.issuance
            )
            self._templates[key] = found
        return found

    def with_root_key(self, one: Authority) -> Authority:
        """Return the authority with its key, if that lies in a file that is here now."""
        if one.kind is not AuthorityKind.ROOT or one.signer is not None:
            return one
        return replace(one, signer=self._keystore.file_key(one.id))

    # --- Reading ----------------------------------------------------------------------------------------------------

    def _hold(
        self, stored: Sequence[StoredAuthority], profiles: Sequence[StoredProfile], deleted: Sequence[DistrustedKey]
    ) -> None:
        self._held = HeldAuthorities.of(_sound(self._open(one) for one in stored), deleted)
        self._serials = frozenset(one.serial.hex() for one in stored if one.serial is not None)
        self._stored_profiles = {str(one.id): one for one in profiles}
        self._profiles = dict(_readable(profiles))
        self._templates.clear()

    def _open(self, one: StoredAuthority) -> Authority:
        held = self._held.by_id.get(one.id)
        is_revoked = one.is_certificate_revoked
        return Authority(
            id=one.id,
            name=one.name,
            line=one.line,
            generation=one.generation,
            kind=one.kind,
            origin=one.origin,
            tenant=one.tenant,
            parent=one.parent,
            certificate=held.certificate if held and held.der == one.certificate else read_certificate(one.certificate),
            der=one.certificate,
            spki_sha256=one.spki_sha256,
            chain=one.chain,
            links=one.links,
            status=AuthorityStatus.REVOKED if is_revoked else one.status,
            profile=one.profile,
            signer=held.signer if held and held.signer else self._open_key(one),
            addresses=addresses_of(self._base_url, one.name, one.list_partitions[-1]),
            engine=one.key.engine if one.key else None,
            issuance=one.issuance,
        )

    def _open_key(self, one: StoredAuthority) -> MessageSigner | None:
        if one.key is None or one.key.backend is Backend.FILE:
            return None
        try:
            return self._keystore.signer(one.key)
        except Refused as refused:
            if one.origin is AuthorityOrigin.MANAGED and one.line in set(AuthorityKind):
                raise  # without the node's own authorities nothing works: that is to be seen at the start
            _log.warning("the authority %s cannot sign: %s", one.name, refused.reason)
            return None


def _sound(authorities: Iterable[Authority]) -> Iterator[Authority]:
    """Leave out what came from elsewhere and is no authority's certificate: nobody else's work ends because of it."""
    for one in authorities:
        try:
            _ = one.anchor
        except CertificateRefused as refused:
            if one.origin is not AuthorityOrigin.EXTERNAL:
                raise
            _log.error("the authority %s (%s) counts for nothing: %s", one.name, one.id, refused)
        else:
            yield one


def _readable(profiles: Iterable[StoredProfile]) -> Iterator[tuple[str, Profile]]:
    for one in profiles:
        try:
            yield str(one.id), replace(read_profile(one.settings), name=str(one.id))
        except ProfileRefused as refused:  # an earlier version took what this one does not: nothing is issued by it
            _log.error("the issuance profile %s (%s) cannot be used: %s", one.name, one.id, refused.reason)

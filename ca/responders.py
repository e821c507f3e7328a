"""Who answers OCSP for an authority: keys of their own, certified for a short while, made and renewed by themselves.

The rules:

1. Each authority has a responder, whose certificate the authority itself signed for OCSP alone (RFC 6960 4.2.2.2), and
   which nobody need check (id-pkix-ocsp-nocheck), since it is short-lived. The authority's own key signs no answer.
2. A new one is made at half of the last one's life. Its key is sealed in the store, so that every worker can use it.
3. Where the authority's key is away none is made, and the log says so every hour. Since that is the rule for the root,
   its responder lives longer. An authority whose period is over gets none; one that cannot be served keeps no other
   from it.
4. Certificate and key are on record before anybody uses them.
"""

import logging
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from uuid import UUID

from cryptography.hazmat.primitives.asymmetric import ec

from ca.authorities import Authorities
from ca.authority import Authority
from ca.issue import SERIAL_BYTES, Template, encoded_key, responder
from ca.keystore import Keystore
from ca.list_publishing import is_offline, is_published
from ca.ocsp import ResponderIdentity
from ca.recording import record_issued
from ca.service import NODE
from ca.signers import Signer
from ca.store.responders import (
    StoredResponder,
    insert_responder,
    lock_responder,
    newest_responder,
    responders_half,
)
from certs.pem import read_certificate
from certs.profile import load_profile
from iam.directory import Monotonic
from iam.errors import Refused
from iam.identifiers import Clock, Random, uuid7
from iam.store.database import EVERYWHERE, Change, Database, Transaction

_PROFILE = "responder"
_LOOK_AGAIN_SECONDS = 30.0
_LOOK_FOR_MISSING_SECONDS = 0.5
_SAY_AGAIN = timedelta(hours=1)
_COMMON_NAME_MAXIMUM = 64  # RFC 5280 appendix A.1: ub-common-name

_log = logging.getLogger("ca.responders")


@dataclass(frozen=True, slots=True)
class ResponderTerms:
    """How long responders' certificates live.

    Attributes:
        offline_life: Of an authority whose key may be away.
    """

    life: timedelta = timedelta(days=7)
    offline_life: timedelta = timedelta(days=90)


@dataclass(frozen=True, slots=True)
class _Held:
    identity: ResponderIdentity | None
    not_after: datetime | None
    looked: float


class Responders:
    """Makes responders, and gives them to whoever signs answers."""

    def __init__(
        self,
        database: Database,
        authorities: Authorities,
        keystore: Keystore,
        clock: Clock,
        random: Random,
        terms: ResponderTerms,
        *,
        monotonic: Monotonic = time.monotonic,
    ) -> None:
        self._database = database
        self._authorities = authorities
        self._keystore = keystore
        self._clock = clock
        self._random = random
        self._terms = terms
        self._monotonic = monotonic
        self._held: dict[UUID, _Held] = {}
        self._said: dict[UUID, datetime] = {}

    async def renew(self) -> int:
        """Make the responders that are due and return how many that were; for a job that runs every second or so."""
        async with self._database.transaction(EVERYWHERE) as transaction:  # an authority serves every tenant
            halves = await responders_half(transaction)
        made = 0
        for one in self._authorities.all:
            if not (self._is_due(one, halves) and is_published(one, self._clock())):
                continue
            try:
                made += await self._renew(one)
            except Refused as refused:
                self._say(one, refused.reason)
        return made

    async def provide(self, authority: Authority) -> bool:
        """Make one authority's responder if it is due, and tell whether it was.

        Raises:
            Refused: (unavailable) The store or the authority's key is gone.
        """
        if not is_published(authority, self._clock()):
            return False
        return await self._renew(authority)

    async def of(self, authority: Authority) -> tuple[ResponderIdentity, datetime] | None:
        """Return who answers for an authority, and until when he can; None if there is nobody."""
        held = self._held.get(authority.id)
        if held is None or self._is_old(held):
            held = await self._look_up(authority)
            self._held[authority.id] = held
        if held.identity is None or held.not_after is None or held.not_after <= self._clock():
            return None
        return held.identity, held.not_after

    def _is_old(self, held: _Held) -> bool:
        age = self._monotonic() - held.looked
        return age >= (_LOOK_FOR_MISSING_SECONDS if held.identity is None else _LOOK_AGAIN_SECONDS)

    async def _look_up(self, authority: Authority) -> _Held:
        looked = self._monotonic()
        async with self._database.transaction(EVERYWHERE) as transaction:  # as above
            stored = await newest_responder(transaction, authority.id)
        if stored is None:
            return _Held(None, None, looked)
        signer = self._keystore.open(stored.id, stored.key_sealed)
        identity = ResponderIdentity(read_certificate(stored.certificate), stored.certificate, signer)
        return _Held(identity, stored.not_after, looked)

    async def _renew(self, authority: Authority) -> bool:
        """Make a responder, unless the key is away or another node was first."""
        signer = self._authorities.with_root_key(authority).signer
        if signer is None:
            self._say(authority, "its key is away")
            return False
        async with self._database.transaction(EVERYWHERE) as transaction:  # as above
            await lock_responder(transaction, authority.id)
            if not self._is_due(authority, await responders_half(transaction)):
                return False
            await self._make(transaction, authority, signer)
        self._said.pop(authority.id, None)
        self._held.pop(authority.id, None)  # somebody may have looked when there was none
        return True

    def _is_due(self, authority: Authority, halves: Mapping[UUID, datetime]) -> bool:
        half = halves.get(authority.id)
        return half is None or self._clock() >= half

    async def _make(self, transaction: Transaction, authority: Authority, signer: Signer) -> None:
        now = self._clock()
        identifier, key = uuid7(now, self._random), ec.generate_private_key(ec.SECP256R1())
        life = self._terms.offline_life if is_offline(authority) else self._terms.life
        template = Template(replace(load_profile(_PROFILE), validity=life), authority.certificate, signer, None)
        holder = responder(f"OCSP responder of {authority.name}"[:_COMMON_NAME_MAXIMUM], encoded_key(key.public_key()))
        issued = await template.issue_in_turn(holder, now, self._random(SERIAL_BYTES))
        await record_issued(transaction, issued, authority.id, authority.tenant)
        sealed = self._keystore.seal(identifier, key)
        await insert_responder(
            transaction,
            StoredResponder(identifier, authority.id, issued.der, sealed, issued.not_before, issued.not_after),
        )
        data = {"profile": _PROFILE, "authority": authority.name, "device": None}
        await transaction.record(Change(authority.tenant, NODE, "certificate.issued", issued.serial.hex(), data))

    def _say(self, authority: Authority, why: str) -> None:
        """Write to the log that an authority gets no new responder, once an hour."""
        now = self._clock()
        if now - self._said.get(authority.id, now - _SAY_AGAIN) >= _SAY_AGAIN:
            self._said[authority.id] = now
            _log.warning("authority %s gets no new OCSP responder: %s", authority.name, why)

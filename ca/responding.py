"""Answering OCSP: which request gets which response, prepared once and given to all who ask the same.

The rules:

1. All certificates of a request are of one authority of ours, named by the hashes of its name and key; else the answer
   is `unauthorized` (RFC 5019 2.2.3), for a responder speaks for one authority. A serial number that the authority
   never issued is `unknown`.
2. A response without a nonce about one certificate that is known is prepared for all: kept in memory until half of
   its life is over, so many of them, the one asked for longest ago leaving first. Any other is signed for whoever asks
   and is not to be kept.
   It is kept by the request that asks for it and nothing else (`ca.ocsp.plain_request`), of which a certificate has but
   a few. Whatever else a request says, it gets that one: so nobody's variants take memory, or another's place.
3. A revocation, a hold or a release is heard of from its announcement, and looked for in the store every
   `LOOK_SECONDS`: what was prepared about that certificate is dropped. What was looked up meanwhile is given, not kept.
4. If the store was not seen for `BLIND_SECONDS`, nothing that is kept is given: what cannot be looked up is `tryLater`,
   and so is a request for an authority without a responder.
"""

import asyncio
import logging
import time
from collections import OrderedDict, defaultdict
from dataclasses import dataclass
from datetime import datetime, timedelta
from hashlib import sha256
from typing import Final
from uuid import UUID

from ca.authorities import Authorities
from ca.authority import Authority, AuthorityOrigin
from ca.inventory import stored_serial
from ca.ocsp import (
    IssuerName,
    ResponseStatus,
    Standing,
    StatusRefused,
    StatusRequest,
    build_response,
    error_response,
    issuer_names,
    plain_request,
    read_request,
)
from ca.responders import Responders
from ca.store.responders import changes_since, standings
from ca.store.revocation_lists import list_standings
from iam.directory import Monotonic
from iam.errors import Refused
from iam.identifiers import Clock
from iam.store.database import EVERYWHERE, Database

LOOK_SECONDS: Final = 0.5
BLIND_SECONDS: Final = 5.0
CAPACITY: Final = 20_000

_CHANGES_AT_ONCE = 10_000

_log = logging.getLogger("ca.responding")


@dataclass(frozen=True, slots=True)
class StatusAnswer:
    """A response, and how long it may be kept.

    Attributes:
        tag: Names the response.
        fresh_until: Until when it is given to all who ask the same; None if it is for one alone.
    """

    der: bytes
    tag: str = ""
    this_update: datetime | None = None
    next_update: datetime | None = None
    fresh_until: datetime | None = None

    def is_fresh(self, now: datetime) -> bool:
        """Tell whether it may be given to all who ask now, also if a clock was turned back since."""
        if self.this_update is None or self.fresh_until is None:
            return False
        return self.this_update <= now < self.fresh_until


class StatusService:
    """Answers requests.

    Args:
        life: How long an answer counts.
    """

    def __init__(
        self,
        database: Database,
        authorities: Authorities,
        responders: Responders,
        clock: Clock,
        *,
        life: timedelta,
        monotonic: Monotonic = time.monotonic,
        capacity: int = CAPACITY,
    ) -> None:
        self._database = database
        self._authorities = authorities
        self._responders = responders
        self._clock = clock
        self._life = life
        self._monotonic = monotonic
        self._capacity = capacity
        self._named: dict[IssuerName, UUID] = {}
        self._indexed: set[UUID] = set()
        self._kept: OrderedDict[bytes, tuple[bytes, StatusAnswer]] = OrderedDict()
        self._about: defaultdict[bytes, set[bytes]] = defaultdict(set)
        self._changes = 0
        self._known: dict[UUID, int] = {}
        self._seen: float | None = None

    async def answer(self, request: bytes) -> StatusAnswer:
        """Return the response to a request in DER; there always is one."""
        kept = self._find(request)
        if kept is not None:
            return kept
        try:
            read = read_request(request)
            plain = plain_request(read)
            return self._find(plain) or await self._make(plain, read)
        except StatusRefused as refused:
            _log.info("a request for OCSP gets %s: %s", refused.status.name.lower(), refused.reason)
            return StatusAnswer(error_response(refused.status))
        except Refused as refused:
            _log.warning("OCSP cannot answer now: %s", refused.reason)
            return StatusAnswer(error_response(ResponseStatus.TRY_LATER))

    def _find(self, plain: bytes | None) -> StatusAnswer | None:
        """Return what is kept for a request, if it may be given now."""
        kept = None if plain is None else self._kept.get(plain)
        if plain is None or kept is None:
            return None
        _, answer = kept
        if not (self._sees() and answer.is_fresh(self._clock())):
            self._drop(plain)
            return None
        self._kept.move_to_end(plain)
        return answer

    def forget(self, serial: bytes) -> None:
        """Drop what is prepared about a certificate."""
        self._changes += 1
        for request in tuple(self._about.get(serial, ())):
            self._drop(request)

    def clear(self) -> None:
        """Drop everything."""
        self._changes += 1
        self._kept.clear()
        self._about.clear()

    def hear(self, kind: str, subject: str) -> None:
        """Take note of a change or an event, whatever it is about."""
        if kind in {"certificate.revoked", "certificate.held", "certificate.released"}:
            self.forget(bytes.fromhex(subject))

    async def watch(self) -> None:
        """Look for changes in the store until cancelled (rule 3)."""
        while True:
            try:
                await self.look()
            except Refused as refused:
                _log.debug("changes cannot be looked for now: %s", refused.reason)
            await asyncio.sleep(LOOK_SECONDS)

    async def look(self) -> None:
        """Look for changes in the store once."""
        began = self._monotonic()
        async with self._database.transaction(EVERYWHERE) as transaction:  # an authority serves every tenant
            newest = {one: found.newest for one, found in (await list_standings(transaction)).items()}
            known = {one: self._known.get(one, 0) for one, number in newest.items() if number > self._known.get(one, 0)}
            changed = await changes_since(transaction, known, _CHANGES_AT_ONCE) if known else []
        if self._seen is None or len(changed) == _CHANGES_AT_ONCE:
            self.clear()
        for one in changed:
            self.forget(one.serial)
        self._known = newest
        self._seen = began

    def _sees(self) -> bool:
        return self._seen is not None and self._monotonic() - self._seen < BLIND_SECONDS

    async def _make(self, plain: bytes | None, request: StatusRequest) -> StatusAnswer:
        changes = self._changes
        if not self._is_known(request):
            await self._authorities.look_for_missing()
        authority = self._authority_of(request)
        serials = [stored_serial(one.serial) if one.serial > 0 else b"" for one in request.certificates]
        answering = await self._responders.of(authority)
        if answering is None:
            raise StatusRefused(ResponseStatus.TRY_LATER, f"the authority {authority.name} has no responder now")
        async with self._database.transaction(EVERYWHERE) as transaction:  # as above
            found = await standings(transaction, authority.id, serials)
        responder, until = answering
        this_update = self._clock().replace(microsecond=0)
        next_update = min(this_update + self._life, until.replace(microsecond=0))
        said = [found.get(serial, Standing.UNKNOWN) for serial in serials]
        response = build_response(
            responder,
            list(zip(request.certificates, said, strict=True)),
            nonce=request.nonce,
            this_update=this_update,
            next_update=next_update,
        )
        if plain is None or said[0] is Standing.UNKNOWN:
            return StatusAnswer(response)
        fresh_until = this_update + (next_update - this_update) / 2
        answer = StatusAnswer(response, sha256(response).hexdigest(), this_update, next_update, fresh_until)
        if changes == self._changes:
            return self._keep(plain, serials[0], answer)
        return answer

    def _is_known(self, request: StatusRequest) -> bool:
        """Tell whether each issuer that a request names is an authority that is held."""
        for one in self._authorities.all:
            if one.id not in self._indexed and one.origin is not AuthorityOrigin.EXTERNAL:
                self._indexed.add(one.id)
                self._named.update(dict.fromkeys(issuer_names(one.certificate), one.id))
        return all(one.issuer in self._named for one in request.certificates)

    def _authority_of(self, request: StatusRequest) -> Authority:
        """Return the one authority that a request is about (rule 1)."""
        self._is_known(request)
        named = {self._named.get(one.issuer) for one in request.certificates}
        found = [one for one in self._authorities.all if one.id in named]
        if len(named) > 1 or not found:
            raise StatusRefused(ResponseStatus.UNAUTHORIZED, "it is not about one authority of ours")
        return found[0]

    def _keep(self, request: bytes, serial: bytes, answer: StatusAnswer) -> StatusAnswer:
        """Keep an answer, unless another was made at the same time; return the one that is kept."""
        if request in self._kept:
            return self._kept[request][1]
        self._kept[request] = (serial, answer)
        self._about[serial].add(request)
        while len(self._kept) > self._capacity:
            self._drop(next(iter(self._kept)))
        return answer

    def _drop(self, request: bytes) -> None:
        gone = self._kept.pop(request, None)
        if gone is None:
            return
        serial, _ = gone
        self._about[serial].discard(request)
        if not self._about[serial]:
            del self._about[serial]

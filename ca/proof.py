"""Whom a client certificate proves: its chain, its record, its state; answered from memory where that is safe.

The rules:

1. The chain leads to one of our issuing authorities that is trusted now, at this time, for client authentication.
   Bootstrap certificates come from another authority and prove nobody; nor is anything believed that is sent beside it
   for a key of ours that is trusted no more (`ca.trust`).
2. The certificate is in the store byte for byte, active, and bound to an identity; the authority that it was issued by
   is trusted itself. Whether that identity may do anything is for its Access to say.
3. An answer is remembered by the SHA-256 of the certificate, as long as `fresh_for` says: long while revocations are
   heard of at once, a moment while they are not, by whichever of two clocks more time has passed (`Moment`). Refusals
   are never remembered.
4. An event about an identity's certificates drops what is remembered of it; an answer that was being looked up then is
   given and not remembered.
"""

import time
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from hashlib import sha256
from typing import Any

from ca.authorities import Authorities
from ca.inventory import ProvedCertificate, judge_presented, stored_serial
from ca.store.certificates import find_certificate
from certs.chain import Purpose, validate_chain
from certs.errors import CertificateRefused
from certs.pem import read_certificate
from iam.access import Authenticated, Denied
from iam.directory import Directory, Moment, Monotonic
from iam.errors import unauthenticated
from iam.identifiers import Clock
from iam.store.database import EVERYWHERE, Database
from iam.store.standing import Standing

CERTIFICATE_EVENTS = frozenset({"certificate.revoked", "device.renewed"})
"""What is told in `iam.events` about certificates; each has the `identity` in its data."""

_ENDING_EVENTS = CERTIFICATE_EVENTS | {"certificate.held"}
"""After which a certificate may prove nothing any more. That one proves again needs no event: rule 3."""


@dataclass(frozen=True, slots=True)
class _Remembered:
    proved: ProvedCertificate
    looked_up: Moment


class CertificateProver:
    """Tells whom a certificate proves.

    Args:
        fresh_for: How long an answer may be believed now.
        capacity: How many answers are remembered; the one asked for longest ago leaves first.
    """

    def __init__(
        self,
        database: Database,
        authorities: Authorities,
        clock: Clock,
        fresh_for: Callable[[], timedelta],
        *,
        monotonic: Monotonic = time.monotonic,
        capacity: int = 100_000,
    ) -> None:
        self._database = database
        self._authorities = authorities
        self._clock = clock
        self._monotonic = monotonic
        self._fresh_for = fresh_for
        self._capacity = capacity
        self._remembered: OrderedDict[bytes, _Remembered] = OrderedDict()
        self._of_identity: dict[str, set[bytes]] = {}
        self._events = 0

    async def identity_of_certificate(self, chain: Sequence[bytes]) -> ProvedCertificate:
        """Return whom a chain (DER, leaf first) proves now. That its holder has the key was shown by TLS.

        Raises:
            Refused: (unauthenticated) Nobody. (unavailable) The store cannot be asked.
        """
        if not chain:
            raise unauthenticated("no client certificate")
        now, key = Moment(self._clock(), self._monotonic()), sha256(chain[0]).digest()
        known = self._known(key, now)
        if known is not None:
            return known
        events = self._events
        proved = await self._look_up(chain, now.clock)
        if events == self._events:
            self._remember(key, _Remembered(proved, now))
        return proved

    def known(self, chain: Sequence[bytes]) -> ProvedCertificate | None:
        """Return the same from memory; None if the store must be asked."""
        now = Moment(self._clock(), self._monotonic())
        return self._known(sha256(chain[0]).digest(), now) if chain else None

    def _known(self, key: bytes, now: Moment) -> ProvedCertificate | None:
        remembered = self._remembered.get(key)
        if remembered is None:
            return None
        if remembered.looked_up.age_at(now) < self._fresh_for() and now.clock <= remembered.proved.not_after:
            self._remembered.move_to_end(key)
            return remembered.proved
        self._drop(key)
        return None

    def forget(self, identity: str) -> None:
        """Drop what is remembered of an identity's certificates."""
        self._events += 1
        for key in tuple(self._of_identity.get(identity, ())):
            self._drop(key)

    def clear(self) -> None:
        """Drop everything: events were missed."""
        self._events += 1
        self._remembered.clear()
        self._of_identity.clear()

    def hear(self, kind: str, data: Mapping[str, Any]) -> None:
        """Take note of a change or an event, whatever it is about."""
        identity = data.get("identity")
        if kind in _ENDING_EVENTS and identity is not None:
            self.forget(identity)

    async def _look_up(self, chain: Sequence[bytes], now: datetime) -> ProvedCertificate:
        try:
            leaf, *others = map(read_certificate, self._authorities.distrust.believable(chain, ()))
            validate_chain(leaf, others, self._authorities.device_anchors, now, purpose=Purpose.CLIENT_AUTH)
        except CertificateRefused as refusal:
            raise unauthenticated(refusal.reason) from refusal
        serial = stored_serial(leaf.serial_number)
        async with self._database.transaction(EVERYWHERE) as transaction:  # whose it is, is what is asked
            stored = await find_certificate(transaction, serial)
        judged = judge_presented(chain[0], stored, now, self._authorities.trusted)
        if isinstance(judged, Denied):
            raise unauthenticated(judged.reason)
        return ProvedCertificate(judged, serial, leaf.not_valid_after_utc)

    def _remember(self, key: bytes, one: _Remembered) -> None:
        self._remembered[key] = one
        self._of_identity.setdefault(one.proved.identity, set()).add(key)
        while len(self._remembered) > self._capacity:
            self._drop(next(iter(self._remembered)))

    def _drop(self, key: bytes) -> None:
        gone = self._remembered.pop(key, None)
        if gone is None:
            return
        keys = self._of_identity[gone.proved.identity]
        keys.discard(key)
        if not keys:
            del self._of_identity[gone.proved.identity]


class CertificateHolders:
    """Who holds a certificate, and what he may do now."""

    def __init__(self, prover: CertificateProver, directory: Directory) -> None:
        self._prover = prover
        self._directory = directory

    async def by_certificate(self, chain: Sequence[bytes]) -> Authenticated:
        """Return whom a chain (DER, leaf first) speaks for, as things are now.

        Raises:
            Refused: (unauthenticated) Nobody who may do anything. (unavailable) The store cannot be asked.
        """
        proved = await self._prover.identity_of_certificate(chain)
        return _authenticated(proved, await self._directory.standing(proved.identity))

    def known(self, chain: Sequence[bytes]) -> Authenticated | None:
        """Return the same where memory tells it, or None; raise `Refused` (unauthenticated) if he may do nothing."""
        proved = self._prover.known(chain)
        standing = self._directory.known(proved.identity) if proved else None
        return _authenticated(proved, standing) if proved and standing else None


def _authenticated(proved: ProvedCertificate, standing: Standing) -> Authenticated:
    if isinstance(standing.access, Denied):
        raise unauthenticated(standing.access.reason)
    return Authenticated(standing.access, proved.not_after, None, ("x5t",), proved.serial)

"""Whether what somebody was let in by still holds: asked for connections that live on.

The rules:

1. A session holds until it is ended. How long it lasts is no question here: nothing that it let in lasts longer.
2. A certificate holds while it is in force, or was superseded by one of the same key that is, and while the authority
   that issued it is trusted. What is on hold does not hold.
3. The store is asked, and the authorities are read again if they have changed: no memory could have missed an event.
"""

from collections.abc import Collection
from uuid import UUID

from ca.authorities import Authorities
from ca.store.certificates import authorities_of_proving
from iam.access import Proof, ProofKind
from iam.store.database import EVERYWHERE, Database
from iam.store.sessions import open_sessions

_AT_ONCE = 1000


class LastingProofs:
    """Tells which proofs hold no more."""

    def __init__(self, database: Database, authorities: Authorities) -> None:
        self._database = database
        self._authorities = authorities

    async def ended(self, proofs: Collection[Proof]) -> frozenset[Proof]:
        """Return those that hold no more; raise `Refused` (unavailable) if the store cannot be asked."""
        await self._authorities.refresh()
        asked, holding = list(proofs), set[Proof]()
        for start in range(0, len(asked), _AT_ONCE):
            holding |= await self._holding(asked[start : start + _AT_ONCE])
        return frozenset(asked) - holding

    async def _holding(self, proofs: Collection[Proof]) -> set[Proof]:
        serials = [one.id for one in proofs if one.kind is ProofKind.CERTIFICATE]
        sessions = [UUID(bytes=one.id) for one in proofs if one.kind is ProofKind.SESSION]
        async with self._database.transaction(EVERYWHERE) as transaction:  # connections of all tenants
            issued_by = await authorities_of_proving(transaction, serials) if serials else {}
            is_open = await open_sessions(transaction, sessions) if sessions else frozenset()
        trusted = self._authorities.trusted
        return {
            *(Proof(ProofKind.CERTIFICATE, serial) for serial, issuer in issued_by.items() if issuer in trusted),
            *(Proof(ProofKind.SESSION, one.bytes) for one in is_open),
        }

"""The lists that are given out: the newest of each scope, in memory.

The rules:

1. What is given out is at most `FRESH_SECONDS` older than the newest list in the store.
2. A list is read once, in parts, however many ask for it at that moment; all of them share the one copy.
3. So many bytes are kept; what was asked for longest ago leaves first.
"""

import asyncio
import time
from collections import OrderedDict, defaultdict
from dataclasses import dataclass
from uuid import UUID

from ca.authority import Authority
from ca.crl import RevocationList
from ca.partition import WHOLE, Partition
from ca.store.revocation_lists import newest_list, read_list
from iam.directory import Monotonic
from iam.errors import not_found
from iam.store.database import EVERYWHERE, Database

FRESH_SECONDS = 1.0

_Place = tuple[UUID, Partition, bool]


@dataclass(frozen=True, slots=True)
class _Kept:
    content: RevocationList
    looked: float


class ListShelf:
    """Gives out lists.

    Args:
        capacity: How many bytes of lists are kept; the one that is given out is kept in any case.
    """

    def __init__(self, database: Database, *, monotonic: Monotonic = time.monotonic, capacity: int = 256 << 20) -> None:
        self._database = database
        self._monotonic = monotonic
        self._capacity = capacity
        self._kept: OrderedDict[_Place, _Kept] = OrderedDict()
        self._size = 0
        self._reading: defaultdict[_Place, asyncio.Lock] = defaultdict(asyncio.Lock)

    async def current_list(
        self, authority: Authority, partition: Partition = WHOLE, *, is_delta: bool = False
    ) -> RevocationList:
        """Return the newest list of a scope; raise `Refused` (not found) if there is none."""
        place = (authority.id, partition, is_delta)
        kept = self._kept.get(place)
        if kept is None or not self._is_fresh(kept):
            async with self._reading[place]:
                kept = self._kept.get(place)
                if kept is None or not self._is_fresh(kept):
                    kept = await self._look(place, authority.name, kept)
        return kept.content

    def _is_fresh(self, kept: _Kept) -> bool:
        return self._monotonic() - kept.looked < FRESH_SECONDS

    async def _look(self, place: _Place, name: str, known: _Kept | None) -> _Kept:
        looked = self._monotonic()
        content = await self._read(place, known.content if known else None)
        if content is None:
            self._reading.pop(place, None)  # whoever asks for what is not there leaves nothing behind
            raise not_found(f"revocation list of {name}")
        kept = _Kept(content, looked)
        self._size += len(content.der) - (len(known.content.der) if known else 0)
        self._kept[place] = kept
        self._kept.move_to_end(place)
        while self._size > self._capacity and len(self._kept) > 1:
            _, gone = self._kept.popitem(last=False)
            self._size -= len(gone.content.der)
        return kept

    async def _read(self, place: _Place, known: RevocationList | None) -> RevocationList | None:
        authority, partition, is_delta = place
        async with self._database.transaction(EVERYWHERE) as transaction:  # lists belong to no tenant
            while True:
                stored = await newest_list(transaction, authority, partition, is_delta=is_delta)
                if stored is None:
                    return None
                if known is not None and known.number == stored.number:
                    return known
                content = await read_list(transaction, authority, partition, stored)
                if content is not None:  # else it was replaced meanwhile
                    return content

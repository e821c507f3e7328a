"""Publishing lists: the revocation lists of every authority, made when they are due.

The rules:

1. A revocation that was acknowledged is in the next list of its authority and of its partition, complete or delta: a
   list has whatever is committed when it is begun. Nobody who revokes waits for one that is being made.
2. Of each scope one list is made at a time, whichever node makes it, and numbers rise by one.
3. An authority whose key is not at hand publishes nothing new; its last list stands, and the log says so every hour
   until the key is back. An authority whose key may be away (the root) has lists of a longer life and no deltas. One
   whose period is over publishes nothing more.
4. An authority without news costs no more than being looked at; one that cannot be served keeps no other from it.
"""

import asyncio
import logging
import time
from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from uuid import UUID

from ca.authorities import Authorities
from ca.authority import Authority, AuthorityOrigin
from ca.crl import Scope, Step, build_revocation_list, next_step
from ca.inventory import AuthorityKind
from ca.partition import COUNTS, SLOTS, WHOLE, Partition, counts_after, partitions_of
from ca.signers import Signer
from ca.store.authorities import system_tenant
from ca.store.revocation_lists import (
    Heads,
    ListStanding,
    complete_entries,
    delta_base,
    delta_entries,
    forget_ended,
    insert_list,
    list_heads,
    list_standings,
    lock_counts,
    lock_lists,
    newest_by_slot,
    set_counts,
)
from iam.clock import CLOCK_MAY_GO_BACK
from iam.directory import Monotonic
from iam.errors import Refused, conflict, malformed
from iam.identifiers import Clock
from iam.store.database import EVERYWHERE, Change, Database, Transaction

_SAY_AGAIN = timedelta(hours=1)

_log = logging.getLogger("ca.list_publishing")


@dataclass(frozen=True, slots=True)
class ListTerms:
    """How long lists live.

    Attributes:
        life: Of a complete list.
        offline_life: Of a list of an authority whose key may be away.
        delta_life: Of a delta list.
    """

    life: timedelta = timedelta(hours=24)
    offline_life: timedelta = timedelta(days=90)
    delta_life: timedelta = timedelta(hours=1)

    def life_of(self, authority: Authority) -> timedelta:
        """Return how long a complete list of an authority lives."""
        return self.offline_life if is_offline(authority) else self.life


def is_offline(authority: Authority) -> bool:
    """Tell whether an authority's key may be away: a root's that is not held in memory lies in a file."""
    return authority.kind is AuthorityKind.ROOT and authority.signer is None


def is_published(authority: Authority, now: datetime) -> bool:
    """Tell whether we speak for an authority: its key is ours, and its period is not over."""
    return authority.origin is not AuthorityOrigin.EXTERNAL and not authority.has_expired(now)


def has_deltas(authority: Authority) -> bool:
    """Tell whether an authority has delta lists: a complete one must be able to say where they are."""
    return authority.addresses is not None and not is_offline(authority)


@dataclass(slots=True)
class _Watched:
    """What is remembered of an authority between two looks at it (rule 4)."""

    newest: list[int] = field(default_factory=lambda: [0] * SLOTS)
    standing: ListStanding | None = None
    looked: datetime | None = None
    look_again: datetime | None = None

    def is_quiet(self, standing: ListStanding, now: datetime) -> bool:
        """Tell whether nothing has come since the last look, nor any time; a clock may have been turned back."""
        if self.looked is None or self.look_again is None:
            return False
        return self.standing == standing and self.looked <= now < self.look_again

    def newest_in(self, partition: Partition) -> int:
        """Return the number of the newest change in a partition."""
        return max(self.newest[slot] for slot in partition.slots)


@dataclass(frozen=True, slots=True)
class _Work:
    """The lists of one scope, and the key that signs them."""

    authority: UUID
    scope: Scope
    signer: Signer
    life: timedelta


class ListPublisher:
    """Makes lists when they are due."""

    def __init__(
        self,
        database: Database,
        authorities: Authorities,
        clock: Clock,
        terms: ListTerms,
        *,
        monotonic: Monotonic = time.monotonic,
    ) -> None:
        self._database = database
        self._authorities = authorities
        self._clock = clock
        self._monotonic = monotonic
        self._terms = terms
        self._watched: dict[UUID, _Watched] = {}
        self._said: dict[UUID, datetime] = {}

    async def publish_lists(self) -> int:
        """Make the lists that are due; return of how many scopes. For a job that runs every second or so."""
        async with self._database.transaction(EVERYWHERE) as transaction:  # an authority serves every tenant
            standings = await list_standings(transaction)
        made = 0
        for one in self._authorities.all:
            if one.id not in standings or not is_published(one, self._clock()):
                continue
            try:
                made += await self._look_at(one, standings[one.id])
            except Refused as refused:
                self._say(one, f"no new revocation list can be made: {refused.reason}")
        return made

    async def publish(self, authority: Authority) -> int:
        """Make the lists of one authority that are due, as `publish_lists` does; return of how many scopes.

        Raises:
            Refused: (unavailable) The store or the authority's key is gone.
        """
        async with self._database.transaction(EVERYWHERE) as transaction:  # as above
            standing = (await list_standings(transaction)).get(authority.id)
        if standing is None or not is_published(authority, self._clock()):
            return 0
        return await self._look_at(authority, standing)

    async def set_partitions(self, authority: Authority, count: int, *, actor: str) -> None:
        """Cut an authority's lists into so many partitions, for certificates that are issued from now on.

        Raises:
            Refused: (malformed) There cannot be so many. (conflict) Lists have no address that certificates could name.
        """
        if count not in COUNTS:
            raise malformed(f"Lists are cut into {', '.join(map(str, COUNTS))} partitions.")
        if count != WHOLE.count and authority.addresses is None:
            raise conflict("Partitions need an address: ca.publication_url is not configured.")
        async with self._database.transaction(EVERYWHERE) as transaction:  # as above
            counts = await lock_counts(transaction, authority.id)
            await set_counts(transaction, authority.id, counts_after(counts, count))
            tenant = await system_tenant(transaction)
            data = {"id": str(authority.id), "partitions": count}
            await transaction.record(Change(tenant, actor, "authority.partitioned", authority.name, data))

    async def _look_at(self, authority: Authority, standing: ListStanding) -> int:
        """Make what is due of one authority, and remember until when there is nothing to do."""
        watched = self._watched.setdefault(authority.id, _Watched())
        looked = self._clock()
        if watched.is_quiet(standing, looked):
            return 0
        watched.standing = None
        partitions = partitions_of(standing.counts)
        async with self._database.transaction(EVERYWHERE) as transaction:  # as above
            changed = await newest_by_slot(transaction, authority.id, max(watched.newest))
            heads = await list_heads(transaction, authority.id, partitions)
        for slot, number in changed.items():
            watched.newest[slot] = number
        newest = {one: watched.newest_in(one) for one in partitions}
        with_delta = has_deltas(authority)
        due = [
            one for one in partitions if self._step(heads[one], newest[one], has_deltas=with_delta) is not Step.NOTHING
        ]
        signer = self._authorities.with_root_key(authority).signer
        if signer is None:
            if due:
                last = heads[WHOLE].complete
                until = f"the last one ends at {last.next_update:%F %H:%M} UTC" if last else "there is none"
                self._say(authority, f"its key is away, so it has no new revocation list; {until}")
            return 0
        made = [await self._publish(self._work(authority, signer, one), newest[one]) for one in due]
        async with self._database.transaction(EVERYWHERE) as transaction:  # as above
            if any(made):
                ended = _last_made(heads.values(), self._clock()) - CLOCK_MAY_GO_BACK
                await forget_ended(transaction, authority.id, ended)
            heads = await list_heads(transaction, authority.id, partitions)
        self._said.pop(authority.id, None)
        watched.standing, watched.looked = standing, looked
        watched.look_again = min(self._due(heads[one], newest[one], has_deltas=with_delta) for one in partitions)
        return sum(made)

    def _work(self, authority: Authority, signer: Signer, partition: Partition) -> _Work:
        addresses = authority.addresses
        address = None if addresses is None else partition.address(addresses.revocation_list)
        scope = Scope(authority.certificate, partition, address, has_deltas(authority))
        return _Work(authority.id, scope, signer, self._terms.life_of(authority))

    def _step(self, heads: Heads, newest: int, *, has_deltas: bool) -> Step:
        return next_step(heads.complete, heads.delta, newest, self._clock(), has_deltas=has_deltas)

    def _due(self, heads: Heads, newest: int, *, has_deltas: bool) -> datetime:
        wanted = (heads.complete, heads.delta) if has_deltas else (heads.complete,)
        return min(self._clock() if one is None else one.due(newest) for one in wanted)

    async def _publish(self, work: _Work, newest: int) -> bool:
        """Make what is due of one scope, unless another node was first (rule 2)."""
        partition, with_delta = work.scope.partition, work.scope.has_deltas
        async with self._database.transaction(EVERYWHERE) as transaction:  # as above
            until = await lock_lists(transaction, work.authority, partition)
            heads = (await list_heads(transaction, work.authority, [partition]))[partition]
            step = self._step(heads, newest, has_deltas=with_delta)
            if step is Step.BOTH:
                await self._make_complete(transaction, work, heads, until)
            if step is not Step.NOTHING and with_delta:
                await self._make_delta(transaction, work, heads, until)
        return step is not Step.NOTHING

    async def _make_complete(self, transaction: Transaction, work: _Work, heads: Heads, until: int) -> None:
        began, now = self._monotonic(), self._clock()
        # A list of the future was made by a clock that was ahead: what it left out has not ended.
        ended_after = min(heads.complete.this_update, now) if heads.complete else now
        entries = await complete_entries(transaction, work.authority, work.scope.partition, ended_after)
        # In a thread: a long list takes a while to hash.
        made = await asyncio.to_thread(
            build_revocation_list,
            work.scope,
            work.signer,
            entries,
            number=heads.number + 1,
            now=now,
            life=work.life,
        )
        seconds = self._monotonic() - began
        scope = (work.authority, work.scope.partition)
        await insert_list(transaction, *scope, made, revocation_number=until, seconds=seconds)

    async def _make_delta(self, transaction: Transaction, work: _Work, heads: Heads, until: int) -> None:
        began, now = self._monotonic(), self._clock()
        scope = (work.authority, work.scope.partition)
        base = await delta_base(transaction, *scope)
        if base is None:
            return  # a clock was turned back: there is nothing that a delta could be about
        entries = await delta_entries(transaction, *scope, base.revocation_number)
        made = await asyncio.to_thread(
            build_revocation_list,
            work.scope,
            work.signer,
            entries,
            number=heads.number + 1,
            now=now,
            life=self._terms.delta_life,
            base_number=base.number,
        )
        seconds = self._monotonic() - began
        await insert_list(transaction, *scope, made, revocation_number=until, seconds=seconds)

    def _say(self, authority: Authority, what: str) -> None:
        """Write to the log what is wrong with an authority, once an hour."""
        now = self._clock()
        if now - self._said.get(authority.id, now - _SAY_AGAIN) >= _SAY_AGAIN:
            self._said[authority.id] = now
            _log.warning("authority %s: %s", authority.name, what)


def _last_made(heads: Iterable[Heads], now: datetime) -> datetime:
    """Return since when each scope has had a complete list; now, where it has none or one of the future."""
    return min([now, *(one.complete.this_update for one in heads if one.complete is not None)])

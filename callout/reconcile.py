"""A change of access reaches live connections: which of them have to go.

1. A connection that runs on another access control list than its identity has now is cut; so is every one of an
   identity that has no access. A client that is cut comes back and is judged anew; one whose topics are the same
   as before notices nothing.
2. An event that touches an identity through what it proves itself by (its kind begins with one of `PROOFS`) cuts all
   connections of that identity: a broker does not tell what a connection was proved by, and whoever still has a valid
   credential is back at once. The connections that were accepted before the
   event, and were being set up while it came, are cut when they appear.
3. A connection is looked at when it appears, since its permissions may have been made before a change that came
   while it was being set up; at each event that touches its identity; and in a sweep over all that there are, which
   mends whatever was lost on the way.
4. If an event touches an identity and it cannot be told what it may do now, its connections are cut. A sweep that
   cannot tell leaves them: a database that is away for a while disconnects nobody.
5. Access is asked for after the event was applied to the directory: whoever passes events on calls `heard` then.
6. A cut that no server acknowledged is owed: it is tried again every second, in every sweep and when the connection
   appears anew, until it is acknowledged or the connection is gone. Of the cuts that one server owes, one is tried,
   and the others once that succeeds.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Coroutine, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Protocol

from callout.connections import Connection, Connections, Key
from callout.permissions import PreparedPermissions
from iam.access import Access, Denied
from iam.errors import Refused
from iam.events import Affected, Event
from iam.identifiers import Clock


class CurrentAccess(Protocol):
    """Tells what an identity may do now: `iam.directory`."""

    async def access(self, identity: str) -> Access | Denied:
        """Return it, or why nothing; raise `Refused` (unavailable) if it cannot be told."""

    def known_access(self, identity: str) -> Access | Denied | None:
        """Return the same from memory; None if the store must be asked."""


Kick = Callable[[Key], Awaitable[bool]]
"""Cuts a connection, and tells whether that was acknowledged; one that is already gone is no fault."""

PROOFS = ("certificate.", "credential.", "device.renewed", "session.")
"""How the kinds of the events of rule 2 begin. A renewal touches its identity only if it came with a new key."""

SETTING_UP = timedelta(seconds=10)
"""No connection takes longer from being accepted to appearing; the brokers' own timeouts are shorter."""

OTHER_NODES_HEAR_WITHIN = timedelta(milliseconds=250)
"""Another node may let somebody in by what it knew before an event, for this long after we heard of it."""

OWED_RETRY_SECONDS = 1.0
OWED_FOR = timedelta(days=1)
"""A server that was not reached for so long counts as gone for good."""

_AT_ONCE = 64

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class _Suspicion:
    """Connections of an identity that were accepted before this may rest on a proof that no longer holds (rule 2)."""

    accepted_before: datetime
    forgotten: datetime


@dataclass(frozen=True, slots=True)
class _Owed:
    """A cut that nobody acknowledged yet (rule 6)."""

    connection: Connection
    why: str
    forgotten: datetime


class Reconciler:
    """Keeps the live connections and what their identities may do in agreement."""

    def __init__(self, kick: Kick, current_access: CurrentAccess, clock: Clock) -> None:
        self._kick = kick
        self._current = current_access
        self._clock = clock
        self._prepared = PreparedPermissions()
        self._suspicions: dict[str, _Suspicion] = {}
        self._at_once = asyncio.Semaphore(_AT_ONCE)
        self._owed: dict[Key, _Owed] = {}
        self._paying: asyncio.Task[None] | None = None
        self.connections = Connections()

    async def heard(self, event: Event) -> None:
        """Cut what an event leaves without right (rules 1, 2 and 4)."""
        effects = event.effects
        if not effects:
            return
        touched = [effect.id for effect in effects if effect.kind is Affected.IDENTITY]
        if event.kind.startswith(PROOFS):
            self._suspect(touched)
            await self._cut([each for identity in touched for each in self.connections.of(identity)], event.kind)
        if any(effect.kind is not Affected.IDENTITY for effect in effects):
            touched = list(self.connections.identities)
        await self._compare(touched, event.kind, leave_if_unknown=False)

    def appeared(self, connection: Connection) -> Coroutine[Any, Any, None] | None:
        """Take note of a new connection and look at it (rule 3); return what is to be awaited, if anything is."""
        self.connections.add(connection)
        suspicion = self._suspicions.get(connection.identity)
        owed = self._owed.get(connection.key)
        if owed is not None:
            return self._cut([connection], owed.why)
        if suspicion is not None and connection.accepted < suspicion.accepted_before:
            return self._cut([connection], "a proof that no longer holds")
        known = self._current.known_access(connection.identity)
        if isinstance(known, Access) and connection.acl_digest == self._prepared.of(known).acl_digest:
            return None
        return self._compare([connection.identity], "what changed meanwhile", leave_if_unknown=True)

    def disappeared(self, key: Key) -> None:
        """Take note that a connection is gone."""
        self.connections.remove(key)
        self._owed.pop(key, None)

    async def sweep(self, listed: Mapping[str, Sequence[Connection]], asked: datetime) -> None:
        """Look at all connections; `listed` are those that each server named when it was asked."""
        self.connections.replace(listed, asked - SETTING_UP)
        present = {connection.key for connections in listed.values() for connection in connections}
        for each in [one.connection for one in self._owed.values()]:
            if each.server in listed and each.key not in present and each.accepted < asked - SETTING_UP:
                del self._owed[each.key]
        await self._pay()
        await self._compare(self.connections.identities, "the sweep", leave_if_unknown=True)

    async def _compare(self, identities: Sequence[str], why: str, *, leave_if_unknown: bool) -> None:
        """Cut the connections of `identities` that run on another list than they have now."""

        async def stale(identity: str) -> list[Connection]:
            held = self.connections.of(identity)
            if not held:
                return []
            async with self._at_once:
                try:
                    access = await self._current.access(identity)
                except Refused as refusal:
                    _log.warning("cannot tell what %s may do: %s", identity, refusal.reason)
                    return [] if leave_if_unknown else list(held)
            if isinstance(access, Denied):
                return list(held)
            digest = self._prepared.of(access).acl_digest
            return [connection for connection in held if connection.acl_digest != digest]

        found = await asyncio.gather(*(stale(identity) for identity in identities))
        await self._cut([connection for each in found for connection in each], why)

    async def _cut(self, connections: Sequence[Connection], why: str) -> None:
        await asyncio.gather(*(self._cut_one(connection, why) for connection in connections))
        if self._owed and (self._paying is None or self._paying.done()):
            self._paying = asyncio.create_task(self._pay_until_none_is_owed())

    async def _cut_one(self, connection: Connection, why: str) -> bool:
        async with self._at_once:
            is_cut = await self._kick(connection.key)
        if is_cut:
            self.disappeared(connection.key)
            _log.info("cut connection %d of %s: %s", connection.number, connection.identity, why)
        elif connection.key not in self._owed and self._is_there(connection):
            self._owed[connection.key] = _Owed(connection, why, self._clock() + OWED_FOR)
            _log.warning(
                "connection %d of %s at server %s could not be cut yet: %s",
                connection.number,
                connection.identity,
                connection.server,
                why,
            )
        return is_cut

    def _is_there(self, connection: Connection) -> bool:
        return any(each.key == connection.key for each in self.connections.of(connection.identity))

    async def _pay_until_none_is_owed(self) -> None:
        while self._owed:
            await asyncio.sleep(OWED_RETRY_SECONDS)
            await self._pay()

    async def _pay(self) -> None:
        """Try again what is owed (rule 6)."""
        now = self._clock()
        self._owed = {key: each for key, each in self._owed.items() if each.forgotten > now}
        by_server: dict[str, list[_Owed]] = {}
        for each in self._owed.values():
            by_server.setdefault(each.connection.server, []).append(each)

        async def pay(first: _Owed, *others: _Owed) -> None:
            if await self._cut_one(first.connection, first.why):
                await asyncio.gather(*(self._cut_one(each.connection, each.why) for each in others))

        await asyncio.gather(*(pay(*owed) for owed in by_server.values()))

    def _suspect(self, identities: Iterable[str]) -> None:
        now = self._clock()
        self._suspicions = {key: each for key, each in self._suspicions.items() if each.forgotten > now}
        suspicion = _Suspicion(now + OTHER_NODES_HEAR_WITHIN, now + SETTING_UP)
        self._suspicions |= dict.fromkeys(identities, suspicion)

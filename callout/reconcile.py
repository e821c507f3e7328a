"""A change of access reaches live connections: which of them have to go.

1. A connection that runs on another access control list than its identity has now is cut; so is every one of an
   identity that has no access. A client that is cut comes back and is judged anew; one whose topics are the same
   as before notices nothing.
2. A connection that was proved by what holds no more is cut, whatever its topics; its name tells what it was proved by,
   and the store whether that still holds. That is asked when an event touches the identity through what it proves
   itself by (its kind begins with one of `PROOFS`), and in each sweep.
3. A connection is looked at when it appears, since its permissions may have been made before a change that came
   while it was being set up; at each event that touches its identity; and in a sweep over all that there are, which
   mends whatever was lost on the way.
4. For a while after an event of rule 2, and after a watch began, whoever appears is asked for in the store too: another
   worker may have let him in by what it remembered. What appears at once is asked for together.
5. If an event touches an identity and it cannot be told in time what it may do now, or whether its proofs hold, its
   connections are cut. A sweep that cannot tell leaves them: a database that is away for a while disconnects nobody.
6. Access is asked for after the event was applied to the directory: whoever passes events on calls `heard` then. Events
   that wait together are acted on together, and what touches everybody holds up nothing that touches one.
7. A cut that no server acknowledged is owed: it is tried again every second, in every sweep and when the connection
   appears anew, until it is acknowledged or the connection is gone. Of the cuts of one server, one is tried, and the
   others once that succeeds: so a silent server holds up no other.
8. Here time only passes: by a monotonic clock, whatever the time of day is set to.
"""

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Collection, Coroutine, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from callout.connections import Connection, Connections, Key
from callout.permissions import PreparedPermissions
from iam.access import Access, Denied, Proof
from iam.directory import Monotonic
from iam.errors import Refused
from iam.events import Affected, Event


class CurrentAccess(Protocol):
    """Tells what an identity may do now: `iam.directory`."""

    async def access(self, identity: str) -> Access | Denied:
        """Return it, or why nothing; raise `Refused` (unavailable) if it cannot be told."""

    def known_access(self, identity: str) -> Access | Denied | None:
        """Return the same from memory; None if the store must be asked."""


Kick = Callable[[Key], Awaitable[bool]]
"""Cuts a connection, and tells whether that was acknowledged; one that is already gone is no fault."""

EndedProofs = Callable[[Collection[Proof]], Awaitable[frozenset[Proof]]]
"""Tells from the store which proofs hold no more; raises `Refused` (unavailable) if that cannot be told."""

PROOFS = ("certificate.", "credential.", "device.renewed", "session.")
"""How the kinds of the events of rule 2 begin. A renewal touches its identity only if it came with a new key."""

SETTING_UP_SECONDS = 10.0
"""No connection takes longer from being accepted to appearing; and no worker believes so long what is no more so."""

OWED_RETRY_SECONDS = 1.0
OWED_FOR_SECONDS = 24 * 3600.0
"""A server that was not reached for so long counts as gone for good."""

KNOWN_WITHIN_SECONDS = 1.0
"""Of rule 5: longer than that nobody waits to hear what he may do now."""

_TOGETHER_SECONDS = 0.1
_AT_ONCE = 64

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class _Owed:
    """A cut that is still to be acknowledged (rule 7)."""

    connection: Connection
    why: str
    forgotten: float


class Reconciler:
    """Keeps live connections in step with access.

    Args:
        ended_proofs: Asked for connections that live (rule 2).

    Attributes:
        connections: All that there are, as far as it is known.
    """

    def __init__(
        self,
        kick: Kick,
        current_access: CurrentAccess,
        ended_proofs: EndedProofs,
        *,
        monotonic: Monotonic = time.monotonic,
    ) -> None:
        self._kick = kick
        self._current = current_access
        self._ended_proofs = ended_proofs
        self._monotonic = monotonic
        self._prepared = PreparedPermissions()
        self._kicks = asyncio.Semaphore(_AT_ONCE)
        self._reads = asyncio.Semaphore(_AT_ONCE)
        self._reads_of_all = asyncio.Semaphore(_AT_ONCE // 2)
        self._suspected: dict[str, float] = {}
        self._all_suspected_until = monotonic() + SETTING_UP_SECONDS
        self._unsure: dict[Key, Connection] = {}
        self._looking: asyncio.Task[None] | None = None
        self._owed: dict[Key, _Owed] = {}
        self._paying: asyncio.Task[None] | None = None
        self.connections = Connections()

    async def heard(self, *events: Event) -> None:
        """Cut what these events leave without right (rules 1, 2 and 5)."""
        touched: dict[str, str] = {}
        proofs: dict[str, str] = {}
        of_all = ""
        for event in events:
            named = [effect.id for effect in event.effects if effect.kind is Affected.IDENTITY]
            touched |= dict.fromkeys(named, event.kind)
            if event.kind.startswith(PROOFS):
                proofs |= dict.fromkeys(named, event.kind)
            if len(named) < len(event.effects):
                of_all = event.kind
        self._suspect(proofs)
        await asyncio.gather(
            self._judge_proofs(self._held_by(proofs), proofs, leave_if_unknown=False),
            self._compare(touched, leave_if_unknown=False),
        )
        if of_all:
            everybody = dict.fromkeys(self.connections.identities, of_all)
            await self._compare(everybody, leave_if_unknown=False, is_everybody=True)

    def appeared(self, connection: Connection) -> Coroutine[Any, Any, None] | None:
        """Take note of a new connection and look at it (rules 3 and 4); return what is to be awaited, if anything."""
        self.connections.add(connection)
        owed = self._owed.get(connection.key)
        if owed is not None:
            return self._cut([(connection, owed.why)])
        if self._is_suspected(connection.identity):
            self._unsure[connection.key] = connection
            if self._looking is None or self._looking.done():
                self._looking = asyncio.create_task(self._look_at_unsure())
        known = self._current.known_access(connection.identity)
        if isinstance(known, Access) and connection.acl_digest == self._prepared.of(known).acl_digest:
            return None
        changed = {connection.identity: "what changed meanwhile"}
        return self._compare(changed, leave_if_unknown=True)

    def disappeared(self, key: Key) -> None:
        """Take note that a connection is gone."""
        self.connections.remove(key)
        self._owed.pop(key, None)
        self._unsure.pop(key, None)

    def mistrust(self) -> None:
        """Ask for everybody who appears from now on (rule 4): what came before us, nobody told us."""
        self._all_suspected_until = self._monotonic() + SETTING_UP_SECONDS

    async def sweep(self, listed: Mapping[str, Sequence[Connection]], asked: float) -> None:
        """Look at all connections; `listed` are those that each server named when it was asked."""
        self.connections.replace(listed, asked - SETTING_UP_SECONDS)
        present = {connection.key for connections in listed.values() for connection in connections}
        for each in [one.connection for one in self._owed.values()]:
            if each.server in listed and each.key not in present and each.accepted < asked - SETTING_UP_SECONDS:
                del self._owed[each.key]
        await self._pay()
        everybody = dict.fromkeys(self.connections.identities, "the sweep")
        await self._judge_proofs(list(self.connections), everybody, leave_if_unknown=True)
        await self._compare(everybody, leave_if_unknown=True, is_everybody=True)

    async def finish(self) -> None:
        """Give up what waits for later."""
        for task in (self._looking, self._paying):
            if task is not None:
                task.cancel()
                await asyncio.wait([task])

    async def _compare(self, whom: Mapping[str, str], *, leave_if_unknown: bool, is_everybody: bool = False) -> None:
        """Cut the connections of identities that run on another list than they have now; `whom` says of each why.

        Where it is everybody, they have a way to the store of their own (rule 6), and the store takes its time.
        """
        reads = self._reads_of_all if is_everybody else self._reads
        seconds = None if is_everybody else KNOWN_WITHIN_SECONDS

        async def stale(identity: str) -> list[Connection]:
            held = self.connections.of(identity)
            if not held:
                return []
            async with reads:
                try:
                    async with asyncio.timeout(seconds):
                        access = await self._current.access(identity)
                except Exception as error:
                    _log.warning("cannot tell what %s may do: %s", identity, _why(error))
                    if not leave_if_unknown:  # whatever it was
                        return list(held)
                    if not isinstance(error, Refused | TimeoutError):
                        raise
                    return []
            if isinstance(access, Denied):
                return list(held)
            digest = self._prepared.of(access).acl_digest
            return [connection for connection in held if connection.acl_digest != digest]

        found = await asyncio.gather(*(stale(identity) for identity in whom))
        await self._cut([(connection, whom[connection.identity]) for each in found for connection in each])

    async def _judge_proofs(
        self, held: Sequence[Connection], whom: Mapping[str, str], *, leave_if_unknown: bool
    ) -> None:
        """Cut those of these connections whose proof holds no more (rule 2)."""
        if not held:
            return
        try:
            async with asyncio.timeout(None if leave_if_unknown else KNOWN_WITHIN_SECONDS):
                ended = await self._ended_proofs({connection.proof for connection in held})
        except Exception as error:
            _log.warning("cannot tell whether the proofs of %d connections hold: %s", len(held), _why(error))
            if leave_if_unknown:
                if not isinstance(error, Refused | TimeoutError):
                    raise
                return
            ended = frozenset(connection.proof for connection in held)
        await self._cut([(each, whom[each.identity]) for each in held if each.proof in ended])

    async def _look_at_unsure(self) -> None:
        """Judge together what has appeared and may rest on a proof that holds no more (rule 4)."""
        while self._unsure:
            await asyncio.sleep(_TOGETHER_SECONDS)
            held, self._unsure = list(self._unsure.values()), {}
            whom = dict.fromkeys((each.identity for each in held), "a proof that no longer holds")
            touched = [each for each in held if each.identity in self._suspected]
            others = [each for each in held if each.identity not in self._suspected]
            await asyncio.gather(
                self._judge_proofs(touched, whom, leave_if_unknown=False),
                self._judge_proofs(others, whom, leave_if_unknown=True),
            )

    async def _cut(self, connections: Sequence[tuple[Connection, str]]) -> None:
        """Cut these, for the reason beside each, server by server (rule 7)."""
        by_server: dict[str, list[tuple[Connection, str]]] = {}
        for connection, why in dict(connections).items():
            by_server.setdefault(connection.server, []).append((connection, why))

        async def cut(first: tuple[Connection, str], *others: tuple[Connection, str]) -> None:
            if await self._cut_one(*first):
                await asyncio.gather(*(self._cut_one(*each) for each in others))
            else:
                for each in others:
                    self._owe(*each)

        await asyncio.gather(*(cut(*each) for each in by_server.values()))
        if self._owed and (self._paying is None or self._paying.done()):
            self._paying = asyncio.create_task(self._pay_until_none_is_owed())

    async def _cut_one(self, connection: Connection, why: str) -> bool:
        async with self._kicks:
            is_cut = await self._kick(connection.key)
        if is_cut:
            self.disappeared(connection.key)
            _log.info("cut connection %d of %s: %s", connection.number, connection.identity, why)
        else:
            self._owe(connection, why)
        return is_cut

    def _owe(self, connection: Connection, why: str) -> None:
        if connection.key in self._owed or not self.connections.has(connection.key):
            return
        self._owed[connection.key] = _Owed(connection, why, self._monotonic() + OWED_FOR_SECONDS)
        _log.warning(
            "connection %d of %s at server %s could not be cut yet: %s",
            connection.number,
            connection.identity,
            connection.server,
            why,
        )

    async def _pay_until_none_is_owed(self) -> None:
        while self._owed:
            await asyncio.sleep(OWED_RETRY_SECONDS)
            await self._pay()

    async def _pay(self) -> None:
        """Try again what is owed (rule 7)."""
        now = self._monotonic()
        self._owed = {key: each for key, each in self._owed.items() if each.forgotten > now}
        await self._cut([(each.connection, each.why) for each in self._owed.values()])

    def _held_by(self, identities: Iterable[str]) -> list[Connection]:
        return [each for identity in identities for each in self.connections.of(identity)]

    def _suspect(self, identities: Iterable[str]) -> None:
        now = self._monotonic()
        self._suspected = {identity: until for identity, until in self._suspected.items() if until > now}
        self._suspected |= dict.fromkeys(identities, now + SETTING_UP_SECONDS)

    def _is_suspected(self, identity: str) -> bool:
        return self._monotonic() < max(self._all_suspected_until, self._suspected.get(identity, 0.0))


def _why(error: Exception) -> str:
    if isinstance(error, Refused):
        return error.reason
    return "it takes too long" if isinstance(error, TimeoutError) else repr(error)

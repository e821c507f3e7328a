"""The reconciler alone: what it cuts, owes and leaves, also where brokers and the store fail."""

import asyncio
import time
from collections.abc import Collection
from dataclasses import replace
from uuid import UUID

import pytest

from callout.connections import Connection, Key
from callout.reconcile import KNOWN_WITHIN_SECONDS, SETTING_UP_SECONDS, Reconciler
from iam.access import Access, Denied, Proof, ProofKind
from iam.errors import Kind, Refused
from iam.events import Affected
from iam.topics import access_control_list
from tests.callout.brokers import People, access, allow, changed, grant, identity_changed

BEFORE = [allow("all", "${tenant}/devices/${device}/#")]
SOON = 5.0
"""Seconds: far more than it takes, so that a busy machine fails nothing, and far less than what is warded off takes."""

SESSION = Proof(ProofKind.SESSION, bytes(16))
WHO = access()


def connection_of(who: Access, number: int = 1, server: str = "N", proof: Proof = SESSION) -> Connection:
    return Connection(server, number, who.identity.id, access_control_list(who).digest, proof, time.monotonic())


class Brokers:
    """Brokers that say what they are told to, and note what they are asked."""

    def __init__(self) -> None:
        self.reached = True
        self.silent: set[str] = set()
        self.asked: list[Key] = []

    async def kick(self, key: Key) -> bool:
        self.asked.append(key)
        if key[0] in self.silent:
            await asyncio.sleep(0.5)
        return self.reached and key[0] not in self.silent


class NoDatabase:
    """Nothing in memory, and no store to be asked."""

    async def access(self, _: str) -> Access | Denied:
        raise Refused(Kind.UNAVAILABLE, "No database.")

    def known_access(self, _: str) -> Access | Denied | None:
        return None

    async def ended_proofs(self, _: Collection[Proof]) -> frozenset[Proof]:
        raise Refused(Kind.UNAVAILABLE, "No database.")


class Suspended:
    """Everybody is."""

    async def access(self, _: str) -> Access | Denied:
        return Denied("suspended")

    def known_access(self, _: str) -> Access | Denied | None:
        return Denied("suspended")


async def appeared(reconciler: Reconciler, connection: Connection) -> None:
    work = reconciler.appeared(connection)
    if work is not None:
        await work


class TestMany:
    async def test_a_thousand_at_once_are_cut_within_a_second(self) -> None:
        """The work of the reconciler alone; a broker takes 50 microseconds for each (nats.md)."""
        brokers, people = Brokers(), People()
        reconciler = Reconciler(brokers.kick, people, people.ended_proofs)
        for number in range(1000):
            reconciler.connections.add(connection_of(access(), number))
        began = time.monotonic()
        await reconciler.heard(changed("tenant.blocked", (Affected.TENANT, str(UUID(int=0)))))
        assert len(brokers.asked) == 1000
        assert time.monotonic() - began < SOON

    async def test_a_silent_server_holds_up_no_other(self) -> None:
        brokers, people = Brokers(), People()
        brokers.silent = {"silent"}
        reconciler = Reconciler(brokers.kick, people, people.ended_proofs)
        for number in range(2000):  # one after the other, and 64 at once, they take 16 s
            reconciler.connections.add(connection_of(WHO, number, "silent"))
        reconciler.connections.add(connection_of(WHO, 0, "N"))
        began = time.monotonic()
        await reconciler.heard(identity_changed(WHO))
        assert time.monotonic() - began < SOON
        assert sorted(brokers.asked) == [("N", 0), ("silent", 0)]
        await reconciler.finish()

    async def test_what_touches_everybody_holds_up_nothing_that_touches_one(self) -> None:
        brokers, people = Brokers(), People()
        slow = asyncio.Event()

        class Slow:
            async def access(self, identity: str) -> Access | Denied:
                if identity != WHO.identity.id:
                    await slow.wait()
                return Denied("suspended")

            def known_access(self, _: str) -> Access | Denied | None:
                return None

        reconciler = Reconciler(brokers.kick, Slow(), people.ended_proofs)
        for number in range(1000):
            reconciler.connections.add(connection_of(access(), number))
        everybody = asyncio.create_task(reconciler.heard(changed("role.changed", (Affected.ROLE, str(UUID(int=0))))))
        await asyncio.sleep(0)
        reconciler.connections.add(connection_of(WHO, 1000))
        began = time.monotonic()
        await reconciler.heard(identity_changed(WHO, "identity.suspended"))
        assert brokers.asked == [("N", 1000)]
        assert time.monotonic() - began < SOON
        slow.set()
        await everybody


class TestAppeared:
    """What memory knows of an identity that connects."""

    async def reconciled(self, remembered: Access, connected: Access) -> list[Key]:
        brokers, people = Brokers(), People(remembers=True)
        people.accesses[connected.identity.id] = remembered
        await appeared(Reconciler(brokers.kick, people, people.ended_proofs), connection_of(connected))
        return brokers.asked

    async def test_one_with_the_topics_of_now_stays(self) -> None:
        who = access(BEFORE, ["meter-1"])
        assert await self.reconciled(who, who) == []

    async def test_one_with_the_topics_of_before_is_cut(self) -> None:
        who = access(BEFORE, ["meter-1"])
        now_less = replace(who, grants=(grant(who.tenant, BEFORE, []),))
        assert await self.reconciled(now_less, who) == [("N", 1)]

    @pytest.mark.parametrize(
        ("seconds", "is_cut"), [(0.0, True), (SETTING_UP_SECONDS - 1, True), (SETTING_UP_SECONDS + 1, False)]
    )
    async def test_after_the_watch_began_whoever_appears_is_asked_for(self, seconds: float, is_cut: bool) -> None:
        """What ended before that was told to nobody who watches now."""
        brokers, people, time_ = Brokers(), People(remembers=True), [100.0]
        people.accesses[WHO.identity.id] = WHO
        people.ended.add(SESSION)
        reconciler = Reconciler(brokers.kick, people, people.ended_proofs, monotonic=lambda: time_[0])
        time_[0] += seconds
        await appeared(reconciler, connection_of(WHO))
        await asyncio.sleep(0.2)
        assert brokers.asked == ([("N", 1)] if is_cut else [])


class TestUnknown:
    async def test_an_event_cuts_and_a_sweep_does_not(self) -> None:
        brokers, nothing = Brokers(), NoDatabase()
        reconciler = Reconciler(brokers.kick, nothing, nothing.ended_proofs)
        await appeared(reconciler, connection_of(WHO))
        await reconciler.sweep({"N": [connection_of(WHO)]}, time.monotonic())
        assert brokers.asked == []
        await reconciler.heard(identity_changed(WHO))
        assert brokers.asked == [("N", 1)]
        await reconciler.finish()

    async def test_an_event_cuts_also_where_the_store_fails_in_a_way_that_nobody_foresaw(self) -> None:
        class Failing(NoDatabase):
            async def access(self, _: str) -> Access | Denied:
                raise ValueError("this cannot be read")

            async def ended_proofs(self, _: Collection[Proof]) -> frozenset[Proof]:
                raise ValueError("this cannot be read")

        for kind in ("certificate.revoked", "identity.suspended"):
            brokers, failing = Brokers(), Failing()
            reconciler = Reconciler(brokers.kick, failing, failing.ended_proofs)
            reconciler.connections.add(connection_of(WHO))
            with pytest.raises(ValueError, match="cannot be read"):  # so that it is tried again
                await reconciler.sweep({"N": [connection_of(WHO)]}, time.monotonic())
            assert brokers.asked == []
            await reconciler.heard(identity_changed(WHO, kind))
            assert brokers.asked == [("N", 1)]
            await reconciler.finish()

    async def test_an_event_about_proofs_waits_a_second_for_the_store_and_then_cuts(self) -> None:
        brokers, people = Brokers(), People()
        people.accesses[WHO.identity.id] = WHO

        async def never(_: Collection[Proof]) -> frozenset[Proof]:
            await asyncio.Event().wait()
            return frozenset()

        reconciler = Reconciler(brokers.kick, people, never)
        reconciler.connections.add(connection_of(WHO))
        began = time.monotonic()
        await reconciler.heard(identity_changed(WHO, "certificate.revoked"))
        assert brokers.asked == [("N", 1)]
        assert time.monotonic() - began < KNOWN_WITHIN_SECONDS + SOON


class Stubborn:
    """Brokers that cannot be reached for a while: a fault that no real one shows at will."""

    def __init__(self) -> None:
        self.brokers, people = Brokers(), People()
        self.brokers.reached = False
        people.ended.add(SESSION)
        self.reconciler = Reconciler(self.brokers.kick, Suspended(), people.ended_proofs)

    @property
    def asked(self) -> list[Key]:
        return self.brokers.asked

    def connected(self, count: int = 1, server: str = "N") -> list[Connection]:
        made = [connection_of(WHO, number, server) for number in range(count)]
        for one in made:
            self.reconciler.connections.add(one)
        return made


class TestOwed:
    async def test_a_cut_that_failed_is_tried_again_until_it_is_acknowledged(
        self, caplog: pytest.LogCaptureFixture
    ) -> None:
        caplog.set_level("INFO", "callout.reconcile")
        brokers = Stubborn()
        (connection,) = brokers.connected()
        await brokers.reconciler.heard(identity_changed(WHO, "certificate.revoked"))
        assert "cut connection" not in caplog.text
        assert "could not be cut yet" in caplog.text
        brokers.brokers.reached = True
        asked = len(brokers.asked)
        async with asyncio.timeout(10):
            while len(brokers.asked) == asked:  # noqa: ASYNC110 - a second goes by
                await asyncio.sleep(0.02)
        assert brokers.asked[-1] == connection.key
        assert "cut connection" in caplog.text
        assert not len(brokers.reconciler.connections)

    async def test_a_sweep_and_an_appearance_try_again(self) -> None:
        brokers = Stubborn()
        (connection,) = brokers.connected()
        await brokers.reconciler.heard(identity_changed(WHO, "session.ended"))
        asked = len(brokers.asked)
        await brokers.reconciler.sweep({}, time.monotonic())
        assert len(brokers.asked) > asked
        brokers.brokers.reached = True
        await appeared(brokers.reconciler, connection)
        assert not len(brokers.reconciler.connections)

    @pytest.mark.parametrize("how", ["disappeared", "not listed"])
    async def test_what_is_gone_is_owed_no_more(self, how: str) -> None:
        brokers = Stubborn()
        (connection,) = brokers.connected()
        await brokers.reconciler.heard(identity_changed(WHO, "session.ended"))
        if how == "disappeared":
            brokers.reconciler.disappeared(connection.key)
        else:
            await brokers.reconciler.sweep({connection.server: []}, time.monotonic() + 2 * SETTING_UP_SECONDS)
        asked = len(brokers.asked)
        await brokers.reconciler.sweep({}, time.monotonic())
        assert len(brokers.asked) == asked

    async def test_a_server_that_is_silent_is_asked_for_one_connection_and_others_for_theirs(self) -> None:
        brokers = Stubborn()
        brokers.connected(5, "M")
        brokers.connected(5, "N")
        await brokers.reconciler.heard(identity_changed(WHO, "session.ended"))
        brokers.asked.clear()
        await brokers.reconciler._pay()
        assert sorted(brokers.asked) == [("M", 0), ("N", 0)]
        brokers.brokers.reached = True
        await brokers.reconciler._pay()
        assert not len(brokers.reconciler.connections)

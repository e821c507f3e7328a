"""Labels as the operations see them: read from the store, and believed for a moment.

A change to a profile takes effect within `AGE_LIMIT` on every node, so that an enrolment needs no read of its own. What
was read is as old as `Moment` says: the clock may be set back meanwhile.
"""

import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta

from est.profiles import EnrolmentProfile
from est.profiles import label as checked_label
from est.store.profiles import find_profile
from iam.directory import Moment, Monotonic
from iam.errors import Refused, not_found
from iam.identifiers import Clock
from iam.store.database import EVERYWHERE, Database

AGE_LIMIT = timedelta(seconds=2)
_CAPACITY = 1024


@dataclass(frozen=True, slots=True)
class _Held:
    profile: EnrolmentProfile | None
    read: Moment


class Labels:
    """Profiles by label."""

    def __init__(
        self,
        database: Database,
        clock: Clock,
        followed: Callable[[EnrolmentProfile], EnrolmentProfile],
        monotonic: Monotonic = time.monotonic,
    ) -> None:
        """Describe them; `followed` gives a profile with what its anchors stand for now."""
        self._database = database
        self._clock = clock
        self._followed = followed
        self._monotonic = monotonic
        self._held: OrderedDict[str, _Held] = OrderedDict()

    async def profile(self, label: str) -> EnrolmentProfile:
        """Return the profile of a label; raise `Refused` (not found) if there is none."""
        held = self._held.get(label)
        if held is None or held.read.age_at(self._now()) >= AGE_LIMIT:
            held = await self._read(label)
        if held.profile is None:
            raise not_found("such label")
        return held.profile

    def forget(self) -> None:
        """Drop everything: what anchors stand for has changed."""
        self._held.clear()

    async def _read(self, label: str) -> _Held:
        try:
            checked_label(label)
        except Refused as refused:
            raise not_found("such label") from refused
        now = self._now()
        async with self._database.transaction(EVERYWHERE) as transaction:  # a device has no tenant yet
            found = await find_profile(transaction, label)
        held = _Held(self._followed(found) if found else None, now)
        self._held[label] = held
        self._held.move_to_end(label)
        while len(self._held) > _CAPACITY:
            self._held.popitem(last=False)
        return held

    def _now(self) -> Moment:
        return Moment(self._clock(), self._monotonic())

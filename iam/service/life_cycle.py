"""The job that keeps devices' states what their certificates' ages are; each change is an event.

The rules:

1. A label's windows count for the devices that enrolled under it; where the label is gone, those of the node do.
2. A run does what is due, in batches that are a transaction each, and at most `_BATCHES` of them: the rest is for the
   next run.
3. It may be run by two at once, and after any downtime: a state is set only on a device that still is as it was found.
"""

from iam.life_cycle import Windows, status_by_age
from iam.store.database import EVERYWHERE, Change, Database
from iam.store.life_cycle import aged_devices, look_at_new, move_devices

STATUS_CHANGED = "device.status_changed"
_ACTOR = "doorward"
_BATCH = 1000
_BATCHES = 50


class LifeCycle:
    """The life cycle of all devices."""

    def __init__(self, database: Database, windows: Windows) -> None:
        self._database = database
        self._windows = windows

    async def advance(self) -> int:
        """Do what is due; return how many devices changed their state."""
        for _ in range(_BATCHES):
            # Everywhere, here and below: time passes for every tenant.
            async with self._database.transaction(EVERYWHERE) as transaction:
                if await look_at_new(transaction, _BATCH) < _BATCH:
                    break
        changed = 0
        for _ in range(_BATCHES):
            moved = await self._advance_batch()
            changed += moved
            if moved < _BATCH:
                break
        return changed

    async def _advance_batch(self) -> int:
        async with self._database.transaction(EVERYWHERE) as transaction:
            aged = await aged_devices(transaction, self._windows, _BATCH)
            moves = [(one, status_by_age(one.expires, transaction.now, one.windows)) for one in aged]
            moved = await move_devices(transaction, moves) if moves else set()
            await transaction.record_all(
                [
                    Change(
                        one.tenant,
                        _ACTOR,
                        STATUS_CHANGED,
                        one.identifier,
                        {"before": one.status, "after": status, "expires": one.expires.isoformat()},
                    )
                    for one, status in moves
                    if one.identifier in moved
                ]
            )
        return len(moved)

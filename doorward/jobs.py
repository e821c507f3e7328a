"""Periodic work: one worker of all nodes does it, the one that holds a lock in PostgreSQL.

The lock goes with the connection: when a leader dies, another takes over within `_CAMPAIGN_SECONDS`. Each job is right
also if two ran it at once for a moment; leading saves work, it does not guard truth.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass

from doorward.database import Pool
from iam.errors import Refused

LEADER_LOCK = 0x6C656164  # "lead"
_CAMPAIGN_SECONDS = 1.0

_log = logging.getLogger("doorward.jobs")


@dataclass(frozen=True, slots=True)
class Job:
    """Something to do every so many seconds."""

    name: str
    every: float
    run: Callable[[], Awaitable[object]]


class Leader:
    """Whether this worker is the one that does periodic work."""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool
        self.leads = False

    async def campaign(self) -> None:
        """Try to lead, and keep leading, until cancelled."""
        while True:
            try:
                await self._lead_if_free()
            except Refused as error:
                _log.warning("no leader can be found now: %s", error.reason)
            finally:
                self.leads = False
            await asyncio.sleep(_CAMPAIGN_SECONDS)

    async def _lead_if_free(self) -> None:
        async with self._pool.leadership(LEADER_LOCK) as still_held:
            while await still_held():
                self.leads = True
                await asyncio.sleep(_CAMPAIGN_SECONDS)


async def run_jobs(leader: Leader, jobs: Sequence[Job]) -> None:
    """Run each job at its own pace while this worker leads, until cancelled."""
    async with asyncio.TaskGroup() as group:
        for job in jobs:
            group.create_task(_repeat(leader, job), name=f"job {job.name}")


async def _repeat(leader: Leader, job: Job) -> None:
    while True:
        if leader.leads:
            try:
                await job.run()
            except Refused as error:
                _log.warning("%s waits: %s", job.name, error.reason)
            except Exception:  # noqa: BLE001 - one failing job must not end the others; it is logged whole
                _log.exception("%s failed; it is tried again in %.0f s", job.name, job.every)
        await asyncio.sleep(job.every)

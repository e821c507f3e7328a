"""What a long revocation list costs: made from the store, kept there, and read again to be given out.

    python -m bench.crl [--revoked 1000000] [--rounds 3]

Measured on a PostgreSQL of the benchmark's own and in this process, which does what a node's worker does, with nothing
else in it:

- certificates are put into the store and revoked there by statements of 10,000 each, so that each passes the trigger
  that notes it; this is told, and is no part of what follows;
- the floor: the entries are read from the store and nothing is done with them;
- the complete list: read, put together, signed with P-256, stored;
- a delta list of 1,000 changes; a partition of 64;
- the complete list is read for being given out.

CPU is this process's and PostgreSQL's. Memory is the most that this process had resident meanwhile, beyond nothing: all
of Python is in it.
"""

import argparse
import os
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import asyncpg
import uvloop
from cryptography import x509

from bench.measuring import Found, Gauge, print_heading, print_table
from bench.node import descendants
from ca.authorities import Authorities, Authority
from ca.inventory import AuthorityKind
from ca.keystore import Keystore
from ca.list_publishing import ListPublisher, ListTerms
from ca.partition import WHOLE, Partition
from ca.shelf import ListShelf
from ca.store.revocation_lists import complete_entries
from doorward.clock import utc_now
from doorward.database import Pool, migrate
from doorward.embedded.postgres import EmbeddedPostgres
from doorward.preparation import role_of
from iam.sealing import MasterKey
from iam.service.foundation import lay_foundation
from iam.store.database import EVERYWHERE

TARGET_SECONDS = 10.0
TARGET_MEGABYTES = 1_000.0
HERE, DATABASE = "this process", "PostgreSQL"
FLOOR, COMPLETE, DELTA, PARTITION, READ = (
    "the entries read",
    "the complete list",
    "a delta of 1,000",
    "a partition of 64",
    "read to be given out",
)

_CHANGES = 1_000
_AT_ONCE = 10_000
_ISSUE = """
    INSERT INTO certificate (serial, authority_id, tenant_id, profile, subject, spki_sha256, not_before, not_after,
                             certificate, status, issued_at)
    SELECT decode(md5(number::text), 'hex'), $1, $2, 'device', 'CN=bench', sha256(number::text::bytea), now(),
           now() + interval '90 days', decode(repeat(md5(number::text), 25), 'hex'), 'active', now()
    FROM generate_series($3::int, $4::int) AS number"""
_REVOKE = """
    UPDATE certificate SET status = 'revoked', revoked_at = now(), revocation_reason = 'keyCompromise'
    WHERE serial IN (SELECT decode(md5(number::text), 'hex') FROM generate_series($1::int, $2::int) AS number)"""


@dataclass(frozen=True)
class Bench:
    """A store with revoked certificates, and what makes lists of it."""

    pool: Pool
    owner: asyncpg.Connection
    authority: Authority
    publisher: ListPublisher
    system: object

    async def issue_and_revoke(self, first: int, last: int) -> None:
        """Issue and revoke the certificates of these numbers."""
        await self.owner.execute(_ISSUE, self.authority.id, self.system, first, last)
        await self.owner.execute(_REVOKE, first, last)

    async def forget_lists(self) -> None:
        """Let all lists be due, as if there never were any."""
        await self.owner.execute("DELETE FROM revocation_list")


@asynccontextmanager
async def prepared(folder: Path) -> AsyncIterator[Bench]:
    """Start PostgreSQL, and make the authorities."""
    server = EmbeddedPostgres(folder / "data")
    addresses = await server.start()
    try:
        await migrate(addresses.owner_dsn, role_of(addresses.node_dsn))
        pool = await Pool.connect(addresses.node_dsn, utc_now, os.urandom, size=4)
        system = await lay_foundation(pool, utc_now, os.urandom)
        keystore = Keystore(folder / "keys", MasterKey(os.urandom(32)), os.urandom)
        authorities = Authorities(pool, keystore, utc_now, os.urandom, base_url="http://pki.test")
        await authorities.ensure()
        publisher = ListPublisher(pool, authorities, utc_now, ListTerms())
        owner = await asyncpg.connect(addresses.owner_dsn, command_timeout=600)
        yield Bench(pool, owner, authorities.current(AuthorityKind.ISSUING), publisher, system.id)
        await owner.close()
        await pool.close()
    finally:
        await server.stop()


def peak_megabytes() -> float:
    """Return the most that this process had resident since `forget_peak`."""
    for line in Path("/proc/self/status").read_text(encoding="ascii").splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) / 1_024
    return 0.0


def forget_peak() -> None:
    """Begin to watch the memory of this process anew."""
    Path("/proc/self/clear_refs").write_text("5", encoding="ascii")


async def measure(folder: Path, revoked: int, rounds: int) -> None:
    """Measure, and print."""
    async with prepared(folder) as bench:
        began = time.perf_counter()
        for first in range(0, revoked, _AT_ONCE):
            await bench.issue_and_revoke(first, min(first + _AT_ONCE, revoked) - 1)
        each = (time.perf_counter() - began) / revoked * 1e6
        await bench.owner.execute("VACUUM ANALYZE revocation")
        print(f"{revoked:,} certificates issued and revoked in the store, {each:.0f} us each\n")

        shelves: list[ListShelf] = []
        changed = revoked

        async def floor() -> None:
            async with bench.pool.transaction(EVERYWHERE) as transaction:  # lists belong to no tenant
                await complete_entries(transaction, bench.authority.id, WHOLE, utc_now())

        async def read() -> None:
            shelves[:] = [ListShelf(bench.pool)]
            await shelves[0].current_list(bench.authority)

        works: dict[str, Callable[[], Awaitable[object]]] = {
            FLOOR: floor,
            COMPLETE: bench.publisher.publish_lists,
            DELTA: bench.publisher.publish_lists,
            PARTITION: bench.publisher.publish_lists,
            READ: read,
        }
        gauge = Gauge(lambda: {HERE: [os.getpid()], DATABASE: descendants(os.getpid())})
        found = {name: Found() for name in works}
        peaks = dict.fromkeys(works, 0.0)
        for _ in range(rounds):
            await bench.owner.execute("UPDATE authority SET list_partitions = '{1}'")
            await bench.forget_lists()
            for name, work in works.items():
                if name == DELTA:
                    await bench.issue_and_revoke(changed, changed + _CHANGES - 1)
                    changed += _CHANGES
                if name == PARTITION:
                    await bench.owner.execute("UPDATE authority SET list_partitions = '{1,64}' WHERE kind = 'issuing'")
                forget_peak()
                stretch = gauge.begin()
                await work()
                count = 64 if name == PARTITION else 1
                found[name].add(stretch.end(count), [])
                peaks[name] = max(peaks[name], peak_megabytes())
        content = await shelves[0].current_list(bench.authority)
        listed = len(x509.load_der_x509_crl(content.der))
        print(f"the complete list has {listed:,} entries and {len(content.der) / 1e6:.1f} MB\n")
        delta_list = await shelves[0].current_list(bench.authority, is_delta=True)
        part = await shelves[0].current_list(bench.authority, Partition(64, 0))
        assert len(x509.load_der_x509_crl(part.der)) < listed  # noqa: S101 - else nothing was measured
        assert delta_list.base_number is not None  # noqa: S101 - as above
    print_found(found, peaks)


def print_found(found: dict[str, Found], peaks: dict[str, float]) -> None:
    """Print the table, and what the targets say to it."""
    least = found[FLOOR].median(lambda spent: spent.seconds / spent.count)
    rows = []
    for name, one in found.items():
        seconds = one.median(lambda spent: spent.seconds / spent.count)
        rows.append(
            (
                name,
                f"{seconds:.3f}",
                f"{one.cpu(HERE) / 1e6:.3f}",
                f"{one.cpu(DATABASE) / 1e6:.3f}",
                f"{peaks[name]:,.0f}",
                f"{seconds / least:.2f}",
            )
        )
    print_table(("", "seconds", "CPU here", "CPU PostgreSQL", "peak MB", "ratio"), rows)
    seconds = found[COMPLETE].median(lambda spent: spent.seconds)
    print(
        f"the complete list: {seconds:.1f} s, the target is {TARGET_SECONDS:.0f};"
        f" {peaks[COMPLETE]:,.0f} MB, the target is {TARGET_MEGABYTES:,.0f}"
    )


def main() -> None:
    """Read the arguments, and measure."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--revoked", type=int, default=1_000_000)
    parser.add_argument("--rounds", type=int, default=3)
    given = parser.parse_args()
    print_heading(f"{given.rounds} rounds", "asyncpg", "cryptography")
    with tempfile.TemporaryDirectory(prefix="doorward-bench-") as folder:
        Path(folder).chmod(0o755)
        uvloop.run(measure(Path(folder), given.revoked, given.rounds))


if __name__ == "__main__":
    main()

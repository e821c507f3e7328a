"""Fill a node's database with a fleet: devices, and the certificates that they have had.

    python -m bench.seed [--data var] [--devices 200000] [--each 5]

The node runs already (`make run`), and nobody else uses it meanwhile. The fleet is a group of its own, made by a few
statements in the database: each device with its identity, its key and `--each` certificates, the last one in force,
those before renewed; one device in ten revoked, one in twenty expired. Certificates are distinct and share one body:
their signatures verify for one of them only, and nothing here looks at them.
"""

import argparse
import asyncio
import os
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any
from uuid import UUID

import asyncpg

from ca.inventory import AuthorityKind
from doorward.addresses import read_addresses
from doorward.app import App
from doorward.clock import utc_now
from doorward.commands.local import local_app
from doorward.config import Configuration, load_configuration
from iam.identifiers import uuid7
from iam.store.database import EVERYWHERE

GROUP = "fleet"
STEP_DAYS = 80
LIFE_DAYS = 90


@dataclass(frozen=True)
class Fleet:
    """What there is to be."""

    devices: int
    each: int

    @property
    def certificates(self) -> int:
        """All of them."""
        return self.devices * self.each


# `d` counts devices, `k` a device's certificates; a serial number is what both hash to, and positive.
_FUNCTIONS = """
    CREATE FUNCTION pg_temp.device_of(d bigint) RETURNS text LANGUAGE sql IMMUTABLE
        RETURN 'fleet-' || lpad(d::text, 7, '0');
    CREATE FUNCTION pg_temp.identity_of(d bigint) RETURNS text LANGUAGE sql IMMUTABLE
        RETURN 'idt-' || md5('identity' || d)::uuid;
    CREATE FUNCTION pg_temp.serial_of(d bigint, k integer) RETURNS bytea LANGUAGE sql IMMUTABLE
        RETURN set_byte(substring(sha256(convert_to(d || '/' || k, 'UTF8')) FROM 1 FOR 16), 0, 65);
    CREATE FUNCTION pg_temp.begin_of(d bigint, k integer, last integer, moment timestamptz) RETURNS timestamptz
        LANGUAGE sql IMMUTABLE
        -- One in twenty ended some days ago; all others began within the last forty days.
        RETURN moment - make_interval(days => (last - k) * {step} + CASE WHEN d % 20 = 7 THEN {life} + 5 ELSE 0 END,
                                      secs => d * 86400 % 3456000)"""

_IDENTITIES = """
    INSERT INTO identity (id, tenant_id, type, name, status, devices, created_at)
    SELECT pg_temp.identity_of(d), $1::uuid, 'device', pg_temp.device_of(d), 'active', '{}', $2::timestamptz
    FROM generate_series(0, $3::bigint - 1) AS d"""
_ROLES = """
    INSERT INTO identity_role (identity_id, role_id, tenant_id)
    SELECT pg_temp.identity_of(d), (SELECT id FROM role WHERE tenant_id = $1::uuid AND name = 'device'), $1::uuid
    FROM generate_series(0, $2::bigint - 1) AS d"""
_DEVICES = """
    INSERT INTO device (device_identifier, tenant_id, identity_id, status, labels, metadata, tags, enrolment_profile,
                        created_at, expires_at)
    SELECT pg_temp.device_of(d), $1::uuid, pg_temp.identity_of(d),
           CASE WHEN d % 10 = 3 THEN 'REVOKED' WHEN d % 20 = 7 THEN 'EXPIRED' ELSE 'ACTIVE' END,
           jsonb_build_object('site', 'site-' || d % 50, 'line', 'l' || d % 7),
           jsonb_build_object('model', 'm' || d % 12, 'firmware', '1.' || d % 30, 'batch', d / 1000),
           ARRAY['batch-' || d / 1000, 'model-' || d % 12], 'default',
           $2::timestamptz - make_interval(days => $4::integer * $5::integer, secs => d % 86400),
           CASE WHEN d % 10 <> 3 THEN pg_temp.begin_of(d, $4, $4, $2) + make_interval(days => $6::integer) END
    FROM generate_series(0, $3::bigint - 1) AS d"""
_KEYS = """
    INSERT INTO device_key (spki_sha256, device_identifier, tenant_id, first_seen_at)
    SELECT sha256(convert_to('key' || d, 'UTF8')), pg_temp.device_of(d), $1::uuid, $2::timestamptz
    FROM generate_series(0, $3::bigint - 1) AS d"""
# `$7` and `$8` are the body before and after its serial number.
_CERTIFICATES = """
    INSERT INTO certificate (serial, authority_id, tenant_id, profile, device_identifier, identity_id, subject,
                             spki_sha256, request_sha256, not_before, not_after, certificate, status, issued_at,
                             supersedes, superseded_at, revoked_at, revocation_reason)
    SELECT made.serial, $6::uuid, $1::uuid, 'device', pg_temp.device_of(d), pg_temp.identity_of(d),
           'CN=' || pg_temp.device_of(d),
           sha256(convert_to('key' || d, 'UTF8')), sha256(made.serial), made.begins,
           made.begins + make_interval(days => $9::integer), $7::bytea || made.serial || $8::bytea,
           CASE WHEN $4::integer < $5::integer THEN 'superseded' WHEN d % 10 = 3 THEN 'revoked' ELSE 'active' END,
           made.begins,
           CASE WHEN $4 > 0 THEN pg_temp.serial_of(d, $4 - 1) END,
           CASE WHEN $4 < $5 THEN made.begins + make_interval(days => $10::integer) END,
           CASE WHEN $4 = $5 AND d % 10 = 3 THEN made.begins + interval '1 day' END,
           CASE WHEN $4 = $5 AND d % 10 = 3 THEN CASE WHEN d % 100 = 3 THEN 'keyCompromise' ELSE 'superseded' END END
    FROM generate_series(0, $3::bigint - 1) AS d,
         LATERAL (SELECT pg_temp.serial_of(d, $4) AS serial,
                         pg_temp.begin_of(d, $4, $5, $2::timestamptz) AS begins) AS made"""


async def seed(configuration: Configuration, fleet: Fleet) -> float:
    """Make the fleet; return the seconds that it took."""
    began = time.perf_counter()
    async with local_app(configuration) as app:
        tenant = await _make_group(app)
        issuing = app.authorities.current(AuthorityKind.ISSUING)
        before, after = await _body(app)
        moment = utc_now()
        connection = await asyncpg.connect(read_addresses(configuration).database_owner)
        try:
            last = fleet.each - 1
            await connection.execute(_FUNCTIONS.format(step=STEP_DAYS, life=LIFE_DAYS))
            await connection.execute("SET synchronous_commit = off")
            await connection.execute(_IDENTITIES, tenant, moment, fleet.devices, timeout=3600)
            await connection.execute(_ROLES, tenant, fleet.devices, timeout=3600)
            await connection.execute(_DEVICES, tenant, moment, fleet.devices, last, STEP_DAYS, LIFE_DAYS, timeout=3600)
            await connection.execute(_KEYS, tenant, moment, fleet.devices, timeout=3600)
            async with _bare(connection, "certificate"):
                for number in range(fleet.each):
                    await connection.execute(
                        _CERTIFICATES,
                        tenant,
                        moment,
                        fleet.devices,
                        number,
                        last,
                        issuing.id,
                        before,
                        after,
                        LIFE_DAYS,
                        STEP_DAYS,
                        timeout=3600,
                    )
            for table in ("identity", "identity_role", "device", "device_key", "certificate"):
                await connection.execute(f"VACUUM ANALYZE {table}", timeout=3600)
        finally:
            await connection.close()
    return time.perf_counter() - began


@asynccontextmanager
async def _bare(connection: Any, table: str) -> AsyncIterator[None]:  # noqa: ANN401 - asyncpg has no types
    """Take a table's indexes and foreign keys away, and put them back: all at once costs less than by the row."""
    keys = await connection.fetch(
        "SELECT conname AS name, pg_get_constraintdef(oid) AS definition FROM pg_constraint"
        " WHERE conrelid = $1::text::regclass AND contype = 'f'",
        table,
    )
    indexes = await connection.fetch(
        "SELECT indexrelid::regclass::text AS name, pg_get_indexdef(indexrelid) AS definition FROM pg_index"
        " WHERE indrelid = $1::text::regclass AND NOT indisprimary",
        table,
    )
    for key in keys:
        await connection.execute(f'ALTER TABLE {table} DROP CONSTRAINT "{key["name"]}"')
    for index in indexes:
        await connection.execute(f"DROP INDEX {index['name']}")
    yield
    for index in indexes:
        await connection.execute(index["definition"], timeout=3600)
    for key in keys:
        await connection.execute(
            f'ALTER TABLE {table} ADD CONSTRAINT "{key["name"]}" {key["definition"]}', timeout=3600
        )


async def _make_group(app: App) -> UUID:
    """Make the group with its role, as the service does for an operator."""
    async with app.pool.transaction(EVERYWHERE) as transaction:  # the group is not there yet
        identifier = uuid7(transaction.now, os.urandom)
        await transaction.execute(
            "INSERT INTO tenant (id, name, parent_id, path, status, created_at)"
            " VALUES ($1::uuid, $2, $3::uuid, ARRAY[$3::uuid, $1::uuid], 'active', $4)",
            identifier,
            GROUP,
            app.system.id,
            transaction.now,
        )
        await transaction.execute(
            "INSERT INTO role (id, tenant_id, name, permissions, topics, created_at)"
            " VALUES ($1, $2, 'device', '[]', '[]', $3)",
            uuid7(transaction.now, os.urandom),
            identifier,
            transaction.now,
        )
    return identifier


async def _body(app: App) -> tuple[bytes, bytes]:
    """Return what is before and after the serial number of a certificate whose serial number has 16 bytes."""
    while True:
        made = await app.certificates.issue_bootstrap(f"{GROUP}-0000000", actor="seed")
        async with app.pool.transaction(EVERYWHERE) as transaction:  # the node's own
            der = await transaction.fetchval("SELECT certificate FROM certificate WHERE serial = $1", made.serial)
        before, found, after = der.partition(b"\x02\x10" + made.serial)
        if found:
            return before + b"\x02\x10", after


def main() -> None:
    """Seed the node that runs here."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", default="var")
    parser.add_argument("--devices", type=int, default=200_000)
    parser.add_argument("--each", type=int, default=5)
    options = parser.parse_args()
    configuration = load_configuration(None, {**os.environ, "DOORWARD_NODE_DATA": options.data})
    fleet = Fleet(options.devices, options.each)
    seconds = asyncio.run(seed(configuration, fleet))
    print(f"{fleet.devices} devices and {fleet.certificates} certificates in {seconds:.0f} s, in the group {GROUP}")


if __name__ == "__main__":
    main()

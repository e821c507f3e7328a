"""The two walls around a tenant's rows, migrations, the outbox and the audit chain, on a real PostgreSQL."""

import asyncio
import os
from datetime import UTC, datetime
from uuid import UUID, uuid4

import asyncpg
import pytest

from doorward import database
from doorward.database import Migration, Pool, migrate, migrations
from iam.errors import Kind, Refused
from iam.model import Scope, Tenant, TenantStatus
from iam.service.audit import AuditService
from iam.service.foundation import lay_foundation
from iam.store.database import EVERYWHERE, Change
from iam.store.journal import chain_pending, waiting_events
from iam.store.tenants import insert_tenant
from tests.conftest import DatabaseUrls, TurnableClock

WALLED = [
    "audit",
    "audit_pending",
    "authority_request",
    "authority_standing",
    "bootstrap_binding",
    "bulk_revocation",
    "certificate",
    "credential",
    "decryption_key",
    "device",
    "device_group",
    "device_key",
    "distrusted_key",
    "enrolment_approval",
    "enrolment_profile",
    "enrolment_secret",
    "generated_key",
    "identity",
    "identity_role",
    "invitation",
    "issuance_profile",
    "kms_key",
    "kms_key_alias",
    "outbox",
    "pairing",
    "refresh_token",
    "role",
    "session",
]


async def two_tenants(pool: Pool, clock: TurnableClock) -> tuple[UUID, UUID]:
    system = await lay_foundation(pool, clock, os.urandom)
    ids = uuid4(), uuid4()
    for number, identifier in enumerate(ids):
        path = (system.id, identifier)
        tenant = Tenant(identifier, f"t{number}", system.id, path, TenantStatus.ACTIVE, Scope(), clock())
        async with pool.transaction(identifier) as transaction:
            await insert_tenant(transaction, tenant)
            await transaction.execute(
                "INSERT INTO device (device_identifier, tenant_id, status, labels, metadata, created_at)"
                " VALUES ($1, $2, 'NO_IDENTITY', '{}', '{}', $3)",
                f"meter-{number}",
                identifier,
                clock(),
            )
    return ids


async def test_a_transaction_sees_and_changes_its_own_tenants_rows_only(pool: Pool, clock: TurnableClock) -> None:
    first, second = await two_tenants(pool, clock)
    async with pool.transaction(first) as transaction:
        assert await transaction.fetchval("SELECT array_agg(device_identifier) FROM device") == ["meter-0"]
        assert await transaction.execute("UPDATE device SET labels = '{}' WHERE device_identifier = 'meter-1'") == 0
        assert await transaction.execute("DELETE FROM device WHERE device_identifier = 'meter-1'") == 0
    with pytest.raises(asyncpg.InsufficientPrivilegeError):
        async with pool.transaction(first) as transaction:
            await transaction.execute(
                "INSERT INTO device (device_identifier, tenant_id, status, labels, metadata, created_at)"
                " VALUES ('sly', $1, 'NO_IDENTITY', '{}', '{}', $2)",
                second,
                clock(),
            )


async def test_a_connection_that_names_no_tenant_sees_nothing(
    database_urls: DatabaseUrls, pool: Pool, clock: TurnableClock
) -> None:
    await two_tenants(pool, clock)
    connection = await asyncpg.connect(database_urls.node)
    for table in ("tenant", *WALLED):
        assert await connection.fetchval(f"SELECT count(*) FROM {table}") == 0  # noqa: S608 - a constant
    await connection.close()


async def test_every_table_with_a_tenant_has_the_wall(database_urls: DatabaseUrls) -> None:
    connection = await asyncpg.connect(database_urls.owner)
    rows = await connection.fetch(
        "SELECT c.relname, c.relrowsecurity FROM pg_class c JOIN pg_attribute a ON a.attrelid = c.oid"
        " WHERE a.attname = 'tenant_id' AND c.relkind = 'r'"
    )
    await connection.close()
    assert {row["relname"] for row in rows} == set(WALLED)
    assert all(row["relrowsecurity"] for row in rows)


async def test_nodes_run_as_a_role_that_cannot_look_over_the_wall(
    database_urls: DatabaseUrls, pool: Pool, clock: TurnableClock
) -> None:
    await pool.check_role()
    owner = await Pool.connect(database_urls.owner, clock, os.urandom, size=2)
    with pytest.raises(Refused) as refused:
        await owner.check_role()
    assert refused.value.kind is Kind.INVALID
    await owner.close()


@pytest.mark.parametrize("statement", ["UPDATE audit SET kind = 'x'", "DELETE FROM audit", "TRUNCATE audit"])
async def test_nodes_cannot_change_the_audit(pool: Pool, statement: str) -> None:
    with pytest.raises(asyncpg.InsufficientPrivilegeError):
        async with pool.transaction(EVERYWHERE) as transaction:
            await transaction.execute(statement)


async def test_a_change_and_its_record_commit_together_or_not_at_all(pool: Pool, clock: TurnableClock) -> None:
    first, _ = await two_tenants(pool, clock)
    with pytest.raises(ZeroDivisionError):
        async with pool.transaction(first) as transaction:
            await transaction.execute('UPDATE device SET labels = \'{"a": "b"}\'')
            await transaction.record(Change(first, "me", "device.updated", "meter-0"))
            raise ZeroDivisionError
    async with pool.transaction(first) as transaction:
        assert await transaction.fetchval("SELECT labels FROM device") == "{}"
        assert await waiting_events(transaction, 10) == []


async def test_what_was_recorded_is_announced_after_the_commit_and_only_then(pool: Pool, clock: TurnableClock) -> None:
    first, _ = await two_tenants(pool, clock)
    heard: list[str] = []
    pool.announce_to(lambda changes: heard.extend(change.kind for change in changes))
    async with pool.transaction(first) as transaction:
        await transaction.record(Change(first, "me", "a.happened", "x"))
        assert heard == []
    assert heard == ["a.happened"]
    with pytest.raises(ZeroDivisionError):
        async with pool.transaction(first) as transaction:
            await transaction.record(Change(first, "me", "b.happened", "x"))
            raise ZeroDivisionError
    assert heard == ["a.happened"]


async def chained(pool: Pool, clock: TurnableClock, count: int) -> AuditService:
    first, second = await two_tenants(pool, clock)
    for number in range(count):
        tenant = (first, second)[number % 2]
        async with pool.transaction(tenant) as transaction:
            await transaction.record(Change(tenant, "me", "x.happened", str(number), {"n": number, "a": "ü"}))
    service = AuditService(pool)
    await service.chain()
    return service


async def test_the_audit_chain_holds_and_has_one_line_for_each_change(pool: Pool, clock: TurnableClock) -> None:
    service = await chained(pool, clock, 20)
    assert await service.check() == (21, None)
    assert await service.chain() == 0


@pytest.mark.parametrize(
    "tampering",
    [
        "UPDATE audit SET actor = 'somebody else' WHERE sequence = 7",
        "UPDATE audit SET data = '{\"n\": 99}' WHERE sequence = 7",
        "UPDATE audit SET at = at + interval '1 microsecond' WHERE sequence = 7",
        "DELETE FROM audit WHERE sequence = 7",
        "UPDATE audit SET hash = sha256('x') WHERE sequence = 7",
    ],
)
async def test_whatever_is_changed_in_the_audit_by_its_owner_is_found(
    pool: Pool, clock: TurnableClock, database_urls: DatabaseUrls, tampering: str
) -> None:
    service = await chained(pool, clock, 10)
    owner = await asyncpg.connect(database_urls.owner)
    await owner.execute(tampering)
    await owner.close()
    holds, broken = await service.check()
    assert holds == 6
    assert broken in (7, 8)


async def test_two_that_chain_at_once_lose_nothing(pool: Pool, clock: TurnableClock) -> None:
    first, _ = await two_tenants(pool, clock)
    for number in range(30):
        async with pool.transaction(first) as transaction:
            await transaction.record(Change(first, "me", "x.happened", str(number)))

    async def chain() -> int:
        async with pool.transaction(EVERYWHERE) as transaction:
            return await chain_pending(transaction, 1000)

    results = await asyncio.gather(chain(), chain(), return_exceptions=True)
    assert 31 in results
    assert await AuditService(pool).check() == (31, None)


async def test_migrations_are_applied_once(database_urls: DatabaseUrls) -> None:
    assert await migrate(database_urls.owner, "doorward_node") == 0


async def test_an_applied_migration_that_was_edited_stops_the_start(
    database_urls: DatabaseUrls, monkeypatch: pytest.MonkeyPatch
) -> None:
    edited = [Migration(one.number, one.name, one.sql + " ") for one in migrations()]
    monkeypatch.setattr(database, "migrations", lambda: edited)
    with pytest.raises(Refused, match="edited since"):
        await migrate(database_urls.owner, "doorward_node")


async def test_a_database_newer_than_the_program_stops_the_start(
    database_urls: DatabaseUrls, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(database, "migrations", lambda: migrations()[:-1])
    with pytest.raises(Refused, match="newer than this program"):
        await migrate(database_urls.owner, "doorward_node")


async def test_a_database_that_is_gone_is_a_refusal(clock: TurnableClock) -> None:
    with pytest.raises(Refused) as refused:
        await Pool.connect("postgresql://nobody@127.0.0.1:1/none", clock, os.urandom, size=1)
    assert refused.value.kind is Kind.UNAVAILABLE


async def test_time_in_the_database_is_the_time_of_the_caller(pool: Pool, clock: TurnableClock) -> None:
    first, _ = await two_tenants(pool, clock)
    async with pool.transaction(first) as transaction:
        moment = transaction.now
        await transaction.record(Change(first, "me", "x.happened", "x"))
        found = (await waiting_events(transaction, 10))[-1]
    assert found.at == moment
    assert found.at.tzinfo is not None
    assert abs(found.at - datetime.now(UTC)).total_seconds() < 5

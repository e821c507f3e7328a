"""What is in names, tags and metadata is found by an index that keeps to the tenant, whether few have it or many."""

import asyncpg
import pytest

from ca.search import CertificateSearch
from doorward.embedded.postgres import PostgresAddresses
from iam.listing import ListQuery
from iam.model import ALL
from iam.store import listing
from iam.store.database import EVERYWHERE
from iam.store.device_lists import page_of_devices
from tests.ca.world import World, database_url, new_database

NAMES = ("meter_01", "meterX01", "Meter_02", "pump-77")


async def devices(world: World, *filters: str) -> list[str]:
    async with world.pool.transaction(world.system.id) as transaction:
        page = await page_of_devices(transaction, world.system.id, ListQuery(filter=list(filters)), visible=ALL)
    return sorted(one.identifier for one in page.items)


async def certificates(world: World, *filters: str) -> list[str]:
    asked = ListQuery(filter=list(filters))
    page = await CertificateSearch(world.pool, world.clock).page(world.system.id, asked, ALL)
    return sorted(str(one.device) for one in page.items)


WITH_METER = ["Meter_02", "meterX01", "meter_01"]


@pytest.mark.parametrize("few", [2000, 1, 0])
async def test_it_is_found_whether_few_or_many_have_it(world: World, monkeypatch: pytest.MonkeyPatch, few: int) -> None:
    monkeypatch.setattr(listing, "_FEW", few)
    for name in NAMES:
        await world.service.issue_bootstrap(name, actor="test")
        await world.device(name, world.system.id)
    await world.execute(
        "UPDATE device SET tags = ARRAY['all', left(device_identifier, 5)],"
        " metadata = jsonb_build_object('name', device_identifier, 'n', 5)"
    )
    for said, expected in (
        ("[ct]meter_0", ["meter_01"]),
        ("[ct_ic]meter_0", ["Meter_02", "meter_01"]),
        ("[ct]METER_0", []),
        ("[ct]eter", WITH_METER),
        ("[ct]r%", []),
        ("[ct]ter%01", []),
        ("[ct]-7", ["pump-77"]),
        ("[ct]\\", []),
        ("[ct]nowhere", []),
    ):
        assert await devices(world, f"id{said}") == expected, said
        assert await certificates(world, f"subject.common_name{said}") == expected, said
    for filters, expected in (
        (["tags[ct]all"], sorted(NAMES)),
        (["tags[ct]pump-"], ["pump-77"]),
        (["tags[ct]pump"], []),
        (["tags[ct]all", "id[ct]meter"], ["meterX01", "meter_01"]),
        (["tags[ct_ic]METER"], WITH_METER),
        (['metadata[jsonpath]$.name == "pump-77"'], ["pump-77"]),
        (['metadata[jsonpath]$.name ? (@ starts with "meter")'], ["meterX01", "meter_01"]),
        (["metadata[jsonpath]$.n > 4"], sorted(NAMES)),
        (["metadata[jsonpath]$.n.size()"], sorted(NAMES)),
        (["metadata[jsonpath]$.nothing"], []),
        (["metadata[jsonpath]$.name > 5 || $.n == 6"], []),
    ):
        assert await devices(world, *filters) == expected, filters


async def test_what_finds_them_keeps_to_the_tenant(world: World) -> None:
    acme = await world.tenant("acme")
    for name, tenant in (("meter-01", world.system.id), ("meter-02", acme)):
        await world.service.issue_bootstrap(name, actor="test")
        await world.device(name, tenant)
    await world.execute("""UPDATE device SET tags = '{roof}', metadata = '{"site": 1}'""")
    for ask in (
        "SELECT devices_named_like('%eter%', false, $1)",
        "SELECT devices_tagged('roof', $1)",
        "SELECT devices_at_path('$.site == 1', true, $1)",
        "SELECT devices_at_path('$.site ? (@ == 1)', false, $1)",
    ):
        answers = {}
        for tenant in (world.system.id, acme, EVERYWHERE):
            async with world.pool.transaction(tenant) as transaction:
                answers[tenant] = [await transaction.fetchval(ask, most) for most in (0, 1)]
        assert answers == {world.system.id: [None, ["meter-01"]], acme: [None, ["meter-02"]], EVERYWHERE: [None, None]}
    async with world.pool.transaction(acme) as transaction:
        assert await transaction.fetchval("SELECT certificates_named_like('%eter%', false, 9)") == []


@pytest.mark.parametrize(
    ("table", "condition", "index"),
    [
        ("certificate", "common_name LIKE '%ter-%'", "certificate_search"),
        ("device", "device_identifier LIKE '%ter-%'", "device_search"),
        ("device", "tags @> '{roof}'", "device_search"),
        ("device", "metadata @@ '$.site == 1'", "device_search"),
    ],
)
async def test_an_index_answers_them(postgres: PostgresAddresses, table: str, condition: str, index: str) -> None:
    """As the owner of the tables, as whom the functions run: behind the wall no index would."""
    async with new_database(postgres) as node:
        name = node.rpartition("/")[2].partition("?")[0]
        connection = await asyncpg.connect(database_url(postgres.owner_dsn, name))
        try:
            await connection.execute(
                "SET enable_seqscan = off; SET enable_indexscan = off; SET enable_indexonlyscan = off"
            )
            plan = await connection.fetch(f"EXPLAIN SELECT FROM {table} WHERE {condition}")
        finally:
            await connection.close()
    assert index in str(plan)

"""Devices with real certificates: their identity slots, and the states that they pass through as time goes by."""

import asyncio
from datetime import UTC, datetime, timedelta
from typing import Any

import asyncpg
import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from hypothesis import given
from hypothesis import strategies as st

from ca.inventory import RevocationReason
from doorward.embedded.postgres import PostgresAddresses
from est.profiles import DeviceDefaults, Settings
from iam.errors import Refused
from iam.http import device_manager
from iam.life_cycle import BY_AGE, FOLLOWERS, Windows, require_step, status_by_age
from iam.model import DeviceStatus
from iam.service.device_import import DeviceImport
from iam.service.devices import DeviceService
from iam.service.life_cycle import STATUS_CHANGED, LifeCycle
from iam.store.database import EVERYWHERE
from iam.store.life_cycle import aged_devices
from tests.ca.world import World, database_url, serving
from tests.est.world import EstWorld, Holder, b64, only, request

DAY = timedelta(days=1)
DEVICES = "/api/devmanager/v1/devices"
ALL = '[{"resource": "*", "actions": ["create", "read", "update", "delete"]}]'
DEFAULT = Windows(30 * DAY, 7 * DAY)


def life_cycle(world: World) -> LifeCycle:
    return LifeCycle(world.pool, DEFAULT)


async def status(world: World, identifier: str) -> str:
    found: str = await world.value("SELECT status FROM device WHERE device_identifier = $1", identifier)
    return found


async def renewed(est: EstWorld, holder: Holder, identifier: str) -> Holder:
    key = ec.generate_private_key(ec.SECP256R1())
    answer = await est.service.reenrol("default", (holder.der,), b64(request(key, identifier)))
    return est.hold([only(answer)], key)


async def changes(world: World, identifier: str) -> list[tuple[str, str]]:
    """What was published of a device's state."""
    rows = await world.rows(
        "SELECT data ->> 'before' AS before, data ->> 'after' AS after FROM outbox WHERE kind = $1 AND subject = $2"
        " ORDER BY id",
        STATUS_CHANGED,
        identifier,
    )
    return [(row["before"], row["after"]) for row in rows]


async def test_a_device_ages_with_its_certificate_and_is_young_again_when_it_renews(est: EstWorld) -> None:
    world, job = est.world, life_cycle(est.world)
    holder = await est.enrolled("meter-001")
    assert await job.advance() == 0
    assert await status(world, "meter-001") == "ACTIVE"
    expected = []
    for days, after in ((61, "RENEWAL_PENDING"), (23, "EXPIRING_SOON")):
        before = await status(world, "meter-001")
        world.clock.move(days * DAY)
        assert await job.advance() == 1
        assert await job.advance() == 0
        assert await status(world, "meter-001") == after
        expected.append((before, after))
    assert await changes(world, "meter-001") == expected
    await renewed(est, holder, "meter-001")
    assert await status(world, "meter-001") == "ACTIVE"
    assert await job.advance() == 0
    assert await status(world, "meter-001") == "ACTIVE"
    world.clock.move(365 * DAY)  # a year of downtime
    assert await job.advance() == 1
    assert (await changes(world, "meter-001"))[-1] == ("ACTIVE", "EXPIRED")
    audited = await world.value("SELECT count(*) FROM audit_pending WHERE kind = $1", STATUS_CHANGED)
    assert audited == len(await changes(world, "meter-001")) == 3


async def test_a_device_that_was_held_when_it_was_first_looked_at_ages_once_it_is_released(est: EstWorld) -> None:
    world, job = est.world, life_cycle(est.world)
    holder = await est.enrolled("meter-001")
    await world.revocation.revoke(EVERYWHERE, holder.serial, RevocationReason.CERTIFICATE_HOLD, actor="test")
    await job.advance()
    await world.revocation.release(EVERYWHERE, holder.serial, actor="test")
    world.clock.move(365 * DAY)
    assert await job.advance() == 1
    assert await status(world, "meter-001") == "EXPIRED"


async def test_a_clock_that_was_set_wrong_leaves_nothing_behind(est: EstWorld) -> None:
    world, job = est.world, life_cycle(est.world)
    await est.enrolled("meter-001")
    for days in (10_000, -9_930, -70):  # far ahead; back to within the window; back to where it was
        world.clock.move(days * DAY)
        await job.advance()
    assert await status(world, "meter-001") == "ACTIVE"
    assert set(await changes(world, "meter-001")) == {
        ("ACTIVE", "EXPIRED"),
        ("EXPIRED", "RENEWAL_PENDING"),
        ("RENEWAL_PENDING", "ACTIVE"),
    }
    world.clock.move(85 * DAY)
    await job.advance()
    await job.advance()
    assert await status(world, "meter-001") == "EXPIRING_SOON"


async def test_each_label_has_its_own_windows_and_a_change_of_them_counts_at_once(est: EstWorld) -> None:
    world, job = est.world, life_cycle(est.world)
    await est.label("slow", renewal_window=80 * DAY, critical_window=DAY)
    await est.label("gone", renewal_window=80 * DAY, critical_window=DAY)
    await est.enrolled("meter-001")
    await est.enrolled("meter-002", label="slow")
    await est.enrolled("meter-003", label="gone")
    await world.execute("DELETE FROM enrolment_profile WHERE name = 'gone'")
    world.clock.move(20 * DAY)
    assert await job.advance() == 1
    assert await status(world, "meter-002") == "RENEWAL_PENDING"
    await world.execute("UPDATE enrolment_profile SET renewal_window_seconds = 864000 WHERE name = 'slow'")
    assert await job.advance() == 1
    assert await status(world, "meter-002") == "ACTIVE"
    world.clock.move(45 * DAY)  # those of the node: 30 days
    assert await job.advance() == 2
    assert {await status(world, one) for one in ("meter-001", "meter-003")} == {"RENEWAL_PENDING"}


async def test_what_was_revoked_or_decommissioned_does_not_age(est: EstWorld) -> None:
    world, job = est.world, life_cycle(est.world)
    for number, verb in (("001", "REVOKED"), ("002", "DECOMMISSIONED")):
        await est.enrolled(f"meter-{number}")
        await job.advance()
        await world.execute("UPDATE device SET status = $1 WHERE device_identifier = $2", verb, f"meter-{number}")
    world.clock.move(365 * DAY)
    assert await job.advance() == 0
    assert await status(world, "meter-001") == "REVOKED"
    assert await status(world, "meter-002") == "DECOMMISSIONED"


async def test_two_runs_at_once_make_each_change_once(est: EstWorld) -> None:
    world = est.world
    for number in range(5):
        await est.enrolled(f"meter-{number}")
    world.clock.move(365 * DAY)
    jobs = [life_cycle(world) for _ in range(4)]
    assert sum(await asyncio.gather(*(job.advance() for job in jobs))) + await jobs[0].advance() == 5
    for number in range(5):
        assert await changes(world, f"meter-{number}") == [("ACTIVE", "EXPIRED")]


async def test_a_renewal_under_way_is_neither_waited_for_nor_undone(est: EstWorld) -> None:
    world, job = est.world, life_cycle(est.world)
    holder = await est.enrolled("meter-001")
    await job.advance()
    world.clock.move(61 * DAY)
    async with world.pool.transaction(EVERYWHERE) as transaction:
        await transaction.execute("SELECT FROM device WHERE device_identifier = 'meter-001' FOR UPDATE")
        assert await asyncio.wait_for(job.advance(), 5) == 0
    await renewed(est, holder, "meter-001")
    assert await job.advance() == 0
    assert await status(world, "meter-001") == "ACTIVE"


async def test_a_run_reads_what_is_due_and_not_all_devices(est: EstWorld, postgres: PostgresAddresses) -> None:
    world = est.world
    await world.execute(
        "INSERT INTO device (device_identifier, tenant_id, status, labels, metadata, enrolment_profile, created_at,"
        " expires_at) SELECT 'meter-' || i, $1, 'ACTIVE', '{}', '{}', 'line-' || i % 7, $2::timestamptz,"
        " $2::timestamptz + interval '60 days' + i * interval '1 minute' FROM generate_series(1, 20000) i",
        world.system.id,
        world.clock(),
    )
    # PostgreSQL plans by what it knows of the table.
    name = world.url.partition("?")[0].rpartition("/")[2]
    administrator = await asyncpg.connect(database_url(postgres.superuser_dsn, name))
    await administrator.execute("ANALYZE device")
    await administrator.close()
    async with world.pool.transaction(EVERYWHERE) as transaction:
        assert await aged_devices(transaction, DEFAULT, 1000) == []
        before = await transaction.fetchval(READ)
        await aged_devices(transaction, DEFAULT, 1000)
        assert await transaction.fetchval(READ) - before < 50
    world.clock.move(31 * DAY)
    assert await life_cycle(world).advance() > 0


READ = (
    "SELECT pg_stat_get_xact_tuples_returned('device'::regclass) + pg_stat_get_xact_tuples_fetched('device'::regclass)"
)


def test_the_table_of_states_leaves_no_way_out_of_the_end_and_a_way_there_from_everywhere() -> None:
    assert set(FOLLOWERS) == set(DeviceStatus)
    assert FOLLOWERS[DeviceStatus.DECOMMISSIONED] == frozenset()
    for one in set(DeviceStatus) - {DeviceStatus.DECOMMISSIONED}:
        require_step("meter-001", one, DeviceStatus.DECOMMISSIONED)
        with pytest.raises(Refused):
            require_step("meter-001", one, DeviceStatus.NO_IDENTITY)


@given(st.integers(-100, 100), st.integers(0, 60), st.integers(0, 60))
def test_the_state_follows_the_age(left: int, one: int, other: int) -> None:
    windows = Windows(max(one, other) * DAY, min(one, other) * DAY)
    now = datetime(2026, 1, 1, tzinfo=UTC)
    found = status_by_age(now + left * DAY, now, windows)
    younger = status_by_age(now + (left + 1) * DAY, now, windows)
    assert BY_AGE.index(younger) <= BY_AGE.index(found)
    assert (found is DeviceStatus.EXPIRED) is (left <= 0)


async def test_a_device_that_enrols_by_itself_begins_with_what_its_label_says(est: EstWorld) -> None:
    world = est.world
    begins = DeviceDefaults(tags=("north", "meter"), metadata={"site": "mill"}, icon="gauge", icon_color="#0068D1")
    await est.label("line", settings=Settings(device=begins))
    await est.enrolled("meter-001", label="line")
    headers = await world.identity(world.system.id, ALL)
    devices = DeviceService(world.pool, world.clock, world.revocation.withdraw)
    async with serving(world, device_manager.routes(devices, DeviceImport(world.pool, world.clock))) as client:
        found = await client.get(DEVICES, headers=headers, params={"filter": "tags[ct]north"})
        (shown,) = (await found.json())["list"]
    assert (shown["tags"], shown["icon"], shown["icon_color"]) == (["north", "meter"], "gauge", "#0068D1")
    assert (shown["metadata"], shown["dms_owner"], shown["status"]) == ({"site": "mill"}, "line", "ACTIVE")


async def test_an_identity_slot_shows_the_devices_certificates(est: EstWorld) -> None:
    world = est.world
    headers = await world.identity(world.system.id, ALL)
    devices = DeviceService(world.pool, world.clock, world.revocation.withdraw)
    routes = device_manager.routes(devices, DeviceImport(world.pool, world.clock))
    first = await est.enrolled("meter-001")
    second = await renewed(est, first, "meter-001")
    async with serving(world, routes) as client:

        async def slot() -> Any:
            return (await (await client.get(f"{DEVICES}/meter-001", headers=headers)).json())["identity"]

        shown = await slot()
        assert (shown["status"], shown["active_version"], shown["type"]) == ("ACTIVE", 1, "X509")
        assert shown["versions"] == {"0": first.serial.hex(), "1": second.serial.hex()}
        assert [one["type"] for one in shown["events"].values()] == ["PROVISIONED", "RENEWED"]
        listed = await (await client.get(DEVICES, headers=headers)).json()
        assert [one["identity"] for one in listed["list"]] == [shown]
        put = await client.put(f"{DEVICES}/meter-001/idslot", headers=headers, json=shown)
        assert (put.status, (await put.json())["identity"]) == (200, shown)
        for wrong in (
            {**shown, "active_version": 0},
            {**shown, "versions": {"0": "00"}},
            {**shown, "status": "EXPIRED"},
            {**shown, "type": "PASSWORD"},
        ):
            assert (await client.put(f"{DEVICES}/meter-001/idslot", headers=headers, json=wrong)).status == 409
        revoked = await client.put(f"{DEVICES}/meter-001/idslot", headers=headers, json={"status": "REVOKED"})
        found = await revoked.json()
        assert (revoked.status, found["status"], found["identity"]["status"]) == (200, "REVOKED", "REVOKED")
        assert (await slot())["active_version"] == 1
        history = await (await client.get(f"{DEVICES}/meter-001/events", headers=headers)).json()
        types = [one["type"] for one in history["list"]]
        assert types == ["PROVISIONED", "RENEWED", "STATUS-UPDATED", "STATUS-UPDATED"]
    live = await world.value("SELECT count(*) FROM certificate WHERE status <> 'revoked' AND identity_id IS NOT NULL")
    assert live == 0
    with pytest.raises(Exception, match=r"revoked|not"):
        await renewed(est, second, "meter-001")

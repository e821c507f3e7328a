"""Revoking what many devices have: dry run, batches, crashes in the middle, and whom it reaches."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import datetime, timedelta
from os import urandom
from typing import Any
from urllib.parse import urlsplit
from uuid import UUID

import asyncpg
import pytest

from ca import bulk_service
from ca.bulk import MOST_FAILURES, BulkStatus
from ca.bulk_service import BulkRevocationService
from ca.http import bulk_revocations
from ca.inventory import RevocationReason
from ca.revocation import RevocationService
from doorward.database import Pool
from doorward.embedded.postgres import PostgresAddresses
from iam.access import Access, Denied
from iam.errors import Kind, Refused
from iam.identifiers import identity_id
from iam.store.database import EVERYWHERE
from iam.store.standing import read_standing
from tests.ca.world import World, database_url, serving

ALL = '[{"resource": "*", "actions": ["create", "read", "update", "delete"]}]'
REVOCATIONS = "/api/ca/v1/revocations"
BATCH_7 = ["labels[jsonpath]$.batch == 7"]


def service_of(world: World, revocation: RevocationService | None = None) -> BulkRevocationService:
    async def access_of(identity: str) -> Access | Denied:
        return (await read_standing(world.pool, identity)).access

    return BulkRevocationService(world.pool, revocation or world.revocation, access_of, world.clock, urandom)


async def enrolled(world: World, tenant: UUID, count: int, *, batch: int = 7, certificates: int = 1) -> list[str]:
    """Make devices with identities and certificates, as enrolment leaves them."""
    names = [f"b{batch}-{number:03}" for number in range(count)]
    issuing = world.authorities.by_name("issuing").id
    for name in names:
        identity = identity_id(world.clock(), urandom)
        await world.execute(
            "INSERT INTO identity (id, tenant_id, type, name, status, devices, created_at)"
            " VALUES ($1, $2, 'device', $3, 'active', '{}', $4)",
            identity,
            tenant,
            name,
            world.clock(),
        )
        await world.execute(
            "INSERT INTO device (device_identifier, tenant_id, identity_id, status, labels, metadata, created_at)"
            " VALUES ($1, $2, $3, 'ACTIVE', jsonb_build_object('batch', $4::int), '{}', $5)",
            name,
            tenant,
            identity,
            batch,
            world.clock(),
        )
        for number in range(certificates):
            await world.execute(
                "INSERT INTO certificate (serial, authority_id, tenant_id, profile, device_identifier, identity_id,"
                " subject, spki_sha256, not_before, not_after, certificate, status, issued_at)"
                " VALUES ($1, $2, $3, 'device', $4, $5, 'CN=' || $4, sha256($1), $6, $7, $1, $8, $6)",
                urandom(16),
                issuing,
                tenant,
                name,
                identity,
                world.clock(),
                world.clock() + timedelta(days=90),
                "superseded" if number else "active",
            )
    return names


async def revoked_devices(world: World) -> list[str]:
    rows = await world.rows(
        "SELECT DISTINCT device_identifier FROM certificate WHERE status = 'revoked' ORDER BY device_identifier"
    )
    return [row["device_identifier"] for row in rows]


async def begun(world: World, headers: dict[str, str], **said: Any) -> Any:
    async with serving(world, bulk_revocations.routes(service_of(world))) as client:
        body = {"filter": BATCH_7, "revocation_reason": "KeyCompromise", **said}
        answer = await client.post(REVOCATIONS, headers=headers, json=body)
        return answer.status, await answer.json()


async def seen(world: World, headers: dict[str, str], identifier: str) -> Any:
    async with serving(world, bulk_revocations.routes(service_of(world))) as client:
        return await (await client.get(f"{REVOCATIONS}/{identifier}", headers=headers)).json()


async def test_a_dry_run_counts_and_shows_and_changes_nothing(world: World) -> None:
    headers = await world.identity(world.system.id, ALL)
    names = await enrolled(world, world.system.id, 23, certificates=2)
    await enrolled(world, world.system.id, 2, batch=8)
    status, body = await begun(world, headers, dry_run=True)
    assert (status, body["status"], body["devices"], body["certificates"]) == (200, "DRY_RUN", 23, 46)
    assert body["sample"] == names[:20]
    held = await begun(world, headers, dry_run=True, revocation_reason="CertificateHold")
    assert held[1]["certificates"] == 23
    assert await service_of(world).work() == 0
    assert await world.value("SELECT count(*) FROM bulk_revocation") == 0
    assert await world.value("SELECT count(*) FROM outbox WHERE kind LIKE 'bulk%' OR kind LIKE 'certificate.r%'") == 0
    assert await revoked_devices(world) == []


async def test_all_that_pass_the_filter_in_batches_with_one_event_each(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bulk_service, "BATCH_DEVICES", 4)
    headers = await world.identity(world.system.id, ALL)
    names = await enrolled(world, world.system.id, 10, certificates=2)
    await enrolled(world, world.system.id, 3, batch=8)
    status, body = await begun(world, headers)
    assert (status, body["status"], body["devices"], body["devices_done"]) == (202, "RUNNING", 10, 0)
    world.changes.clear()
    assert await service_of(world).work() == 3
    after = await seen(world, headers, body["id"])
    assert (after["status"], after["devices_done"], after["certificates"]) == ("DONE", 10, 20)
    assert await revoked_devices(world) == names
    events = await world.rows("SELECT subject, data FROM outbox WHERE kind = 'certificate.revoked'")
    serials = await world.rows("SELECT encode(serial, 'hex') AS serial FROM certificate WHERE status = 'revoked'")
    assert sorted(one["subject"] for one in events) == sorted(one["serial"] for one in serials)
    assert all('"affects"' in one["data"] for one in events)  # so what is connected is cut
    assert await world.value("SELECT count(*) FROM audit_pending WHERE kind = 'certificate.revoked'") == 20
    assert sum(change.kind == "certificate.revoked" for change in world.changes) == 20
    states = await world.rows("SELECT DISTINCT status FROM device WHERE labels @> '{\"batch\": 7}'")
    assert [one["status"] for one in states] == ["REVOKED"]


class Killed(BaseException):
    """As if the process ended: nobody catches it."""


class Failing(RevocationService):
    """Ends in the middle of a batch: after so many identities."""

    left = 0

    async def revoke_all(self, *arguments: Any, **named: Any) -> int:
        if self.left == 0:
            raise Killed
        self.left -= 1
        return await super().revoke_all(*arguments, **named)


@asynccontextmanager
async def failing_for(world: World, addresses: PostgresAddresses, device: str) -> AsyncIterator[None]:
    """Let the database refuse to revoke what a device has, by what nobody foresaw."""
    name = urlsplit(world.url).path.removeprefix("/")
    owner = await asyncpg.connect(database_url(addresses.owner_dsn, name))
    await owner.execute(
        "CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE 'the disk is haunted'; END $$;"
        "CREATE TRIGGER refuse BEFORE UPDATE ON certificate FOR EACH ROW"
        f" WHEN (NEW.device_identifier = '{device}') EXECUTE FUNCTION refuse()"
    )
    yield
    await owner.execute("DROP TRIGGER refuse ON certificate; DROP FUNCTION refuse")
    await owner.close()


async def test_a_batch_is_whole_or_not_at_all_and_another_worker_goes_on(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bulk_service, "BATCH_DEVICES", 4)
    headers = await world.identity(world.system.id, ALL)
    names = await enrolled(world, world.system.id, 10)
    _, body = await begun(world, headers)
    failing = Failing(world.pool)
    failing.left = 6  # one batch, and half of the next
    with pytest.raises(Killed):
        await service_of(world, failing).work()
    half = await seen(world, headers, body["id"])
    assert (half["status"], half["devices_done"], half["certificates"]) == ("RUNNING", 4, 4)
    assert await revoked_devices(world) == names[:4]
    assert await service_of(world).work() == 2
    after = await seen(world, headers, body["id"])
    assert (after["status"], after["devices_done"], after["certificates"]) == ("DONE", 10, 10)
    assert await world.value("SELECT count(*) FROM outbox WHERE kind = 'certificate.revoked'") == 10


async def test_what_fails_is_tried_later_each_time_and_holds_up_no_other(
    world: World, postgres: PostgresAddresses, caplog: pytest.LogCaptureFixture
) -> None:
    headers = await world.identity(world.system.id, ALL)
    names = await enrolled(world, world.system.id, 1)
    await enrolled(world, world.system.id, 2, batch=8)
    _, broken = await begun(world, headers)
    _, other = await begun(world, headers, filter=["labels[jsonpath]$.batch == 8"])
    service = service_of(world)
    async with failing_for(world, postgres, names[0]):
        assert await service.work() == 1
        assert (await seen(world, headers, other["id"]))["status"] == "DONE"
        first = await seen(world, headers, broken["id"])
        assert (first["status"], first["failures"], first["devices_done"]) == ("RUNNING", 1, 0)
        incident = first["last_failure"].removesuffix(".").rpartition(" ")[2]
        assert "RaiseError" in first["last_failure"]
        assert "haunted" not in first["last_failure"]  # what the database says is for the log
        assert incident in caplog.text
        assert "the disk is haunted" in caplog.text

        waited = []
        for _ in range(MOST_FAILURES - 1):
            before = await seen(world, headers, broken["id"])
            assert await service.work() == 0
            assert (await seen(world, headers, broken["id"]))["failures"] == before["failures"], "tried before its time"
            waited.append(datetime.fromisoformat(before["next_try_at"]) - datetime.fromisoformat(before["updated_at"]))
            world.clock.move(waited[-1])
            await service.work()
    assert waited == sorted(waited)
    assert (waited[0], waited[-1]) == (timedelta(seconds=1), timedelta(seconds=256))
    failed = await seen(world, headers, broken["id"])
    assert (failed["status"], failed["failures"]) == ("FAILED", MOST_FAILURES)
    assert failed["why_stopped"] == failed["last_failure"]
    assert "next_try_at" not in failed
    assert (
        await world.value("SELECT data ->> 'why' FROM outbox WHERE kind = 'bulk_revocation.failed'")
        == (failed["why_stopped"])
    )
    world.clock.move(timedelta(days=1))
    assert await service_of(world).work() == 0
    assert await revoked_devices(world) == ["b8-000", "b8-001"]


async def test_what_failed_and_is_mended_is_done_at_the_next_try(world: World, postgres: PostgresAddresses) -> None:
    headers = await world.identity(world.system.id, ALL)
    names = await enrolled(world, world.system.id, 2)
    _, body = await begun(world, headers)
    async with failing_for(world, postgres, names[1]):
        await service_of(world).work()
        assert await revoked_devices(world) == []  # a batch is whole or not at all
    world.clock.move(timedelta(seconds=2))
    assert await service_of(world).work() == 1
    done = await seen(world, headers, body["id"])
    assert (done["status"], done["failures"], "last_failure" in done) == ("DONE", 0, False)


async def test_a_clock_that_was_ahead_lets_nothing_wait(world: World, postgres: PostgresAddresses) -> None:
    headers = await world.identity(world.system.id, ALL)
    names = await enrolled(world, world.system.id, 1)
    await begun(world, headers)
    world.clock.move(timedelta(days=1))
    async with failing_for(world, postgres, names[0]):
        await service_of(world).work()
    world.clock.move(timedelta(days=-1))
    assert await service_of(world).work() == 1
    assert await revoked_devices(world) == names


async def test_what_failed_goes_on_when_an_operator_says_so(world: World, postgres: PostgresAddresses) -> None:
    headers, other = await world.identity(world.system.id, ALL), await world.identity(world.system.id, ALL)
    reader = await world.identity(world.system.id, '[{"resource": "*", "actions": ["read"]}]')
    names = await enrolled(world, world.system.id, 2)
    _, body = await begun(world, headers)
    async with failing_for(world, postgres, names[1]):
        for _ in range(MOST_FAILURES):
            await service_of(world).work()
            world.clock.move(timedelta(minutes=5))
    path = f"{REVOCATIONS}/{body['id']}/resume"
    async with serving(world, bulk_revocations.routes(service_of(world))) as client:
        assert (await client.post(path, headers=reader)).status == 403
        assert (await client.post(path, headers=await world.identity(world.system.id, ALL, names))).status == 404
        answer = await client.post(path, headers=other)
        resumed = await answer.json()
        assert (answer.status, resumed["status"], resumed["failures"]) == (202, "RUNNING", 0)
        assert resumed["actor"] == headers["Authorization"][7:]  # it is still in the name of whoever began it
        assert (await client.post(path, headers=other)).status == 409
        await service_of(world).work()
        assert (await client.post(path, headers=other)).status == 409
    assert await revoked_devices(world) == names
    audited = await world.value("SELECT actor FROM audit_pending WHERE kind = 'bulk_revocation.resumed'")
    assert audited == other["Authorization"][7:]


async def test_a_store_that_is_away_is_no_failure_of_one(world: World, database: str) -> None:
    headers = await world.identity(world.system.id, ALL)
    await enrolled(world, world.system.id, 1)
    _, body = await begun(world, headers)
    pool = await Pool.connect(database, world.clock, urandom, size=1)
    service = service_of(world)
    service._database = pool
    await pool.close()
    with pytest.raises(Refused) as refused:
        await service.work()
    assert refused.value.kind is Kind.UNAVAILABLE
    found = await seen(world, headers, body["id"])
    assert (found["status"], found["failures"]) == ("RUNNING", 0)


async def test_one_that_another_worker_has_in_hand_is_passed_over(world: World) -> None:
    headers = await world.identity(world.system.id, ALL)
    names = await enrolled(world, world.system.id, 1)
    await enrolled(world, world.system.id, 1, batch=8)
    _, held = await begun(world, headers)
    await begun(world, headers, filter=["labels[jsonpath]$.batch == 8"])
    async with world.pool.transaction(EVERYWHERE) as transaction:
        await transaction.fetchrow("SELECT FROM bulk_revocation WHERE id = $1 FOR UPDATE", UUID(held["id"]))
        assert await asyncio.wait_for(service_of(world).work(), 5) == 1
    assert await revoked_devices(world) == ["b8-000"]
    await service_of(world).work()
    assert await revoked_devices(world) == [*names, "b8-000"]


async def test_only_devices_in_the_callers_reach_at_each_batch(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bulk_service, "BATCH_DEVICES", 2)
    names = await enrolled(world, world.system.id, 6)
    headers = await world.identity(world.system.id, ALL, names[:5])
    _, body = await begun(world, headers)
    assert body["devices"] == 5
    service = service_of(world)
    access = (await read_standing(world.pool, headers["Authorization"][7:])).access
    assert isinstance(access, Access)
    one = await service.get(access, world.system, UUID(body["id"]))
    await service.advance(one)
    await world.execute("UPDATE identity SET devices = $2 WHERE id = $1", one.actor, names[:3])
    await service.work()
    assert await revoked_devices(world) == names[:3]
    assert (await seen(world, headers, body["id"]))["status"] == "DONE"


async def test_who_may_no_more_stops_it(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bulk_service, "BATCH_DEVICES", 2)
    names = await enrolled(world, world.system.id, 6)
    headers, other = await world.identity(world.system.id, ALL), await world.identity(world.system.id, ALL)
    _, body = await begun(world, headers)
    service = service_of(world)
    access = (await read_standing(world.pool, headers["Authorization"][7:])).access
    assert isinstance(access, Access)
    await service.advance(await service.get(access, world.system, UUID(body["id"])))
    await world.execute("UPDATE identity SET status = 'suspended' WHERE id = $1", headers["Authorization"][7:])
    await service.work()
    assert await revoked_devices(world) == names[:2]
    after = await seen(world, other, body["id"])
    assert (after["status"], "suspended" in after["why_stopped"]) == (BulkStatus.STOPPED, True)


async def test_it_can_be_ended_before_its_end(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bulk_service, "BATCH_DEVICES", 2)
    headers = await world.identity(world.system.id, ALL)
    await enrolled(world, world.system.id, 6)
    _, body = await begun(world, headers)
    async with serving(world, bulk_revocations.routes(service_of(world))) as client:
        path = f"{REVOCATIONS}/{body['id']}"
        assert (await (await client.delete(path, headers=headers)).json())["status"] == "CANCELLED"
        assert (await client.delete(path, headers=headers)).status == 409
        listed = await (await client.get(REVOCATIONS, headers=headers)).json()
        assert [(one["id"], one["status"]) for one in listed["list"]] == [(body["id"], "CANCELLED")]
    assert await service_of(world).work() == 0
    assert await revoked_devices(world) == []


async def test_a_hold_takes_what_is_in_force_and_leaves_the_rest(world: World) -> None:
    headers = await world.identity(world.system.id, ALL)
    await enrolled(world, world.system.id, 3, certificates=2)
    await begun(world, headers, revocation_reason="CertificateHold")
    await service_of(world).work()
    found = await world.rows("SELECT status, revocation_reason, count(*) FROM certificate GROUP BY 1, 2 ORDER BY 1")
    kinds = {(one["status"], one["revocation_reason"]): one["count"] for one in found if one["status"] != "active"}
    assert kinds == {("revoked", "certificateHold"): 3, ("superseded", None): 3}
    after_all = await begun(world, headers)
    assert after_all[1]["devices"] == 3
    await service_of(world).work()
    assert await world.value("SELECT count(*) FROM certificate WHERE revocation_reason = 'keyCompromise'") == 6


@pytest.mark.parametrize(
    ("said", "status"),
    [
        ({"filter": []}, 400),
        ({"filter": ["nothing[eq]1"]}, 400),
        ({"filter": ["id[eq]"], "revocation_reason": "CACompromise"}, 400),
        ({"filter": ["labels[jsonpath]$.a =="]}, 400),
        ({"filter": ["id[eq]a"] * 17}, 400),
        ({"filter": ["id[ct]';DROP TABLE device;--"]}, 202),
    ],
)
async def test_filters_that_are_none(world: World, said: dict[str, Any], status: int) -> None:
    headers = await world.identity(world.system.id, ALL)
    assert (await begun(world, headers, **said))[0] == status
    assert await world.value("SELECT count(*) FROM bulk_revocation") == (status == 202)


async def test_who_may(world: World) -> None:
    acme = await world.tenant("acme")
    names = await enrolled(world, acme, 2)
    await enrolled(world, world.system.id, 1, batch=9)
    changes = '[{"resource": "ca.certificates", "actions": ["read", "update"]}]'
    reads = '[{"resource": "*", "actions": ["read"]}]'
    for permissions, status in ((changes, 403), (reads, 403), (ALL, 202)):
        headers = await world.identity(acme, permissions)
        assert (await begun(world, headers))[0] == status
    own = (await begun(world, headers))[1]["id"]
    narrow = await world.identity(acme, ALL, names[:1])
    elsewhere = await world.identity(await world.tenant("other"), ALL)
    async with serving(world, bulk_revocations.routes(service_of(world))) as client:
        for stranger in (narrow, elsewhere):
            assert (await client.get(f"{REVOCATIONS}/{own}", headers=stranger)).status == 404
            assert (await client.delete(f"{REVOCATIONS}/{own}", headers=stranger)).status == 404
            assert (await (await client.get(REVOCATIONS, headers=stranger)).json())["list"] == []
        for nobody in ("x", "%00"):
            assert (await client.get(f"{REVOCATIONS}/{nobody}", headers=headers)).status == 404
    assert await world.value("SELECT count(*) FROM bulk_revocation") == 2


async def test_reasons(world: World) -> None:
    headers = await world.identity(world.system.id, ALL)
    await enrolled(world, world.system.id, 1)
    await begun(world, headers, revocation_reason="cessationOfOperation")
    await service_of(world).work()
    reason = await world.value("SELECT revocation_reason FROM certificate WHERE status = 'revoked'")
    assert reason == RevocationReason.CESSATION_OF_OPERATION

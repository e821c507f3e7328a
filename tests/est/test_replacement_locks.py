"""Devices that are replaced at once, with certificates under the same authorities, never wait for each other."""

import asyncio
from contextlib import AsyncExitStack
from uuid import uuid4

import pytest

from est.profiles import Settings
from iam.store.database import EVERYWHERE
from tests.ca.test_lock_order import somebody_waits
from tests.ca.world import POOL_SIZE
from tests.est.world import EstWorld, Holder, b64, new_key, request


async def with_certificates_under(est: EstWorld, identifier: str, *authorities: str) -> Holder:
    """Enrol a device that may be replaced, give it a second certificate, and say who issued the two."""
    await est.enrolled(identifier, label="meters")
    await est.world.execute("UPDATE device SET replacement_allowed = true WHERE device_identifier = $1", identifier)
    await est.world.execute(
        "INSERT INTO certificate (serial, authority_id, tenant_id, profile, device_identifier, identity_id, subject,"
        " spki_sha256, not_before, not_after, certificate, status, issued_at)"
        " SELECT $2, authority_id, tenant_id, profile, device_identifier, identity_id, subject, sha256($2),"
        " not_before, not_after, certificate, 'superseded', issued_at FROM certificate"
        " WHERE device_identifier = $1 AND status = 'active' AND identity_id IS NOT NULL",
        identifier,
        uuid4().bytes,
    )
    for status, name in zip(("active", "superseded"), authorities, strict=True):
        await est.world.execute(
            "UPDATE certificate SET authority_id = $3"
            " WHERE device_identifier = $1 AND identity_id IS NOT NULL AND status = $2",
            identifier,
            status,
            est.world.authorities.by_name(name).id,
        )
    return await est.bootstrap(identifier)


async def without_indexes(est: EstWorld) -> None:
    """Let every connection read rows as they lie; by an index of authorities, they would be in order by chance."""
    async with AsyncExitStack() as stack:
        for _ in range(POOL_SIZE):
            transaction = await stack.enter_async_context(est.world.pool.transaction(EVERYWHERE))
            for way in ("indexscan", "indexonlyscan", "bitmapscan"):
                await transaction.execute(f"SET enable_{way} = off")


@pytest.mark.parametrize("authorities", [("issuing", "factory"), ("factory", "issuing")])
async def test_a_replacement_that_waits_for_the_first_authority_holds_no_other(
    est: EstWorld, authorities: tuple[str, str]
) -> None:
    await without_indexes(est)
    await est.label("meters", settings=Settings(replaces=True))
    shipped = await with_certificates_under(est, "meter-1", *authorities)
    first, second = sorted(est.world.authorities.by_name(name).id for name in authorities)
    async with est.world.pool.transaction(EVERYWHERE) as holder:
        await holder.execute("SELECT FROM authority WHERE id = $1 FOR NO KEY UPDATE", first)
        enrolling = asyncio.create_task(est.service.enrol("meters", (shipped.der,), b64(request(new_key(), "meter-1"))))
        await somebody_waits(est.world, 1)
        await est.world.execute("SELECT FROM authority WHERE id = $1 FOR NO KEY UPDATE NOWAIT", second)
    assert isinstance(await enrolling, bytes)
    assert await est.world.value("SELECT count(*) FROM certificate WHERE status = 'revoked'") == 2

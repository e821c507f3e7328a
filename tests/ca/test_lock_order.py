"""Two who revoke under the same authorities never wait for each other; and what collides all the same is done again."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from uuid import UUID

import asyncpg
import pytest

from ca.authority import Authority, AuthorityStatus, AuthorityStep
from ca.distrusting import revoke_key
from ca.inventory import RevocationReason
from iam.errors import Kind
from iam.store.database import EVERYWHERE, Collided, retried_once
from tests.ca.test_bulk_revocation import enrolled, service_of
from tests.ca.test_hierarchies import made
from tests.ca.world import World

COMPROMISE = RevocationReason.KEY_COMPROMISE
WAITING = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"


async def record(world: World, serial: int, issuer: UUID, *, identity: str | None = None, key: bytes = b"key") -> None:
    await world.execute(
        "INSERT INTO certificate (serial, authority_id, tenant_id, profile, identity_id, subject, spki_sha256,"
        " not_before, not_after, certificate, status, issued_at)"
        " VALUES ($1, $2, $3, 'device', $4, 'CN=x', $5, now(), now() + interval '1 day', '', 'active', now())",
        bytes([serial]) * 16,
        issuer,
        world.system.id,
        identity,
        key,
    )


async def somebody_waits(world: World, number: int) -> None:
    async with asyncio.timeout(10):
        while await world.value(WAITING) < number:  # noqa: ASYNC110 - the database tells no one
            await asyncio.sleep(0.02)


async def at_once(world: World, *acts: Callable[[], Awaitable[object]], table: str = "authority") -> Sequence[object]:
    """Let all begin while the rows of a table are held, so that each has come to the first one that it holds."""
    async with asyncio.TaskGroup() as group, world.pool.transaction(EVERYWHERE) as holder:
        await holder.execute(f"SELECT FROM {table} FOR NO KEY UPDATE")
        tasks = [group.create_task(act()) for act in acts]  # type: ignore[arg-type]
        await somebody_waits(world, len(acts))
    return [task.result() for task in tasks]


async def opposite(world: World, **of: Sequence[object]) -> None:
    """Give two holders a certificate under each of two authorities: by serial number, one the other way round."""
    first, second = (world.authorities.by_name(name).id for name in ("issuing", "factory"))
    ((what, (one, other)),) = of.items()
    for serial, (issuer, holder) in enumerate([(first, one), (second, one), (second, other), (first, other)], start=1):
        await record(world, serial, issuer, **{what: holder})


async def test_two_identities_with_certificates_of_the_same_authorities(world: World) -> None:
    names = [(await world.identity(world.system.id, "[]"))["Authorization"].removeprefix("Bearer ") for _ in range(2)]
    await opposite(world, identity=names)

    async def revoke(name: str) -> int:
        async with world.pool.transaction(EVERYWHERE) as transaction:
            return await world.revocation.revoke_all(transaction, name, COMPROMISE, actor="test")

    assert await at_once(world, lambda: revoke(names[0]), lambda: revoke(names[1])) == [2, 2]


async def test_two_batches_of_devices_with_certificates_of_the_same_authorities(world: World) -> None:
    access = await world.access(world.system.id)
    service = service_of(world)
    begun = []
    for batch, turned in ((7, False), (8, True)):
        names = await enrolled(world, world.system.id, 2, batch=batch)
        issuers = [world.authorities.by_name(name).id for name in ("issuing", "factory")]
        for name, issuer in zip(names, reversed(issuers) if turned else issuers, strict=True):
            await world.execute("UPDATE certificate SET authority_id = $1 WHERE device_identifier = $2", issuer, name)
        filters = [f"labels[jsonpath]$.batch == {batch}"]
        begun.append(await service.begin(access, world.system, filters, COMPROMISE))
    await at_once(world, lambda: service.advance(begun[0]), lambda: service.advance(begun[1]))
    assert await world.value("SELECT count(*) FROM certificate WHERE status = 'revoked'") == 4


async def test_two_authorities_with_certificates_of_the_same_authorities(world: World) -> None:
    ones = [await made(world, name) for name in ("one", "other")]
    await opposite(world, key=[one.spki_sha256 for one in ones])

    async def revoke(place: int) -> None:
        async with world.pool.transaction(EVERYWHERE) as transaction:
            await revoke_key(transaction, ones[place], COMPROMISE, actor="test")

    await at_once(world, lambda: revoke(0), lambda: revoke(1))
    assert await world.value("SELECT count(*) FROM certificate WHERE status = 'revoked'") == 6


# --- What collides all the same ---------------------------------------------------------------------------------------


async def test_a_deadlock_is_a_refusal_that_says_so(world: World) -> None:
    held = [asyncio.Event(), asyncio.Event()]

    async def hold(place: int) -> None:
        async with world.pool.transaction(EVERYWHERE) as transaction:
            await transaction.execute("SELECT pg_advisory_xact_lock($1)", place)
            held[place].set()
            await held[1 - place].wait()
            await transaction.execute("SELECT pg_advisory_xact_lock($1)", 1 - place)

    ended = await asyncio.gather(hold(0), hold(1), return_exceptions=True)
    (collided,) = [one for one in ended if one is not None]
    assert isinstance(collided, Collided)
    assert (collided.kind, collided.retry_after) == (Kind.UNAVAILABLE, 1)


@pytest.mark.parametrize(("times", "is_done"), [(1, True), (2, False)])
async def test_what_collides_is_done_again_once(times: int, *, is_done: bool) -> None:
    tries = []

    @retried_once
    async def act(value: int, *, more: int) -> int:
        tries.append(value)
        if len(tries) <= times:
            raise Collided("in a test")
        return value + more

    if is_done:
        assert await act(1, more=2) == 3
    else:
        with pytest.raises(Collided):
            await act(1, more=2)
    assert len(tries) == 2


async def test_an_authority_is_revoked_though_its_transaction_collides(world: World) -> None:
    """With somebody who holds the same rows in another order: he is let go on, and the revocation comes after him.

    PostgreSQL ends the one whose wait it looks into while both wait: on a machine that stalls, him. Then nothing was
    shown, and another authority is taken.
    """
    for number in range(5):
        if await revoked_after_a_collision(world, await made(world, f"below-{number}", "root")):
            return
    pytest.fail("the revocation never collided")


async def revoked_after_a_collision(world: World, below: Authority) -> bool:
    """Revoke an authority, and tell whether its transaction was ended for a deadlock first."""
    access, serial = await world.access(world.system.id), below.certificate.serial_number.to_bytes(16)
    rude = await asyncpg.connect(world.url)
    try:
        await rude.execute("BEGIN; SET LOCAL doorward.tenant = '*'")
        await rude.execute("SELECT FROM certificate WHERE serial = $1 FOR UPDATE", serial)
        act = asyncio.create_task(
            world.administration.set_status(access, world.system, below.name, AuthorityStep.REVOKE, COMPROMISE)
        )
        await somebody_waits(world, 1)
        try:
            await rude.execute("SELECT FROM authority_standing WHERE authority_id = $1 FOR UPDATE", below.id)
            is_let_go_on = True
        except asyncpg.DeadlockDetectedError:
            is_let_go_on = False
        await rude.execute("ROLLBACK")
        assert (await act).status is AuthorityStatus.REVOKED
    finally:
        await rude.close()
    return is_let_go_on


async def test_of_two_who_reissue_at_once_the_second_supersedes_what_the_first_made(world: World) -> None:
    below = await made(world, "below", "root")
    access = await world.access(world.system.id)

    def reissue() -> Awaitable[Authority]:
        return world.administration.reissue(access, world.system, "below", None)

    await at_once(world, reissue, reissue, table="authority_standing")
    rows = await world.rows(
        "SELECT status FROM certificate WHERE spki_sha256 = $1 ORDER BY issued_at, status DESC", below.spki_sha256
    )
    assert [one["status"] for one in rows] == ["superseded", "superseded", "active"]

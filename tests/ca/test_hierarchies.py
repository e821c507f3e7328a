"""Hierarchies: what may stand where, on a real store; and every worker knows it."""

import asyncio
import contextlib
from collections.abc import Callable
from datetime import timedelta
from itertools import pairwise
from os import urandom

import pytest
from cryptography import x509

from ca.authorities import Authorities
from ca.authority import Authority, AuthorityStatus, AuthorityStep
from ca.inventory import AuthorityKind, RevocationReason
from ca.wishes import KeyWish, Wish
from certs.chain import validate_authority
from certs.keys import KeyAlgorithm, key_algorithm
from iam.errors import Kind, Refused
from iam.json_patch import read_patch
from tests.ca.world import BASE_URL, World

UNSPECIFIED = RevocationReason.UNSPECIFIED


async def made(world: World, name: str, parent: str | None = None, **wish: object) -> Authority:
    access = await world.access(world.system.id)
    wanted = Wish(subject={"common_name": name}, line=name, parent=parent, **wish)  # type: ignore[arg-type]
    return await world.administration.create(access, world.system, wanted)


async def refused(world: World, name: str, parent: str | None = None, **wish: object) -> Kind:
    with pytest.raises(Refused) as caught:
        await made(world, name, parent, **wish)
    return caught.value.kind


@pytest.mark.parametrize(
    ("algorithm", "bits"),
    [
        (KeyAlgorithm.P256, 0),
        (KeyAlgorithm.P384, 0),
        (KeyAlgorithm.P521, 0),
        (KeyAlgorithm.ED25519, 0),
        (KeyAlgorithm.RSA, 3072),
        (KeyAlgorithm.ML_DSA_44, 0),
        (KeyAlgorithm.ML_DSA_65, 0),
        (KeyAlgorithm.ML_DSA_87, 0),
    ],
)
async def test_a_root_and_one_below_it_of_every_algorithm(world: World, algorithm: KeyAlgorithm, bits: int) -> None:
    top = await made(world, "top", key=KeyWish(algorithm, bits))
    below = await made(world, "below", "top", key=KeyWish(algorithm, bits))
    assert key_algorithm(below.certificate.public_key()) is algorithm
    assert (top.kind, below.kind) == (AuthorityKind.ROOT, AuthorityKind.ISSUING)
    found = validate_authority(below.certificate, [], [top.anchor], world.clock())
    assert found.anchor.spki_sha256 == top.spki_sha256
    assert world.authorities.template(below, "device") is not None


async def test_any_depth_within_the_path_lengths(world: World) -> None:
    chain = [await made(world, "level-0", path_length=3)]
    for depth in range(1, 4):
        above = chain[-1]
        chain.append(await made(world, f"level-{depth}", above.name, path_length=3 - depth))
    assert [one.path_length for one in chain] == [3, 2, 1, 0]
    for above, below in pairwise(chain):
        assert below.parent == above.id
        assert below.certificate.not_valid_after_utc <= above.certificate.not_valid_after_utc
    others = [one.certificate for one in chain[1:3]]
    assert len(validate_authority(chain[3].certificate, others, [chain[0].anchor], world.clock()).path) == 2
    assert await refused(world, "too-deep", "level-3") is Kind.INVALID
    assert await refused(world, "too-long", "level-1", path_length=2) is Kind.INVALID


async def test_what_may_not_be(world: World) -> None:
    await made(world, "top")
    assert await refused(world, "top") is Kind.CONFLICT
    assert await refused(world, "root") is Kind.CONFLICT
    assert await refused(world, "below", "nobody") is Kind.NOT_FOUND
    assert await refused(world, "a/b") is Kind.MALFORMED
    assert await refused(world, "import") is Kind.MALFORMED
    assert await refused(world, "leaf", own_profile="device") is Kind.INVALID
    assert await refused(world, "other", profile="nobody") is Kind.NOT_FOUND
    assert await refused(world, "long", period=timedelta(days=36000)) is Kind.INVALID
    assert await refused(world, "over", period=world.clock() - timedelta(days=1)) is Kind.INVALID
    access = await world.access(world.system.id)
    same = Wish(subject={"common_name": "top"}, line="below", parent="top")
    with pytest.raises(Refused, match="never has the name"):
        await world.administration.create(access, world.system, same)
    assert await world.value("SELECT count(*) FROM authority") == 4
    assert await world.value("SELECT count(*) FROM kms_key") == 4


async def test_nothing_is_made_below_a_root_whose_key_is_away_and_it_says_so(world: World) -> None:
    content = world.keystore.root_file.read_bytes()
    world.keystore.root_file.unlink()
    with pytest.raises(Refused, match="key of the authority root is not here") as caught:
        await made(world, "below", "root")
    assert caught.value.kind is Kind.UNAVAILABLE
    world.keystore.root_file.write_bytes(content)
    below = await made(world, "below", "root")
    assert below.parent == world.authorities.by_name("root").id


async def test_certificates_of_authorities_are_on_record_and_their_serial_numbers_unique(world: World) -> None:
    below = await made(world, "below", "root")
    stored = await world.value("SELECT certificate FROM certificate WHERE serial = $1", serial_of(below))
    assert stored == below.der
    profiles = await world.rows("SELECT profile FROM certificate ORDER BY profile")
    assert [one["profile"] for one in profiles] == ["factory", "issuing", "issuing", "responder", "root"]
    assert below.certificate.serial_number.bit_length() > 64


def serial_of(one: Authority) -> bytes:
    return one.certificate.serial_number.to_bytes(16)


async def test_a_revoked_authority_is_in_its_parents_list_and_neither_it_nor_what_is_below_is_trusted(
    world: World,
) -> None:
    await made(world, "top", path_length=2)
    middle = await made(world, "middle", "top", path_length=1)
    below = await made(world, "below", "middle")
    access = await world.access(world.system.id)
    gone = await world.administration.set_status(
        access, world.system, "middle", AuthorityStep.REVOKE, RevocationReason.KEY_COMPROMISE
    )
    assert (gone.status, gone.is_trusted) == (AuthorityStatus.REVOKED, False)
    assert not world.authorities.by_name("below").is_trusted
    assert below.anchor not in world.authorities.device_anchors
    for name in ("middle", "below"):
        with pytest.raises(Refused, match="issues nothing"):
            world.authorities.issuer(world.authorities.by_name(name).id)
    await world.publisher.publish_lists()
    published = await world.shelf.current_list(world.authorities.by_name("top"))
    entry = x509.load_der_x509_crl(published.der).get_revoked_certificate_by_serial_number(
        middle.certificate.serial_number
    )
    assert entry is not None
    with pytest.raises(Refused) as caught:
        await world.administration.set_status(access, world.system, "middle", AuthorityStep.ACTIVATE, UNSPECIFIED)
    assert caught.value.kind is Kind.CONFLICT


async def test_a_certificate_that_is_revoked_in_the_inventory_takes_its_authority_with_it(world: World) -> None:
    below = await made(world, "below", "root")
    await world.revocation.revoke(world.system.id, serial_of(below), RevocationReason.KEY_COMPROMISE, actor="test")
    await world.authorities.refresh()
    assert world.authorities.by_name("below").status is AuthorityStatus.REVOKED


async def test_a_deactivated_authority_comes_back(world: World) -> None:
    below = await made(world, "below", "root")
    access = await world.access(world.system.id)
    for step, trusted in ((AuthorityStep.DEACTIVATE, False), (AuthorityStep.ACTIVATE, True)):
        one = await world.administration.set_status(access, world.system, "below", step, UNSPECIFIED)
        assert one.is_trusted is trusted
        assert (below.anchor in world.authorities.device_anchors) is trusted
    await world.administration.set_status(access, world.system, "below", AuthorityStep.DEACTIVATE, UNSPECIFIED)
    with pytest.raises(Refused, match="it is inactive"):
        world.authorities.template(world.authorities.by_name("below"), "device")


async def test_every_worker_follows_within_a_second_also_without_events(world: World) -> None:
    other = Authorities(world.pool, world.keystore, world.clock, urandom, base_url=BASE_URL)
    await other.ensure()
    changes: list[int] = []
    other.on_change(lambda: changes.append(1))
    following = asyncio.create_task(other.follow(lambda: False))
    access = await world.access(world.system.id)
    try:
        below = await made(world, "below", "root")
        await until(lambda: any(one.name == "below" for one in other.all))
        await world.administration.set_status(access, world.system, "below", AuthorityStep.DEACTIVATE, UNSPECIFIED)
        await until(lambda: not other.by_name("below").is_trusted)
        assert below.anchor not in other.device_anchors
        assert changes
    finally:
        following.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await following


async def test_an_event_is_looked_at_at_once_and_one_that_says_nothing_of_authorities_is_not(world: World) -> None:
    other = Authorities(world.pool, world.keystore, world.clock, urandom, base_url=BASE_URL)
    await other.ensure()
    below = await made(world, "below", "root")
    following = asyncio.create_task(other.follow(lambda: True))  # events are on: looks are far between
    try:
        other.hear("certificate.revoked", "00")
        other.hear("device.enrolled", "meter-001")
        await asyncio.sleep(0.3)
        assert not any(one.id == below.id for one in other.all)
        other.hear("authority.created", "below")
        await until(lambda: any(one.id == below.id for one in other.all))
        await world.revocation.revoke(world.system.id, serial_of(below), UNSPECIFIED, actor="test")
        other.hear("certificate.revoked", serial_of(below).hex())
        await until(lambda: not other.by_name("below").is_trusted)
    finally:
        following.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await following


async def until(holds: Callable[[], bool]) -> None:
    async with asyncio.timeout(1.0):
        while not holds():  # noqa: ASYNC110 - what a worker holds tells nobody when it changes
            await asyncio.sleep(0.01)


async def test_reissuing_gives_the_same_key_another_period(world: World) -> None:
    before = world.authorities.by_name("issuing")
    access = await world.access(world.system.id)
    world.clock.move(timedelta(days=365))
    after = await world.administration.reissue(access, world.system, "issuing", None)
    assert after.id == before.id
    assert after.certificate.public_key() == before.certificate.public_key()
    assert after.certificate.subject == before.certificate.subject
    assert after.certificate.not_valid_after_utc > before.certificate.not_valid_after_utc
    assert list(after.certificate.extensions) == list(before.certificate.extensions)
    assert after.certificate.serial_number != before.certificate.serial_number
    states = await world.rows(
        "SELECT status FROM certificate WHERE spki_sha256 = $1 ORDER BY issued_at", before.spki_sha256
    )
    assert [one["status"] for one in states] == ["superseded", "active"]
    root = await world.administration.reissue(access, world.system, "root", timedelta(days=7000))
    assert root.certificate.not_valid_after_utc > world.clock() + timedelta(days=6999)
    assert root.certificate.issuer == root.certificate.subject


async def test_metadata_is_patched(world: World) -> None:
    access = await world.access(world.system.id)
    patch = read_patch([{"op": "add", "path": "/site", "value": "Lyon"}])
    await world.administration.patch_metadata(access, world.system, "issuing", patch)
    kept = await world.value("SELECT metadata ->> 'site' FROM authority_standing WHERE line = 'issuing'")
    assert kept == "Lyon"


async def test_an_authority_is_its_tenants_and_nobody_elses(world: World) -> None:
    acme = await world.tenant("acme")
    await world.tenant("globex")
    tenant, other = await world.named_tenant("acme"), await world.named_tenant("globex")
    own, from_above = await world.access(acme), await world.access(world.system.id)
    stranger = await world.access(other.id)
    below = Wish(subject={"common_name": "Acme"}, line="acme", parent="root")
    with pytest.raises(Refused) as caught:  # the root is not acme's to use
        await world.administration.create(own, tenant, below)
    assert caught.value.kind is Kind.NOT_FOUND
    made_for_acme = await world.administration.create(from_above, tenant, below)
    assert made_for_acme.tenant == acme
    assert (await world.administration.visible(tenant, "acme")).id == made_for_acme.id
    for step in (AuthorityStep.DEACTIVATE, AuthorityStep.REVOKE):
        with pytest.raises(Refused) as caught:
            await world.administration.set_status(stranger, other, "acme", step, UNSPECIFIED)
        assert caught.value.kind is Kind.NOT_FOUND
    async with world.pool.transaction(other.id) as transaction:  # the second wall
        assert await transaction.fetch("SELECT FROM authority_standing") == []
    async with world.pool.transaction(acme) as transaction:
        assert len(await transaction.fetch("SELECT FROM authority_standing")) == 1


async def test_only_what_nothing_depends_on_is_deleted(world: World) -> None:
    await made(world, "top", path_length=2)
    await made(world, "below", "top")
    assert await world.responders.renew() == 3  # of those that were made, each has had its own since then
    assert await world.publisher.publish_lists() == 3
    access = await world.access(world.system.id)
    with pytest.raises(Refused, match="Only an authority that was revoked"):
        await world.administration.delete(access, world.system, "below")
    for name in ("below", "top"):
        await world.administration.set_status(access, world.system, name, AuthorityStep.REVOKE, UNSPECIFIED)
    with pytest.raises(Refused, match="it stays"):
        await world.administration.delete(access, world.system, "top")
    await world.administration.delete(access, world.system, "below")
    assert {one.name for one in world.authorities.all} == {"root", "issuing", "factory", "top"}
    assert await world.value("SELECT count(*) FROM kms_key") == 4


async def test_an_upgraded_store_gets_its_authorities_certificates_on_record(world: World) -> None:
    await world.execute("UPDATE authority_standing SET serial = NULL")
    await world.execute("DELETE FROM certificate")
    second = Authorities(world.pool, world.keystore, world.clock, urandom, base_url=BASE_URL)
    await second.ensure()
    await second.ensure()
    assert await world.value("SELECT count(*) FROM certificate") == 3
    assert await world.value("SELECT count(*) FROM authority_standing WHERE serial IS NULL") == 0

"""The first start, and every start after it."""

import asyncio
import stat
from os import urandom
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ec

from ca.authorities import Authorities
from ca.inventory import AuthorityKind
from ca.keystore import Keystore
from certs.chain import Purpose, validate_chain
from certs.pem import read_certificates
from iam.errors import Kind, Refused
from iam.sealing import MasterKey
from tests.ca.world import BASE_URL, World, running_world


def another(world: World, keystore: Keystore | None = None) -> Authorities:
    """A second node on the same database."""
    return Authorities(world.pool, keystore or world.keystore, world.clock, urandom, base_url=BASE_URL)


async def forget_authorities(world: World) -> None:
    """Leave what a crash before the first commit leaves: no authority, and the root's key in its file."""
    for statement in (
        "DELETE FROM authority_standing",
        "DELETE FROM certificate",
        "DELETE FROM authority WHERE kind <> 'root'",
        "DELETE FROM authority",
        "DELETE FROM kms_key",
    ):
        await world.execute(statement)


async def test_three_are_made_once(world: World) -> None:
    assert {one.line for one in world.authorities.all} == {"root", "issuing", "factory"}
    second = another(world)
    await second.ensure()
    assert [one.der for one in second.all] == [one.der for one in world.authorities.all]
    made = await world.rows("SELECT subject FROM outbox WHERE kind = 'authority.created' ORDER BY subject")
    assert [one["subject"] for one in made] == ["factory", "issuing", "root"]


async def test_of_many_first_starts_at_once_one_makes_them(database: str, tmp_path: Path) -> None:
    async with running_world(database, tmp_path / "keys") as world:
        await forget_authorities(world)
        nodes = [another(world) for _ in range(5)]
        await asyncio.gather(*(node.ensure() for node in nodes))
        assert len({one.der for node in nodes for one in node.all}) == 3


async def test_a_crash_before_the_commit_leaves_a_key_that_is_taken_up(world: World) -> None:
    root = world.keystore.root()
    assert root is not None
    await forget_authorities(world)
    before = world.keystore.root_file.read_bytes()
    second = another(world)
    await second.ensure()
    assert world.keystore.root_file.read_bytes() == before
    assert second.by_name("root").certificate.public_key() == root.signer.public_key
    assert second.by_name("root").id == root.authority


async def test_the_roots_key_is_in_one_private_file_and_nowhere_else(world: World) -> None:
    assert stat.S_IMODE(world.keystore.root_file.stat().st_mode) == 0o600
    assert stat.S_IMODE(world.keys.stat().st_mode) == 0o700
    assert [one.name for one in world.keys.iterdir()] == ["root.sealed"]
    query = "SELECT k.sealed FROM authority a JOIN kms_key k ON k.id = a.key_id WHERE a.kind = 'root'"
    assert await world.rows(query) == [{"sealed": None}]
    assert world.authorities.by_name("root").signer is None


async def test_all_works_with_the_roots_key_away(world: World) -> None:
    world.keystore.root_file.unlink()
    second = another(world)
    await second.ensure()
    assert second.current(AuthorityKind.ISSUING).signer is not None
    assert await world.service.issue_bootstrap("meter-001", actor="test")
    assert await world.publisher.publish_lists() == 2


async def test_a_root_file_is_never_written_over(world: World) -> None:
    root, other = world.authorities.by_name("root").id, ec.generate_private_key(ec.SECP256R1())
    with pytest.raises(Refused) as refused:
        world.keystore.keep_root(root, other)
    assert refused.value.kind is Kind.UNAVAILABLE
    assert world.keystore.root() is not None


async def test_another_master_key_opens_nothing(world: World) -> None:
    stranger = Keystore(world.keys, MasterKey(bytes(32)), urandom)
    with pytest.raises(Refused) as refused:
        await another(world, stranger).ensure()
    assert refused.value.kind is Kind.UNAVAILABLE
    with pytest.raises(Refused):
        stranger.root()


async def test_a_sealed_key_opens_only_for_its_own_authority(world: World) -> None:
    sealed = await world.value("SELECT sealed FROM kms_key WHERE name = 'issuing'")
    with pytest.raises(Refused):
        world.keystore.open(world.authorities.by_name("factory").id, sealed)


async def test_a_damaged_root_file_stops_its_use(world: World) -> None:
    world.keystore.root_file.write_bytes(b"{}")
    with pytest.raises(Refused) as refused:
        world.keystore.root()
    assert refused.value.kind is Kind.UNAVAILABLE


async def test_server_certificates_lead_to_the_root_and_are_on_record(world: World) -> None:
    made = await world.service.server_certificate(["localhost"], [])
    leaf, *others = read_certificates(made.chain)
    anchors = [world.authorities.by_name("root").anchor]
    validate_chain(leaf, others, anchors, world.clock(), purpose=Purpose.SERVER_AUTH)
    stored = await world.value("SELECT tenant_id FROM certificate WHERE serial = $1", made.serial)
    assert stored == world.system.id
    assert "private_key" not in repr(made)

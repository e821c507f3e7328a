"""A data folder of the time when authorities held their keys themselves goes on after the migration."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from os import urandom
from pathlib import Path
from uuid import uuid4

import asyncpg
import pytest
from cryptography.hazmat.primitives.asymmetric import ec

import doorward.database
from ca.authorities import Authorities
from ca.issue import Template, authority, encoded_key
from ca.keystore import Backend, Keystore
from ca.signers import SoftwareSigner
from ca.store.keys import authorities_of_key, find_key
from certs.keys import KeyAlgorithm
from certs.pem import read_certificate
from certs.profile import load_profile
from doorward.database import Pool, migrate, migrations
from doorward.embedded.postgres import PostgresAddresses
from iam.identifiers import uuid7
from iam.service.foundation import lay_foundation
from iam.store.database import EVERYWHERE
from tests.ca.world import BASE_URL, MASTER_KEY, Clock, database_url

FIRST_WITH_KEYS = 5


@asynccontextmanager
async def database_before(number: int, postgres: PostgresAddresses) -> AsyncIterator[tuple[str, str]]:
    """Make an empty database as it was before a migration; gives the owner's and the node's address."""
    name = f"test_{uuid4().hex}"
    administrator = await asyncpg.connect(database_url(postgres.superuser_dsn, "postgres"))
    await administrator.execute(f"CREATE DATABASE {name} OWNER doorward_owner")
    owner, node = database_url(postgres.owner_dsn, name), database_url(postgres.node_dsn, name)
    with pytest.MonkeyPatch.context() as patched:
        earlier = [one for one in migrations() if one.number < number]
        patched.setattr(doorward.database, "migrations", lambda: earlier)
        await migrate(owner, "doorward_node")
    yield owner, node
    await administrator.execute(f"DROP DATABASE {name} WITH (FORCE)")
    await administrator.close()


@pytest.fixture
async def old(postgres: PostgresAddresses) -> AsyncIterator[tuple[str, str]]:
    """An empty database as the last version without keys left it."""
    async with database_before(FIRST_WITH_KEYS, postgres) as addresses:
        yield addresses


async def test_the_keys_of_authorities_are_listed_and_sign_on(old: tuple[str, str], tmp_path: Path) -> None:
    owner, node = old
    clock = Clock()
    pool = await Pool.connect(node, clock, urandom, size=2)
    keystore = Keystore(tmp_path, MASTER_KEY, urandom)
    try:
        system = await lay_foundation(pool, clock, urandom)
        made = await make_as_before(pool, keystore, clock)
        await migrate(owner, "doorward_node")

        authorities = Authorities(pool, keystore, clock, urandom, base_url=BASE_URL)
        await authorities.ensure()
        assert {one.name: one.id for one in authorities.all} == made
        for name in ("issuing", "factory"):
            one = authorities.by_name(name)
            assert encoded_key(one.signing().public_key) == encoded_key(one.certificate.public_key())  # type: ignore[arg-type]
        root = authorities.with_root_key(authorities.by_name("root"))
        assert root.signing().sign(b"a list")
        async with pool.transaction(EVERYWHERE) as transaction:
            for name, identifier in made.items():
                key = await find_key(transaction, system.id, identifier, "")
                assert key is not None
                assert key.algorithm is (KeyAlgorithm.P384 if name == "root" else KeyAlgorithm.P256)
                assert key.backend is (Backend.FILE if name == "root" else Backend.SEALED)
                assert await authorities_of_key(transaction, key) == [name]
                assert keystore.signer(key).public_key == key.public_key
    finally:
        await pool.close()


async def make_as_before(pool: Pool, keystore: Keystore, clock: Clock) -> dict[str, object]:
    """Make three authorities as the version before did."""
    made: dict[str, object] = {}
    keys = {"root": ec.generate_private_key(ec.SECP384R1())}
    keys |= {name: ec.generate_private_key(ec.SECP256R1()) for name in ("issuing", "factory")}
    root, root_certificate = None, None
    for name, key in keys.items():
        identifier = uuid7(clock(), urandom)
        template = Template(load_profile(name), root_certificate, SoftwareSigner(keys["root"]), None)
        issued = template.issue(authority(name, encoded_key(key.public_key())), clock(), urandom(16))
        sealed = None
        if name == "root":
            keystore.keep_root(identifier, key)
            root, root_certificate = identifier, read_certificate(issued.der)
        else:
            sealed = keystore.seal(identifier, key)
        async with pool.transaction(EVERYWHERE) as transaction:
            await transaction.execute(
                "INSERT INTO authority (id, name, kind, parent_id, certificate, spki_sha256, key_sealed, created_at)"
                " VALUES ($1, $2, $2, $3, $4, $5, $6, $7)",
                identifier,
                name,
                None if name == "root" else root,
                issued.der,
                issued.spki_sha256,
                sealed,
                clock(),
            )
        made[name] = identifier
    return made

"""A small deployment for tests: a PostgreSQL of its own, a database for each test, and the services on it."""

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from itertools import count
from os import urandom
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import asyncpg
from aiohttp import web
from aiohttp.test_utils import TestClient, TestServer

from ca.administration import AuthorityAdministration
from ca.authorities import Authorities
from ca.intake import AuthorityIntake
from ca.keystore import Keystore
from ca.list_publishing import ListPublisher, ListTerms
from ca.proof import CertificateProver
from ca.publication import Publication
from ca.responders import Responders, ResponderTerms
from ca.responding import StatusService
from ca.revocation import RevocationService
from ca.service import AuthorityService
from ca.shelf import ListShelf
from doorward.database import Pool, migrate
from doorward.embedded.postgres import EmbeddedPostgres, PostgresAddresses
from doorward.listener import ListenerLimits, listening_sockets
from doorward.plain import serve_http
from iam.access import Access, Authenticated, Denied
from iam.errors import unauthenticated
from iam.guard import Guard, Route
from iam.identifiers import identity_id
from iam.model import Tenant
from iam.sealing import MasterKey
from iam.service.foundation import lay_foundation
from iam.store.database import EVERYWHERE, Change
from iam.store.standing import read_standing
from iam.store.tenants import tenant_by_name

MASTER_KEY = MasterKey(bytes(range(32)))
EVERYTHING = '[{"resource": "*", "actions": ["create", "read", "update", "delete"]}]'
BASE_URL = "http://pki.test"
POOL_SIZE = 8


@dataclass
class Clock:
    """A clock that a test can move; it goes on by itself as long as nobody does."""

    offset: timedelta = timedelta(0)

    def __call__(self) -> datetime:
        return datetime.now(UTC) + self.offset

    def move(self, by: timedelta) -> None:
        self.offset += by


def database_url(url: str, name: str) -> str:
    return url.replace("/doorward?", f"/{name}?")


@asynccontextmanager
async def running_postgres(folder: Path) -> AsyncIterator[PostgresAddresses]:
    """Run a server whose database `doorward` is migrated and used by nobody: the template of the tests' own."""
    server = EmbeddedPostgres(folder, durable_init=False)
    addresses = await server.start()
    try:
        await migrate(addresses.owner_dsn, "doorward_node")
        administrator = await asyncpg.connect(addresses.superuser_dsn)
        await administrator.execute("ALTER ROLE doorward_node SET synchronous_commit = off")  # faster, for tests alone
        await administrator.close()
        yield addresses
    finally:
        await server.stop()


@asynccontextmanager
async def new_database(addresses: PostgresAddresses) -> AsyncIterator[str]:
    """Clone the template and give the address of the clone, as a node connects to it."""
    name = f"test_{uuid4().hex}"
    administrator = await asyncpg.connect(database_url(addresses.superuser_dsn, "postgres"))
    try:
        await administrator.execute(f"CREATE DATABASE {name} TEMPLATE doorward OWNER doorward_owner")
        yield database_url(addresses.node_dsn, name)
        await administrator.execute(f"DROP DATABASE {name} WITH (FORCE)")
    finally:
        await administrator.close()


@dataclass
class World:
    """One deployment."""

    url: str
    pool: Pool
    clock: Clock
    system: Tenant
    keys: Path
    keystore: Keystore
    authorities: Authorities
    service: AuthorityService
    revocation: RevocationService
    publisher: ListPublisher
    shelf: ListShelf
    responders: Responders
    status: StatusService
    prover: CertificateProver
    administration: AuthorityAdministration
    intake: AuthorityIntake
    publication: Publication
    fresh_for: list[timedelta]
    changes: list[Change] = field(default_factory=list)

    async def rows(self, query: str, *values: object) -> list[dict[str, Any]]:
        async with self.pool.transaction(EVERYWHERE) as transaction:
            return [dict(row) for row in await transaction.fetch(query, *values)]

    async def value(self, query: str, *values: object) -> Any:
        async with self.pool.transaction(EVERYWHERE) as transaction:
            return await transaction.fetchval(query, *values)

    async def execute(self, query: str, *values: object) -> None:
        async with self.pool.transaction(EVERYWHERE) as transaction:
            await transaction.execute(query, *values)

    async def tenant(self, name: str, parent: UUID | None = None) -> UUID:
        """Make a tenant below `parent`, or below system, with a role `device`."""
        above = parent or self.system.id
        identifier, now = uuid4(), self.clock()
        path = await self.value("SELECT path FROM tenant WHERE id = $1", above)
        await self.execute(
            "INSERT INTO tenant (id, name, parent_id, path, status, created_at) VALUES ($1, $2, $3, $4, 'active', $5)",
            identifier,
            name,
            above,
            [*path, identifier],
            now,
        )
        await self.role("device", identifier)
        return identifier

    async def role(self, name: str, tenant: UUID) -> UUID:
        identifier = uuid4()
        await self.execute(
            "INSERT INTO role (id, tenant_id, name, permissions, topics, created_at)"
            " VALUES ($1, $2, $3, '[]', '[]', $4)",
            identifier,
            tenant,
            name,
            self.clock(),
        )
        return identifier

    async def identity(self, tenant: UUID, permissions: str, devices: list[str] | None = None) -> dict[str, str]:
        """Make somebody with a role of these permissions (JSON), and give the headers that he signs in by."""
        identifier, role = identity_id(self.clock(), urandom), await self.role(uuid4().hex, tenant)
        await self.execute("UPDATE role SET permissions = $2::jsonb WHERE id = $1", role, permissions)
        await self.execute(
            "INSERT INTO identity (id, tenant_id, type, name, status, devices, created_at)"
            " VALUES ($1, $2, 'integration', $1, 'active', $3, $4)",
            identifier,
            tenant,
            devices,
            self.clock(),
        )
        await self.execute("INSERT INTO identity_role VALUES ($1, $2, $3)", identifier, role, tenant)
        return {"Authorization": f"Bearer {identifier}"}

    async def access(self, tenant: UUID) -> Access:
        """Make somebody who may do everything in a tenant, and give what he may do."""
        headers = await self.identity(tenant, EVERYTHING)
        standing = await read_standing(self.pool, headers["Authorization"].removeprefix("Bearer "))
        assert isinstance(standing.access, Access)
        return standing.access

    async def named_tenant(self, name: str) -> Tenant:
        async with self.pool.transaction(EVERYWHERE) as transaction:
            found = await tenant_by_name(transaction, name)
        assert found is not None
        return found

    async def device(self, identifier: str, tenant: UUID) -> None:
        await self.execute(
            "INSERT INTO device (device_identifier, tenant_id, status, labels, metadata, created_at)"
            " VALUES ($1, $2, 'NO_IDENTITY', '{}', '{}', $3)",
            identifier,
            tenant,
            self.clock(),
        )


class StoreGate:
    """Takes `Bearer <identity id>` and gives that identity's access as the store has it: no token in between."""

    def __init__(self, world: World) -> None:
        self._world = world

    async def authenticate(self, authorization: str) -> Authenticated:
        standing = await read_standing(self._world.pool, authorization.removeprefix("Bearer "))
        if isinstance(standing.access, Denied):
            raise unauthenticated(standing.access.reason)
        return Authenticated(standing.access, self._world.clock() + timedelta(minutes=5), None, ())

    async def own_token(self, token: str) -> Authenticated:
        return await self.authenticate(f"Bearer {token}")

    async def find_tenant(self, name: str) -> Tenant | None:
        async with self._world.pool.transaction(EVERYWHERE) as transaction:
            return await tenant_by_name(transaction, name)


@asynccontextmanager
async def serving(world: World, routes: Sequence[Route]) -> AsyncIterator[TestClient[web.Request, web.Application]]:
    """Serve routes behind the guard, without TLS."""
    async with TestClient(TestServer(Guard(StoreGate(world)).application(routes))) as client:
        yield client


@asynccontextmanager
async def serving_plainly(world: World, routes: Sequence[Route]) -> AsyncIterator[str]:
    """Serve routes on the plain listener, and give its address."""
    runner = web.AppRunner(Guard(StoreGate(world)).application(routes))
    await runner.setup()
    listener = await serve_http(runner, listening_sockets("127.0.0.1", 0), limits=ListenerLimits())
    try:
        yield f"http://127.0.0.1:{listener.addresses[0][1]}"
    finally:
        await listener.close(grace_seconds=2)
        await runner.cleanup()


@asynccontextmanager
async def running_world(url: str, keys: Path, *, clock: Clock | None = None) -> AsyncIterator[World]:
    """Start what `doorward.app` starts of the authority, on a database that is migrated."""
    clock = clock or Clock()
    database = await Pool.connect(url, clock, urandom, size=POOL_SIZE)
    try:
        system = await lay_foundation(database, clock, urandom)
        keystore = Keystore(keys, MASTER_KEY, urandom)
        authorities = Authorities(database, keystore, clock, urandom, base_url=BASE_URL)
        await authorities.ensure()
        fresh_for = [timedelta(minutes=5)]
        ticks = count(step=60)
        responders = Responders(
            database, authorities, keystore, clock, urandom, ResponderTerms(), monotonic=ticks.__next__
        )
        # As if each list took no time to make: the next one need not wait.
        publisher = ListPublisher(database, authorities, clock, ListTerms(), monotonic=lambda: 0.0)
        publication = Publication(publisher, responders)
        administration = AuthorityAdministration(
            database, authorities, keystore, clock, urandom, publication, base_url=BASE_URL
        )
        world = World(
            url=url,
            pool=database,
            clock=clock,
            system=system,
            keys=keys,
            keystore=keystore,
            authorities=authorities,
            service=AuthorityService(database, authorities, clock, urandom),
            revocation=RevocationService(database),
            publisher=publisher,
            shelf=ListShelf(database, monotonic=ticks.__next__),
            responders=responders,
            status=StatusService(database, authorities, responders, clock, life=timedelta(hours=1)),
            prover=CertificateProver(database, authorities, clock, lambda: fresh_for[0]),
            administration=administration,
            intake=AuthorityIntake(database, authorities, administration, keystore, clock, urandom, publication),
            publication=publication,
            fresh_for=fresh_for,
        )

        def note(changes: Sequence[Change]) -> None:
            world.changes.extend(changes)

        database.announce_to(note)
        yield world
    finally:
        await database.close()

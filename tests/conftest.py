"""What tests stand on: one real PostgreSQL for a run, a migrated database cloned for each test, and a clock to turn."""

import asyncio
import os
import shutil
import tempfile
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from uuid import uuid4

import asyncpg
import pytest

from doorward.database import Pool, migrate
from doorward.embedded.postgres import EmbeddedPostgres, PostgresAddresses

TEMPLATE = "doorward_template"


class TurnableClock:
    """A clock that stands near the real time and can be turned."""

    def __init__(self) -> None:
        self.ahead = timedelta()

    def __call__(self) -> datetime:
        return datetime.now(UTC) + self.ahead

    def turn(self, by: timedelta) -> None:
        """Go forward, or back."""
        self.ahead += by


@dataclass(frozen=True)
class DatabaseUrls:
    """A database of a test's own: for the nodes, and for the owner of its tables."""

    node: str
    owner: str


@pytest.fixture(scope="session")
def scratch() -> Iterator[Path]:
    """A folder with a short path that another account can pass through, as PostgreSQL run by root needs."""
    folder = Path(tempfile.mkdtemp(prefix="dw-"))
    folder.chmod(0o755)
    yield folder
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="session")
def postgres(scratch: Path) -> Iterator[PostgresAddresses]:
    """A PostgreSQL server with a migrated template database."""
    loop = asyncio.new_event_loop()
    server = EmbeddedPostgres(scratch / "pg", durable_init=False)
    try:
        addresses = loop.run_until_complete(server.start())
        loop.run_until_complete(_make_template(addresses))
        yield addresses
    finally:
        loop.run_until_complete(server.stop())
        loop.close()


@pytest.fixture
async def database_urls(postgres: PostgresAddresses) -> AsyncIterator[DatabaseUrls]:
    """A fresh, migrated database."""
    name = f"test_{uuid4().hex}"
    await _superuser(postgres, f"CREATE DATABASE {name} TEMPLATE {TEMPLATE} OWNER doorward_owner STRATEGY WAL_LOG")
    yield DatabaseUrls(_named(postgres.node_dsn, name), _named(postgres.owner_dsn, name))
    await _superuser(postgres, f"DROP DATABASE {name} WITH (FORCE)")


@pytest.fixture
def clock() -> TurnableClock:
    """A clock that a test can turn."""
    return TurnableClock()


@pytest.fixture
async def pool(database_urls: DatabaseUrls, clock: TurnableClock) -> AsyncIterator[Pool]:
    """The node's way to a fresh database."""
    opened = await Pool.connect(database_urls.node, clock, os.urandom, size=5)
    yield opened
    await opened.close()


async def _make_template(addresses: PostgresAddresses) -> None:
    await _superuser(addresses, f"CREATE DATABASE {TEMPLATE} OWNER doorward_owner")
    await migrate(_named(addresses.owner_dsn, TEMPLATE), "doorward_node")


async def _superuser(addresses: PostgresAddresses, statement: str) -> None:
    connection = await asyncpg.connect(addresses.superuser_dsn)
    try:
        await connection.execute(statement)
    finally:
        await connection.close()


def _named(dsn: str, database: str) -> str:
    head, question, query = dsn.partition("?")
    return head.rpartition("/")[0] + "/" + database + question + query

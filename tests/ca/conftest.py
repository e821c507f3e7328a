from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio

from doorward.embedded.postgres import PostgresAddresses
from tests.ca.world import World, new_database, running_postgres, running_world


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def postgres(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[PostgresAddresses]:
    async with running_postgres(tmp_path_factory.mktemp("postgres")) as addresses:
        yield addresses


@pytest.fixture
async def database(postgres: PostgresAddresses) -> AsyncIterator[str]:
    async with new_database(postgres) as url:
        yield url


@pytest.fixture
async def world(database: str, tmp_path: Path) -> AsyncIterator[World]:
    async with running_world(database, tmp_path / "keys") as running:
        yield running

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.ca.conftest import database, postgres, world  # noqa: F401 - fixtures, shared with the tests of the authority
from tests.ca.world import World
from tests.est.world import EstWorld, running_est


@pytest.fixture
async def est(world: World, tmp_path: Path) -> AsyncIterator[EstWorld]:  # noqa: F811 - the fixture of that name
    async with running_est(world, tmp_path) as running:
        yield running

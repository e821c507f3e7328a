"""Hostile HTTP, byte for byte over TLS: each one refusal at most, its reason in the log, nothing written."""

import logging
from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

from doorward.embedded.postgres import PostgresAddresses
from tests.ca.world import new_database, running_world
from tests.est.hostile import wire
from tests.est.hostile.der import DEVICE
from tests.est.hostile.rows import Row, each
from tests.est.hostile.talk import goes_on, speak
from tests.est.world import EstWorld, Holder, running_est

pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def est(postgres: PostgresAddresses, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[EstWorld]:
    """One server for all rows: it has to outlive them."""
    folder = tmp_path_factory.mktemp("wire")
    async with (
        new_database(postgres) as url,
        running_world(url, folder / "keys") as world,
        running_est(world, folder) as running,
    ):
        yield running


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def holder(est: EstWorld) -> Holder:
    """Whom the rows come from."""
    return await est.bootstrap(DEVICE)


@pytest.mark.parametrize("row", each(*wire.TABLES))
async def test_http_that_is_none(est: EstWorld, holder: Holder, row: Row, caplog: pytest.LogCaptureFixture) -> None:
    before = await est.written()
    with caplog.at_level(logging.INFO, "doorward"):
        heard = await speak(est, row.make(), holder)
    assert heard.statuses == (row.status,), (heard.content[:400], caplog.messages)
    assert b"Traceback" not in heard.content
    assert any(row.reason in line for line in caplog.messages), caplog.messages
    assert await est.written() == before
    assert await goes_on(est)


async def test_the_same_bytes_in_order_enrol(est: EstWorld, holder: Holder) -> None:
    heard = await speak(est, wire.sized(), holder)
    assert heard.statuses == (200,), heard.content


async def test_a_body_in_chunks_is_taken(est: EstWorld, holder: Holder) -> None:
    heard = await speak(est, wire.chunked(wire.chunk(wire.BODY) + b"0\r\n\r\n"), holder)
    assert heard.statuses == (200,), heard.content

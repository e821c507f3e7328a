"""Hostile requests to have a key made: refused like any other request, save for the key in them that is ignored."""

from collections.abc import AsyncIterator

import pytest
import pytest_asyncio
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from certs.pkcs7 import parse_certs_only
from doorward.embedded.postgres import PostgresAddresses
from est.profiles import ServerKey
from est.server_keys import KeyAndCertificate
from iam import responses
from iam.errors import Refused
from tests.ca.world import new_database, running_world
from tests.est.hostile import bodies, encodings, keys, names
from tests.est.hostile.der import DEVICE
from tests.est.hostile.rows import Row, each
from tests.est.world import EstWorld, Holder, b64, running_est

pytestmark = pytest.mark.asyncio(loop_scope="module")

TOO_LARGE = 413  # found out by the route, before anything here
OF_THE_SIGNATURE = {"an attribute put in after signing"}


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def est(postgres: PostgresAddresses, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[EstWorld]:
    folder = tmp_path_factory.mktemp("hostile")
    async with (
        new_database(postgres) as url,
        running_world(url, folder / "keys") as world,
        running_est(world, folder) as running,
    ):
        await running.label("made", server_key_generation=ServerKey.P256)
        yield running


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def holder(est: EstWorld) -> Holder:
    return await est.bootstrap(DEVICE)


async def answered(est: EstWorld, holder: Holder, body: bytes) -> KeyAndCertificate | int:
    """Ask below the wire; return the answer, or the status of the refusal, having written nothing."""
    before = await est.written()
    try:
        made = await est.service.generate("made", (holder.der,), body)
    except Refused as refused:
        assert await est.written() == before
        return responses.STATUS[refused.kind]
    assert isinstance(made, KeyAndCertificate)
    return made


@pytest.mark.parametrize("row", each(*names.TABLES))
async def test_names(est: EstWorld, holder: Holder, row: Row) -> None:
    assert await answered(est, holder, b64(row.make())) == row.status


@pytest.mark.parametrize("row", each(*encodings.TABLES))
async def test_encodings(est: EstWorld, holder: Holder, row: Row) -> None:
    given = await answered(est, holder, b64(row.make()))
    assert isinstance(given, KeyAndCertificate) if row.what in OF_THE_SIGNATURE else given == row.status


@pytest.mark.parametrize("row", each([row for row in bodies.BODIES if row.status != TOO_LARGE]))
async def test_bodies(est: EstWorld, holder: Holder, row: Row) -> None:
    assert await answered(est, holder, row.make()) == row.status


@pytest.mark.parametrize("row", each(*keys.TABLES))
async def test_whatever_key_is_sent_another_is_certified(est: EstWorld, holder: Holder, row: Row) -> None:
    der = row.make()
    given = await answered(est, holder, b64(der))
    if isinstance(given, KeyAndCertificate):
        (made,) = parse_certs_only(given.certificate)
        certified = made.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
        assert certified not in der
    else:
        assert given == row.status

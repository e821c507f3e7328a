"""Hostile certification requests and bodies: each a clear refusal, its reason in the log, nothing written.

The tables are in `tests/est/hostile`. Each row is sent by curl, over mTLS, by somebody with a good certificate; after
it the server answers somebody else, and at the end of all of them it still enrols.
"""

import logging
from base64 import b64decode
from collections.abc import AsyncIterator

import pytest
import pytest_asyncio
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from doorward.embedded.postgres import PostgresAddresses
from iam import responses
from iam.errors import Kind
from tests.ca.world import new_database, running_world
from tests.est.hostile import bodies, encodings, keys, names, wishes
from tests.est.hostile.der import DEVICE, common_name, name, requested, signed_by
from tests.est.hostile.der import request as hostile_request
from tests.est.hostile.rows import Row, each
from tests.est.hostile.talk import goes_on
from tests.est.world import EstWorld, Holder, b64, new_key, only, request, running_est

pytestmark = pytest.mark.asyncio(loop_scope="module")

REFUSED = frozenset(responses.STATUS[kind] for kind in Kind)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def est(postgres: PostgresAddresses, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[EstWorld]:
    """One server for all rows: it has to outlive them."""
    folder = tmp_path_factory.mktemp("hostile")
    async with (
        new_database(postgres) as url,
        running_world(url, folder / "keys") as world,
        running_est(world, folder) as running,
    ):
        yield running


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def holders(est: EstWorld) -> dict[str, Holder]:
    """Whom the rows come from, by operation: of the same device."""
    return {"simpleenroll": await est.bootstrap(DEVICE), "simplereenroll": await est.enrolled(DEVICE)}


async def refuse(
    est: EstWorld, operation: str, holder: Holder, body: bytes, row: Row, caplog: pytest.LogCaptureFixture
) -> None:
    """Send a body, and find it refused as the row says."""
    before = await est.written()
    with caplog.at_level(logging.INFO, "doorward.http"):
        answer = await est.enrol(operation, holder, body)
    assert answer.status == row.status, (answer.body, caplog.messages)
    assert answer.status in REFUSED
    assert answer.headers["Content-Type"] == "text/plain"
    assert answer.body.count(b"\n") == 1
    (said,) = [line for line in caplog.messages if line.startswith(f"POST /.well-known/est/{operation} from ")]
    assert row.reason in said
    assert said.isprintable()
    assert await est.written() == before
    assert await goes_on(est)


@pytest.mark.parametrize("row", each(*names.TABLES))
async def test_names(est: EstWorld, holders: dict[str, Holder], row: Row, caplog: pytest.LogCaptureFixture) -> None:
    await refuse(est, "simpleenroll", holders["simpleenroll"], b64(row.make()), row, caplog)


@pytest.mark.parametrize("row", each(*keys.TABLES))
async def test_keys_and_signatures(
    est: EstWorld, holders: dict[str, Holder], row: Row, caplog: pytest.LogCaptureFixture
) -> None:
    await refuse(est, "simpleenroll", holders["simpleenroll"], b64(row.make()), row, caplog)


@pytest.mark.parametrize("row", each(*encodings.TABLES))
async def test_encodings(est: EstWorld, holders: dict[str, Holder], row: Row, caplog: pytest.LogCaptureFixture) -> None:
    await refuse(est, "simpleenroll", holders["simpleenroll"], b64(row.make()), row, caplog)


@pytest.mark.parametrize("row", each(bodies.BODIES))
async def test_bodies(est: EstWorld, holders: dict[str, Holder], row: Row, caplog: pytest.LogCaptureFixture) -> None:
    await refuse(est, "simpleenroll", holders["simpleenroll"], row.make(), row, caplog)


async def test_none_of_them_renews_either(est: EstWorld, holders: dict[str, Holder]) -> None:
    before = await est.written()
    tables = (*names.TABLES, *keys.TABLES, *encodings.TABLES)
    for row in [row for table in tables for row in table]:
        answer = await est.enrol("simplereenroll", holders["simplereenroll"], b64(row.make()))
        assert answer.status in {400, 403}, (row.what, answer)  # names that differ are found out first
        assert answer.body.count(b"\n") == 1, row.what
    assert await est.written() == before


@pytest.mark.parametrize("what", [*wishes.EXTENSIONS, *wishes.SUBJECTS])
async def test_what_is_asked_for_and_not_given(est: EstWorld, what: str) -> None:
    number = [*wishes.EXTENSIONS, *wishes.SUBJECTS].index(what)
    device, key = f"wisher-{number:03}", new_key()
    asked = hostile_request(
        spki=key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo),
        subject=wishes.SUBJECTS[what](device) if what in wishes.SUBJECTS else name(common_name(device)),
        attributes=(requested(*wishes.EXTENSIONS[what]),) if what in wishes.EXTENSIONS else (),
        sign=signed_by(key),
    )
    answer = await est.enrol("simpleenroll", await est.bootstrap(device), b64(asked))
    assert answer.status == 200, answer
    given = only(b64decode(answer.body))
    modest = only(await enrolled_modestly(est, f"modest-{number:03}"))
    assert [attribute.value for attribute in given.subject] == [device]
    assert shape(given) == shape(modest)


async def enrolled_modestly(est: EstWorld, device: str) -> bytes:
    return await est.service.enrol("default", ((await est.bootstrap(device)).der,), b64(request(new_key(), device)))


def shape(certificate: x509.Certificate) -> list[object]:
    """All that a certificate says but whose it is."""
    of_holder = (x509.SubjectKeyIdentifier, x509.SubjectAlternativeName)
    return [
        (extension.oid, extension.critical, None if isinstance(extension.value, of_holder) else extension.value)
        for extension in certificate.extensions
    ]


async def test_after_all_of_them_it_still_enrols_and_renews(est: EstWorld, holders: dict[str, Holder]) -> None:
    bootstrap = await est.bootstrap("meter-009")
    enrolled = await est.enrol("simpleenroll", bootstrap, b64(request(new_key(), "meter-009")))
    renewed = await est.enrol("simplereenroll", holders["simplereenroll"], b64(request(new_key(), DEVICE)))
    assert (enrolled.status, renewed.status) == (200, 200), (enrolled, renewed)

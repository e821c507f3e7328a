"""`doorward check`: it reads and asks, and makes nothing."""

import os
from datetime import UTC, datetime, timedelta
from pathlib import Path

import asyncpg
import pytest

from ca.crl import Head
from doorward.commands.check import Finding, _ask_all, _standing_of, check
from doorward.config import Configuration, DatabaseSection, NatsSection, NodeSection
from doorward.master_key import Secrets, master_key
from tests.conftest import DatabaseUrls


def test_a_folder_that_is_not_there_is_a_finding_and_stays_away(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = tmp_path / "wrong"
    assert check(Configuration(node=NodeSection(data=data)), as_json=False) == 1
    assert "FAILED master key" in capsys.readouterr().out
    assert not data.exists()


def test_a_key_that_is_there_is_none(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    configuration = Configuration(node=NodeSection(data=tmp_path))
    master_key(configuration, os.urandom)
    assert check(configuration, as_json=False) == 1
    assert "ok     master key" in capsys.readouterr().out
    assert [file.name for file in tmp_path.iterdir()] == ["master.key"]


def test_a_change_of_the_master_key_that_was_not_finished_is_told(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    configuration = Configuration(node=NodeSection(data=tmp_path))
    (tmp_path / "master.key").write_text(Secrets(bytes(32), None, (bytes(range(32)),)).write())
    check(configuration, as_json=False)
    assert "ok     master key: there, and being changed" in capsys.readouterr().out


async def test_nothing_is_made_in_a_database_that_no_node_has_started_on(
    tmp_path: Path, database_urls: DatabaseUrls
) -> None:
    secret = tmp_path / "secret"
    secret.write_text("secret")
    names = ("callout_password", "system_password", "bus_password", "issuer_seed", "xkey_seed")
    data = tmp_path / "wrong"
    configuration = Configuration(
        node=NodeSection(data=data),
        database=DatabaseSection(url=database_urls.node, owner_url=database_urls.owner),
        nats=NatsSection(servers=("nats://127.0.0.1:1",), **{f"{name}_file": secret for name in names}),
    )

    async def found() -> dict[str, Finding]:
        return {one.question: one for one in await _ask_all(configuration)}

    first = await found()
    assert {question for question, one in first.items() if one.holds} >= {"database", "clock"}
    assert not first["master key"].holds
    assert not first["authorities"].holds
    assert not data.exists()
    master_key(configuration, os.urandom)
    second = await found()
    assert second["master key"].holds
    assert "none yet" in second["authorities"].said
    assert [file.name for file in data.iterdir()] == ["master.key"]
    connection = await asyncpg.connect(database_urls.owner)
    for table in ("tenant", "authority", "token_key", "outbox"):
        await connection.execute("SET doorward.tenant = '*'")
        assert await connection.fetchval(f"SELECT count(*) FROM {table}") == 0  # noqa: S608 - a constant
    await connection.close()


NOW = datetime(2030, 6, 1, tzinfo=UTC)
DAY = timedelta(days=1)


@pytest.mark.parametrize(
    ("head", "responder", "holds", "said"),
    [
        (
            Head(7, NOW, NOW + DAY, 0, 0.0),
            NOW + DAY,
            True,
            "x: list 7 until 2030-06-02 00:00, OCSP until 2030-06-02 00:00",
        ),
        (Head(7, NOW - DAY, NOW + DAY / 2, 0, 0.0), NOW + DAY, True, "a new list is due: is its key away?"),
        (Head(7, NOW - DAY, NOW, 0, 0.0), NOW + DAY, False, "which is over"),
        (Head(7, NOW, NOW + DAY, 0, 0.0), NOW, False, "which is over"),
        (None, NOW + DAY, False, "x has no revocation list yet"),
        (Head(7, NOW, NOW + DAY, 0, 0.0), None, False, "x has no OCSP responder yet"),
    ],
)
def test_what_relying_parties_are_told_has_an_end(
    head: Head | None, responder: datetime | None, said: str, *, holds: bool
) -> None:
    found, sentence = _standing_of("x", head, responder, NOW)
    assert found is holds
    assert said in sentence

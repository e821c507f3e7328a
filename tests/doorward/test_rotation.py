"""Changing the master key while a node runs: nothing is lost, whenever it is interrupted."""

import asyncio
import json
import os
import re
import signal
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from hashlib import sha256
from pathlib import Path
from uuid import UUID, uuid4

import asyncpg
import pytest

from ca.authorities import Authorities
from ca.keystore import Backend, Keystore, StoredKey, describe
from ca.kms import Description, KeyService
from ca.responders import Responders, ResponderTerms
from ca.signers import make_private_key
from ca.signing import Message, SigningAlgorithm
from ca.store.keys import insert_key
from certs.keys import KeyAlgorithm
from doorward.addresses import Addresses, write_addresses
from doorward.config import Configuration, NodeSection
from doorward.database import Pool
from doorward.keys import callout_keys
from doorward.master_key import Secrets, master_key, read_master_key, read_secrets
from doorward.rotation import SEALED_COLUMNS, STEPS, Rotation, Step, Waits
from est import decryption_keys
from iam.errors import Kind, Refused
from iam.sealing import MasterKey, open_sealed, seal, secret_id
from iam.service.foundation import lay_foundation, root_identity
from iam.service.keyring import KeyRing
from iam.store.database import EVERYWHERE
from tests.conftest import DatabaseUrls, TurnableClock

MOMENT = timedelta(seconds=0.01)
QUICK = Waits(look=MOMENT, expire=MOMENT)
REFRESH_TOKENS = 450
OTHERS = 11
"""Everything sealed beside refresh tokens."""


@dataclass
class Node:
    """A data folder, and a database in which every kind of sealed value stands."""

    configuration: Configuration
    pool: Pool
    urls: DatabaseUrls
    running: MasterKey
    system: UUID
    key: StoredKey

    @property
    def file(self) -> Path:
        return self.configuration.node.data / "master.key"

    def rotation(self, told: list[str] | None = None, waits: Waits = QUICK) -> Rotation:
        tell = (lambda _: None) if told is None else told.append
        return Rotation(self.configuration, self.pool, os.urandom, tell, waits)

    async def sealed(self) -> list[tuple[str, bytes]]:
        """Every sealed value of the database, with its context."""
        found = []
        async with self.pool.transaction(EVERYWHERE) as transaction:
            for one in SEALED_COLUMNS:
                query = f"SELECT {one.key} AS key, {one.column} AS sealed FROM {one.table}"  # noqa: S608 - of the code
                rows = await transaction.fetch(f"{query} WHERE {one.column} IS NOT NULL")
                found += [(one.context(row["key"]), row["sealed"]) for row in rows]
        return found

    async def all_opens(self, key: MasterKey) -> None:
        values = await self.sealed()
        assert len(values) > REFRESH_TOKENS + 3
        for context, value in values:
            open_sealed(key, value, context=context)
        assert Keystore(self.configuration.node.data / "keys", key, os.urandom).root() is not None
        callout_keys(self.configuration, key, os.urandom)


@pytest.fixture
async def node(database_urls: DatabaseUrls, tmp_path: Path, pool: Pool, clock: TurnableClock) -> Node:
    configuration = Configuration(node=NodeSection(data=tmp_path))
    running = master_key(configuration, os.urandom)
    system = await lay_foundation(pool, clock, os.urandom)
    keystore = Keystore(tmp_path / "keys", running, os.urandom)
    authorities = Authorities(pool, keystore, clock, os.urandom, base_url=None)
    await authorities.ensure()
    await Responders(pool, authorities, keystore, clock, os.urandom, ResponderTerms()).renew()
    ring = KeyRing(pool, running, clock, os.urandom, rotate_every=timedelta(days=30), longest_token=timedelta(days=1))
    await ring.rotate(system.id)
    service = KeyService(pool, keystore, clock, os.urandom)
    said = Description("mine", (), {})
    key = await service.create(system.id, KeyAlgorithm.P256, 256, Backend.SEALED, said, actor="test")
    callout_keys(configuration, running, os.urandom)
    root = await root_identity(pool, system.id)
    async with pool.transaction(EVERYWHERE) as transaction:
        session = uuid4()
        await transaction.execute(
            "INSERT INTO session (id, identity_id, tenant_id, client_id, amr, created_at, expires_at)"
            " VALUES ($1, $2, $3, 'x', '{}', $4, $4)",
            session,
            root.id,
            system.id,
            clock(),
        )
        await transaction.execute(
            "INSERT INTO device (device_identifier, tenant_id, status, labels, metadata, created_at)"
            " VALUES ('meter-001', $1, 'NO_IDENTITY', '{}', '{}', $2)",
            system.id,
            clock(),
        )
        name = uuid4()
        await transaction.execute(
            "INSERT INTO decryption_key"
            " (id, tenant_id, device_identifier, key_identifier, secret_sealed, created_at)"
            " VALUES ($1, $2, 'meter-001', 'a', $3, $4)",
            name,
            system.id,
            seal(running, bytes(32), context=decryption_keys.sealing_context(name), random=os.urandom),
            clock(),
        )
        for number in range(REFRESH_TOKENS):
            hashed = sha256(str(number).encode()).digest()
            sealed = seal(running, b"next", context=f"refresh_token:{hashed.hex()}", random=os.urandom)
            await transaction.execute(
                "INSERT INTO refresh_token"
                " (token_sha256, session_id, tenant_id, issued_at, expires_at, successor_sealed)"
                " VALUES ($1, $2, $3, $4, $4, $5)",
                hashed,
                session,
                system.id,
                clock(),
                sealed,
            )
    return Node(configuration, pool, database_urls, running, system.id, key)


async def test_everything_is_sealed_anew_and_the_old_key_is_gone(node: Node) -> None:
    before, told = read_secrets(node.configuration), list[str]()
    done = await node.rotation(told).rotate()
    after = read_secrets(node.configuration)
    assert done.left == ()
    assert done.numbers == {
        "decryption_key.secret_sealed": 1,
        "enrolment_profile.webhook_secret": 0,
        "kms_key.sealed": 3,
        "status_responder.key_sealed": 3,
        "token_key.sealed": 1,
        "refresh_token.successor_sealed": REFRESH_TOKENS,
        "callout_issuer.sealed": 1,
        "callout_xkey.sealed": 1,
        "root.sealed": 1,
    }
    assert (after.next, after.old) == (None, ())
    assert after.sealing != before.sealing
    await node.all_opens(MasterKey(after.sealing))
    await node.all_opens(node.running)  # a worker that ran all the time
    for context, value in await node.sealed():
        with pytest.raises(Refused, match="cannot be opened"):
            open_sealed(MasterKey(before.sealing), value, context=context)
    assert not any(word in line for line in told for one in (before, after) for word in one.write().split())
    assert node.file.stat().st_mode & 0o777 == 0o600


async def test_the_change_is_on_record(node: Node) -> None:
    await node.rotation().rotate()
    newest = secret_id(read_secrets(node.configuration).sealing).hex()
    async with node.pool.transaction(EVERYWHERE) as transaction:
        rows = await transaction.fetch(
            "SELECT kind, subject, data FROM audit_pending WHERE kind LIKE 'master_key.%' ORDER BY id"
        )
    assert [(row["kind"], row["subject"]) for row in rows] == [
        (f"master_key.{what}", newest) for what in ("announced", "switched", "changed")
    ]
    assert json.loads(rows[-1]["data"]) == {"sealed_anew": REFRESH_TOKENS + OTHERS}


async def test_workers_work_on_while_it_changes(node: Node, clock: TurnableClock) -> None:
    keystore = Keystore(node.configuration.node.data / "keys", node.running, os.urandom)
    service = KeyService(node.pool, keystore, clock, os.urandom)
    done = asyncio.create_task(node.rotation(waits=Waits(timedelta(seconds=1.2), timedelta(seconds=1.2))).rotate())
    made, message = [], Message(b"a message")
    while not done.done():
        said = Description("while it changes", (), {})
        made.append(await service.create(node.system, KeyAlgorithm.ED25519, 256, Backend.SEALED, said, actor="test"))
        for key in (node.key, made[0], made[-1]):
            way = SigningAlgorithm.ECDSA_SHA_256 if key is node.key else SigningAlgorithm.ED25519
            signature = await service.sign(node.system, str(key.id), way, message, actor="test")
            assert await service.verify(node.system, str(key.id), way, message, signature)
    assert (await done).left == ()
    assert len(made) > 20
    await node.all_opens(MasterKey(read_secrets(node.configuration).sealing))


@pytest.mark.parametrize("step", list(Step))
async def test_a_change_that_stopped_after_a_step_goes_on(node: Node, step: Step) -> None:
    a, b = read_secrets(node.configuration).sealing, os.urandom(32)
    stopped = {Step.ANNOUNCE: Secrets(a), Step.SWITCH: Secrets(a, b), Step.RESEAL: Secrets(b, None, (a,))}[step]
    assert STEPS[stopped.next is not None, bool(stopped.old)] is step
    node.file.write_text(stopped.write())
    assert (await node.rotation().rotate()).left == ()
    after = read_secrets(node.configuration)
    assert (after.next, after.old) == (None, ())
    assert step is Step.ANNOUNCE or after.sealing == b
    await node.all_opens(MasterKey(after.sealing))


async def test_a_root_that_was_taken_away_keeps_the_old_key_known(node: Node, tmp_path: Path) -> None:
    root = node.configuration.node.data / "keys" / "root.sealed"
    away = root.rename(tmp_path / "safe")
    done = await node.rotation().rotate()
    assert len(done.left) == 1
    assert "bring it back" in done.left[0]
    kept = read_secrets(node.configuration)
    assert len(kept.old) == 1
    assert (await node.rotation().rotate()).left != ()  # no second change begins meanwhile
    assert read_secrets(node.configuration) == kept

    away.rename(root)
    await node.all_opens(read_master_key(node.configuration))
    assert (await node.rotation().rotate()).left == ()
    assert read_secrets(node.configuration) == Secrets(kept.sealing)
    await node.all_opens(MasterKey(kept.sealing))


async def test_the_files_of_later_roots_have_to_be_there_too(node: Node, tmp_path: Path) -> None:
    folder = node.configuration.node.data / "keys"
    keystore, key, identifier = Keystore(folder, node.running, os.urandom), make_private_key(KeyAlgorithm.P384), uuid4()
    keystore.keep_later_root(identifier, key)
    later = describe(
        identifier,
        node.system,
        "root-2",
        key.public_key(),
        backend=Backend.FILE,
        sealed=None,
        now=datetime.now(UTC),
    )
    async with node.pool.transaction(EVERYWHERE) as transaction:
        await insert_key(transaction, later)
    [file] = [path for path in folder.iterdir() if str(identifier) in path.name]
    away = file.rename(tmp_path / "safe")
    done = await node.rotation().rotate()
    assert [str(identifier) in reason for reason in done.left] == [True]
    away.rename(file)
    assert (await node.rotation().rotate()).left == ()
    opened = Keystore(folder, MasterKey(read_secrets(node.configuration).sealing), os.urandom).signer(later)
    assert opened.public_key == key.public_key()


async def test_a_damaged_value_keeps_the_old_key_and_stops_nothing_else(node: Node) -> None:
    async with node.pool.transaction(EVERYWHERE) as transaction:
        await transaction.execute(
            "UPDATE kms_key SET sealed = set_byte(sealed, 40, get_byte(sealed, 40) # 1) WHERE id = $1", node.key.id
        )
    done = await node.rotation().rotate()
    assert [str(node.key.id) in reason for reason in done.left] == [True]
    assert done.numbers["kms_key.sealed"] == 2
    assert len(read_secrets(node.configuration).old) == 1


async def test_of_two_at_once_one_does_it(node: Node) -> None:
    both = await asyncio.gather(node.rotation().rotate(), node.rotation().rotate(), return_exceptions=True)
    refused = [one for one in both if isinstance(one, Refused)]
    assert [one.kind for one in refused] == [Kind.CONFLICT]
    await node.all_opens(read_master_key(node.configuration))


@pytest.mark.skipif(os.geteuid() != 0, reason="only root gives files away")
async def test_files_stay_their_owners_whoever_changes_the_key(node: Node) -> None:
    files = [node.file, *(node.configuration.node.data / "keys").iterdir()]
    for one in files:
        os.chown(one, 65534, 65534)
    assert (await node.rotation().rotate()).left == ()
    assert {(one.stat().st_uid, one.stat().st_gid, one.stat().st_mode & 0o777) for one in files} == {
        (65534, 65534, 0o600)
    }


async def test_a_key_from_the_environment_is_changed_there(node: Node, monkeypatch: pytest.MonkeyPatch) -> None:
    a, b = read_secrets(node.configuration).sealing, os.urandom(32)
    node.file.unlink()
    node.configuration = Configuration(
        node=NodeSection(data=node.configuration.node.data, master_key_from="environment")
    )
    monkeypatch.setenv("DOORWARD_MASTER_KEY", " ".join(Secrets(b, None, (a,)).write().split()))
    with pytest.raises(Refused, match="change it there"):
        await node.rotation().rotate()
    done = await node.rotation().reseal()
    assert (done.left, sum(done.numbers.values())) == ((), REFRESH_TOKENS + OTHERS)
    await node.all_opens(MasterKey(b))


# What stands in columns of bytes and is no secret of ours: certificates, lists, answers and requests; fingerprints and
# hashes; serial numbers, identifiers and nonces; public keys.
PLAIN = re.compile(
    r"(certificate|anchors|chain|old_with_new|new_with_old|asked_by|crl|entry|answer|request|_sha256|spki|hash|previous|serial|serial_number|supersedes|identifier|nonce"
    r"|public_key|told_apart_by)$|^schema_migration"
)


async def test_every_column_of_bytes_is_sealed_anew_or_holds_no_secret(node: Node) -> None:
    owner = await asyncpg.connect(node.urls.owner)
    try:
        rows = await owner.fetch(
            "SELECT table_name || '.' || column_name AS name FROM information_schema.columns"
            " WHERE table_schema = 'public' AND (data_type = 'bytea' OR udt_name = '_bytea')"
        )
    finally:
        await owner.close()
    sealed = {one.name for one in SEALED_COLUMNS}
    found = {row["name"] for row in rows}
    assert sealed <= found
    assert {name for name in found - sealed if PLAIN.search(name) is None} == set()


def command(node: Node, *arguments: str) -> list[str]:
    return [sys.executable, "-m", "doorward", "keys", *arguments, "--data", str(node.configuration.node.data)]


async def rotate_and_kill(node: Node, after_lines: int, then: float) -> int:
    """Run the command, kill it some time after it told its n-th line; return its status."""
    process = await asyncio.create_subprocess_exec(
        *command(node, "rotate-master", "--grace", "0.2"), stdout=asyncio.subprocess.PIPE
    )
    assert process.stdout is not None
    for _ in range(after_lines):
        if not await process.stdout.readline():
            break
    await asyncio.sleep(then)
    if process.returncode is None:
        process.send_signal(signal.SIGKILL)
    await process.stdout.read()
    return await process.wait()


@pytest.mark.parametrize("moments", [[(1, 0.0), (1, 0.0), (4, 0.005)], [(2, 0.01), (3, 0.0), (3, 0.02)]])
async def test_nothing_is_lost_by_kills_in_the_middle(node: Node, moments: Sequence[tuple[int, float]]) -> None:
    write_addresses(node.configuration, Addresses(node.urls.node, node.urls.owner, ("none",), *["none"] * 6))
    first = read_secrets(node.configuration).sealing
    killed = 0
    for lines, then in moments:
        killed += await rotate_and_kill(node, lines, then) == -signal.SIGKILL
        await node.all_opens(read_master_key(node.configuration))
        await node.all_opens(node.running)
    assert killed >= 2
    finished = await asyncio.create_subprocess_exec(
        *command(node, "rotate-master", "--grace", "0.2"), stdout=asyncio.subprocess.PIPE
    )
    said, _ = await finished.communicate()
    assert finished.returncode == 0
    assert b"nothing needs an old master key any more" in said
    after = read_secrets(node.configuration)
    assert (after.next, after.old) == (None, ())
    assert after.sealing != first
    await node.all_opens(MasterKey(after.sealing))


async def test_how_much_each_key_sealed_is_shown(node: Node) -> None:
    write_addresses(node.configuration, Addresses(node.urls.node, node.urls.owner, ("none",), *["none"] * 6))
    process = await asyncio.create_subprocess_exec(*command(node, "sealed", "--json"), stdout=asyncio.subprocess.PIPE)
    said, _ = await process.communicate()
    shown = json.loads(said)
    secret = secret_id(read_secrets(node.configuration).sealing).hex()
    assert shown["known"] == {secret: "seals"}
    assert {(one["column"], one["number"], one["role"]) for one in shown["sealed"]} == {
        ("kms_key.sealed", 3, "seals"),
        ("token_key.sealed", 1, "seals"),
        ("refresh_token.successor_sealed", REFRESH_TOKENS, "seals"),
        ("decryption_key.secret_sealed", 1, "seals"),
        ("status_responder.key_sealed", 3, "seals"),
    }

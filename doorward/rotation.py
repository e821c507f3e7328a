"""Changing the master key while the node runs.

The rules:

1. Where the change stands is written in the master key's file and nowhere else. Whoever begins it, or takes it up after
   it was interrupted, reads the file and does what the table `STEPS` says: a crash anywhere loses nothing.
2. A secret opens before it seals: it is `next` until every process has had time to read the file.
3. A secret opens after it seals no more: it is `old` until nothing is left that it sealed, here or in the database, and
   until everything has expired that was derived from it.
4. What cannot be sealed anew (a root's file that was taken away, a damaged value) keeps the old secret where it is. It
   is named, and the change goes on when it is run again.
5. Of two at once, one does it.

Sealed are the columns of `SEALED_COLUMNS` and the files of this node. Other nodes have files of their own: there
`reseal` is run with the same master key.
"""

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import timedelta
from enum import Enum, auto
from pathlib import Path

from ca.keystore import ROOT_FILE, Keystore, sealing_context
from ca.store.keys import file_keys
from challenge.service import CHALLENGE_LIFETIME
from doorward.config import Configuration
from doorward.database import Pool
from doorward.keys import SEALED_FILES, keys_folder, reseal_file
from doorward.master_key import LOOK_SECONDS, Secrets, master_key_file, place_of_master_key, read_secrets, write_secrets
from est import decryption_keys
from est.authentication.webhook import secret_context
from iam.errors import Kind, Refused, conflict
from iam.identifiers import Random
from iam.model import SYSTEM_TENANT
from iam.sealing import MASTER_KEY_BYTES, MasterKey, open_sealed, seal, secret_id
from iam.store.database import EVERYWHERE, Change
from iam.store.sealed import SealedColumn, count_by_secret, replace_sealed, sealed_by
from iam.store.tenants import tenant_by_name

SEALED_COLUMNS = (
    SealedColumn("decryption_key", "id", "secret_sealed", decryption_keys.sealing_context),
    SealedColumn("enrolment_profile", "id", "webhook_secret", lambda identifier: secret_context(str(identifier))),
    SealedColumn("kms_key", "id", "sealed", sealing_context),
    SealedColumn("status_responder", "id", "key_sealed", sealing_context),
    SealedColumn("token_key", "kid", "sealed", lambda kid: f"token-key:{kid}"),
    SealedColumn("refresh_token", "token_sha256", "successor_sealed", lambda hashed: f"refresh_token:{hashed.hex()}"),
)
"""Every column of sealed values; a test compares it with the schema."""

_BATCH = 100
_LOCK = 0x6D6B6579  # "mkey"
_NODE = "doorward"


Tell = Callable[[str], None]


class Step(Enum):
    """What is to be done next."""

    ANNOUNCE = auto()
    """Make the next secret and write it beside the one that seals."""
    SWITCH = auto()
    """Every process knows the next secret: from now on it seals, and the other is old."""
    RESEAL = auto()
    """Seal anew what old secrets sealed; forget those that sealed nothing that is left."""


STEPS: dict[tuple[bool, bool], Step] = {
    (False, False): Step.ANNOUNCE,
    (True, False): Step.SWITCH,
    (True, True): Step.SWITCH,
    (False, True): Step.RESEAL,
}
"""By what stands in the file: is there a `next` secret, is there an `old` one?"""


@dataclass(frozen=True, slots=True)
class Waits:
    """How long the others are given.

    Attributes:
        look: To read the file after it changed.
        expire: For what was derived from the old secret to expire.
    """

    look: timedelta = timedelta(seconds=2 * LOOK_SECONDS)
    expire: timedelta = CHALLENGE_LIFETIME + timedelta(seconds=2 * LOOK_SECONDS)


@dataclass(frozen=True, slots=True)
class Resealed:
    """What came of sealing anew.

    Attributes:
        numbers: How many values, by table and column or file.
        left: What is still sealed by an old secret, or may be, and why.
    """

    numbers: Mapping[str, int]
    left: tuple[str, ...]


class Rotation:
    """Changes the master key of a node's database and files.

    Args:
        tell: Is told what is being done.
    """

    def __init__(
        self,
        configuration: Configuration,
        pool: Pool,
        random: Random,
        tell: Tell,
        waits: Waits,
    ) -> None:
        self._configuration = configuration
        self._pool = pool
        self._random = random
        self._tell = tell
        self._waits = waits

    async def rotate(self) -> Resealed:
        """Change the master key, or finish a change that was interrupted (rule 1).

        Raises:
            Refused: (conflict) The key comes from elsewhere than a file, or another process changes it. (unavailable)
                The database or a file cannot be used; what was done so far is kept.
        """
        path = master_key_file(self._configuration)
        if path is None:
            where = place_of_master_key(self._configuration)
            raise conflict(f"The master key comes from {where}: change it there, as docs/operators.md says.")
        async with self._alone():
            while True:
                secrets = read_secrets(self._configuration)
                step = STEPS[secrets.next is not None, bool(secrets.old)]
                if step is Step.RESEAL:
                    return await self._finish(path, secrets)
                await self._take(step, path, secrets)

    async def reseal(self) -> Resealed:
        """Seal anew whatever another known secret sealed; the master key stays as it is written down.

        Raises:
            Refused: (conflict) Another process does that. (unavailable) The database cannot be reached.
        """
        async with self._alone():
            return await self._reseal(read_secrets(self._configuration))

    async def counts(self) -> dict[str, dict[bytes, int]]:
        """Return how many values each column has, by the id of the secret that sealed them."""
        async with self._pool.transaction(EVERYWHERE) as transaction:  # all of the node's
            return {one.name: await count_by_secret(transaction, one) for one in SEALED_COLUMNS}

    async def _take(self, step: Step, path: Path, secrets: Secrets) -> None:
        """Take one of the steps before the last."""
        if step is Step.ANNOUNCE:
            after = Secrets(secrets.sealing, self._random(MASTER_KEY_BYTES), secrets.old)
            kind, said = "master_key.announced", "a new master key is written beside the present one"
        else:
            assert secrets.next is not None  # noqa: S101 - what the table says
            await self._wait(self._waits.look, "until every process knows the new key")
            after = Secrets(secrets.next, None, (secrets.sealing, *secrets.old))
            kind, said = "master_key.switched", "the new master key seals, the old one still opens"
        newest = secret_id(after.next if after.next is not None else after.sealing).hex()
        await self._record(kind, newest)
        await asyncio.to_thread(write_secrets, path, after)
        self._tell(f"{newest}: {said}")

    async def _finish(self, path: Path, secrets: Secrets) -> Resealed:
        """Take the last step (rules 3 and 4)."""
        await self._wait(self._waits.look, "until every process seals with the new key")
        first = await self._reseal(secrets)
        await self._wait(self._waits.expire, "until all that was derived from the old key has expired")
        last = await self._reseal(secrets)
        numbers = {name: number + first.numbers.get(name, 0) for name, number in last.numbers.items()}
        if last.left:
            self._tell("the old master key stays known, since something may still need it; run this again later")
            return Resealed(numbers, last.left)
        newest = secret_id(secrets.sealing).hex()
        await self._record("master_key.changed", newest, sealed_anew=sum(numbers.values()))
        await asyncio.to_thread(write_secrets, path, Secrets(secrets.sealing))
        self._tell(f"{newest}: the only master key from now on")
        return Resealed(numbers, ())

    async def _reseal(self, secrets: Secrets) -> Resealed:
        master = MasterKey(*secrets.in_order)
        others = [secret_id(one) for one in secrets.in_order[1:]]
        numbers: dict[str, int] = {}
        left: list[str] = []
        for where in SEALED_COLUMNS:
            numbers[where.name] = sum([await self._reseal_column(where, master, secret, left) for secret in others])
            self._tell(f"{where.name}: {numbers[where.name]} sealed anew")
        folder = keys_folder(self._configuration)
        for path in (folder / name for name in SEALED_FILES):
            if path.exists():
                numbers[path.name] = await _tried(left, reseal_file, path, master, self._random)
        numbers[ROOT_FILE] = await self._reseal_root(Keystore(folder, master, self._random), left)
        return Resealed(numbers, tuple(left))

    async def _reseal_column(self, where: SealedColumn, master: MasterKey, secret: bytes, left: list[str]) -> int:
        done, after = 0, None
        while True:
            async with self._pool.transaction(EVERYWHERE) as transaction:  # all of the node's
                batch = await sealed_by(transaction, where, secret, after, _BATCH)
                for one in batch:
                    context = where.context(one.key)
                    try:
                        plain = open_sealed(master, one.sealed, context=context)
                    except Refused as refusal:
                        left.append(refusal.reason)
                        continue
                    anew = seal(master, plain, context=context, random=self._random)
                    await replace_sealed(transaction, where, one.key, anew)
                    done += 1
            if len(batch) < _BATCH:
                return done
            after = batch[-1].key

    async def _reseal_root(self, keystore: Keystore, left: list[str]) -> int:
        """Seal anew what lies in files of their own; each of them has to be here (rule 4)."""
        async with self._pool.transaction(EVERYWHERE) as transaction:  # roots belong to no tenant
            kept = await file_keys(transaction)
        for one in kept:
            try:
                await asyncio.to_thread(keystore.signer, one)
            except Refused as refusal:
                left.append(f"{refusal.reason}: bring it back for the change, and take it away again")
        return await _tried(left, keystore.reseal_roots)

    async def _wait(self, how_long: timedelta, why: str) -> None:
        self._tell(f"waiting {how_long.total_seconds():g} s, {why}")
        await asyncio.sleep(how_long.total_seconds())

    async def _record(self, kind: str, secret: str, **data: int) -> None:
        async with self._pool.transaction(EVERYWHERE) as transaction:  # the node itself acts, for no tenant
            system = await tenant_by_name(transaction, SYSTEM_TENANT)
            if system is None:
                raise Refused(Kind.UNAVAILABLE, "The node has not been started yet.")
            await transaction.record(Change(system.id, _NODE, kind, secret, dict(data)))

    @asynccontextmanager
    async def _alone(self) -> AsyncIterator[None]:
        async with self._pool.leadership(_LOCK) as is_held:
            if not await is_held():
                raise conflict("Another process changes the master key now.")
            yield


async def _tried(left: list[str], reseal: Callable[..., int], *arguments: object) -> int:
    """Seal files anew; return how many that were, and note in `left` why one could not be."""
    try:
        return int(await asyncio.to_thread(reseal, *arguments))
    except Refused as refusal:
        left.append(refusal.reason)
        return 0

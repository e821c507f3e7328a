"""`keys`: changing the master key of a running node, and seeing what it seals."""

import asyncio
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta

from doorward.addresses import read_addresses
from doorward.clock import utc_now
from doorward.commands.printing import print_json, print_lines
from doorward.config import Configuration
from doorward.database import Pool
from doorward.keys import random_bytes
from doorward.master_key import Secrets, place_of_master_key, read_secrets
from doorward.rotation import Resealed, Rotation, Waits
from iam.sealing import secret_id

_POOL_SIZE = 3


def rotate_master(configuration: Configuration, grace: float | None, *, as_json: bool) -> int:
    """Change the master key, or finish a change that was interrupted; 1 if the old key has to stay known."""
    waits = Waits() if grace is None else Waits(expire=timedelta(seconds=grace))
    return asyncio.run(_run(configuration, waits, as_json=as_json, only_reseal=False))


def reseal(configuration: Configuration, *, as_json: bool) -> int:
    """Seal anew what other known secrets sealed; 1 if one of them has to stay known."""
    return asyncio.run(_run(configuration, Waits(), as_json=as_json, only_reseal=True))


def show_sealed(configuration: Configuration, *, as_json: bool) -> int:
    """Print which secrets are known, and how much each of them sealed in the database."""
    secrets = read_secrets(configuration)
    counts = asyncio.run(_counts(configuration))
    known = {secret_id(one): role for one, role in _roles(secrets)}
    rows = [
        {"column": column, "masterKey": secret.hex(), "role": known.get(secret, "unknown"), "number": number}
        for column, numbers in counts.items()
        for secret, number in sorted(numbers.items())
    ]
    if as_json:
        print_json({"from": place_of_master_key(configuration), "known": _named(known), "sealed": rows})
        return 0
    print_lines(f"master key from {place_of_master_key(configuration)}")
    print_lines(*(f"  {secret.hex()}  {role}" for secret, role in known.items()))
    print_lines(*(f"{row['column']}: {row['number']} by {row['masterKey']} ({row['role']})" for row in rows))
    return 0


async def _run(configuration: Configuration, waits: Waits, *, as_json: bool, only_reseal: bool) -> int:
    async with _pool(configuration) as pool:
        tell = _silence if as_json else _tell
        rotation = Rotation(configuration, pool, random_bytes, tell, waits)
        done = await (rotation.reseal() if only_reseal else rotation.rotate())
    if as_json:
        print_json({"sealedAnew": done.numbers, "left": done.left})
    else:
        print_lines(*_summary(done))
    return 1 if done.left else 0


def _summary(done: Resealed) -> list[str]:
    if done.left:
        return [*(f"still needed: {reason}" for reason in done.left), "The old master key is still needed."]
    return [f"{sum(done.numbers.values())} values were sealed anew; nothing needs an old master key any more."]


async def _counts(configuration: Configuration) -> dict[str, dict[bytes, int]]:
    async with _pool(configuration) as pool:
        return await Rotation(configuration, pool, random_bytes, _silence, Waits()).counts()


def _roles(secrets: Secrets) -> list[tuple[bytes, str]]:
    coming = [(secrets.next, "next")] if secrets.next is not None else []
    return [(secrets.sealing, "seals"), *coming, *((one, "old") for one in secrets.old)]


def _named(known: dict[bytes, str]) -> dict[str, str]:
    return {secret.hex(): role for secret, role in known.items()}


def _tell(line: str) -> None:
    print_lines(line)
    sys.stdout.flush()  # progress is of use at once, also through a pipe


def _silence(_: str) -> None:
    """Tell nobody."""


@asynccontextmanager
async def _pool(configuration: Configuration) -> AsyncIterator[Pool]:
    pool = await Pool.connect(read_addresses(configuration).database, utc_now, random_bytes, size=_POOL_SIZE)
    try:
        yield pool
    finally:
        await pool.close()

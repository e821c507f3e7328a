"""The keys that sign and verify tokens, as every worker holds them; `iam.keyset` says when which key does what.

A new key is published an hour before it signs. So a worker that reads the set every minute, and again when it meets a
`kid` that it does not know, always knows the key of a genuine token. How long ago that was is told by `Moment`.
"""

import logging
import time
from dataclasses import dataclass
from datetime import timedelta
from typing import Any
from uuid import UUID

from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePublicKey

from iam import keyset
from iam.directory import Moment, Monotonic
from iam.errors import Refused
from iam.identifiers import Clock, Random
from iam.sealing import MasterKey
from iam.store import token_keys
from iam.store.database import EVERYWHERE, Change, Database
from iam.tokens import TokenSigningKey

PUBLISHED_BEFORE = timedelta(hours=1)
_READ_AGAIN = timedelta(minutes=1)
_READ_AGAIN_FOR_UNKNOWN = timedelta(seconds=1)

_log = logging.getLogger("doorward.keyring")


@dataclass(frozen=True, slots=True)
class _Held:
    keys: tuple[keyset.TokenKey, ...]
    verifying: dict[str, EllipticCurvePublicKey]
    read: Moment


class KeyRing:
    """Reads the keys, opens the one that signs, and rotates them."""

    def __init__(
        self,
        database: Database,
        master_key: MasterKey,
        clock: Clock,
        random: Random,
        *,
        rotate_every: timedelta,
        longest_token: timedelta,
        monotonic: Monotonic = time.monotonic,
    ) -> None:
        self._database = database
        self._master_key = master_key
        self._clock = clock
        self._monotonic = monotonic
        self._random = random
        self._rotate_every = rotate_every
        self._longest_token = longest_token
        self._held: _Held | None = None
        self._opened: dict[str, TokenSigningKey] = {}

    async def signing_key(self) -> TokenSigningKey:
        """Return the key that signs now; raise `Refused` (unavailable) if there is none."""
        held = await self._fresh(_READ_AGAIN)
        key = keyset.signing_key(held.keys, self._clock(), longest_token=self._longest_token)
        return self._opened[key.kid]

    async def verifying_keys(self, *, read_again: bool = False) -> dict[str, EllipticCurvePublicKey]:
        """Return the keys that verify now; read anew, at most once a second, if the caller met one unknown."""
        return (await self._fresh(_READ_AGAIN_FOR_UNKNOWN if read_again else _READ_AGAIN)).verifying

    async def jwks(self) -> dict[str, Any]:
        """Return the JSON Web Key Set (RFC 7517 5)."""
        held = await self._fresh(_READ_AGAIN)
        return keyset.jwks(held.keys, self._clock())

    async def rotate(self, system: UUID) -> None:
        """Do what is due to the set now: a job of one node, and right if two do it at once."""
        now = self._clock()
        async with self._database.transaction(EVERYWHERE) as transaction:
            await token_keys.lock_token_keys(transaction)
            plan = keyset.plan_rotation(
                await token_keys.all_token_keys(transaction),
                now,
                every=self._rotate_every,
                overlap=PUBLISHED_BEFORE,
                longest_token=self._longest_token,
            )
            if plan.create is not None:
                key = keyset.make_key(self._master_key, plan.create, now=now, random=self._random)
                await token_keys.insert_token_key(transaction, key)
                await transaction.record(Change(system, "doorward", "token_key.created", key.kid))
            if plan.retire:
                await token_keys.delete_token_keys(transaction, plan.retire)
                for kid in plan.retire:
                    await transaction.record(Change(system, "doorward", "token_key.retired", kid))
        self._held = None

    async def _fresh(self, age: timedelta) -> _Held:
        now = Moment(self._clock(), self._monotonic())
        if self._held is None or self._held.read.age_at(now) > age:
            # Everywhere: the keys belong to no tenant.
            async with self._database.transaction(EVERYWHERE) as transaction:
                keys = tuple(await token_keys.all_token_keys(transaction))
            genuine = tuple(key for key in keys if self._is_genuine(key))
            self._held = _Held(genuine, keyset.verifying_keys(genuine, now.clock), now)
        return self._held

    def _is_genuine(self, key: keyset.TokenKey) -> bool:
        """Tell whether we sealed this key: a row that somebody else wrote must not verify tokens."""
        if key.kid not in self._opened:
            try:
                self._opened[key.kid] = keyset.open_key(self._master_key, key)
            except Refused as refusal:
                _log.error("the token key %s is left out: %s", key.kid, refusal.reason)
                return False
        return keyset.thumbprint(key.public_jwk) == key.kid

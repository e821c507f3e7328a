"""Enrolment secrets as operators see them: making, listing and withdrawing them.

The rules:

1. A secret is shown once, by the answer that made it. What was chosen is not shown at all.
2. Whoever makes one for a device reaches that device by his grants for `est.secrets`; for any device that the label's
   pattern covers, he reaches all. He sees and withdraws no others.
3. It is good once unless its maker says more, and for `DEFAULT_LIFE` unless he says otherwise; never for ever.
4. A chosen secret keeps the rules of passwords.
"""

import secrets
from dataclasses import dataclass
from datetime import timedelta
from hashlib import sha256
from typing import Final
from uuid import UUID

from est.administration import found_profile
from est.store.secrets import (
    EnrolmentSecret,
    insert_secret,
    page_of_secrets,
    purge_secrets,
    revoke_secret,
    secret_by_id,
)
from iam.access import Access, visible_devices
from iam.errors import forbidden, malformed, not_found
from iam.identifiers import Clock, Random, uuid7
from iam.listing import ListQuery
from iam.model import Extent, Tenant
from iam.paging import Page
from iam.passwords import PasswordHasher, check_password_policy
from iam.permissions import Action, Resource
from iam.store.database import EVERYWHERE, Change, Database, Transaction

DEFAULT_LIFE: Final = timedelta(days=30)
LONGEST_LIFE: Final = timedelta(days=5 * 366)
KEPT_AFTER: Final = timedelta(days=30)
"""For how long what is over is still listed."""

_PREFIX: Final = "des_"
_BYTES: Final = 32


@dataclass(frozen=True, slots=True)
class NewSecret:
    """A secret to make.

    Attributes:
        username: What it goes with in HTTP Basic.
        chosen: What it shall be; made here if not said.
    """

    username: str
    device: str | None
    uses_allowed: int | None
    life: timedelta
    description: str
    chosen: str | None


@dataclass(frozen=True, slots=True)
class MadeSecret:
    """A new secret, and what it is where it was made here."""

    secret: EnrolmentSecret
    shown: str | None


class SecretService:
    """Enrolment secrets."""

    def __init__(self, database: Database, passwords: PasswordHasher, clock: Clock, random: Random) -> None:
        self._database = database
        self._passwords = passwords
        self._clock = clock
        self._random = random

    async def create(self, access: Access, tenant: Tenant, label: str, wanted: NewSecret) -> MadeSecret:
        """Make a secret.

        Raises:
            Refused: (malformed) It lasts too long, or the chosen one is no good. (conflict) Its name has a chosen one
                already. (not found) The label or the device. (forbidden) It would be for any device.
        """
        _check_reach(access, wanted.device)
        if not timedelta(0) < wanted.life <= LONGEST_LIFE:
            raise malformed(f"A secret lasts at most {LONGEST_LIFE.days} days, and at least a second.")
        shown = None if wanted.chosen is not None else _PREFIX + secrets.token_urlsafe(_BYTES)
        hashed = None
        if wanted.chosen is not None:
            check_password_policy(wanted.chosen, name=wanted.username)
            hashed = await self._passwords.hash(wanted.chosen)
        now = self._clock()
        async with self._database.transaction(tenant.id) as transaction:
            profile = await found_profile(transaction, tenant, label)
            secret = EnrolmentSecret(
                id=uuid7(now, self._random),
                tenant=tenant.id,
                profile=profile.id,
                username=wanted.username,
                device=wanted.device,
                is_chosen=hashed is not None,
                description=wanted.description,
                uses=0,
                uses_allowed=wanted.uses_allowed,
                created=now,
                created_by=access.identity.id,
                expires=now + wanted.life,
                revoked=None,
                last_used=None,
            )
            digest = None if shown is None else sha256(shown.encode()).digest()
            await insert_secret(transaction, secret, secret_sha256=digest, password_hash=hashed)
            await transaction.record(_change(access, tenant, label, secret, "created"))
        return MadeSecret(secret, shown)

    async def page(self, access: Access, tenant: Tenant, label: str, query: ListQuery) -> Page[EnrolmentSecret]:
        """Return a page of a label's secrets that the caller reaches."""
        async with self._database.transaction(tenant.id) as transaction:
            profile = await found_profile(transaction, tenant, label)
            return await page_of_secrets(transaction, profile.id, query, _reached(access, Action.READ))

    async def get(self, access: Access, tenant: Tenant, label: str, identifier: UUID) -> EnrolmentSecret:
        """Return a secret; raise `Refused` (not found)."""
        async with self._database.transaction(tenant.id) as transaction:
            return await self._found(transaction, access, Action.READ, tenant, label, identifier)

    async def withdraw(self, access: Access, tenant: Tenant, label: str, identifier: UUID) -> None:
        """Let a secret enrol nothing more, at once; raise `Refused` (not found)."""
        async with self._database.transaction(tenant.id) as transaction:
            found = await self._found(transaction, access, Action.DELETE, tenant, label, identifier)
            if not await revoke_secret(transaction, found.profile, identifier):
                raise not_found("such secret")
            await transaction.record(_change(access, tenant, label, found, "withdrawn"))

    async def purge(self) -> int:
        """Forget secrets that have been over for long: a job of one node."""
        async with self._database.transaction(EVERYWHERE) as transaction:
            return await purge_secrets(transaction, transaction.now - KEPT_AFTER)

    async def _found(
        self, transaction: Transaction, access: Access, action: Action, tenant: Tenant, label: str, identifier: UUID
    ) -> EnrolmentSecret:
        profile = await found_profile(transaction, tenant, label)
        found = await secret_by_id(transaction, profile.id, identifier)
        reached = _reached(access, action)
        if found is None or not (reached.everything if found.device is None else found.device in reached):
            raise not_found("such secret")
        return found


def _reached(access: Access, action: Action) -> Extent:
    return visible_devices(access, action, Resource.EST_SECRETS)


def _check_reach(access: Access, device: str | None) -> None:
    reached = _reached(access, Action.CREATE)
    if device is None and not reached.everything:
        raise forbidden("A secret for any device is made by who reaches all devices: bind it to one.")
    if device is not None and device not in reached:
        raise not_found(f"device {device}")


def _change(access: Access, tenant: Tenant, label: str, secret: EnrolmentSecret, what: str) -> Change:
    data = {"label": label, "device": secret.device, "uses_allowed": secret.uses_allowed, "until": secret.expires}
    return Change(tenant.id, access.identity.id, f"enrolment_secret.{what}", str(secret.id), data)

"""Gateways by the hundred: identities with tokens, and devices in their scope, for the benchmarks of the brokers.

They are made in the node's database through its own services, as an administrator's requests would, save that nobody
signs anything: what a challenge costs is not measured here.
"""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import TypeVar

from doorward.app import App
from doorward.clock import utc_now
from doorward.commands.login import ApiClient
from doorward.keys import random_bytes
from iam.access import Access
from iam.model import Extent, Identity, IdentityStatus, IdentityType, Scope
from iam.service.foundation import root_identity
from iam.service.identities import IdentityService
from iam.service.tenancy import TenancyService

TENANT = "bench"
ROLE = "gateway"
DEVICES_EACH = 4

_GROUP = f"/api/v1/iam/groups/{TENANT}"
_TOPICS = (
    {"action": "subscribe", "topic": "${tenant}/devices/${device}/#"},
    {"action": "publish", "topic": "${tenant}/devices/${device}/commands/#"},
)
_TOKEN_LIFETIME = timedelta(hours=1)
_AT_ONCE = 8

_Given = TypeVar("_Given")
_Made = TypeVar("_Made")


@dataclass(frozen=True)
class Gateway:
    """An identity and one of its tokens."""

    identity: str
    token: str


async def make_gateways(app: App, api: ApiClient, count: int) -> list[Identity]:
    """Make a tenant with a role, and gateways that reach a few devices each."""
    await asyncio.to_thread(api.request, "POST", "/api/v1/iam/groups", {"name": TENANT})
    await asyncio.to_thread(api.request, "POST", f"{_GROUP}/roles", {"name": ROLE, "topics": _TOPICS})
    root = await app.directory.access((await root_identity(app.pool, app.system.id)).id)
    tenant = await TenancyService(app.pool, utc_now, random_bytes).find(TENANT)
    people = IdentityService(app.pool, app.passwords, utc_now, random_bytes)
    assert isinstance(root, Access)  # noqa: S101 - root may always do everything
    assert tenant is not None  # noqa: S101 - it was made above

    async def make(number: int) -> Identity:
        reach = Scope(devices=Extent(names=frozenset(f"meter-{number}-{which}" for which in range(DEVICES_EACH))))
        creation = people.creation(
            root, tenant, ROLE, f"gateway-{number}", IdentityType.GATEWAY, reach, status=IdentityStatus.ACTIVE
        )
        async with creation as (_, identity):
            return identity

    return await _each(range(count), make)


async def give_tokens(app: App, identities: Sequence[Identity]) -> list[Gateway]:
    """Give each identity a new token."""

    async def give(identity: Identity) -> Gateway:
        access = await app.directory.access(identity.id)
        assert isinstance(access, Access)  # noqa: S101 - it was made active
        issued = await app.login.start_session(access, ("pop",), lifetime=_TOKEN_LIFETIME)
        return Gateway(identity.id, issued.token)

    return await _each(identities, give)


def touch_role(api: ApiClient) -> None:
    """Write their role anew: what every worker remembers of its holders is dropped."""
    api.request("PUT", f"{_GROUP}/roles/{ROLE}", {"topics": _TOPICS})


async def _each(given: Sequence[_Given], work: Callable[[_Given], Awaitable[_Made]]) -> list[_Made]:
    """Do some work for each, a few at once; in the order given."""
    limit = asyncio.Semaphore(_AT_ONCE)

    async def limited(one: _Given) -> _Made:
        async with limit:
            return await work(one)

    return await asyncio.gather(*map(limited, given))

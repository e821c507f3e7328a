"""A worker's API on a real socket, over a fresh database; brokers are not part of these tests."""

import os
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any

import aiohttp
import pytest
import trustme
from aiohttp.test_utils import TestServer

from doorward.addresses import Addresses
from doorward.app import App, build
from doorward.config import Configuration, DatabaseSection, NatsSection, NodeSection
from iam.access import Access
from iam.service.foundation import root_identity
from iam.store import identities
from iam.store.database import EVERYWHERE
from tests.conftest import DatabaseUrls, TurnableClock

PASSWORD = "a long walk by the sea 7"


@dataclass
class Answer:
    """What came back."""

    status: int
    body: Any
    headers: dict[str, str] = field(default_factory=dict)


class Api:
    """The API as a client sees it, and shortcuts to the states that tests start from."""

    def __init__(self, app: App, session: aiohttp.ClientSession, clock: TurnableClock) -> None:
        self.app = app
        self.clock = clock
        self._session = session

    async def call(
        self,
        method: str,
        path: str,
        body: Any = None,
        *,
        token: str | None = None,
        headers: dict[str, str] | None = None,
    ) -> Answer:
        sent = dict(headers or {})
        if token is not None:
            sent["Authorization"] = f"Bearer {token}"
        data = (
            {"data": body}
            if isinstance(body, (bytes, str, AsyncIterator))
            else {"json": body}
            if body is not None
            else {}
        )
        async with self._session.request(method, path, headers=sent, **data) as answer:
            content = await answer.read()
            is_json = "json" in answer.content_type
            found = await answer.json(content_type=None) if content and is_json else content
            return Answer(answer.status, found, dict(answer.headers))

    async def root_access(self) -> Access:
        root = await root_identity(self.app.pool, self.app.system.id)
        access = await self.app.directory.access(root.id)
        assert isinstance(access, Access)
        return access

    async def root_token(self) -> str:
        issued = await self.app.login.start_session(await self.root_access(), ("test",), lifetime=timedelta(minutes=15))
        return issued.token

    async def tenant(self, name: str, *, token: str | None = None, below: str = "system") -> str:
        answer = await self.call(
            "POST", f"/api/v1/iam/groups?tenant={below}", {"name": name}, token=token or await self.root_token()
        )
        assert answer.status == 201, answer.body
        return name

    async def role(self, tenant: str, name: str, *permissions: tuple[str, str], **fields: Any) -> str:
        wanted = [{"resource": resource, "actions": actions.split()} for resource, actions in permissions]
        answer = await self.call(
            "POST",
            f"/api/v1/iam/groups/{tenant}/roles",
            {"name": name, "permissions": wanted, **fields},
            token=await self.root_token(),
        )
        assert answer.status == 201, answer.body
        return name

    async def invite(self, tenant: str, role: str, name: str, **fields: Any) -> dict[str, Any]:
        answer = await self.call(
            "POST",
            f"/api/v1/iam/groups/{tenant}/roles/{role}/users",
            {"name": name, **fields},
            token=await self.root_token(),
        )
        assert answer.status == 201, answer.body
        found: dict[str, Any] = answer.body
        return found

    async def person(self, tenant: str, role: str, name: str, **fields: Any) -> str:
        """Invite somebody, let him be active without the cost of a password, and return a token of his."""
        invited = await self.invite(tenant, role, name, **fields)
        async with self.app.pool.transaction(EVERYWHERE) as transaction:
            await identities.activate(transaction, invited["id"])
        self.app.directory.clear()
        access = await self.app.directory.access(invited["id"])
        assert isinstance(access, Access)
        return (await self.app.login.start_session(access, ("test",))).token


@pytest.fixture
async def api(database_urls: DatabaseUrls, clock: TurnableClock, tmp_path: Path) -> AsyncIterator[Api]:
    """A worker's API."""
    configuration = Configuration(
        node=NodeSection(data=tmp_path),
        database=DatabaseSection(url=database_urls.node, owner_url=database_urls.owner, pool_size=10),
        nats=NatsSection(),
    )
    (tmp_path / "ca").mkdir()
    trustme.CA().cert_pem.write_to_path(str(tmp_path / "ca" / "root.pem"))
    addresses = Addresses(database_urls.node, database_urls.owner, ("tls://127.0.0.1:1",), *["none"] * 6)
    app = await build(configuration, addresses, clock, os.urandom)
    server = TestServer(app.guard.application([*app.api_routes, *app.est_routes]))
    await server.start_server()
    async with aiohttp.ClientSession(base_url=server.make_url("/")) as session:
        yield Api(app, session, clock)
    await server.close()
    app.passwords.close()
    await app.pool.close()

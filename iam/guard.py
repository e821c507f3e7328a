"""How a request meets the decision: routes, and who is asking.

The rules:

1. A route declares what it needs where it is declared: a permission, any signed-in identity, or nothing, with the
   reason. There is no default.
2. A request is authenticated, then the tenant it speaks of is found (from the path, from `?tenant=`, or the caller's
   own), then the permission is decided, and only then its body is read. What is not the caller's is 404.
3. A body (`iam.bodies`) takes time: when it is there, rule 2 is applied once more, since the caller may have lost his
   right meanwhile.
4. Whatever is raised becomes one response (`iam.responses`).
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, get_origin

from aiohttp import HttpVersion10, HttpVersion11, web
from pydantic import BaseModel

from iam.access import Authenticated, Denied, decide
from iam.bodies import RawBody, StreamBody, check_type_and_length, next_part, parsed, read_body, too_large
from iam.errors import Kind, Refused, forbidden, malformed, not_found, unauthenticated
from iam.identifiers import tenant_name
from iam.model import Tenant
from iam.permissions import Action, Resource
from iam.responses import Answer, Speech, render, respond_to
from iam.schema import NoQuery, SnakeModel

JUDGED_EVERY_SECONDS = 1.0
"""While a body is taken as it comes."""

_TENANT_PARAMETER = "tenant"
_VERSIONS = (HttpVersion10, HttpVersion11)


@dataclass(frozen=True, slots=True)
class Needs:
    """The caller needs this permission in the tenant that the request speaks of."""

    action: Action
    resource: Resource


@dataclass(frozen=True, slots=True)
class SignedIn:
    """Any identity with a valid token may call; what it sees is its own."""

    because: str


@dataclass(frozen=True, slots=True)
class Public:
    """Nobody needs to sign in, because..."""

    because: str


Need = Needs | SignedIn | Public


@dataclass(frozen=True, slots=True)
class Call:
    """A request that has passed the guard.

    Attributes:
        tenant: The tenant it speaks of; None where the route is public.
        caller: Who asks; None where the route is public.
        path: The variables of the path.
        body: The checked body: an instance of the route's model, bytes, or None.
        peer_chain: The client certificates of the TLS connection in DER, leaf first; not judged yet.
        channel_binding: What only the two ends of the TLS connection know; None where it does not end here.
    """

    request: web.Request
    path: Mapping[str, str]
    query: Any
    body: Any
    authenticated: Authenticated | None
    target: Tenant | None

    @property
    def caller(self) -> Authenticated:
        """Who asks. A route that is not public always has one."""
        if self.authenticated is None:
            raise unauthenticated("the route is public and has no caller")
        return self.authenticated

    @property
    def tenant(self) -> Tenant:
        """The tenant that the request speaks of."""
        if self.target is None:
            raise unauthenticated("the route is public and has no tenant")
        return self.target

    @property
    def address(self) -> str:
        """The address of the peer, for throttling and the log."""
        return self.request.remote or "unknown"

    @property
    def peer_chain(self) -> Sequence[bytes]:
        """What the client presented in the TLS handshake, in DER, leaf first."""
        transport = self.request.transport
        chain: Sequence[bytes] = transport.get_extra_info("peer_chain", ()) if transport else ()
        return chain

    @property
    def channel_binding(self) -> bytes | None:
        """What only the two ends of this TLS connection know (RFC 5929 3, RFC 9266); None without TLS of ours."""
        transport = self.request.transport
        binding: bytes | None = transport.get_extra_info("channel_binding") if transport else None
        return binding or None

    def permits(self, action: Action, resource: Resource, *, device: str | None = None) -> bool:
        """Tell whether the caller may also do this, in the same tenant."""
        return not isinstance(decide(self.caller.access, action, resource, tenant=self.tenant, device=device), Denied)

    def require_device(self, action: Action, resource: Resource, device: str) -> None:
        """Raise `Refused` (not found) unless the caller's grants reach this device: others' are not his to know of."""
        if not self.permits(action, resource, device=device):
            raise not_found(f"device {device}")


Handler = Callable[[Call], Awaitable[Answer]]


@dataclass(frozen=True, slots=True)
class Route:
    """One operation: where it is, what it needs, what it takes and gives. OpenAPI is made from the same value."""

    method: str
    path: str
    handler: Handler
    need: Need
    summary: str
    tag: str
    body: type[SnakeModel] | RawBody | None = None
    query: type[SnakeModel] = NoQuery
    answers: type[BaseModel] | str | None = None
    status: int = 200
    speaks: Speech = Speech.PROBLEM


class Gate(Protocol):
    """What the guard asks of the rest of `iam`."""

    async def authenticate(self, authorization: str) -> Authenticated:
        """Return who presents this Authorization header; raise `Refused` (unauthenticated)."""

    async def find_tenant(self, name: str) -> Tenant | None:
        """Return the tenant of that name."""


class Guard:
    """Turns routes into aiohttp handlers."""

    def __init__(self, gate: Gate) -> None:
        self._gate = gate

    def application(self, routes: Sequence[Route]) -> web.Application:
        """Return the application that serves `routes` and nothing else."""
        application = web.Application(middlewares=[_explain_router_errors], client_max_size=0)
        for route in routes:
            handler = self._handler(route)
            application.router.add_route(route.method, route.path, handler)
            if route.method == "GET":
                application.router.add_route("HEAD", route.path, handler)
        return application

    def _handler(self, route: Route) -> Callable[[web.Request], Awaitable[web.StreamResponse]]:
        async def handle(request: web.Request) -> web.StreamResponse:
            try:
                return render(await route.handler(await self._admit(route, request)))
            except (asyncio.CancelledError, ConnectionError):
                raise  # the client is gone: there is nobody to answer
            except Exception as error:  # noqa: BLE001 - the one place where errors become responses
                return respond_to(error, request, route.speaks)

        return handle

    async def _admit(self, route: Route, request: web.Request) -> Call:
        authenticated, target = await self._judge(route, request)
        query = parsed(route.query, _query_values(route, request, is_about_tenant=target is not None))
        body: Any
        if isinstance(route.body, StreamBody):
            check_type_and_length(route.body, request)
            body = self._parts(route, route.body, request)
        else:
            body = await read_body(route.body, request)
            if body is not None:
                authenticated, target = await self._judge(route, request)
        return Call(
            request=request,
            path=dict(request.match_info),
            query=query,
            body=body,
            authenticated=authenticated,
            target=target,
        )

    async def _parts(self, route: Route, body: StreamBody, request: web.Request) -> AsyncIterator[bytes]:
        """Give the parts of a body as they come; each is there only if the caller may still do what he does."""
        loop = asyncio.get_running_loop()
        deadline = loop.time() + body.deadline
        judged, size = loop.time(), 0
        while part := await next_part(request, deadline, body.deadline):
            size += len(part)
            if size > body.limit:
                raise too_large(body.limit)
            if loop.time() - judged > JUDGED_EVERY_SECONDS:
                await self._judge(route, request)
                judged = loop.time()
            yield part

    async def _judge(self, route: Route, request: web.Request) -> tuple[Authenticated | None, Tenant | None]:
        """Return who asks and about which tenant, if the route needs to know; refuse who may not (rule 2)."""
        if isinstance(route.need, Public):
            return None, None
        authenticated = await self._gate.authenticate(request.headers.get("Authorization", ""))
        target = await self._target(authenticated, request)
        if isinstance(route.need, Needs):
            decision = decide(authenticated.access, route.need.action, route.need.resource, tenant=target)
            if isinstance(decision, Denied):
                raise forbidden(
                    f"This needs {route.need.action} on {route.need.resource}.",
                    reason=f"{authenticated.access.identity.id}: {decision.reason}",
                )
        return authenticated, target

    async def _target(self, authenticated: Authenticated, request: web.Request) -> Tenant:
        own = authenticated.access.tenant
        if len(request.query.getall(_TENANT_PARAMETER, ())) > 1:
            raise malformed("The query says tenant more than once.")
        named = request.match_info.get("groupName") or request.query.get(_TENANT_PARAMETER)
        if named is None or named == own.name:
            return own
        tenant = await self._gate.find_tenant(tenant_name(named))
        if tenant is None or not tenant.is_within(own):
            raise not_found(f"group {named}")
        return tenant


def _query_values(route: Route, request: web.Request, *, is_about_tenant: bool) -> dict[str, Any]:
    """Return the parameters of the query: lists where the route's model takes a list, and no other one twice."""
    if not request.query_string:
        return {}
    lists = {one.alias or name for name, one in route.query.model_fields.items() if get_origin(one.annotation) is list}
    values: dict[str, Any] = {}
    for name in request.query:
        if name == _TENANT_PARAMETER and is_about_tenant:
            continue
        said = request.query.getall(name)
        if name not in lists and len(said) > 1:
            raise malformed(f"The query says {name[:64]} more than once.")
        values[name] = said if name in lists else said[0]
    return values


@web.middleware
async def _explain_router_errors(
    request: web.Request, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]
) -> web.StreamResponse:
    """Say what aiohttp's own router refuses in the same words as everything else; refuse versions it should have."""
    speech = Speech.PLAIN if request.path.startswith("/.well-known/est") else Speech.PROBLEM
    if request.version not in _VERSIONS:  # HTTP/0.9 has no headers, and HTTP/2 is not text (RFC 9113 3.3)
        return respond_to(malformed("Speak HTTP/1.1 here."), request, speech)
    try:
        return await handler(request)
    except web.HTTPMethodNotAllowed as error:
        allowed = ", ".join(sorted(error.allowed_methods))
        response = respond_to(Refused(Kind.METHOD, f"Use {allowed} here."), request, speech)
        response.headers["Allow"] = allowed
        return response
    except web.HTTPNotFound:
        return respond_to(not_found("such resource"), request, speech)

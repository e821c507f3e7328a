"""How a request meets the decision: routes, who is asking, and the one table from errors to responses.

The rules:

1. A route declares what it needs where it is declared: a permission, any signed-in identity, or nothing, with the
   reason. There is no default.
2. A request is authenticated, then the tenant it speaks of is found (from the path, from `?tenant=`, or the caller's
   own), then the permission is decided, and only then its body is read. What is not the caller's is 404.
3. A body has a type, a size, a depth and a deadline; unknown fields and control characters are refused. A body takes
   time: when it is there, rule 2 is applied once more, since the caller may have lost his right meanwhile.
4. Each error becomes one response here: `application/problem+json` (RFC 9457), or `text/plain` where the protocol asks
   for it. What is not in the table is an opaque 500 whose id is in the log.
"""

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum
from io import BytesIO
from typing import Any, Protocol, TypeVar, get_origin
from uuid import uuid4

import orjson
from aiohttp import HttpVersion10, HttpVersion11, web
from pydantic import BaseModel, ValidationError

from certs.errors import CertificateRefused, RefusalKind
from iam.access import Authenticated, Denied, decide
from iam.errors import Kind, Refused, forbidden, malformed, not_found, unauthenticated
from iam.identifiers import tenant_name
from iam.model import Tenant
from iam.permissions import Action, Resource
from iam.schema import NoQuery, SnakeModel, check_plain

_log = logging.getLogger("doorward.http")

STATUS: dict[Kind, int] = {
    Kind.MALFORMED: 400,
    Kind.INVALID: 422,
    Kind.UNAUTHENTICATED: 401,
    Kind.FORBIDDEN: 403,
    Kind.NOT_FOUND: 404,
    Kind.METHOD: 405,
    Kind.CONFLICT: 409,
    Kind.TIMEOUT: 408,
    Kind.TOO_LARGE: 413,
    Kind.MEDIA_TYPE: 415,
    Kind.THROTTLED: 429,
    Kind.UNSUPPORTED: 501,
    Kind.UNAVAILABLE: 503,
}

_TITLE: dict[Kind, str] = {
    Kind.MALFORMED: "The request cannot be read",
    Kind.INVALID: "The request is not allowed by the rules",
    Kind.UNAUTHENTICATED: "Authentication is needed",
    Kind.FORBIDDEN: "Not permitted",
    Kind.NOT_FOUND: "Not found",
    Kind.METHOD: "Method not allowed",
    Kind.CONFLICT: "In conflict with the present state",
    Kind.TIMEOUT: "The request did not arrive in time",
    Kind.TOO_LARGE: "The body is too large",
    Kind.MEDIA_TYPE: "The body's type is not taken here",
    Kind.THROTTLED: "Too many attempts",
    Kind.UNSUPPORTED: "Not supported",
    Kind.UNAVAILABLE: "Not available now",
}

_OF_CERTIFICATE: dict[RefusalKind, Kind] = {
    RefusalKind.MALFORMED: Kind.MALFORMED,
    RefusalKind.SIGNATURE: Kind.MALFORMED,
    RefusalKind.POLICY: Kind.MALFORMED,
}
"""What a certificate or request is refused for; everything else about a presented certificate is 403."""

BODY_DEADLINE_SECONDS = 15.0
JUDGED_EVERY_SECONDS = 1.0
"""While a body is taken as it comes."""

JSON_LIMIT_BYTES = 256 * 1024
_TENANT_PARAMETER = "tenant"
_PIECE_BYTES = 65_536

JSON = "application/json"

_VERSIONS = (HttpVersion10, HttpVersion11)

_M = TypeVar("_M", bound=SnakeModel)


class Speech(Enum):
    """What an error looks like to the clients of a route."""

    PROBLEM = "application/problem+json"
    PLAIN = "text/plain"


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
class RawBody:
    """A body that is not JSON: its media types (empty: any) and its largest size in bytes."""

    media_types: tuple[str, ...]
    limit: int


@dataclass(frozen=True, slots=True)
class StreamBody(RawBody):
    """The same, taken in parts as they come: the handler gets an asynchronous iterator of bytes.

    Attributes:
        deadline: Seconds until it must have come.
    """

    deadline: float


@dataclass(frozen=True, slots=True)
class Answer:
    """What a handler gives back: a JSON value, raw bytes, or nothing.

    Attributes:
        content: A pydantic model, a JSON-able value, bytes (with a Content-Type in `headers`), or None for no body.
    """

    status: int = 200
    content: Any = None
    headers: Mapping[str, str] = field(default_factory=dict)


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
        query = _parsed(route.query, _query_values(route, request, is_about_tenant=target is not None))
        body: Any
        if isinstance(route.body, StreamBody):
            _check_type_and_length(route.body, request)
            body = self._parts(route, route.body, request)
        else:
            body = await _read_body(route, request)
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
        while part := await _next_part(request, deadline, body.deadline):
            size += len(part)
            if size > body.limit:
                raise _too_large(body.limit)
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


async def _read_body(route: Route, request: web.Request) -> Any:  # noqa: ANN401 - the route's own model
    if route.body is None:
        return None
    raw_body = route.body if isinstance(route.body, RawBody) else RawBody((JSON,), JSON_LIMIT_BYTES)
    _check_type_and_length(raw_body, request)
    content = await _read_within(request, raw_body.limit)
    if isinstance(route.body, RawBody):
        return content
    try:
        raw = orjson.loads(content)
    except orjson.JSONDecodeError as error:
        raise malformed("The body is not JSON.") from error
    return _parsed(route.body, raw)


def _check_type_and_length(body: RawBody, request: web.Request) -> None:
    if body.media_types and request.content_type not in body.media_types:
        raise Refused(Kind.MEDIA_TYPE, f"Send this as {' or '.join(body.media_types)}.")
    if request.content_length is not None and request.content_length > body.limit:
        raise _too_large(body.limit)


def _too_large(limit: int) -> Refused:
    return Refused(Kind.TOO_LARGE, f"A body here has at most {limit} bytes.")


async def _read_within(request: web.Request, limit: int) -> bytes:
    """Read the whole body, up to `limit` bytes and `BODY_DEADLINE_SECONDS`."""
    if request.content.is_eof() and request.content.exception() is None:  # it came whole with its headers
        content = request.content.read_nowait()
        if len(content) > limit:
            raise _too_large(limit)
        return content
    deadline = asyncio.get_running_loop().time() + BODY_DEADLINE_SECONDS
    parts: list[bytes] = []
    size = 0
    while part := await _next_part(request, deadline, BODY_DEADLINE_SECONDS):
        size += len(part)
        if size > limit:
            raise _too_large(limit)
        parts.append(part)
    return b"".join(parts)


async def _next_part(request: web.Request, deadline: float, seconds: float) -> bytes:
    """Return what came of the body, empty at its end, by `deadline` on the loop's clock; `seconds` is what it was."""
    try:
        async with asyncio.timeout_at(deadline):
            return await request.content.readany()
    except TimeoutError as error:
        raise Refused(Kind.TIMEOUT, f"The body did not arrive within {seconds:.0f} s.") from error
    except web.PayloadAccessError as error:
        raise malformed("The body ended early.") from error


def _parsed(model: type[_M], raw: Any) -> _M:  # noqa: ANN401 - whatever came
    check_plain(raw)
    try:
        return model.model_validate(raw)
    except ValidationError as error:
        fields = {".".join(str(part) for part in one["loc"]) or "body": one["msg"] for one in error.errors()}
        raise Refused(Kind.MALFORMED, "Some fields are wrong.", fields=fields) from error


def render(answer: Answer) -> web.Response:
    """Return the response that says `answer`."""
    headers = {"Cache-Control": "no-store", **answer.headers}
    if answer.content is None:
        return web.Response(status=answer.status, headers=headers)
    if isinstance(answer.content, bytes):
        # What is long is sent in pieces, each as soon as the client has taken those before it, and never copied whole.
        body = answer.content if len(answer.content) <= _PIECE_BYTES else BytesIO(answer.content)
        return web.Response(status=answer.status, body=body, headers=headers)
    content = answer.content
    if isinstance(content, BaseModel):
        content = content.model_dump(by_alias=True, exclude_none=True, mode="json")
    return web.Response(status=answer.status, body=orjson.dumps(content), headers={"Content-Type": JSON, **headers})


def respond_to(error: Exception, request: web.Request, speech: Speech) -> web.Response:
    """Return the response for `error`, and write to the log what the caller is not told."""
    refusal = _as_refusal(error)
    incident = str(uuid4())
    where = f"{request.method} {request.rel_url.raw_path} from {request.remote}"
    if refusal is None:
        _log.error("%s failed, incident %s", where, incident, exc_info=error)
        detail = f"Something went wrong; the log has it under {incident}."
        return _problem(500, "Internal error", "internal", detail, {}, {}, speech)
    _log.info("%s refused (%s): %s", where, refusal.kind.value, refusal.reason)
    headers = {}
    if refusal.retry_after is not None:
        headers["Retry-After"] = str(refusal.retry_after)
    if refusal.kind is Kind.UNAUTHENTICATED:
        headers["WWW-Authenticate"] = _challenge(request, speech)
    title = _TITLE[refusal.kind]
    status = STATUS[refusal.kind]
    return _problem(status, title, refusal.kind.value, refusal.detail, refusal.fields, headers, speech)


def _as_refusal(error: Exception) -> Refused | None:
    if isinstance(error, Refused):
        return error
    if isinstance(error, CertificateRefused):
        return Refused(_OF_CERTIFICATE.get(error.kind, Kind.FORBIDDEN), str(error))
    return None


def _challenge(request: web.Request, speech: Speech) -> str:
    """Return the one challenge of a 401: clients of EST read only the first (RFC 7030 3.2.3)."""
    if speech is Speech.PLAIN or request.headers.get("Authorization", "").startswith("Basic "):
        return 'Basic realm="doorward"'
    if "Authorization" in request.headers:
        return 'Bearer realm="doorward", error="invalid_token"'  # RFC 6750 3
    return 'Bearer realm="doorward"'


def _problem(
    status: int,
    title: str,
    kind: str,
    detail: str,
    fields: Mapping[str, str],
    headers: Mapping[str, str],
    speech: Speech,
) -> web.Response:
    headers = {"Cache-Control": "no-store", "Content-Type": speech.value, **headers}
    if speech is Speech.PLAIN:
        return web.Response(status=status, body=f"{detail}\n".encode(), headers=headers)
    problem: dict[str, Any] = {
        "type": f"urn:doorward:problem:{kind}",
        "title": title,
        "status": status,
        "detail": detail,
    }
    if fields:
        problem["errors"] = [{"field": name, "detail": text} for name, text in fields.items()]
    return web.Response(status=status, body=orjson.dumps(problem), headers=headers)


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

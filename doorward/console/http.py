"""Whether the node lives and is ready; the OpenAPI description, and a page to read it on.

The description and its page are public and costly to make, and change only with the program: each is made when it is
first asked for, kept, and named by an entity tag, so that whoever has it does not get it again (RFC 9110 13.1.2).
"""

from collections.abc import Callable, Sequence
from functools import cache
from hashlib import sha256
from importlib.metadata import version

import orjson

from doorward.bus import Bus
from doorward.console.pages import API_CSP, api_page
from doorward.database import Pool
from iam.errors import Kind, Refused
from iam.guard import Call, Public, Route
from iam.openapi import describe
from iam.responses import Answer
from iam.schema import Shown

_JSON = {"Content-Type": "application/json"}
_PAGE = {"Content-Type": "text/html; charset=utf-8", "Content-Security-Policy": API_CSP}
_TAG = "Node"


class Health(Shown):
    """What the node finds of itself and its parts."""

    status: str
    database: str
    nats: str


def routes(bus: Bus, pool: Pool, all_routes: Callable[[], Sequence[Route]], api_url: str, est_url: str) -> list[Route]:
    """Return the routes of the node itself.

    Args:
        all_routes: Every route of the API and of EST, these included.
    """

    async def alive(_: Call) -> Answer:
        return Answer(content={"status": "alive"})

    async def ready(_: Call) -> Answer:
        try:
            await pool.ping()
        except Refused as error:
            raise Refused(Kind.UNAVAILABLE, "The database cannot be reached.", reason=error.reason) from error
        return Answer(
            content=Health(status="ready", database="reachable", nats="connected" if bus.is_connected else "away")
        )

    async def openapi(call: Call) -> Answer:
        return _kept(call, description(), _JSON)

    async def page(call: Call) -> Answer:
        return _kept(call, description_page(), _PAGE)

    @cache
    def description() -> bytes:
        elsewhere = {"/.well-known/est": est_url}
        return orjson.dumps(describe(all_routes(), version=version("doorward"), server=api_url, elsewhere=elsewhere))

    @cache
    def description_page() -> bytes:
        return api_page(orjson.loads(description())).encode()

    public = Public("it holds nothing of any tenant")
    return [
        Route("GET", "/healthz", alive, public, "Whether the process lives", _TAG),
        Route("GET", "/readyz", ready, public, "Whether the node can do its work", _TAG, answers=Health),
        Route("GET", "/openapi.json", openapi, public, "This description, as OpenAPI 3.1", _TAG),
        Route("GET", "/docs", page, public, "This description, to read", _TAG, answers="text/html"),
    ]


def _kept(call: Call, content: bytes, headers: dict[str, str]) -> Answer:
    """Answer with what changes only with the program, or with 304 to whoever has it already."""
    tag = f'"{sha256(content).hexdigest()[:32]}"'
    headers = {**headers, "ETag": tag, "Cache-Control": "no-cache"}
    # RFC 9110 13.1.2: the comparison is the weak one.
    held = [one.strip().removeprefix("W/") for one in call.request.headers.get("If-None-Match", "").split(",")]
    if tag in held or "*" in held:
        return Answer(status=304, headers=headers)
    return Answer(content=content, headers=headers)

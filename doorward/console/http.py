"""Whether the node lives and is ready; the OpenAPI description, and a page to read it on."""

from collections.abc import Callable, Sequence
from importlib.metadata import version

from doorward.bus import Bus
from doorward.console.pages import API_CSP, api_page
from doorward.database import Pool
from iam.errors import Kind, Refused
from iam.guard import Answer, Call, Public, Route
from iam.openapi import describe
from iam.schema import Shown

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

    async def openapi(_: Call) -> Answer:
        return Answer(content=_description())

    async def page(_: Call) -> Answer:
        return Answer(
            content=api_page(_description()).encode(),
            headers={"Content-Type": "text/html; charset=utf-8", "Content-Security-Policy": API_CSP},
        )

    def _description() -> dict[str, object]:
        elsewhere = {"/.well-known/est": est_url}
        return describe(all_routes(), version=version("doorward"), server=api_url, elsewhere=elsewhere)

    public = Public("it holds nothing of any tenant")
    return [
        Route("GET", "/healthz", alive, public, "Whether the process lives", _TAG),
        Route("GET", "/readyz", ready, public, "Whether the node can do its work", _TAG, answers=Health),
        Route("GET", "/openapi.json", openapi, public, "This description, as OpenAPI 3.1", _TAG),
        Route("GET", "/docs", page, public, "This description, to read", _TAG, answers="text/html"),
    ]

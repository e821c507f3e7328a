"""Distribution points: where relying parties fetch revocation lists and authorities' certificates.

Certificates say their addresses (RFC 5280 4.2.1.13, 4.2.2.1). A list is named by what it is about: `issuing.crl` is an
authority's whole, `issuing/8/3.crl` partition 3 of 8 of it; below each, `delta.crl` is its delta. Whoever has the list
already is told so (RFC 9110 13): by its ETag, which is its number, or else by the time when it was made.
"""

import re
from datetime import UTC, datetime
from email.utils import format_datetime, parsedate_to_datetime

from pydantic import Field

from ca.authorities import Authorities
from ca.list_publishing import ListPublisher
from ca.partition import SLOTS, WHOLE, Partition
from ca.shelf import ListShelf
from iam.errors import not_found
from iam.guard import Call, Handler, Needs, Public, Route
from iam.permissions import Action, Resource
from iam.responses import Answer
from iam.schema import Model, Shown

_TAG = "Publication"
_RELYING_PARTIES = Public("whoever checks a certificate of ours fetches this, and it is signed")
_NUMBER = re.compile("[0-9]{1,3}")
_LIST_SECONDS = 10
_AUTHORITY_SECONDS = 3600


def routes(shelf: ListShelf, authorities: Authorities) -> list[Route]:
    """Return the routes of relying parties."""

    def give_list(*, is_delta: bool) -> Handler:
        async def get_list(call: Call) -> Answer:
            authority = await authorities.published(call.path["authority"])
            found = await shelf.current_list(authority, _partition_named(call), is_delta=is_delta)
            headers = {
                "ETag": f'"{found.number}"',
                "Last-Modified": format_datetime(found.this_update, usegmt=True),
                "Expires": format_datetime(found.next_update, usegmt=True),
                "Cache-Control": f"public, max-age={_LIST_SECONDS}, must-revalidate",
            }
            if is_known(call, headers["ETag"], found.this_update):
                return Answer(304, headers=headers)
            return Answer(content=found.der, headers={**headers, "Content-Type": "application/pkix-crl"})

        return get_list

    async def get_authority(call: Call) -> Answer:
        found = await authorities.published(call.path["authority"])
        headers = {
            "Content-Type": "application/pkix-cert",
            "Cache-Control": f"public, max-age={_AUTHORITY_SECONDS}",
        }
        return Answer(content=found.der, headers=headers)

    def list_route(path: str, summary: str, *, is_delta: bool) -> Route:
        handler = give_list(is_delta=is_delta)
        return Route("GET", path, handler, _RELYING_PARTIES, summary, _TAG, answers="application/pkix-crl")

    return [
        list_route("/crl/{authority}.crl", "Fetch an authority's revocation list", is_delta=False),
        list_route("/crl/{authority}/delta.crl", "Fetch what changed since the last revocation lists", is_delta=True),
        list_route(
            "/crl/{authority}/{partitions}/{partition}.crl", "Fetch a partition of a revocation list", is_delta=False
        ),
        list_route(
            "/crl/{authority}/{partitions}/{partition}/delta.crl", "Fetch what changed in a partition", is_delta=True
        ),
        Route(
            "GET",
            "/ca/{authority}.crt",
            get_authority,
            _RELYING_PARTIES,
            "Fetch an authority's certificate",
            _TAG,
            answers="application/pkix-cert",
        ),
    ]


class Partitions(Model):
    """Into how many partitions an authority's lists are cut, for certificates that are issued from now on."""

    partitions: int = Field(ge=1, le=SLOTS, description="A power of two, 256 at most.")


class ShownPartitions(Shown):
    """The same, as it is now."""

    authority: str
    partitions: int


def partition_routes(publisher: ListPublisher, authorities: Authorities) -> list[Route]:
    """Return the route of those who rule an authority's lists."""

    async def set_partitions(call: Call) -> Answer:
        body: Partitions = call.body
        found = authorities.find(call.path["authority"])
        if found.tenant != call.tenant.id:
            raise not_found("such authority")
        await publisher.set_partitions(found, body.partitions, actor=call.caller.access.identity.id)
        return Answer(content=ShownPartitions(authority=found.name, partitions=body.partitions))

    return [
        Route(
            "PUT",
            "/api/ca/v1/cas/{authority}/partitions",
            set_partitions,
            Needs(Action.UPDATE, Resource.CA_AUTHORITIES),
            "Cut an authority's revocation lists into partitions",
            _TAG,
            body=Partitions,
            answers=ShownPartitions,
        ),
    ]


def is_known(call: Call, tag: str, modified: datetime) -> bool:
    """Tell whether the caller has what he asks for, by what he says of it (RFC 9110 13.1.2, 13.1.3)."""
    headers = call.request.headers
    known = headers.get("If-None-Match")
    if known is not None:  # the time then says nothing
        return known.strip() == "*" or tag in {one.strip().removeprefix("W/") for one in known.split(",")}
    try:
        since = parsedate_to_datetime(headers.get("If-Modified-Since", ""))
    except ValueError:
        return False
    return modified.replace(microsecond=0) <= (since if since.tzinfo else since.replace(tzinfo=UTC))


def _partition_named(call: Call) -> Partition:
    count, index = call.path.get("partitions"), call.path.get("partition")
    if count is None or index is None:
        return WHOLE
    if not (_NUMBER.fullmatch(count) and _NUMBER.fullmatch(index)):
        raise not_found("such partition")
    return Partition(int(count), int(index))

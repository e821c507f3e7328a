"""Requests for authorities' certificates over REST: the key is here, the certificate is asked for elsewhere."""

from dataclasses import dataclass
from uuid import UUID

from ca.http.authorities import CAS, TAG
from ca.http.authority_bodies import RequestedAuthority
from ca.http.authority_shapes import ShownRequest, show_request
from ca.http.certificates import with_filters
from ca.intake import AuthorityIntake
from ca.register import AuthorityRegister
from iam.errors import not_found
from iam.guard import Call, Needs, Route
from iam.listing import Listed, ListQuery
from iam.permissions import Action, Resource
from iam.responses import Answer

_REQUESTS = f"{CAS}/requests"
_REQUEST = f"{_REQUESTS}/{{request}}"


@dataclass(frozen=True, slots=True)
class _Handlers:
    """What the routes below do."""

    intake: AuthorityIntake
    register: AuthorityRegister

    async def request(self, call: Call) -> Answer:
        body: RequestedAuthority = call.body
        wish = body.key_metadata.wish(body.key_id, body.engine_id)
        made = await self.intake.request(
            call.caller.access, call.tenant, body.id, body.subject.model_dump(), wish, body.metadata
        )
        return Answer(201, content=show_request(made))

    async def list_all(self, call: Call) -> Answer:
        return await self._list(call, call.query)

    async def list_of_authority(self, call: Call) -> Answer:
        return await self._list(call, with_filters(call.query, f"ca_id[eq]{call.path['authority']}"))

    async def get(self, call: Call) -> Answer:
        return Answer(content=show_request(await self.intake.get_request(call.tenant, _request_id(call))))

    async def withdraw(self, call: Call) -> Answer:
        await self.intake.withdraw_request(call.caller.access, call.tenant, _request_id(call))
        return Answer(204)

    async def _list(self, call: Call, query: ListQuery) -> Answer:
        page = await self.register.page_of_requests(call.tenant, query)
        return Answer(content=Listed(next=page.next, items=[show_request(one) for one in page.items]))


def routes(intake: AuthorityIntake, register: AuthorityRegister) -> list[Route]:
    """Return the routes of requests."""
    do = _Handlers(intake, register)
    create, read, _, delete = (Needs(action, Resource.CA_AUTHORITIES) for action in Action)
    makes, listed = "Make a key and a request for a certificate from elsewhere", Listed[ShownRequest]
    of_one = "List the requests for an authority of that name"
    return [
        Route(
            "POST",
            _REQUESTS,
            do.request,
            create,
            makes,
            TAG,
            body=RequestedAuthority,
            answers=ShownRequest,
            status=201,
        ),
        Route("GET", _REQUESTS, do.list_all, read, "List requests", TAG, query=ListQuery, answers=listed),
        Route("GET", _REQUEST, do.get, read, "Get a request", TAG, answers=ShownRequest),
        Route("DELETE", _REQUEST, do.withdraw, delete, "Withdraw a request", TAG, status=204),
        Route(
            "GET",
            f"{CAS}/{{authority}}/requests",
            do.list_of_authority,
            read,
            of_one,
            TAG,
            query=ListQuery,
            answers=listed,
        ),
    ]


def _request_id(call: Call) -> UUID:
    try:
        return UUID(call.path["request"])
    except ValueError as error:
        raise not_found("such request") from error

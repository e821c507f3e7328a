"""Authorities over REST, in the paths and the JSON of Lamassu's CA API: seeing, making and changing them."""

from dataclasses import dataclass

from ca.administration import AuthorityAdministration
from ca.authorities import Authorities
from ca.authority import Authority, AuthorityStep
from ca.http.authority_bodies import (
    Deletion,
    ImportedAuthority,
    NewAuthority,
    NewProfile,
    NewStatus,
    Patches,
    Reissue,
    Rollover,
    ValidityBody,
)
from ca.http.authority_shapes import ShownAuthority, show_authority
from ca.http.certificates import read_reason
from ca.importing import read_one_certificate, read_private_key
from ca.intake import AuthorityIntake, Offer
from ca.register import AuthorityRegister
from ca.store.authority_lists import AuthorityDetails
from ca.wishes import Wish
from iam.errors import forbidden, malformed
from iam.guard import Call, Handler, Needs, Route
from iam.json_patch import read_patch
from iam.listing import Listed, ListQuery
from iam.permissions import Action, Resource
from iam.responses import Answer
from iam.schema import SnakeModel

TAG = "Authorities"
CAS = "/api/ca/v1/cas"
CA = f"{CAS}/{{authority}}"
_STEPS = {
    "ACTIVE": AuthorityStep.ACTIVATE,
    "INACTIVE": AuthorityStep.DEACTIVATE,
    "REVOKED": AuthorityStep.REVOKE,
}


@dataclass(frozen=True, slots=True)
class _Handlers:
    """What the routes below do."""

    authorities: Authorities
    administration: AuthorityAdministration
    intake: AuthorityIntake
    register: AuthorityRegister

    async def list_all(self, call: Call) -> Answer:
        return await self._list(call, None)

    async def list_by_name(self, call: Call) -> Answer:
        return await self._list(call, call.path["commonName"])

    async def create(self, call: Call) -> Answer:
        body: NewAuthority = call.body
        wish = Wish(
            subject=body.subject.model_dump(),
            line=body.id,
            parent=body.parent_id,
            key=body.key_metadata.wish(body.key_id, body.engine_id),
            own_profile=body.ca_issuance_profile_id,
            profile=body.profile_id,
            path_length=body.path_length,
            period=body.ca_expiration.period if body.ca_expiration else None,
            issuance=body.issuance_expiration.period if body.issuance_expiration else None,
            metadata=body.metadata,
        )
        return await self._shown(call, await self.administration.create(call.caller.access, call.tenant, wish), 201)

    async def take_in(self, call: Call) -> Answer:
        body: ImportedAuthority = call.body
        offer = Offer(
            certificate=read_one_certificate(body.ca, "certificate"),
            chain=tuple(read_one_certificate(one, "chain") for one in body.ca_chain),
            key=read_private_key(body.private_key) if body.private_key else None,
            line=body.id,
            request=body.ca_request_id,
            origin=body.ca_type,
            parent=body.parent_id,
            profile=body.profile_id,
            issuance=body.issuance_expiration.period if body.issuance_expiration else None,
            metadata=body.metadata,
        )
        return await self._shown(call, await self.intake.take_in(call.caller.access, call.tenant, offer), 201)

    async def get(self, call: Call) -> Answer:
        return await self._shown(call, await self._named(call))

    async def delete(self, call: Call) -> Answer:
        query: Deletion = call.query
        if query.cascade_delete:
            raise forbidden("What an authority issued stays on record, and so does the authority.")
        await self.administration.delete(call.caller.access, call.tenant, call.path["authority"])
        return Answer(204)

    async def set_status(self, call: Call) -> Answer:
        body: NewStatus = call.body
        one = await self.administration.set_status(
            call.caller.access,
            call.tenant,
            call.path["authority"],
            _STEPS[body.status],
            read_reason(body.revocation_reason),
        )
        return await self._shown(call, one)

    async def patch_metadata(self, call: Call) -> Answer:
        body: Patches = call.body
        patch = read_patch(body.patches)
        access, tenant, reference = call.caller.access, call.tenant, call.path["authority"]
        return await self._shown(call, await self.administration.patch_metadata(access, tenant, reference, patch))

    async def set_profile(self, call: Call) -> Answer:
        body: NewProfile = call.body
        access, tenant, reference = call.caller.access, call.tenant, call.path["authority"]
        return await self._shown(
            call, await self.administration.set_profile(access, tenant, reference, body.profile_id)
        )

    async def set_issuance(self, call: Call) -> Answer:
        body: ValidityBody = call.body
        access, tenant, reference = call.caller.access, call.tenant, call.path["authority"]
        return await self._shown(call, await self.administration.set_issuance(access, tenant, reference, body.period))

    async def reissue(self, call: Call) -> Answer:
        body: Reissue = call.body
        period = body.ca_expiration.period if body.ca_expiration else None
        access, tenant, reference = call.caller.access, call.tenant, call.path["authority"]
        if body.ca is not None:
            if period is not None:
                raise malformed("A certificate that is brought says by itself how long it lasts.")
            certificate = read_one_certificate(body.ca, "certificate")
            chain = tuple(read_one_certificate(one, "chain") for one in body.ca_chain)
            return await self._shown(call, await self.intake.renew(access, tenant, reference, certificate, chain))
        return await self._shown(call, await self.administration.reissue(access, tenant, reference, period))

    async def roll_over(self, call: Call) -> Answer:
        body: Rollover = call.body
        period = body.ca_expiration.period if body.ca_expiration else None
        key = body.key_metadata.wish(body.key_id, body.engine_id) if body.key_metadata else None
        if key is None and (body.key_id, body.engine_id) != (None, None):
            raise malformed("Say the kind of the key too: key_metadata.")
        access, tenant, reference = call.caller.access, call.tenant, call.path["authority"]
        return await self._shown(call, await self.administration.roll_over(access, tenant, reference, key, period))

    async def _named(self, call: Call) -> Authority:
        return await self.administration.visible(call.tenant, call.path["authority"])

    async def _list(self, call: Call, common_name: str | None) -> Answer:
        page = await self.register.page(call.tenant, call.query, common_name)
        shown = [self._show(self.authorities.by_id(details.id), details) for details in page.items]
        return Answer(content=Listed(next=page.next, items=shown))

    async def _shown(self, call: Call, one: Authority, status: int = 200) -> Answer:
        details = await self.register.details(call.tenant, one)
        return Answer(status, content=self._show(one, details))

    def _show(self, one: Authority, details: AuthorityDetails) -> ShownAuthority:
        can_sign = self.authorities.with_root_key(one).signer is not None
        return show_authority(one, details, self.authorities, self.register.now, can_sign=can_sign)


def routes(
    authorities: Authorities,
    administration: AuthorityAdministration,
    intake: AuthorityIntake,
    register: AuthorityRegister,
) -> list[Route]:
    """Return the routes of authorities."""
    do = _Handlers(authorities, administration, intake, register)
    create, read, update, delete = (Needs(action, Resource.CA_AUTHORITIES) for action in Action)
    shown, listed = ShownAuthority, Listed[ShownAuthority]
    imports, deletes = "Take in an authority that was made elsewhere", "Delete an authority that nothing depends on"
    limits = "Say how long what an authority issues lasts at the most"

    def change(method: str, name: str, handler: Handler, summary: str, body: type[SnakeModel]) -> Route:
        return Route(method, f"{CA}/{name}", handler, update, summary, TAG, body=body, answers=shown)

    return [
        Route("GET", CAS, do.list_all, read, "List authorities", TAG, query=ListQuery, answers=listed),
        Route(
            "GET",
            f"{CAS}/cn/{{commonName}}",
            do.list_by_name,
            read,
            "List the authorities of a common name",
            TAG,
            query=ListQuery,
            answers=listed,
        ),
        Route("POST", CAS, do.create, create, "Make an authority", TAG, body=NewAuthority, answers=shown, status=201),
        Route(
            "POST", f"{CAS}/import", do.take_in, create, imports, TAG, body=ImportedAuthority, answers=shown, status=201
        ),
        Route("GET", CA, do.get, read, "Get an authority", TAG, answers=shown),
        Route("DELETE", CA, do.delete, delete, deletes, TAG, query=Deletion, status=204),
        *(
            change(method, "metadata", do.patch_metadata, "Change an authority's metadata by JSON Patch", Patches)
            for method in ("PATCH", "PUT")  # Lamassu's clients use either
        ),
        change("POST", "status", do.set_status, "Activate, deactivate or revoke an authority", NewStatus),
        change("POST", "profile", do.set_profile, "Say what an authority issues by", NewProfile),
        change("PUT", "issuance-expiration", do.set_issuance, limits, ValidityBody),
        change("POST", "reissue", do.reissue, "Certify an authority's key once more", Reissue),
        change("POST", "rollover", do.roll_over, "Give an authority its next key", Rollover),
    ]

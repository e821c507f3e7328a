"""Certificates over REST, in the paths and the JSON of Lamassu's CA API: search, status, metadata, import, deletion."""

import re
from dataclasses import dataclass
from typing import Any, Literal
from uuid import UUID

from pydantic import Field

from ca.authorities import Authorities
from ca.http.certificate_shapes import ShownCertificate, show_certificate
from ca.inventory import RevocationReason, StoredCertificate
from ca.record_keeping import RecordKeeping
from ca.revocation import RevocationService
from ca.search import CertificateSearch
from ca.store.certificate_lists import reason_shown
from iam.access import visible_devices
from iam.errors import conflict, forbidden, malformed, not_found
from iam.guard import Call, Needs, Route
from iam.json_patch import read_patch
from iam.listing import Listed, ListQuery
from iam.permissions import Action, Resource
from iam.responses import Answer
from iam.schema import SnakeModel

_TAG = "Certificates"
_BASE = "/api/ca/v1"
_CERTIFICATES = f"{_BASE}/certificates"
_CERTIFICATE = f"{_CERTIFICATES}/{{serial}}"
_OF_AUTHORITY = f"{_BASE}/cas/{{authority}}/certificates"
_SERIAL = re.compile(r"[0-9a-f]{2,40}")

_REASONS = {name: one for one in RevocationReason for name in (one.value, reason_shown(one))}


class ExpirationQuery(ListQuery):
    """Which certificates to list, by the moment at which they end."""

    expires_after: str | None = Field(None, max_length=64, description="A date, or a moment of RFC 3339.")
    expires_before: str | None = Field(None, max_length=64, description="A date, or a moment of RFC 3339.")


class StatusChange(SnakeModel):
    """What a certificate shall be: REVOKED, also on hold, or ACTIVE again after a hold."""

    status: Literal["ACTIVE", "REVOKED"]
    revocation_reason: str = Field(
        reason_shown(RevocationReason.UNSPECIFIED),
        max_length=32,
        description="By RFC 5280 5.3.1. CertificateHold can be released.",
    )


class MetadataChange(SnakeModel):
    """How to change what is kept beside a certificate: JSON Patch (RFC 6902)."""

    patches: list[Any]


class ImportedCertificate(SnakeModel):
    """A certificate that an authority issued before it was here."""

    certificate: str = Field(min_length=1, max_length=32_768, description="PEM, as it is or in base64 once more.")
    metadata: dict[str, Any] = Field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class _Handlers:
    """What the routes below do."""

    search: CertificateSearch
    revocation: RevocationService
    authorities: Authorities
    keeping: RecordKeeping

    async def list_all(self, call: Call) -> Answer:
        return await self._list(call, call.query)

    async def list_by_status(self, call: Call) -> Answer:
        return await self._list(call, _with_status(call))

    async def list_by_expiration(self, call: Call) -> Answer:
        query: ExpirationQuery = call.query
        said = (("af", query.expires_after), ("bf", query.expires_before))
        filters = [f"valid_to[{operator}]{moment}" for operator, moment in said if moment is not None]
        return await self._list(call, with_filters(query, *filters))

    async def list_of_authority(self, call: Call) -> Answer:
        return await self._list(call, call.query, authority=self._authority(call))

    async def list_of_authority_by_status(self, call: Call) -> Answer:
        return await self._list(call, _with_status(call), authority=self._authority(call))

    async def get(self, call: Call) -> Answer:
        return Answer(content=self._show(await self._reached(call, Action.READ)))

    async def get_of_authority(self, call: Call) -> Answer:
        authority, found = self._authority(call), await self._reached(call, Action.READ)
        if found.authority != authority:
            raise not_found(f"certificate {found.serial.hex()} of this authority")
        return Answer(content=self._show(found))

    async def take_in(self, call: Call) -> Answer:
        body: ImportedCertificate = call.body
        if not visible_devices(call.caller.access, Action.CREATE, Resource.CA_CERTIFICATES).everything:
            raise forbidden("What names no device yet is taken in by whoever reaches every device of the group.")
        actor = call.caller.access.identity.id
        taken = await self.keeping.take_in(call.tenant, body.certificate, body.metadata, actor=actor)
        return Answer(201, self._show(await self.search.get(call.tenant.id, taken.serial)))

    async def delete(self, call: Call) -> Answer:
        found = await self._reached(call, Action.DELETE)
        await self.keeping.delete(call.tenant, found.serial, actor=call.caller.access.identity.id)
        return Answer(204)

    async def change_status(self, call: Call) -> Answer:
        body: StatusChange = call.body
        found = await self._reached(call, Action.UPDATE)
        if self.authorities.has_certificate(found.serial):
            raise conflict("The certificate is an authority's: change the status of that.")
        actor = call.caller.access.identity.id
        if body.status == "ACTIVE":
            await self.revocation.release(call.tenant.id, found.serial, actor=actor)
        else:
            reason = read_reason(body.revocation_reason)
            await self.revocation.revoke(call.tenant.id, found.serial, reason, actor=actor)
        return Answer(content=self._show(await self._reached(call, Action.UPDATE)))

    async def change_metadata(self, call: Call) -> Answer:
        body: MetadataChange = call.body
        patch = read_patch(body.patches)
        found = await self._reached(call, Action.UPDATE)
        await self.search.patch_metadata(call.tenant.id, found.serial, patch, actor=call.caller.access.identity.id)
        return Answer(content=self._show(await self._reached(call, Action.UPDATE)))

    async def _list(self, call: Call, query: ListQuery, *, authority: UUID | None = None) -> Answer:
        visible = visible_devices(call.caller.access, Action.READ, Resource.CA_CERTIFICATES)
        page = await self.search.page(call.tenant.id, query, visible, authority=authority)
        return Answer(content=Listed(next=page.next, items=[self._show(one) for one in page.items]))

    async def _reached(self, call: Call, action: Action) -> StoredCertificate:
        found = await self.search.get(call.tenant.id, _serial(call))
        visible = visible_devices(call.caller.access, action, Resource.CA_CERTIFICATES)
        if not (visible.everything if found.device is None else found.device in visible):
            raise not_found(f"certificate {found.serial.hex()}")
        return found

    def _authority(self, call: Call) -> UUID:
        return self.authorities.find(call.path["authority"]).id

    def _show(self, one: StoredCertificate) -> ShownCertificate:
        return show_certificate(one, self.authorities, self.search.now)


def routes(
    search: CertificateSearch, revocation: RevocationService, authorities: Authorities, keeping: RecordKeeping
) -> list[Route]:
    """Return the routes of certificates."""
    handlers = _Handlers(search, revocation, authorities, keeping)
    reads, changes = Needs(Action.READ, Resource.CA_CERTIFICATES), Needs(Action.UPDATE, Resource.CA_CERTIFICATES)
    lists = (
        (_CERTIFICATES, handlers.list_all, "List certificates", ListQuery),
        (f"{_CERTIFICATES}/expiration", handlers.list_by_expiration, "List certificates by their end", ExpirationQuery),
        (f"{_CERTIFICATES}/status/{{status}}", handlers.list_by_status, "List certificates of a status", ListQuery),
        (_OF_AUTHORITY, handlers.list_of_authority, "List an authority's certificates", ListQuery),
        (
            f"{_OF_AUTHORITY}/status/{{status}}",
            handlers.list_of_authority_by_status,
            "List an authority's certificates of a status",
            ListQuery,
        ),
    )
    return [
        *(
            Route("GET", path, handler, reads, summary, _TAG, query=query, answers=Listed[ShownCertificate])
            for path, handler, summary, query in lists
        ),
        Route(
            "GET",
            _CERTIFICATE,
            handlers.get,
            reads,
            "Get a certificate by its serial number",
            _TAG,
            answers=ShownCertificate,
        ),
        Route(
            "GET",
            f"{_OF_AUTHORITY}/{{serial}}",
            handlers.get_of_authority,
            reads,
            "Get a certificate of an authority by its serial number",
            _TAG,
            answers=ShownCertificate,
        ),
        Route(
            "POST",
            f"{_CERTIFICATES}/import",
            handlers.take_in,
            Needs(Action.CREATE, Resource.CA_CERTIFICATES),
            "Take in a certificate that an authority issued before it was here",
            _TAG,
            body=ImportedCertificate,
            answers=ShownCertificate,
            status=201,
        ),
        Route(
            "DELETE",
            _CERTIFICATE,
            handlers.delete,
            Needs(Action.DELETE, Resource.CA_CERTIFICATES),
            "Delete a certificate that has ended and means nothing any more",
            _TAG,
            status=204,
        ),
        Route(
            "PUT",
            f"{_CERTIFICATE}/status",
            handlers.change_status,
            changes,
            "Revoke, hold or release a certificate; what is connected by one that is revoked is cut",
            _TAG,
            body=StatusChange,
            answers=ShownCertificate,
        ),
        *(
            Route(
                method,
                f"{_CERTIFICATE}/metadata",
                handlers.change_metadata,
                changes,
                "Change a certificate's metadata by JSON Patch",
                _TAG,
                body=MetadataChange,
                answers=ShownCertificate,
            )
            for method in ("PATCH", "PUT")  # Lamassu's clients use either
        ),
    ]


def with_filters(query: ListQuery, *filters: str) -> ListQuery:
    """Return a query with what its path or its own parameters say, as filters beside those that it has."""
    if query.bookmark is not None and not query.filter:
        return query  # which carries them on
    said = query.model_dump(include=set(ListQuery.model_fields))
    return ListQuery(**{**said, "filter": [*filters, *query.filter]})


def read_reason(text: str) -> RevocationReason:
    """Return the reason of that name, by RFC 5280 or with a capital; raise `Refused` (malformed)."""
    found = _REASONS.get(text)
    if found is None:
        raise malformed(f"A reason is one of {', '.join(reason_shown(one) for one in RevocationReason)}.")
    return found


def _serial(call: Call) -> bytes:
    text = call.path["serial"].replace(":", "").replace("-", "").lower()
    if not _SERIAL.fullmatch(text) or len(text) % 2:
        raise malformed("A serial number is 1 to 20 bytes in hexadecimal.")
    return bytes.fromhex(text)


def _with_status(call: Call) -> ListQuery:
    return with_filters(call.query, f"status[eq]{call.path['status'].upper()}")

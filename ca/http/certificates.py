"""The inventory of certificates over REST, for operators: listing, reading, revoking."""

import re
from datetime import datetime

from cryptography.hazmat.primitives.serialization import Encoding
from pydantic import Field

from ca.inventory import CertificateStatus, RevocationReason, StoredCertificate
from ca.revocation import RevocationService
from ca.service import AuthorityService
from certs.pem import read_certificate
from iam.access import visible_devices
from iam.errors import malformed, not_found
from iam.guard import Answer, Call, Needs, Route
from iam.paging import PageQuery
from iam.permissions import Action, Resource
from iam.schema import Model, Shown

_TAG = "Certificates"
_CERTIFICATES = "/api/v1/ca/certificates"
_CERTIFICATE = _CERTIFICATES + "/{serial}"
_SERIAL = re.compile(r"[0-9a-f]{2,40}")


class CertificateQuery(PageQuery):
    """Which certificates to list."""

    status: CertificateStatus | None = None
    device: str | None = Field(None, max_length=128, description="A device identifier.")


class Revocation(Model):
    """Why a certificate is revoked."""

    reason: RevocationReason = RevocationReason.UNSPECIFIED


class ShownCertificate(Shown):
    """A certificate that was issued here."""

    serial: str
    status: str
    profile: str
    subject: str
    device: str | None
    identity: str | None
    not_before: datetime
    not_after: datetime
    issued: datetime
    supersedes: str | None
    superseded: datetime | None
    revoked: datetime | None
    reason: str | None
    certificate: str = Field(description="PEM")


class ShownCertificates(Shown):
    """A page of certificates."""

    items: list[ShownCertificate]
    next: str | None


def routes(service: AuthorityService, revocation: RevocationService) -> list[Route]:
    """Return the routes of the inventory."""

    async def list_certificates(call: Call) -> Answer:
        query: CertificateQuery = call.query
        visible = visible_devices(call.caller.access, Action.READ, Resource.CA_CERTIFICATES)
        page = await service.page(call.tenant.id, query, status=query.status, device=query.device, visible=visible)
        return Answer(content=ShownCertificates(items=[_show_certificate(one) for one in page.items], next=page.next))

    async def get_certificate(call: Call) -> Answer:
        return Answer(content=_show_certificate(await reached(call, Action.READ)))

    async def revoke(call: Call) -> Answer:
        body: Revocation = call.body
        found = await reached(call, Action.UPDATE)
        actor = call.caller.access.identity.id
        await revocation.revoke(call.tenant.id, found.serial, body.reason, actor=actor)
        return Answer(content=_show_certificate(await reached(call, Action.UPDATE)))

    async def reached(call: Call, action: Action) -> StoredCertificate:
        found = await service.certificate_by_serial(call.tenant.id, _serial(call))
        if not call.permits(action, Resource.CA_CERTIFICATES, device=found.device):
            raise not_found(f"certificate {found.serial.hex()}")
        return found

    certificates = Resource.CA_CERTIFICATES
    return [
        Route(
            "GET",
            _CERTIFICATES,
            list_certificates,
            Needs(Action.READ, certificates),
            "List certificates, oldest first",
            _TAG,
            query=CertificateQuery,
            answers=ShownCertificates,
        ),
        Route(
            "GET",
            _CERTIFICATE,
            get_certificate,
            Needs(Action.READ, certificates),
            "Get a certificate by its serial number in hexadecimal",
            _TAG,
            answers=ShownCertificate,
        ),
        Route(
            "POST",
            _CERTIFICATE + "/revoke",
            revoke,
            Needs(Action.UPDATE, certificates),
            "Revoke a certificate; what was connected by it is cut",
            _TAG,
            body=Revocation,
            answers=ShownCertificate,
        ),
    ]


def _serial(call: Call) -> bytes:
    text = call.path["serial"].replace(":", "").lower()
    if not _SERIAL.fullmatch(text) or len(text) % 2:
        raise malformed("A serial number is 1 to 20 bytes in hexadecimal.")
    return bytes.fromhex(text)


def _show_certificate(one: StoredCertificate) -> ShownCertificate:
    return ShownCertificate(
        serial=one.serial.hex(),
        status=one.status,
        profile=one.profile,
        subject=one.subject,
        device=one.device,
        identity=one.identity,
        not_before=one.not_before,
        not_after=one.not_after,
        issued=one.issued,
        supersedes=one.supersedes.hex() if one.supersedes else None,
        superseded=one.superseded,
        revoked=one.revoked,
        reason=one.reason,
        certificate=read_certificate(one.der).public_bytes(Encoding.PEM).decode(),
    )

"""The authority over HTTP: the inventory for operators, and what relying parties fetch: lists and certificates."""

import re
from datetime import datetime

from cryptography.hazmat.primitives.serialization import Encoding
from pydantic import Field

from ca.authorities import Authorities, Authority
from ca.inventory import CertificateStatus, RevocationReason, StoredCertificate
from ca.revocation import RevocationService
from ca.service import AuthorityService
from certs.pem import fingerprint_sha256, read_certificate
from iam.access import visible_devices
from iam.errors import malformed, not_found
from iam.guard import Answer, Call, Needs, Public, Route
from iam.paging import PageQuery
from iam.permissions import Action, Resource
from iam.schema import Model, Shown

_TAG = "Authority"
_CERTIFICATES = "/api/v1/ca/certificates"
_CERTIFICATE = _CERTIFICATES + "/{serial}"
_SERIAL = re.compile(r"[0-9a-f]{2,40}")
_RELYING_PARTIES = Public("whoever checks a certificate of ours fetches this, and it is signed")
_LIST_SECONDS = 10
_AUTHORITY_SECONDS = 3600


class CertificateQuery(PageQuery):
    """Which certificates to list."""

    status: CertificateStatus | None = None
    device: str | None = Field(None, max_length=128, description="A device identifier.")


class Revocation(Model):
    """Why a certificate is revoked."""

    reason: RevocationReason = RevocationReason.UNSPECIFIED


class ShownAuthority(Shown):
    """An authority."""

    id: str
    name: str
    kind: str
    subject: str
    not_before: datetime
    not_after: datetime
    fingerprint_sha256: str
    certificate: str = Field(description="PEM")
    can_sign: bool


class ShownAuthorities(Shown):
    """All authorities, oldest first."""

    items: list[ShownAuthority]


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


def routes(service: AuthorityService, revocation: RevocationService, authorities: Authorities) -> list[Route]:
    """Return the routes of the authority."""

    async def list_authorities(_: Call) -> Answer:
        return Answer(content=ShownAuthorities(items=[_show_authority(one) for one in authorities.all]))

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

    async def get_list(call: Call) -> Answer:
        found = await revocation.current_list(authorities.by_name(call.path["authority"]))
        tag = f'"{found.number}"'
        headers = {"ETag": tag, "Cache-Control": f"public, max-age={_LIST_SECONDS}, must-revalidate"}
        if call.request.headers.get("If-None-Match") == tag:
            return Answer(304, headers=headers)
        return Answer(content=found.der, headers={**headers, "Content-Type": "application/pkix-crl"})

    async def get_authority(call: Call) -> Answer:
        found = authorities.by_name(call.path["authority"])
        headers = {
            "Content-Type": "application/pkix-cert",
            "Cache-Control": f"public, max-age={_AUTHORITY_SECONDS}",
        }
        return Answer(content=found.der, headers=headers)

    certificates = Resource.CA_CERTIFICATES
    return [
        Route(
            "GET",
            "/api/v1/ca/authorities",
            list_authorities,
            Needs(Action.READ, Resource.CA_AUTHORITIES),
            "List the authorities",
            _TAG,
            answers=ShownAuthorities,
        ),
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
        Route(
            "GET",
            "/crl/{authority}.crl",
            get_list,
            _RELYING_PARTIES,
            "Fetch an authority's revocation list",
            _TAG,
            answers="application/pkix-crl",
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


def _serial(call: Call) -> bytes:
    text = call.path["serial"].replace(":", "").lower()
    if not _SERIAL.fullmatch(text) or len(text) % 2:
        raise malformed("A serial number is 1 to 20 bytes in hexadecimal.")
    return bytes.fromhex(text)


def _show_authority(one: Authority) -> ShownAuthority:
    return ShownAuthority(
        id=str(one.id),
        name=one.name,
        kind=one.kind,
        subject=one.certificate.subject.rfc4514_string(),
        not_before=one.certificate.not_valid_before_utc,
        not_after=one.certificate.not_valid_after_utc,
        fingerprint_sha256=fingerprint_sha256(one.der),
        certificate=one.certificate.public_bytes(Encoding.PEM).decode(),
        can_sign=one.signer is not None,
    )


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

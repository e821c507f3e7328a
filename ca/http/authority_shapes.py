"""What authorities look like in the JSON of Lamassu's CA API; what is taken of them is in `authority_bodies.py`."""

from base64 import b64encode
from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any, Literal

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding
from pydantic import Field

from ca.authorities import Authorities
from ca.authority import Authority
from ca.http.certificate_shapes import ShownIssuer, ShownKey, ShownSubject, show_key, show_name
from ca.inventory import stored_serial
from ca.store.authority_lists import AuthorityDetails
from ca.store.authority_requests import AuthorityRequest
from ca.store.certificate_lists import reason_shown
from certs.duration import write_duration
from certs.pem import fingerprint_sha256
from iam.schema import SnakeShown


class ShownAuthorityCertificate(SnakeShown):
    """The certificate of an authority."""

    serial_number: str
    subject_key_id: str | None
    authority_key_id: str | None
    status: str
    certificate: str = Field(description="PEM, in base64 once more.")
    key_metadata: ShownKey
    subject: ShownSubject
    issuer: ShownSubject
    valid_from: datetime
    valid_to: datetime
    issuer_metadata: ShownIssuer | None
    revocation_timestamp: datetime | None
    revocation_reason: str | None
    type: str
    engine_id: str | None
    is_ca: bool = True
    fingerprint_sha256: str


class ShownGeneration(SnakeShown):
    """One key of an authority."""

    authority_id: str
    name: str = Field(description="What its list and its certificate are published under.")
    generation: int
    status: str
    serial_number: str
    valid_to: datetime
    new_with_old: str | None = Field(description="RFC 4210 4.4: PEM in base64.")
    old_with_new: str | None


class ShownValidity(SnakeShown):
    """How long something lasts, or until when."""

    type: Literal["Duration", "Time"]
    duration: str | None
    time: datetime | None


class ShownAuthority(SnakeShown):
    """An authority, by its newest key."""

    id: str
    authority_id: str = Field(description="The id of its newest key, as certificates name their issuer.")
    parent_id: str | None
    kind: str
    type: str
    level: int
    path_length: int | None
    status: str
    can_sign: bool = Field(description="Its key is at hand.")
    serial_number: str
    profile_id: str
    issuance_expiration: ShownValidity | None = Field(description="How long what it issues lasts at the most.")
    metadata: Mapping[str, Any]
    creation_ts: datetime
    certificate: ShownAuthorityCertificate
    generations: Sequence[ShownGeneration] = Field(description="The newest first.")


class ShownRequest(SnakeShown):
    """A request for an authority's certificate."""

    id: str
    ca_id: str = Field(description="What the authority will be called.")
    status: str
    subject: str
    key_id: str
    csr: str = Field(description="PEM, in base64 once more.")
    metadata: Mapping[str, Any]
    creation_ts: datetime


def show_authority(
    one: Authority, details: AuthorityDetails, authorities: Authorities, now: datetime, *, can_sign: bool
) -> ShownAuthority:
    """Return an authority as it is shown at this moment."""
    serial = stored_serial(one.certificate.serial_number).hex()
    above = _above(one, authorities)
    return ShownAuthority(
        id=one.line,
        authority_id=str(one.id),
        parent_id=above[0].line if above else None,
        kind=one.kind,
        type=one.origin,
        level=len(above) + len(one.chain),
        path_length=one.path_length,
        status=one.shown_status(now),
        can_sign=can_sign,
        serial_number=serial,
        profile_id=one.profile,
        issuance_expiration=_show_validity(one.issuance),
        metadata=details.metadata,
        creation_ts=details.created,
        certificate=_show_certificate(one, details, above, now),
        generations=[_show_generation(each, now) for each in reversed(authorities.generations(one.id))],
    )


def show_request(one: AuthorityRequest) -> ShownRequest:
    """Return a request as it is shown."""
    pem = x509.load_der_x509_csr(one.request).public_bytes(Encoding.PEM)
    return ShownRequest(
        id=str(one.id),
        ca_id=one.line,
        status=one.status,
        subject=one.subject,
        key_id=str(one.key.id),
        csr=b64encode(pem).decode(),
        metadata=one.metadata,
        creation_ts=one.created,
    )


def _show_validity(period: timedelta | datetime | None) -> ShownValidity | None:
    if period is None:
        return None
    if isinstance(period, datetime):
        return ShownValidity(type="Time", duration=None, time=period)
    return ShownValidity(type="Duration", duration=write_duration(period), time=None)


def _show_certificate(
    one: Authority, details: AuthorityDetails, above: Sequence[Authority], now: datetime
) -> ShownAuthorityCertificate:
    found = {each.oid: each.value for each in one.certificate.extensions}
    own, issuers = found.get(x509.SubjectKeyIdentifier.oid), found.get(x509.AuthorityKeyIdentifier.oid)
    issuer_id = issuers.key_identifier if isinstance(issuers, x509.AuthorityKeyIdentifier) else None
    return ShownAuthorityCertificate(
        serial_number=stored_serial(one.certificate.serial_number).hex(),
        subject_key_id=own.digest.hex() if isinstance(own, x509.SubjectKeyIdentifier) else None,
        authority_key_id=issuer_id.hex() if issuer_id else None,
        status=one.shown_status(now),
        certificate=_pem(one.der),
        key_metadata=show_key(one.certificate),
        subject=show_name(one.certificate.subject),
        issuer=show_name(one.certificate.issuer),
        valid_from=one.certificate.not_valid_before_utc,
        valid_to=one.certificate.not_valid_after_utc,
        issuer_metadata=_show_issuer(one, above),
        revocation_timestamp=details.revoked,
        revocation_reason=reason_shown(details.reason) if details.reason else None,
        type=one.origin,
        engine_id=details.engine,
        fingerprint_sha256=fingerprint_sha256(one.der),
    )


def _show_issuer(one: Authority, above: Sequence[Authority]) -> ShownIssuer | None:
    issuer = one if one.is_self_signed else above[0] if above else None
    if issuer is None:
        return None
    serial = stored_serial(issuer.certificate.serial_number).hex()
    return ShownIssuer(id=str(issuer.id), serial_number=serial, level=max(0, len(above) - 1))


def _show_generation(one: Authority, now: datetime) -> ShownGeneration:
    return ShownGeneration(
        authority_id=str(one.id),
        name=one.name,
        generation=one.generation,
        status=one.shown_status(now),
        serial_number=stored_serial(one.certificate.serial_number).hex(),
        valid_to=one.certificate.not_valid_after_utc,
        new_with_old=_pem(one.links.new_with_old) if one.links else None,
        old_with_new=_pem(one.links.old_with_new) if one.links else None,
    )


def _above(one: Authority, authorities: Authorities) -> list[Authority]:
    above: list[Authority] = []
    while one.parent is not None:
        one = authorities.by_id(one.parent)
        above.append(one)
    return above


def _pem(der: bytes) -> str:
    return b64encode(x509.load_der_x509_certificate(der).public_bytes(Encoding.PEM)).decode()

"""The authorities over REST, for operators."""

from datetime import datetime

from cryptography.hazmat.primitives.serialization import Encoding
from pydantic import Field

from ca.authorities import Authorities
from ca.authority import Authority
from certs.pem import fingerprint_sha256
from iam.guard import Answer, Call, Needs, Route
from iam.permissions import Action, Resource
from iam.schema import Shown

_TAG = "Authority"


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


def routes(authorities: Authorities) -> list[Route]:
    """Return the routes of the authorities."""

    async def list_authorities(_: Call) -> Answer:
        return Answer(content=ShownAuthorities(items=[_show_authority(one) for one in authorities.all]))

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
    ]


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

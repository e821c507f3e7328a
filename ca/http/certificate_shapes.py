"""What a certificate looks like in the JSON of Lamassu's CA API."""

from base64 import b64encode
from collections.abc import Sequence
from datetime import datetime
from typing import Any
from uuid import UUID

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import NameOID, ObjectIdentifier
from pydantic import Field

from ca.authorities import Authorities
from ca.inventory import StoredCertificate, stored_serial
from ca.search import Standing, standing
from ca.store.certificate_lists import reason_shown
from certs.keys import key_algorithm
from certs.pem import read_certificate
from iam.schema import SnakeShown

_ED25519_BITS = 256


class ShownSubject(SnakeShown):
    """A name."""

    common_name: str | None = None
    organization: str | None = None
    organization_unit: str | None = None
    country: str | None = None
    state: str | None = None
    locality: str | None = None


class ShownKey(SnakeShown):
    """What kind of key a certificate has."""

    type: str
    bits: int


class ShownIssuer(SnakeShown):
    """The authority that issued a certificate; its level is 0 for a root."""

    id: str
    serial_number: str
    level: int


class ShownCertificate(SnakeShown):
    """A certificate that was issued here."""

    serial_number: str
    status: Standing
    subject: ShownSubject
    valid_from: datetime
    valid_to: datetime
    issuer_metadata: ShownIssuer
    key_id: str = Field(description="SHA-256 of the SubjectPublicKeyInfo, in hexadecimal.")
    key_metadata: ShownKey
    type: str = Field(description="EXTERNAL: the key is the holder's.")
    is_ca: bool
    revocation_timestamp: datetime | None
    revocation_reason: str | None
    profile: str
    device: str | None
    identity: str | None
    issued_at: datetime
    supersedes: str | None
    superseded_at: datetime | None
    metadata: dict[str, Any]
    certificate: str = Field(description="PEM, in base64 once more.")


def show_certificate(one: StoredCertificate, authorities: Authorities, now: datetime) -> ShownCertificate:
    """Return a certificate as it is shown at this moment."""
    certificate = read_certificate(one.der)
    return ShownCertificate(
        serial_number=one.serial.hex(),
        status=standing(one, now),
        subject=show_name(certificate.subject),
        valid_from=one.not_before,
        valid_to=one.not_after,
        issuer_metadata=_show_issuer(one.authority, authorities),
        key_id=one.spki_sha256.hex(),
        key_metadata=show_key(certificate),
        type="EXTERNAL",
        is_ca=_is_authority(certificate),
        revocation_timestamp=one.revoked,
        revocation_reason=reason_shown(one.reason) if one.reason else None,
        profile=one.profile,
        device=one.device,
        identity=one.identity,
        issued_at=one.issued,
        supersedes=one.supersedes.hex() if one.supersedes else None,
        superseded_at=one.superseded,
        metadata=dict(one.metadata),
        certificate=b64encode(certificate.public_bytes(Encoding.PEM)).decode(),
    )


def _show_issuer(identifier: UUID, authorities: Authorities) -> ShownIssuer:
    found = authorities.by_id(identifier)
    level, above = 0, found
    while above.parent is not None:
        level, above = level + 1, authorities.by_id(above.parent)
    serial = stored_serial(found.certificate.serial_number)
    return ShownIssuer(id=str(identifier), serial_number=serial.hex(), level=level)


def show_key(certificate: x509.Certificate) -> ShownKey:
    """Return what kind of key a certificate has, in Lamassu's words."""
    key: Any = certificate.public_key()
    algorithm = key_algorithm(key).value
    if algorithm.startswith("P-"):
        return ShownKey(type="ECDSA", bits=key.key_size)
    family, _, parameters = algorithm.rpartition("-")
    if family:
        return ShownKey(type=family, bits=int(parameters))
    return ShownKey(type=algorithm, bits=getattr(key, "key_size", _ED25519_BITS))


def _is_authority(certificate: x509.Certificate) -> bool:
    return any(isinstance(one.value, x509.BasicConstraints) and one.value.ca for one in certificate.extensions)


def show_name(name: x509.Name) -> ShownSubject:
    """Return the attributes of a name; of several alike the first."""

    def first(kind: ObjectIdentifier) -> str | None:
        found: Sequence[x509.NameAttribute[str | bytes]] = name.get_attributes_for_oid(kind)
        return str(found[0].value) if found else None

    return ShownSubject(
        common_name=first(NameOID.COMMON_NAME),
        organization=first(NameOID.ORGANIZATION_NAME),
        organization_unit=first(NameOID.ORGANIZATIONAL_UNIT_NAME),
        country=first(NameOID.COUNTRY_NAME),
        state=first(NameOID.STATE_OR_PROVINCE_NAME),
        locality=first(NameOID.LOCALITY_NAME),
    )

"""What is on record of certificates that did not come about here, and what need not be any more.

The rules:

1. A certificate is taken in that an authority of the tenant issued before it was here: one that came from elsewhere,
   with its key or without. What our own authorities issue is on record before it leaves; a certificate of theirs that
   is not has no business to be there.
2. It is a leaf, its signature is the authority's, its key is strong and in the one accepted encoding, and neither an
   authority's nor a compromised one; its name is printable and of a bounded length. It may have ended.
3. It proves nobody, whatever it says: to make it a device's identity is a decision of its own (`est.identities`). But
   from now on it can be found, revoked, and told about by list and OCSP where we speak for its authority. Whoever has
   its key was not asked: that it is on record, that it ended, and that its key was compromised, counts for its tenant
   and those below it, and for nobody else.
4. Only a certificate that has ended is deleted, and not just now, for a clock may be ahead (`iam.clock`). Of these none
   goes that still means something: an authority's own; one that lists still name, for lists name what was revoked until
   they have said so after its end (RFC 5280 3.3); the one that a device would renew by, where its label lets it when it
   is late; and one whose key was compromised, which is refused for ever because of it.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from hashlib import sha256
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from ca.authorities import Authorities
from ca.authority import Authority, AuthorityOrigin, AuthorityStatus
from ca.importing import read_one_certificate
from ca.inventory import CertificateStatus, RevocationReason, StoredCertificate, stored_serial
from ca.issue import encoded_key
from ca.list_publishing import is_published
from ca.store.authority_keys import is_key_barred
from ca.store.certificates import delete_certificate, insert_certificate, is_listed, lock_certificate, set_metadata
from certs.der import read_certificate_layout
from certs.errors import UNREADABLE, CertificateRefused
from certs.keys import AUTHORITY_KEYS, check_key_encoding, check_public_key, read_public_key
from certs.names import check_name
from certs.signature import verify_signature
from iam.clock import CLOCK_MAY_GO_BACK
from iam.errors import Kind, Refused, conflict
from iam.identifiers import Clock
from iam.json_patch import Op, Operation, apply_patch
from iam.model import Tenant
from iam.store.database import EVERYWHERE, Change, Database

IMPORTED = "imported"
"""What stands for the profile of a certificate that was made by none of ours."""

_FROM_ELSEWHERE = frozenset({AuthorityOrigin.IMPORTED, AuthorityOrigin.EXTERNAL})
_SUBJECT_CHARACTERS = 1024
_SERIAL_BITS = 159  # RFC 5280 4.1.2.2: at most 20 octets, the sign among them


@dataclass(frozen=True, slots=True)
class Kept:
    """A certificate that stays on record, and why."""

    reason: str


@dataclass(frozen=True, slots=True)
class MayGo:
    """A certificate that may be deleted."""


class RecordKeeping:
    """Takes certificates in, and forgets them."""

    def __init__(self, database: Database, authorities: Authorities, clock: Clock) -> None:
        self._database = database
        self._authorities = authorities
        self._clock = clock

    async def take_in(
        self, tenant: Tenant, certificate: str, metadata: Mapping[str, Any], *, actor: str
    ) -> StoredCertificate:
        """Put a certificate (PEM, or PEM in base64) on record, by rules 1 to 3.

        Raises:
            Refused: (malformed) It cannot be read. (invalid) It is none that is taken in. (conflict) Its serial number
                is taken, or its key is an authority's or compromised.
        """
        read = read_one_certificate(certificate, "certificate")
        await self._authorities.refresh()
        try:
            issuer = self._issuer(tenant, read)
            one = _record(read, issuer, tenant)
        except CertificateRefused as refusal:
            raise Refused(Kind.INVALID, f"The certificate is not taken in: {refusal.reason}.") from refusal
        kept = apply_patch({}, [Operation(Op.REPLACE, (), dict(metadata))])
        async with self._database.transaction(EVERYWHERE) as transaction:  # a key may be anybody's
            if await is_key_barred(transaction, one.spki_sha256, tenant.path):
                raise conflict("The key is an authority's, or was compromised.")
            await insert_certificate(transaction, one)
            await set_metadata(transaction, one.serial, kept)
            data = {"authority": issuer.name, "subject": one.subject}
            await transaction.record(Change(tenant.id, actor, "certificate.imported", one.serial.hex(), data))
        return one

    async def delete(self, tenant: Tenant, serial: bytes, *, actor: str) -> None:
        """Forget a certificate, by rule 4; raise `Refused` (not found, or conflict with what stands against it)."""
        await self._authorities.refresh()
        async with self._database.transaction(tenant.id) as transaction:
            one = await lock_certificate(transaction, serial)
            speaks = is_published(self._authorities.by_id(one.authority), transaction.now)
            judged = judge_deletion(
                one,
                has_ended=one.not_after < transaction.now - CLOCK_MAY_GO_BACK,
                is_authoritys=self._authorities.has_certificate(serial),
                is_listed=speaks and await is_listed(transaction, one),
            )
            if isinstance(judged, Kept):
                raise conflict(judged.reason)
            await delete_certificate(transaction, one)
            data = {"device": one.device, "subject": one.subject, "spki_sha256": one.spki_sha256.hex()}
            await transaction.record(Change(one.tenant, actor, "certificate.deleted", serial.hex(), data))

    def _issuer(self, tenant: Tenant, certificate: x509.Certificate) -> Authority:
        named = [
            one
            for one in self._authorities.all
            if one.tenant == tenant.id
            and one.origin in _FROM_ELSEWHERE
            and one.certificate.subject == certificate.issuer
        ]
        refusal: CertificateRefused | None = None
        for one in named:  # two of one name are told from each other by the signature
            try:
                verify_signature(certificate, one.anchor.public_key)
            except CertificateRefused as refused:
                refusal = refused
            else:
                if one.status is AuthorityStatus.REVOKED or one.is_revoked_above:
                    raise conflict(f"The authority {one.name} is revoked, and with it all that it issued.")
                return one
        if refusal is not None:
            raise refusal
        raise Refused(
            Kind.INVALID,
            "No authority that came from elsewhere to this group has issued it: take that in first (/cas/import).",
        )


def judge_deletion(one: StoredCertificate, *, has_ended: bool, is_authoritys: bool, is_listed: bool) -> MayGo | Kept:
    """Decide whether a certificate may be deleted, by rule 4."""
    proves = one.identity is not None and one.status is CertificateStatus.ACTIVE
    for stands_against, reason in (
        (is_authoritys, "The certificate is an authority's: delete that."),
        (not has_ended, f"It has not ended for a day: it counts, or lists name it, until {one.not_after.isoformat()}."),
        (is_listed, "Revocation lists still name it: they leave it out once they have said so after its end."),
        (proves, "It is the newest of its device, which may be late and renew by it: decommission the device first."),
        (one.reason is RevocationReason.KEY_COMPROMISE, "Its key was compromised, and is refused because of it."),
    ):
        if stands_against:
            return Kept(reason)
    return MayGo()


def _record(certificate: x509.Certificate, issuer: Authority, tenant: Tenant) -> StoredCertificate:
    """Check a certificate by rule 2 and return it as it is to be stored; raise `CertificateRefused`, or `Refused`."""
    der = certificate.public_bytes(Encoding.DER)
    layout = read_certificate_layout(der)
    check_name(layout.subject)
    key = check_public_key(read_public_key(certificate), AUTHORITY_KEYS)
    check_key_encoding(key, layout.subject_public_key_info)
    subject, number = certificate.subject.rfc4514_string(), certificate.serial_number
    for stands_against, reason in (
        (_is_authority(certificate), "an authority is taken in as one (/cas/import)"),
        (len(subject) > _SUBJECT_CHARACTERS, f"its name is longer than {_SUBJECT_CHARACTERS} characters"),
        (number <= 0 or number.bit_length() > _SERIAL_BITS, "its serial number is not of 1 to 20 octets and positive"),
    ):
        if stands_against:
            raise Refused(Kind.INVALID, f"The certificate is not taken in: {reason}.")
    return StoredCertificate(
        serial=stored_serial(number),
        authority=issuer.id,
        tenant=tenant.id,
        profile=IMPORTED,
        device=None,
        identity=None,
        subject=subject,
        spki_sha256=sha256(encoded_key(key)).digest(),
        request_sha256=None,
        not_before=certificate.not_valid_before_utc,
        not_after=certificate.not_valid_after_utc,
        der=der,
        status=CertificateStatus.ACTIVE,
        issued=certificate.not_valid_before_utc,
    )


def _is_authority(certificate: x509.Certificate) -> bool:
    try:
        return any(isinstance(one.value, x509.BasicConstraints) and one.value.ca for one in certificate.extensions)
    except UNREADABLE as error:
        raise Refused(Kind.MALFORMED, "The certificate's extensions cannot be read.") from error

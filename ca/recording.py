"""Certificates on record that are no device's own: so each can be revoked, and no serial number comes twice."""

from uuid import UUID

from ca.inventory import CertificateStatus, StoredCertificate, stored_serial
from ca.issue import Issued
from ca.store.authorities import StoredAuthority, set_serial
from ca.store.certificates import insert_certificate
from certs.pem import read_certificate
from iam.store.database import Transaction


async def put_on_record(transaction: Transaction, one: StoredAuthority, profile: str) -> None:
    """Record the certificate of an authority that was issued here, and say that it is the authority's."""
    certificate = read_certificate(one.certificate)
    issued = Issued(
        der=one.certificate,
        serial=stored_serial(certificate.serial_number),
        not_before=certificate.not_valid_before_utc,
        not_after=certificate.not_valid_after_utc,
        profile=profile,
        subject=certificate.subject.rfc4514_string(),
        spki_sha256=one.spki_sha256,
    )
    await record_issued(transaction, issued, one.parent or one.id, one.tenant)
    await set_serial(transaction, one.id, issued.serial, issued.der)


async def record_issued(
    transaction: Transaction, issued: Issued, issuer: UUID, tenant: UUID, *, device: str | None = None
) -> None:
    """Record a certificate that proves nobody; `device` is whom it names, if it names one."""
    await insert_certificate(
        transaction,
        StoredCertificate(
            serial=issued.serial,
            authority=issuer,
            tenant=tenant,
            profile=issued.profile,
            device=device,
            identity=None,
            subject=issued.subject,
            spki_sha256=issued.spki_sha256,
            request_sha256=None,
            not_before=issued.not_before,
            not_after=issued.not_after,
            der=issued.der,
            status=CertificateStatus.ACTIVE,
            issued=transaction.now,
        ),
    )

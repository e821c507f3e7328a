"""What becomes of a certificate, and what it is good for."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from uuid import UUID

import pytest

from ca.inventory import (
    REASON_CODES,
    CertificateStatus,
    CertificateStep,
    RevocationReason,
    StoredCertificate,
    judge_presented,
    next_status,
)
from iam.access import Denied
from iam.errors import Kind, Refused

NOW = datetime(2030, 6, 1, tzinfo=UTC)
DAY = timedelta(days=1)
DER = b"as it was issued"
STORED = StoredCertificate(
    serial=bytes(16),
    authority=UUID(int=1),
    tenant=UUID(int=2),
    profile="device",
    device="meter-001",
    identity="idt-1",
    subject="CN=meter-001",
    spki_sha256=b"",
    request_sha256=None,
    not_before=NOW - DAY,
    not_after=NOW + DAY,
    der=DER,
    status=CertificateStatus.ACTIVE,
    issued=NOW - DAY,
)


TRUSTED = frozenset({STORED.authority})


@pytest.mark.parametrize("moment", [NOW - DAY, NOW, NOW + DAY])
def test_an_active_certificate_on_record_proves_its_identity(moment: datetime) -> None:
    assert judge_presented(DER, STORED, moment, TRUSTED) == "idt-1"


@pytest.mark.parametrize(
    ("presented", "stored", "moment"),
    [
        (DER, None, NOW),
        (b"another of that serial number", STORED, NOW),
        (DER, replace(STORED, status=CertificateStatus.SUPERSEDED), NOW),
        (DER, replace(STORED, status=CertificateStatus.HELD), NOW),
        (DER, replace(STORED, status=CertificateStatus.REVOKED), NOW),
        (DER, replace(STORED, identity=None), NOW),
        (DER, replace(STORED, authority=UUID(int=3)), NOW),
        (DER, STORED, NOW - DAY - timedelta(seconds=1)),
        (DER, STORED, NOW + DAY + timedelta(seconds=1)),
    ],
)
def test_any_other_proves_nobody(presented: bytes, stored: StoredCertificate | None, moment: datetime) -> None:
    assert isinstance(judge_presented(presented, stored, moment, TRUSTED), Denied)


@pytest.mark.parametrize(
    ("status", "step", "after"),
    [
        (CertificateStatus.ACTIVE, CertificateStep.SUPERSEDE, CertificateStatus.SUPERSEDED),
        (CertificateStatus.ACTIVE, CertificateStep.REVOKE, CertificateStatus.REVOKED),
        (CertificateStatus.SUPERSEDED, CertificateStep.REVOKE, CertificateStatus.REVOKED),
        (CertificateStatus.SUPERSEDED, CertificateStep.SUPERSEDE, None),
        (CertificateStatus.ACTIVE, CertificateStep.HOLD, CertificateStatus.HELD),
        (CertificateStatus.ACTIVE, CertificateStep.RELEASE, None),
        (CertificateStatus.SUPERSEDED, CertificateStep.HOLD, None),
        (CertificateStatus.HELD, CertificateStep.HOLD, None),
        (CertificateStatus.HELD, CertificateStep.SUPERSEDE, None),
        (CertificateStatus.HELD, CertificateStep.RELEASE, CertificateStatus.ACTIVE),
        (CertificateStatus.HELD, CertificateStep.REVOKE, CertificateStatus.REVOKED),
        (CertificateStatus.REVOKED, CertificateStep.HOLD, None),
        (CertificateStatus.REVOKED, CertificateStep.RELEASE, None),
        (CertificateStatus.REVOKED, CertificateStep.REVOKE, None),
        (CertificateStatus.REVOKED, CertificateStep.SUPERSEDE, None),
    ],
)
def test_steps(status: CertificateStatus, step: CertificateStep, after: CertificateStatus | None) -> None:
    if after is not None:
        assert next_status(status, step) is after
        return
    with pytest.raises(Refused) as refused:
        next_status(status, step)
    assert refused.value.kind is Kind.CONFLICT


def test_each_reason_has_its_code() -> None:
    assert set(REASON_CODES) == set(RevocationReason)
    assert len(set(REASON_CODES.values())) == len(REASON_CODES)

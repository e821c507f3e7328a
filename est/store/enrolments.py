"""Enrolment in SQL: the two statements that record it.

An enrolment is one statement and so one round trip: a function of migration 0003 that finds the facts, compares them
with those that the decision was made on, and writes if they are the same. Its answer comes after its commit.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Generic, Protocol, TypeVar
from uuid import UUID

import asyncpg

from ca.issue import Issued
from certs.csr import CertificateRequest
from est.profiles import EnrolmentProfile
from est.rules import (
    EnrolmentFacts,
    RenewalFacts,
    decode_enrolment_facts,
    decode_renewal_facts,
    encode_facts,
)
from iam.events import affects_identity
from iam.store.database import Change, Database, Row

Facts = TypeVar("Facts", EnrolmentFacts, RenewalFacts)


class StatementDatabase(Database, Protocol):
    """A database that also runs a single statement as a transaction of its own, in one round trip."""

    async def statement(self, query: str, *values: object, changes: Callable[[Row], Sequence[Change]]) -> Row:
        """Run `query` and return its one row, after the commit; announce the changes that the row tells of.

        Raises:
            Refused: (unavailable) The database cannot be reached.
        """


@dataclass(frozen=True, slots=True)
class Recorded(Generic[Facts]):
    """What came of an attempt to record.

    Attributes:
        facts: What holds now; if nothing was written, they differ from those that were expected.
        existing: The certificate that the device has for the same key already.
    """

    is_written: bool
    facts: Facts
    existing: bytes | None


@dataclass(frozen=True, slots=True)
class Attempt:
    """What an enrolment or re-enrolment would write.

    Attributes:
        presented: The client's certificate in DER, with its serial number, SHA-256, key, and its issuer's key.
        authority: Who issued the new one.
        change: The id of the change that is recorded.
    """

    now: datetime
    device: str
    presented: bytes
    presented_serial: bytes
    presented_sha256: bytes
    presented_spki_sha256: bytes
    presented_issuer_spki_sha256: bytes
    request: CertificateRequest
    issued: Issued
    authority: UUID
    change: UUID

    @property
    def is_same_key(self) -> bool:
        """Whether the new certificate is for the key of the one presented."""
        return self.presented_spki_sha256 == self.request.spki_sha256


class MeanwhileChanged(Exception):
    """Somebody else wrote the same at the same time; nothing was written, and the facts are to be found again."""


_ENROL_ARGUMENTS = "$2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16, $17, $18, $19, $20, $21"
_ENROL = f"""
    SELECT facts, is_written, tenant, identity, existing, replaced FROM enrol_device($1, {_ENROL_ARGUMENTS})"""

# Each function needs what the one before gives, which keeps them in this order.
_ENROL_GENERATED = f"""
    SELECT e.facts, e.is_written, e.tenant, e.identity, e.existing, e.replaced
    FROM begin_generated_enrolment($1, $2, $3, $8, $22) AS b,
         LATERAL enrol_device(b.expected, {_ENROL_ARGUMENTS}) AS e,
         LATERAL end_generated_enrolment(e.is_written, b.is_opened, $2, $3, $8, $13, e.tenant, b.began) AS done"""


async def enrol_device(
    database: StatementDatabase,
    profile: EnrolmentProfile,
    attempt: Attempt,
    expected: EnrolmentFacts,
    identity: str,
    redelivery: timedelta | None = None,
) -> Recorded[EnrolmentFacts]:
    """Record a first enrolment if the facts are as expected; `identity` is the id of a new one, if one is made.

    Args:
        redelivery: For a key that was made here: for how long the same client may have another one.

    Raises:
        MeanwhileChanged: Ask again.
        Refused: (unavailable) Whether it was written is not known; the same request, sent again, will tell.
    """

    def changes(row: Row) -> Sequence[Change]:
        tenant, who = row["tenant"], row["identity"]
        revoked = {"reason": "superseded", "device": attempt.device, "identity": who, **affects_identity(who)}
        return (
            # Nobody's access: whoever is new was never heard of, and what was replaced is told of as revoked.
            Change(tenant, who, "device.enrolled", attempt.device, {"identity": who}),
            *(Change(tenant, who, "certificate.revoked", one.hex(), revoked) for one in row["replaced"] or ()),
        )

    return await _record(
        database,
        _ENROL if redelivery is None else _ENROL_GENERATED,
        expected,
        decode_enrolment_facts,
        changes,
        attempt.now,
        attempt.device,
        profile.tenant,
        profile.name,
        profile.role_name,
        attempt.presented_serial,
        attempt.presented_sha256,
        attempt.presented_spki_sha256,
        attempt.presented_issuer_spki_sha256,
        attempt.request.sha256,
        *_new(attempt),
        identity,
        attempt.change,
        *(() if redelivery is None else (redelivery,)),
    )


_REENROL_ARGUMENTS = "$6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16, $17, $18"
_REENROL = f"""
    SELECT facts, is_written, tenant, identity, existing
    FROM reenrol_device($1, $2, $3, $4, $5, {_REENROL_ARGUMENTS})"""

_REENROL_GENERATED = f"""
    SELECT e.facts, e.is_written, e.tenant, e.identity, e.existing
    FROM begin_generated_renewal($1, $2, $8, $6, $19, $5, $20) AS b,
         LATERAL reenrol_device(b.expected, $2, $3, $4, b.grace, {_REENROL_ARGUMENTS}) AS e,
         LATERAL end_generated_renewal(
             e.is_written, b.undelivered, $2, $8, $19, $11, e.tenant, e.identity, b.began) AS done"""


async def reenrol_device(
    database: StatementDatabase,
    profile: EnrolmentProfile,
    attempt: Attempt,
    expected: RenewalFacts,
    redelivery: timedelta | None = None,
) -> Recorded[RenewalFacts]:
    """Record a re-enrolment if the facts are as expected.

    Args:
        redelivery: For a key that was made here: for how long the same client may have another one.

    Raises:
        MeanwhileChanged: Ask again.
        Refused: (unavailable) Whether it was written is not known; the same request, sent again, will tell.
    """

    def changes(row: Row) -> Sequence[Change]:
        who = row["identity"]
        affected = {} if attempt.is_same_key else affects_identity(who)  # a new key ends what the old one connected
        data = {"identity": who, **affected}
        return (Change(row["tenant"], who, "device.renewed", attempt.device, data),)

    return await _record(
        database,
        _REENROL if redelivery is None else _REENROL_GENERATED,
        expected,
        decode_renewal_facts,
        changes,
        attempt.now,
        profile.tenant,
        profile.name,
        profile.previous_grace,
        attempt.presented_serial,
        attempt.presented,
        attempt.device,
        attempt.request.sha256,
        *_new(attempt),
        attempt.change,
        *(() if redelivery is None else (attempt.presented_sha256, redelivery)),
    )


async def _record(
    database: StatementDatabase,
    query: str,
    expected: Facts,
    decode: Callable[[str], Facts],
    changes: Callable[[Row], Sequence[Change]],
    *values: object,
) -> Recorded[Facts]:
    """Record what `values` say if the facts are as expected, and announce the changes; errors as above."""
    try:
        row = await database.statement(
            query,
            encode_facts(expected),
            *values,
            changes=lambda row: changes(row) if row["is_written"] else (),
        )
    except (asyncpg.UniqueViolationError, asyncpg.DeadlockDetectedError) as error:
        raise MeanwhileChanged from error
    facts = expected if row["is_written"] else decode(row["facts"])
    return Recorded(row["is_written"], facts, row["existing"])


def _new(attempt: Attempt) -> tuple[object, ...]:
    issued = attempt.issued
    return (
        issued.spki_sha256,
        issued.serial,
        attempt.authority,
        issued.profile,
        issued.subject,
        issued.not_before,
        issued.not_after,
        issued.der,
    )

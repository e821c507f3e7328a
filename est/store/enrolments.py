"""Enrolment in SQL: the statements that record it.

An enrolment is one statement and so one round trip: a function of migration 0014 that finds the facts, compares them
with those that the decision was made on, and writes if they are the same. Its answer comes after its commit. For a key
that was made here, two functions of migration 0008 stand around it in the same statement: they let a lost answer be
asked for again, and note whose it was.

A look at the facts is the same statement with facts that are never found: it writes nothing, and so tells just what the
recording would have found.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Generic, Protocol, TypeVar
from uuid import UUID

import asyncpg

from ca.issue import Issued
from certs.csr import CertificateRequest
from est.facts import EnrolmentFacts, RenewalFacts, decode_enrolment_facts, decode_renewal_facts, encode_facts
from est.profiles import EnrolmentProfile
from iam.events import affects_identity
from iam.store.database import Change, Database, Row, Transaction

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
class PresentedCertificate:
    """The client's certificate in DER, with its serial number, SHA-256, key, and its issuer's key."""

    der: bytes
    serial: bytes
    sha256: bytes
    spki_sha256: bytes
    issuer_spki_sha256: bytes


@dataclass(frozen=True, slots=True)
class Attempt:
    """What an enrolment or re-enrolment would write.

    Attributes:
        authority: Who issued the new one.
        change: The id of the change that is recorded.
    """

    now: datetime
    device: str
    request: CertificateRequest
    issued: Issued
    authority: UUID
    change: UUID


@dataclass(frozen=True, slots=True)
class Credentials:
    """By what a first enrolment is entitled.

    Attributes:
        names: Of each, for the audit.
        secret: The id of the enrolment secret among them.
    """

    names: tuple[str, ...]
    certificate: PresentedCertificate | None
    secret: UUID | None


@dataclass(frozen=True, slots=True)
class Redelivery:
    """Who may have another key made after an answer that was lost, None being nobody, and for how long."""

    asked_by: bytes | None
    within: timedelta


_NEVER_FOUND = "null"
_NOTHING_NEW = (None,) * 8


class MeanwhileChanged(Exception):
    """Somebody else wrote the same at the same time; nothing was written, and the facts are to be found again."""


_ENROL_ARGUMENTS = (
    "$2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16, $17, $18, $19, $20, $21, $22, $23, $24"
)
_ENROL = f"""
    SELECT facts, is_written, tenant, identity, existing, replaced FROM enrol_device($1, {_ENROL_ARGUMENTS})"""

# Each function needs what the one before gives, which keeps them in this order.
_ENROL_GENERATED = f"""
    SELECT e.facts, e.is_written, e.tenant, e.identity, e.existing, e.replaced
    FROM begin_generated_enrolment($1, $2, $3, $25, $26) AS b,
         LATERAL enrol_device(b.expected, {_ENROL_ARGUMENTS}) AS e,
         LATERAL end_generated_enrolment(
             e.is_written, b.is_opened, $2, $3, $25, $16, e.tenant, e.identity, b.began) AS done"""


async def enrol_device(
    database: StatementDatabase,
    profile: EnrolmentProfile,
    credentials: Credentials,
    attempt: Attempt,
    expected: EnrolmentFacts,
    identity: str,
    redelivery: Redelivery | None = None,
) -> Recorded[EnrolmentFacts]:
    """Record a first enrolment if the facts are as expected; `identity` is the id of a new one, if one is made.

    Args:
        redelivery: For a key that was made here: who may have another one.

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
        profile.device_defaults,
        list(credentials.names),
        credentials.secret,
        *_of_certificate(credentials.certificate),
        attempt.request.sha256,
        *_new(attempt),
        identity,
        attempt.change,
        *_of_redelivery(redelivery),
    )


async def look_at_enrolment(
    database: StatementDatabase,
    profile: EnrolmentProfile,
    credentials: Credentials,
    device: str,
    now: datetime,
    redelivery: Redelivery,
) -> EnrolmentFacts:
    """Return the facts of a first enrolment by a key that is not made yet, and so nobody's."""
    row = await database.statement(
        _ENROL_GENERATED,
        _NEVER_FOUND,
        now,
        device,
        profile.tenant,
        profile.name,
        profile.role_name,
        profile.device_defaults,
        list(credentials.names),
        credentials.secret,
        *_of_certificate(credentials.certificate),
        None,
        *_NOTHING_NEW,
        None,
        None,
        *_of_redelivery(redelivery),
        changes=lambda _: (),
    )
    return decode_enrolment_facts(row["facts"])


_REENROL_ARGUMENTS = "$6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16, $17, $18, $19"
_REENROL = f"""
    SELECT facts, is_written, tenant, identity, existing
    FROM reenrol_device($1, $2, $3, $4, $5, {_REENROL_ARGUMENTS})"""

_REENROL_GENERATED = f"""
    SELECT e.facts, e.is_written, e.tenant, e.identity, e.existing
    FROM begin_generated_renewal($1, $2, $9, $7, $20, $5, $21) AS b,
         LATERAL reenrol_device(b.expected, $2, $3, $4, b.grace, {_REENROL_ARGUMENTS}) AS e,
         LATERAL end_generated_renewal(
             e.is_written, b.undelivered, $2, $9, $20, $12, e.tenant, e.identity, b.began) AS done"""


async def reenrol_device(
    database: StatementDatabase,
    profile: EnrolmentProfile,
    presented: PresentedCertificate,
    attempt: Attempt,
    expected: RenewalFacts,
    redelivery: Redelivery | None = None,
) -> Recorded[RenewalFacts]:
    """Record a re-enrolment if the facts are as expected.

    Args:
        redelivery: For a key that was made here: who may have another one.

    Raises:
        MeanwhileChanged: Ask again.
        Refused: (unavailable) Whether it was written is not known; the same request, sent again, will tell.
    """

    def changes(row: Row) -> Sequence[Change]:
        who = row["identity"]
        is_same_key = presented.spki_sha256 == attempt.request.spki_sha256
        affected = {} if is_same_key else affects_identity(who)  # a new key ends what the old one connected
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
        profile.settings.renewal.revokes_previous,
        presented.serial,
        presented.der,
        attempt.device,
        attempt.request.sha256,
        *_new(attempt),
        attempt.change,
        *_of_redelivery(redelivery),
    )


async def look_at_renewal(
    database: StatementDatabase,
    profile: EnrolmentProfile,
    presented: PresentedCertificate,
    device: str,
    now: datetime,
    redelivery: Redelivery,
) -> RenewalFacts:
    """Return the facts of a re-enrolment by a key that is not made yet, and so nobody's."""
    row = await database.statement(
        _REENROL_GENERATED,
        _NEVER_FOUND,
        now,
        profile.tenant,
        profile.name,
        profile.previous_grace,
        profile.settings.renewal.revokes_previous,
        presented.serial,
        presented.der,
        device,
        None,
        *_NOTHING_NEW,
        None,
        *_of_redelivery(redelivery),
        changes=lambda _: (),
    )
    return decode_renewal_facts(row["facts"])


_OWED = """
    SELECT serial FROM certificate WHERE revoke_at <= $1 AND status = 'superseded' ORDER BY revoke_at LIMIT 500"""


async def owed_revocations(transaction: Transaction) -> list[bytes]:
    """Return the serial numbers of superseded certificates that are to be revoked by now; so many at once."""
    return [row["serial"] for row in await transaction.fetch(_OWED, transaction.now)]


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


def _of_certificate(presented: PresentedCertificate | None) -> tuple[bytes | None, ...]:
    if presented is None:
        return (None, None, None, None)
    return (presented.serial, presented.sha256, presented.spki_sha256, presented.issuer_spki_sha256)


def _of_redelivery(redelivery: Redelivery | None) -> tuple[object, ...]:
    return () if redelivery is None else (redelivery.asked_by, redelivery.within)


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

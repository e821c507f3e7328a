"""The outbox and the audit in SQL: what waits to be published, what waits to be chained, and the chain.

A line's hash is SHA-256 over the previous line's hash and the line itself in one canonical JSON form; so whoever has
the last hash can tell whether any line before it was changed, added or taken away.
"""

import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

import orjson

from iam.errors import malformed
from iam.events import Event
from iam.paging import Page, PageQuery, decode_cursor, page_of
from iam.store.database import Row, Transaction

_SEQUENCE = re.compile(r"[0-9]{1,18}")

FIRST = bytes(32)
"""What stands for the hash before the first line."""

# `iam.events.is_for_nodes`, in SQL. The index `outbox_urgent` of migration 0012 is made of the same expression.
_URGENT = r"(data ? 'affects' OR kind ~ '^(authority\.|certificate\.|device\.renewed|issuance_profile\.)')"
_WAITING = f"""
    SELECT id, tenant_id, at, actor, kind, subject, data FROM outbox ORDER BY (NOT {_URGENT}), id LIMIT $1"""
_PUBLISHED = "DELETE FROM outbox WHERE id = ANY ($1)"


async def waiting_events(transaction: Transaction, limit: int) -> list[Event]:
    """Return events that are not published yet: first what nodes act on; of each, oldest first."""
    return [_event_from(row) for row in await transaction.fetch(_WAITING, limit)]


async def forget_published(transaction: Transaction, events: Sequence[Event]) -> None:
    """Take events out of the outbox that NATS has stored."""
    await transaction.execute(_PUBLISHED, [event.id for event in events])


@dataclass(frozen=True, slots=True)
class AuditLine:
    """One line of the audit, and what binds it to the one before."""

    sequence: int
    event: Event
    previous: bytes
    hash: bytes


def line_hash(previous: bytes, sequence: int, event: Event) -> bytes:
    """Return the hash of a line: SHA-256(previous hash, canonical JSON of the line)."""
    content = {
        "sequence": sequence,
        "id": str(event.id),
        "tenant": str(event.tenant),
        "at": event.at.astimezone(UTC).isoformat(),
        "actor": event.actor,
        "kind": event.kind,
        "subject": event.subject,
        "data": event.data,
    }
    return hashlib.sha256(previous + orjson.dumps(content, option=orjson.OPT_SORT_KEYS)).digest()


def check_line(line: AuditLine, previous: bytes, sequence: int) -> bool:
    """Tell whether a line is the one that follows the hash `previous`, with this number, unchanged."""
    follows = line.sequence == sequence and line.previous == previous
    return follows and line_hash(previous, sequence, line.event) == line.hash


_CHAINED = "SELECT coalesce(max(sequence), 0) FROM audit"
# A line is either chained or waits to be: one statement sees each of them once.
_EFFECTS_AFTER = """
    SELECT id, tenant_id, at, actor, kind, subject, data FROM audit_pending WHERE data ? 'affects'
    UNION ALL
    SELECT id, tenant_id, at, actor, kind, subject, data FROM audit WHERE sequence > $1 AND data ? 'affects'
    ORDER BY id"""


async def chained_until(transaction: Transaction) -> int:
    """Return the number of the last line of the chain; 0 if there is none."""
    return int(await transaction.fetchval(_CHAINED))


async def effects_after(transaction: Transaction, sequence: int) -> tuple[list[Event], int]:
    """Return what touches somebody's access of all that waits or was chained after a line, and where to go on from.

    Nothing that is committed is ever left out, whatever the time of day is: a line gets its number when it is chained.
    What waits is given again the next time, chained or not.
    """
    until = await chained_until(transaction)  # before the lines: what is chained in between is given twice
    return [_event_from(row) for row in await transaction.fetch(_EFFECTS_AFTER, sequence)], until


_LAST = "SELECT sequence, hash FROM audit ORDER BY sequence DESC LIMIT 1"
_TAKE_PENDING = """
    DELETE FROM audit_pending WHERE id IN (SELECT id FROM audit_pending ORDER BY id LIMIT $1)
    RETURNING id, tenant_id, at, actor, kind, subject, data"""
_CHAIN = """
    INSERT INTO audit (sequence, id, tenant_id, at, actor, kind, subject, data, previous, hash)
    VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10)"""


async def chain_pending(transaction: Transaction, limit: int) -> int:
    """Move lines that wait into the chain; one node at a time. Return how many."""
    last = await transaction.fetchrow(_LAST)
    sequence, previous = (last["sequence"], last["hash"]) if last else (0, FIRST)
    rows = sorted(await transaction.fetch(_TAKE_PENDING, limit), key=_id_of)
    lines: list[tuple[Any, ...]] = []
    for row in rows:
        event = _event_from(row)
        sequence += 1
        hashed = line_hash(previous, sequence, event)
        lines.append(
            (
                sequence,
                event.id,
                event.tenant,
                event.at,
                event.actor,
                event.kind,
                event.subject,
                row["data"],
                previous,
                hashed,
            )
        )
        previous = hashed
    if lines:
        await transaction.executemany(_CHAIN, lines)
    return len(lines)


_AUDIT = "SELECT sequence, id, tenant_id, at, actor, kind, subject, data, previous, hash FROM audit"
_PAGE = f"{_AUDIT} WHERE tenant_id = $1 AND sequence > $2 ORDER BY sequence LIMIT $3"
_FROM = f"{_AUDIT} WHERE sequence > $1 ORDER BY sequence LIMIT $2"


async def page_of_audit(transaction: Transaction, tenant: UUID, query: PageQuery) -> Page[AuditLine]:
    """Return a tenant's lines, oldest first."""
    cursor = decode_cursor(query.cursor, 1)
    if cursor is not None and not _SEQUENCE.fullmatch(cursor[0]):
        raise malformed("This is not a cursor of this list.")
    after = int(cursor[0]) if cursor else 0
    found = [_line_from(row) for row in await transaction.fetch(_PAGE, tenant, after, query.limit + 1)]
    return page_of(found, query.limit, [(str(line.sequence),) for line in found])


async def audit_after(transaction: Transaction, sequence: int, limit: int) -> list[AuditLine]:
    """Return the next lines of all tenants, for checking the chain."""
    return [_line_from(row) for row in await transaction.fetch(_FROM, sequence, limit)]


def _line_from(row: Row) -> AuditLine:
    return AuditLine(row["sequence"], _event_from(row), row["previous"], row["hash"])


def _event_from(row: Row) -> Event:
    at: datetime = row["at"]
    return Event(
        id=row["id"],
        tenant=row["tenant_id"],
        at=at,
        actor=row["actor"],
        kind=row["kind"],
        subject=row["subject"],
        data=orjson.loads(row["data"]),
    )


def _id_of(row: Row) -> UUID:
    identifier: UUID = row["id"]
    return identifier

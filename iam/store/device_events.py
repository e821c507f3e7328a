"""A device's history in SQL: the lines of the audit that are about it, chained or not yet."""

from datetime import datetime
from uuid import UUID

import orjson

from iam.device_history import NOTED, TYPES, DeviceEvent
from iam.listing import FieldKind, ListQuery
from iam.paging import Page
from iam.store.database import Row, Transaction
from iam.store.listing import Column, Listing, page_of_list

# What each word means is what the properties of `DeviceEvent` say.
_KINDS = " ".join(f"WHEN '{kind}' THEN '{one}'" for kind, one in TYPES.items())
_TYPE = f"CASE kind WHEN '{NOTED}' THEN data ->> 'type' {_KINDS} ELSE 'UNKNOWN' END"
_HAPPENED = f"CASE kind WHEN '{NOTED}' THEN (data ->> 'happened')::timestamptz ELSE at END"
_SOURCE = f"CASE kind WHEN '{NOTED}' THEN coalesce(data ->> 'source', actor) ELSE actor END"
_FIELDS = f"CASE kind WHEN '{NOTED}' THEN data -> 'fields' ELSE data END"

_EVENTS = Listing(
    select="id, at, kind, actor, data",
    source="""FROM (
        SELECT id, at, kind, actor, data FROM audit
        WHERE tenant_id = $1 AND device_identifier = $2 AND at >= $3
        UNION ALL
        SELECT id, at, kind, actor, data FROM audit_pending
        WHERE tenant_id = $1 AND kind LIKE ANY (ARRAY['device.%', 'certificate.%', 'enrolment.%'])
          AND coalesce(data ->> 'device', subject) = $2 AND at >= $3) AS event""",
    columns={
        "id": Column(FieldKind.UUID, "id"),
        "event_ts": Column(FieldKind.DATE, _HAPPENED),
        "event_type": Column(FieldKind.TEXT, _TYPE),
        "source": Column(FieldKind.TEXT, _SOURCE),
        "structured_fields": Column(FieldKind.JSON, _FIELDS),
    },
    key="id",
)


async def page_of_events(
    transaction: Transaction, tenant: UUID, device: str, since: datetime, query: ListQuery
) -> Page[DeviceEvent]:
    """Return what happened to a device since then, oldest first if not said otherwise; raises as `page_of_list`."""
    page = await page_of_list(transaction, _EVENTS, query, "true", tenant, device, since)
    return Page(tuple(_event_from(row) for row in page.items), page.next)


def _event_from(row: Row) -> DeviceEvent:
    return DeviceEvent(row["id"], row["at"], row["kind"], row["actor"], orjson.loads(row["data"]))

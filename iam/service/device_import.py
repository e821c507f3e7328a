"""Registering many devices at once, from lines that come as they come.

The rules:

1. Each line stands for itself: what is wrong with one keeps no other from being registered, and is reported with the
   number of its line and the reason. The report names the first `MOST_REFUSALS` of them and counts all.
2. Lines are registered in batches, each a transaction of its own, so that an import of any size holds nothing for long.
   Who loses his connection may send the same file again: what is registered already is refused line by line.
3. A dry run does the same, and takes each batch back.
"""

from collections.abc import AsyncIterator
from dataclasses import dataclass, field

from certs.errors import CertificateRefused
from iam.access import Access
from iam.errors import Kind, Refused
from iam.identifiers import Clock
from iam.model import Device, Tenant
from iam.service.devices import Registration, registered
from iam.store import devices
from iam.store.database import Change, Database

MOST_LINES = 200_000
MOST_REFUSALS = 1_000
_BATCH = 250


@dataclass(frozen=True, slots=True)
class Line:
    """What a line says: a device to register, or why it cannot be read."""

    number: int
    content: Registration | str


@dataclass(frozen=True, slots=True)
class RefusedLine:
    """A line that registered nothing.

    Attributes:
        identifier: The device that it speaks of, as far as that could be read.
    """

    number: int
    identifier: str | None
    reason: str


@dataclass(slots=True)
class Report:
    """What an import came to."""

    is_dry_run: bool
    lines: int = 0
    registered: int = 0
    refused: int = 0
    refusals: list[RefusedLine] = field(default_factory=list)

    def refuse(self, number: int, identifier: str | None, reason: str) -> None:
        """Count a refused line, and name it while there is room."""
        self.refused += 1
        if len(self.refusals) < MOST_REFUSALS:
            self.refusals.append(RefusedLine(number, identifier, reason))


class DeviceImport:
    """Imports of devices."""

    def __init__(self, database: Database, clock: Clock) -> None:
        self._database = database
        self._clock = clock

    async def take(
        self, access: Access, tenant: Tenant, lines: AsyncIterator[Line], *, is_dry_run: bool = False
    ) -> Report:
        """Register the devices of all lines that can be.

        Raises:
            Refused: What `lines` raises, or (too large) there are too many of them; it says how many were registered.
        """
        run = _Run(self._database, self._clock, access, tenant, Report(is_dry_run))
        try:
            async for line in _bounded(lines):
                await run.take(line)
        except Refused as refused:
            already = f"{refused.detail} {run.report.registered} devices were registered before that."
            raise Refused(refused.kind, already, reason=refused.reason, retry_after=refused.retry_after) from refused
        await run.register()
        run.report.refusals.sort(key=lambda one: one.number)
        return run.report


async def _bounded(lines: AsyncIterator[Line]) -> AsyncIterator[Line]:
    number = 0
    async for line in lines:
        number += 1
        if number > MOST_LINES:
            raise Refused(Kind.TOO_LARGE, f"An import has at most {MOST_LINES} lines.")
        yield line


@dataclass(slots=True)
class _Run:
    """One import while it goes on: what it came to, and what it knows from the lines before."""

    database: Database
    clock: Clock
    access: Access
    tenant: Tenant
    report: Report
    first_seen: dict[str, int] = field(default_factory=dict)
    labels: dict[str, bool] = field(default_factory=dict)
    batch: list[tuple[int, Device]] = field(default_factory=list)

    async def take(self, line: Line) -> None:
        """Take one more line, and register the batch when it is full."""
        self.report.lines += 1
        if isinstance(line.content, str):
            self.report.refuse(line.number, None, line.content)
            return
        wanted = line.content
        try:
            device = registered(wanted, self.tenant, self.clock())
        except CertificateRefused as refused:
            self.report.refuse(line.number, wanted.identifier[:128], str(refused))
            return
        reason = await self._reason_against(device, line.number)
        if reason is not None:
            self.report.refuse(line.number, device.identifier, reason)
            return
        self.batch.append((line.number, device))
        if len(self.batch) == _BATCH:
            await self.register()

    async def register(self) -> None:
        """Register what waits."""
        batch, self.batch = self.batch, []
        if not batch:
            return
        wanted = [device for _, device in batch]
        async with self.database.transaction(self.tenant.id) as transaction:
            if self.report.is_dry_run:
                free = await devices.try_devices(transaction, self.tenant.id, wanted)
            else:
                free = await devices.insert_devices(transaction, self.tenant.id, wanted)
                await transaction.record_all(
                    [
                        Change(self.tenant.id, self.access.identity.id, "device.created", one.identifier)
                        for one in wanted
                        if one.identifier in free
                    ]
                )
        self.report.registered += len(free)
        for number, device in batch:
            if device.identifier not in free:
                self.report.refuse(number, device.identifier, "the device identifier is taken")

    async def _reason_against(self, device: Device, number: int) -> str | None:
        first = self.first_seen.setdefault(device.identifier, number)
        if first != number:
            return f"the same device as in line {first}"
        label = device.enrolment_profile
        if label is None:
            return None
        if label not in self.labels:
            async with self.database.transaction(self.tenant.id) as transaction:
                self.labels[label] = await devices.is_label_of(transaction, label, self.tenant.id)
        return None if self.labels[label] else f"there is no enrolment profile {label} for this group"

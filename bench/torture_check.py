"""Whether what a tortured node's clients were told is so: the journal against the store, the list and the audit."""

import asyncio
import ssl
import time
import urllib.error
import urllib.request
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.ocsp import (
    OCSPCertStatus,
    OCSPRequestBuilder,
    OCSPResponseStatus,
    load_der_ocsp_response,
)

from bench.node import LOOPBACK, Node, settle
from bench.torture_fleet import GROUP, MANY, ROLE, Operator
from bench.torture_journal import Journal
from ca.inventory import AuthorityKind
from doorward.app import App
from doorward.commands.local import local_app
from iam.store.database import EVERYWHERE

_LIST_SECONDS = 15.0
_REVOCABLE_SAMPLE = 5
_STATUS_SAMPLE = 20


@dataclass(frozen=True)
class Found:
    """What a torture came to."""

    seconds: float
    retries: int
    slowest_cut: float
    checked: Mapping[str, int]
    wrong: Sequence[str]


def check_everything(node: Node, operator: Operator, journal: Journal, seconds: float) -> Found:
    """Compare, once the node has come to rest."""
    _check_revocable(operator, journal)
    _check_list(operator, node, journal)
    _check_role(operator, journal)
    asyncio.run(_check_store(node, journal))
    return Found(seconds, journal.retries, journal.slowest_cut, dict(journal.checked), list(journal.wrong))


def read_list(url: str, root: Path) -> tuple[int | None, frozenset[bytes]]:
    """Return the number of the issuing authority's list and what it holds; no number while nobody answers."""
    trust = ssl.create_default_context(cafile=str(root))
    try:
        with urllib.request.urlopen(f"{url}/crl/issuing.crl", timeout=10, context=trust) as answer:  # noqa: S310 - https
            content = answer.read()
    except (OSError, urllib.error.URLError, TimeoutError):
        return None, frozenset()
    found = x509.load_der_x509_crl(content)
    number = found.extensions.get_extension_for_class(x509.CRLNumber).value.crl_number
    return number, frozenset(one.serial_number.to_bytes(16) for one in found)


def _check_revocable(operator: Operator, journal: Journal) -> None:
    alive = [one for one in journal.certificates if one.serial not in journal.revoked]
    for one in alive[:: max(1, len(alive) // _REVOCABLE_SAMPLE)][:_REVOCABLE_SAMPLE]:
        operator.revoke(one.serial)
        journal.check("I1 an acknowledged certificate can be revoked", holds=True, otherwise="")


def _check_list(operator: Operator, node: Node, journal: Journal) -> None:
    deadline = time.monotonic() + _LIST_SECONDS
    missing = set(journal.revoked)
    while missing and time.monotonic() < deadline:
        missing = set(journal.revoked) - read_list(operator.api.url, node.root)[1]
        time.sleep(0.3)
    for serial in journal.revoked:
        journal.check("I3 a revocation is in the list", holds=serial not in missing, otherwise=serial.hex())
    for one, following in zip(journal.list_numbers, journal.list_numbers[1:], strict=False):
        journal.check("I3 numbers of lists do not fall", holds=following >= one, otherwise=f"{one} before {following}")


def _check_status(node: Node, journal: Journal, issuer: x509.Certificate) -> None:
    url = f"http://{LOOPBACK}:{node.configuration.publication.port}/ocsp"
    revoked = [one for one in journal.certificates if one.serial in journal.revoked]
    # Whoever was given his while many were being revoked may be among them, or not.
    alive = [one for one in journal.certificates if not (one.serial in journal.revoked or one.device.endswith(MANY))]
    for sample, wanted in ((revoked, OCSPCertStatus.REVOKED), (alive, OCSPCertStatus.GOOD)):
        for one in sample[:: max(1, len(sample) // _STATUS_SAMPLE)]:
            found = _ask_status(url, x509.load_der_x509_certificate(one.der), issuer)
            what = f"{one.serial.hex()} is {found}"
            journal.check(f"I3 OCSP says {wanted.name}", holds=found is wanted, otherwise=what)


def _ask_status(url: str, certificate: x509.Certificate, issuer: x509.Certificate) -> OCSPCertStatus | str:
    body = OCSPRequestBuilder().add_certificate(certificate, issuer, SHA256()).build().public_bytes(Encoding.DER)
    request = urllib.request.Request(url, body, {"Content-Type": "application/ocsp-request"})  # noqa: S310 - loopback
    with urllib.request.urlopen(request, timeout=10) as answer:  # noqa: S310 - loopback
        found = load_der_ocsp_response(answer.read())
    if found.response_status is not OCSPResponseStatus.SUCCESSFUL:
        return found.response_status.name
    return found.certificate_status


def _check_role(operator: Operator, journal: Journal) -> None:
    found: Any = operator.ask("GET", f"/api/v1/iam/groups/{GROUP}/roles/{ROLE}")
    topics = [one["topic"] for one in found["topics"]]
    is_there = not journal.role or topics == [f"${{tenant}}/torture/{journal.role}"]
    journal.check("I4 the role is as it was acknowledged", holds=is_there, otherwise=f"{topics}, not {journal.role}")


async def _check_store(node: Node, journal: Journal) -> None:
    async with local_app(node.configuration) as app:
        await settle(app)
        issuer = app.authorities.current(AuthorityKind.ISSUING).certificate
        await asyncio.to_thread(_check_status, node, journal, issuer)
        await _check_certificates(app, journal)
        await _check_pairings(app, journal)
        await _check_audit(app, journal)


async def _rows(app: App, query: str) -> list[dict[str, Any]]:
    async with app.pool.transaction(EVERYWHERE) as transaction:  # the run's own node
        return [dict(row) for row in await transaction.fetch(query)]


async def _check_certificates(app: App, journal: Journal) -> None:
    rows = await _rows(
        app,
        "SELECT serial, certificate, status, device_identifier AS device, identity_id FROM certificate"
        " WHERE device_identifier LIKE 'torture-%' AND identity_id IS NOT NULL",
    )
    stored = {row["serial"]: row for row in rows}
    told = Counter(one.serial for one in journal.certificates)
    for one in journal.certificates:
        row = stored.get(one.serial)
        is_there = row is not None and (row["certificate"], row["device"]) == (one.der, one.device)
        journal.check("I1 an acknowledged certificate is in the store", holds=is_there, otherwise=one.serial.hex())
        journal.check("I2 a serial number is unique", holds=told[one.serial] == 1, otherwise=one.serial.hex())
    for serial, row in stored.items():
        what = f"{row['device']}: {serial.hex()} was given to nobody"
        journal.check("I6 one request is one certificate", holds=serial in told, otherwise=what)
    for serial in journal.revoked:
        is_revoked = serial in stored and stored[serial]["status"] == "revoked"
        journal.check("I3 a revocation is in the store", holds=is_revoked, otherwise=serial.hex())


async def _check_pairings(app: App, journal: Journal) -> None:
    rows = await _rows(app, "SELECT device_identifier AS device FROM pairing WHERE device_identifier LIKE 'torture-%'")
    paired = {row["device"] for row in rows}
    for device, is_paired in journal.paired.items():
        holds = (device in paired) is is_paired
        journal.check("I4 a pairing is as it was acknowledged", holds=holds, otherwise=f"{device}: not {is_paired}")


async def _check_audit(app: App, journal: Journal) -> None:
    lines_held, broken = await app.audit.check()
    what = f"line {broken} does not follow; {lines_held} lines hold"
    journal.check("I7 the audit chain verifies", holds=broken is None, otherwise=what)
    rows = await _rows(
        app,
        "SELECT kind, subject, count(*) AS times FROM audit"
        " WHERE kind IN ('device.enrolled', 'certificate.revoked') GROUP BY kind, subject",
    )
    lines = {(row["kind"], row["subject"]): row["times"] for row in rows}
    wanted = {("device.enrolled", one.device) for one in journal.certificates}
    wanted |= {("certificate.revoked", serial.hex()) for serial in journal.revoked}
    for line in wanted:
        times = lines.get(line, 0)
        journal.check("I7 an effect has one line", holds=times == 1, otherwise=f"{' '.join(line)}: {times}")
    renewals = await _rows(app, "SELECT count(*) AS times FROM audit WHERE kind = 'device.renewed'")
    given = len(journal.certificates) - len({one.device for one in journal.certificates})
    times = renewals[0]["times"]
    journal.check("I7 a renewal has one line", holds=times == given, otherwise=f"{times} lines of {given} renewals")

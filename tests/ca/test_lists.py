"""Delta lists and partitions: what each holds, and what openssl makes of them."""

import asyncio
import logging
import subprocess
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from os import urandom
from pathlib import Path

import asyncpg
import pytest
from asn1crypto import crl
from asn1crypto import x509 as asn1
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding

from ca.authorities import Authorities
from ca.authority import AuthorityOrigin
from ca.crl import REST, Head, Step, next_step
from ca.inventory import REASON_CODES, CertificateStatus, RevocationReason, StoredCertificate
from ca.issue import SERIAL_BYTES, device, encoded_key
from ca.list_publishing import ListPublisher, ListTerms, is_published
from ca.partition import WHOLE, Partition, counts_after
from ca.store.certificates import insert_certificate
from certs.names import device_identifier
from iam.errors import Kind, Refused
from iam.store.database import EVERYWHERE
from tests.ca.world import BASE_URL, World

NOW = datetime(2030, 6, 1, tzinfo=UTC)
HOUR = timedelta(hours=1)


async def made(world: World, serial: bytes | None = None) -> bytes:
    """Issue a device's certificate with the authorities as the store has them now, and return its serial number."""
    authorities = Authorities(world.pool, world.keystore, world.clock, urandom, base_url=BASE_URL)
    await authorities.ensure()
    issuing = authorities.by_name("issuing")
    serial = serial or x509.random_serial_number().to_bytes(20)[-SERIAL_BYTES:]
    key = ec.generate_private_key(ec.SECP256R1()).public_key()
    holder = device(device_identifier("meter-001"), encoded_key(key))
    now = world.clock()
    issued = authorities.template(issuing, "device").issue(holder, now, serial)
    async with world.pool.transaction(EVERYWHERE) as transaction:
        stored = StoredCertificate(
            serial=serial,
            authority=issuing.id,
            tenant=world.system.id,
            profile="device",
            device=None,
            identity=None,
            subject=issued.subject,
            spki_sha256=issued.spki_sha256,
            request_sha256=None,
            not_before=issued.not_before,
            not_after=issued.not_after,
            der=issued.der,
            status=CertificateStatus.ACTIVE,
            issued=now,
        )
        await insert_certificate(transaction, stored)
    return serial


async def revoke(world: World, serial: bytes, reason: RevocationReason = RevocationReason.KEY_COMPROMISE) -> None:
    await world.revocation.revoke(EVERYWHERE, serial, reason, actor="test")


async def fetched(
    world: World, partition: Partition = WHOLE, *, is_delta: bool = False
) -> x509.CertificateRevocationList:
    issuing = world.authorities.by_name("issuing")
    return x509.load_der_x509_crl((await world.shelf.current_list(issuing, partition, is_delta=is_delta)).der)


def number_of(one: x509.CertificateRevocationList) -> int:
    return one.extensions.get_extension_for_class(x509.CRLNumber).value.crl_number


def base_of(one: x509.CertificateRevocationList) -> int:
    indicator = one.extensions.get_extension_for_class(x509.DeltaCRLIndicator)
    assert indicator.critical
    return indicator.value.crl_number


def reasons(one: x509.CertificateRevocationList) -> dict[int, x509.ReasonFlags]:
    return {entry.serial_number: entry.extensions.get_extension_for_class(x509.CRLReason).value.reason for entry in one}


async def verdict(world: World, folder: Path, serial: bytes, *lists: x509.CertificateRevocationList) -> str:
    """Let openssl verify a certificate with these lists, deltas too, and return what it says."""
    der = await world.value("SELECT certificate FROM certificate WHERE serial = $1", serial)
    (folder / "leaf.pem").write_bytes(x509.load_der_x509_certificate(der).public_bytes(Encoding.PEM))
    authorities = [world.authorities.by_name(name).certificate for name in ("root", "issuing")]
    (folder / "authorities.pem").write_bytes(b"".join(one.public_bytes(Encoding.PEM) for one in authorities))
    (folder / "lists.pem").write_bytes(b"".join(one.public_bytes(Encoding.PEM) for one in lists))
    command = ["openssl", "verify", "-crl_check", "-use_deltas", "-CAfile", "authorities.pem", "-CRLfile", "lists.pem"]
    done = await asyncio.to_thread(
        subprocess.run, [*command, "leaf.pem"], cwd=folder, capture_output=True, text=True, check=False
    )
    return done.stdout + done.stderr


async def test_a_delta_says_what_changed_since_the_oldest_list_that_counts(world: World) -> None:
    before, after = await made(world), await made(world)
    await revoke(world, before)
    await world.publisher.publish_lists()
    complete = await fetched(world)
    freshest = complete.extensions.get_extension_for_class(x509.FreshestCRL)
    assert not freshest.critical
    assert freshest.value[0].full_name == [x509.UniformResourceIdentifier(f"{BASE_URL}/crl/issuing/delta.crl")]
    await revoke(world, after)
    await world.publisher.publish_lists()
    delta = await fetched(world, is_delta=True)
    assert (number_of(delta), base_of(delta)) == (2, 1)
    assert reasons(delta) == {int.from_bytes(after): x509.ReasonFlags.key_compromise}
    assert number_of(await fetched(world)) == 2
    assert delta.is_signature_valid(world.authorities.by_name("issuing").certificate.public_key())  # type: ignore[arg-type]
    with pytest.raises(x509.ExtensionNotFound):
        delta.extensions.get_extension_for_class(x509.FreshestCRL)


async def test_openssl_takes_a_delta_with_an_older_list(world: World, tmp_path: Path) -> None:
    serial = await made(world)
    await world.publisher.publish_lists()
    old = await fetched(world)
    assert "OK" in await verdict(world, tmp_path, serial, old)
    await revoke(world, serial)
    await world.publisher.publish_lists()
    delta = await fetched(world, is_delta=True)
    assert "certificate revoked" in await verdict(world, tmp_path, serial, old, delta)


async def test_a_hold_is_in_lists_and_its_release_is_in_deltas(world: World, tmp_path: Path) -> None:
    serial = await made(world)
    number = int.from_bytes(serial)
    await world.revocation.revoke(EVERYWHERE, serial, RevocationReason.CERTIFICATE_HOLD, actor="test")
    await world.publisher.publish_lists()
    held = await fetched(world)
    assert reasons(held) == {number: x509.ReasonFlags.certificate_hold}
    assert "certificate revoked" in await verdict(world, tmp_path, serial, held)
    await world.revocation.release(EVERYWHERE, serial, actor="test")
    await world.publisher.publish_lists()
    assert reasons(await fetched(world)) == {}
    delta = await fetched(world, is_delta=True)
    assert reasons(delta) == {number: x509.ReasonFlags.remove_from_crl}
    assert "OK" in await verdict(world, tmp_path, serial, held, delta)
    await revoke(world, serial)
    await world.publisher.publish_lists()
    assert reasons(await fetched(world, is_delta=True)) == {number: x509.ReasonFlags.key_compromise}


async def test_a_delta_is_renewed_without_news(world: World) -> None:
    await world.publisher.publish_lists()
    world.clock.move(ListTerms().delta_life / 2)
    await world.publisher.publish_lists()
    delta = await fetched(world, is_delta=True)
    assert (number_of(delta), base_of(delta), len(delta)) == (2, 1, 0)
    assert number_of(await fetched(world)) == 1


async def test_the_root_has_no_delta_and_says_so(world: World) -> None:
    await world.publisher.publish_lists()
    root = world.authorities.by_name("root")
    published = x509.load_der_x509_crl((await world.shelf.current_list(root)).der)
    with pytest.raises(x509.ExtensionNotFound):
        published.extensions.get_extension_for_class(x509.FreshestCRL)
    with pytest.raises(Refused) as refused:
        await world.shelf.current_list(root, is_delta=True)
    assert refused.value.kind is Kind.NOT_FOUND


async def test_a_certificate_is_in_the_partition_that_it_names(world: World, tmp_path: Path) -> None:
    issuing = world.authorities.by_name("issuing")
    old = await made(world, b"\x01" * 15 + b"\x80")
    await world.publisher.set_partitions(issuing, 4, actor="test")
    first, third = await made(world, b"\x02" * 15 + b"\x00"), await made(world, b"\x02" * 15 + b"\x80")
    await world.publisher.publish_lists()
    empty = await fetched(world, Partition(4, 2))
    assert "OK" in await verdict(world, tmp_path, third, empty)
    for serial in (old, first, third):
        await revoke(world, serial)
    await world.publisher.publish_lists()
    numbers = {serial: int.from_bytes(serial) for serial in (old, first, third)}
    assert set(reasons(await fetched(world))) == set(numbers.values())
    assert set(reasons(await fetched(world, Partition(4, 0)))) == {numbers[first]}
    assert set(reasons(await fetched(world, Partition(4, 2)))) == {numbers[old], numbers[third]}
    partition = await fetched(world, Partition(4, 2))
    point = partition.extensions.get_extension_for_class(x509.IssuingDistributionPoint)
    assert point.critical
    assert point.value.full_name == [x509.UniformResourceIdentifier(f"{BASE_URL}/crl/issuing/4/2.crl")]
    der = await world.value("SELECT certificate FROM certificate WHERE serial = $1", third)
    named = x509.load_der_x509_certificate(der).extensions.get_extension_for_class(x509.CRLDistributionPoints)
    assert named.value[0].full_name == point.value.full_name
    assert "certificate revoked" in await verdict(world, tmp_path, third, partition)
    assert "certificate revoked" in await verdict(world, tmp_path, old, await fetched(world))
    # The list of another partition says nothing of this one's certificates, and the delta belongs to its own list.
    assert "different CRL scope" in await verdict(world, tmp_path, third, await fetched(world, Partition(4, 0)))
    delta = await fetched(world, Partition(4, 2), is_delta=True)
    assert delta.extensions.get_extension_for_class(x509.IssuingDistributionPoint).value == point.value
    assert "certificate revoked" in await verdict(world, tmp_path, third, empty, delta)


async def test_only_the_partition_that_has_news_is_made_anew(world: World) -> None:
    issuing = world.authorities.by_name("issuing")
    await world.publisher.set_partitions(issuing, 256, actor="test")
    serial = await made(world, b"\x02" * 15 + b"\x07")
    assert await world.publisher.publish_lists() == 2 + 1 + 256
    await revoke(world, serial)
    assert await world.publisher.publish_lists() == 2
    assert [number_of(await fetched(world, Partition(256, index))) for index in (6, 7, 8)] == [1, 2, 1]


async def test_partitions_that_there_were_go_on_being_published(world: World) -> None:
    issuing = world.authorities.by_name("issuing")
    await world.publisher.set_partitions(issuing, 2, actor="test")
    serial = await made(world, b"\x02" * 15 + b"\xff")
    await world.publisher.set_partitions(issuing, 4, actor="test")
    await revoke(world, serial)
    await world.publisher.publish_lists()
    for partition in (WHOLE, Partition(2, 1), Partition(4, 3)):
        assert set(reasons(await fetched(world, partition))) == {int.from_bytes(serial)}
    kinds = [one.kind for one in world.changes]
    assert kinds.count("authority.partitioned") == 2


@pytest.mark.parametrize(
    ("counts", "count", "after"),
    [
        ((1,), 1, (1,)),
        ((1,), 8, (1, 8)),
        ((1, 8), 8, (1, 8)),
        ((1, 8), 1, (1, 8, 1)),
        ((1, 8, 1), 4, (1, 8, 4)),
        ((1, 8, 4), 8, (1, 4, 8)),
    ],
)
def test_no_number_of_partitions_is_forgotten(counts: tuple[int, ...], count: int, after: tuple[int, ...]) -> None:
    assert counts_after(counts, count) == after


@pytest.mark.parametrize("count", [0, -1, 3, 512])
async def test_numbers_of_partitions_that_there_cannot_be(world: World, count: int) -> None:
    with pytest.raises(Refused) as refused:
        await world.publisher.set_partitions(world.authorities.by_name("issuing"), count, actor="test")
    assert refused.value.kind is Kind.MALFORMED
    assert await world.value("SELECT count(*) FROM authority WHERE list_partitions <> '{1}'") == 0


async def test_without_addresses_there_are_neither_partitions_nor_deltas(world: World) -> None:
    authorities = Authorities(world.pool, world.keystore, world.clock, urandom, base_url=None)
    await authorities.ensure()
    publisher = ListPublisher(world.pool, authorities, world.clock, ListTerms())
    with pytest.raises(Refused) as refused:
        await publisher.set_partitions(authorities.by_name("issuing"), 2, actor="test")
    assert refused.value.kind is Kind.CONFLICT
    await publisher.publish_lists()
    assert await world.value("SELECT count(*) FROM revocation_list WHERE base_number IS NOT NULL") == 0


async def test_of_ended_certificates_nothing_is_kept_for_lists(world: World) -> None:
    serial = await made(world)
    await revoke(world, serial)
    await world.publisher.publish_lists()
    end = await world.value("SELECT not_after FROM certificate WHERE serial = $1", serial)
    world.clock.move(end - world.clock() + timedelta(minutes=1))
    for expected in (1, 0):
        await world.publisher.publish_lists()
        assert len(await fetched(world)) == expected
        world.clock.move(ListTerms().life)
    await world.publisher.publish_lists()
    assert await world.value("SELECT count(*) FROM revocation") == 0


async def test_that_a_key_is_away_is_said_once_an_hour(world: World, caplog: pytest.LogCaptureFixture) -> None:
    await world.publisher.publish_lists()
    hidden = world.keystore.root_file.rename(world.keys / "hidden")
    world.clock.move(ListTerms().offline_life / 2)

    async def times_said(rounds: int) -> int:
        caplog.clear()
        with caplog.at_level(logging.WARNING, "ca.list_publishing"):
            for _ in range(rounds):
                await world.publisher.publish_lists()
        return sum(
            "authority root: its key is away, so it has no new revocation list; the last" in one.message
            for one in caplog.records
        )

    assert await times_said(3) == 1
    world.clock.move(HOUR)
    assert await times_said(3) == 1
    hidden.rename(world.keystore.root_file)
    assert await times_said(1) == 0
    assert (
        await world.value(
            "SELECT max(number) FROM revocation_list l JOIN authority a ON a.id = l.authority_id WHERE a.kind = 'root'"
        )
        == 2
    )


HEAD = Head(number=7, this_update=NOW, next_update=NOW + 24 * HOUR, revocation_number=100, seconds=5.0)
OLD = replace(HEAD, this_update=NOW - 13 * HOUR, next_update=NOW + 11 * HOUR)


@pytest.mark.parametrize(
    ("complete", "delta", "newest", "after", "step"),
    [
        (None, None, 0, 0.0, Step.BOTH),
        (HEAD, HEAD, 100, 60.0, Step.NOTHING),
        (HEAD, None, 100, 60.0, Step.DELTA),
        (OLD, HEAD, 100, 0.0, Step.BOTH),
        (HEAD, OLD, 100, 60.0, Step.DELTA),
        (HEAD, HEAD, 101, 60.0, Step.NOTHING),  # it took 5 s: it waits for 100 s
        (HEAD, replace(HEAD, seconds=0.1), 101, 60.0, Step.DELTA),
        (HEAD, HEAD, 101, REST * 5.0, Step.BOTH),
        (replace(HEAD, seconds=0.0), HEAD, 101, 0.0, Step.BOTH),
        (OLD, HEAD, 101, 0.0, Step.BOTH),
        (HEAD, HEAD, 100, -59.0, Step.NOTHING),  # another node's clock
        (HEAD, HEAD, 100, -61.0, Step.BOTH),
        (HEAD, replace(HEAD, this_update=NOW + HOUR), 100, 60.0, Step.DELTA),
    ],
)
def test_what_is_due(complete: Head | None, delta: Head | None, newest: int, after: float, step: Step) -> None:
    assert next_step(complete, delta, newest, NOW + timedelta(seconds=after), has_deltas=True) is step


def test_what_is_due_without_deltas() -> None:
    assert next_step(HEAD, None, 101, NOW, has_deltas=False) is Step.NOTHING
    assert next_step(None, None, 0, NOW, has_deltas=False) is Step.BOTH


def test_for_whom_nothing_is_published(world: World) -> None:
    issuing, now = world.authorities.by_name("issuing"), world.clock()
    assert is_published(issuing, now)
    assert not is_published(replace(issuing, origin=AuthorityOrigin.EXTERNAL), now)
    assert not is_published(issuing, issuing.certificate.not_valid_after_utc + timedelta(seconds=1))


@pytest.mark.parametrize(
    "serial", [b"\x01", bytes(16), b"\x7f" * 16, b"\x80" + bytes(15), bytes(15) + b"\x80", b"\xff" * 20]
)
@pytest.mark.parametrize(
    "moment", [NOW, datetime(2049, 12, 31, 23, 59, 59, 999999, UTC), datetime(2050, 1, 1, tzinfo=UTC)]
)
async def test_entries_are_der(world: World, serial: bytes, moment: datetime) -> None:
    """What the store makes is what asn1crypto makes of the same, byte for byte."""
    for reason, code in {**REASON_CODES, "removeFromCRL": 8}.items():
        entry = await world.value("SELECT revocation_entry($1, $2, $3)", serial, moment, str(reason))
        extensions = [{"extn_id": "crl_reason", "critical": False, "extn_value": crl.CRLReason(code)}]
        fields = {
            "user_certificate": int.from_bytes(serial),
            "revocation_date": asn1.Time(
                {"utc_time" if moment.year < 2050 else "general_time": moment.replace(microsecond=0)}
            ),
            **({"crl_entry_extensions": extensions} if code else {}),
        }
        assert entry == crl.RevokedCertificate(fields).dump()


async def test_a_reason_that_is_none_revokes_nothing(world: World) -> None:
    serial = await made(world)
    with pytest.raises(asyncpg.RaiseError, match="no reason of RFC 5280"):
        await world.execute(
            "UPDATE certificate SET status = 'revoked', revoked_at = now(), revocation_reason = 'x' WHERE serial = $1",
            serial,
        )
    assert await world.value("SELECT status FROM certificate WHERE serial = $1", serial) == "active"


async def test_a_clock_that_was_wrong_leaves_nothing_from_the_future(world: World) -> None:
    world.clock.move(timedelta(days=30))
    await world.publisher.publish_lists()
    world.clock.move(-timedelta(days=30))
    assert await world.publisher.publish_lists() == 3
    for partition, is_delta in ((WHOLE, False), (WHOLE, True)):
        published = await fetched(world, partition, is_delta=is_delta)
        assert published.last_update_utc <= world.clock()
        assert number_of(published) == 2

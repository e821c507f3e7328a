"""The certificates of our listeners: made, left alone, renewed in time, taken up without a restart."""

import asyncio
import os
from datetime import timedelta
from pathlib import Path

import pytest
import trustme
from cryptography import x509

from ca.administration import AuthorityAdministration
from ca.authorities import Authorities
from ca.authority import AuthorityStep
from ca.inventory import RevocationReason
from ca.keystore import Keystore
from ca.list_publishing import ListPublisher, ListTerms
from ca.publication import Publication
from ca.responders import Responders, ResponderTerms
from doorward import worker
from doorward.config import Configuration, NodeSection
from doorward.database import Pool
from doorward.preparation import (
    Preparation,
    device_anchors_file,
    root_file,
    server_certificate_files,
    signing_identity,
)
from doorward.tls import ServerTLS
from doorward.worker import CertificateFiles
from iam.access import Access
from iam.errors import Kind, Refused
from iam.sealing import MasterKey
from iam.service.foundation import lay_foundation, root_identity
from iam.store.standing import read_standing
from tests.conftest import DatabaseUrls, TurnableClock


def certificate_of(data: Path) -> x509.Certificate:
    return x509.load_pem_x509_certificate(server_certificate_files(data)[0].read_bytes())


@pytest.fixture
def master() -> MasterKey:
    return MasterKey(os.urandom(32))


def preparation(data: Path, urls: DatabaseUrls, master: MasterKey, clock: TurnableClock, *names: str) -> Preparation:
    node = NodeSection(data=data, server_names=names or ("localhost", "127.0.0.1"))
    return Preparation(Configuration(node=node), lambda: (urls.node, urls.owner), master, clock, os.urandom)


async def test_a_start_makes_what_is_missing_and_a_second_one_changes_nothing(
    tmp_path: Path, database_urls: DatabaseUrls, master: MasterKey, clock: TurnableClock
) -> None:
    files = [root_file(tmp_path), device_anchors_file(tmp_path), *server_certificate_files(tmp_path)]
    for _ in range(2):
        service = preparation(tmp_path, database_urls, master, clock)
        await service.start()
        await service.stop()
        found = [file.read_bytes() for file in files]
    service = preparation(tmp_path, database_urls, master, clock)
    await service.start()
    await service.stop()
    assert [file.read_bytes() for file in files] == found
    assert [file.stat().st_mode & 0o777 for file in files] == [0o644, 0o644, 0o600, 0o600]


async def test_after_two_thirds_of_its_life_a_certificate_is_renewed_and_told_of(
    tmp_path: Path,
    database_urls: DatabaseUrls,
    master: MasterKey,
    clock: TurnableClock,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("doorward.preparation._LOOK_AGAIN", timedelta(milliseconds=20))
    told = asyncio.Event()

    async def tell() -> None:
        told.set()

    service = preparation(tmp_path, database_urls, master, clock)
    service.after_renewal(tell)
    await service.start()
    first = certificate_of(tmp_path)
    life = first.not_valid_after_utc - first.not_valid_before_utc
    renewing = asyncio.create_task(service.ended())
    clock.turn(life * 2 / 3 - timedelta(hours=1))
    await asyncio.sleep(0.2)
    assert certificate_of(tmp_path) == first
    clock.turn(timedelta(hours=2))
    await asyncio.wait_for(told.wait(), 5)
    assert certificate_of(tmp_path).not_valid_after_utc > first.not_valid_after_utc
    renewing.cancel()
    await service.stop()


async def test_other_names_make_another_certificate(
    tmp_path: Path, database_urls: DatabaseUrls, master: MasterKey, clock: TurnableClock
) -> None:
    for names in (("localhost",), ("gate.example", "10.0.0.1")):
        service = preparation(tmp_path, database_urls, master, clock, *names)
        await service.start()
        await service.stop()
    held = certificate_of(tmp_path).extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert held.get_values_for_type(x509.DNSName) == ["gate.example"]
    assert [str(one) for one in held.get_values_for_type(x509.IPAddress)] == ["10.0.0.1"]


@pytest.mark.parametrize(("file", "content"), [(0, b"broken"), (1, b"broken"), (1, None), (0, None)])
async def test_files_that_are_broken_or_do_not_belong_together_are_made_anew(
    tmp_path: Path,
    database_urls: DatabaseUrls,
    master: MasterKey,
    clock: TurnableClock,
    file: int,
    content: bytes | None,
) -> None:
    files = server_certificate_files(tmp_path)
    contents = []
    for _ in range(2):
        service = preparation(tmp_path, database_urls, master, clock)
        await service.start()
        await service.stop()
        contents.append(files[file].read_bytes())
        files[0].unlink()
    service = preparation(tmp_path, database_urls, master, clock)
    await service.start()
    await service.stop()
    files[file].write_bytes(contents[0] if content is None else content)
    service = preparation(tmp_path, database_urls, master, clock)
    await service.start()
    await service.stop()
    assert CertificateFiles(*files).read().certificates[0] == certificate_of(tmp_path)


async def test_a_worker_takes_up_a_renewed_certificate_and_keeps_the_old_one_over_a_broken_file(
    tmp_path: Path,
    database_urls: DatabaseUrls,
    master: MasterKey,
    clock: TurnableClock,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(worker, "_CERTIFICATE_SECONDS", 0.02)
    service = preparation(tmp_path, database_urls, master, clock, "localhost")
    await service.start()
    await service.stop()
    certificate, key = server_certificate_files(tmp_path)
    files = CertificateFiles(certificate, key)
    tls = ServerTLS(files.read(), ask_client_certificate=False)
    first = tls.identity.certificates[0]
    following = asyncio.create_task(files.follow([tls]))
    whole = certificate.read_bytes()
    certificate.write_bytes(b"broken")
    await asyncio.sleep(0.1)
    assert tls.identity.certificates[0] == first
    certificate.write_bytes(whole)
    service = preparation(tmp_path, database_urls, master, clock, "gate.example")
    await service.start()
    await service.stop()
    async with asyncio.timeout(5):
        while tls.identity.certificates[0] == first:  # noqa: ASYNC110 - nobody tells: the file is looked at
            await asyncio.sleep(0.02)
    assert tls.identity.certificates[0] == certificate_of(tmp_path)
    following.cancel()


def test_the_listeners_certificate_signs_keys_that_are_made_here(tmp_path: Path) -> None:
    certificate_file, key_file = server_certificate_files(tmp_path)
    certificate_file.parent.mkdir()
    with pytest.raises(Refused, match="cannot sign now"):
        signing_identity(tmp_path)
    made = trustme.CA().issue_cert("localhost")
    certificate_file.write_bytes(made.cert_chain_pems[0].bytes())
    key_file.write_bytes(made.private_key_pem.bytes())
    identity = signing_identity(tmp_path)
    assert identity.certificates[0].public_key() == identity.private_key.public_key()
    key_file.write_bytes(trustme.CA().issue_cert("localhost").private_key_pem.bytes())
    with pytest.raises(Refused) as refused:
        signing_identity(tmp_path)
    assert refused.value.kind is Kind.UNAVAILABLE


async def test_what_devices_and_clients_trust_follows_the_authorities(
    tmp_path: Path, database_urls: DatabaseUrls, master: MasterKey, clock: TurnableClock
) -> None:
    service = preparation(tmp_path, database_urls, master, clock)
    told = asyncio.Event()

    async def tell() -> None:
        told.set()

    service.after_renewal(tell)
    await service.start()
    following = asyncio.create_task(service.ended())
    pool = await Pool.connect(database_urls.node, clock, os.urandom, size=2)
    keys = Keystore(tmp_path / "keys", master, os.urandom)
    authorities = Authorities(pool, keys, clock, os.urandom, base_url=None)
    try:
        await authorities.ensure()
        responders = Responders(pool, authorities, keys, clock, os.urandom, ResponderTerms())
        publication = Publication(ListPublisher(pool, authorities, clock, ListTerms()), responders)
        administration = AuthorityAdministration(pool, authorities, keys, clock, os.urandom, publication, base_url=None)
        system = await lay_foundation(pool, clock, os.urandom)
        standing = await read_standing(pool, (await root_identity(pool, system.id)).id)
        assert isinstance(standing.access, Access)
        before = certificate_of(tmp_path)
        for line in ("root", "issuing"):
            await administration.roll_over(standing.access, system, line, None, None)
        await asyncio.wait_for(told.wait(), 5)
        assert len(x509.load_pem_x509_certificates(device_anchors_file(tmp_path).read_bytes())) == 2
        assert len(x509.load_pem_x509_certificates(root_file(tmp_path).read_bytes())) == 2
        assert certificate_of(tmp_path) == before  # its authority is trusted on
        told.clear()
        old = str(authorities.by_name("issuing").id)
        reason = RevocationReason.KEY_COMPROMISE
        await administration.set_status(standing.access, system, old, AuthorityStep.REVOKE, reason)
        await asyncio.wait_for(told.wait(), 5)
        assert len(x509.load_pem_x509_certificates(device_anchors_file(tmp_path).read_bytes())) == 1
        new = certificate_of(tmp_path)
        new.verify_directly_issued_by(authorities.find("issuing").certificate)
    finally:
        following.cancel()
        await asyncio.gather(following, return_exceptions=True)
        await pool.close()
        await service.stop()


async def test_a_certificate_of_a_clock_that_was_ahead_is_replaced_at_once_when_it_is_set_back(
    tmp_path: Path,
    database_urls: DatabaseUrls,
    master: MasterKey,
    clock: TurnableClock,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """However long after that the clock shows the time at which it would have been looked at again."""
    monkeypatch.setattr("doorward.preparation._LOOK_AGAIN", timedelta(milliseconds=20))
    service = preparation(tmp_path, database_urls, master, clock)
    await service.start()
    life = certificate_of(tmp_path).not_valid_after_utc - certificate_of(tmp_path).not_valid_before_utc
    renewing = asyncio.create_task(service.ended())
    clock.turn(life * 3 / 4)
    async with asyncio.timeout(5):
        while certificate_of(tmp_path).not_valid_before_utc < clock() - timedelta(hours=1):  # noqa: ASYNC110 - a file
            await asyncio.sleep(0.02)
    clock.turn(-life * 3 / 4)
    async with asyncio.timeout(5):
        while certificate_of(tmp_path).not_valid_before_utc > clock():  # noqa: ASYNC110 - a file
            await asyncio.sleep(0.02)
    renewing.cancel()
    await service.stop()

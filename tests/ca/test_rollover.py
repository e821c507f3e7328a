"""A new key under the same name: both are believed, and each vouches for the other."""

import subprocess
from datetime import timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding

from ca.authority import Authority, AuthorityStep
from ca.inventory import AuthorityKind, RevocationReason
from ca.issue import SERIAL_BYTES, device, encoded_key
from ca.wishes import KeyWish
from certs.chain import Anchor, Purpose, validate_chain
from certs.keys import KeyAlgorithm
from certs.names import device_identifier
from certs.pem import read_certificate, write_certificates
from iam.errors import Kind, Refused
from tests.ca.world import World


async def rolled_over(world: World, line: str, key: KeyWish | None = None) -> Authority:
    access = await world.access(world.system.id)
    return await world.administration.roll_over(access, world.system, line, key, None)


def leaf_of(world: World, issuer: Authority) -> x509.Certificate:
    template = world.authorities.template(issuer, "device")
    holder = device(device_identifier("meter-001"), encoded_key(ec.generate_private_key(ec.SECP256R1()).public_key()))
    return read_certificate(template.issue(holder, world.clock(), bytes(range(1, SERIAL_BYTES + 1))).der)


def published(world: World, line: str) -> list[x509.Certificate]:
    return [read_certificate(one) for one in world.authorities.published_chain(world.authorities.find(line).id)]


@pytest.mark.parametrize("line", ["issuing", "root"])
async def test_old_and_new_certificates_lead_to_old_and_new_keys(world: World, line: str) -> None:
    old_root = world.authorities.by_name("root")
    old_leaf = leaf_of(world, world.authorities.by_name("issuing"))
    new = await rolled_over(world, line)
    assert (new.name, new.generation, world.authorities.find(line).id) == (f"{line}.2", 2, new.id)
    assert new.certificate.subject == world.authorities.by_name(line).certificate.subject
    assert new.spki_sha256 != world.authorities.by_name(line).spki_sha256
    new_leaf = leaf_of(world, world.authorities.issuer(world.authorities.by_name("issuing").id))
    sent = published(world, "issuing")
    anchors = [old_root.anchor, world.authorities.find("root").anchor]
    for leaf in (old_leaf, new_leaf):
        for anchor in anchors:
            validate_chain(leaf, sent[:8], [anchor], world.clock(), purpose=Purpose.CLIENT_AUTH)


async def test_what_the_links_say(world: World) -> None:
    old = world.authorities.by_name("root")
    new = await rolled_over(world, "root")
    assert new.links is not None
    old_with_new, new_with_old = (read_certificate(one) for one in (new.links.old_with_new, new.links.new_with_old))
    for linked, subject_of, issued_by in ((old_with_new, old, new), (new_with_old, new, old)):
        assert linked.subject == linked.issuer == old.certificate.subject
        assert linked.public_key() == subject_of.certificate.public_key()
        linked.verify_directly_issued_by(issued_by.certificate)
        own = subject_of.certificate.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value
        assert linked.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value == own
    # RFC 4210 4.4.1: OldWithNew has the old key's period; NewWithOld begins with the new one and ends with the old one.
    assert old_with_new.not_valid_before_utc == old.certificate.not_valid_before_utc
    assert old_with_new.not_valid_after_utc == old.certificate.not_valid_after_utc
    assert new_with_old.not_valid_before_utc == new.certificate.not_valid_before_utc
    assert new_with_old.not_valid_after_utc == old.certificate.not_valid_after_utc
    recorded = await world.rows("SELECT serial FROM certificate WHERE profile = 'link'")
    assert len(recorded) == 2


def openssl_verifies(trusted: Path, sent: Path, presented: Path) -> str:
    command = ["openssl", "verify", "-x509_strict", "-CAfile", trusted, "-untrusted", sent, presented]
    done = subprocess.run(command, capture_output=True, check=False, text=True)
    return (done.stdout + done.stderr).strip()


async def test_openssl_follows_the_links_from_the_old_root(world: World, tmp_path: Path) -> None:
    old = world.authorities.by_name("root")
    await rolled_over(world, "root")
    await rolled_over(world, "issuing")  # certified by the new root
    leaf = leaf_of(world, world.authorities.find("issuing"))
    trusted, sent, presented = tmp_path / "old.pem", tmp_path / "sent.pem", tmp_path / "leaf.pem"
    trusted.write_bytes(old.certificate.public_bytes(Encoding.PEM))
    sent.write_bytes(write_certificates(published(world, "issuing")))
    presented.write_bytes(leaf.public_bytes(Encoding.PEM))
    assert openssl_verifies(trusted, sent, presented) == f"{presented}: OK"


async def test_everything_published_leads_to_one_that_signs_itself(world: World) -> None:
    await rolled_over(world, "root")
    await rolled_over(world, "issuing")
    found = published(world, "issuing")
    tops = [Anchor.from_certificate(one) for one in found if one.subject == one.issuer]
    assert {one.subject for one in found} >= {world.authorities.by_name("root").certificate.subject}
    assert len(found) == 8  # issuing new and old, root new and old, and a link each way for both
    assert len(tops) >= 2
    for one in found:
        assert any(_signed_by(one, other) for other in found), one.subject


def _signed_by(one: x509.Certificate, issuer: x509.Certificate) -> bool:
    try:
        one.verify_directly_issued_by(issuer)
    except Exception:  # noqa: BLE001 - whatever it says, it is not signed by this one
        return False
    return True


async def test_the_links_go_when_the_old_key_has_ended_or_is_revoked(world: World) -> None:
    await rolled_over(world, "issuing")
    access = await world.access(world.system.id)
    assert len(published(world, "issuing")) == 5
    old = world.authorities.by_name("issuing")
    await world.administration.set_status(
        access, world.system, str(old.id), AuthorityStep.REVOKE, RevocationReason.KEY_COMPROMISE
    )
    assert len(published(world, "issuing")) == 2
    assert old.anchor not in world.authorities.anchors([old.id])
    assert world.authorities.issuer(old.id).generation == 2


async def test_the_old_key_is_trusted_and_issues_no_more(world: World) -> None:
    old = world.authorities.by_name("issuing")
    new = await rolled_over(world, "issuing")
    assert {one.spki_sha256 for one in world.authorities.anchors([old.id])} == {old.spki_sha256, new.spki_sha256}
    assert world.authorities.issuer(old.id).id == new.id
    assert world.authorities.current(AuthorityKind.ISSUING).id == new.id
    with pytest.raises(Refused) as caught:
        access = await world.access(world.system.id)
        await world.administration.roll_over(access, world.system, str(old.id), None, None)
    assert caught.value.kind is Kind.CONFLICT


async def test_a_rollover_may_change_the_algorithm(world: World) -> None:
    new = await rolled_over(world, "issuing", KeyWish(KeyAlgorithm.ML_DSA_65))
    old = world.authorities.by_name("issuing")
    leaf = leaf_of(world, new)
    validate_chain(leaf, published(world, "issuing"), [old.anchor], world.clock(), purpose=Purpose.CLIENT_AUTH)


async def test_the_roots_next_key_lies_in_a_file_too(world: World) -> None:
    new = await rolled_over(world, "root")
    file = world.keys / f"root-{new.id}.sealed"
    assert file.stat().st_mode & 0o777 == 0o600
    assert await world.value("SELECT backend FROM kms_key WHERE id = $1", new.id) == "file"
    assert world.authorities.find("root").signer is None
    assert await world.publisher.publish_lists() == 3  # the next key has its own
    file.unlink()
    with pytest.raises(Refused, match=r"root\.2 is not here"):
        await rolled_over(world, "issuing")


async def test_a_failed_rollover_leaves_the_old_key_at_work(world: World) -> None:
    world.keystore.root_file.unlink()
    with pytest.raises(Refused) as caught:
        await rolled_over(world, "issuing")
    assert caught.value.kind is Kind.UNAVAILABLE
    assert world.authorities.issuer(world.authorities.by_name("issuing").id).generation == 1
    assert await world.value("SELECT count(*) FROM kms_key") == 3


async def test_an_expired_line_does_not_roll_over(world: World) -> None:
    world.clock.move(timedelta(days=2000))
    with pytest.raises(Refused) as caught:
        await rolled_over(world, "issuing")
    assert caught.value.kind is Kind.CONFLICT

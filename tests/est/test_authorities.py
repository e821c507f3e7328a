"""Authorities change while devices live on: rollover, re-issue, deactivation; over real TLS."""

from base64 import b64decode

import pytest
from cryptography.hazmat.primitives.asymmetric import ec

from ca.authority import AuthorityStep
from ca.inventory import RevocationReason
from certs.pem import read_certificate
from certs.pkcs7 import parse_certs_only
from iam.errors import Refused
from tests.est.world import EstWorld, Holder, b64, only, request


async def roll_over(est: EstWorld, line: str) -> None:
    access = await est.world.access(est.world.system.id)
    await est.world.administration.roll_over(access, est.world.system, line, None, None)


async def renewed(est: EstWorld, holder: Holder, identifier: str) -> Holder:
    key = ec.generate_private_key(ec.SECP256R1())
    answer = await est.enrol("simplereenroll", holder, b64(request(key, identifier)))
    assert answer.status == 200, answer.body
    return est.hold([only(b64decode(answer.body))], key)


@pytest.mark.parametrize("lines", [["issuing"], ["root"], ["root", "issuing"]])
async def test_devices_of_the_old_key_renew_across_a_rollover(est: EstWorld, lines: list[str]) -> None:
    old = est.world.authorities.by_name("issuing")
    device = await est.enrolled("meter-001")
    for line in lines:
        await roll_over(est, line)
    new = await renewed(est, device, "meter-001")
    again = await renewed(est, new, "meter-001")
    now = est.world.authorities.find("issuing")
    for one in (new, again):
        one.certificate.verify_directly_issued_by(now.certificate)
    assert (now.id == old.id) is ("issuing" not in lines)
    proved = await est.world.prover.identity_of_certificate([again.der])
    assert proved.serial == again.serial


async def test_cacerts_shows_both_keys_and_their_links(est: EstWorld) -> None:
    await roll_over(est, "root")
    await roll_over(est, "issuing")
    answer = await est.curl("/cacerts")
    found = parse_certs_only(b64decode(answer.body))
    links = est.world.authorities.find("root").links
    assert links is not None
    expected = est.world.authorities.published_chain(est.world.authorities.find("issuing").id)
    assert set(found) == set(map(read_certificate, expected))
    assert len(found) == 8
    assert {read_certificate(links.old_with_new), read_certificate(links.new_with_old)} <= set(found)


async def test_what_a_deactivated_or_revoked_authority_issued_opens_nothing(est: EstWorld) -> None:
    device = await est.enrolled("meter-001")
    access = await est.world.access(est.world.system.id)
    await est.world.prover.identity_of_certificate([device.der])
    est.world.authorities.on_change(est.world.prover.clear)
    issuing = str(est.world.authorities.by_name("issuing").id)
    await est.world.administration.set_status(
        access, est.world.system, issuing, AuthorityStep.DEACTIVATE, RevocationReason.UNSPECIFIED
    )
    with pytest.raises(Refused):
        await est.world.prover.identity_of_certificate([device.der])
    key = ec.generate_private_key(ec.SECP256R1())
    answer = await est.enrol("simplereenroll", device, b64(request(key, "meter-001")))
    assert answer.status == 403
    bootstrap = await est.bootstrap("meter-002")
    answer = await est.enrol("simpleenroll", bootstrap, b64(request(key, "meter-002")))
    assert answer.status == 503
    cut = await est.world.rows("SELECT data FROM outbox WHERE kind = 'certificate.distrusted'")
    assert len(cut) == 1
    await est.world.administration.set_status(
        access, est.world.system, issuing, AuthorityStep.ACTIVATE, RevocationReason.UNSPECIFIED
    )
    await renewed(est, device, "meter-001")


async def test_a_reissued_authority_goes_on_for_its_devices(est: EstWorld) -> None:
    device = await est.enrolled("meter-001")
    access = await est.world.access(est.world.system.id)
    await est.world.administration.reissue(access, est.world.system, "issuing", None)
    await renewed(est, device, "meter-001")

"""Authorities change while devices live on: rollover, re-issue, deactivation; over real TLS."""

import tomllib
from base64 import b64decode
from datetime import timedelta
from importlib.resources import files
from os import urandom

import pytest
from cryptography.hazmat.primitives.asymmetric import ec

from ca.authorities import Authorities
from ca.authority import AuthorityStep
from ca.inventory import RevocationReason
from ca.issuance_profiles import IssuanceProfiles
from ca.wishes import Wish
from certs.pem import read_certificate
from certs.pkcs7 import parse_certs_only
from est.http import dms
from est.service import EstService
from iam.errors import Refused
from tests.ca.world import BASE_URL, EVERYTHING, serving
from tests.est.world import EstWorld, Holder, b64, new_key, only, request

DEVICE = tomllib.loads((files("certs") / "profiles" / "device.toml").read_text("utf-8"))


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


async def enrol(est: EstWorld, bootstrap: Holder, identifier: str, label: str | None = None) -> tuple[int, Holder]:
    key = ec.generate_private_key(ec.SECP256R1())
    answer = await est.enrol("simpleenroll", bootstrap, b64(request(key, identifier)), label=label)
    given = [only(b64decode(answer.body))] if answer.status == 200 else [bootstrap.certificate]
    return answer.status, est.hold(given, key)


async def test_a_labels_anchors_follow_a_factory_to_its_next_key_and_out_of_trust(est: EstWorld) -> None:
    old, another = await est.bootstrap("meter-001"), await est.bootstrap("meter-002")
    await roll_over(est, "factory")
    new = await est.bootstrap("meter-003")
    assert (await enrol(est, old, "meter-001"))[0] == 200
    assert (await enrol(est, new, "meter-003"))[0] == 200
    access = await est.world.access(est.world.system.id)
    first = str(est.world.authorities.by_name("factory").id)
    reason = RevocationReason.KEY_COMPROMISE
    await est.world.administration.set_status(access, est.world.system, first, AuthorityStep.REVOKE, reason)
    assert (await enrol(est, another, "meter-002"))[0] == 403
    assert (await enrol(est, await est.bootstrap("meter-004"), "meter-004"))[0] == 200


async def test_a_tenants_own_authority_and_profile_certify_its_devices(est: EstWorld) -> None:
    acme_id = await est.world.tenant("acme")
    acme, access = await est.world.named_tenant("acme"), await est.world.access(est.world.system.id)
    wish = Wish(subject={"common_name": "Acme"}, line="acme", parent="root")
    own = await est.world.administration.create(access, acme, wish)
    issuance = IssuanceProfiles(est.world.pool, est.world.authorities, est.world.clock, urandom)
    short = {**DEVICE, "validity": "12h"}
    profile = await issuance.create(access, acme, "short", "", short)
    await est.label("acme", acme_id, authority=own.id, certificate_profile=profile.id)
    status, device = await enrol(est, await est.bootstrap("meter-001"), "meter-001", "acme")
    assert status == 200
    device.certificate.verify_directly_issued_by(own.certificate)
    assert device.certificate.not_valid_after_utc - device.certificate.not_valid_before_utc < timedelta(hours=13)
    proved = await est.world.prover.identity_of_certificate([device.der])
    assert proved.serial == device.serial
    shown = parse_certs_only(b64decode((await est.curl("/acme/cacerts")).body))
    assert own.certificate in shown


async def test_a_label_names_no_authority_of_another_tenant(est: EstWorld) -> None:
    acme, globex = await est.world.tenant("acme"), await est.world.tenant("globex")
    access = await est.world.access(est.world.system.id)
    wish = Wish(subject={"common_name": "Globex"}, line="globex", parent="root")
    await est.world.administration.create(access, await est.world.named_tenant("globex"), wish)
    routes = dms.profile_routes(est.profiles, est.world.authorities)
    enrolment: dict[str, object] = {
        "est_rfc7030_settings": {"client_certificate_settings": {"validation_cas": ["factory"]}}
    }
    async with serving(est.world, routes) as client:
        for tenant, authority, status in (
            (acme, "globex", 404),
            (acme, "root", 400),  # it issues for no devices, whoever asks
            (acme, "nobody", 404),
            (acme, "issuing", 201),  # the node's own is everybody's
            (globex, "globex", 201),
        ):
            headers = await est.world.identity(tenant, EVERYTHING)
            settings = {"enrollment_settings": {**enrolment, "enrollment_ca": authority}}
            body = {"id": f"label-{authority}", "settings": settings}
            answer = await client.post("/api/dmsmanager/v1/dms", headers=headers, json=body)
            assert answer.status == status, (authority, await answer.text())


async def test_a_worker_that_has_not_heard_of_a_new_authority_issues_by_it_all_the_same(est: EstWorld) -> None:
    world = est.world
    other = Authorities(world.pool, world.keystore, world.clock, urandom, base_url=BASE_URL)
    await other.refresh()
    elsewhere = EstService(
        world.pool, other, est.service._authentication, est.service._server_keys, world.clock, urandom
    )
    access = await world.access(world.system.id)
    one = await world.administration.create(access, world.system, Wish({"common_name": "Plant"}, "plant", "root"))
    await est.label("plant", authority=one.id)
    assert await elsewhere.cacerts("plant")
    shipped = await est.bootstrap("meter-1")
    answer = await elsewhere.enrol("plant", (shipped.der,), b64(request(new_key(), "meter-1")))
    assert isinstance(answer, bytes)
    only(answer).verify_directly_issued_by(one.certificate)

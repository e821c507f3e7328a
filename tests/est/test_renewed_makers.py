"""A maker's authority that gets a new certificate for its key: labels that pin the one before follow."""

from datetime import timedelta
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding

from ca.authority import Authority, AuthorityStep
from ca.intake import Offer
from iam.errors import Kind, Refused
from tests.ca.test_authorities_http import CAS, all_routes, caller, pem_of
from tests.ca.test_intake import Maker
from tests.ca.world import serving
from tests.est.test_external_authorities import enrols, step, taken, tenant_of
from tests.est.world import DAY, EstWorld, Holder


def maker_of(est: EstWorld, lasts: timedelta, key: ec.EllipticCurvePrivateKey, **how: Any) -> Holder:
    made = Maker(est.world, how.pop("name", "Maker"), how.pop("above", None), lasts=lasts, key=key, **how)
    return est.hold([made.certificate], key)


async def renew(est: EstWorld, line: str, new: Holder, *chain: x509.Certificate) -> Authority:
    access = await est.world.access(est.world.system.id)
    return await est.world.intake.renew(access, est.world.system, line, new.certificate, chain)


async def test_a_label_follows_the_certificate_that_its_tenant_took_in(est: EstWorld) -> None:
    key = ec.generate_private_key(ec.SECP256R1())
    old, new = maker_of(est, DAY, key), maker_of(est, 90 * DAY, key)
    acme = await tenant_of(est, "acme")
    await taken(est, est.world.system, old, "maker")
    await est.label("acme-meters", acme.id, bootstrap_anchors=(old.der,))
    assert await enrols(est, "acme-meters", old, "meter-1")
    est.world.clock.move(2 * DAY)
    assert not await enrols(est, "acme-meters", old, "meter-2")
    one = await renew(est, "maker", new)
    assert (one.name, one.der) == ("maker", new.der)
    assert await enrols(est, "acme-meters", old, "meter-3")
    with pytest.raises(Refused, match="label acme-meters pins it"):  # by its earlier certificate
        await est.world.administration.delete(await est.world.access(est.world.system.id), est.world.system, "maker")


async def test_a_label_follows_no_certificate_that_another_tenant_took_in(est: EstWorld) -> None:
    key = ec.generate_private_key(ec.SECP256R1())
    old, new = maker_of(est, DAY, key), maker_of(est, 90 * DAY, key)
    acme, globex = await tenant_of(est, "acme"), await tenant_of(est, "globex")
    await taken(est, globex, new, "maker")
    await est.label("acme-meters", acme.id, bootstrap_anchors=(old.der,))
    est.world.clock.move(2 * DAY)
    assert not await enrols(est, "acme-meters", old, "meter-1")


async def test_a_label_goes_on_with_what_it_pins_if_that_lasts_longer(est: EstWorld) -> None:
    key = ec.generate_private_key(ec.SECP256R1())
    shorter, longer = maker_of(est, DAY, key), maker_of(est, 90 * DAY, key)
    await taken(est, est.world.system, shorter, "maker")
    await est.label("meters", bootstrap_anchors=(longer.der,))
    est.world.clock.move(2 * DAY)
    assert await enrols(est, "meters", longer, "meter-1")


@pytest.mark.parametrize("other", ["name", "key", "identifier"])
async def test_what_is_no_certificate_of_the_same_authority_is_refused(est: EstWorld, other: str) -> None:
    key = ec.generate_private_key(ec.SECP256R1())
    before = await taken(est, est.world.system, maker_of(est, DAY, key), "maker")
    how: dict[str, Any] = {"name": {"name": "Other"}, "key": {}, "identifier": {"named": False}}[other]
    new = maker_of(est, 90 * DAY, ec.generate_private_key(ec.SECP256R1()) if other == "key" else key, **how)
    with pytest.raises(Refused) as caught:
        await renew(est, "maker", new)
    assert caught.value.kind is Kind.INVALID
    assert est.world.authorities.by_name("maker").der == before.der


async def test_what_is_certified_here_or_was_revoked_takes_no_certificate(est: EstWorld) -> None:
    key = ec.generate_private_key(ec.SECP256R1())
    await taken(est, est.world.system, maker_of(est, DAY, key), "maker")
    await step(est, est.world.system, "maker", AuthorityStep.REVOKE)
    await taken(
        est, est.world.system, maker_of(est, DAY, new := ec.generate_private_key(ec.SECP256R1())), "own", key=new
    )
    for line, why in (("maker", "is revoked"), ("own", "certified here"), ("issuing", "certified here")):
        with pytest.raises(Refused, match=why) as caught:
            await renew(est, line, maker_of(est, 90 * DAY, key))
        assert caught.value.kind is Kind.CONFLICT


async def test_an_authority_that_was_asked_for_elsewhere_gets_its_next_certificate_over_rest(est: EstWorld) -> None:
    """Its key is here, what it signed stays good, and it issues on."""
    world = est.world
    top, access = Maker(world, "Elsewhere"), await world.access(world.system.id)
    key = ec.generate_private_key(ec.SECP256R1())
    first, second = (Maker(world, "Plant", top, key=key, lasts=lasts) for lasts in (DAY, 30 * DAY))
    before = await world.intake.take_in(
        access, world.system, Offer(first.certificate, (top.certificate,), key, line="plant")
    )
    async with serving(world, all_routes(world)) as client:
        call = await caller(world, client)
        status, refused = await call("POST", f"{CAS}/plant/reissue", {})
        assert (status, "bring that" in refused["detail"]) == (409, True)
        body = {"ca": pem(second.certificate), "ca_chain": [pem(top.certificate)]}
        assert (await call("POST", f"{CAS}/plant/reissue", {**body, "ca_expiration": {"duration": "1d"}}))[0] == 400
        assert (await call("POST", f"{CAS}/plant/reissue", {"ca": "-----BEGIN NONSENSE"}))[0] == 400
        status, shown = await call("POST", f"{CAS}/plant/reissue", body)
        assert (status, shown["authority_id"]) == (200, str(before.id)), shown
        assert pem_of(shown["certificate"]["certificate"]) == second.certificate
        _, listed = await call("GET", CAS, filter=f"valid_to[af]{(world.clock() + 20 * DAY):%Y-%m-%dT%H:%M:%SZ}")
        assert "plant" in [one["id"] for one in listed["list"]]
    world.clock.move(2 * DAY)
    assert world.authorities.issuer(before.id).certificate == second.certificate
    events = await world.rows("SELECT data FROM outbox WHERE kind = 'authority.reissued' AND subject = 'plant'")
    assert len(events) == 1


def pem(certificate: x509.Certificate) -> str:
    return certificate.public_bytes(Encoding.PEM).decode()

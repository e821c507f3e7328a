"""Whose word on an authority counts, and for how long: makers' keys at labels of several tenants, over real TLS."""

from typing import Any
from uuid import UUID

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from ca.authority import Authority, AuthorityStatus, AuthorityStep
from ca.intake import Offer
from ca.inventory import RevocationReason
from iam.errors import Kind, Refused
from iam.model import Tenant
from tests.est.test_distrust import key_of, made
from tests.est.world import DAY, EstWorld, Holder, b64, makers_chain, new_key, request

COMPROMISE = RevocationReason.KEY_COMPROMISE
ENDINGS = (AuthorityStep.DEACTIVATE, AuthorityStep.REVOKE)


async def tenant_of(est: EstWorld, name: str, parent: UUID | None = None) -> Tenant:
    await est.world.tenant(name, parent)
    return await est.world.named_tenant(name)


async def taken(est: EstWorld, tenant: Tenant, maker: Holder, line: str, **more: Any) -> Authority:
    access = await est.world.access(tenant.id)
    return await est.world.intake.take_in(access, tenant, Offer(maker.certificate, line=line, **more))


async def step(est: EstWorld, tenant: Tenant, line: str, what: AuthorityStep) -> Authority:
    access = await est.world.access(tenant.id)
    return await est.world.administration.set_status(access, tenant, line, what, COMPROMISE)


async def delete(est: EstWorld, tenant: Tenant, line: str) -> None:
    await est.world.administration.delete(await est.world.access(tenant.id), tenant, line)


async def enrols(est: EstWorld, label: str, maker: Holder, identifier: str) -> bool:
    """Tell whether a device with a certificate of the maker's enrols."""
    shipped = est.signed_by((maker.certificate.subject, maker.key), identifier)
    answer = await est.enrol("simpleenroll", shipped, b64(request(new_key(), identifier)), label=label)
    assert answer.status in {200, 403}, answer
    return answer.status == 200


@pytest.mark.parametrize("ending", ENDINGS)
async def test_what_a_tenant_says_of_an_external_authority_holds_for_it_and_those_below_it_alone(
    est: EstWorld, ending: AuthorityStep
) -> None:
    maker, _, _ = makers_chain(est)
    acme, globex = await tenant_of(est, "acme"), await tenant_of(est, "globex")
    plant = await tenant_of(est, "acme-plant", acme.id)
    for tenant in (acme, globex, plant, est.world.system):
        await est.label(f"{tenant.name}-meters", tenant.id, bootstrap_anchors=(maker.der,))
    await taken(est, acme, maker, "maker")
    await step(est, acme, "maker", ending)
    assert not await enrols(est, "acme-meters", maker, "meter-1")
    assert not await enrols(est, "acme-plant-meters", maker, "meter-2")
    assert await enrols(est, "globex-meters", maker, "meter-3")
    assert await enrols(est, "system-meters", maker, "meter-4")


@pytest.mark.parametrize("ending", ENDINGS)
async def test_what_the_owner_of_the_platform_says_holds_for_all(est: EstWorld, ending: AuthorityStep) -> None:
    maker, _, _ = makers_chain(est)
    acme = await tenant_of(est, "acme")
    await est.label("acme-meters", acme.id, bootstrap_anchors=(maker.der,))
    await taken(est, acme, maker, "maker")
    await taken(est, est.world.system, maker, "maker-of-all")
    assert await enrols(est, "acme-meters", maker, "meter-1")
    await step(est, est.world.system, "maker-of-all", ending)
    assert not await enrols(est, "acme-meters", maker, "meter-2")


async def test_each_tenant_takes_the_same_external_authority_in_for_itself(est: EstWorld) -> None:
    maker, _, _ = makers_chain(est)
    acme, globex = await tenant_of(est, "acme"), await tenant_of(est, "globex")
    for tenant in (acme, globex):
        await taken(est, tenant, maker, f"{tenant.name}-maker")
        await est.label(f"{tenant.name}-meters", tenant.id, bootstrap_anchors=(maker.der,))
    with pytest.raises(Refused, match="already") as caught:
        await taken(est, acme, maker, "again")
    assert caught.value.kind is Kind.CONFLICT
    await step(est, acme, "acme-maker", AuthorityStep.DEACTIVATE)
    assert est.world.authorities.by_name("globex-maker").status is AuthorityStatus.ACTIVE
    assert not await enrols(est, "acme-meters", maker, "meter-1")
    assert await enrols(est, "globex-meters", maker, "meter-2")
    await step(est, acme, "acme-maker", AuthorityStep.ACTIVATE)
    assert await enrols(est, "acme-meters", maker, "meter-3")


async def test_who_has_the_key_takes_it_in_though_others_claim_its_certificate_and_only_his_word_holds_for_all(
    est: EstWorld,
) -> None:
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "Maker")])
    maker = await own_root(est, name, key)
    acme, globex = await tenant_of(est, "acme"), await tenant_of(est, "globex")
    await taken(est, acme, maker, "claimed")
    await taken(est, globex, maker, "owned", key=key)
    for tenant in (acme, globex, est.world.system):
        await est.label(f"{tenant.name}-meters", tenant.id, bootstrap_anchors=(maker.der,))
    await step(est, acme, "claimed", AuthorityStep.REVOKE)
    assert not await enrols(est, "acme-meters", maker, "meter-1")
    assert await enrols(est, "globex-meters", maker, "meter-2")
    assert await enrols(est, "system-meters", maker, "meter-3")
    await step(est, globex, "owned", AuthorityStep.DEACTIVATE)
    assert not await enrols(est, "globex-meters", maker, "meter-4")
    assert not await enrols(est, "system-meters", maker, "meter-5")


async def own_root(est: EstWorld, name: x509.Name, key: ec.EllipticCurvePrivateKey) -> Holder:
    """Make a root that can be taken in with its key."""
    now = est.world.clock()
    usage = x509.KeyUsage(False, False, False, False, False, True, True, False, False)
    builder = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - DAY)
        .not_valid_after(now + 30 * DAY)
        .add_extension(x509.BasicConstraints(True, None), critical=True)
        .add_extension(usage, critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
    )
    return est.hold([builder.sign(key, hashes.SHA256())], key)


async def test_a_key_that_another_tenant_claims_is_a_devices_all_the_same(est: EstWorld) -> None:
    """Or whoever knows a device's public key could keep it from enrolling."""
    acme = await tenant_of(est, "acme")
    maker, _, _ = makers_chain(est)
    key = new_key()
    claimed = est.signed_by((maker.certificate.subject, maker.key), "Claimed", is_authority=True, usage=None, key=key)
    await taken(est, acme, claimed, "claimed")
    await est.label("acme-meters", acme.id)
    shipped = await est.bootstrap("meter-1")
    assert (await est.enrol("simpleenroll", shipped, b64(request(key, "meter-1")), label="acme-meters")).status == 403
    assert (await est.enrol("simpleenroll", shipped, b64(request(key, "meter-1")))).status == 200


async def test_what_a_tenant_says_of_an_external_authority_revokes_nobodys_certificates(est: EstWorld) -> None:
    key = ec.generate_private_key(ec.SECP256R1())
    maker = await own_root(est, x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "Maker")]), key)
    acme, globex = await tenant_of(est, "acme"), await tenant_of(est, "globex")
    await taken(est, acme, maker, "claimed")
    await taken(est, globex, maker, "owned", key=key)
    await est.world.administration.reissue(await est.world.access(globex.id), globex, "owned", None)
    await step(est, acme, "claimed", AuthorityStep.REVOKE)
    assert await est.world.value("SELECT count(*) FROM certificate WHERE status = 'revoked'") == 0


# --- Deletion ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("origin", ["MANAGED", "IMPORTED", "EXTERNAL"])
async def test_a_revoked_authority_stays_distrusted_when_it_is_deleted_and_is_not_taken_in_again(
    est: EstWorld, origin: str
) -> None:
    if origin == "MANAGED":
        top = await made(est, "top", None, 2)
        root = est.hold([top.certificate], key_of(top))
    else:
        key = ec.generate_private_key(ec.SECP256R1())
        root = await own_root(est, x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "Maker")]), key)
        await taken(est, est.world.system, root, "top", **({"key": key} if origin == "IMPORTED" else {}))
    await est.label("meters", bootstrap_anchors=(root.der,))
    assert await enrols(est, "meters", root, "meter-1")
    await step(est, est.world.system, "top", AuthorityStep.REVOKE)
    assert not await enrols(est, "meters", root, "meter-2")
    await delete(est, est.world.system, "top")
    assert not await enrols(est, "meters", root, "meter-3")
    for more in ({}, {"key": root.key}):
        with pytest.raises(Refused, match="was revoked") as caught:
            await taken(est, est.world.system, root, "again", **more)
        assert caught.value.kind is Kind.CONFLICT
    assert not await enrols(est, "meters", root, "meter-4")


async def test_what_a_tenant_revoked_and_deleted_stays_distrusted_by_it_alone(est: EstWorld) -> None:
    maker, _, _ = makers_chain(est)
    acme, globex = await tenant_of(est, "acme"), await tenant_of(est, "globex")
    plant = await tenant_of(est, "acme-plant", acme.id)
    for tenant in (acme, globex, plant):
        await est.label(f"{tenant.name}-meters", tenant.id, bootstrap_anchors=(maker.der,))
    await taken(est, acme, maker, "maker")
    await step(est, acme, "maker", AuthorityStep.REVOKE)
    await delete(est, acme, "maker")
    assert not await enrols(est, "acme-meters", maker, "meter-1")
    assert not await enrols(est, "acme-plant-meters", maker, "meter-2")
    assert await enrols(est, "globex-meters", maker, "meter-3")
    for tenant in (acme, plant):
        with pytest.raises(Refused, match="was revoked"):
            await taken(est, tenant, maker, "again")
    await taken(est, globex, maker, "globex-maker")


async def test_an_external_authority_below_a_revoked_one_stays_distrusted_when_it_is_deleted(est: EstWorld) -> None:
    top = await made(est, "top", None, 2)
    below = est.signed_by((top.certificate.subject, key_of(top)), "Line", is_authority=True, usage=None)
    await taken(est, est.world.system, below, "line")
    await est.label("meters", bootstrap_anchors=(below.der,))
    assert await enrols(est, "meters", below, "meter-1")
    await step(est, est.world.system, "top", AuthorityStep.REVOKE)
    assert not await enrols(est, "meters", below, "meter-2")
    await delete(est, est.world.system, "line")
    assert not await enrols(est, "meters", below, "meter-3")


async def test_what_was_deactivated_is_not_deleted_before_somebody_says_what_is_meant(est: EstWorld) -> None:
    maker, _, _ = makers_chain(est)
    await taken(est, est.world.system, maker, "maker")
    await step(est, est.world.system, "maker", AuthorityStep.DEACTIVATE)
    with pytest.raises(Refused, match="Activate it, or revoke it") as caught:
        await delete(est, est.world.system, "maker")
    assert caught.value.kind is Kind.CONFLICT
    await step(est, est.world.system, "maker", AuthorityStep.ACTIVATE)
    await delete(est, est.world.system, "maker")
    await taken(est, est.world.system, maker, "maker")


async def test_what_a_label_pins_is_not_deleted_as_long_as_it_is_believed(est: EstWorld) -> None:
    maker, _, _ = makers_chain(est)
    acme, globex = await tenant_of(est, "acme"), await tenant_of(est, "globex")
    await taken(est, acme, maker, "maker")
    await est.label("theirs", globex.id, bootstrap_anchors=(maker.der,))  # which is no business of acme's
    await est.label("meters", acme.id, bootstrap_anchors=(maker.der,))
    with pytest.raises(Refused, match="label meters pins it") as caught:
        await delete(est, acme, "maker")
    assert caught.value.kind is Kind.CONFLICT
    await est.world.execute("DELETE FROM enrolment_profile WHERE name = 'meters'")
    await delete(est, acme, "maker")


async def test_what_is_revoked_while_it_is_being_deleted_stays_distrusted(
    est: EstWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    maker, _, _ = makers_chain(est)
    acme = await tenant_of(est, "acme")
    await taken(est, acme, maker, "maker")
    administration = est.world.administration
    visible = administration.visible

    async def revoked_after(tenant: Tenant, reference: str) -> Authority:
        found = await visible(tenant, reference)
        monkeypatch.undo()
        await step(est, acme, "maker", AuthorityStep.REVOKE)
        return found

    monkeypatch.setattr(administration, "visible", revoked_after)
    await delete(est, acme, "maker")
    with pytest.raises(Refused, match="stays distrusted"):
        await taken(est, acme, maker, "maker")

"""What a tenant says of certificates that it took in holds for it and those below it, and for nobody else."""

from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import NameOID

from ca.inventory import RevocationReason
from ca.record_keeping import RecordKeeping
from iam.errors import Refused
from iam.model import Tenant
from tests.est.test_external_authorities import own_root, taken, tenant_of
from tests.est.world import EstWorld, Holder, b64, makers_chain, new_key, request

COMPROMISE = RevocationReason.KEY_COMPROMISE


async def said_of(est: EstWorld, tenant: Tenant, one: Holder, reason: RevocationReason | None = None) -> None:
    """Put a certificate on record for a tenant, and revoke it there."""
    keeping = RecordKeeping(est.world.pool, est.world.authorities, est.world.clock)
    text = one.certificate.public_bytes(Encoding.PEM).decode()
    record = await keeping.take_in(tenant, text, {}, actor="test")
    if reason is not None:
        await est.world.revocation.revoke(tenant.id, record.serial, reason, actor="test")


async def own_authority(est: EstWorld, tenant: Tenant) -> Holder:
    """Take in an authority of the tenant's making, with its key: it may certify any key, whoever has that."""
    key, name = ec.generate_private_key(ec.SECP256R1()), f"Made by {tenant.name}"
    root = await own_root(est, x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)]), key)
    await taken(est, tenant, root, f"{tenant.name}-own", key=key)
    return root


def below(est: EstWorld, root: Holder, key: Any) -> Holder:
    return est.signed_by((root.certificate.subject, root.key), "meter-of-others", key=key)


@pytest.mark.parametrize("reason", [RevocationReason.UNSPECIFIED, COMPROMISE])
async def test_a_makers_certificate_that_a_tenant_revoked_counts_for_others_as_before(
    est: EstWorld, reason: RevocationReason
) -> None:
    maker, _, _ = makers_chain(est)
    acme, globex = await tenant_of(est, "acme"), await tenant_of(est, "globex")
    plant = await tenant_of(est, "globex-plant", globex.id)
    for tenant in (acme, globex, plant):
        await est.label(f"{tenant.name}-meters", tenant.id, bootstrap_anchors=(maker.der,))
    await taken(est, globex, maker, "maker")
    statuses = {}
    for number, label in enumerate(("acme-meters", "globex-meters", "globex-plant-meters")):
        shipped = est.signed_by((maker.certificate.subject, maker.key), f"meter-{number}")
        await said_of(est, globex, shipped, reason)
        answer = await est.enrol("simpleenroll", shipped, b64(request(new_key(), f"meter-{number}")), label=label)
        statuses[label] = answer.status
    assert statuses == {"acme-meters": 200, "globex-meters": 403, "globex-plant-meters": 403}


async def test_a_devices_key_is_not_compromised_because_another_tenant_says_so(est: EstWorld) -> None:
    acme, globex = await tenant_of(est, "acme"), await tenant_of(est, "globex")
    await est.label("acme-meters", acme.id)
    device, other, key = await est.enrolled("meter-1", label="acme-meters"), await est.bootstrap("meter-2"), new_key()
    root = await own_authority(est, globex)
    for one in (device.key, other.key, key):
        await said_of(est, globex, below(est, root, one), COMPROMISE)
    renewed = await est.enrol("simplereenroll", device, b64(request(device.key, "meter-1")), label="acme-meters")
    assert renewed.status == 200, renewed
    enrolled = await est.enrol("simpleenroll", other, b64(request(key, "meter-2")), label="acme-meters")
    assert enrolled.status == 200, enrolled


async def test_a_devices_key_that_its_own_tenant_says_is_compromised_renews_no_more(est: EstWorld) -> None:
    acme = await tenant_of(est, "acme")
    await est.label("acme-meters", acme.id)
    device = await est.enrolled("meter-1", label="acme-meters")
    await said_of(est, acme, below(est, await own_authority(est, acme), device.key), COMPROMISE)
    answer = await est.enrol("simplereenroll", device, b64(request(device.key, "meter-1")), label="acme-meters")
    assert answer.status == 403, answer


async def test_a_key_that_another_tenant_has_a_certificate_of_is_taken_in_as_an_authoritys(est: EstWorld) -> None:
    maker, _, _ = makers_chain(est)
    acme, globex = await tenant_of(est, "acme"), await tenant_of(est, "globex")
    root = await own_authority(est, globex)
    await said_of(est, globex, below(est, root, maker.key), COMPROMISE)
    await taken(est, acme, maker, "maker")
    with pytest.raises(Refused, match="somebody's here already"):
        await taken(est, globex, maker, "maker-too")

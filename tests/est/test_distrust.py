"""What was signed by a key of ours that is trusted no more opens nothing, whatever is sent beside it; over real TLS."""

import asyncio

import pytest
from cryptography.hazmat.primitives.asymmetric import ec

from ca.authority import Authority, AuthorityStep, Links
from ca.intake import Offer
from ca.inventory import AuthorityKind, ProvedCertificate, RevocationReason
from ca.signers import SoftwareSigner
from ca.wishes import Wish
from certs.pem import read_certificate
from est.profiles import Bootstrap, CsrAttributes, Settings
from iam.errors import Kind, Refused
from tests.est.test_proxies import client_cert, headers, pin_of, proxy_of
from tests.est.world import EstWorld, Holder, b64, new_key, request

COMPROMISE = RevocationReason.KEY_COMPROMISE
ENDINGS = (AuthorityStep.DEACTIVATE, AuthorityStep.REVOKE)


async def step(est: EstWorld, one: Authority, what: AuthorityStep) -> None:
    access = await est.world.access(est.world.system.id)
    await est.world.administration.set_status(access, est.world.system, str(one.id), what, COMPROMISE)


async def rolled_over(est: EstWorld, line: str) -> tuple[Authority, Links]:
    """Give a line its next key; return the authority before, and the links."""
    old = est.world.authorities.by_name(line)
    access = await est.world.access(est.world.system.id)
    new = await est.world.administration.roll_over(access, est.world.system, line, None, None)
    assert new.links is not None
    return old, new.links


async def made(est: EstWorld, name: str, parent: str | None, path_length: int) -> Authority:
    access = await est.world.access(est.world.system.id)
    wish = Wish(subject={"common_name": name}, line=name, parent=parent, path_length=path_length)
    return await est.world.administration.create(access, est.world.system, wish)


async def hierarchy(est: EstWorld) -> tuple[Authority, Authority, Authority]:
    """Make `top > middle > below`."""
    return await made(est, "top", None, 2), await made(est, "middle", "top", 1), await made(est, "below", "middle", 0)


def sent(est: EstWorld, holder: Holder, *others: bytes) -> Holder:
    """Return the same holder, who sends `others` beside his certificate."""
    return est.hold([holder.certificate, *map(read_certificate, others)], holder.key)


def key_of(authority: Authority) -> ec.EllipticCurvePrivateKey:
    assert isinstance(authority.signer, SoftwareSigner)
    key = authority.signer._private_key
    assert isinstance(key, ec.EllipticCurvePrivateKey)
    return key


def forged(est: EstWorld, authority: Authority, identifier: str) -> Holder:
    """Make a certificate by the key of an authority that somebody else has got hold of."""
    return est.signed_by((authority.certificate.subject, key_of(authority)), identifier)


async def status_of(est: EstWorld, operation: str, holder: Holder, identifier: str, label: str | None = None) -> int:
    return (await est.enrol(operation, holder, b64(request(new_key(), identifier)), label=label)).status


async def is_proved(est: EstWorld, *chain: bytes) -> bool:
    est.world.prover.clear()
    (answer,) = await asyncio.gather(est.world.prover.identity_of_certificate(chain), return_exceptions=True)
    if isinstance(answer, Refused) and answer.kind is Kind.UNAUTHENTICATED:
        return False
    assert isinstance(answer, ProvedCertificate)
    return True


@pytest.mark.parametrize("ending", ENDINGS)
async def test_the_link_of_a_rollover_brings_no_distrusted_factory_back(est: EstWorld, ending: AuthorityStep) -> None:
    old, links = await rolled_over(est, "factory")
    assert (
        await status_of(est, "simpleenroll", sent(est, forged(est, old, "meter-1"), links.old_with_new), "meter-1")
        == 200
    )
    await step(est, old, ending)
    attacker = forged(est, old, "meter-2")
    for beside in ([], [links.old_with_new], [old.der], [links.new_with_old, links.old_with_new, old.der]):
        assert await status_of(est, "simpleenroll", sent(est, attacker, *beside), "meter-2") == 403
    honest = await est.bootstrap("meter-3")  # who sends all that he was ever told is heard all the same
    honest = sent(est, honest, links.old_with_new, links.new_with_old, old.der)
    assert await status_of(est, "simpleenroll", honest, "meter-3") == 200


@pytest.mark.parametrize("ending", ENDINGS)
async def test_the_link_of_a_rollover_brings_no_distrusted_issuer_back(est: EstWorld, ending: AuthorityStep) -> None:
    device = await est.enrolled("meter-1")
    old, links = await rolled_over(est, "issuing")
    assert await is_proved(est, device.der, links.old_with_new)
    await step(est, old, ending)
    for beside in ([], [links.old_with_new], [old.der, links.old_with_new]):
        assert not await is_proved(est, device.der, *beside)
        assert await status_of(est, "simplereenroll", sent(est, device, *beside), "meter-1") == 403


@pytest.mark.parametrize("ending", ENDINGS)
async def test_a_distrusted_authority_below_another_proves_nobody_and_renews_nothing(
    est: EstWorld, ending: AuthorityStep
) -> None:
    _, middle, below = await hierarchy(est)
    await est.label("lower", authority=below.id)
    await est.label("upper", authority=middle.id)
    device = await est.enrolled("meter-1", label="lower")
    await est.world.execute("UPDATE device SET enrolment_profile = 'upper'")
    assert await is_proved(est, device.der, below.der)
    await step(est, below, ending)
    for beside in ([], [below.der], [below.der, middle.der]):
        assert not await is_proved(est, device.der, *beside)
        assert await status_of(est, "simplereenroll", sent(est, device, *beside), "meter-1", "upper") == 403


async def test_what_a_deactivated_authority_issued_counts_again_when_it_is_active(est: EstWorld) -> None:
    _, middle, below = await hierarchy(est)
    await est.label("lower", authority=below.id)
    device = await est.enrolled("meter-1", label="lower")
    await step(est, below, AuthorityStep.DEACTIVATE)
    assert not await is_proved(est, device.der, below.der)
    await step(est, below, AuthorityStep.ACTIVATE)
    assert await is_proved(est, device.der, below.der)
    await step(est, middle, AuthorityStep.DEACTIVATE)  # below a deactivated one, all goes on
    assert await is_proved(est, device.der, below.der)
    await step(est, middle, AuthorityStep.REVOKE)
    assert not await is_proved(est, device.der, below.der, middle.der)


async def test_a_revoked_authority_below_a_labels_anchor_stays_distrusted_when_it_is_deleted(est: EstWorld) -> None:
    top, middle, below = await hierarchy(est)
    await est.label("makers", bootstrap_anchors=(top.der,))
    genuine = sent(est, forged(est, below, "meter-1"), below.der, middle.der)
    assert await status_of(est, "simpleenroll", genuine, "meter-1", "makers") == 200
    await step(est, below, AuthorityStep.REVOKE)
    attacker = sent(est, forged(est, below, "meter-2"), below.der, middle.der)
    assert await status_of(est, "simpleenroll", attacker, "meter-2", "makers") == 403
    access = await est.world.access(est.world.system.id)
    await est.world.administration.delete(access, est.world.system, "below")
    assert await status_of(est, "simpleenroll", attacker, "meter-2", "makers") == 403
    others = sent(est, forged(est, middle, "meter-3"), middle.der)
    assert await status_of(est, "simpleenroll", others, "meter-3", "makers") == 200


async def test_who_shows_what_is_distrusted_is_told_the_names_of_no_device(est: EstWorld) -> None:
    await est.label("meters", csr_attributes=CsrAttributes.TEMPLATE)
    device = await est.enrolled("meter-1", label="meters")
    old, links = await rolled_over(est, "issuing")
    shown = sent(est, device, links.old_with_new)
    to_a_stranger = (await est.curl("/meters/csrattrs")).body
    assert (await est.curl("/meters/csrattrs", holder=shown)).body != to_a_stranger
    await step(est, old, AuthorityStep.REVOKE)
    assert (await est.curl("/meters/csrattrs", holder=shown)).body == to_a_stranger


async def test_a_proxy_that_passes_a_link_on_brings_no_distrusted_factory_back(est: EstWorld) -> None:
    proxy = proxy_of(est)
    await est.label("meters", settings=Settings(bootstrap=Bootstrap(proxies=(pin_of(proxy),))))
    old, links = await rolled_over(est, "factory")
    await step(est, old, AuthorityStep.REVOKE)
    attacker = forged(est, old, "meter-1")
    link = est.hold([read_certificate(links.old_with_new)], attacker.key)
    passed = headers(("Client-Cert", client_cert(attacker)), ("Client-Cert-Chain", client_cert(link)))
    told = ("-H", "Content-Type: application/pkcs10", *passed)
    answer = await est.curl("/meters/simpleenroll", *told, holder=proxy, body=b64(request(new_key(), "meter-1")))
    assert answer.status == 403


async def test_a_label_that_pins_a_distrusted_key_by_another_certificate_does_not_believe_it(est: EstWorld) -> None:
    _, _, below = await hierarchy(est)
    other = est.signed_by(est.impostor(AuthorityKind.ROOT), "Another name", is_authority=True, key=key_of(below))
    await est.label("makers", bootstrap_anchors=(other.der,))
    held = (other.certificate.subject, key_of(below))
    assert await status_of(est, "simpleenroll", est.signed_by(held, "meter-1"), "meter-1", "makers") == 200
    await step(est, below, AuthorityStep.DEACTIVATE)
    assert await status_of(est, "simpleenroll", est.signed_by(held, "meter-2"), "meter-2", "makers") == 403


async def test_an_authority_is_taken_in_below_none_that_is_distrusted(est: EstWorld) -> None:
    top, middle, _ = await hierarchy(est)
    access = await est.world.access(est.world.system.id)
    held = (middle.certificate.subject, key_of(middle))
    first, second = (est.signed_by(held, name, is_authority=True, usage=None).certificate for name in ("One", "Two"))
    chain = (middle.certificate, top.certificate)
    await est.world.intake.take_in(access, est.world.system, Offer(first, chain))
    await step(est, middle, AuthorityStep.REVOKE)
    with pytest.raises(Refused, match="cannot be taken in"):
        await est.world.intake.take_in(access, est.world.system, Offer(second, chain))


async def test_what_is_on_record_proves_nobody_when_its_own_authority_is_distrusted(est: EstWorld) -> None:
    """Though its chain were good: two keys could be given one name, and a certificate a second signature."""
    _, _, below = await hierarchy(est)
    device = await est.enrolled("meter-1")
    assert await is_proved(est, device.der)
    await est.world.execute("UPDATE certificate SET authority_id = $1 WHERE serial = $2", below.id, device.serial)
    await step(est, below, AuthorityStep.DEACTIVATE)
    assert not await is_proved(est, device.der)


async def test_what_is_on_record_proves_nobody_by_a_distrusted_key_though_the_record_names_another(
    est: EstWorld,
) -> None:
    """Whatever the record says, the chain decides as well."""
    _, middle, below = await hierarchy(est)
    await est.label("lower", authority=below.id)
    device = await est.enrolled("meter-1", label="lower")
    await est.world.execute("UPDATE certificate SET authority_id = $1 WHERE serial = $2", middle.id, device.serial)
    assert await is_proved(est, device.der, below.der)
    await step(est, below, AuthorityStep.DEACTIVATE)
    assert not await is_proved(est, device.der, below.der)

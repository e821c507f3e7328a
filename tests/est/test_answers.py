"""cacerts and csrattrs over real TLS, without any client certificate."""

from base64 import b64decode
from dataclasses import replace
from datetime import timedelta

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtensionOID, NameOID, SignatureAlgorithmOID

from ca.inventory import AuthorityKind
from certs.csrattrs import WantedKey, WantedName, WantedRequest, parse_csr_attributes
from certs.keys import KeyAlgorithm, KeyPolicy
from certs.names import DeviceIdentifier
from certs.pkcs7 import parse_certs_only
from certs.profile import load_profile
from est.profiles import CsrAttributes, EnrolmentMode, ProofOfPossession
from est.wishes import csr_attributes, wanted_key
from tests.est.world import EstWorld, Holder, b64, request

ATTRIBUTES, TEMPLATE = CsrAttributes.ATTRIBUTES, CsrAttributes.TEMPLATE
P256, P384, RSA = KeyAlgorithm.P256, KeyAlgorithm.P384, KeyAlgorithm.RSA


async def test_cacerts_has_the_root_and_all_between(est: EstWorld) -> None:
    for path in ("/cacerts", "/default/cacerts"):
        answer = await est.curl(path)
        assert (answer.status, answer.headers["Content-Type"]) == (200, "application/pkcs7-mime")
        assert answer.headers["Content-Transfer-Encoding"] == "base64"
        found = {one.subject for one in parse_certs_only(b64decode(answer.body))}
        wanted = {est.world.authorities.by_name(name).certificate.subject for name in ("root", "issuing")}
        assert found == wanted


async def test_csrattrs_asks_for_nothing(est: EstWorld) -> None:
    answer = await est.curl("/csrattrs")
    assert (answer.status, answer.headers["Content-Type"], answer.body) == (200, "application/csrattrs", b"MAA=\n")


async def wanted(est: EstWorld, holder: Holder | None = None, **settings: object) -> WantedRequest:
    await est.label("meters", **settings)
    answer = await est.curl("/meters/csrattrs", holder=holder)
    assert (answer.status, answer.headers["Content-Type"]) == (200, "application/csrattrs")
    assert answer.headers["Content-Transfer-Encoding"] == "base64"
    return parse_csr_attributes(b64decode(answer.body))


@pytest.mark.parametrize("form", CsrAttributes)
@pytest.mark.parametrize("policy", ProofOfPossession)
async def test_csrattrs_asks_for_the_link_where_the_label_wants_it(
    est: EstWorld, form: CsrAttributes, policy: ProofOfPossession
) -> None:
    asked = await wanted(est, csr_attributes=form, proof_of_possession=policy)
    assert asked.challenge_password is (policy is not ProofOfPossession.OFF)
    assert bool(asked.extensions) is (form is not CsrAttributes.MINIMAL)


@pytest.mark.parametrize("form", [ATTRIBUTES, TEMPLATE])
async def test_csrattrs_says_what_the_certificate_will_hold(est: EstWorld, form: CsrAttributes) -> None:
    asked = await wanted(est, csr_attributes=form)
    device = load_profile("device")
    assert device.extended_key_usage is not None
    assert {(one.oid, one.value, one.critical) for one in asked.extensions} == {
        (ExtensionOID.KEY_USAGE, device.key_usage.public_bytes(), True),
        (ExtensionOID.EXTENDED_KEY_USAGE, device.extended_key_usage.public_bytes(), False),
    }
    assert asked.subject == ((WantedName(NameOID.COMMON_NAME, None),) if form is TEMPLATE else ())
    assert asked.key is None  # the profile accepts many kinds


async def test_a_client_that_can_become_one_device_is_told_its_names(est: EstWorld) -> None:
    bootstrap = await est.bootstrap("meter-001")
    asked = await wanted(est, bootstrap, csr_attributes=TEMPLATE)
    assert asked.subject == (WantedName(NameOID.COMMON_NAME, "meter-001"),)
    (name,) = [one for one in asked.extensions if one.oid == ExtensionOID.SUBJECT_ALTERNATIVE_NAME]
    assert name.value is not None
    assert name.value.endswith(b"urn:doorward:device:meter-001")
    device = await est.enrolled("meter-001", label="meters")
    answer = await est.curl("/meters/csrattrs", holder=device)
    assert parse_csr_attributes(b64decode(answer.body)) == asked


@pytest.mark.parametrize(
    "settings", [{"identifier_pattern": "meter-*"}, {"mode": EnrolmentMode.PRE_REGISTERED}], ids=str
)
async def test_a_bootstrap_certificate_that_serves_many_devices_is_told_no_name(
    est: EstWorld, settings: dict[str, object]
) -> None:
    asked = await wanted(est, await est.bootstrap("meter-001"), csr_attributes=TEMPLATE, **settings)
    assert asked.subject == (WantedName(NameOID.COMMON_NAME, None),)


async def test_a_stranger_is_told_no_name_and_no_error(est: EstWorld) -> None:
    stranger = est.signed_by(est.impostor(AuthorityKind.FACTORY), "meter-001")
    asked = await wanted(est, stranger, csr_attributes=TEMPLATE)
    assert asked.subject == (WantedName(NameOID.COMMON_NAME, None),)


async def test_a_request_made_as_csrattrs_asks_is_granted(est: EstWorld) -> None:
    bootstrap = await est.bootstrap("meter-001")
    asked = await wanted(est, bootstrap, csr_attributes=ATTRIBUTES)
    device = load_profile("device")
    assert device.extended_key_usage is not None
    assert len(asked.extensions) == 3
    csr = request(
        ec.generate_private_key(ec.SECP256R1()),
        "meter-001",
        extensions=(device.key_usage, device.extended_key_usage),
    )
    assert (await est.enrol("simpleenroll", bootstrap, b64(csr), label="meters")).status == 200


@pytest.mark.parametrize(
    ("policy", "key"),
    [
        (KeyPolicy(frozenset({P384})), WantedKey(P384)),
        (KeyPolicy(frozenset({P256, P384})), WantedKey(None)),
        (KeyPolicy(frozenset({RSA}), 3072, 4096), WantedKey(RSA, 3072)),
        (KeyPolicy(frozenset({KeyAlgorithm.ML_DSA_65})), WantedKey(KeyAlgorithm.ML_DSA_65)),
        (KeyPolicy(frozenset({P256, RSA})), None),
    ],
)
def test_the_kind_of_key_is_named_where_there_is_no_choice(policy: KeyPolicy, key: WantedKey | None) -> None:
    assert wanted_key(policy) == key


async def test_the_key_brings_its_signature_with_it(est: EstWorld) -> None:
    label = await est.label("meters", csr_attributes=ATTRIBUTES)
    device = replace(load_profile("device"), key_policy=KeyPolicy(frozenset({P384})))
    asked = parse_csr_attributes(csr_attributes(label, device, DeviceIdentifier("meter-001")))
    assert (asked.key, asked.signature) == (WantedKey(P384), SignatureAlgorithmOID.ECDSA_WITH_SHA384)


async def test_csrattrs_needs_no_key_of_the_authority(est: EstWorld) -> None:
    """What is asked for stands in the profile: a token that is away, an authority that has ended, change nothing."""
    await est.label("meters", csr_attributes=ATTRIBUTES)
    est.world.clock.move(timedelta(days=40 * 366))
    answer = await est.service.csr_attributes("meters")
    assert parse_csr_attributes(answer).extensions

from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address, ip_network
from typing import TYPE_CHECKING

import pytest
from asn1crypto import x509 as asn1
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from certs.conformance import Conformance
from certs.errors import CertificateRefused, ProfileRefused, RefusalKind
from certs.keys import KeyAlgorithm
from certs.names import device_alternative_name, device_identifier
from certs.profile import (
    CRITICAL,
    AlternativeNameRule,
    Profile,
    SubjectRule,
    load_profile,
    parse_profile,
)

if TYPE_CHECKING:
    from tests.certs.conftest import Authority

PROFILES = ("root", "issuing", "factory", "bootstrap", "device", "server", "responder")
DEVICE = """
name = "device"
authority = false
validity = "90d"
backdate_minutes = 5
key_algorithms = ["P-256", "RSA"]
rsa_minimum_bits = 2048
rsa_maximum_bits = 4096
key_usage = ["digital_signature"]
extended_key_usage = ["client_auth"]
certificate_policies = []
subject = "device_identifier"
subject_alternative_name = "device_uri"
subject_key_identifier = true
authority_key_identifier = true
crl_distribution_points = true
authority_information_access = false
ocsp = false
ocsp_no_check = false
"""


@pytest.mark.parametrize(
    ("name", "path_length", "extended_key_usage"),
    [
        ("root", 1, None),
        ("issuing", 0, None),
        ("factory", 0, None),
        ("bootstrap", None, ExtendedKeyUsageOID.CLIENT_AUTH),
        ("device", None, ExtendedKeyUsageOID.CLIENT_AUTH),
        ("server", None, ExtendedKeyUsageOID.SERVER_AUTH),
        ("responder", None, ExtendedKeyUsageOID.OCSP_SIGNING),
    ],
)
def test_the_packaged_profiles_say_what_they_are_for(
    name: str, path_length: int | None, extended_key_usage: x509.ObjectIdentifier | None
) -> None:
    profile = load_profile(name)
    is_authority = path_length is not None
    assert profile.name == name
    assert profile.is_authority is is_authority
    assert profile.basic_constraints == x509.BasicConstraints(is_authority, path_length)
    assert profile.key_usage.key_cert_sign is is_authority
    assert profile.key_usage.digital_signature is not is_authority
    assert list(profile.extended_key_usage or ()) == ([extended_key_usage] if extended_key_usage else [])


def test_a_device_lives_ninety_days_and_no_authority_ends_before_what_it_signs() -> None:
    validity = {name: load_profile(name).validity for name in PROFILES}
    assert validity["device"] == timedelta(days=90)
    assert validity["root"] > validity["issuing"] > validity["device"] > validity["server"]
    assert validity["root"] > validity["factory"] > validity["bootstrap"]


@pytest.mark.parametrize("name", ["nobody", "", "../profiles/device", "device.toml", "/etc/passwd"])
def test_a_profile_that_is_not_packaged_is_refused_with_those_that_are(name: str) -> None:
    with pytest.raises(ProfileRefused, match="bootstrap, device, factory, issuing, responder, root, server"):
        load_profile(name)


def test_a_profile_is_read_strictly() -> None:
    profile = parse_profile(DEVICE)
    assert profile.validity == timedelta(days=90)
    assert profile.backdate == timedelta(minutes=5)
    assert profile.key_policy.algorithms == {KeyAlgorithm.P256, KeyAlgorithm.RSA}
    assert (profile.subject, profile.subject_alternative_name) == (
        SubjectRule.DEVICE_IDENTIFIER,
        AlternativeNameRule.DEVICE_URI,
    )
    assert profile.crl_distribution_points
    assert not profile.authority_information_access


@pytest.mark.parametrize(
    ("line", "instead", "reason"),
    [
        ("validity =", "validty =", "unknown key 'validty', the nearest known is 'validity'"),
        ('validity = "90d"', "", "validity is missing"),
        ('validity = "90d"', "validity = 90", "not of type str"),
        ('"90d"', '"90"', "no period"),
        ('"90d"', '"0d"', "no period between 1s and"),
        ('"90d"', '"9999999999d"', "no period between 1s and"),
        ('"90d"', '"2040-13-01T00:00:00Z"', "a moment that there is not"),
        ("backdate_minutes = 5", "backdate_minutes = -1", "between 0 and"),
        ('["client_auth"]', '["client_aut"]', "the nearest known is 'client_auth'"),
        ('["client_auth"]', '["client_auth", "client_auth"]', "twice"),
        ('["client_auth"]', '"client_auth"', "not a list"),
        ('["client_auth"]', "[1]", "not a word"),
        ('["client_auth"]', "[]", "means any"),
        ('["client_auth"]', '["client_auth", "1.3.6.1.5.5.7.3.2"]', "twice"),
        ('["client_auth"]', '["2.5.29.37.0"]', "lists any"),
        ('["client_auth"]', '["3.1.1"]', "known are"),
        ("certificate_policies = []", 'certificate_policies = ["2.5.29.32.0"]', "lists any"),
        ("certificate_policies = []", 'certificate_policies = ["policy"]', "holds 'policy'"),
        ('["digital_signature"]', '["digital_signature", "crl_sign"]', "crl_sign is for authorities"),
        ('["digital_signature"]', '["digital_signature", "key_encipherment"]', "for RSA keys alone"),
        ('["digital_signature"]', '["digital_signature", "key_agreement"]', "P-521 keys alone"),
        ('["P-256", "RSA"]', "[]", "no key would do"),
        ('["P-256", "RSA"]', '["P-255"]', "the nearest known is 'P-256'"),
        ("rsa_minimum_bits = 2048", "rsa_minimum_bits = 1024", "between 2048 and 8192"),
        ("rsa_minimum_bits = 2048", "rsa_minimum_bits = 4097", "above rsa_maximum_bits"),
        ('["digital_signature"]', '["digital_signature", "key_cert_sign"]', "for authorities"),
        ("authority = false", "authority = true", "path_length is missing"),
        ("authority = false", "authority = true\npath_length = -1", "between 0 and"),
        ("authority = false", "authority = true\npath_length = 0", "for authorities"),
        ("authority = false", "authority = false\npath_length = 0", "unknown key 'path_length'"),
        ("authority = false", 'authority = "no"', "not of type bool"),
        ('subject = "device_identifier"', 'subject = "host"', "needs the subject"),
        ('subject = "device_identifier"', 'subject = "authority"', "for authorities"),
        ("ocsp_no_check = false", "[ocsp_no_check]", "not of type bool"),
        ("ocsp = false", "ocsp = true", "ocsp needs authority_information_access"),
        ("ocsp_no_check = false", "ocsp_no_check = true", "for responders"),
        ('["client_auth"]', '["client_auth", "ocsp_signing"]', "stands alone"),
        ('["client_auth"]', '["ocsp_signing"]', "subject 'responder'"),
        ('name = "device"', 'name = "device"\nname = "again"', "not TOML"),
        ('name = "device"', "name = ", "not TOML"),
    ],
)
def test_a_profile_that_is_not_sound_is_refused_with_its_fault(line: str, instead: str, reason: str) -> None:
    text = DEVICE.replace(line, instead, 1)
    assert text != DEVICE
    with pytest.raises(ProfileRefused) as refused:
        parse_profile(text)
    assert reason in refused.value.reason


def test_a_profile_may_end_on_one_day_for_all_and_name_policies_and_purposes_by_number() -> None:
    text = DEVICE.replace('"90d"', '"2040-01-01T00:00:00+01:00"').replace("policies = []", 'policies = ["1.2.3.4"]')
    profile = parse_profile(text.replace('["client_auth"]', '["client_auth", "1.3.6.1.5.5.7.3.17"]'))
    assert profile.end(datetime(2030, 1, 1, tzinfo=UTC)) == datetime(2039, 12, 31, 23, tzinfo=UTC)
    assert [each.policy_identifier.dotted_string for each in profile.certificate_policies or ()] == ["1.2.3.4"]
    assert [each.dotted_string for each in profile.extended_key_usage or ()][1] == "1.3.6.1.5.5.7.3.17"


class Plan:
    """A certificate as the device profile wants it, of which a test changes one thing."""

    def __init__(self, root: "Authority", now: datetime) -> None:
        profile = load_profile("device")
        self.root = root
        self.key: ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey = ec.generate_private_key(ec.SECP256R1())
        self.subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "meter-001")])
        self.begin, self.end = now - timedelta(minutes=5), now + timedelta(days=1)
        self.serial = 1 << 127
        self.hash_algorithm: hashes.SHA224 | hashes.SHA256 = hashes.SHA256()
        self.issuer = root.name
        self.extensions: dict[type[x509.ExtensionType], tuple[x509.ExtensionType, bool]] = {}
        for extension in (
            profile.basic_constraints,
            profile.key_usage,
            profile.extended_key_usage or x509.ExtendedKeyUsage([]),
            x509.SubjectAlternativeName(device_alternative_name(device_identifier("meter-001"))),
            x509.SubjectKeyIdentifier.from_public_key(self.key.public_key()),
            root.key_identifier,
            x509.CRLDistributionPoints(
                [x509.DistributionPoint([x509.UniformResourceIdentifier("http://crl.example/1")], None, None, None)]
            ),
        ):
            self.put(extension, CRITICAL[extension.oid])

    def put(self, extension: x509.ExtensionType, critical: bool = False) -> None:
        self.extensions[type(extension)] = (extension, critical)

    def certificate(self) -> x509.Certificate:
        return self.root.sign(
            self.subject,
            self.key,
            extensions=self.extensions.values(),
            begin=self.begin,
            end=self.end,
            hash_algorithm=self.hash_algorithm,
            issuer=self.issuer,
            serial=self.serial,
        )


@pytest.fixture
def plan(root: "Authority", now: datetime) -> Plan:
    return Plan(root, now)


def test_what_the_profile_says_passes(plan: Plan) -> None:
    device = load_profile("device")
    Conformance(device).check(plan.certificate())
    Conformance(device, plan.root.certificate).check(
        plan.certificate(),
        subject=plan.subject,
        subject_alternative_name=device_alternative_name(device_identifier("meter-001")),
    )
    del plan.extensions[x509.CRLDistributionPoints]  # an authority may have no address to give
    Conformance(device, plan.root.certificate).check(plan.certificate())


def wrong_key(plan: Plan) -> None:
    plan.key = ec.generate_private_key(ec.SECP256K1())


def small_key(plan: Plan) -> None:
    plan.key = rsa.generate_private_key(65537, 1024)  # noqa: S505 - a weak key is the point


def uri(identifier: str) -> x509.SubjectAlternativeName:
    return x509.SubjectAlternativeName([x509.UniformResourceIdentifier(f"urn:doorward:device:{identifier}")])


NAMES = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text) for text in ("meter-001", "meter-002")])
ORGANIZATION = x509.Name([*NAMES.rdns[0], x509.NameAttribute(NameOID.ORGANIZATION_NAME, "Acme")])
CLIENT_AND_SERVER = x509.ExtendedKeyUsage([ExtendedKeyUsageOID.CLIENT_AUTH, ExtendedKeyUsageOID.SERVER_AUTH])
AIA = x509.AuthorityInformationAccess(
    [x509.AccessDescription(x509.OID_CA_ISSUERS, x509.UniformResourceIdentifier("http://ca.example"))]
)
CHANGES: dict[str, Callable[[Plan], object]] = {
    "authority": lambda plan: plan.put(x509.BasicConstraints(ca=True, path_length=0), True),
    "basic constraints not critical": lambda plan: plan.put(x509.BasicConstraints(ca=False, path_length=None)),
    "no basic constraints": lambda plan: plan.extensions.pop(x509.BasicConstraints),
    "no key usage": lambda plan: plan.extensions.pop(x509.KeyUsage),
    "authority's key usage": lambda plan: plan.put(load_profile("root").key_usage, True),
    "key usage not critical": lambda plan: plan.put(load_profile("device").key_usage),
    "no extended key usage": lambda plan: plan.extensions.pop(x509.ExtendedKeyUsage),
    "extra extended key usage": lambda plan: plan.put(CLIENT_AND_SERVER),
    "other extended key usage": lambda plan: plan.put(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH])),
    "extended key usage critical": lambda plan: plan.put(plan.extensions[x509.ExtendedKeyUsage][0], True),
    "no alternative name": lambda plan: plan.extensions.pop(x509.SubjectAlternativeName),
    "another's alternative name": lambda plan: plan.put(uri("meter-002")),
    "alternative name critical": lambda plan: plan.put(uri("meter-001"), True),
    "host name": lambda plan: plan.put(x509.SubjectAlternativeName([x509.DNSName("meter-001")])),
    "no subject key identifier": lambda plan: plan.extensions.pop(x509.SubjectKeyIdentifier),
    "no authority key identifier": lambda plan: plan.extensions.pop(x509.AuthorityKeyIdentifier),
    "other authority key identifier": lambda plan: plan.put(x509.AuthorityKeyIdentifier(b"x" * 20, None, None)),
    "unknown extension": lambda plan: plan.put(x509.UnrecognizedExtension(x509.ObjectIdentifier("1.2.3"), b"\5\0")),
    "name constraints": lambda plan: plan.put(x509.NameConstraints([x509.DNSName("a")], None), True),
    "must staple": lambda plan: plan.put(x509.TLSFeature([x509.TLSFeatureType.status_request])),
    "two common names": lambda plan: setattr(plan, "subject", NAMES),
    "organization": lambda plan: setattr(plan, "subject", ORGANIZATION),
    "empty subject": lambda plan: setattr(plan, "subject", x509.Name([])),
    "period too long": lambda plan: setattr(plan, "end", plan.begin + timedelta(days=90, minutes=5, seconds=1)),
    "begins before its issuer": lambda plan: setattr(plan, "begin", plan.begin - timedelta(days=2)),
    "ends after its issuer": lambda plan: setattr(plan, "end", plan.end + timedelta(seconds=1)),
    "empty period": lambda plan: setattr(plan, "end", plan.begin),
    "weak hash": lambda plan: setattr(plan, "hash_algorithm", hashes.SHA224()),
    "other issuer": lambda plan: setattr(plan, "issuer", NAMES),
    "key off the policy": wrong_key,
    "small key": small_key,
}


@pytest.mark.parametrize("change", CHANGES)
def test_one_thing_that_differs_from_the_profile_is_refused(plan: Plan, change: str) -> None:
    CHANGES[change](plan)
    with pytest.raises(CertificateRefused) as refused:
        Conformance(load_profile("device"), plan.root.certificate).check(plan.certificate())
    assert refused.value.kind is (RefusalKind.MALFORMED if change == "two common names" else RefusalKind.POLICY)


@pytest.mark.filterwarnings("ignore:Parsed a serial number which wasn't positive")
@pytest.mark.parametrize("serial", [0, -1, 1 << 159])
def test_a_serial_number_that_does_not_fit_is_refused(plan: Plan, serial: int) -> None:
    """No builder makes such a number, so the certificate is signed again with it."""
    certificate = plan.root.resign(plan.certificate(), serial_number=serial)
    with pytest.raises(CertificateRefused, match="serial number"):
        Conformance(load_profile("device"), plan.root.certificate).check(certificate)


def test_the_largest_serial_and_the_longest_period_pass(plan: Plan, new_root: Callable[..., "Authority"]) -> None:
    plan.root = new_root(key=plan.root.key, end=plan.end + timedelta(days=900))
    plan.serial = (1 << 159) - 1
    plan.end = plan.begin + timedelta(days=90, minutes=5)
    Conformance(load_profile("device"), plan.root.certificate).check(plan.certificate())


def test_the_period_is_measured_without_an_issuer_too(plan: Plan) -> None:
    for end in (plan.begin, plan.begin - timedelta(hours=1), plan.begin + timedelta(days=90, minutes=5, seconds=1)):
        later = asn1.Time({"utc_time": end})
        validity = {"not_before": asn1.Time({"utc_time": plan.begin}), "not_after": later}
        with pytest.raises(CertificateRefused, match="period"):
            Conformance(load_profile("device")).check(plan.root.resign(plan.certificate(), validity=validity))


def test_an_authority_and_a_bootstrap_certificate_have_no_alternative_name(plan: Plan) -> None:
    with pytest.raises(CertificateRefused, match="rule 'none'"):
        Conformance(load_profile("bootstrap")).check(plan.certificate())
    del plan.extensions[x509.SubjectAlternativeName]
    Conformance(load_profile("bootstrap")).check(plan.certificate())


def test_the_planned_names_are_compared(plan: Plan) -> None:
    certificate, device = plan.certificate(), load_profile("device")
    for planned in ({"subject": NAMES}, {"subject_alternative_name": ()}):
        with pytest.raises(CertificateRefused, match="planned"):
            Conformance(device).check(certificate, **planned)


@pytest.mark.parametrize(
    ("extension", "profile"),
    [
        (None, replace(load_profile("device"), crl_distribution_points=False)),
        (None, replace(load_profile("device"), subject_key_identifier=False)),
        (AIA, replace(load_profile("device"), authority_information_access=False)),
    ],
)
def test_an_extension_that_the_profile_leaves_out_is_refused(
    plan: Plan, extension: x509.ExtensionType | None, profile: Profile
) -> None:
    if extension is not None:
        plan.put(extension)
    Conformance(load_profile("device")).check(plan.certificate())
    with pytest.raises(CertificateRefused, match="not of the profile"):
        Conformance(profile).check(plan.certificate())


def host(text: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text)])


DNS, ADDRESS = x509.DNSName("localhost"), x509.IPAddress(ip_address("127.0.0.1"))


@pytest.mark.parametrize(
    ("subject", "names", "passes"),
    [
        (host("localhost"), [DNS, ADDRESS], True),
        (host("127.0.0.1"), [DNS, ADDRESS], True),
        (x509.Name([]), [DNS], True),
        (host("other"), [DNS], False),
        (x509.Name([x509.NameAttribute(NameOID.ORGANIZATION_NAME, "localhost")]), [DNS], False),
        (x509.Name([*host("localhost"), *host("127.0.0.1")]), [DNS, ADDRESS], False),
        (x509.Name([]), [], False),
        (host("localhost"), [DNS, x509.DNSName("*.example")], False),
        (host("localhost"), [DNS, x509.UniformResourceIdentifier("urn:doorward:device:meter-001")], False),
        (host("localhost"), [DNS, x509.RFC822Name("a@example")], False),
        (host("localhost"), [DNS, x509.IPAddress(ip_network("10.0.0.0/8"))], False),
    ],
)
def test_a_server_is_called_by_its_hosts(
    root: "Authority", subject: x509.Name, names: list[x509.GeneralName], passes: bool
) -> None:
    server = load_profile("server")
    key = ec.generate_private_key(ec.SECP256R1())
    extensions: list[tuple[x509.ExtensionType, bool]] = [
        (server.basic_constraints, True),
        (server.key_usage, True),
        (x509.ExtendedKeyUsage(server.extended_key_usage or ()), False),
        (x509.SubjectKeyIdentifier.from_public_key(key.public_key()), False),
        (root.key_identifier, False),
    ]
    if names:
        extensions.append((x509.SubjectAlternativeName(names), not subject.rdns))
    certificate = root.sign(subject, key, extensions=extensions)
    if passes:
        Conformance(server, root.certificate).check(certificate)
    else:
        with pytest.raises(CertificateRefused):
            Conformance(server, root.certificate).check(certificate)


def test_an_authority_is_checked_by_its_own_profile(root: "Authority", now: datetime) -> None:
    issuing = load_profile("issuing")
    Conformance(issuing, root.certificate).check(root.authority("issuing", path_length=0).certificate)
    for path_length in (None, 1):
        with pytest.raises(CertificateRefused, match=r"2\.5\.29\.19"):
            Conformance(issuing).check(root.authority("issuing", path_length=path_length).certificate)
    assert isinstance(issuing, Profile)
    assert now < root.certificate.not_valid_after_utc

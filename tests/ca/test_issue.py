"""What a certificate says: periods, serial numbers, names and addresses."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.x509.oid import AuthorityInformationAccessOID
from hypothesis import given
from hypothesis import strategies as st

from ca.encoding import encode_time
from ca.issue import Addresses, Holder, Template, authority, device, encoded_key, host, responder
from ca.partition import COUNTS, SLOTS, Partition, partitions_of
from ca.signers import SoftwareSigner
from certs.der import encode_integer, encode_object_identifier
from certs.errors import CertificateRefused
from certs.names import device_identifier
from certs.profile import load_profile
from iam.errors import Kind, Refused

NOW = datetime(2030, 6, 1, 12, 0, 0, 123456, tzinfo=UTC)
DAY = timedelta(days=1)
SERIAL = bytes(range(1, 17))

ROOT_SIGNER = SoftwareSigner(ec.generate_private_key(ec.SECP384R1()))
ISSUING_SIGNER = SoftwareSigner(ec.generate_private_key(ec.SECP256R1()))
DEVICE_KEY = encoded_key(ec.generate_private_key(ec.SECP256R1()).public_key())


def root() -> x509.Certificate:
    holder = authority("Root", encoded_key(ROOT_SIGNER.public_key))
    return x509.load_der_x509_certificate(
        Template(load_profile("root"), None, ROOT_SIGNER, None).issue(holder, NOW, SERIAL).der
    )


def issuing(now: datetime = NOW) -> x509.Certificate:
    holder = authority("Issuing", encoded_key(ISSUING_SIGNER.public_key))
    template = Template(load_profile("issuing"), root(), ROOT_SIGNER, None)
    return x509.load_der_x509_certificate(template.issue(holder, now, SERIAL).der)


def issue(
    holder: Holder, *, now: datetime = NOW, serial: bytes = SERIAL, addresses: Addresses | None = None
) -> x509.Certificate:
    profile = "device" if holder.subject.rdns else "server"
    template = Template(load_profile(profile), issuing(), ISSUING_SIGNER, addresses)
    return x509.load_der_x509_certificate(template.issue(holder, now, serial).der)


def meter() -> Holder:
    return device(device_identifier("meter-001"), DEVICE_KEY)


def test_a_chain_verifies() -> None:
    root().verify_directly_issued_by(root())
    issuing().verify_directly_issued_by(root())
    issue(meter()).verify_directly_issued_by(issuing())


def test_the_period_begins_a_little_before_and_has_the_profiles_length() -> None:
    made, profile = issue(meter()), load_profile("device")
    whole = NOW.replace(microsecond=0)
    assert made.not_valid_before_utc == whole - profile.backdate
    assert made.not_valid_after_utc == whole + profile.validity


def test_the_period_never_leaves_the_issuers() -> None:
    end = issuing().not_valid_after_utc
    assert issue(meter(), now=end - DAY).not_valid_after_utc == end
    begin = issuing().not_valid_before_utc
    assert issue(meter(), now=begin).not_valid_before_utc == begin


@pytest.mark.parametrize("by", [timedelta(0), DAY])
def test_an_issuer_that_has_ended_issues_nothing(by: timedelta) -> None:
    with pytest.raises(Refused) as refused:
        issue(meter(), now=issuing().not_valid_after_utc + by)
    assert refused.value.kind is Kind.UNAVAILABLE


@pytest.mark.parametrize("serial", [b"\x01" * 16, b"\xff" * 16, b"\x00" * 15 + b"\x01"])
def test_serial_numbers_are_positive_whatever_the_first_bit(serial: bytes) -> None:
    assert issue(meter(), serial=serial).serial_number == int.from_bytes(serial)


ADDRESSES = Addresses(
    revocation_list="http://pki.test/crl/issuing.crl",
    certificate="http://pki.test/ca/issuing.crt",
    responder="http://pki.test/ocsp",
)


def test_addresses_are_there_only_if_given() -> None:
    addresses = ADDRESSES
    made = issue(meter(), addresses=addresses)
    points = made.extensions.get_extension_for_class(x509.CRLDistributionPoints).value
    access = made.extensions.get_extension_for_class(x509.AuthorityInformationAccess).value
    assert points[0].full_name == [x509.UniformResourceIdentifier(addresses.revocation_list)]
    assert [(one.access_method, one.access_location.value) for one in access] == [
        (AuthorityInformationAccessOID.OCSP, addresses.responder),
        (AuthorityInformationAccessOID.CA_ISSUERS, addresses.certificate),
    ]
    with pytest.raises(x509.ExtensionNotFound):
        issue(meter()).extensions.get_extension_for_class(x509.CRLDistributionPoints)


@pytest.mark.parametrize(
    ("last", "count", "path"),
    [
        (0, 1, "issuing.crl"),
        (255, 1, "issuing.crl"),
        (0, 4, "issuing/4/0.crl"),
        (63, 4, "issuing/4/0.crl"),
        (64, 4, "issuing/4/1.crl"),
        (255, 4, "issuing/4/3.crl"),
        (200, 256, "issuing/256/200.crl"),
    ],
)
def test_the_serial_number_says_which_partition_is_named(last: int, count: int, path: str) -> None:
    addresses = replace(ADDRESSES, partitions=count)
    made = issue(meter(), addresses=addresses, serial=b"\x70" * 15 + bytes((last,)))
    points = made.extensions.get_extension_for_class(x509.CRLDistributionPoints).value
    assert points[0].full_name == [x509.UniformResourceIdentifier(f"http://pki.test/crl/{path}")]


@pytest.mark.parametrize("count", COUNTS)
def test_each_slot_is_in_one_partition(count: int) -> None:
    partitions = partitions_of((count,))
    assert sorted(slot for one in partitions for slot in one.slots) == list(range(SLOTS))
    for slot in range(SLOTS):
        assert slot in Partition.of_serial(bytes((1, slot)), count).slots


def test_a_responder_is_named_and_not_checked_itself() -> None:
    profile = load_profile("responder")
    made = x509.load_der_x509_certificate(
        Template(profile, issuing(), ISSUING_SIGNER, ADDRESSES).issue(responder("OCSP", DEVICE_KEY), NOW, SERIAL).der
    )
    extensions = {one.oid for one in made.extensions}
    assert x509.OCSPNoCheck.oid in extensions
    assert not extensions & {x509.CRLDistributionPoints.oid, x509.AuthorityInformationAccess.oid}


def test_a_server_is_named_by_alternative_names_alone() -> None:
    made = issue(host(["localhost"], [], DEVICE_KEY))
    names = made.extensions.get_extension_for_class(x509.SubjectAlternativeName)
    assert (made.subject.rdns, names.critical) == ([], True)  # RFC 5280 4.2.1.6


@pytest.mark.parametrize("names", [[], ["*.example.com"]])
def test_a_server_without_a_name_or_with_a_wildcard_is_refused(names: list[str]) -> None:
    with pytest.raises(CertificateRefused):
        issue(host(names, [], DEVICE_KEY))


def test_a_key_that_the_profile_does_not_take_is_refused() -> None:
    weak = rsa.generate_private_key(65537, 1024)  # noqa: S505 - weak, to be refused
    with pytest.raises(CertificateRefused):
        issue(device(device_identifier("meter-001"), encoded_key(weak.public_key())))


def test_an_authority_that_was_signed_by_a_broken_key_is_not_handed_out() -> None:
    class Faulty(SoftwareSigner):
        def sign(self, data: bytes) -> bytes:
            return super().sign(data + b"!")

    template = Template(load_profile("issuing"), root(), Faulty(ROOT_SIGNER._private_key), None)
    with pytest.raises(CertificateRefused):
        template.issue(authority("Issuing", DEVICE_KEY), NOW, SERIAL)


@given(st.integers(min_value=0, max_value=1 << 160))
def test_integers_are_der(value: int) -> None:
    encoded = encode_integer(value)
    assert int.from_bytes(encoded[2:], signed=True) == value
    assert not (encoded[2] == 0 and len(encoded) > 3 and encoded[3] < 0x80)


@pytest.mark.parametrize(
    ("moment", "encoded"),
    [
        (datetime(2049, 12, 31, 23, 59, 59, tzinfo=UTC), b"\x17\x0d491231235959Z"),
        (datetime(2050, 1, 1, tzinfo=UTC), b"\x18\x0f20500101000000Z"),
    ],
)
def test_times_change_their_form_in_2050(moment: datetime, encoded: bytes) -> None:
    assert encode_time(moment) == encoded


@pytest.mark.parametrize(
    ("dotted", "encoded"),
    [("2.5.29.20", "0603551d14"), ("1.2.840.10045.4.3.2", "06082a8648ce3d040302"), ("2.999.3", "0603883703")],
)
def test_object_identifiers(dotted: str, encoded: str) -> None:
    assert encode_object_identifier(dotted) == bytes.fromhex(encoded)

from collections.abc import Callable
from typing import TYPE_CHECKING

import pytest
from asn1crypto import cms
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, pkcs7
from hypothesis import given, settings
from hypothesis import strategies as st

from certs.errors import CertificateRefused, RefusalKind
from certs.pem import read_certificates
from certs.pkcs7 import CERTS_ONLY_MAXIMUM_BYTES, certs_only, parse_certs_only

if TYPE_CHECKING:
    from tests.certs.conftest import Authority


def der(certificate: x509.Certificate) -> bytes:
    return certificate.public_bytes(Encoding.DER)


@pytest.fixture
def certificates(root: "Authority") -> list[x509.Certificate]:
    issuing = root.authority("issuing")
    return [root.certificate, issuing.certificate, issuing.sign("meter-001")]


@pytest.mark.parametrize("count", [1, 2, 3])
def test_what_is_written_is_read_again(certificates: list[x509.Certificate], count: int) -> None:
    held = certificates[:count]
    assert set(parse_certs_only(certs_only(map(der, held)))) == set(held)


def test_the_same_certificates_give_the_same_bytes_as_another_encoder(certificates: list[x509.Certificate]) -> None:
    written = certs_only(map(der, certificates))
    assert written == certs_only(map(der, reversed(certificates)))
    assert cms.ContentInfo.load(written, strict=True).dump(force=True) == written
    read = pkcs7.load_der_pkcs7_certificates(written)
    assert sorted(map(der, read)) == sorted(map(der, certificates))
    # the other encoder names the absent content's digests in the same way, so nothing differs
    assert pkcs7.serialize_certificates(certificates, Encoding.DER) == written


def test_openssl_prints_what_is_held(certificates: list[x509.Certificate], openssl: Callable[..., bytes]) -> None:
    leaf = certificates[-1]
    printed = openssl("pkcs7", "-inform", "DER", "-print_certs", stdin=certs_only([der(leaf)]))
    assert read_certificates(printed) == (leaf,)
    printed = openssl("pkcs7", "-inform", "DER", "-print_certs", stdin=certs_only(map(der, certificates)))
    assert set(read_certificates(printed)) == set(certificates)


def test_what_openssl_writes_is_read(certificates: list[x509.Certificate], openssl: Callable[..., bytes]) -> None:
    bundle = b"".join(certificate.public_bytes(Encoding.PEM) for certificate in certificates)
    written = openssl("crl2pkcs7", "-nocrl", "-certfile", "/dev/stdin", "-outform", "DER", stdin=bundle)
    assert parse_certs_only(written) == certificates


def test_ber_of_indefinite_length_is_read(certificates: list[x509.Certificate]) -> None:
    written = certs_only([der(certificates[0])])
    header = 4  # a SEQUENCE of a length in two bytes
    assert written[:2] == b"\x30\x82"
    assert parse_certs_only(b"\x30\x80" + written[header:] + b"\0\0") == certificates[:1]


def signed(certificates: list[x509.Certificate], key: ec.EllipticCurvePrivateKey) -> bytes:
    builder = pkcs7.PKCS7SignatureBuilder().set_data(b"hello").add_signer(certificates[0], key, hashes.SHA256())
    return builder.sign(Encoding.DER, [pkcs7.PKCS7Options.DetachedSignature])


def with_content(certificate: x509.Certificate) -> bytes:
    information = cms.ContentInfo.load(certs_only([der(certificate)]))
    information["content"]["encap_content_info"] = {"content_type": "data", "content": b"hello"}
    return bytes(information.dump(force=True))


def test_what_is_not_certs_only_is_refused(root: "Authority", certificates: list[x509.Certificate]) -> None:
    assert isinstance(root.key, ec.EllipticCurvePrivateKey)
    written = certs_only([der(certificates[0])])
    data = cms.ContentInfo({"content_type": "data", "content": b"x"}).dump()
    for bad in (
        b"",
        b"junk",
        written + b"\0",
        written[:-1],
        certs_only([]),
        certs_only([b"\x30\x00"]),
        certs_only([b"\xa3\x00"]),
        data,
        signed(certificates, root.key),
        with_content(certificates[0]),
        certs_only([der(certificates[0])] * (CERTS_ONLY_MAXIMUM_BYTES // len(der(certificates[0])) + 1)),
    ):
        with pytest.raises(CertificateRefused) as refused:
            parse_certs_only(bad)
        assert refused.value.kind is RefusalKind.MALFORMED


@given(st.binary(max_size=64))
@settings(deadline=None)
def test_arbitrary_bytes_are_refused(junk: bytes) -> None:
    for bad in (junk, certs_only([junk])):
        with pytest.raises(CertificateRefused):
            parse_certs_only(bad)

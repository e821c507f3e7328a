"""Every algorithm of keys, from end to end: authorities that sign with it, devices that hold it, lists and requests."""

import subprocess
from datetime import UTC, datetime, timedelta
from hashlib import sha256
from itertools import pairwise
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import NameOID
from OpenSSL import crypto

from ca.crl import Scope, build_revocation_list
from ca.encoding import encode_time
from ca.issue import Template, authority, device, encoded_key
from ca.signers import SoftwareSigner, make_private_key
from certs.chain import Anchor, Purpose, validate_chain
from certs.csr import parse_request
from certs.der import BIT_STRING, SEQUENCE, encode, encode_integer, read_certificate_layout
from certs.errors import CertificateRefused, RefusalKind
from certs.keys import KeyAlgorithm, PublicKey
from certs.names import device_identifier
from certs.profile import load_profile
from certs.signature import verify_signature
from tests.ca.test_lint import EXPLAINED, EXPLAINED_OF_DEVICES, findings

NOW = datetime(2026, 6, 1, 12, tzinfo=UTC)
LIFE = timedelta(days=1)
KEYS = {
    **{one.value: make_private_key(one) for one in KeyAlgorithm if one is not KeyAlgorithm.RSA},
    **{f"RSA-{bits}": make_private_key(KeyAlgorithm.RSA, bits) for bits in (2048, 3072, 4096)},
}
UNKNOWN_TO_OPENSSL_3_0 = {"ML-DSA-44", "ML-DSA-65", "ML-DSA-87"}
MIXED = [
    "P-384",
    "ML-DSA-65",
    "RSA-3072",
    "Ed25519",
    "ML-DSA-87",
    "P-521",
    "RSA-4096",
    "P-256",
    "ML-DSA-44",
    "RSA-2048",
]

# AlgorithmIdentifiers as they are written in RFC 5758 3.2, RFC 8017 A.2.4, RFC 8410 3 and RFC 9881 3.
IDENTIFIERS = {
    "P-256": "300a06082a8648ce3d040302",
    "P-384": "300a06082a8648ce3d040303",
    "P-521": "300a06082a8648ce3d040304",
    "Ed25519": "300506032b6570",
    "RSA-2048": "300d06092a864886f70d01010b0500",
    "RSA-3072": "300d06092a864886f70d01010c0500",
    "RSA-4096": "300d06092a864886f70d01010d0500",
    "ML-DSA-44": "300b0609608648016503040311",
    "ML-DSA-65": "300b0609608648016503040312",
    "ML-DSA-87": "300b0609608648016503040313",
}


def made(
    signing: str, holding: str, profile: str, issuer: x509.Certificate | None = None, name: str = "meter-001"
) -> x509.Certificate:
    spki = encoded_key(KEYS[holding].public_key())
    holder = authority(name, spki) if load_profile(profile).is_authority else device(device_identifier(name), spki)
    template = Template(load_profile(profile), issuer, SoftwareSigner(KEYS[signing]), None)
    serial = sha256(f"{name} {profile}".encode()).digest()[:15] + b"\x01"
    return x509.load_der_x509_certificate(template.issue(holder, NOW, serial).der)


def openssl(folder: Path, *arguments: str) -> str:
    done = subprocess.run(["openssl", *arguments], capture_output=True, text=True, cwd=folder, check=False)
    return done.stdout + done.stderr


def write(folder: Path, name: str, certificate: x509.Certificate) -> str:
    (folder / name).write_bytes(certificate.public_bytes(Encoding.PEM))
    return name


def verify_with_openssl(folder: Path, root: x509.Certificate, leaf: x509.Certificate) -> str:
    trusted = ["-CAfile", write(folder, "root.pem", root), "-x509_strict", "-attime", str(int(NOW.timestamp()))]
    return openssl(folder, "verify", *trusted, write(folder, "leaf.pem", leaf))


def verify_with_pyopenssl(root: x509.Certificate, *path: x509.Certificate) -> None:
    """Verify with the OpenSSL that cryptography brings, which knows ML-DSA; raise if it does not verify."""
    store = crypto.X509Store()
    store.set_time(NOW.replace(tzinfo=None))
    store.set_flags(crypto.X509StoreFlags.X509_STRICT)
    store.add_cert(crypto.X509.from_cryptography(root))
    leaf, *others = map(crypto.X509.from_cryptography, path)
    crypto.X509StoreContext(store, leaf, others).verify_certificate()


@pytest.mark.parametrize("name", KEYS)
def test_a_root_of_each_algorithm_issues_to_a_device_of_each(name: str, tmp_path: Path) -> None:
    root = made(name, name, "root", name="Root")
    leaf = made(name, name, "device", root)
    assert read_certificate_layout(leaf.public_bytes(Encoding.DER)).outer_algorithm.hex() == IDENTIFIERS[name]
    assert validate_chain(leaf, [], [Anchor.from_certificate(root)], NOW, purpose=Purpose.CLIENT_AUTH).leaf is leaf
    root.verify_directly_issued_by(root)
    leaf.verify_directly_issued_by(root)
    verify_with_pyopenssl(root, leaf)
    if name not in UNKNOWN_TO_OPENSSL_3_0:
        assert verify_with_openssl(tmp_path, root, leaf) == "leaf.pem: OK\n"


@pytest.mark.parametrize("name", ["P-521", "Ed25519", "RSA-4096", "ML-DSA-65"])  # the others differ in nothing else
def test_pkilint_finds_nothing_unexplained(name: str, tmp_path: Path) -> None:
    root = made(name, name, "root", name="Root")
    leaf = made(name, name, "device", root)
    # pkilint cannot verify that a root without an authority key identifier signed itself where it knows no ML-DSA.
    unknown = {"pkix.aki_absent_self_issued_and_unsupported_algorithm"} if name in UNKNOWN_TO_OPENSSL_3_0 else set()
    write(tmp_path, "root.pem", root)
    write(tmp_path, "leaf.pem", leaf)
    assert findings("lint_pkix_cert", tmp_path / "root.pem") - EXPLAINED - unknown == set()
    assert findings("lint_pkix_cert", tmp_path / "leaf.pem") - EXPLAINED - EXPLAINED_OF_DEVICES == set()


@pytest.mark.parametrize(("upper", "lower"), list(pairwise([*MIXED, MIXED[0]])))
def test_chains_of_mixed_algorithms_validate(upper: str, lower: str) -> None:
    root = made(upper, upper, "root", name="Root")
    issuing = made(upper, lower, "issuing", root, name="Issuing")
    leaf = made(lower, upper, "device", issuing)
    found = validate_chain(leaf, [issuing], [Anchor.from_certificate(root)], NOW, purpose=Purpose.CLIENT_AUTH)
    assert found.path == (issuing,)
    verify_with_pyopenssl(root, leaf, issuing)


@pytest.mark.parametrize("name", KEYS)
def test_a_signature_of_another_key_or_a_changed_one_does_not_verify(name: str) -> None:
    root = made(name, name, "root", name="Root")
    for other in set(KEYS) - {name}:
        with pytest.raises(CertificateRefused) as refused:
            verify_signature(root, KEYS[other].public_key())
        assert refused.value.kind is RefusalKind.SIGNATURE
    der = root.public_bytes(Encoding.DER)
    changed = x509.load_der_x509_certificate(der[:-1] + bytes((der[-1] ^ 1,)))
    with pytest.raises(CertificateRefused) as refused:
        verify_signature(changed, KEYS[name].public_key())
    assert refused.value.kind is RefusalKind.SIGNATURE


@pytest.mark.parametrize("parameter_set", ["ML-DSA-65", "ML-DSA-87"])
def test_an_ml_dsa_signature_names_the_parameter_set_of_its_key(parameter_set: str) -> None:
    root = made("ML-DSA-44", "ML-DSA-44", "root", name="Root")
    layout = read_certificate_layout(root.public_bytes(Encoding.DER))
    other = bytes.fromhex(IDENTIFIERS[parameter_set])
    signed = layout.signed.replace(layout.inner_algorithm, other, 1)
    signature = encode(BIT_STRING, b"\0" + SoftwareSigner(KEYS["ML-DSA-44"]).sign(signed))
    named = x509.load_der_x509_certificate(encode(SEQUENCE, signed, other, signature))
    with pytest.raises(CertificateRefused) as refused:
        verify_signature(named, KEYS["ML-DSA-44"].public_key())
    assert refused.value.kind is RefusalKind.SIGNATURE


@pytest.mark.parametrize("name", KEYS)
def test_revocation_lists_verify(name: str, tmp_path: Path) -> None:
    root = made(name, name, "root", name="Root")
    entry = encode(SEQUENCE, encode_integer(1), encode_time(NOW), bytes.fromhex("300c300a0603551d1504030a0101"))
    der = build_revocation_list(Scope(root), SoftwareSigner(KEYS[name]), [entry], number=1, now=NOW, life=LIFE).der
    published = x509.load_der_x509_crl(der)
    assert published.is_signature_valid(root.public_key())  # type: ignore[arg-type]
    for other in set(KEYS) - {name}:
        assert not published.is_signature_valid(KEYS[other].public_key())  # type: ignore[arg-type]
    if name not in UNKNOWN_TO_OPENSSL_3_0:
        (tmp_path / "list.der").write_bytes(der)
        write(tmp_path, "root.pem", root)
        assert "verify OK" in openssl(tmp_path, "crl", "-inform", "DER", "-in", "list.der", "-CAfile", "root.pem")


def test_a_list_that_names_two_algorithms_is_not_read() -> None:
    root = made("RSA-2048", "RSA-2048", "root", name="Root")
    signer = SoftwareSigner(KEYS["RSA-2048"])
    good = build_revocation_list(Scope(root), signer, [], number=1, now=NOW, life=LIFE).der
    signed = x509.load_der_x509_crl(good).tbs_certlist_bytes
    signed = signed.replace(signer.algorithm, bytes.fromhex(IDENTIFIERS["RSA-4096"]), 1)
    der = encode(SEQUENCE, signed, signer.algorithm, encode(BIT_STRING, b"\0" + signer.sign(signed)))
    with pytest.raises(ValueError, match="Inner and outer signature algorithms do not match"):
        x509.load_der_x509_crl(der)


@pytest.mark.parametrize("name", KEYS)
def test_requests_of_each_algorithm_are_read(name: str) -> None:
    key = KEYS[name]
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "meter-001")])
    hashed = hashes.SHA256() if isinstance(key, ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey) else None
    request = x509.CertificateSigningRequestBuilder().subject_name(subject).sign(key, hashed)
    der = request.public_bytes(Encoding.DER)
    read = parse_request(der)
    assert read.spki_der == encoded_key(key.public_key())
    with pytest.raises(CertificateRefused) as refused:
        parse_request(der[:-1] + bytes((der[-1] ^ 1,)))
    assert refused.value.kind is RefusalKind.SIGNATURE


def test_the_profile_decides_which_algorithms_a_device_may_have() -> None:
    root = made("P-256", "P-256", "root", name="Root")
    template = Template(load_profile("server"), root, SoftwareSigner(KEYS["P-256"]), None)
    key: PublicKey = KEYS["ML-DSA-44"].public_key()
    with pytest.raises(CertificateRefused, match="ML-DSA-44 keys are not accepted here"):
        template.issue(device(device_identifier("meter-001"), encoded_key(key)), NOW, b"\x01" * 16)

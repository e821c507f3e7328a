"""What the certificates of a path may say, and what signs them: each rule has one that breaks it."""

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed448, rsa
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from certs.chain import Anchor, Purpose, ValidChain
from certs.errors import CertificateRefused, RefusalKind
from tests.certs.conftest import anchors, key_usage

if TYPE_CHECKING:
    from tests.certs.conftest import Authority

CLIENT_AUTH = x509.ExtendedKeyUsage([ExtendedKeyUsageOID.CLIENT_AUTH])
SERVER_AUTH = x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH])
ANY_PURPOSE = x509.ExtendedKeyUsage([ExtendedKeyUsageOID.ANY_EXTENDED_KEY_USAGE])
UNKNOWN = x509.UnrecognizedExtension(x509.ObjectIdentifier("1.2.3.4"), b"\x05\x00")
NO_CONSTRAINTS = x509.NameConstraints(None, [x509.DNSName("example")])
SIGNING = (key_usage(digital_signature=True), True)
NOT_AUTHORITY = (x509.BasicConstraints(ca=False, path_length=None), True)
LEAVES: dict[str, tuple[list[tuple[x509.ExtensionType, bool]], RefusalKind | None]] = {
    "plain": ([SIGNING, (CLIENT_AUTH, False)], None),
    "no key usage": ([(CLIENT_AUTH, False)], None),
    "critical purpose": ([SIGNING, (CLIENT_AUTH, True)], None),
    "two purposes": ([(x509.ExtendedKeyUsage([*SERVER_AUTH, *CLIENT_AUTH]), False)], None),
    "unknown extension": ([(CLIENT_AUTH, False), (UNKNOWN, False)], None),
    "no extension": ([], RefusalKind.EKU),
    "no purpose": ([NOT_AUTHORITY, SIGNING], RefusalKind.EKU),
    "other purpose": ([SIGNING, (SERVER_AUTH, False)], RefusalKind.EKU),
    "any purpose": ([SIGNING, (ANY_PURPOSE, False)], RefusalKind.EKU),
    "authority": ([(x509.BasicConstraints(ca=True, path_length=None), True), (CLIENT_AUTH, False)], RefusalKind.POLICY),
    "key usage without signature": (
        [(key_usage(key_encipherment=True), True), (CLIENT_AUTH, False)],
        RefusalKind.POLICY,
    ),
    "unknown critical extension": ([(CLIENT_AUTH, False), (UNKNOWN, True)], RefusalKind.POLICY),
    "name constraints": ([(CLIENT_AUTH, False), (NO_CONSTRAINTS, False)], RefusalKind.POLICY),
    "NUL in alternative name": (
        [(CLIENT_AUTH, False), (x509.SubjectAlternativeName([x509.DNSName("meter\0.example")]), False)],
        RefusalKind.MALFORMED,
    ),
}
AUTHORITIES: dict[str, tuple[dict[str, Any], RefusalKind | None]] = {
    "plain": ({}, None),
    "own purpose": ({"extensions": [(CLIENT_AUTH, False)]}, None),
    "any purpose": ({"extensions": [(ANY_PURPOSE, False)]}, None),
    "no identifiers": ({"identifiers": False}, None),
    "unknown extension": ({"extensions": [(UNKNOWN, False)]}, None),
    "no authority": ({"extensions": [NOT_AUTHORITY]}, RefusalKind.CHAIN_UNTRUSTED),
    "may not sign": ({"extensions": [(key_usage(digital_signature=True), True)]}, RefusalKind.CHAIN_UNTRUSTED),
    "other purpose": ({"extensions": [(SERVER_AUTH, False)]}, RefusalKind.EKU),
    "unknown critical extension": ({"extensions": [(UNKNOWN, True)]}, RefusalKind.POLICY),
    "name constraints": ({"extensions": [(NO_CONSTRAINTS, True)]}, RefusalKind.POLICY),
    "name constraints not critical": ({"extensions": [(NO_CONSTRAINTS, False)]}, RefusalKind.POLICY),
}


@pytest.mark.parametrize("leaf", LEAVES)
def test_what_a_leaf_may_say(
    root: "Authority", check: Callable[..., ValidChain], refusal: Callable[..., CertificateRefused], leaf: str
) -> None:
    extensions, kind = LEAVES[leaf]
    certificate = root.sign("meter-001", extensions=extensions)
    if kind is None:
        assert check(certificate, anchors(root))
    else:
        assert refusal(certificate, anchors(root)).kind is kind


def test_the_purpose_is_the_one_asked_for(root: "Authority", check: Callable[..., ValidChain]) -> None:
    server = root.sign("host", extensions=[SIGNING, (SERVER_AUTH, False)])
    assert check(server, anchors(root), purpose=Purpose.SERVER_AUTH)
    with pytest.raises(CertificateRefused, match="SERVER_AUTH"):
        check(root.sign("meter-001"), anchors(root), purpose=Purpose.SERVER_AUTH)


def test_a_common_name_with_nul_is_refused(root: "Authority", refusal: Callable[..., CertificateRefused]) -> None:
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "meter-001\0.example")])
    assert refusal(root.sign(name), anchors(root)).kind is RefusalKind.MALFORMED


@pytest.mark.parametrize("hash_algorithm", [hashes.SHA224(), hashes.SHA3_256()])
def test_a_signature_over_another_hash_is_refused(
    root: "Authority", refusal: Callable[..., CertificateRefused], hash_algorithm: hashes.SHA224
) -> None:
    leaf = root.sign("meter-001", hash_algorithm=hash_algorithm)
    assert refusal(leaf, anchors(root)).kind is RefusalKind.POLICY


@pytest.mark.parametrize("digest", ["md5", "sha1"])
def test_broken_hashes_of_openssl_are_refused(
    openssl: Callable[..., bytes], tmp_path: Path, refusal: Callable[..., CertificateRefused], digest: str
) -> None:
    openssl(
        "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-keyout", "root.key", "-out", "root.pem", "-subj", "/CN=r"
    )
    openssl("req", "-newkey", "rsa:2048", "-nodes", "-keyout", "leaf.key", "-out", "leaf.csr", "-subj", "/CN=meter-001")
    (tmp_path / "leaf.cnf").write_text("extendedKeyUsage=clientAuth\n")
    signing = ("x509", "-req", "-in", "leaf.csr", "-CA", "root.pem", "-CAkey", "root.key", "-set_serial", "1")
    openssl(*signing, "-extfile", "leaf.cnf", f"-{digest}", "-out", "leaf.pem")
    leaf, trusted = (
        x509.load_pem_x509_certificate((tmp_path / f"{each}.pem").read_bytes()) for each in ("leaf", "root")
    )
    refused = refusal(leaf, [Anchor.from_certificate(trusted)], at=leaf.not_valid_before_utc)
    assert (refused.kind, digest in refused.reason) == (RefusalKind.POLICY, True)


def test_a_signature_algorithm_that_differs_inside_and_outside_is_refused(
    root: "Authority", refusal: Callable[..., CertificateRefused]
) -> None:
    leaf = root.sign("meter-001")
    changed = root.resign(leaf, signature={"algorithm": "sha384_ecdsa"})
    assert refusal(changed, anchors(root)).kind is RefusalKind.MALFORMED


@pytest.mark.parametrize(
    "key",
    [
        rsa.generate_private_key(65537, 1024),  # noqa: S505 - a weak key is the point
        ec.generate_private_key(ec.SECP192R1()),
        ed448.Ed448PrivateKey.generate(),
    ],
)
def test_weak_and_unknown_keys_are_refused_in_leaves_and_authorities(
    root: "Authority", refusal: Callable[..., CertificateRefused], key: rsa.RSAPrivateKey
) -> None:
    assert refusal(root.sign("meter-001", key), anchors(root)).kind is RefusalKind.POLICY
    extensions = [(x509.BasicConstraints(ca=True, path_length=None), True)]
    with pytest.raises(CertificateRefused) as refused:
        Anchor.from_certificate(root.sign("weak", key, extensions=extensions))
    assert refused.value.kind is RefusalKind.POLICY


@pytest.mark.parametrize("authority", AUTHORITIES)
def test_what_an_authority_between_may_say(
    root: "Authority", check: Callable[..., ValidChain], refusal: Callable[..., CertificateRefused], authority: str
) -> None:
    options, kind = AUTHORITIES[authority]
    issuing = root.authority("issuing", **options)
    leaf = issuing.sign("meter-001")
    if kind is None:
        assert check(leaf, anchors(root), [issuing]).path == (issuing.certificate,)
    else:
        assert refusal(leaf, anchors(root), [issuing]).kind is kind


@pytest.mark.parametrize(
    "authority", [name for name, (_, kind) in AUTHORITIES.items() if kind not in (None, RefusalKind.EKU)]
)
def test_what_is_no_authority_is_no_anchor(root: "Authority", authority: str) -> None:
    options, kind = AUTHORITIES[authority]
    with pytest.raises(CertificateRefused) as refused:
        anchors(root.authority("issuing", **options))
    assert refused.value.kind is kind


def test_an_anchor_keeps_its_purpose(root: "Authority", refusal: Callable[..., CertificateRefused]) -> None:
    issuing = root.authority("issuing", extensions=[(SERVER_AUTH, False)])
    assert refusal(issuing.sign("meter-001"), anchors(issuing)).kind is RefusalKind.EKU


def test_an_authority_without_extensions_is_none(root: "Authority", refusal: Callable[..., CertificateRefused]) -> None:
    key = ec.generate_private_key(ec.SECP256R1())
    bare = type(root)(key, root.sign("issuing", key, extensions=[]))
    assert refusal(bare.sign("meter-001"), anchors(root), [bare]).kind is RefusalKind.CHAIN_UNTRUSTED


@pytest.mark.parametrize(("allowed", "passes"), [(None, True), (2, True), (1, False), (0, False)])
def test_path_length_counts_the_authorities_below(
    new_root: Callable[..., "Authority"],
    check: Callable[..., ValidChain],
    refusal: Callable[..., CertificateRefused],
    allowed: int | None,
    passes: bool,
) -> None:
    root = new_root(path_length=allowed)
    upper = root.authority("upper")
    lower = upper.authority("lower", path_length=0)
    leaf = lower.sign("meter-001")
    if passes:
        assert len(check(leaf, anchors(root), [lower, upper]).path) == 2
    else:
        assert refusal(leaf, anchors(root), [lower, upper]).kind is RefusalKind.CHAIN_UNTRUSTED


def test_path_length_holds_between_too(root: "Authority", refusal: Callable[..., CertificateRefused]) -> None:
    upper = root.authority("upper", path_length=0)
    lower = upper.authority("lower")
    refused = refusal(lower.sign("meter-001"), anchors(root), [lower, upper])
    assert refused.kind is RefusalKind.CHAIN_UNTRUSTED
    assert "allows 0" in refused.reason


def test_a_certificate_that_an_authority_gave_itself_does_not_count(
    new_root: Callable[..., "Authority"], check: Callable[..., ValidChain]
) -> None:
    old = new_root("root", path_length=1)
    new = old.authority("root")  # NewWithOld of a rollover: the old key vouches for the new one
    issuing = new.authority("issuing", path_length=0)
    assert check(issuing.sign("meter-001"), anchors(old), [issuing, new]).path == (issuing.certificate, new.certificate)

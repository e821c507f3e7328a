"""Paths from a leaf to an anchor: which are found, at what time, and with how much work."""

from collections.abc import Callable
from datetime import datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, mldsa, rsa
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import ExtendedKeyUsageOID

from certs.chain import INTERMEDIATES_MAXIMUM, SIGNATURES_MAXIMUM, Anchor, Purpose, ValidChain
from certs.errors import CertificateRefused, RefusalKind
from certs.pem import write_certificates
from tests.certs.conftest import anchors, key_usage

if TYPE_CHECKING:
    from tests.certs.conftest import Authority

DAY = timedelta(days=1)
SECOND = timedelta(seconds=1)
CLIENT_AUTH = x509.ExtendedKeyUsage([ExtendedKeyUsageOID.CLIENT_AUTH])


def test_a_leaf_of_an_anchor_is_valid(root: "Authority", check: Callable[..., ValidChain]) -> None:
    leaf = root.sign("meter-001")
    (anchor,) = anchors(root)
    assert check(leaf, [anchor]) == ValidChain(leaf, (), anchor)


def test_authorities_between_are_found_in_any_order_and_given_in_theirs(
    root: "Authority", new_root: Callable[..., "Authority"], check: Callable[..., ValidChain]
) -> None:
    upper = root.authority("upper")
    lower = upper.authority("lower", path_length=0)
    leaf = lower.sign("meter-001")
    found = check(leaf, anchors(root), [new_root("foreign"), upper, lower, root])
    assert found.path == (lower.certificate, upper.certificate)
    assert found.anchor == Anchor.from_certificate(root.certificate)


def test_an_authority_between_may_be_the_anchor_itself(root: "Authority", check: Callable[..., ValidChain]) -> None:
    issuing = root.authority("issuing")
    leaf = issuing.sign("meter-001")
    assert check(leaf, anchors(issuing)).path == ()
    assert check(leaf, anchors(issuing), [issuing, root]).path == ()


@pytest.mark.parametrize(
    "key",
    [
        ec.generate_private_key(ec.SECP256R1()),
        ec.generate_private_key(ec.SECP384R1()),
        ec.generate_private_key(ec.SECP521R1()),
        ed25519.Ed25519PrivateKey.generate(),
        rsa.generate_private_key(65537, 2048),
        mldsa.MLDSA44PrivateKey.generate(),
        mldsa.MLDSA65PrivateKey.generate(),
        mldsa.MLDSA87PrivateKey.generate(),
    ],
    ids=lambda key: type(key).__name__,
)
def test_every_accepted_algorithm_signs_and_is_verified(
    new_root: Callable[..., "Authority"],
    check: Callable[..., ValidChain],
    refusal: Callable[..., CertificateRefused],
    key: ec.EllipticCurvePrivateKey,
) -> None:
    root = new_root(key=key)
    leaf = root.sign("meter-001")
    assert check(leaf, anchors(root))
    signature = bytearray(leaf.public_bytes(Encoding.DER))
    signature[-1] ^= 1
    damaged = x509.load_der_x509_certificate(bytes(signature))
    assert refusal(damaged, anchors(root)).kind in (RefusalKind.SIGNATURE, RefusalKind.CHAIN_UNTRUSTED)


def test_nothing_is_trusted_without_anchors(
    root: "Authority", new_root: Callable[..., "Authority"], refusal: Callable[..., CertificateRefused]
) -> None:
    leaf = root.sign("meter-001")
    assert refusal(leaf, []).kind is RefusalKind.CHAIN_UNTRUSTED
    assert refusal(leaf, [], [root]).kind is RefusalKind.CHAIN_UNTRUSTED
    assert refusal(leaf, anchors(new_root("foreign")), [root]).kind is RefusalKind.CHAIN_UNTRUSTED


def test_two_authorities_of_one_name_are_told_apart_by_their_keys(
    new_root: Callable[..., "Authority"], check: Callable[..., ValidChain], refusal: Callable[..., CertificateRefused]
) -> None:
    ours, theirs = new_root("issuing"), new_root("issuing")
    leaf = ours.sign("meter-001")
    for trusted in (anchors(ours, theirs), anchors(theirs, ours)):
        assert check(leaf, trusted).anchor.spki_sha256 == anchors(ours)[0].spki_sha256
    assert refusal(leaf, anchors(theirs)).kind is RefusalKind.CHAIN_UNTRUSTED
    assert anchors(ours) != anchors(theirs)


def test_a_key_identifier_is_a_hint_and_no_proof(
    new_root: Callable[..., "Authority"], check: Callable[..., ValidChain], refusal: Callable[..., CertificateRefused]
) -> None:
    ours, theirs = new_root("issuing"), new_root("issuing")
    client = [(key_usage(digital_signature=True), True), (CLIENT_AUTH, False)]
    lying = theirs.sign("meter-001", extensions=[*client, (ours.key_identifier, False)])
    assert check(lying, anchors(ours, theirs)).anchor == anchors(theirs)[0]
    # the key is named and does not fit: that is a bad signature, not an unknown authority
    assert refusal(lying, anchors(ours)).kind is RefusalKind.SIGNATURE


def test_authorities_between_of_one_name_are_told_apart_by_their_keys(
    root: "Authority", check: Callable[..., ValidChain]
) -> None:
    first, second = root.authority("issuing"), root.authority("issuing")
    leaf = second.sign("meter-001")
    for sent in ([first, second], [second, first]):
        assert check(leaf, anchors(root), sent).path == (second.certificate,)


def test_the_right_key_under_another_name_is_another_authority(
    root: "Authority", check: Callable[..., ValidChain], refusal: Callable[..., CertificateRefused]
) -> None:
    """RFC 5280 6.1.3 (a)(4): names chain as well as keys."""
    issuing = root.authority("issuing")
    renamed = root.authority("renamed", key=issuing.key)
    leaf = issuing.sign("meter-001")
    assert refusal(leaf, anchors(root), [renamed]).kind is RefusalKind.CHAIN_UNTRUSTED
    assert refusal(leaf, anchors(renamed)).kind is RefusalKind.CHAIN_UNTRUSTED
    assert check(leaf, anchors(root), [renamed, issuing]).path == (issuing.certificate,)


def test_an_anchor_is_the_same_under_a_renewed_certificate(
    new_root: Callable[..., "Authority"], root: "Authority", now: datetime
) -> None:
    renewed = new_root(key=root.key, end=now + 100 * DAY)
    other_name = new_root("other", key=root.key)
    assert anchors(root) == anchors(renewed)
    assert len({*anchors(root), *anchors(renewed), *anchors(other_name)}) == 2


def test_an_expired_authority_between_gives_way_to_its_renewed_certificate(
    root: "Authority", now: datetime, check: Callable[..., ValidChain], refusal: Callable[..., CertificateRefused]
) -> None:
    expired = root.authority("issuing", end=now - SECOND)
    renewed = root.authority("issuing", key=expired.key)
    leaf = expired.sign("meter-001")
    assert check(leaf, anchors(root), [expired, renewed]).path == (renewed.certificate,)
    assert refusal(leaf, anchors(root), [expired]).kind is RefusalKind.EXPIRED


@pytest.mark.parametrize(
    ("seconds", "kind"),
    [(-86401, RefusalKind.NOT_YET_VALID), (-86400, None), (86400, None), (86401, RefusalKind.EXPIRED)],
)
def test_begin_and_end_belong_to_the_period(
    new_root: Callable[..., "Authority"],
    now: datetime,
    check: Callable[..., ValidChain],
    refusal: Callable[..., CertificateRefused],
    seconds: int,
    kind: RefusalKind | None,
) -> None:
    long_lived = new_root(begin=now - 9 * DAY, end=now + 9 * DAY)
    leaf = long_lived.sign("meter-001")
    at = now + seconds * SECOND
    if kind is None:
        assert check(leaf, anchors(long_lived), at=at)
    else:
        assert refusal(leaf, anchors(long_lived), at=at).kind is kind


def test_the_attempt_that_came_closest_gives_the_reason(
    new_root: Callable[..., "Authority"], now: datetime, refusal: Callable[..., CertificateRefused]
) -> None:
    theirs, ours = new_root(identifiers=False), new_root(identifiers=False, end=now - SECOND)
    leaf = ours.sign("meter-001")
    for trusted in (anchors(theirs, ours), anchors(ours, theirs)):
        assert refusal(leaf, trusted).kind is RefusalKind.EXPIRED


def test_only_the_end_of_the_leaf_may_be_overlooked(
    new_root: Callable[..., "Authority"],
    now: datetime,
    check: Callable[..., ValidChain],
    refusal: Callable[..., CertificateRefused],
) -> None:
    long_lived = new_root(begin=now - 9 * DAY, end=now + 9 * DAY)
    leaf = long_lived.sign("meter-001")
    trusted = anchors(long_lived)
    assert check(leaf, trusted, at=now + 2 * DAY, allow_expired_leaf=True)
    early = refusal(leaf, trusted, at=now - 2 * DAY, allow_expired_leaf=True)
    assert early.kind is RefusalKind.NOT_YET_VALID
    late = refusal(leaf, trusted, at=now + 10 * DAY, allow_expired_leaf=True)
    assert late.kind is RefusalKind.EXPIRED
    foreign = refusal(leaf, anchors(new_root("foreign")), at=now + 2 * DAY, allow_expired_leaf=True)
    assert foreign.kind is RefusalKind.CHAIN_UNTRUSTED


def test_an_anchor_ends_and_begins_like_any_other(
    new_root: Callable[..., "Authority"], now: datetime, refusal: Callable[..., CertificateRefused]
) -> None:
    expired, future = new_root(end=now - SECOND), new_root(begin=now + SECOND)
    assert refusal(expired.sign("meter-001"), anchors(expired)).kind is RefusalKind.EXPIRED
    assert refusal(future.sign("meter-001"), anchors(future)).kind is RefusalKind.NOT_YET_VALID


def test_a_foreign_certificate_is_foreign_first_and_expired_second(
    new_root: Callable[..., "Authority"], now: datetime, refusal: Callable[..., CertificateRefused]
) -> None:
    foreign = new_root("foreign", end=now + 9 * DAY).sign("meter-001", end=now - SECOND)
    assert refusal(foreign, anchors(new_root())).kind is RefusalKind.CHAIN_UNTRUSTED


def test_too_deep_a_path_is_refused(
    root: "Authority", check: Callable[..., ValidChain], refusal: Callable[..., CertificateRefused]
) -> None:
    steps = [root]
    for depth in range(5):
        steps.append(steps[-1].authority(f"step-{depth}"))
    assert len(check(steps[4].sign("meter-001"), anchors(root), steps[1:]).path) == 4
    refused = refusal(steps[5].sign("meter-001"), anchors(root), steps[1:])
    assert refused.kind is RefusalKind.CHAIN_UNTRUSTED


def test_a_loop_ends(
    root: "Authority", new_root: Callable[..., "Authority"], refusal: Callable[..., CertificateRefused]
) -> None:
    first = new_root("first")
    second = first.authority("second")
    back = second.authority("first", key=first.key)
    leaf = first.sign("meter-001")
    assert refusal(leaf, anchors(root), [second, back]).kind is RefusalKind.CHAIN_UNTRUSTED


def test_no_authority_stands_in_a_path_twice(
    root: "Authority",
    new_root: Callable[..., "Authority"],
    refusal: Callable[..., CertificateRefused],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    foreign = new_root("foreign")
    leaf = foreign.sign("meter-001")
    verified: list[object] = []
    monkeypatch.setattr("certs.chain.verify_signature", lambda *arguments: verified.append(arguments))
    assert refusal(leaf, anchors(root), [foreign]).kind is RefusalKind.CHAIN_UNTRUSTED
    assert len(verified) == 1  # the leaf by the foreign root, and not that root by itself again and again


def test_work_is_bounded(
    root: "Authority", refusal: Callable[..., CertificateRefused], monkeypatch: pytest.MonkeyPatch
) -> None:
    many = [root.authority("issuing") for _ in range(INTERMEDIATES_MAXIMUM + 1)]
    leaf = many[0].sign("meter-001")
    assert "beside the leaf" in refusal(leaf, anchors(root), many).reason
    verified = 0

    def count(*_: object) -> None:
        nonlocal verified
        verified += 1

    # eight authorities of one name and key that all "signed" each other: 8 * 7 * 6 * 5 paths
    twins = [root.authority("twin", key=many[0].key, identifiers=False, end=each) for each in _ends(leaf)]
    tangle = [type(root)(many[0].key, twin.sign("twin", twin.key, extensions=_extensions(twin))) for twin in twins]
    monkeypatch.setattr("certs.chain.verify_signature", count)
    assert refusal(tangle[0].sign("meter-001"), anchors(root), tangle).kind is RefusalKind.CHAIN_UNTRUSTED
    assert verified == SIGNATURES_MAXIMUM


def _ends(leaf: x509.Certificate) -> list[datetime]:
    return [leaf.not_valid_after_utc - seconds * SECOND for seconds in range(INTERMEDIATES_MAXIMUM)]


def _extensions(authority: "Authority") -> list[tuple[x509.ExtensionType, bool]]:
    end = authority.certificate.not_valid_after_utc.isoformat().encode()
    distinct = x509.UnrecognizedExtension(x509.ObjectIdentifier("1.2.3.5"), end)
    return [(x509.BasicConstraints(ca=True, path_length=None), True), (distinct, False)]


def test_a_self_signed_leaf_is_refused(root: "Authority", refusal: Callable[..., CertificateRefused]) -> None:
    key = ec.generate_private_key(ec.SECP256R1())
    own = type(root)(key, root.sign("meter-001", key)).sign("meter-001", key)
    assert refusal(own, anchors(root)).kind is RefusalKind.CHAIN_UNTRUSTED


def test_openssl_agrees(
    root: "Authority",
    now: datetime,
    openssl: Callable[..., bytes],
    tmp_path: Path,
    check: Callable[..., ValidChain],
) -> None:
    issuing = root.authority("issuing", path_length=0)
    key = ec.generate_private_key(ec.SECP256R1())
    identifiers = (x509.SubjectKeyIdentifier.from_public_key(key.public_key()), issuing.key_identifier)
    extensions = [
        (key_usage(digital_signature=True), True),
        (CLIENT_AUTH, False),
        *((each, False) for each in identifiers),
    ]
    leaf = issuing.sign("meter-001", key, extensions=extensions)
    check(leaf, anchors(root), [issuing])
    for name, certificate in (("root", root.certificate), ("issuing", issuing.certificate), ("leaf", leaf)):
        (tmp_path / f"{name}.pem").write_bytes(write_certificates([certificate]))
    at = ("-attime", str(int(now.timestamp())), "-x509_strict", "-purpose", "sslclient")
    printed = openssl("verify", *at, "-CAfile", "root.pem", "-untrusted", "issuing.pem", "leaf.pem")
    assert printed == b"leaf.pem: OK\n"


class TestRemembered:
    """A path that was found once is found again only as far as the same would be found anew (rule 9)."""

    def test_it_is_looked_for_once(
        self, root: "Authority", check: Callable[..., ValidChain], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        issuing = root.authority("issuing")
        leaf = issuing.sign("meter-001")
        first = check(leaf, anchors(root), [issuing])
        monkeypatch.setattr("certs.chain.verify_signature", None)
        assert check(leaf, anchors(root), [issuing]) == first

    def test_it_ends_with_the_authority_that_ends_first(
        self,
        new_root: Callable[..., "Authority"],
        now: datetime,
        check: Callable[..., ValidChain],
        refusal: Callable[..., CertificateRefused],
    ) -> None:
        long_lived = new_root(begin=now - 9 * DAY, end=now + 9 * DAY)
        issuing = long_lived.authority("issuing", begin=now - 9 * DAY, end=now + SECOND)
        leaf = issuing.sign("meter-001")
        assert check(leaf, anchors(long_lived), [issuing])
        assert refusal(leaf, anchors(long_lived), [issuing], at=now + 2 * SECOND).kind is RefusalKind.EXPIRED

    def test_it_leads_to_no_anchor_that_is_not_one_any_more(
        self, root: "Authority", check: Callable[..., ValidChain], refusal: Callable[..., CertificateRefused]
    ) -> None:
        leaf = root.sign("meter-001")
        assert check(leaf, anchors(root))
        assert refusal(leaf, []).kind is RefusalKind.CHAIN_UNTRUSTED

    def test_it_does_not_outlive_what_its_anchor_restricts(
        self,
        new_root: Callable[..., "Authority"],
        now: datetime,
        check: Callable[..., ValidChain],
        refusal: Callable[..., CertificateRefused],
    ) -> None:
        theirs = new_root()
        leaf = theirs.sign("meter-001")
        assert check(leaf, anchors(theirs))
        ended = new_root(key=theirs.key, end=now - SECOND)
        assert refusal(leaf, anchors(ended)).kind is RefusalKind.EXPIRED

    def test_it_serves_no_other_purpose(
        self, root: "Authority", check: Callable[..., ValidChain], refusal: Callable[..., CertificateRefused]
    ) -> None:
        leaf = root.sign("meter-001")
        assert check(leaf, anchors(root))
        assert refusal(leaf, anchors(root), purpose=Purpose.SERVER_AUTH).kind is RefusalKind.EKU

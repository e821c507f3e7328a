"""Authorities that tests make for themselves, and the openssl binary as an independent peer."""

import subprocess
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from asn1crypto import x509 as asn1
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, mldsa, rsa
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from certs.chain import Anchor, Purpose, ValidChain, validate_chain
from certs.errors import CertificateRefused

HashingItself = ed25519.Ed25519PrivateKey | mldsa.MLDSA44PrivateKey | mldsa.MLDSA65PrivateKey | mldsa.MLDSA87PrivateKey
PrivateKey = ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey | HashingItself

SigningHash = hashes.SHA224 | hashes.SHA256 | hashes.SHA384 | hashes.SHA3_256

NOW = datetime(2030, 6, 1, 12, tzinfo=UTC)
DAY = timedelta(days=1)


def common_name(text: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text)])


def key_usage(**usages: bool) -> x509.KeyUsage:
    every = (
        "digital_signature",
        "content_commitment",
        "key_encipherment",
        "data_encipherment",
        "key_agreement",
        "key_cert_sign",
        "crl_sign",
        "encipher_only",
        "decipher_only",
    )
    return x509.KeyUsage(**{usage: usages.get(usage, False) for usage in every})


CLIENT = (
    (x509.BasicConstraints(ca=False, path_length=None), True),
    (key_usage(digital_signature=True), True),
    (x509.ExtendedKeyUsage([ExtendedKeyUsageOID.CLIENT_AUTH]), False),
)


@dataclass(frozen=True)
class Authority:
    """A key and the certificate that names it."""

    key: PrivateKey
    certificate: x509.Certificate

    @property
    def name(self) -> x509.Name:
        return self.certificate.subject

    @property
    def key_identifier(self) -> x509.AuthorityKeyIdentifier:
        return x509.AuthorityKeyIdentifier.from_issuer_public_key(self.key.public_key())

    def sign(
        self,
        subject: str | x509.Name,
        public_key: PrivateKey | None = None,
        *,
        extensions: Iterable[tuple[x509.ExtensionType, bool]] = CLIENT,
        begin: datetime = NOW - DAY,
        end: datetime = NOW + DAY,
        hash_algorithm: SigningHash | None = None,
        issuer: x509.Name | None = None,
        serial: int = 1000,
    ) -> x509.Certificate:
        key = public_key or ec.generate_private_key(ec.SECP256R1())
        return certify(
            self.key,
            issuer or self.name,
            common_name(subject) if isinstance(subject, str) else subject,
            key,
            extensions,
            (begin, end),
            hash_algorithm,
            serial,
        )

    def authority(
        self,
        subject: str,
        *,
        key: PrivateKey | None = None,
        path_length: int | None = None,
        extensions: Sequence[tuple[x509.ExtensionType, bool]] = (),
        begin: datetime = NOW - DAY,
        end: datetime = NOW + DAY,
        identifiers: bool = True,
    ) -> "Authority":
        own_key = key or ec.generate_private_key(ec.SECP256R1())
        given = {type(extension) for extension, _ in extensions}
        usual: list[tuple[x509.ExtensionType, bool]] = [
            (x509.BasicConstraints(ca=True, path_length=path_length), True),
            (key_usage(key_cert_sign=True, crl_sign=True), True),
        ]
        if identifiers:
            usual += [
                (x509.SubjectKeyIdentifier.from_public_key(own_key.public_key()), False),
                (self.key_identifier, False),
            ]
        chosen = [each for each in usual if type(each[0]) not in given] + list(extensions)
        return Authority(own_key, self.sign(subject, own_key, extensions=chosen, begin=begin, end=end))

    def resign(self, certificate: x509.Certificate, **fields: object) -> x509.Certificate:
        """Change fields of a certificate that no builder would write, and sign it again (with an EC key)."""
        assert isinstance(self.key, ec.EllipticCurvePrivateKey)
        changed = asn1.Certificate.load(certificate.public_bytes(Encoding.DER))
        for name, value in fields.items():
            changed["tbs_certificate"][name] = value
        signed = changed["tbs_certificate"].dump(force=True)
        changed["signature_value"] = self.key.sign(signed, ec.ECDSA(hashes.SHA256()))
        return x509.load_der_x509_certificate(changed.dump(force=True))


def certify(
    signing_key: PrivateKey,
    issuer: x509.Name,
    subject: x509.Name,
    key: PrivateKey,
    extensions: Iterable[tuple[x509.ExtensionType, bool]],
    period: tuple[datetime, datetime],
    hash_algorithm: SigningHash | None,
    serial: int,
) -> x509.Certificate:
    builder = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key.public_key())
        .serial_number(serial)
        .not_valid_before(period[0])
        .not_valid_after(period[1])
    )
    for extension, critical in extensions:
        builder = builder.add_extension(extension, critical)
    if isinstance(signing_key, HashingItself):
        return builder.sign(signing_key, None)
    return builder.sign(signing_key, hash_algorithm or hashes.SHA256())


@pytest.fixture
def new_root() -> Callable[..., Authority]:
    def make(
        subject: str = "root",
        key: PrivateKey | None = None,
        extensions: Sequence[tuple[x509.ExtensionType, bool]] = (),
        path_length: int | None = None,
        begin: datetime = NOW - DAY,
        end: datetime = NOW + DAY,
        identifiers: bool = True,
    ) -> Authority:
        own_key = key or ec.generate_private_key(ec.SECP256R1())
        # a key that signs itself: an authority needs an authority to be made, so this one borrows its own name
        seed = certify(own_key, common_name(subject), common_name(subject), own_key, (), (begin, end), None, 1)
        return Authority(own_key, seed).authority(
            subject,
            key=own_key,
            extensions=extensions,
            path_length=path_length,
            begin=begin,
            end=end,
            identifiers=identifiers,
        )

    return make


@pytest.fixture
def root(new_root: Callable[..., Authority]) -> Authority:
    return new_root()


@pytest.fixture
def now() -> datetime:
    return NOW


@pytest.fixture
def openssl(tmp_path: Path) -> Callable[..., bytes]:
    """Run openssl in the test's own folder; fail the test where it fails."""

    def run(*arguments: str, stdin: bytes = b"") -> bytes:
        done = subprocess.run(["openssl", *arguments], input=stdin, capture_output=True, cwd=tmp_path, check=False)
        assert done.returncode == 0, done.stderr.decode()
        return done.stdout

    return run


def anchors(*authorities: Authority) -> list[Anchor]:
    return [Anchor.from_certificate(authority.certificate) for authority in authorities]


@pytest.fixture
def check(now: datetime) -> Callable[..., ValidChain]:
    def run(
        leaf: x509.Certificate,
        trusted: Collection[Anchor],
        sent: Sequence[Authority] = (),
        at: datetime = now,
        purpose: Purpose = Purpose.CLIENT_AUTH,
        allow_expired_leaf: bool = False,
    ) -> ValidChain:
        certificates = [authority.certificate for authority in sent]
        return validate_chain(leaf, certificates, trusted, at, purpose=purpose, allow_expired_leaf=allow_expired_leaf)

    return run


@pytest.fixture
def refusal(check: Callable[..., ValidChain]) -> Callable[..., CertificateRefused]:
    def run(*arguments: object, **options: object) -> CertificateRefused:
        with pytest.raises(CertificateRefused) as refused:
            check(*arguments, **options)
        return refused.value

    return run

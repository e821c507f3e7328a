"""Chains: does this certificate lead to an authority that we trust, at this time, for this purpose?

Path validation after RFC 5280 section 6, narrowed to what device identity needs:

1. An authority is pinned by name and key. Two of the same name with different keys are two authorities: each is
   tried, and the signature decides. Key identifiers only say whom to try first (RFC 5280 4.2.1.1).
2. The leaf is no authority, has an extended key usage that lists the purpose itself ("any" does not count), and, where
   it has a key usage, digitalSignature (4.2.1.3, 4.2.1.12).
3. Every issuer is an authority (4.2.1.9), may sign certificates (4.2.1.3), keeps within its path length, and does not
   restrict the purpose away where it has an extended key usage.
4. No critical extension that is not understood here (4.2), and no name constraints, critical or not: they are not
   understood here, and ignoring them would widen what an authority was allowed.
5. Strong signatures (`certs.signature`) and strong keys (`certs.keys`) all the way.
6. At `now`, every certificate has begun and none has ended, each its own kind of refusal. Only of the leaf may the end
   be overlooked, and only if the caller says so.
7. The leaf's names are printable (`certs.names.check_name`): no NUL, no other control character.
8. Work is bounded: so many certificates, so deep, so many signatures.
9. A path that was found is remembered, by the bytes of all that it was found from, for as long as it stays valid: a
   station that enrols one device after the other is looked at once.

The time of the leaf is looked at last, so that `EXPIRED` and `NOT_YET_VALID` say something about a certificate that is
otherwise good. Revocation is not asked here: it is a fact of the store.
"""

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from enum import Enum
from hashlib import sha256
from typing import Final, TypeVar

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import ExtendedKeyUsageOID, ExtensionOID

from certs.der import CertificateLayout, read_certificate_layout
from certs.errors import UNREADABLE, CertificateRefused, RefusalKind
from certs.keys import AUTHORITY_KEYS, PublicKey, check_key_strength, read_public_key
from certs.names import check_alternative_name, check_name
from certs.signature import verify_signature

INTERMEDIATES_MAXIMUM: Final = 8
DEPTH_MAXIMUM: Final = 4
SIGNATURES_MAXIMUM: Final = 16
REMEMBERED_MAXIMUM: Final = 1024

_UNDERSTOOD = frozenset(
    {
        ExtensionOID.BASIC_CONSTRAINTS,
        ExtensionOID.KEY_USAGE,
        ExtensionOID.EXTENDED_KEY_USAGE,
        ExtensionOID.SUBJECT_ALTERNATIVE_NAME,
        ExtensionOID.SUBJECT_KEY_IDENTIFIER,
        ExtensionOID.AUTHORITY_KEY_IDENTIFIER,
    }
)
_ANY_PURPOSE = ExtendedKeyUsageOID.ANY_EXTENDED_KEY_USAGE
_TELLING = (
    RefusalKind.CHAIN_UNTRUSTED,
    RefusalKind.MALFORMED,
    RefusalKind.SIGNATURE,
    RefusalKind.POLICY,
    RefusalKind.EKU,
    RefusalKind.NOT_YET_VALID,
    RefusalKind.EXPIRED,
)
"""Of several issuers that were tried, the refusal of the one that came closest is reported: later tells more."""

Extension = TypeVar("Extension", bound=x509.ExtensionType)


class Purpose(Enum):
    """What a leaf is to be good for: the extended key usage that it must list."""

    CLIENT_AUTH = ExtendedKeyUsageOID.CLIENT_AUTH
    SERVER_AUTH = ExtendedKeyUsageOID.SERVER_AUTH


@dataclass(frozen=True, slots=True)
class Anchor:
    """An authority that is trusted: its name and its key, and nothing else, are its identity.

    What its certificate restricts (period, path length, purpose) holds nevertheless.
    """

    subject: bytes
    spki_sha256: bytes
    certificate: x509.Certificate = field(compare=False, repr=False)
    public_key: PublicKey = field(compare=False, repr=False)
    key_identifier: bytes | None = field(compare=False, repr=False)
    path_length: int | None = field(compare=False, repr=False)
    purposes: frozenset[x509.ObjectIdentifier] | None = field(compare=False, repr=False)
    not_before: datetime = field(compare=False, repr=False)
    not_after: datetime = field(compare=False, repr=False)

    @classmethod
    def from_certificate(cls, certificate: x509.Certificate) -> "Anchor":
        """Pin the authority that a certificate describes; its own signature is not looked at.

        Raises:
            CertificateRefused: if the certificate is not one of an authority by rules 3 to 5.
        """
        return _read_authority(_Read.of(certificate))


@dataclass(frozen=True, slots=True)
class ValidChain:
    """A leaf that leads to an anchor; `path` holds the authorities between them, the leaf's issuer first."""

    leaf: x509.Certificate
    path: tuple[x509.Certificate, ...]
    anchor: Anchor


def validate_chain(
    leaf: x509.Certificate,
    intermediates: Sequence[x509.Certificate],
    anchors: Collection[Anchor],
    now: datetime,
    *,
    purpose: Purpose,
    allow_expired_leaf: bool = False,
) -> ValidChain:
    """Find a path from the leaf to an anchor that is valid at `now` (aware) for the purpose.

    `intermediates` is whatever the peer sent beside its leaf, in any order; no anchors means that nothing is trusted.

    Raises:
        CertificateRefused: with the kind and reason of the attempt that came closest.
    """
    if len(intermediates) > INTERMEDIATES_MAXIMUM:
        reason = f"more than {INTERMEDIATES_MAXIMUM} certificates were sent beside the leaf"
        raise CertificateRefused(RefusalKind.CHAIN_UNTRUSTED, reason)
    asked = _Asked.of(leaf, intermediates, anchors, purpose)
    found = _FOUND.get(asked)
    if found is None or not found.begins <= now <= found.ends:
        found = _find(leaf, intermediates, anchors, now, purpose)
        if len(_FOUND) >= REMEMBERED_MAXIMUM:
            _FOUND.clear()
        _FOUND[asked] = found
    _check_period("the certificate", leaf.not_valid_before_utc, leaf.not_valid_after_utc, now, allow_expired_leaf)
    return found.chain


@dataclass(frozen=True, slots=True)
class _Asked:
    """All that decides which path is found, save the time; certificates are equal if their bytes are."""

    leaf: x509.Certificate
    intermediates: tuple[x509.Certificate, ...]
    anchors: frozenset[x509.Certificate]
    purpose: Purpose

    @classmethod
    def of(
        cls,
        leaf: x509.Certificate,
        intermediates: Sequence[x509.Certificate],
        anchors: Collection[Anchor],
        purpose: Purpose,
    ) -> "_Asked":
        # What an anchor restricts counts as well, so its whole certificate does.
        return cls(leaf, tuple(intermediates), frozenset(anchor.certificate for anchor in anchors), purpose)


@dataclass(frozen=True, slots=True)
class _Found:
    """A path, and the time within which every authority of it is valid."""

    chain: ValidChain
    begins: datetime
    ends: datetime


_FOUND: dict[_Asked, _Found] = {}


def _find(
    leaf: x509.Certificate,
    intermediates: Sequence[x509.Certificate],
    anchors: Collection[Anchor],
    now: datetime,
    purpose: Purpose,
) -> _Found:
    read = _Read.of(leaf)
    _check_leaf(read, purpose)
    path, anchor = _Search(intermediates, anchors, now, purpose).climb(read, ())
    above = [step.certificate for step in path]
    return _Found(
        ValidChain(leaf, tuple(above), anchor),
        max([anchor.not_before, *(one.not_valid_before_utc for one in above)]),
        min([anchor.not_after, *(one.not_valid_after_utc for one in above)]),
    )


def validate_authority(
    authority: x509.Certificate, others: Sequence[x509.Certificate], anchors: Collection[Anchor], now: datetime
) -> ValidChain:
    """Find a path from an authority's certificate to an anchor, by which what it signs for others would be valid.

    So it counts itself among the authorities that a path length allows; and it is asked for no purpose.

    Raises:
        CertificateRefused: with the kind and reason of the attempt that came closest.
    """
    if len(others) > INTERMEDIATES_MAXIMUM:
        reason = f"more than {INTERMEDIATES_MAXIMUM} certificates were sent beside the authority's"
        raise CertificateRefused(RefusalKind.CHAIN_UNTRUSTED, reason)
    read = _Read.of(authority)
    _read_authority(read)
    path, anchor = _Search(others, anchors, now, None).climb(read, (read,))
    _check_period("the certificate", authority.not_valid_before_utc, authority.not_valid_after_utc, now)
    return ValidChain(authority, tuple(step.certificate for step in path[1:]), anchor)


def check_self_signed(authority: x509.Certificate, now: datetime) -> Anchor:
    """Return as an anchor an authority that stands at the top of a chain, after looking at its own signature.

    Raises:
        CertificateRefused: if it is no authority's, not signed by its own key, or not valid at `now`.
    """
    read = _Read.of(authority)
    anchor = _read_authority(read)
    if read.layout.issuer != read.layout.subject:
        raise CertificateRefused(RefusalKind.CHAIN_UNTRUSTED, "the certificate at the top does not sign itself")
    verify_signature(authority, anchor.public_key, read.layout)
    _check_period("the certificate", authority.not_valid_before_utc, authority.not_valid_after_utc, now)
    return anchor


def check_pinned(authority: x509.Certificate, now: datetime) -> Anchor:
    """Return as an anchor an authority that is trusted for itself, whoever signed its certificate.

    Raises:
        CertificateRefused: if it is no authority's, or not valid at `now`.
    """
    anchor = _read_authority(_Read.of(authority))
    _check_period("the certificate", anchor.not_before, anchor.not_after, now)
    return anchor


@dataclass(frozen=True, slots=True)
class _Read:
    """A certificate that has been read once."""

    certificate: x509.Certificate
    layout: CertificateLayout
    extensions: Mapping[x509.ObjectIdentifier, x509.Extension[x509.ExtensionType]]

    @classmethod
    def of(cls, certificate: x509.Certificate) -> "_Read":
        try:
            extensions = {extension.oid: extension for extension in certificate.extensions}
        except UNREADABLE as error:
            raise CertificateRefused(RefusalKind.MALFORMED, f"unreadable extensions: {error}") from error
        for oid, extension in extensions.items():
            if extension.critical and oid not in _UNDERSTOOD:
                reason = f"critical extension {oid.dotted_string} is not understood"
                raise CertificateRefused(RefusalKind.POLICY, reason)
        if ExtensionOID.NAME_CONSTRAINTS in extensions:
            raise CertificateRefused(RefusalKind.POLICY, "name constraints are not understood")
        return cls(certificate, read_certificate_layout(certificate.public_bytes(Encoding.DER)), extensions)

    def value(self, kind: type[Extension]) -> Extension | None:
        extension = self.extensions.get(kind.oid)
        return extension.value if extension is not None and isinstance(extension.value, kind) else None


def _check_leaf(leaf: _Read, purpose: Purpose) -> None:
    check_name(leaf.layout.subject)
    check_alternative_name(leaf.value(x509.SubjectAlternativeName) or ())
    constraints = leaf.value(x509.BasicConstraints)
    if constraints is not None and constraints.ca:
        reason = "the certificate is an authority's, and authorities do not connect"
        raise CertificateRefused(RefusalKind.POLICY, reason)
    key_usage = leaf.value(x509.KeyUsage)
    if key_usage is not None and not key_usage.digital_signature:
        raise CertificateRefused(RefusalKind.POLICY, "the certificate's key usage lacks digitalSignature")
    extended_key_usage = leaf.value(x509.ExtendedKeyUsage)
    if extended_key_usage is None or purpose.value not in extended_key_usage:
        reason = f"the certificate's extended key usage does not list {purpose.name}"
        raise CertificateRefused(RefusalKind.EKU, reason)
    check_key_strength(read_public_key(leaf.certificate), AUTHORITY_KEYS)


def _read_authority(read: _Read) -> Anchor:
    """Read what an authority's certificate says about signing, by rules 3 to 5.

    Raises:
        CertificateRefused: CHAIN_UNTRUSTED if it is no authority's, POLICY if its key is not accepted.
    """
    constraints = read.value(x509.BasicConstraints)
    if constraints is None or not constraints.ca:
        raise CertificateRefused(
            RefusalKind.CHAIN_UNTRUSTED, "an issuer is no authority: basicConstraints CA is not set"
        )
    key_usage = read.value(x509.KeyUsage)
    if key_usage is not None and not key_usage.key_cert_sign:
        reason = "an issuer may not sign certificates: its key usage lacks keyCertSign"
        raise CertificateRefused(RefusalKind.CHAIN_UNTRUSTED, reason)
    key_identifier = read.value(x509.SubjectKeyIdentifier)
    purposes = read.value(x509.ExtendedKeyUsage)
    return Anchor(
        subject=read.layout.subject,
        spki_sha256=sha256(read.layout.subject_public_key_info).digest(),
        certificate=read.certificate,
        public_key=check_key_strength(read_public_key(read.certificate), AUTHORITY_KEYS),
        key_identifier=None if key_identifier is None else key_identifier.digest,
        path_length=constraints.path_length,
        purposes=None if purposes is None else frozenset(purposes),
        not_before=read.certificate.not_valid_before_utc,
        not_after=read.certificate.not_valid_after_utc,
    )


class _Search:
    """One search for a path, with the means that it has left."""

    def __init__(
        self,
        sent: Sequence[x509.Certificate],
        anchors: Collection[Anchor],
        now: datetime,
        purpose: Purpose | None,
    ) -> None:
        self._sent = sent
        self._anchors = anchors
        self._now = now
        self._purpose = purpose
        self._signatures_left = SIGNATURES_MAXIMUM

    def climb(self, child: _Read, path: tuple[_Read, ...]) -> tuple[tuple[_Read, ...], Anchor]:
        """Return the authorities of `path` and those above them, and the anchor in which they end."""
        refusals: list[CertificateRefused] = []
        for anchor in _likeliest_first(child, self._anchors):
            try:
                self._check_issuer(anchor, child, path)
            except CertificateRefused as refusal:
                refusals.append(refusal)
            else:
                return path, anchor
        for certificate in self._sent_issuers(child, path):
            try:
                read = _Read.of(certificate)
                self._check_issuer(_read_authority(read), child, path)
                return self.climb(read, (*path, read))
            except CertificateRefused as refusal:
                refusals.append(refusal)
        if not refusals:
            raise CertificateRefused(RefusalKind.CHAIN_UNTRUSTED, "no trusted authority has the issuer's name")
        raise max(refusals, key=lambda refusal: _TELLING.index(refusal.kind))

    def _sent_issuers(self, child: _Read, path: tuple[_Read, ...]) -> list[x509.Certificate]:
        """Return what was sent that has the name of the child's issuer and is not in the path already."""
        used = [read.certificate for read in path]
        return [
            certificate
            for certificate in self._sent
            if read_certificate_layout(certificate.public_bytes(Encoding.DER)).subject == child.layout.issuer
            and certificate not in used
        ]

    def _check_issuer(self, issuer: Anchor, child: _Read, path: tuple[_Read, ...]) -> None:
        """Check that `issuer` signed `child` and was allowed to, with the authorities of `path` below it."""
        if len(path) > DEPTH_MAXIMUM:
            reason = f"more than {DEPTH_MAXIMUM} authorities stand between the certificate and an anchor"
            raise CertificateRefused(RefusalKind.CHAIN_UNTRUSTED, reason)
        # RFC 5280 4.2.1.9: certificates that an authority issued to itself, as in a rollover, do not count
        counted = sum(read.layout.subject != read.layout.issuer for read in path)
        if issuer.path_length is not None and counted > issuer.path_length:
            reason = f"an issuer allows {issuer.path_length} authorities below it, there are {counted}"
            raise CertificateRefused(RefusalKind.CHAIN_UNTRUSTED, reason)
        self._check_signature(issuer, child)
        purpose = self._purpose
        if purpose and issuer.purposes is not None and issuer.purposes.isdisjoint((purpose.value, _ANY_PURPOSE)):
            reason = f"an issuer's extended key usage does not allow {purpose.name}"
            raise CertificateRefused(RefusalKind.EKU, reason)
        _check_period("an issuer", issuer.not_before, issuer.not_after, self._now)

    def _check_signature(self, issuer: Anchor, child: _Read) -> None:
        if self._signatures_left == 0:
            reason = f"no path was found within {SIGNATURES_MAXIMUM} signatures"
            raise CertificateRefused(RefusalKind.CHAIN_UNTRUSTED, reason)
        self._signatures_left -= 1
        try:
            verify_signature(child.certificate, issuer.public_key, child.layout)
        except CertificateRefused as refusal:
            if refusal.kind is RefusalKind.SIGNATURE and _key_identifier_of_issuer(child) != issuer.key_identifier:
                reason = "signed by another key than the authority's of that name"
                raise CertificateRefused(RefusalKind.CHAIN_UNTRUSTED, reason) from refusal
            raise


def _likeliest_first(child: _Read, anchors: Iterable[Anchor]) -> list[Anchor]:
    """Return the anchors of the issuer's name, first those with the key identifier that the child names."""
    named = [anchor for anchor in anchors if anchor.subject == child.layout.issuer]
    if len(named) > 1:
        key_identifier = _key_identifier_of_issuer(child)
        named.sort(key=lambda anchor: anchor.key_identifier != key_identifier)
    return named


def _key_identifier_of_issuer(child: _Read) -> bytes | None:
    extension = child.value(x509.AuthorityKeyIdentifier)
    return None if extension is None else extension.key_identifier


def _check_period(
    what: str, not_before: datetime, not_after: datetime, now: datetime, end_is_overlooked: bool = False
) -> None:
    if now < not_before:
        raise CertificateRefused(RefusalKind.NOT_YET_VALID, f"{what} is valid only from {not_before.isoformat()}")
    if now > not_after and not end_is_overlooked:
        raise CertificateRefused(RefusalKind.EXPIRED, f"{what} expired at {not_after.isoformat()}")

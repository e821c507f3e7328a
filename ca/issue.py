"""Issuing: who is named, by which key, under which profile; and a certificate that says exactly that.

The rules:

1. Names and key are given by whoever authenticated the holder. A request's own extensions never come here.
2. The serial number is 128 random bits, given; it is positive, and unique by the store's constraint.
3. The period begins a little before now, since clocks differ, and ends with the profile's length, with what the issuer
   allows, or with the issuer, whichever is first; it never leaves the issuer's period. An issuer that has ended issues
   nothing.
4. A certificate that links two keys of one authority (RFC 4210 4.4) has the period that is given, and nothing else of
   its own.
5. Addresses (revocation list, issuer's certificate, OCSP) are there if the authority has them and the profile names
   them. Where lists are cut into partitions, the serial number says which one is named.
6. What was made is read back and compared with the profile and the plan before anybody gets it.

What is the same for all certificates of one authority and profile is encoded once, in a `Template`.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from hashlib import sha256
from ipaddress import IPv4Address, IPv6Address

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from cryptography.x509.oid import AuthorityInformationAccessOID, NameOID

from ca.encoding import CONTEXT_3, encode_extension, encode_signed, encode_time
from ca.partition import Partition, partitions_of
from ca.signers import Signer, in_turn
from certs.conformance import Conformance
from certs.der import CONTEXT_0, SEQUENCE, encode, encode_integer
from certs.keys import PublicKey, check_public_key
from certs.names import DeviceIdentifier, device_alternative_name, device_subject
from certs.profile import Profile
from certs.signature import verify_signature
from iam.errors import Kind, Refused

SERIAL_BYTES = 16

_VERSION_3 = encode(CONTEXT_0, encode_integer(2))
_KEY_IDENTIFIER_BYTES = 20


@dataclass(frozen=True, slots=True)
class Holder:
    """Who a certificate is for: the names that it will say, and the key that it will bind to them.

    Attributes:
        key_identifier: The subject key identifier that the key has already; None gives it one.
    """

    subject: x509.Name
    alternative_names: tuple[x509.GeneralName, ...]
    spki_der: bytes
    key_identifier: bytes | None = None

    @property
    def spki_sha256(self) -> bytes:
        """The key's fingerprint."""
        return sha256(self.spki_der).digest()


def device(identifier: DeviceIdentifier, spki_der: bytes) -> Holder:
    """Return the holder of a device's own certificate."""
    return Holder(device_subject(identifier), device_alternative_name(identifier), spki_der)


def device_to_be(identifier: DeviceIdentifier, spki_der: bytes) -> Holder:
    """Return the holder of a bootstrap certificate: named, and not yet with the URI of a device."""
    return Holder(device_subject(identifier), (), spki_der)


def host(names: Sequence[str], addresses: Sequence[IPv4Address | IPv6Address], spki_der: bytes) -> Holder:
    """Return the holder of a server's certificate; its subject is empty, as all its names are alternative names."""
    alternative_names = (*map(x509.DNSName, names), *map(x509.IPAddress, addresses))
    return Holder(x509.Name([]), alternative_names, spki_der)


def responder(common_name: str, spki_der: bytes) -> Holder:
    """Return the holder of the certificate by which somebody answers OCSP for an authority."""
    return Holder(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common_name)]), (), spki_der)


def authority(common_name: str, spki_der: bytes) -> Holder:
    """Return the holder of an authority's certificate."""
    return Holder(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common_name)]), (), spki_der)


@dataclass(frozen=True, slots=True)
class Addresses:
    """Where others find what is published of an authority, as URLs.

    Attributes:
        revocation_list: Its whole list.
        responder: Who answers OCSP for it.
        partitions: Into how many partitions its lists are cut, for certificates issued from now on.
    """

    revocation_list: str
    certificate: str
    responder: str
    partitions: int = 1


@dataclass(frozen=True, slots=True)
class Issued:
    """A certificate that was made and agrees with its profile.

    Attributes:
        serial: 16 bytes, big-endian.
        subject: The subject as RFC 4514 writes it, for people.
    """

    der: bytes
    serial: bytes
    not_before: datetime
    not_after: datetime
    profile: str
    subject: str
    spki_sha256: bytes


class Template:
    """Certificates of one profile by one issuer.

    Args:
        issuer: The issuer's certificate; None for one that signs itself.
        signer: The issuer's key.
        longest: How long certificates of the issuer last, or until when, at the most; None: as the profile says.
    """

    def __init__(
        self,
        profile: Profile,
        issuer: x509.Certificate | None,
        signer: Signer,
        addresses: Addresses | None,
        *,
        longest: timedelta | datetime | None = None,
    ) -> None:
        self._profile = profile
        self._longest = longest
        self._issuer = issuer
        self._signer = signer
        self._conformance = Conformance(profile, issuer)
        self._issuer_name = issuer.subject.public_bytes() if issuer is not None else None
        self._same_extensions = b"".join(_same_extensions(profile, issuer, addresses))
        self._distribution_points: tuple[bytes, ...] = ()
        if addresses is not None and profile.crl_distribution_points:
            whole, count = addresses.revocation_list, addresses.partitions
            self._distribution_points = tuple(
                _distribution_point(each.address(whole)) for each in partitions_of((count,))
            )

    def issue(self, holder: Holder, now: datetime, serial: bytes) -> Issued:
        """Make the certificate of `holder`.

        Raises:
            Refused: (unavailable) The issuer's own period does not include now.
            CertificateRefused: (policy) The names or the key are not what the profile takes.
        """
        return self._make(holder, self._period(now), serial, is_link=False)

    async def issue_in_turn(self, holder: Holder, now: datetime, serial: bytes) -> Issued:
        """Do as `issue` does, in a coroutine: the event loop does not wait for the issuer's key."""
        return await in_turn([self._signer], self.issue, holder, now, serial)

    def issue_link(self, holder: Holder, period: tuple[datetime, datetime], serial: bytes) -> Issued:
        """Make the certificate that says that `holder`, an earlier or later key of the issuer, is the same authority.

        Raises:
            CertificateRefused: (policy) The key is not what the profile takes.
        """
        return self._make(holder, period, serial, is_link=True)

    def _make(self, holder: Holder, period: tuple[datetime, datetime], serial: bytes, *, is_link: bool) -> Issued:
        not_before, not_after = period
        subject = holder.subject.public_bytes()
        to_be_signed = encode(
            SEQUENCE,
            _VERSION_3,
            encode_integer(int.from_bytes(serial)),
            self._signer.algorithm,
            self._issuer_name or subject,
            encode(SEQUENCE, encode_time(not_before), encode_time(not_after)),
            subject,
            holder.spki_der,
            encode(CONTEXT_3, encode(SEQUENCE, self._same_extensions, self._own_extensions(holder, serial))),
        )
        der = encode_signed(to_be_signed, self._signer.algorithm, self._signer.sign(to_be_signed))
        certificate = x509.load_der_x509_certificate(der)
        self._conformance.check(
            certificate,
            subject=holder.subject,
            subject_alternative_name=holder.alternative_names,
            is_link=is_link,
        )
        if self._profile.is_authority:  # a faulty signature here would be found only when others depend on it
            check_public_key(certificate.public_key(), self._profile.key_policy)
            verify_signature(certificate, self._signer.public_key)
        return Issued(
            der=der,
            serial=serial,
            not_before=not_before,
            not_after=not_after,
            profile=self._profile.name,
            subject=holder.subject.rfc4514_string(),
            spki_sha256=holder.spki_sha256,
        )

    def _period(self, now: datetime) -> tuple[datetime, datetime]:
        begin = (now - self._profile.backdate).replace(microsecond=0)
        end = self._end(now).replace(microsecond=0)
        if self._issuer is None:
            return begin, end
        if not self._issuer.not_valid_before_utc <= now < self._issuer.not_valid_after_utc:
            raise Refused(
                Kind.UNAVAILABLE,
                "The authority cannot issue now.",
                reason=f"the period of {self._issuer.subject.rfc4514_string()} does not include {now.isoformat()}",
            )
        if end <= now:
            ended = f"what {self._issuer.subject.rfc4514_string()} issues ends at {end.isoformat()} at the latest"
            raise Refused(Kind.UNAVAILABLE, "The authority issues nothing any more.", reason=ended)
        return max(begin, self._issuer.not_valid_before_utc), min(end, self._issuer.not_valid_after_utc)

    def _end(self, now: datetime) -> datetime:
        end = self._profile.end(now)
        if self._longest is None:
            return end
        return min(end, now + self._longest if isinstance(self._longest, timedelta) else self._longest)

    def _own_extensions(self, holder: Holder, serial: bytes) -> bytes:
        own = b""
        if self._distribution_points:
            own += self._distribution_points[Partition.of_serial(serial, len(self._distribution_points)).index]
        if holder.alternative_names:
            # RFC 5280 4.2.1.6: critical if and only if the subject is empty
            names = x509.SubjectAlternativeName(holder.alternative_names)
            own += encode_extension(names, critical=not holder.subject.rdns)
        if self._profile.subject_key_identifier:
            own += encode_extension(x509.SubjectKeyIdentifier(key_identifier(holder)), critical=False)
        return own


def key_identifier(holder: Holder) -> bytes:
    """Return the subject key identifier: RFC 7093 2, method 4, cut to the length that all software takes.

    A key that has one keeps it, since what it signed points there.
    """
    return holder.key_identifier or holder.spki_sha256[:_KEY_IDENTIFIER_BYTES]


def encoded_key(key: PublicKey) -> bytes:
    """Return a key's SubjectPublicKeyInfo in DER."""
    return key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)


def issuer_key_identifier(issuer: x509.Certificate) -> x509.AuthorityKeyIdentifier:
    """Return the extension that points from what an authority signs to its key (RFC 5280 4.2.1.1)."""
    identifier = issuer.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value
    return x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(identifier)


def _same_extensions(profile: Profile, issuer: x509.Certificate | None, addresses: Addresses | None) -> list[bytes]:
    same = [
        encode_extension(profile.basic_constraints, critical=True),
        encode_extension(profile.key_usage, critical=True),
    ]
    if profile.extended_key_usage is not None:
        same.append(encode_extension(profile.extended_key_usage, critical=False))
    if profile.certificate_policies is not None:
        same.append(encode_extension(profile.certificate_policies, critical=False))
    if profile.authority_key_identifier and issuer is not None:
        same.append(encode_extension(issuer_key_identifier(issuer), critical=False))
    if profile.ocsp_no_check:
        same.append(encode_extension(x509.OCSPNoCheck(), critical=False))
    if addresses is not None and profile.authority_information_access:
        named = [(AuthorityInformationAccessOID.OCSP, addresses.responder)] if profile.ocsp else []
        named.append((AuthorityInformationAccessOID.CA_ISSUERS, addresses.certificate))
        access = [x509.AccessDescription(method, x509.UniformResourceIdentifier(url)) for method, url in named]
        same.append(encode_extension(x509.AuthorityInformationAccess(access), critical=False))
    return same


def _distribution_point(url: str) -> bytes:
    point = x509.DistributionPoint([x509.UniformResourceIdentifier(url)], None, None, None)
    return encode_extension(x509.CRLDistributionPoints([point]), critical=False)

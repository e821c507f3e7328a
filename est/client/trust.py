"""Whom the client believes.

1. Trust is explicit (RFC 7030 3.6.1, 4.1.1): a bundle of authorities' certificates, or the SHA-256 fingerprint of the
   root, by which the root is recognised in the server's own answer and from then on the only one that is trusted.
   The system's trust store plays no part.
2. A server is called what its certificate's subject alternative name says: a DNS name, whose first label may be `*`
   and then stands for one label (RFC 9525 6.3), or exactly the IP address (6.5). Its common name is not looked at.
3. Where no library judges a server's chain it is done here, by `certs.chain`: up to one of the roots, at the given
   time, for serverAuth.
4. The successor of a root is believed on the word of a server that the present root vouches for (RFC 7030 4.1.3), and
   only if it is self-signed; what is trusted stays so until it ends.
"""

from collections.abc import Iterable, Sequence
from datetime import datetime
from hashlib import sha256
from ipaddress import IPv4Address, IPv6Address, ip_address

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.serialization import Encoding

from certs.chain import Anchor, Purpose, validate_chain
from certs.errors import UNREADABLE, CertificateRefused, RefusalKind
from est.client.failure import EstFailure, Failure

_FINGERPRINT_DIGITS = 64
_REFUSALS = {
    RefusalKind.CHAIN_UNTRUSTED: "its certificate was not issued by an authority that is trusted here",
    RefusalKind.SIGNATURE: "its certificate was not issued by an authority that is trusted here",
    RefusalKind.NOT_YET_VALID: "its certificate is not valid yet; look at this device's clock",
    RefusalKind.EXPIRED: "its certificate has expired; look at this device's clock",
    RefusalKind.EKU: "its certificate is not for servers",
}


def read_fingerprint(text: str) -> bytes:
    """Read a SHA-256 fingerprint in hexadecimal, with or without colons; raise `ValueError`."""
    digits = text.replace(":", "").strip().lower()
    if len(digits) != _FINGERPRINT_DIGITS:
        raise ValueError("a SHA-256 fingerprint has 64 hexadecimal digits")
    return bytes.fromhex(digits)


def recognised_root(found: Iterable[x509.Certificate], fingerprint: bytes) -> x509.Certificate:
    """Return the one of these certificates that is the root of that fingerprint, by rule 1; raise `EstFailure`."""
    for one in found:
        if sha256(one.public_bytes(Encoding.DER)).digest() == fingerprint:
            if not is_root(one):
                raise EstFailure(Failure.UNTRUSTED, "the certificate of that fingerprint is not a root")
            return one
    raise EstFailure(Failure.UNTRUSTED, "the server does not know the root of that fingerprint")


def is_root(certificate: x509.Certificate) -> bool:
    """Say whether a certificate is signed by its own key."""
    try:
        certificate.verify_directly_issued_by(certificate)
    except (InvalidSignature, *UNREADABLE):
        return False
    return True


def succeeding_roots(
    trusted: Iterable[x509.Certificate], found: Iterable[x509.Certificate], now: datetime
) -> tuple[x509.Certificate, ...]:
    """Return the roots to trust after a trusted server answered with its authorities, by rule 4; in a stable order."""
    roots = [one for one in found if is_root(one)]
    kept = [one for one in trusted if one.not_valid_after_utc > now] or list(trusted)
    return tuple(dict.fromkeys((*kept, *roots)))


def judge_server(
    host: str, chain: Sequence[bytes], roots: Iterable[x509.Certificate], now: datetime
) -> x509.Certificate:
    """Return a server's certificate, by rules 2 and 3.

    Args:
        chain: What it showed, in DER, its own certificate first.

    Raises:
        EstFailure: (untrusted) It is not trusted.
    """
    try:
        leaf, *others = map(x509.load_der_x509_certificate, chain)
        validate_chain(leaf, others, _anchors(roots), now, purpose=Purpose.SERVER_AUTH)
    except CertificateRefused as refusal:
        words = _REFUSALS.get(refusal.kind, f"its chain is not accepted: {refusal.reason}")
    except UNREADABLE as error:
        words = f"its certificates cannot be read: {error}"
    else:
        if is_called(leaf, host):
            return leaf
        words = f"its certificate is not for {host}"
    raise EstFailure(Failure.UNTRUSTED, f"the server {host} is not trusted: {words}")


def _anchors(roots: Iterable[x509.Certificate]) -> list[Anchor]:
    found = []
    for root in roots:
        try:
            found.append(Anchor.from_certificate(root))
        except CertificateRefused:
            continue  # one that could vouch for nobody takes nothing from the others
    return found


def is_called(certificate: x509.Certificate, host: str) -> bool:
    """Say whether a server's certificate is for this host, a DNS name or an IP address, by rule 2."""
    try:
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except (x509.ExtensionNotFound, *UNREADABLE):
        return False
    address = _address(host)
    if address is not None:
        return address in names.get_values_for_type(x509.IPAddress)
    return any(_matches(pattern, host) for pattern in names.get_values_for_type(x509.DNSName))


def _matches(pattern: str, host: str) -> bool:
    pattern, host = pattern.lower(), host.lower()
    first, _, rest = pattern.partition(".")
    if first != "*":
        return pattern == host
    return bool(rest) and "*" not in rest and host.partition(".")[2] == rest


def _address(host: str) -> IPv4Address | IPv6Address | None:
    try:
        return ip_address(host)
    except ValueError:
        return None

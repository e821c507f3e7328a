"""Taking in an authority that was made elsewhere: what is looked at before it is believed.

The rules:

1. The certificate is an authority's: it may sign certificates, its key is strong, its period includes now, and it says
   nothing critical that is not understood here (`certs.chain`).
2. It leads to the top: it signs itself, or the chain beside it leads to one that does, or to an authority that is
   trusted here; every signature and every path length on the way holds. Without its key it may also stand alone, pinned
   by its own: it is then trusted for itself, where a label says so.
3. With a key: that is the key in the certificate; the certificate names it by a subject key identifier, which all that
   it signs will point to (RFC 5280 4.2.1.1); and it may sign revocation lists (4.2.1.3), since they are published here.
4. Another certificate of an authority that is here has its name, its key, and the same subject key identifier.
"""

import base64
import binascii
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import datetime
from hashlib import sha256

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.serialization import Encoding, load_pem_private_key

from ca.issue import encoded_key
from ca.signing import PrivateKey
from certs.chain import Anchor, check_pinned, check_self_signed, validate_authority
from certs.der import read_certificate_layout
from certs.errors import CertificateRefused
from certs.keys import AUTHORITY_KEYS, PublicKey, check_key_encoding, check_public_key, read_public_key
from certs.pem import read_certificates
from iam.errors import Kind, Refused, malformed

_PEM = "-----BEGIN "


@dataclass(frozen=True, slots=True)
class Taken:
    """An authority that may be taken in.

    Attributes:
        anchor: Where its chain ends; None where it stands alone.
        above: The certificates above it and below the anchor, the next one first; with the anchor's own where that is
            not an authority of ours.
    """

    certificate: x509.Certificate
    public_key: PublicKey
    anchor: Anchor | None
    above: tuple[x509.Certificate, ...]

    @property
    def spki_sha256(self) -> bytes:
        """The fingerprint of its key."""
        return sha256(encoded_key(self.public_key)).digest()


def read_pem(text: str, what: str) -> bytes:
    """Return PEM that came as it is, or in base64 as Lamassu sends it; raise `Refused` (malformed)."""
    if _PEM in text:
        return text.encode()
    try:
        plain = base64.b64decode("".join(text.split()), validate=True)
    except (binascii.Error, ValueError) as error:
        raise malformed(f"The {what} is neither PEM nor PEM in base64.") from error
    if _PEM.encode() not in plain:
        raise malformed(f"The {what} is neither PEM nor PEM in base64.")
    return plain


def read_one_certificate(text: str, what: str) -> x509.Certificate:
    """Return the one certificate of a text; raise `Refused` (malformed)."""
    try:
        found = read_certificates(read_pem(text, what))
    except CertificateRefused as refusal:
        raise malformed(f"The {what} cannot be read: {refusal.reason}.") from refusal
    if len(found) != 1:
        raise malformed(f"The {what} is one certificate.")
    return found[0]


def read_private_key(text: str) -> PrivateKey:
    """Return a private key without password (PKCS #8, SEC 1 or PKCS #1); raise `Refused` (malformed)."""
    try:
        key = load_pem_private_key(read_pem(text, "private key"), password=None)
    except TypeError as error:
        raise malformed("The private key has a password: take it off first.") from error
    except (ValueError, UnsupportedAlgorithm) as error:
        raise malformed("The private key cannot be read.") from error
    if not isinstance(key, PrivateKey):
        raise malformed("A private key of this kind signs nothing here.")
    return key


def check_authority(
    certificate: x509.Certificate,
    chain: Sequence[x509.Certificate],
    trusted: Collection[Anchor],
    now: datetime,
    *,
    may_stand_alone: bool,
) -> Taken:
    """Check an authority by rules 1 and 2; `trusted` are ours. Raise `Refused` (invalid) with what is wrong."""
    try:
        return _check_authority(certificate, chain, trusted, now, may_stand_alone=may_stand_alone)
    except CertificateRefused as refusal:
        raise Refused(Kind.INVALID, f"The certificate cannot be taken in: {refusal.reason}.") from refusal


def _check_authority(
    certificate: x509.Certificate,
    chain: Sequence[x509.Certificate],
    trusted: Collection[Anchor],
    now: datetime,
    *,
    may_stand_alone: bool,
) -> Taken:
    public_key = check_public_key(read_public_key(certificate), AUTHORITY_KEYS)
    layout = read_certificate_layout(certificate.public_bytes(Encoding.DER))
    check_key_encoding(public_key, layout.subject_public_key_info)  # another encoding would be another fingerprint
    if certificate.subject == certificate.issuer:
        if any(one != certificate for one in chain):
            raise Refused(Kind.INVALID, "An authority that signs itself has nothing above it.")
        return Taken(certificate, public_key, check_self_signed(certificate, now), ())
    tops = [check_self_signed(one, now) for one in chain if one.subject == one.issuer]
    anchors = (*trusted, *tops)
    if may_stand_alone and not chain and all(one.certificate.subject != certificate.issuer for one in anchors):
        check_pinned(certificate, now)
        return Taken(certificate, public_key, None, ())
    found = validate_authority(certificate, chain, anchors, now)
    is_ours = found.anchor in trusted
    above = found.path if is_ours else (*found.path, found.anchor.certificate)
    return Taken(certificate, public_key, found.anchor, above)


def check_key_pair(taken: Taken, private_key: PublicKey) -> None:
    """Check an authority's key by rule 3, given its public half; raise `Refused` (invalid) with what is wrong."""
    if encoded_key(private_key) != encoded_key(taken.public_key):
        raise Refused(Kind.INVALID, "The private key is not the key in the certificate.")
    extensions = taken.certificate.extensions
    try:
        extensions.get_extension_for_class(x509.SubjectKeyIdentifier)
        usage = extensions.get_extension_for_class(x509.KeyUsage).value
    except x509.ExtensionNotFound as error:
        raise Refused(
            Kind.INVALID, "To sign here, the certificate needs a subject key identifier and a key usage."
        ) from error
    if not usage.crl_sign:
        raise Refused(Kind.INVALID, "The certificate may sign no revocation lists: its key usage lacks cRLSign.")


def check_same_authority(taken: Taken, known: x509.Certificate) -> None:
    """Check that a certificate is another one of the same authority (`known`), by rule 4; raise `Refused` (invalid)."""
    if Anchor.from_certificate(taken.certificate) != Anchor.from_certificate(known):
        raise Refused(Kind.INVALID, "The certificate is not for the name and the key of the authority.")
    if _key_identifier(taken.certificate) != _key_identifier(known):
        raise Refused(
            Kind.INVALID, "What the authority signed points to another key identifier than the certificate has."
        )


def _key_identifier(certificate: x509.Certificate) -> bytes | None:
    try:
        return certificate.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value.digest
    except x509.ExtensionNotFound:
        return None


def in_der(certificates: Sequence[x509.Certificate]) -> tuple[bytes, ...]:
    """Return certificates in DER."""
    return tuple(one.public_bytes(Encoding.DER) for one in certificates)

"""How the sender of a request wants a private key encrypted that is made for him (RFC 7030 4.4.1).

1. He names a secret (DecryptKeyIdentifier, RFC 4108 2.2.5) or a public key (AsymmetricDecryptKeyIdentifier, RFC 7030
   4.4.1.2), not both; either is an OCTET STRING. Naming none, he wants the key as it is, within TLS.
2. Naming one, he says what he understands (SMIMECapabilities, RFC 8551 2.5.2); what he does not list is not used.
3. The content is encrypted by AES-CBC if he lists one, since EnvelopedData is what RFC 7030 4.4.2 gives him; by AES-GCM
   if he lists that alone; by AES-256-CBC if he lists no cipher, as RFC 7030 asks for the keys' algorithms only.
4. A content key is wrapped by the AES key wrap of the secret's length. It is encrypted to an RSA key by OAEP, or else
   by PKCS #1 v1.5. For a key on a curve, it is wrapped under what a scheme of RFC 5753 agrees on; where he lists a key
   wrap and no scheme, the scheme has the hash that fits the curve.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePublicKey
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey

from certs import cms_algorithms
from certs.cms import KeyAgreed, KeyTransport, Recipient, SharedSecret
from certs.cms_algorithms import RSA_ENCRYPTION, RSAES_OAEP, ContentCipher, KeyAgreement, KeyWrap
from certs.der import OBJECT_IDENTIFIER, OCTET_STRING, SEQUENCE, Element
from certs.errors import CertificateRefused, RefusalKind

DECRYPT_KEY_IDENTIFIER: Final = x509.ObjectIdentifier(cms_algorithms.DECRYPT_KEY_IDENTIFIER)
ASYMMETRIC_DECRYPT_KEY_IDENTIFIER: Final = x509.ObjectIdentifier(cms_algorithms.ASYMMETRIC_DECRYPT_KEY_IDENTIFIER)
SMIME_CAPABILITIES: Final = x509.ObjectIdentifier(cms_algorithms.SMIME_CAPABILITIES)

KEY_IDENTIFIER_MAXIMUM_BYTES: Final = 64
_CAPABILITIES_MAXIMUM: Final = 64
_AGREEMENT_OF_CURVE: Final = {
    "secp256r1": KeyAgreement.SHA256,
    "secp384r1": KeyAgreement.SHA384,
    "secp521r1": KeyAgreement.SHA512,
}
_CIPHERS_ARC: Final = "2.16.840.1.101.3.4.1."  # AES, in all its modes
_WRAP_OIDS: Final = frozenset(one.oid for one in KeyWrap)
_CBC_FIRST: Final = sorted(ContentCipher, key=lambda cipher: cipher.is_authenticated)


@dataclass(frozen=True, slots=True)
class Capability:
    """One algorithm that is understood, and the key wrap that it comes with, if it names one."""

    oid: str
    wrap: str | None


@dataclass(frozen=True, slots=True)
class WantedProtection:
    """A secret or a public key that the private key is to be encrypted under, and what the sender understands."""

    identifier: bytes
    is_asymmetric: bool
    capabilities: tuple[Capability, ...]

    def cipher(self) -> ContentCipher:
        """Return what encrypts the content, by rule 3; raise `CertificateRefused` (POLICY) if nothing is common."""
        listed = {one.oid for one in self.capabilities}
        for one in _CBC_FIRST:
            if one.oid in listed:
                return one
        if any(oid.startswith(_CIPHERS_ARC) and oid not in _WRAP_OIDS for oid in listed):
            raise _nothing_common("content ciphers")
        return ContentCipher.AES_256_CBC

    def to_secret(self, secret: bytes) -> Recipient:
        """Return the recipient who knows `secret`, by rule 4; raise `CertificateRefused` (POLICY) as above."""
        recipient = SharedSecret(self.identifier, secret)
        if recipient.wrap not in self._wraps():
            raise _nothing_common("key wraps")
        return recipient

    def to_certificate(self, certificate: x509.Certificate) -> Recipient:
        """Return the recipient who has the certificate's key, by rule 4; raise `CertificateRefused` as above."""
        key = certificate.public_key()
        listed = {one.oid for one in self.capabilities}
        match key:
            case RSAPublicKey() if listed & {RSAES_OAEP, RSA_ENCRYPTION}:
                return KeyTransport(certificate, self.identifier, RSAES_OAEP in listed)
            case EllipticCurvePublicKey() if key.curve.name in _AGREEMENT_OF_CURVE:
                wraps = self._wraps()
                agreements = [one for one in KeyAgreement if one.oid in listed]
                if wraps:
                    agreement = agreements[-1] if agreements else _AGREEMENT_OF_CURVE[key.curve.name]
                    return KeyAgreed(certificate, self.identifier, agreement, wraps[0])
            case _:
                pass
        raise _nothing_common("ways to encrypt to this key")

    def _wraps(self) -> list[KeyWrap]:
        listed = {one.oid for one in self.capabilities} | {one.wrap for one in self.capabilities}
        return [one for one in KeyWrap if one.oid in listed]


def read_wanted_protection(
    attributes: Sequence[tuple[x509.ObjectIdentifier, tuple[Element, ...]]],
) -> WantedProtection | None:
    """Read from a request's attributes how its sender wants the key; None if he wants it as it is.

    Raises:
        CertificateRefused: MALFORMED.
    """
    named = [
        (kind == ASYMMETRIC_DECRYPT_KEY_IDENTIFIER, values)
        for kind, values in attributes
        if kind in {DECRYPT_KEY_IDENTIFIER, ASYMMETRIC_DECRYPT_KEY_IDENTIFIER}
    ]
    if not named:
        return None
    if len(named) > 1:
        raise _malformed("the request names more than one key to encrypt the private key under")
    ((is_asymmetric, values),) = named
    identifier = _one_value(values, "key identifier").value(OCTET_STRING)
    if not 0 < len(identifier) <= KEY_IDENTIFIER_MAXIMUM_BYTES:
        raise _malformed(f"a key identifier has 1 to {KEY_IDENTIFIER_MAXIMUM_BYTES} bytes")
    listed = [values for kind, values in attributes if kind == SMIME_CAPABILITIES]
    if len(listed) != 1:
        raise _malformed("a request that names a key identifier has one SMIMECapabilities beside it")
    held = _one_value(listed[0], "SMIMECapabilities").holds(SEQUENCE)
    if len(held) > _CAPABILITIES_MAXIMUM:
        raise _malformed(f"the request lists more than {_CAPABILITIES_MAXIMUM} capabilities")
    return WantedProtection(identifier, is_asymmetric, tuple(map(_capability, held)))


def _capability(element: Element) -> Capability:
    match element.holds(SEQUENCE):
        case (kind,):
            return Capability(kind.object_identifier().dotted_string, None)
        case (kind, parameters):
            nested = parameters.holds(SEQUENCE) if parameters.tag == SEQUENCE else ()
            wrap = (
                nested[0].object_identifier().dotted_string if nested and nested[0].tag == OBJECT_IDENTIFIER else None
            )
            return Capability(kind.object_identifier().dotted_string, wrap)
        case _:
            raise _malformed("a capability is not an algorithm with its parameters")


def _one_value(values: Sequence[Element], what: str) -> Element:
    if len(values) != 1:
        raise _malformed(f"there are {len(values)} values of what has one: {what}")
    return values[0]


def _malformed(reason: str) -> CertificateRefused:
    return CertificateRefused(RefusalKind.MALFORMED, reason)


def _nothing_common(what: str) -> CertificateRefused:
    return CertificateRefused(RefusalKind.POLICY, f"of the {what} that the request lists, none is offered here")

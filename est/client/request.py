"""Certification requests: what a device asks for, put together for the connection on which it asks.

1. A request names the device twice: by its one common name and by the URI `urn:doorward:device:<identifier>`. Renewing
   asks for the names of the certificate that is renewed, exactly as they stand there (RFC 7030 4.2.2).
2. A proof of possession is the connection's own secret, in base64 (RFC 4648 4), as the challengePassword (RFC 7030
   3.5): so a request that proves is signed anew for each connection, by the same key.
3. The request is put together by hand on `certs.der`, so that whatever can sign may hold the key.
"""

from base64 import b64encode
from dataclasses import dataclass, replace

from cryptography import x509

from certs.csrattrs import WantedExtension
from certs.der import (
    BIT_STRING,
    CONTEXT_0,
    INTEGER,
    OBJECT_IDENTIFIER,
    OCTET_STRING,
    SEQUENCE,
    SET,
    TRUE,
    UTF8_STRING,
    encode,
    encode_object_identifier,
)
from certs.names import alternative_name, device_alternative_name, device_identifier, device_subject
from est.client.keys import PrivateKey, Signer, SoftwareSigner

_CHALLENGE_PASSWORD = encode(OBJECT_IDENTIFIER, bytes.fromhex("2a864886f70d010907"))  # RFC 2985 5.4.1
_EXTENSION_REQUEST = encode(OBJECT_IDENTIFIER, bytes.fromhex("2a864886f70d01090e"))  # RFC 2985 5.4.2


@dataclass(frozen=True, slots=True)
class Attribute:
    """A further attribute of a request: its type, and its one value, each in DER."""

    type: bytes
    value: bytes


@dataclass(frozen=True, slots=True)
class RequestTemplate:
    """A request that is not signed yet.

    Attributes:
        extensions: What is asked for, the alternative names among it; each with a value.
        attributes: What else the request says, in DER.
        proves_possession: Whether it is bound to the connection, by rule 2.
    """

    signer: Signer
    subject: x509.Name
    extensions: tuple[WantedExtension, ...] = ()
    attributes: tuple[Attribute, ...] = ()
    proves_possession: bool = False

    def proving(self) -> "RequestTemplate":
        """Return the same request, bound to the connection on which it is sent."""
        return replace(self, proves_possession=True)

    def sign(self, channel_binding: bytes | None = None) -> bytes:
        """Return the request in DER (RFC 2986 4).

        Args:
            channel_binding: What only the two ends of the connection know; needed if the request proves possession.
        """
        information = self._information(channel_binding)
        signature = encode(BIT_STRING, b"\0", self.signer.sign(information))
        return encode(SEQUENCE, information, self.signer.algorithm, signature)

    def is_signed_as(self, request: bytes) -> bool:
        """Say whether a signed request asks for just this, bound to no connection."""
        try:
            return x509.load_der_x509_csr(request).tbs_certrequest_bytes == self._information(None)
        except ValueError:
            return False

    def _information(self, channel_binding: bytes | None) -> bytes:
        """Return what is signed: the CertificationRequestInfo (RFC 2986 4.1)."""
        attributes = list(self.attributes)
        if self.extensions:
            attributes.append(Attribute(_EXTENSION_REQUEST, encode(SEQUENCE, *map(_extension, self.extensions))))
        if self.proves_possession:
            if channel_binding is None:
                raise ValueError("a proof of possession needs a connection")
            password = encode(UTF8_STRING, b64encode(channel_binding))
            attributes.append(Attribute(_CHALLENGE_PASSWORD, password))
        # X.690 11.6: a SET OF is in ascending order of its encodings.
        encoded = sorted(encode(SEQUENCE, one.type, encode(SET, one.value)) for one in attributes)
        name = self.subject.public_bytes()
        return encode(SEQUENCE, encode(INTEGER, b"\0"), name, self.signer.spki, encode(CONTEXT_0, *encoded))


def enrolment_request(key: PrivateKey | Signer, identifier: str) -> RequestTemplate:
    """Return the request for a device's first certificate, or for a successor of one of ours.

    Raises:
        CertificateRefused: It is no device identifier.
    """
    checked = device_identifier(identifier)
    return RequestTemplate(_signer(key), device_subject(checked), _alternative_names(device_alternative_name(checked)))


def renewal_request(key: PrivateKey | Signer, certificate: x509.Certificate) -> RequestTemplate:
    """Return the request for the successor of any certificate, with its names exactly.

    Raises:
        CertificateRefused: The certificate's extensions cannot be read.
    """
    return RequestTemplate(_signer(key), certificate.subject, _alternative_names(alternative_name(certificate)))


def make_request(key: PrivateKey | Signer, identifier: str) -> bytes:
    """Return a signed request for the certificate of a device, in DER: for enrolling as for renewing.

    Raises:
        CertificateRefused: It is no device identifier.
    """
    return enrolment_request(key, identifier).sign()


def _signer(key: PrivateKey | Signer) -> Signer:
    if isinstance(key, PrivateKey):
        return SoftwareSigner(key)
    return key


def _alternative_names(names: tuple[x509.GeneralName, ...]) -> tuple[WantedExtension, ...]:
    extension = x509.SubjectAlternativeName(names)
    return (WantedExtension(extension.oid, extension.public_bytes()),) if names else ()


def _extension(one: WantedExtension) -> bytes:
    """Return an Extension (RFC 5280 4.1) in DER."""
    kind = encode_object_identifier(one.oid.dotted_string)
    return encode(SEQUENCE, kind, TRUE if one.critical else b"", encode(OCTET_STRING, one.value or b""))

"""Client certificates that a proxy passes on: `Client-Cert` of RFC 9440, and Envoy's `x-forwarded-client-cert`.

The rules:

1. They count only from a proxy that itself proved a key which the configuration or the label pins, by a certificate
   that holds now. From anybody else they are ignored, never believed, and the log says so. A pin names the spelling
   that the proxy owns, and so takes out of what clients send: one that comes in the other was a client's, and the
   request is refused.
2. Behind such a proxy its own certificate is nobody's credential: who came without one has none.
3. `Client-Cert` is one structured field item, a byte sequence (RFC 9440 2.2; RFC 8941 3.3.5), in one field line;
   `Client-Cert-Chain` is a list of them. Neither has parameters here. Base64 is canonical.
4. Of `x-forwarded-client-cert` the last element counts, which the proxy itself has added; its `Cert` is the
   certificate, its `Chain` the chain with the certificate, in PEM and percent-encoded.
5. A proxy that is pinned for both must say the same. What cannot be read is refused: guessing would let somebody else
   in.
6. At most `LONGEST_CHAIN` certificates, each of at most `LARGEST_CERTIFICATE` bytes, in at most `LARGEST_FIELDS`.
"""

import binascii
import logging
import re
from base64 import b64decode, b64encode
from collections.abc import Mapping, Sequence
from datetime import datetime
from hashlib import sha256
from typing import Final
from urllib.parse import unquote_to_bytes

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from certs.errors import CertificateRefused
from certs.pem import read_certificate, read_certificates
from est.authentication.asking import CLIENT_CERT, CLIENT_CERT_CHAIN, FORWARDED_CLIENT_CERT, Evidence
from est.refusals import Refusal, Refuse

LONGEST_CHAIN: Final = 8
LARGEST_CERTIFICATE: Final = 16 * 1024
LARGEST_FIELDS: Final = 64 * 1024

_BYTE_SEQUENCE: Final = re.compile(r":([A-Za-z0-9+/]*={0,2}):")
_PAIR: Final = re.compile(r'([A-Za-z]+)=(?:"((?:[^"\\]|\\.)*)"|([^",;]*))')
_PERCENT_ENCODED: Final = re.compile(r"(?:[A-Za-z0-9_.~*+/=:()!'$-]|%[0-9A-Fa-f]{2})*")

OWNED: Final[Mapping[str, frozenset[str]]] = {
    "client-cert": frozenset({CLIENT_CERT, CLIENT_CERT_CHAIN}),
    "xfcc": frozenset({FORWARDED_CLIENT_CERT}),
}
"""The headers of each spelling, by what pins call it."""

_log = logging.getLogger("est.authentication")


class _Unreadable(Exception):
    """A field that breaks rules 3 to 6, and how."""


def headers_owned(
    connection: Sequence[bytes], evidence: Evidence, pins: frozenset[str], now: datetime
) -> frozenset[str]:
    """Return the headers in which the peer may pass certificates on; if it tries and has none, say so in the log.

    Args:
        connection: What was presented in TLS, in DER, leaf first.
        pins: Each proxy that is trusted, as `PROXY_PIN` says.
    """
    owned = _owned(connection, pins, now)
    if isinstance(owned, frozenset):
        return owned
    if evidence.forwarded:
        _log.warning("%s from %s ignored: %s", ", ".join(sorted(evidence.forwarded)), evidence.address, owned)
    return frozenset()


def passed_on_chain(evidence: Evidence, owned: frozenset[str]) -> Sequence[bytes] | Refuse:
    """Return the certificates that a trusted proxy passes on, leaf first; none if it passes none on (rule 2).

    Args:
        owned: The headers that the proxy owns.
    """
    if others := evidence.forwarded.keys() - owned:
        return Refuse(Refusal.FORWARDED_OTHERWISE, f"{', '.join(sorted(others))} from {evidence.address}")
    try:
        return _passed_on(evidence)
    except (_Unreadable, CertificateRefused) as error:
        return Refuse(Refusal.FORWARDED_MALFORMED, str(error))


def _owned(connection: Sequence[bytes], pins: frozenset[str], now: datetime) -> frozenset[str] | str:
    """Return the headers that the peer owns, or why it is no trusted proxy (rule 1)."""
    if not connection:
        return "the peer has no certificate"
    if not pins:
        return "no proxy is trusted here"
    try:
        proxy = read_certificate(connection[0])
    except CertificateRefused as refusal:
        return f"its certificate cannot be read: {refusal.reason}"
    key = spki_sha256(proxy).hex()
    owned = [headers for spelling, headers in OWNED.items() if f"{spelling}:{key}" in pins]
    if not owned:
        return "its key is not pinned"
    if not proxy.not_valid_before_utc <= now <= proxy.not_valid_after_utc:
        return "its certificate does not hold now"
    return frozenset().union(*owned)


def spki_sha256(certificate: x509.Certificate) -> bytes:
    """Return the SHA-256 of a certificate's SubjectPublicKeyInfo."""
    return sha256(certificate.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)).digest()


def _passed_on(evidence: Evidence) -> Sequence[bytes]:
    fields = evidence.forwarded
    if sum(len(value) for values in fields.values() for value in values) > LARGEST_FIELDS:
        raise _Unreadable(f"the fields have more than {LARGEST_FIELDS} characters")
    standard = _client_cert(fields.get(CLIENT_CERT, ()), fields.get(CLIENT_CERT_CHAIN, ()))
    envoy = _x_forwarded_client_cert(fields.get(FORWARDED_CLIENT_CERT, ()))
    if standard and envoy and standard[0] != envoy[0]:
        raise _Unreadable("Client-Cert and x-forwarded-client-cert hold different certificates")
    chain = standard or envoy
    if len(chain) > LONGEST_CHAIN or any(len(der) > LARGEST_CERTIFICATE for der in chain):
        raise _Unreadable(f"more than {LONGEST_CHAIN} certificates, or one of more than {LARGEST_CERTIFICATE} bytes")
    return chain


def _client_cert(leaf: Sequence[str], chain: Sequence[str]) -> tuple[bytes, ...]:
    if len(leaf) > 1:
        raise _Unreadable("Client-Cert stands there more than once")
    if not leaf:
        if chain:
            raise _Unreadable("Client-Cert-Chain without Client-Cert")  # RFC 9440 2.3: it goes with the other
        return ()
    # RFC 8941 4.2: the lines of a list are one list.
    members = ",".join(chain).split(",") if chain else []
    return (_byte_sequence(leaf[0]), *map(_byte_sequence, members))


def _byte_sequence(text: str) -> bytes:
    found = _BYTE_SEQUENCE.fullmatch(text.strip(" \t"))
    if found is None:
        raise _Unreadable("not a byte sequence of RFC 8941 without parameters")
    try:
        value = b64decode(found[1], validate=True)
    except binascii.Error as error:
        raise _Unreadable("a byte sequence is not base64") from error
    if b64encode(value).decode() != found[1] or not value:
        raise _Unreadable("a byte sequence is empty or not canonical base64")
    return value


def _x_forwarded_client_cert(lines: Sequence[str]) -> tuple[bytes, ...]:
    elements = [element for line in lines for element in _elements(line)]
    if not elements:
        return ()
    last = elements[-1]
    if "cert" not in last and "chain" not in last:
        raise _Unreadable("the last element of x-forwarded-client-cert has neither Cert nor Chain")
    leaf = _from_percent_encoded(last["cert"]) if "cert" in last else ()
    chain = _from_percent_encoded(last["chain"]) if "chain" in last else leaf
    if len(leaf) > 1 or (leaf and chain[0] != leaf[0]):
        raise _Unreadable("Cert is not the one certificate that Chain begins with")
    return chain


def _elements(line: str) -> list[dict[str, str]]:
    """Take a field line apart: elements by commas, pairs by semicolons, values perhaps in quotes."""
    found: list[dict[str, str]] = [{}]
    position = 0
    while position < len(line):
        pair = _PAIR.match(line, position)
        if pair is None:
            raise _Unreadable("x-forwarded-client-cert is not made of key=value pairs")
        key = pair[1].lower()
        if key in found[-1] and key in ("cert", "chain"):
            raise _Unreadable(f"an element of x-forwarded-client-cert has two of {key}")
        found[-1][key] = pair[3] if pair[2] is None else pair[2]
        position = pair.end()
        if position == len(line):
            break
        if line[position] not in ",;" or position + 1 == len(line):
            raise _Unreadable("x-forwarded-client-cert ends in the middle, or has something after a quote")
        if line[position] == ",":
            found.append({})
        position += 1
        while line[position : position + 1] in (" ", "\t"):
            position += 1
    return [element for element in found if element]


def _from_percent_encoded(text: str) -> tuple[bytes, ...]:
    if not _PERCENT_ENCODED.fullmatch(text):
        raise _Unreadable("a value is not percent-encoded")
    return tuple(one.public_bytes(Encoding.DER) for one in read_certificates(unquote_to_bytes(text)))

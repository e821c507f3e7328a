"""What the server wants a request to hold (csrattrs, RFC 7030 4.5; RFC 9908), made into the request.

1. Its kind of key counts for a new key, unless the device's owner says another; a key that exists stays what it is.
2. Extensions with values are asked for as they stand. Without values the device supplies what it knows: its alternative
   name, digitalSignature, clientAuth; what it does not know it leaves out.
3. A subject with values is taken as it stands, the device's identifier where its common name is left open. A renewal
   keeps the names of its certificate whatever is wanted (RFC 7030 4.2.2).
4. challengePassword means that possession is to be proved (RFC 7030 3.5).
5. What is not understood is no obstacle (RFC 7030 4.5.2): the server will say if it cannot do without.
"""

from dataclasses import replace

from cryptography import x509
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from certs.csrattrs import WantedExtension, WantedKey, WantedRequest
from certs.errors import UNREADABLE
from certs.keys import KeyAlgorithm
from est.client.failure import EstFailure, Failure
from est.client.keys import KeyKind
from est.client.request import RequestTemplate

_RSA_SIZES = ((2048, KeyKind.RSA2048), (3072, KeyKind.RSA3072), (4096, KeyKind.RSA4096))
_OURS: dict[x509.ObjectIdentifier, bytes] = {
    x509.KeyUsage.oid: x509.KeyUsage(True, *[False] * 8).public_bytes(),
    x509.ExtendedKeyUsage.oid: x509.ExtendedKeyUsage([ExtendedKeyUsageOID.CLIENT_AUTH]).public_bytes(),
}


def wanted_kind(key: WantedKey | None) -> KeyKind | None:
    """Return the kind of key that is wanted; None if any will do.

    Raises:
        EstFailure: (malformed) An RSA key larger than any that is made here.
    """
    if key is None:
        return None
    if key.algorithm is None:
        return KeyKind.P256
    if key.algorithm is not KeyAlgorithm.RSA:
        return KeyKind(key.algorithm.value)
    for bits, kind in _RSA_SIZES:
        if (key.rsa_bits or 0) <= bits:
            return kind
    raise EstFailure(Failure.MALFORMED, f"the server wants an RSA key of {key.rsa_bits} bits")


def as_wanted(template: RequestTemplate, wanted: WantedRequest, *, names_are_fixed: bool) -> RequestTemplate:
    """Return the request with what the server wants in it.

    Args:
        names_are_fixed: It is a renewal: its names are those of the certificate.

    Raises:
        EstFailure: (malformed) What is wanted cannot be asked for.
    """
    changed = replace(template, extensions=_extensions(template.extensions, wanted, names_are_fixed=names_are_fixed))
    if wanted.challenge_password:
        changed = changed.proving()
    if names_are_fixed:
        return changed
    try:
        return replace(changed, subject=_subject(template.subject, wanted))
    except UNREADABLE as error:
        raise EstFailure(Failure.MALFORMED, f"the server wants a name that cannot be: {error}") from error


def _extensions(
    ours: tuple[WantedExtension, ...], wanted: WantedRequest, *, names_are_fixed: bool
) -> tuple[WantedExtension, ...]:
    found = {one.oid: one for one in ours}
    for one in wanted.extensions:
        if one.oid in found and (names_are_fixed or one.value is None):
            continue
        value = one.value if one.value is not None else _OURS.get(one.oid)
        if value is not None:
            found[one.oid] = replace(one, value=value)
    return tuple(found.values())


def _subject(ours: x509.Name, wanted: WantedRequest) -> x509.Name:
    found: list[x509.NameAttribute[str | bytes]] = []
    for one in wanted.subject:
        if one.value is not None:
            found.append(x509.NameAttribute[str | bytes](one.oid, one.value))
        elif one.oid == NameOID.COMMON_NAME:
            found += ours.get_attributes_for_oid(NameOID.COMMON_NAME)
    return x509.Name(found) if found else ours

"""What a label wants a request to hold, as `csrattrs` says it (RFC 7030 4.5, RFC 9908).

The rules:

1. A label that has requests linked to their connection asks for a challengePassword (RFC 7030 3.5), in any form.
2. One that says no more than that says nothing else: an empty SEQUENCE is what every client takes.
3. Else it asks for what the certificate's profile will put there in any case: key usages, with their values. The kind
   of key is named where the profile leaves no choice: one algorithm, or any elliptic curve; of an RSA key the least
   length.
4. A client that has shown a certificate that can become one device only is told the subject and the alternative name of
   that device; of anybody else, a template asks for a common name to be filled in. Nothing is asked for that would be
   refused when it comes.
"""

from collections.abc import Sequence

from cryptography import x509
from cryptography.x509.oid import NameOID

from certs.csrattrs import (
    SIGNATURES,
    WantedExtension,
    WantedKey,
    WantedName,
    WantedRequest,
    write_attributes,
    write_template,
)
from certs.keys import KeyAlgorithm, KeyPolicy
from certs.names import DeviceIdentifier, device_alternative_name
from certs.profile import CRITICAL, Profile
from est.profiles import CsrAttributes, EnrolmentProfile, ProofOfPossession

_CURVES = frozenset({KeyAlgorithm.P256, KeyAlgorithm.P384, KeyAlgorithm.P521})


def csr_attributes(profile: EnrolmentProfile, certificates: Profile, device: DeviceIdentifier | None) -> bytes:
    """Return CsrAttrs in DER.

    Args:
        certificates: What the label's certificates hold.
        device: Whom the client can become, if that is one device only.
    """
    is_linked = profile.proof_of_possession is not ProofOfPossession.OFF
    match profile.csr_attributes:
        case CsrAttributes.MINIMAL:
            return write_attributes(WantedRequest(challenge_password=is_linked))
        case CsrAttributes.ATTRIBUTES:
            return write_attributes(_wanted(certificates, device, is_linked=is_linked))
        case CsrAttributes.TEMPLATE:
            return write_template(_wanted(certificates, device, is_linked=is_linked))


def _wanted(certificates: Profile, device: DeviceIdentifier | None, *, is_linked: bool) -> WantedRequest:
    key = wanted_key(certificates.key_policy)
    values: Sequence[x509.ExtensionType | None] = (
        certificates.key_usage,
        certificates.extended_key_usage,
        x509.SubjectAlternativeName(device_alternative_name(device)) if device is not None else None,
    )
    return WantedRequest(
        challenge_password=is_linked,
        key=key,
        signature=SIGNATURES.get(key.algorithm) if key is not None and key.algorithm is not None else None,
        extensions=tuple(_extension(one) for one in values if one is not None),
        subject=(WantedName(NameOID.COMMON_NAME, device),),
    )


def wanted_key(policy: KeyPolicy) -> WantedKey | None:
    """Return the kind of key that a policy leaves, by rule 3; None if there is a choice."""
    if policy.algorithms == {KeyAlgorithm.RSA}:
        return WantedKey(KeyAlgorithm.RSA, policy.rsa_minimum_bits)
    if len(policy.algorithms) == 1:
        (algorithm,) = policy.algorithms
        return WantedKey(algorithm)
    return WantedKey(None) if policy.algorithms <= _CURVES else None


def _extension(value: x509.ExtensionType) -> WantedExtension:
    return WantedExtension(value.oid, value.public_bytes(), CRITICAL[value.oid])

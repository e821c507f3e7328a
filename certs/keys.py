"""Which public keys are accepted.

1. The algorithm is one that the policy lists; an empty list accepts nothing.
2. An RSA modulus has between the policy's least and most bits; the exponent is at least 65537
   (NIST SP 800-56B 6.2); an even one does not even parse. All other algorithms have one size each.
3. An RSA modulus has no factor below 752, its two primes are not so close together that 100 rounds of Fermat's method
   find them, and it does not bear the mark of the ROCA generator (CA/Browser Forum Baseline Requirements 6.1.1.3;
   CVE-2017-15361).
4. An Ed25519 point is not one of the few of small order: anybody can make signatures that verify with those, and
   RFC 8032 leaves it to us to refuse them.
5. The key is encoded as RFC 5480 2.1.1, RFC 3279 2.3.1, RFC 8410 4 and RFC 9881 4 say: a named curve and an
   uncompressed point; rsaEncryption with NULL parameters; Ed25519 and ML-DSA without any. Another encoding of the same
   key would give it a second fingerprint.

Not decided here: the weak keys that Debian's OpenSSL made in 2006 to 2008. There is no compact list of them, and a part
of the list would promise what it does not hold.
"""

from dataclasses import dataclass
from enum import Enum
from functools import reduce
from math import gcd, isqrt

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePublicKey
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.asymmetric.mldsa import MLDSA44PublicKey, MLDSA65PublicKey, MLDSA87PublicKey
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from certs.errors import UNREADABLE, CertificateRefused, RefusalKind

MlDsaPublicKey = MLDSA44PublicKey | MLDSA65PublicKey | MLDSA87PublicKey
PublicKey = EllipticCurvePublicKey | Ed25519PublicKey | RSAPublicKey | MlDsaPublicKey

RSA_EXPONENT_MINIMUM = 65537
_FERMAT_ROUNDS = 100
_SMALL_FACTOR_LIMIT = 752
_ED25519_FIELD = 2**255 - 19
_ED25519_Y = 2**255 - 1
# The y of the points of order 1, 2, 4 and 8, and 0 and 1 said once more beyond the field, which readers let pass.
_ORDER_8 = int.from_bytes(bytes.fromhex("26e8958fc2b227b045c3f489f2ef98f0d5dfac05d3c63339b13802886d53fc05"), "little")
_SMALL_ORDER_Y = frozenset(
    {1, _ED25519_FIELD - 1, 0, _ORDER_8, _ED25519_FIELD - _ORDER_8, _ED25519_FIELD, _ED25519_FIELD + 1}
)
_ROCA_PRIME_LIMIT = 168


class KeyAlgorithm(Enum):
    """A public key algorithm, with its curve or parameter set where it has one."""

    P256 = "P-256"
    P384 = "P-384"
    P521 = "P-521"
    ED25519 = "Ed25519"
    RSA = "RSA"
    ML_DSA_44 = "ML-DSA-44"
    ML_DSA_65 = "ML-DSA-65"
    ML_DSA_87 = "ML-DSA-87"


_CURVES = {
    "secp256r1": KeyAlgorithm.P256,
    "secp384r1": KeyAlgorithm.P384,
    "secp521r1": KeyAlgorithm.P521,
}

_BITS = {
    KeyAlgorithm.ED25519: 256,
    KeyAlgorithm.ML_DSA_44: 44,
    KeyAlgorithm.ML_DSA_65: 65,
    KeyAlgorithm.ML_DSA_87: 87,
}


@dataclass(frozen=True, slots=True)
class KeyPolicy:
    """Which keys are accepted; the bits are those of an RSA modulus."""

    algorithms: frozenset[KeyAlgorithm]
    rsa_minimum_bits: int = 2048
    rsa_maximum_bits: int = 8192


REQUEST_KEYS = KeyPolicy(frozenset(KeyAlgorithm))
"""What any request may bring; a profile may accept less."""

AUTHORITY_KEYS = KeyPolicy(frozenset(KeyAlgorithm))
"""What an authority in a chain may sign with, also a manufacturer's."""


def key_algorithm(key: object) -> KeyAlgorithm:
    """Return the algorithm of a public key.

    Raises:
        CertificateRefused: POLICY, if it is none that is known here.
    """
    match key:
        case EllipticCurvePublicKey():
            algorithm = _CURVES.get(key.curve.name)
        case Ed25519PublicKey():
            algorithm = KeyAlgorithm.ED25519
        case RSAPublicKey():
            algorithm = KeyAlgorithm.RSA
        case MLDSA44PublicKey():
            algorithm = KeyAlgorithm.ML_DSA_44
        case MLDSA65PublicKey():
            algorithm = KeyAlgorithm.ML_DSA_65
        case MLDSA87PublicKey():
            algorithm = KeyAlgorithm.ML_DSA_87
        case _:
            algorithm = None
    if algorithm is None:
        name = key.curve.name if isinstance(key, EllipticCurvePublicKey) else type(key).__name__
        raise CertificateRefused(RefusalKind.POLICY, f"keys of this kind are not accepted: {name}")
    return algorithm


def key_bits(key: PublicKey) -> int:
    """Return the size of an RSA modulus or of a curve's field in bits; of ML-DSA the number of its parameter set."""
    if isinstance(key, RSAPublicKey | EllipticCurvePublicKey):
        return key.key_size
    return _BITS[key_algorithm(key)]


def read_public_key(holder: x509.Certificate | x509.CertificateSigningRequest) -> object:
    """Return the public key of a certificate or a request, of whatever kind; the checks below take it from there.

    Raises:
        CertificateRefused: POLICY for an algorithm or curve that nothing here knows, MALFORMED if it cannot be read.
    """
    try:
        return holder.public_key()
    except UnsupportedAlgorithm as error:
        raise CertificateRefused(RefusalKind.POLICY, f"keys of this kind are not accepted: {error}") from error
    except UNREADABLE as error:
        raise CertificateRefused(RefusalKind.MALFORMED, f"the public key cannot be read: {error}") from error


def check_key_strength(key: object, policy: KeyPolicy) -> PublicKey:
    """Check a key's algorithm and size, by rules 1 and 2; enough for a key that an authority has vouched for.

    Raises:
        CertificateRefused: POLICY.
    """
    algorithm = key_algorithm(key)
    if algorithm not in policy.algorithms:
        raise CertificateRefused(RefusalKind.POLICY, f"{algorithm.value} keys are not accepted here")
    if isinstance(key, RSAPublicKey):
        if not policy.rsa_minimum_bits <= key.key_size <= policy.rsa_maximum_bits:
            bounds = f"{policy.rsa_minimum_bits} to {policy.rsa_maximum_bits}"
            reason = f"an RSA key has {key.key_size} bits, accepted are {bounds}"
            raise CertificateRefused(RefusalKind.POLICY, reason)
        if key.public_numbers().e < RSA_EXPONENT_MINIMUM:
            reason = f"an RSA public exponent is at least {RSA_EXPONENT_MINIMUM}"
            raise CertificateRefused(RefusalKind.POLICY, reason)
        return key
    if isinstance(key, EllipticCurvePublicKey | Ed25519PublicKey | MlDsaPublicKey):
        return key
    raise CertificateRefused(RefusalKind.POLICY, "keys of this kind are not accepted")


def check_public_key(key: object, policy: KeyPolicy = REQUEST_KEYS) -> PublicKey:
    """Check a key that is to be certified, by rules 1 to 4.

    Raises:
        CertificateRefused: POLICY.
    """
    checked = check_key_strength(key, policy)
    if isinstance(checked, RSAPublicKey):
        _check_modulus(checked.public_numbers().n)
    if isinstance(checked, Ed25519PublicKey) and _has_small_order(checked.public_bytes_raw()):
        raise CertificateRefused(RefusalKind.POLICY, "an Ed25519 key of small order")
    return checked


def check_key_encoding(key: PublicKey, sent: bytes) -> bytes:
    """Check that a SubjectPublicKeyInfo was sent in the one accepted encoding, by rule 5, and return it.

    Raises:
        CertificateRefused: POLICY.
    """
    canonical = key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    if sent != canonical:
        reason = "the public key is not in the one encoding that its algorithm has here"
        raise CertificateRefused(RefusalKind.POLICY, reason)
    return canonical


def _check_modulus(modulus: int) -> None:
    if gcd(modulus, _SMALL_FACTORS) != 1:
        raise CertificateRefused(RefusalKind.POLICY, "an RSA modulus has a small factor")
    if _bears_roca_mark(modulus):
        raise CertificateRefused(RefusalKind.POLICY, "an RSA key of the ROCA generator (CVE-2017-15361)")
    if _has_close_primes(modulus):
        raise CertificateRefused(RefusalKind.POLICY, "an RSA modulus has two primes close together")


def _has_small_order(point: bytes) -> bool:
    """Say whether a point's order divides 8. Its last bit says which of two such points it is, and does not count."""
    return int.from_bytes(point, "little") & _ED25519_Y in _SMALL_ORDER_Y


def _bears_roca_mark(modulus: int) -> bool:
    """Say whether the modulus is, modulo each small prime, a power of 65537.

    The generator made its primes as k * M + (65537 ** a mod M), with M the product of the first primes; so each prime,
    and with them the modulus, falls in the group that 65537 generates modulo each factor of M. Any other modulus does
    so for all of them once in about 2 ** 28 times.
    """
    return all(modulus % prime in powers for prime, powers in _ROCA_POWERS)


def _has_close_primes(modulus: int) -> bool:
    root = isqrt(modulus - 1) + 1
    for candidate in range(root, root + _FERMAT_ROUNDS):
        difference = candidate * candidate - modulus
        if isqrt(difference) ** 2 == difference:
            return True
    return False


def _primes_below(limit: int) -> list[int]:
    return [number for number in range(2, limit) if all(number % factor for factor in range(2, isqrt(number) + 1))]


def _powers_modulo(prime: int) -> frozenset[int]:
    powers, power = {1}, RSA_EXPONENT_MINIMUM % prime
    while power not in powers:
        powers.add(power)
        power = power * RSA_EXPONENT_MINIMUM % prime
    return frozenset(powers)


_SMALL_FACTORS = reduce(int.__mul__, _primes_below(_SMALL_FACTOR_LIMIT))
_ROCA_POWERS = tuple((prime, _powers_modulo(prime)) for prime in _primes_below(_ROCA_PRIME_LIMIT)[1:])

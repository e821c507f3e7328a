import secrets
from functools import reduce
from math import isqrt

import pytest
from cryptography.hazmat.primitives.asymmetric import dsa, ec, ed448, ed25519, mldsa, rsa, x25519
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from certs.errors import CertificateRefused, RefusalKind
from certs.keys import (
    REQUEST_KEYS,
    KeyAlgorithm,
    KeyPolicy,
    PublicKey,
    check_key_encoding,
    check_public_key,
    key_algorithm,
)


def spki(key: PublicKey, point: PublicFormat = PublicFormat.SubjectPublicKeyInfo) -> bytes:
    return key.public_bytes(Encoding.DER, point)


SMALL_PRIMES = [number for number in range(2, 2000) if all(number % factor for factor in range(2, isqrt(number) + 1))]


def is_prime(number: int) -> bool:
    return all(number % prime for prime in SMALL_PRIMES) and all(pow(base, number - 1, number) == 1 for base in (2, 3))


def next_prime(number: int) -> int:
    number |= 1
    while not is_prime(number):
        number += 2
    return number


def roca_prime(bits: int) -> int:
    """Make a prime as the ROCA generator did: k * M + (65537 ** a mod M), M the product of the first 39 primes."""
    product = reduce(int.__mul__, SMALL_PRIMES[:39])
    while True:
        multiple = (1 << (bits - 1) | secrets.randbits(bits - 2)) // product
        candidate = multiple * product + pow(65537, secrets.randbelow(product), product)
        if candidate.bit_length() == bits and is_prime(candidate):
            return candidate


def rsa_public(modulus: int, exponent: int = 65537) -> rsa.RSAPublicKey:
    return rsa.RSAPublicNumbers(exponent, modulus).public_key()


@pytest.fixture(scope="module")
def rsa_2048() -> rsa.RSAPublicKey:
    return rsa.generate_private_key(65537, 2048).public_key()


@pytest.mark.parametrize(
    ("key", "algorithm"),
    [
        (ec.generate_private_key(ec.SECP256R1()), KeyAlgorithm.P256),
        (ec.generate_private_key(ec.SECP384R1()), KeyAlgorithm.P384),
        (ec.generate_private_key(ec.SECP521R1()), KeyAlgorithm.P521),
        (ed25519.Ed25519PrivateKey.generate(), KeyAlgorithm.ED25519),
        (mldsa.MLDSA44PrivateKey.generate(), KeyAlgorithm.ML_DSA_44),
        (mldsa.MLDSA65PrivateKey.generate(), KeyAlgorithm.ML_DSA_65),
        (mldsa.MLDSA87PrivateKey.generate(), KeyAlgorithm.ML_DSA_87),
        (rsa.generate_private_key(65537, 2048), KeyAlgorithm.RSA),
        (rsa.generate_private_key(65537, 2056), KeyAlgorithm.RSA),
    ],
)
def test_good_keys_are_accepted_with_their_algorithm(key: rsa.RSAPrivateKey, algorithm: KeyAlgorithm) -> None:
    public = key.public_key()
    assert check_public_key(public) is public
    assert key_algorithm(public) is algorithm
    assert check_key_encoding(public, spki(public)) == spki(public)


@pytest.mark.parametrize(
    "key",
    [
        ec.generate_private_key(ec.SECP192R1()),
        ec.generate_private_key(ec.SECP224R1()),
        ec.generate_private_key(ec.SECP256K1()),
        ec.generate_private_key(ec.BrainpoolP256R1()),
        ed448.Ed448PrivateKey.generate(),
        x25519.X25519PrivateKey.generate(),
        dsa.generate_private_key(1024),  # noqa: S505 - a weak key is the point
        rsa.generate_private_key(65537, 1024),  # noqa: S505 - a weak key is the point
        rsa.generate_private_key(65537, 2040),  # noqa: S505 - a weak key is the point
        rsa.generate_private_key(3, 2048),
    ],
    ids=lambda key: type(key.public_key()).__name__,
)
def test_keys_off_the_policy_are_refused(key: rsa.RSAPrivateKey) -> None:
    with pytest.raises(CertificateRefused) as refused:
        check_public_key(key.public_key())
    assert refused.value.kind is RefusalKind.POLICY


def test_an_rsa_modulus_larger_than_the_policy_is_refused(rsa_2048: rsa.RSAPublicKey) -> None:
    with pytest.raises(CertificateRefused, match="8200 bits"):
        check_public_key(rsa_public((1 << 8199) + 1))
    narrow = KeyPolicy(frozenset({KeyAlgorithm.RSA}), rsa_minimum_bits=3072)
    with pytest.raises(CertificateRefused, match="2048 bits"):
        check_public_key(rsa_2048, narrow)


def test_an_empty_policy_accepts_nothing(rsa_2048: rsa.RSAPublicKey) -> None:
    for key in (rsa_2048, ec.generate_private_key(ec.SECP256R1()).public_key()):
        with pytest.raises(CertificateRefused):
            check_public_key(key, KeyPolicy(frozenset()))


def test_a_roca_modulus_is_found() -> None:
    modulus = roca_prime(1024) * roca_prime(1024)
    modulus_bits = modulus.bit_length()
    with pytest.raises(CertificateRefused, match="ROCA"):
        check_public_key(rsa_public(modulus), KeyPolicy(REQUEST_KEYS.algorithms, modulus_bits, 8192))


def test_half_a_roca_modulus_is_none() -> None:
    """One prime of that generator and one of another do not bear its mark: the check does not refuse at random."""
    modulus = roca_prime(1024) * next_prime(secrets.randbits(1024) | 1 << 1023)
    check_public_key(rsa_public(modulus), KeyPolicy(REQUEST_KEYS.algorithms, modulus.bit_length(), 8192))


def test_primes_close_together_are_found() -> None:
    first = next_prime(secrets.randbits(1024) | 3 << 1022)
    with pytest.raises(CertificateRefused, match="close together"):
        check_public_key(rsa_public(first * next_prime(first + 2)))
    with pytest.raises(CertificateRefused, match="close together"):
        check_public_key(rsa_public(first * first))


def test_a_small_factor_is_found() -> None:
    for factor in (3, 751):
        with pytest.raises(CertificateRefused, match="small factor"):
            check_public_key(rsa_public(factor * (secrets.randbits(2047) | 1 << 2047 | 1)))


def test_another_encoding_of_the_same_key_is_refused(rsa_2048: rsa.RSAPublicKey) -> None:
    key = ec.generate_private_key(ec.SECP256R1()).public_key()
    compressed = key.public_bytes(Encoding.X962, PublicFormat.CompressedPoint)
    uncompressed = key.public_bytes(Encoding.X962, PublicFormat.UncompressedPoint)
    other = spki(key).replace(uncompressed, compressed)
    assert other != spki(key)
    for sent in (other, spki(rsa_2048), spki(key) + b"\0"):
        with pytest.raises(CertificateRefused) as refused:
            check_key_encoding(key, sent)
        assert refused.value.kind is RefusalKind.POLICY


FIELD = 2**255 - 19
CURVE_D = -121665 * pow(121666, -1, FIELD) % FIELD
Point = tuple[int, int]


def added(left: Point, right: Point) -> Point:
    """Add two points of edwards25519 (RFC 8032 5.1.4, before it is made quick)."""
    (x1, y1), (x2, y2) = left, right
    product = CURVE_D * x1 * x2 * y1 * y2
    return (
        (x1 * y2 + x2 * y1) * pow(1 + product, -1, FIELD) % FIELD,
        (y1 * y2 + x1 * x2) * pow(1 - product, -1, FIELD) % FIELD,
    )


def times(number: int, point: Point) -> Point:
    result = (0, 1)
    for bit in f"{number:b}":
        result = added(result, result)
        result = added(result, point) if bit == "1" else result
    return result


def decoded(raw: bytes) -> Point | None:
    """Read a point (RFC 8032 5.1.3); None where there is none of that y."""
    number = int.from_bytes(raw, "little")
    y, sign = number & (2**255 - 1), number >> 255
    square = (y * y - 1) * pow(CURVE_D * y * y + 1, -1, FIELD) % FIELD
    x = pow(square, (FIELD + 3) // 8, FIELD)
    if x * x % FIELD != square:
        x = x * pow(2, (FIELD - 1) // 4, FIELD) % FIELD
    if x * x % FIELD != square:
        return None
    return (FIELD - x if x and x & 1 != sign else x), y % FIELD


def small_order_points() -> set[bytes]:
    """Find the points whose order divides 8: any point, times the order of the others."""
    order = 2**252 + 27742317777372353535851937790883648493
    found: set[bytes] = set()
    for seed in range(64):
        point = decoded(seed.to_bytes(32, "little"))
        if point is not None:
            x, y = times(order, point)
            found.add((y | (x & 1) << 255).to_bytes(32, "little"))
    return found


def test_ed25519_points_of_small_order_are_refused() -> None:
    points = small_order_points()
    assert len(points) == 8
    beyond = {number.to_bytes(32, "little") for number in (FIELD, FIELD + 1, FIELD | 1 << 255)}
    for raw in points | beyond:
        with pytest.raises(CertificateRefused, match="small order"):
            check_public_key(ed25519.Ed25519PublicKey.from_public_bytes(raw))
    usual = ed25519.Ed25519PrivateKey.generate().public_key()
    assert check_public_key(usual) is usual

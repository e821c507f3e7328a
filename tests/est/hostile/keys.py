"""Keys that nobody should certify, and signatures that prove nothing. Each row's bytes are a request in DER."""

from collections.abc import Callable
from functools import cache
from math import gcd, isqrt, prod

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import dsa, ec, ed448, ed25519, padding, rsa, x448, x25519
from cryptography.hazmat.primitives.asymmetric.types import PublicKeyTypes
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from certs.der import SEQUENCE, encode
from tests.est.hostile.der import (
    KEY,
    NULL,
    SPKI,
    algorithm,
    bits,
    common_name,
    information,
    integer,
    name,
    request,
    sequence,
    signed_by,
)
from tests.est.hostile.rows import Row

EC_KEY, RSA_KEY, RSA_PSS_KEY, ED25519_KEY = (
    "1.2.840.10045.2.1",
    "1.2.840.113549.1.1.1",
    "1.2.840.113549.1.1.10",
    "1.3.101.112",
)
RSA_SHA256, ECDSA_SHA1 = "1.2.840.113549.1.1.11", "1.2.840.10045.4.1"
POINT = KEY.public_key().public_bytes(Encoding.X962, PublicFormat.UncompressedPoint)
WEAK = {"md5": hashes.MD5(), "sha1": hashes.SHA1()}  # noqa: S303 - to be refused
NEUTRAL = b"\1" + bytes(31)
X, Y = POINT[1:33], POINT[33:]

NOT_ACCEPTED, ENCODED, UNREADABLE = "are not accepted", "the one encoding", "cannot be read"
WEAK_EXPONENT, UNVERIFIED = "exponent is at least", "does not verify with its own key"


@cache
def rsa_key(size: int) -> rsa.RSAPrivateKey:
    return rsa.generate_private_key(65537, size)


def rsa_modulus() -> int:
    return rsa_key(2048).public_key().public_numbers().n


def spki_of(key: PublicKeyTypes) -> bytes:
    return key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)


def keyed(spki: bytes) -> bytes:
    """A request for a key; who holds it is not proved, since a key is judged first."""
    return request(spki=spki)


def rsa_spki(modulus: int, exponent: int = 65537) -> bytes:
    return sequence(algorithm(RSA_KEY, NULL), bits(sequence(integer(modulus), integer(exponent))))


def ec_spki(point: bytes, parameters: bytes | None = None) -> bytes:
    named = encode(0x06, bytes.fromhex("2a8648ce3d030107"))
    return sequence(algorithm(EC_KEY, named if parameters is None else parameters), bits(point))


def curve(made: ec.EllipticCurve) -> bytes:
    return keyed(spki_of(ec.generate_private_key(made).public_key()))


def next_prime(number: int) -> int:
    number |= 1
    while not is_prime(number):
        number += 2
    return number


def is_prime(number: int) -> bool:
    """Say so by Fermat's test to a few bases: enough for a number that a test makes."""
    return gcd(number, 2 * 3 * 5 * 7 * 11 * 13) == 1 and all(pow(base, number - 1, number) == 1 for base in (2, 3, 5))


def close_primes() -> int:
    first = next_prime((1 << 1023) + (1 << 1022) + 12_345)
    return first * next_prime(first + 2)


def roca_modulus() -> int:
    """A modulus with the mark of the generator of CVE-2017-15361: a power of 65537 modulo each small prime."""
    primes = [number for number in range(2, 168) if all(number % factor for factor in range(2, isqrt(number) + 1))]
    small = prod(primes[1:])
    modulus = pow(65537, 5, small) + small * ((1 << 2047) // small + 1)
    while modulus % 2 == 0 or any(modulus % one == 0 for one in range(3, 752, 2)) or modulus.bit_length() != 2048:
        modulus += small
    return modulus


def with_small_factor() -> int:
    return 3 * (((1 << 2047) // 3) | 1)


def explicit_parameters() -> bytes:
    """The curve P-256, said by its numbers (RFC 5480 2.1.1 forbids that)."""
    p = 2**256 - 2**224 + 2**192 + 2**96 - 1
    b = bytes.fromhex("5ac635d8aa3a93e7b3ebbd55769886bc651d06b0cc53b0f63bce3c3e27d2604b")
    generator = bytes.fromhex(
        "046b17d1f2e12c4247f8bce6e563a440f277037d812deb33a0f4a13945d898c296"
        "4fe342e2fe1a7f9b8ee7eb4a7c0f9e162bce33576b315ececbb6406837bf51f5"
    )
    order = 0xFFFFFFFF00000000FFFFFFFFFFFFFFFFBCE6FAADA7179E84F3B9CAC2FC632551
    field = sequence(algorithm("1.2.840.10045.1.1", integer(p))[2:])
    return sequence(
        integer(1),
        field,
        sequence(encode(0x04, (p - 3).to_bytes(32)), encode(0x04, b)),
        encode(0x04, generator),
        integer(order),
        integer(1),
    )


def ed25519_spki(content: bytes, parameters: bytes = b"") -> bytes:
    return sequence(algorithm(ED25519_KEY, parameters), bits(content))


def anybodys(point: bytes) -> bytes:
    """A request for an Ed25519 key of order 1: this signature verifies for whatever is said."""
    return request(
        spki=ed25519_spki(point), signature_algorithm=algorithm(ED25519_KEY), sign=lambda _: NEUTRAL + bytes(32)
    )


RSA_KEYS: list[Row] = [
    Row("RSA of 512 bits", lambda: keyed(rsa_spki((1 << 511) + 187)), 403, "bits, accepted are"),
    Row("RSA of 1024 bits", lambda: keyed(spki_of(rsa_key(1024).public_key())), 403, "has 1024 bits"),
    Row("RSA of 1536 bits", lambda: keyed(rsa_spki((1 << 1535) + 25)), 403, "has 1536 bits"),
    Row("RSA of 2047 bits", lambda: keyed(rsa_spki((1 << 2046) + 25)), 403, "has 2047 bits"),
    Row("RSA of 16384 bits", lambda: keyed(rsa_spki((1 << 16383) + 25)), 403, "has 16384 bits"),
    Row("RSA of exponent 3", lambda: keyed(rsa_spki(rsa_modulus(), 3)), 403, WEAK_EXPONENT),
    Row("RSA of exponent 17", lambda: keyed(rsa_spki(rsa_modulus(), 17)), 403, WEAK_EXPONENT),
    Row("RSA of exponent 1", lambda: keyed(rsa_spki(rsa_modulus(), 1)), 400, UNREADABLE),
    Row("RSA of exponent 0", lambda: keyed(rsa_spki(rsa_modulus(), 0)), 400, UNREADABLE),
    Row("RSA of an even exponent", lambda: keyed(rsa_spki(rsa_modulus(), 65538)), 400, UNREADABLE),
    Row("RSA of a negative exponent", lambda: keyed(rsa_spki(rsa_modulus(), -65537)), 400, UNREADABLE),
    Row(
        "RSA of an exponent above its modulus",
        lambda: keyed(rsa_spki((1 << 2047) + 25, (1 << 2050) + 1)),
        400,
        UNREADABLE,
    ),
    Row("RSA of modulus zero", lambda: keyed(rsa_spki(0)), 400, UNREADABLE),
    Row("RSA of a negative modulus", lambda: keyed(rsa_spki(-(1 << 2047) + 1)), 400, UNREADABLE),
    Row("RSA of an even modulus", lambda: keyed(rsa_spki(1 << 2047)), 403, "small factor"),
    Row("RSA of a modulus divisible by 3", lambda: keyed(rsa_spki(with_small_factor())), 403, "small factor"),
    Row("RSA of two close primes", lambda: keyed(rsa_spki(close_primes())), 403, "close together"),
    Row("RSA of the generator ROCA", lambda: keyed(rsa_spki(roca_modulus())), 403, "ROCA"),
    Row(
        "RSA without parameters",
        lambda: keyed(sequence(algorithm(RSA_KEY), bits(sequence(integer(rsa_modulus()), integer(65537))))),
        403,
        ENCODED,
    ),
    Row(
        "RSA with a tail",
        lambda: keyed(
            sequence(algorithm(RSA_KEY, NULL), bits(sequence(integer((1 << 2047) + 25), integer(65537)) + b"\0"))
        ),
        400,
        UNREADABLE,
    ),
    Row(
        "RSA for PSS alone",
        lambda: keyed(sequence(algorithm(RSA_PSS_KEY), bits(sequence(integer((1 << 2047) + 25), integer(65537))))),
        403,
        "REQUEST",
    ),
]

OTHER_KEYS: list[Row] = [
    Row("secp192r1", lambda: curve(ec.SECP192R1()), 403, "secp192r1"),
    Row("secp224r1", lambda: curve(ec.SECP224R1()), 403, "secp224r1"),
    Row("secp256k1", lambda: curve(ec.SECP256K1()), 403, "secp256k1"),
    Row("brainpoolP256r1", lambda: curve(ec.BrainpoolP256R1()), 403, "brainpoolP256r1"),
    Row("DSA", lambda: keyed(spki_of(dsa.generate_private_key(2048).public_key())), 403, "DSA"),
    Row("Ed448", lambda: keyed(spki_of(ed448.Ed448PrivateKey.generate().public_key())), 403, "Ed448"),
    Row("X25519", lambda: keyed(spki_of(x25519.X25519PrivateKey.generate().public_key())), 403, "X25519"),
    Row("X448", lambda: keyed(spki_of(x448.X448PrivateKey.generate().public_key())), 403, "X448"),
    Row(
        "a key of no known algorithm", lambda: keyed(sequence(algorithm("1.2.3.4"), bits(bytes(32)))), 403, NOT_ACCEPTED
    ),
    Row("a curve said by its numbers", lambda: keyed(ec_spki(POINT, explicit_parameters())), 403, "REQUEST"),
    Row("a curve inherited", lambda: keyed(ec_spki(POINT, NULL)), 403, NOT_ACCEPTED),
    Row("no curve", lambda: keyed(ec_spki(POINT, b"")), 400, UNREADABLE),
    Row("a compressed point", lambda: keyed(ec_spki(bytes([2 + (Y[-1] & 1)]) + X)), 403, ENCODED),
    Row("a hybrid point", lambda: keyed(ec_spki(bytes([6 + (Y[-1] & 1)]) + X + Y)), 403, "REQUEST"),
    Row("the point at infinity", lambda: keyed(ec_spki(b"\0")), 400, UNREADABLE),
    Row("a point beside the curve", lambda: keyed(ec_spki(b"\4" + X + bytes([Y[0] ^ 1]) + Y[1:])), 400, UNREADABLE),
    Row("a point beyond the field", lambda: keyed(ec_spki(b"\4" + b"\xff" * 64)), 400, UNREADABLE),
    Row("a point of P-384 on P-256", lambda: keyed(ec_spki(b"\4" + bytes(96))), 400, UNREADABLE),
    Row("half a point", lambda: keyed(ec_spki(POINT[:-1])), 400, UNREADABLE),
    Row("no point", lambda: keyed(ec_spki(b"")), 400, UNREADABLE),
    Row("Ed25519 of 31 bytes", lambda: keyed(ed25519_spki(bytes(31))), 400, UNREADABLE),
    Row("Ed25519 with parameters", lambda: keyed(ed25519_spki(bytes(range(32)), NULL)), 400, UNREADABLE),
    Row("Ed25519 of order 1", lambda: anybodys(NEUTRAL), 403, "small order"),
    Row("Ed25519 of order 4", lambda: keyed(ed25519_spki(bytes(32))), 403, "small order"),
    Row("a key that is no sequence", lambda: keyed(integer(1)), 400, UNREADABLE),
    Row("a key that is empty", lambda: keyed(encode(SEQUENCE)), 400, UNREADABLE),
    Row(
        "a key with bits unused",
        lambda: keyed(sequence(algorithm(EC_KEY, encode(0x06, bytes.fromhex("2a8648ce3d030107"))), bits(POINT, 1))),
        400,
        UNREADABLE,
    ),
]


def rsa_signed(hash_algorithm: hashes.HashAlgorithm, kind: str) -> bytes:
    key = rsa_key(2048)
    return request(
        spki=spki_of(key.public_key()),
        signature_algorithm=algorithm(kind, NULL),
        sign=lambda asked: key.sign(asked, padding.PKCS1v15(), hash_algorithm),
    )


def forged(change: Callable[[bytes], bytes]) -> bytes:
    """A request whose signature was changed after it was made."""
    return request(sign=lambda asked: change(signed_by(KEY)(asked)))


def flipped(signature: bytes) -> bytes:
    return signature[:-3] + bytes([signature[-3] ^ 1]) + signature[-2:]


def renamed() -> bytes:
    """A request for one name, signed for another: its own key signed neither."""
    other = information(subject=name(common_name("meter-002")))
    return request(sign=lambda _: signed_by(KEY)(other))


def of_another() -> bytes:
    return request(sign=signed_by(ec.generate_private_key(ec.SECP256R1())))


def ed25519_by_ecdsa() -> bytes:
    """An ECDSA signature under an Ed25519 key."""
    return request(spki=spki_of(ed25519.Ed25519PrivateKey.generate().public_key()))


SIGNATURES: list[Row] = [
    Row("a flipped bit", lambda: forged(flipped), 400, UNVERIFIED),
    Row("a signature for another name", renamed, 400, UNVERIFIED),
    Row("another key's signature", of_another, 400, UNVERIFIED),
    Row("no signature", lambda: forged(lambda _: b""), 400, UNVERIFIED),
    Row("a signature of zeros", lambda: forged(lambda _: sequence(integer(0), integer(0))), 400, UNVERIFIED),
    Row("a signature with a tail", lambda: forged(lambda signature: signature + b"\0"), 400, UNVERIFIED),
    Row("a signature that is text", lambda: forged(lambda _: b"trust me"), 400, UNVERIFIED),
    Row("a signature of 10,000 bytes", lambda: forged(lambda _: b"\x30" * 10_000), 400, UNVERIFIED),
    Row("a signature with a bit unused", lambda: request(unused_bits=1), 400, "REQUEST_MALFORMED"),
    Row("MD5", lambda: rsa_signed(WEAK["md5"], "1.2.840.113549.1.1.4"), 403, "md5"),
    Row("SHA-1 with RSA", lambda: rsa_signed(WEAK["sha1"], "1.2.840.113549.1.1.5"), 403, "sha1"),
    Row("SHA-224 with RSA", lambda: rsa_signed(hashes.SHA224(), "1.2.840.113549.1.1.14"), 403, "sha224"),
    Row(
        "SHA-1 with ECDSA",
        lambda: request(signature_algorithm=algorithm(ECDSA_SHA1), sign=signed_by(KEY, WEAK["sha1"])),
        403,
        "REQUEST_AGAINST_POLICY",
    ),
    Row("an algorithm of no meaning", lambda: request(signature_algorithm=algorithm("1.2.3.4")), 403, "REQUEST"),
    Row("RSA's algorithm, an EC key", lambda: request(signature_algorithm=algorithm(RSA_SHA256, NULL)), 400, "REQUEST"),
    Row("Ed25519's algorithm, an EC key", lambda: request(signature_algorithm=algorithm(ED25519_KEY)), 400, UNVERIFIED),
    Row("ECDSA's algorithm, an Ed25519 key", ed25519_by_ecdsa, 400, "REQUEST"),
    Row("an algorithm that is no sequence", lambda: request(signature_algorithm=integer(1)), 400, UNREADABLE),
    Row(
        "the algorithm of a hash",
        lambda: request(signature_algorithm=algorithm("2.16.840.1.101.3.4.2.1")),
        403,
        "REQUEST",
    ),
]

TABLES = (RSA_KEYS, OTHER_KEYS, SIGNATURES)

assert len(SPKI) == 91

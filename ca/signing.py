"""Signatures of any message, by a named algorithm: what a key can do beside signing certificates.

The rules:

1. An algorithm is one of the table, and fits the key: its kind, and for ML-DSA its parameter set.
2. ECDSA and RSA sign a hash of the message: SHA-256, SHA-384 or SHA-512. Whoever has the hash already gives that (a
   digest), of just the hash's length.
3. Ed25519 (RFC 8032) and ML-DSA (FIPS 204) see the whole message; a digest is refused, since it would be signed as a
   message, and verify as nothing else.
4. RSA-PSS has a salt as long as its hash (RFC 8017 9.1), and MGF1 over the same hash.
"""

from dataclasses import dataclass
from enum import Enum, StrEnum, auto

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, mldsa, rsa
from cryptography.hazmat.primitives.asymmetric.padding import MGF1, PSS, PKCS1v15
from cryptography.hazmat.primitives.asymmetric.utils import Prehashed
from cryptography.hazmat.primitives.hashes import SHA256, SHA384, SHA512, HashAlgorithm

from certs.keys import KeyAlgorithm, PublicKey, key_algorithm
from iam.errors import Kind, Refused

PrivateKey = (
    ec.EllipticCurvePrivateKey
    | ed25519.Ed25519PrivateKey
    | rsa.RSAPrivateKey
    | mldsa.MLDSA44PrivateKey
    | mldsa.MLDSA65PrivateKey
    | mldsa.MLDSA87PrivateKey
)


class SigningAlgorithm(StrEnum):
    """A way to sign a message."""

    ECDSA_SHA_256 = "ECDSA_SHA_256"
    ECDSA_SHA_384 = "ECDSA_SHA_384"
    ECDSA_SHA_512 = "ECDSA_SHA_512"
    RSASSA_PKCS1_V1_5_SHA_256 = "RSASSA_PKCS1_V1_5_SHA_256"
    RSASSA_PKCS1_V1_5_SHA_384 = "RSASSA_PKCS1_V1_5_SHA_384"
    RSASSA_PKCS1_V1_5_SHA_512 = "RSASSA_PKCS1_V1_5_SHA_512"
    RSASSA_PSS_SHA_256 = "RSASSA_PSS_SHA_256"
    RSASSA_PSS_SHA_384 = "RSASSA_PSS_SHA_384"
    RSASSA_PSS_SHA_512 = "RSASSA_PSS_SHA_512"
    ED25519 = "ED25519"
    ML_DSA_44 = "ML_DSA_44"
    ML_DSA_65 = "ML_DSA_65"
    ML_DSA_87 = "ML_DSA_87"


class Scheme(Enum):
    """How a hash becomes a signature; PLAIN: the message is signed as it is."""

    ECDSA = auto()
    PKCS1 = auto()
    PSS = auto()
    PLAIN = auto()


@dataclass(frozen=True, slots=True)
class Way:
    """What an algorithm of the table does, and with which keys.

    Attributes:
        hash_algorithm: Nothing is hashed beforehand where the scheme is PLAIN.
    """

    keys: frozenset[KeyAlgorithm]
    scheme: Scheme
    hash_algorithm: HashAlgorithm


_CURVES = frozenset({KeyAlgorithm.P256, KeyAlgorithm.P384, KeyAlgorithm.P521})
_RSA = frozenset({KeyAlgorithm.RSA})

WAYS: dict[SigningAlgorithm, Way] = {
    SigningAlgorithm.ECDSA_SHA_256: Way(_CURVES, Scheme.ECDSA, SHA256()),
    SigningAlgorithm.ECDSA_SHA_384: Way(_CURVES, Scheme.ECDSA, SHA384()),
    SigningAlgorithm.ECDSA_SHA_512: Way(_CURVES, Scheme.ECDSA, SHA512()),
    SigningAlgorithm.RSASSA_PKCS1_V1_5_SHA_256: Way(_RSA, Scheme.PKCS1, SHA256()),
    SigningAlgorithm.RSASSA_PKCS1_V1_5_SHA_384: Way(_RSA, Scheme.PKCS1, SHA384()),
    SigningAlgorithm.RSASSA_PKCS1_V1_5_SHA_512: Way(_RSA, Scheme.PKCS1, SHA512()),
    SigningAlgorithm.RSASSA_PSS_SHA_256: Way(_RSA, Scheme.PSS, SHA256()),
    SigningAlgorithm.RSASSA_PSS_SHA_384: Way(_RSA, Scheme.PSS, SHA384()),
    SigningAlgorithm.RSASSA_PSS_SHA_512: Way(_RSA, Scheme.PSS, SHA512()),
    SigningAlgorithm.ED25519: Way(frozenset({KeyAlgorithm.ED25519}), Scheme.PLAIN, SHA512()),
    SigningAlgorithm.ML_DSA_44: Way(frozenset({KeyAlgorithm.ML_DSA_44}), Scheme.PLAIN, SHA512()),
    SigningAlgorithm.ML_DSA_65: Way(frozenset({KeyAlgorithm.ML_DSA_65}), Scheme.PLAIN, SHA512()),
    SigningAlgorithm.ML_DSA_87: Way(frozenset({KeyAlgorithm.ML_DSA_87}), Scheme.PLAIN, SHA512()),
}


@dataclass(frozen=True, slots=True)
class Message:
    """What is signed: a message, or the digest of one."""

    content: bytes
    is_digest: bool = False


def check_fits(algorithm: SigningAlgorithm, key: KeyAlgorithm, message: Message) -> Way:
    """Return what the algorithm does, having checked that key and message fit it, by rules 1 to 3.

    Raises:
        Refused: (invalid) They do not.
    """
    way = WAYS[algorithm]
    if key not in way.keys:
        fitting = ", ".join(one for one, known in WAYS.items() if key in known.keys)
        raise Refused(Kind.INVALID, f"A key of {key.value} does not sign by {algorithm}; it does by {fitting}.")
    if message.is_digest and way.scheme is Scheme.PLAIN:
        raise Refused(Kind.INVALID, f"{algorithm} signs whole messages and no digests.")
    if message.is_digest and len(message.content) != way.hash_algorithm.digest_size:
        size = way.hash_algorithm.digest_size
        raise Refused(Kind.INVALID, f"A digest for {algorithm} has {size} bytes, this has {len(message.content)}.")
    return way


def sign_message(key: PrivateKey, algorithm: SigningAlgorithm, message: Message) -> bytes:
    """Sign a message, or raise `Refused` (invalid) if it does not fit; an ECDSA signature is in DER."""
    way = check_fits(algorithm, key_algorithm(key.public_key()), message)
    match key:
        case ec.EllipticCurvePrivateKey():
            return key.sign(message.content, ec.ECDSA(_hash(way, message)))
        case rsa.RSAPrivateKey():
            return key.sign(message.content, _padding(way), _hash(way, message))
        case _:
            return key.sign(message.content)


def verify_message(key: PublicKey, algorithm: SigningAlgorithm, message: Message, signature: bytes) -> bool:
    """Tell whether a signature is one of this message by this key, or raise `Refused` (invalid) if they do not fit."""
    way = check_fits(algorithm, key_algorithm(key), message)
    try:
        match key:
            case ec.EllipticCurvePublicKey():
                key.verify(signature, message.content, ec.ECDSA(_hash(way, message)))
            case rsa.RSAPublicKey():
                key.verify(signature, message.content, _padding(way), _hash(way, message))
            case _:
                key.verify(signature, message.content)
    except InvalidSignature:
        return False
    return True


def _hash(way: Way, message: Message) -> HashAlgorithm | Prehashed:
    return Prehashed(way.hash_algorithm) if message.is_digest else way.hash_algorithm


def _padding(way: Way) -> PKCS1v15 | PSS:
    if way.scheme is Scheme.PKCS1:
        return PKCS1v15()
    return PSS(MGF1(way.hash_algorithm), way.hash_algorithm.digest_size)

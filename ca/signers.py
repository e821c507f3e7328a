"""Keys that sign: what a signer is, and how each kind of key signs.

The rules:

1. Whoever signs does so through a `Signer`, which names its algorithm; a private key is known to nobody else, and
   nothing here gives one out. A key in a hardware token is another Signer.
2. A key that makes its caller wait names the thread to wait in, and a coroutine signs by `in_turn` alone: so the event
   loop waits for no key. A key in memory signs at once, on the loop, since handing it to a thread would cost more than
   the signature.
3. A key signs certificates and lists in one way, by the strength that it has.
"""

import asyncio
from collections.abc import Callable, Sequence
from concurrent.futures import Executor
from contextvars import copy_context
from dataclasses import dataclass
from functools import partial
from typing import ParamSpec, Protocol, TypeVar

from cryptography.hazmat.primitives.asymmetric import ec, ed25519, mldsa, rsa
from cryptography.hazmat.primitives.asymmetric.padding import PKCS1v15
from cryptography.hazmat.primitives.hashes import SHA256, SHA384, SHA512, HashAlgorithm

from ca.signing import Message, PrivateKey, SigningAlgorithm, sign_message
from certs.der import SEQUENCE, encode, encode_object_identifier
from certs.keys import RSA_EXPONENT_MINIMUM, KeyAlgorithm, PublicKey, key_algorithm

RSA_BITS = (2048, 3072, 4096)
"""The sizes that RSA keys are made in."""

P = ParamSpec("P")
T = TypeVar("T")

_NULL = b"\x05\x00"
_RSA_STRENGTHS: tuple[tuple[int, str, HashAlgorithm], ...] = (
    (4096, "1.2.840.113549.1.1.13", SHA512()),
    (3072, "1.2.840.113549.1.1.12", SHA384()),
    (0, "1.2.840.113549.1.1.11", SHA256()),
)
"""From which size an RSA key signs over which hash (RFC 8017 A.2.4)."""

_OTHER_STRENGTHS: dict[KeyAlgorithm, tuple[str, HashAlgorithm]] = {
    KeyAlgorithm.P256: ("1.2.840.10045.4.3.2", SHA256()),
    KeyAlgorithm.P384: ("1.2.840.10045.4.3.3", SHA384()),
    KeyAlgorithm.P521: ("1.2.840.10045.4.3.4", SHA512()),
    KeyAlgorithm.ED25519: ("1.3.101.112", SHA512()),
    KeyAlgorithm.ML_DSA_44: ("2.16.840.1.101.3.4.3.17", SHA512()),
    KeyAlgorithm.ML_DSA_65: ("2.16.840.1.101.3.4.3.18", SHA512()),
    KeyAlgorithm.ML_DSA_87: ("2.16.840.1.101.3.4.3.19", SHA512()),
}
"""Which algorithm and hash the other keys sign by (RFC 5758 3.2, RFC 8410 3, RFC 9881 3)."""


@dataclass(frozen=True, slots=True)
class SignatureScheme:
    """How a key signs certificates and lists: one way for each key.

    Attributes:
        identifier: The AlgorithmIdentifier, in DER.
        hash_algorithm: ECDSA and RSA sign this hash of the message. The other algorithms hash by themselves; for them
            it is what stands beside a signature where a message's hash is named apart (RFC 8419 2.3, RFC 9882 3.3).
    """

    identifier: bytes
    hash_algorithm: HashAlgorithm


def signature_scheme(key: PublicKey) -> SignatureScheme:
    """Return how the private half of this key signs."""
    if isinstance(key, rsa.RSAPublicKey):
        oid, chosen = next((oid, chosen) for bits, oid, chosen in _RSA_STRENGTHS if key.key_size >= bits)
        # RFC 8017 A.2.4: the parameters of these are NULL.
        return SignatureScheme(encode(SEQUENCE, encode_object_identifier(oid), _NULL), chosen)
    oid, hash_algorithm = _OTHER_STRENGTHS[key_algorithm(key)]
    # RFC 5758 3.2, RFC 8410 3, RFC 9881 3: the parameters of these are absent.
    return SignatureScheme(encode(SEQUENCE, encode_object_identifier(oid)), hash_algorithm)


_MAKERS: dict[KeyAlgorithm, Callable[[], PrivateKey]] = {
    KeyAlgorithm.P256: lambda: ec.generate_private_key(ec.SECP256R1()),
    KeyAlgorithm.P384: lambda: ec.generate_private_key(ec.SECP384R1()),
    KeyAlgorithm.P521: lambda: ec.generate_private_key(ec.SECP521R1()),
    KeyAlgorithm.ED25519: ed25519.Ed25519PrivateKey.generate,
    KeyAlgorithm.ML_DSA_44: mldsa.MLDSA44PrivateKey.generate,
    KeyAlgorithm.ML_DSA_65: mldsa.MLDSA65PrivateKey.generate,
    KeyAlgorithm.ML_DSA_87: mldsa.MLDSA87PrivateKey.generate,
}


def make_private_key(algorithm: KeyAlgorithm, bits: int = RSA_BITS[0]) -> PrivateKey:
    """Make a key; `bits` is the size of an RSA modulus, one of `RSA_BITS`, and says nothing for other algorithms."""
    if algorithm is KeyAlgorithm.RSA:
        return rsa.generate_private_key(RSA_EXPONENT_MINIMUM, bits)
    return _MAKERS[algorithm]()


class Signer(Protocol):
    """A key that signs for an authority."""

    @property
    def algorithm(self) -> bytes:
        """The AlgorithmIdentifier of its signatures, in DER."""

    @property
    def public_key(self) -> PublicKey:
        """The key that verifies them."""

    @property
    def thread(self) -> Executor | None:
        """Where to wait for it; None if it signs at once (rule 2)."""

    def sign(self, data: bytes) -> bytes:
        """Sign `data`; raise `Refused` (unavailable) if the key is gone."""


class MessageSigner(Signer, Protocol):
    """A key that also signs what is no certificate."""

    def sign_message(self, algorithm: SigningAlgorithm, message: Message) -> bytes:
        """Sign a message; raise `Refused` (unavailable) if the key is gone, (invalid) if they do not fit."""


async def in_turn(signers: Sequence[Signer | None], act: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """Return `act(...)`, which signs by `signers`: done at once, or awaited in the thread of the one that has one."""
    for one in signers:
        if one is not None and one.thread is not None:
            work = partial(copy_context().run, act, *args, **kwargs)
            return await asyncio.get_running_loop().run_in_executor(one.thread, work)
    return act(*args, **kwargs)


class SoftwareSigner:
    """A key in this process's memory."""

    thread: Executor | None = None

    def __init__(self, private_key: PrivateKey) -> None:
        self._private_key = private_key
        self.public_key: PublicKey = private_key.public_key()
        self._scheme = signature_scheme(self.public_key)
        self.algorithm = self._scheme.identifier

    def sign(self, data: bytes) -> bytes:
        """Sign `data` in the key's one way."""
        match self._private_key:
            case ec.EllipticCurvePrivateKey() as key:
                return key.sign(data, ec.ECDSA(self._scheme.hash_algorithm))
            case rsa.RSAPrivateKey() as key:
                return key.sign(data, PKCS1v15(), self._scheme.hash_algorithm)
            case key:
                return key.sign(data)

    def sign_message(self, algorithm: SigningAlgorithm, message: Message) -> bytes:
        """Sign a message by a named algorithm."""
        return sign_message(self._private_key, algorithm, message)

"""Keys in a PKCS#11 token: made there, used there, and never out of it.

The rules:

1. A key is made sensitive and not extractable, and the token says that it always was so; else it is destroyed at once.
   It signs once before anybody hears of it, and the signature verifies.
2. A key is found by its id: CKA_ID is the 16 bytes of the UUID. Its public half is what the store has.
3. Every hash is made here and the token signs hashes, so that messages and digests take the same way: ECDSA over a
   hash, RSA over a DigestInfo (RFC 8017 9.2) or by PSS.
4. One session, logged in, does everything, and of all that speak with a module in this process one at a time: the
   library that we use initializes modules without locks, and what comes from two threads at once ends the process.
   Workers are processes, each with a session of its own.
5. To make a key may take a token a minute, and meanwhile whoever signs waits. So each module has one thread, with a
   deadline for whoever waits (`ca.token_thread`): what a coroutine wants of it stands in line there, and neither the
   event loop nor the threads that others share wait. A second session would not help, by rule 4. A process that does
   nothing but make keys would, and would be one more to log in, to watch and to restart, for what is seldom done;
   other workers sign in the meantime as it is. A key that was made for nobody any more is destroyed.
6. When something fails, the module is initialized anew, once, and the same thing is tried once more: so a token that
   was away, or whose sessions ended, serves again. What fails then is refused (unavailable). Other tokens of the same
   module lose their sessions by it, know that, and open others.
   The library lets other threads run while it waits for a module, save while that is finalized: a module that hangs
   there stops the worker, which its supervisor replaces for being silent (`doorward/supervisor.py`).
7. A PIN that the token refuses is not tried again until a new start: after a few wrong ones a token locks itself.
"""

import logging
from collections.abc import Callable
from concurrent.futures import Executor, Future
from contextlib import suppress
from pathlib import Path
from typing import Any, TypeVar
from uuid import UUID

import pkcs11
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature
from cryptography.hazmat.primitives.hashes import Hash, HashAlgorithm
from cryptography.hazmat.primitives.serialization import load_der_public_key
from pkcs11 import MGF, Attribute, KeyType, Mechanism, ObjectClass
from pkcs11.exceptions import (
    PinExpired,
    PinIncorrect,
    PinInvalid,
    PinLenRange,
    PinLocked,
    PKCS11Error,
    UserAlreadyLoggedIn,
)
from pkcs11.util.ec import encode_ec_public_key, encode_named_curve_parameters

from ca.signers import RSA_BITS, SignatureScheme, signature_scheme
from ca.signing import Message, Scheme, SigningAlgorithm, Way, check_fits, verify_message
from ca.token_thread import TokenThread
from certs.keys import KeyAlgorithm, PublicKey, key_algorithm
from iam.errors import Kind, Refused

_CURVES = {KeyAlgorithm.P256: "secp256r1", KeyAlgorithm.P384: "secp384r1", KeyAlgorithm.P521: "secp521r1"}
_PSS = {
    "sha256": (Mechanism.SHA256, MGF.SHA256),
    "sha384": (Mechanism.SHA384, MGF.SHA384),
    "sha512": (Mechanism.SHA512, MGF.SHA512),
}
# RFC 8017 9.2, note 1: the DER of a DigestInfo up to the digest.
_DIGEST_INFO = {
    "sha256": bytes.fromhex("3031300d060960864801650304020105000420"),
    "sha384": bytes.fromhex("3041300d060960864801650304020205000430"),
    "sha512": bytes.fromhex("3051300d060960864801650304020305000440"),
}
_NEVER_OUT = {Attribute.SENSITIVE: True, Attribute.EXTRACTABLE: False, Attribute.PRIVATE: True, Attribute.SIGN: True}
_WRONG_PIN = (PinIncorrect, PinInvalid, PinLenRange, PinLocked, PinExpired)
_TEST_MESSAGE = Message(b"doorward makes sure that a key of a token signs")

DEADLINE_SECONDS = 10.0
MAKING_DEADLINE_SECONDS = 120.0
"""How long anybody waits for a token; and for a key to be made there, if the configuration does not say."""

_log = logging.getLogger("doorward.pkcs11")

T = TypeVar("T")


class _Module:
    """A maker's module in this process, for all its tokens; whatever speaks with it does so in its thread.

    Attributes:
        generation: How often it was left; what was opened before that is worth nothing any more.
    """

    def __init__(self, path: Path) -> None:
        self.thread = TokenThread(path.name)
        self.generation = 0
        self._path = path
        self._library: Any = None
        self._is_initialized = False

    def entered(self) -> Any:  # noqa: ANN401 - the library's own
        """Return the module, initialized."""
        if self._library is None:
            self._library = pkcs11.lib(str(self._path))
        if not self._is_initialized:
            with suppress(PKCS11Error):
                self._library.finalize()
            self._library.initialize()
            self._is_initialized = True
        return self._library

    def leave(self) -> None:
        """Let go of it: it is initialized anew when somebody wants something of it."""
        self.generation += 1
        self._is_initialized = False
        if self._library is not None:
            with suppress(PKCS11Error):
                self._library.finalize()


_MODULES: dict[Path, _Module] = {}
"""One for each path (rules 4 and 5)."""


class Pkcs11Token:
    """A token, reached through a vendor's module.

    Args:
        module: The shared library.
        label: The token's label.
        pin: Of its user.
        deadline: How many seconds anybody waits for it.
        making_deadline: The same for a key that is to be made.
    """

    def __init__(
        self,
        module: Path,
        label: str,
        pin: str,
        *,
        deadline: float = DEADLINE_SECONDS,
        making_deadline: float = MAKING_DEADLINE_SECONDS,
    ) -> None:
        self._module = _MODULES.setdefault(module, _Module(module))
        self._label = label
        self._pin = pin
        self._deadline = deadline
        self._making_deadline = making_deadline
        self._thread = self._module.thread
        self.thread: Executor = self._thread.executor("sign", deadline=deadline)
        self._session: Any = None
        self._generation = 0
        self._keys: dict[UUID, Any] = {}
        self._refused_pin = False

    def make(self, identifier: UUID, algorithm: KeyAlgorithm, bits: int) -> "Future[PublicKey]":
        """Begin to make a key of a curve or RSA, by rule 1.

        The future may be refused: (unavailable) The token cannot be reached, does not answer, or would let keys out.

        Raises:
            Refused: (invalid) The token does not make such keys.
        """
        if algorithm not in _CURVES and (algorithm is not KeyAlgorithm.RSA or bits not in RSA_BITS):
            raise Refused(Kind.INVALID, f"Keys of {algorithm.value} are not made in a token; RSA and the curves are.")
        return self._thread.begin(
            "make a key",
            lambda: self._do("make a key", lambda session: self._make(session, identifier, algorithm, bits)),
            deadline=self._making_deadline,
            undo=lambda _: self._destroy_surely(identifier),
        )

    def signer(self, identifier: UUID, public_key: PublicKey) -> "Pkcs11Signer":
        """Return the signer of a key; the token is reached when it signs."""
        return Pkcs11Signer(self, identifier, public_key)

    def destroy(self, identifier: UUID) -> "Future[None]":
        """Begin to destroy both halves of a key; refused (unavailable) if the token cannot be reached or hangs."""
        return self._thread.begin("destroy a key", lambda: self._destroy_surely(identifier), deadline=self._deadline)

    def check(self) -> str:
        """Reach the token and return what it says of itself; raise `Refused` (unavailable)."""

        def describe(session: Any) -> str:  # noqa: ANN401 - the library's own
            token = session.token
            return f"{self._label} by {token.manufacturer_id.strip() or 'an unnamed maker'}, {token.model.strip()}"

        return self._in_turn("be reached", describe)

    def close(self) -> None:
        """Leave the token: log out, and let go of the module; raise `Refused` (unavailable) if it hangs."""
        self._thread.call("be left", self._forget, deadline=self._deadline)

    def sign_hash(self, identifier: UUID, way: Way, digest: bytes) -> bytes:
        """Sign a hash, by rule 3; raise `Refused` (unavailable) if the key or the token is gone."""
        name = way.hash_algorithm.name

        def sign(session: Any) -> bytes:  # noqa: ANN401 - the library's own
            key = self._key(session, identifier)
            match way.scheme:
                case Scheme.ECDSA:
                    raw: bytes = key.sign(digest, mechanism=Mechanism.ECDSA)
                    half = len(raw) // 2
                    return encode_dss_signature(int.from_bytes(raw[:half]), int.from_bytes(raw[half:]))
                case Scheme.PKCS1:
                    return bytes(key.sign(_DIGEST_INFO[name] + digest, mechanism=Mechanism.RSA_PKCS))
                case _:
                    parameters = (*_PSS[name], way.hash_algorithm.digest_size)
                    return bytes(key.sign(digest, mechanism=Mechanism.RSA_PKCS_PSS, mechanism_param=parameters))

        return self._in_turn("sign", sign)

    def _make(self, session: Any, identifier: UUID, algorithm: KeyAlgorithm, bits: int) -> PublicKey:  # noqa: ANN401 - the library's own
        self._destroy(session, identifier)  # what an attempt that failed half way has left
        named = {"id": identifier.bytes, "label": f"doorward {identifier}", "store": True}
        if algorithm is KeyAlgorithm.RSA:
            made, private = session.generate_keypair(KeyType.RSA, bits, private_template=_NEVER_OUT, **named)
        else:
            curve = {Attribute.EC_PARAMS: encode_named_curve_parameters(_CURVES[algorithm])}
            domain = session.create_domain_parameters(KeyType.EC, curve, local=True)
            made, private = domain.generate_keypair(private_template=_NEVER_OUT, **named)
        try:
            public_key = _public_key(made, algorithm)
            self._keys[identifier] = private
            self._check_made(identifier, private, public_key)
        except BaseException:
            self._destroy(session, identifier)
            raise
        return public_key

    def _check_made(self, identifier: UUID, private: Any, public_key: PublicKey) -> None:  # noqa: ANN401 - the library's own
        if private[Attribute.EXTRACTABLE] or not private[Attribute.ALWAYS_SENSITIVE]:
            raise _unavailable(self._label, "make a key", "it says that its keys may leave it")
        is_rsa = isinstance(public_key, rsa.RSAPublicKey)
        algorithm = SigningAlgorithm.RSASSA_PKCS1_V1_5_SHA_256 if is_rsa else SigningAlgorithm.ECDSA_SHA_256
        signature = self.signer(identifier, public_key).sign_message(algorithm, _TEST_MESSAGE)
        if not verify_message(public_key, algorithm, _TEST_MESSAGE, signature):
            raise _unavailable(self._label, "make a key", "the key that it made does not sign")

    def _destroy_surely(self, identifier: UUID) -> None:
        """Destroy a key; a token that is away may look like an empty one until it is opened anew: so look twice."""
        if not self._do("destroy a key", lambda session: self._destroy(session, identifier)):
            self._forget()
            self._do("destroy a key", lambda session: self._destroy(session, identifier))

    def _destroy(self, session: Any, identifier: UUID) -> int:  # noqa: ANN401 - the library's own
        """Destroy what has this id and return how many objects that were."""
        self._keys.pop(identifier, None)
        destroyed = 0
        for kind in (ObjectClass.PRIVATE_KEY, ObjectClass.PUBLIC_KEY):
            for one in list(session.get_objects({Attribute.CLASS: kind, Attribute.ID: identifier.bytes})):
                one.destroy()
                destroyed += 1
        return destroyed

    def _key(self, session: Any, identifier: UUID) -> Any:  # noqa: ANN401 - the library's own
        found = self._keys.get(identifier)
        if found is None:
            found = session.get_key(object_class=ObjectClass.PRIVATE_KEY, id=identifier.bytes)
            self._keys[identifier] = found
        return found

    def _in_turn(self, what: str, act: Callable[[Any], T]) -> T:
        """Do one thing in the session when its turn comes (rule 5)."""
        return self._thread.call(what, lambda: self._do(what, act), deadline=self._deadline)

    def _do(self, what: str, act: Callable[[Any], T]) -> T:
        """Do one thing in the session, in the module's thread, by rules 6 and 7."""
        if self._refused_pin:
            raise _unavailable(self._label, what, "its PIN was refused, and is not tried again before a new start")
        was_open = self._session is not None and self._generation == self._module.generation
        try:
            return act(self._opened())
        except PKCS11Error as error:
            self._forget()
            self._judge(what, error, is_last=not was_open)
            _log.warning("the token %s is opened anew: it could not %s: %s", self._label, what, _said(error))
        try:
            return act(self._opened())
        except PKCS11Error as error:
            self._forget()
            self._judge(what, error, is_last=True)
            raise

    def _judge(self, what: str, error: PKCS11Error, *, is_last: bool) -> None:
        """Refuse what is not worth another try."""
        if isinstance(error, _WRONG_PIN):
            self._refused_pin = True
        if self._refused_pin or is_last:
            raise _unavailable(self._label, what, _said(error)) from error

    def _opened(self) -> Any:  # noqa: ANN401 - the library's own
        if self._session is None or self._generation != self._module.generation:
            self._keys.clear()
            token = self._module.entered().get_token(token_label=self._label)
            try:
                self._session = token.open(rw=True, user_pin=self._pin)
            except UserAlreadyLoggedIn:  # by a session of another object: it is the process that is logged in
                self._session = token.open(rw=True)
            self._generation = self._module.generation
        return self._session

    def _forget(self) -> None:
        self._keys.clear()
        session, self._session = self._session, None
        if session is not None and self._generation == self._module.generation:
            with suppress(PKCS11Error):
                session.close()
        self._module.leave()


class Pkcs11Signer:
    """A key of a token."""

    def __init__(self, token: Pkcs11Token, identifier: UUID, public_key: PublicKey) -> None:
        self._token = token
        self._identifier = identifier
        self.thread: Executor | None = token.thread
        self.public_key = public_key
        scheme: SignatureScheme = signature_scheme(public_key)
        self.algorithm = scheme.identifier
        kind = Scheme.PKCS1 if isinstance(public_key, rsa.RSAPublicKey) else Scheme.ECDSA
        self._way = Way(frozenset(), kind, scheme.hash_algorithm)

    def sign(self, data: bytes) -> bytes:
        """Sign `data` in the key's one way; raise `Refused` (unavailable) if the token is gone."""
        return self._token.sign_hash(self._identifier, self._way, _digest(self._way.hash_algorithm, data))

    def sign_message(self, algorithm: SigningAlgorithm, message: Message) -> bytes:
        """Sign a message by a named algorithm; raise `Refused` (unavailable) if the token is gone."""
        way = check_fits(algorithm, key_algorithm(self.public_key), message)
        digest = message.content if message.is_digest else _digest(way.hash_algorithm, message.content)
        return self._token.sign_hash(self._identifier, way, digest)


def _public_key(made: Any, algorithm: KeyAlgorithm) -> PublicKey:  # noqa: ANN401 - the library's own
    if algorithm is KeyAlgorithm.RSA:
        exponent, modulus = (int.from_bytes(made[name]) for name in (Attribute.PUBLIC_EXPONENT, Attribute.MODULUS))
        return rsa.RSAPublicNumbers(exponent, modulus).public_key()
    key = load_der_public_key(encode_ec_public_key(made))
    if not isinstance(key, ec.EllipticCurvePublicKey) or key_algorithm(key) is not algorithm:
        raise PKCS11Error("the token made a key of another curve")
    return key


def _digest(algorithm: HashAlgorithm, data: bytes) -> bytes:
    hashed = Hash(algorithm)
    hashed.update(data)
    return hashed.finalize()


def _said(error: PKCS11Error) -> str:
    return f"{type(error).__name__}: {error}" if str(error) else type(error).__name__


def _unavailable(label: str, what: str, why: str) -> Refused:
    return Refused(
        Kind.UNAVAILABLE,
        "A key of the hardware token cannot be used now.",
        reason=f"the token {label} could not {what}: {why}",
    )

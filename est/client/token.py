"""Keys of a device in a PKCS#11 token: made there, signing there, and never out of it.

1. A key is made sensitive and not extractable, and the token says that it always was so; else it is destroyed at once.
   It is of a curve or RSA. Which key it is has been decided before, so that what was made by whom was killed is found.
2. The token signs what was hashed here: ECDSA over a hash, RSA over a DigestInfo (RFC 8017 9.2) or by PSS (9.1).
3. A session lasts for one thing, and there is one at a time in a process: the library that is used initializes modules
   without locks, and two threads in one end the process. When something fails, the module is initialized anew and it is
   tried once more: so a token that was away serves again.
4. A PIN that was refused is not tried again by this process until its file says another, nor when the token says that
   one more wrong one would lock it: a device that watches for years would lock its own token otherwise.
5. Looking for a public key needs no PIN.

Needs `doorward[pkcs11]`.
"""

import threading
from collections.abc import Callable
from dataclasses import dataclass
from hashlib import sha256
from typing import Any, TypeVar

import pkcs11
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature
from cryptography.hazmat.primitives.hashes import SHA256, SHA384, SHA512, Hash, HashAlgorithm
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_der_public_key
from pkcs11 import MGF, Attribute, KeyType, Mechanism, ObjectClass, TokenFlag
from pkcs11.exceptions import (
    NoSuchKey,
    NoSuchToken,
    PinExpired,
    PinIncorrect,
    PinInvalid,
    PinLenRange,
    PinLocked,
    PKCS11Error,
)
from pkcs11.util.ec import encode_ec_public_key, encode_named_curve_parameters

from certs.errors import UNREADABLE
from certs.keys import KeyAlgorithm, key_algorithm
from est.client.keys import KeyKind, KeyUnusable, signature_algorithm
from est.client.token_uri import Token, TokenKey

_CURVES = {KeyKind.P256: "secp256r1", KeyKind.P384: "secp384r1", KeyKind.P521: "secp521r1"}
_RSA_BITS = {KeyKind.RSA2048: 2048, KeyKind.RSA3072: 3072, KeyKind.RSA4096: 4096}
_HASHES: dict[KeyAlgorithm, HashAlgorithm] = {
    KeyAlgorithm.P256: SHA256(),
    KeyAlgorithm.P384: SHA384(),
    KeyAlgorithm.P521: SHA512(),
    KeyAlgorithm.RSA: SHA256(),
}
_PSS = {
    "sha256": (Mechanism.SHA256, MGF.SHA256),
    "sha384": (Mechanism.SHA384, MGF.SHA384),
    "sha512": (Mechanism.SHA512, MGF.SHA512),
}
# RFC 8017 9.2, note 1: the DER of a DigestInfo with SHA-256, up to the digest.
_SHA256_DIGEST_INFO = bytes.fromhex("3031300d060960864801650304020105000420")
_NEVER_OUT = {Attribute.SENSITIVE: True, Attribute.EXTRACTABLE: False, Attribute.PRIVATE: True, Attribute.SIGN: True}
_WRONG_PIN = (PinIncorrect, PinInvalid, PinLenRange, PinLocked, PinExpired)

_ONE_AT_A_TIME = threading.RLock()
"""Held by whoever speaks with a module (rule 3)."""

_REFUSED_PINS: set[tuple[Token, bytes]] = set()
"""PINs that were refused, as SHA-256 (rule 4)."""

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class TokenSigner:
    """A key in a token: `est.client.keys.Signer`, and what TLS needs beside that."""

    key: TokenKey
    spki: bytes

    @property
    def algorithm(self) -> bytes:
        """The signature's AlgorithmIdentifier, in DER."""
        return signature_algorithm(self._algorithm())

    def sign(self, data: bytes) -> bytes:
        """Return the signature of `data`, as it stands in a certification request; raise `KeyUnusable`."""
        algorithm = self._algorithm()
        hasher = Hash(_HASHES[algorithm])
        hasher.update(data)
        digest = hasher.finalize()
        return self.pkcs1(_SHA256_DIGEST_INFO + digest) if algorithm is KeyAlgorithm.RSA else self.ecdsa(digest)

    def ecdsa(self, digest: bytes) -> bytes:
        """Return the signature of a hash, in DER (RFC 3279 2.2.3); raise `KeyUnusable`."""
        raw = self._sign(digest, mechanism=Mechanism.ECDSA)
        half = len(raw) // 2
        return encode_dss_signature(int.from_bytes(raw[:half]), int.from_bytes(raw[half:]))

    def pkcs1(self, digest_info: bytes) -> bytes:
        """Return the RSASSA-PKCS1-v1_5 signature of a DigestInfo; raise `KeyUnusable`."""
        return self._sign(digest_info, mechanism=Mechanism.RSA_PKCS)

    def pss(self, digest: bytes, hash_name: str) -> bytes:
        """Return the RSASSA-PSS signature of a hash, with a salt as long as that; raise `KeyUnusable`."""
        return self._sign(digest, mechanism=Mechanism.RSA_PKCS_PSS, mechanism_param=(*_PSS[hash_name], len(digest)))

    def _sign(self, data: bytes, **how: Any) -> bytes:  # noqa: ANN401 - the library's own
        return _with_pin(self.key.token, lambda session: bytes(_private(session, self.key).sign(data, **how)))

    def _algorithm(self) -> KeyAlgorithm:
        return key_algorithm(load_der_public_key(self.spki))


def open_key(key: TokenKey) -> TokenSigner:
    """Return the signer of a key that is in its token; raise `KeyUnusable` if it is not."""
    spki = find_public_key(key)
    if spki is None:
        raise KeyUnusable(f"the key {key} is not in the token")
    return TokenSigner(key, spki)


def make_key(key: TokenKey, kind: KeyKind) -> TokenSigner:
    """Return the signer of a key, which is made now if it is not in its token yet (rule 1).

    Whether the token makes such keys was looked at before (`check_token`).

    Raises:
        KeyUnusable: The token cannot be reached, or would let the key out.
    """

    def make(session: Any) -> bytes:  # noqa: ANN401 - the library's own
        try:
            return _spki(session.get_key(object_class=ObjectClass.PUBLIC_KEY, **_wanted(key)))
        except NoSuchKey:
            return _make(session, key, kind)

    return TokenSigner(key, _with_pin(key.token, make, writes=True))


def find_public_key(key: TokenKey) -> bytes | None:
    """Return the public key of a key, as DER of SubjectPublicKeyInfo; None if the token shows none without a PIN.

    Raises:
        KeyUnusable: The token cannot be reached.
    """

    def find(session: Any) -> bytes | None:  # noqa: ANN401 - the library's own
        try:
            return _spki(session.get_key(object_class=ObjectClass.PUBLIC_KEY, **_wanted(key)))
        except NoSuchKey:
            return None

    return _tried(key.token, lambda: _in_session(key.token, find, None))


def find_key(token: Token, label: str) -> TokenKey | None:
    """Return the key of this label, if the token has just one; raise `KeyUnusable` if it has several."""

    def find(session: Any) -> list[bytes]:  # noqa: ANN401 - the library's own
        wanted = {Attribute.CLASS: ObjectClass.PUBLIC_KEY, Attribute.LABEL: label}
        return [bytes(one[Attribute.ID]) for one in session.get_objects(wanted)]

    found = _tried(token, lambda: _in_session(token, find, None))
    if len(found) > 1:
        raise KeyUnusable(
            f"the token {token.label} has {len(found)} keys called {label}: write the one into device.uri"
        )
    return TokenKey(token, found[0] or None, label) if found else None


def check_token(token: Token, kind: KeyKind) -> None:
    """Log in to a token in which a key of this kind is to be made; raise `KeyUnusable` if none will be."""
    if kind not in _CURVES and kind not in _RSA_BITS:
        raise KeyUnusable(f"a token makes keys of curves and RSA, not {kind}")
    _with_pin(token, lambda _: None)


def check_key(key: TokenKey) -> None:
    """Log in and look for the private key; raise `KeyUnusable` if it cannot be used."""
    _with_pin(key.token, lambda session: _private(session, key))


def destroy_key(key: TokenKey) -> None:
    """Destroy both halves of a key, as far as they are there; raise `KeyUnusable` if the token cannot be reached."""
    _with_pin(key.token, lambda session: _destroy(session, key), writes=True)


def _wanted(key: TokenKey) -> dict[str, Any]:
    named = {"id": key.identifier, "label": key.label}
    return {name: value for name, value in named.items() if value is not None}


def _private(session: Any, key: TokenKey) -> Any:  # noqa: ANN401 - the library's own
    return session.get_key(object_class=ObjectClass.PRIVATE_KEY, **_wanted(key))


def _make(session: Any, key: TokenKey, kind: KeyKind) -> bytes:  # noqa: ANN401 - the library's own
    named = {**_wanted(key), "store": True, "private_template": _NEVER_OUT}
    if kind in _RSA_BITS:
        public, private = session.generate_keypair(KeyType.RSA, _RSA_BITS[kind], **named)
    else:
        curve = {Attribute.EC_PARAMS: encode_named_curve_parameters(_CURVES[kind])}
        public, private = session.create_domain_parameters(KeyType.EC, curve, local=True).generate_keypair(**named)
    if not _stays(private):
        _destroy(session, key)
        raise KeyUnusable(f"the token {key.token.label} does not say that its keys never leave it")
    return _spki(public)


def _stays(private: Any) -> bool:  # noqa: ANN401 - the library's own
    try:
        return bool(not private[Attribute.EXTRACTABLE] and private[Attribute.ALWAYS_SENSITIVE])
    except PKCS11Error:
        return False


def _destroy(session: Any, key: TokenKey) -> None:  # noqa: ANN401 - the library's own
    named = {Attribute.ID: key.identifier, Attribute.LABEL: key.label}
    wanted = {name: value for name, value in named.items() if value is not None}
    for kind in (ObjectClass.PRIVATE_KEY, ObjectClass.PUBLIC_KEY):
        for one in list(session.get_objects({Attribute.CLASS: kind, **wanted})):
            one.destroy()


def _spki(public: Any) -> bytes:  # noqa: ANN401 - the library's own
    if public.key_type is not KeyType.RSA:
        return bytes(encode_ec_public_key(public))
    exponent, modulus = (int.from_bytes(public[name]) for name in (Attribute.PUBLIC_EXPONENT, Attribute.MODULUS))
    key = rsa.RSAPublicNumbers(exponent, modulus).public_key()
    return key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)


def _with_pin(token: Token, act: Callable[[Any], T], *, writes: bool = False) -> T:
    """Do one thing, logged in, by rules 3 and 4."""
    try:
        pin = token.pin_file.read_text().strip()
    except OSError as error:
        raise KeyUnusable(f"the PIN cannot be read from {token.pin_file}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise KeyUnusable(f"{token.pin_file} holds no PIN") from error
    fingerprint = (token, sha256(pin.encode()).digest())
    if fingerprint in _REFUSED_PINS:
        raise KeyUnusable(
            f"the token {token.label} refused the PIN in {token.pin_file}; it is not tried again until the file says "
            "another"
        )

    def log_in() -> T:
        if _token(token).flags & TokenFlag.USER_PIN_FINAL_TRY:
            raise KeyUnusable(
                f"the token {token.label} says that one more wrong PIN locks it: log in once by other means, so that "
                "it counts anew"
            )
        try:
            return _in_session(token, act, pin, writes=writes)
        except _WRONG_PIN as error:
            _REFUSED_PINS.add(fingerprint)
            raise KeyUnusable(f"the token {token.label} refused the PIN in {token.pin_file}: {_said(error)}") from error

    return _tried(token, log_in)


def _tried(token: Token, act: Callable[[], T]) -> T:
    """Do one thing, twice if need be (rule 3); turn whatever the token says into `KeyUnusable`."""
    if not token.module.exists():
        raise KeyUnusable(f"there is no module {token.module}")
    with _ONE_AT_A_TIME:
        try:
            return act()
        except NoSuchKey as error:
            raise KeyUnusable(f"the token {token.label} has no such key") from error
        except (PKCS11Error, RuntimeError):
            pass
        try:
            pkcs11.lib(str(token.module)).reinitialize()
            return act()
        except NoSuchToken as error:
            raise KeyUnusable(f"the module {token.module} has no token called {token.label}") from error
        except (PKCS11Error, RuntimeError, OSError, *UNREADABLE) as error:
            raise KeyUnusable(f"the token {token.label} cannot be used: {_said(error)}") from error


def _in_session(token: Token, act: Callable[[Any], T], pin: str | None, *, writes: bool = False) -> T:
    with _token(token).open(rw=writes, user_pin=pin) as session:
        return act(session)


def _token(token: Token) -> Any:  # noqa: ANN401 - the library's own
    return pkcs11.lib(str(token.module)).get_token(token_label=token.label)


def _said(error: Exception) -> str:
    if type(error) is PKCS11Error:  # which has no name of its own, but a sentence
        return str(error)
    return f"{type(error).__name__}: {error}" if str(error) else type(error).__name__

"""A device's own key in a PKCS#11 token: made there, signing requests there, and never out of it.

1. A device has one key in its token, named by the device's identifier; asked for again, it is the same one. It is made
   sensitive and not extractable, and of a curve or RSA.
2. The token signs hashes that are made here: ECDSA over a hash, RSA over a DigestInfo (RFC 8017 9.2).
3. What is not possible here is TLS with such a key. The OpenSSL inside of the `cryptography` wheel, which pyOpenSSL
   uses, loads neither engines nor providers, and the standard `ssl` takes keys from files alone. So a first enrolment
   (with a bootstrap certificate, a secret or a token) works, and renewing is for a TLS stack that can reach the token.

Needs `doorward[pkcs11]`.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pkcs11
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature
from cryptography.hazmat.primitives.hashes import SHA256, SHA384, SHA512, Hash, HashAlgorithm
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_der_public_key
from pkcs11 import Attribute, KeyType, Mechanism, ObjectClass
from pkcs11.exceptions import NoSuchKey, PKCS11Error
from pkcs11.util.ec import encode_ec_public_key, encode_named_curve_parameters

from certs.keys import KeyAlgorithm, key_algorithm
from est.client.keys import KeyKind, KeyUnusable, signature_algorithm

_CURVES = {KeyKind.P256: "secp256r1", KeyKind.P384: "secp384r1", KeyKind.P521: "secp521r1"}
_RSA_BITS = {KeyKind.RSA2048: 2048, KeyKind.RSA3072: 3072, KeyKind.RSA4096: 4096}
_HASHES: dict[KeyAlgorithm, HashAlgorithm] = {
    KeyAlgorithm.P256: SHA256(),
    KeyAlgorithm.P384: SHA384(),
    KeyAlgorithm.P521: SHA512(),
    KeyAlgorithm.RSA: SHA256(),
}
# RFC 8017 9.2, note 1: the DER of a DigestInfo with SHA-256, up to the digest.
_SHA256_DIGEST_INFO = bytes.fromhex("3031300d060960864801650304020105000420")
_NEVER_OUT = {Attribute.SENSITIVE: True, Attribute.EXTRACTABLE: False, Attribute.PRIVATE: True, Attribute.SIGN: True}


@dataclass(frozen=True, slots=True)
class Token:
    """A token, reached through a vendor's module."""

    module: Path
    label: str
    pin: str = field(repr=False)

    def key(self, device: str, kind: KeyKind) -> "TokenSigner":
        """Return the device's key, made now if there is none yet (rule 1).

        Raises:
            KeyUnusable: The token cannot be reached, or does not make such keys.
        """
        with self.session() as session:
            try:
                found = session.get_key(object_class=ObjectClass.PUBLIC_KEY, label=_named(device))
            except NoSuchKey:
                found = _make(session, device, kind)
            spki = _spki(found)
        return TokenSigner(self, device, spki)

    def uri(self, device: str) -> str:
        """Return where the device's key is (RFC 7512), for programs that can use it."""
        return f"pkcs11:token={quote(self.label)};object={quote(_named(device))};type=private"

    @contextmanager
    def session(self) -> Iterator[Any]:
        """Log in; turn whatever the token says into `KeyUnusable`."""
        try:
            token = pkcs11.lib(str(self.module)).get_token(token_label=self.label)
            with token.open(rw=True, user_pin=self.pin) as session:
                yield session
        except (PKCS11Error, RuntimeError, OSError) as error:
            words = str(error) or type(error).__name__
            raise KeyUnusable(f"the token {self.label} cannot be used: {words}") from error


@dataclass(frozen=True, slots=True)
class TokenSigner:
    """A device's key in a token: `est.client.keys.Signer`."""

    token: Token
    device: str
    spki: bytes

    @property
    def algorithm(self) -> bytes:
        """The signature's AlgorithmIdentifier, in DER."""
        return signature_algorithm(self._algorithm())

    def sign(self, data: bytes) -> bytes:
        """Return the signature of `data`, by rule 2; raise `KeyUnusable`."""
        algorithm = self._algorithm()
        hasher = Hash(_HASHES[algorithm])
        hasher.update(data)
        digest = hasher.finalize()
        with self.token.session() as session:
            key = session.get_key(object_class=ObjectClass.PRIVATE_KEY, label=_named(self.device))
            if algorithm is KeyAlgorithm.RSA:
                return bytes(key.sign(_SHA256_DIGEST_INFO + digest, mechanism=Mechanism.RSA_PKCS))
            raw: bytes = key.sign(digest, mechanism=Mechanism.ECDSA)
        half = len(raw) // 2
        return encode_dss_signature(int.from_bytes(raw[:half]), int.from_bytes(raw[half:]))

    def _algorithm(self) -> KeyAlgorithm:
        return key_algorithm(load_der_public_key(self.spki))


def _named(device: str) -> str:
    return f"doorward {device}"


def _make(session: Any, device: str, kind: KeyKind) -> Any:  # noqa: ANN401 - the library's own
    named = {"label": _named(device), "store": True, "private_template": _NEVER_OUT}
    if kind in _RSA_BITS:
        made, _ = session.generate_keypair(KeyType.RSA, _RSA_BITS[kind], **named)
        return made
    if kind not in _CURVES:
        raise KeyUnusable(f"a token makes keys of curves and RSA, not {kind}")
    curve = {Attribute.EC_PARAMS: encode_named_curve_parameters(_CURVES[kind])}
    made, _ = session.create_domain_parameters(KeyType.EC, curve, local=True).generate_keypair(**named)
    return made


def _spki(public: Any) -> bytes:  # noqa: ANN401 - the library's own
    if public.key_type is KeyType.RSA:
        exponent, modulus = (int.from_bytes(public[name]) for name in (Attribute.PUBLIC_EXPONENT, Attribute.MODULUS))
        key: rsa.RSAPublicKey | ec.EllipticCurvePublicKey = rsa.RSAPublicNumbers(exponent, modulus).public_key()
        return key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    return bytes(encode_ec_public_key(public))

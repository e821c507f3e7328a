"""The keys that sign tokens, and their life: published, signing, verifying, gone.

The rules:

1. A key is published before it signs, by `overlap`: until then every node and relying party has had time to read it.
2. The newest key whose time to sign has come signs. Where none's has come, by a clock that was set back or a node that
   is ahead, the one that comes first signs: sign-ins do not wait for clocks.
3. A key signs for the period `every`, and verifies until the last token that it signed has expired. It could sign for a
   second period, so that a late rotation stops nobody; then it stops, since no token outlives its key.
4. A key that verifies nothing any more is deleted. A row is never changed.
5. The name of a key is the thumbprint of its public half (RFC 7638): equal keys have equal names on every node.
6. The private half leaves this module only opened, for signing, or sealed, for the store.
"""

import base64
import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Final

import orjson
from cryptography.hazmat.primitives.asymmetric.ec import (
    SECP256R1,
    EllipticCurvePrivateKey,
    EllipticCurvePublicKey,
    EllipticCurvePublicNumbers,
    derive_private_key,
)
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_der_private_key,
)

from iam.errors import Kind, Refused
from iam.identifiers import Random
from iam.sealing import MasterKey, open_sealed, seal
from iam.tokens import ALGORITHM, TokenSigningKey, base64url

Jwk = dict[str, str]
"""A public key as a JSON Web Key (RFC 7517); all members used here are text."""

_COORDINATE_BYTES: Final = 32
_ORDER: Final = 0xFFFFFFFF_00000000_FFFFFFFF_FFFFFFFF_BCE6FAAD_A7179E84_F3B9CAC2_FC632551
_THUMBPRINT_MEMBERS: Final = {"EC": ("crv", "kty", "x", "y"), "OKP": ("crv", "kty", "x"), "RSA": ("e", "kty", "n")}


@dataclass(frozen=True, slots=True)
class TokenKey:
    """A key of the set, as it is stored.

    Attributes:
        sealed: The private half, PKCS#8 in DER under the master key.
        created: Since when it is published.
        verifies_to: When it leaves the set.
    """

    kid: str
    public_jwk: Jwk = field(hash=False)
    sealed: bytes = field(repr=False)
    created: datetime
    signs_from: datetime
    verifies_to: datetime


@dataclass(frozen=True, slots=True)
class NewKey:
    """When a key that is to be made signs and verifies."""

    signs_from: datetime
    verifies_to: datetime


@dataclass(frozen=True, slots=True)
class Plan:
    """What is to be done to the set now.

    Attributes:
        retire: The names of those to delete.
    """

    create: NewKey | None
    retire: tuple[str, ...]


def plan_rotation(
    keys: Iterable[TokenKey], now: datetime, *, every: timedelta, overlap: timedelta, longest_token: timedelta
) -> Plan:
    """Say what is to be done to the set now (rules 1, 3 and 4).

    Args:
        every: How long a key signs.
        overlap: How long it is published before it does.
        longest_token: The longest lifetime of a token.
    """
    keys = tuple(keys)
    retire = tuple(sorted(key.kid for key in keys if key.verifies_to <= now))
    able = _able_to_sign(keys, now, longest_token)
    if not able:
        return Plan(_new_key(now, every, longest_token), retire)
    newest = max(able, key=_order)
    signs_to = newest.verifies_to - longest_token
    if now + overlap < min(newest.signs_from + every, signs_to):
        return Plan(None, retire)
    return Plan(_new_key(min(now + overlap, signs_to), every, longest_token), retire)


def make_key(master: MasterKey, new: NewKey, *, now: datetime, random: Random) -> TokenKey:
    """Return a new key with its private half sealed."""
    # FIPS 186-5 A.2.1: 64 bits more than the order has, so that the remainder is not biased.
    private = derive_private_key(int.from_bytes(random(_COORDINATE_BYTES + 8)) % (_ORDER - 1) + 1, SECP256R1())
    jwk = _public_jwk(private.public_key())
    pkcs8 = private.private_bytes(Encoding.DER, PrivateFormat.PKCS8, NoEncryption())
    return TokenKey(
        kid=jwk["kid"],
        public_jwk=jwk,
        sealed=seal(master, pkcs8, context=_context(jwk["kid"]), random=random),
        created=now,
        signs_from=new.signs_from,
        verifies_to=new.verifies_to,
    )


def open_key(master: MasterKey, key: TokenKey) -> TokenSigningKey:
    """Return the key opened, for signing.

    Raises:
        Refused: (unavailable) The master key does not open it, or what it opens to is not this key.
    """
    private = load_der_private_key(open_sealed(master, key.sealed, context=_context(key.kid)), None)
    if not isinstance(private, EllipticCurvePrivateKey) or _public_jwk(private.public_key())["kid"] != key.kid:
        raise Refused(
            Kind.UNAVAILABLE, "No token can be made now.", reason=f"the token key {key.kid} seals another key"
        )
    return TokenSigningKey(key.kid, private, key.verifies_to)


def signing_key(keys: Iterable[TokenKey], now: datetime, *, longest_token: timedelta) -> TokenKey:
    """Return the key that signs now (rules 2 and 3).

    Raises:
        Refused: (unavailable) None can.
    """
    able = _able_to_sign(keys, now, longest_token)
    if not able:
        raise Refused(Kind.UNAVAILABLE, "No token can be made now.", reason="no token key can sign now")
    begun = [key for key in able if key.signs_from <= now]
    return max(begun, key=_order) if begun else min(able, key=_order)


def jwks(keys: Iterable[TokenKey], now: datetime) -> dict[str, list[Jwk]]:
    """Return the JWK set to publish (RFC 7517 5): each key that verifies now or will, oldest first."""
    return {"keys": [key.public_jwk for key in _published(keys, now)]}


def verifying_keys(keys: Iterable[TokenKey], now: datetime) -> dict[str, EllipticCurvePublicKey]:
    """Return the public keys of the set by `kid`, for `iam.tokens.verify_token`."""
    return {key.kid: public_key_from(key.public_jwk) for key in _published(keys, now)}


def public_key_from(jwk: Mapping[str, str]) -> EllipticCurvePublicKey:
    """Return the key of a JWK that this module wrote (RFC 7518 6.2.1)."""
    x, y = (int.from_bytes(base64.urlsafe_b64decode(jwk[name] + "=")) for name in ("x", "y"))
    return EllipticCurvePublicNumbers(x, y, SECP256R1()).public_key()


def thumbprint(jwk: Mapping[str, str]) -> str:
    """Return the SHA-256 thumbprint of a JWK (RFC 7638 3; RFC 8037 2 for OKP)."""
    required = {name: jwk[name] for name in _THUMBPRINT_MEMBERS[jwk["kty"]]}  # in lexicographic order
    return base64url(hashlib.sha256(orjson.dumps(required)).digest())


def _public_jwk(public: EllipticCurvePublicKey) -> Jwk:
    numbers = public.public_numbers()
    x, y = (base64url(number.to_bytes(_COORDINATE_BYTES)) for number in (numbers.x, numbers.y))
    jwk = {"kty": "EC", "crv": "P-256", "x": x, "y": y}
    return jwk | {"kid": thumbprint(jwk), "alg": ALGORITHM, "use": "sig"}


def _new_key(signs_from: datetime, every: timedelta, longest_token: timedelta) -> NewKey:
    return NewKey(signs_from, signs_from + 2 * every + longest_token)


def _able_to_sign(keys: Iterable[TokenKey], now: datetime, longest_token: timedelta) -> Sequence[TokenKey]:
    """Return the keys that outlive a token made now."""
    return [key for key in keys if now + longest_token <= key.verifies_to]


def _published(keys: Iterable[TokenKey], now: datetime) -> Sequence[TokenKey]:
    return sorted((key for key in keys if key.verifies_to > now), key=_order)


def _order(key: TokenKey) -> tuple[datetime, str]:
    return key.signs_from, key.kid


def _context(kid: str) -> str:
    return f"token-key:{kid}"

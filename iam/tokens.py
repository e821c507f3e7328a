"""Access tokens: JWTs by RFC 9068, signed with ES256 by a key of our own set.

The rules of a token that is made:

1. It is shorter than 3 KB. A list of more than 64 devices or services is left out; so is, if the token is still too
   long, one claim after the other of `_SHED`. Each claim `x` that is left out has `x_from: "token/info"` in its place.
2. It does not outlive the key that verifies it.
3. What it says of permissions and devices is a hint for clients. The server decides by `iam.access` alone.

The rules of a token that is taken (RFC 8725):

4. At most 8 KB: three parts of base64url, each in its one canonical spelling, without padding.
5. Header and claims are JSON objects in the one spelling in which `mint` writes them: compact, UTF-8 without a byte
   order mark, no member twice at any depth. Only our own tokens are taken, so nothing that is honest is lost.
6. The header has `typ`, `alg` and `kid` and nothing else: no `crit`, no `jwk`, `jku`, `x5u` or `x5c`.
7. `typ` is `at+jwt`; `alg` is that of all keys of the set; `kid` names one of them, exactly.
8. The signature has 64 bytes and verifies.
9. `iss` and `aud` are equal to what is expected, `aud` being one string. Times are integers; `iat`, and `nbf` if there
   is one, are not in the future by more than the leeway; `exp` is after `iat` and after now, without leeway.

The signature is checked with `cryptography` directly: PyJWT takes twice the time, and reads its own clock for `exp`.
"""

import base64
import binascii
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any, Final
from uuid import UUID

import orjson
from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePrivateKey, EllipticCurvePublicKey

from certs.errors import quoted
from iam.access import Access
from iam.errors import Kind, Refused, unauthenticated
from iam.model import Extent
from iam.public_keys import Invalid, sign_es256, verify_es256

TOKEN_TYPE: Final = "at+jwt"  # noqa: S105 - a media type (RFC 9068 2.1), not a secret
ALGORITHM: Final = "ES256"
SHORTER_THAN: Final = 3 * 1024
LONGEST_TAKEN: Final = 8 * 1024
LONGEST_LIST: Final = 64
CLOCK_SKEW: Final = timedelta(seconds=5)

_ASK_AT: Final = "token/info"
_SHED: Final = ("res", "devices", "services", "permissions", "scope", "roles")
_HEADER_MEMBERS: Final = {"typ", "alg", "kid"}
_SIGNATURE_CHARACTERS: Final = 86
_KEY_ID_CHARACTERS: Final = 43
_LATEST_TIME: Final = int(datetime(9999, 12, 31, tzinfo=UTC).timestamp())

Claims = dict[str, Any]
"""The claims of a token: JSON values by name."""


@dataclass(frozen=True, slots=True)
class TokenSigningKey:
    """A key that signs tokens, opened.

    Attributes:
        kid: The thumbprint of its public half (RFC 7638).
        verifies_to: When its public half leaves the key set.
    """

    kid: str
    private: EllipticCurvePrivateKey
    verifies_to: datetime


@dataclass(frozen=True, slots=True)
class VerifiedToken:
    """What a token says, its signature and times having been checked. Whether its session still lives is not said here.

    Attributes:
        subject: The identity's id.
        tenant: The tenant's id.
        methods: How the identity proved itself, as `amr` values (RFC 8176).
        claims: All of them.
    """

    subject: str
    session: UUID
    jti: UUID
    issued: datetime
    expires: datetime
    tenant: UUID
    methods: tuple[str, ...]
    client_id: str
    claims: Claims = field(hash=False)


def claims_for(  # noqa: PLR0913 - each argument is a claim
    access: Access,
    *,
    issuer: str,
    audience: str,
    client_id: str,
    session: UUID,
    methods: Sequence[str],
    now: datetime,
    lifetime: timedelta,
    jti: UUID,
    authenticated: datetime | None = None,
) -> Claims:
    """Return the claims of a token for `access`, short enough by rule 1.

    `scope` holds the names of the roles and `res` the devices, for clients that know only these two; they repeat
    `roles` and `devices`.

    Args:
        authenticated: When the identity proved itself (`auth_time`); now, if not said.
    """
    issued = int(now.timestamp())
    roles = sorted(grant.role.name for grant in access.grants)
    devices = _reach(access.devices)
    claims: Claims = {
        "iss": issuer,
        "sub": access.identity.id,
        "aud": audience,
        "client_id": client_id,
        "exp": issued + int(lifetime.total_seconds()),
        "iat": issued,
        "jti": str(jti),
        "sid": str(session),
        "tenant": access.tenant.name,
        "tenant_id": str(access.tenant.id),
        "identity_type": access.identity.type.value,
        "amr": list(methods),
        "auth_time": int((authenticated or now).timestamp()),
        "roles": roles,
        "scope": " ".join(roles),
        "permissions": [
            {"resource": resource, "actions": sorted(actions)}
            for resource, actions in sorted(access.permissions.items())
        ],
        "devices": devices,
        "services": _reach(access.services),
        "res": devices,
    }
    return _shortened(claims)


def mint(claims: Claims, key: TokenSigningKey) -> str:
    """Return the token with these claims, signed.

    Raises:
        Refused: (unavailable) The key leaves the set before the token expires, or the token would be too long.
    """
    if claims["exp"] > key.verifies_to.timestamp():
        raise _cannot_sign(
            f"the key {key.kid} leaves the set before a token of {claims['exp'] - claims['iat']} s expires"
        )
    signed = f"{_header(key.kid)}.{base64url(orjson.dumps(claims))}"
    token = f"{signed}.{base64url(sign_es256(key.private, signed.encode()))}"
    if len(token) >= SHORTER_THAN:
        raise _cannot_sign(
            f"the token has {len(token)} bytes even without its lists: issuer, audience, client too long"
        )
    return token


def verify_token(
    token: str,
    keys: Mapping[str, EllipticCurvePublicKey],
    *,
    issuer: str,
    audience: str,
    now: datetime,
    leeway: timedelta = CLOCK_SKEW,
) -> VerifiedToken:
    """Return what an access token says, if it is one of ours and holds now (rules 4 to 9).

    Args:
        keys: The public keys of the set, by `kid`.
        leeway: How far another node's clock may be ahead of ours.

    Raises:
        Refused: (unauthenticated) The reason says which rule it breaks.
    """
    header, claims, signed, signature = _read(token)
    if isinstance(verdict := verify_es256(_key_for(header, keys), signature, signed), Invalid):
        raise unauthenticated(f"token: {verdict.reason}")
    for name, expected in (("iss", issuer), ("aud", audience)):
        if claims.get(name) != expected:
            raise unauthenticated(f"token: {name} is {_shown(claims.get(name))}, expected is {expected}")
    issued, expires = _time(claims, "iat"), _time(claims, "exp")
    present, latest = now.timestamp(), (now + leeway).timestamp()
    if expires <= present:
        raise unauthenticated(f"token: expired {present - expires:.0f} s ago")
    if expires <= issued:
        raise unauthenticated("token: it expires before it was issued")
    for name in ("iat", "nbf"):
        if name in claims and _time(claims, name) > latest:
            raise unauthenticated(f"token: {name} is {_time(claims, name) - present:.0f} s in the future")
    try:
        return VerifiedToken(
            subject=_text(claims, "sub"),
            session=UUID(_text(claims, "sid")),
            jti=UUID(_text(claims, "jti")),
            issued=datetime.fromtimestamp(issued, UTC),
            expires=datetime.fromtimestamp(expires, UTC),
            tenant=UUID(_text(claims, "tenant_id")),
            methods=_texts(claims, "amr"),
            client_id=_text(claims, "client_id"),
            claims=claims,
        )
    except ValueError as error:
        raise unauthenticated(f"token: an id among its claims cannot be read: {error}") from error


def is_issued_by(token: str, issuer: str) -> bool:
    """Tell whether a token says that it is an issuer's, by rules 4 and 5: it may have ended, or be forged."""
    try:
        _, claims, _, _ = _read(token)
    except Refused:
        return False
    return claims.get("iss") == issuer


def base64url(value: bytes) -> str:
    """Return base64url without padding (RFC 7515 2)."""
    return base64.urlsafe_b64encode(value).rstrip(b"=").decode()


def _read(token: str) -> tuple[Claims, Claims, bytes, bytes]:
    """Take a token apart by rules 4 and 5: header, claims, what is signed, signature."""
    if len(token) > LONGEST_TAKEN:
        raise unauthenticated(f"token: {len(token)} characters, at most {LONGEST_TAKEN} are taken")
    if not token.isascii():
        raise unauthenticated("token: it is not ASCII")
    parts = token.encode().split(b".")
    if len(parts) != 3:  # noqa: PLR2004 - header, claims, signature (RFC 7515 3.1)
        raise unauthenticated(f"token: {len(parts)} parts instead of three")
    header, claims, signature = parts
    return _json(header, "header"), _json(claims, "claims"), header + b"." + claims, _decoded(signature, "signature")


def _decoded(part: bytes, what: str) -> bytes:
    try:
        value = base64.urlsafe_b64decode(part + b"=" * (-len(part) % 4))
    except binascii.Error as error:
        raise unauthenticated(f"token: its {what} is not base64url") from error
    # The decoder lets much pass: other alphabets, whitespace, stray bits. None of it is written back.
    if base64.urlsafe_b64encode(value).rstrip(b"=") != part:
        raise unauthenticated(f"token: its {what} is not canonical base64url")
    return value


def _json(part: bytes, what: str) -> Claims:
    text = _decoded(part, what)
    try:
        value = orjson.loads(text)
    except orjson.JSONDecodeError as error:
        raise unauthenticated(f"token: its {what} is not JSON") from error
    if not isinstance(value, dict):
        raise unauthenticated(f"token: its {what} is not a JSON object")
    if orjson.dumps(value) != text:
        raise unauthenticated(f"token: its {what} names a member twice, or is not compact JSON")
    return value


def _key_for(header: Claims, keys: Mapping[str, EllipticCurvePublicKey]) -> EllipticCurvePublicKey:
    """Return the key that a header names, by rules 6 and 7."""
    if strange := header.keys() - _HEADER_MEMBERS:
        raise unauthenticated(f"token: its header holds {_shown(min(strange))}")
    if header.get("typ") != TOKEN_TYPE:
        raise unauthenticated(f"token: typ is {_shown(header.get('typ'))}, not {TOKEN_TYPE}")
    if header.get("alg") != ALGORITHM:
        raise unauthenticated(f"token: alg is {_shown(header.get('alg'))}, not {ALGORITHM}")
    kid = header.get("kid")
    key = keys.get(kid) if isinstance(kid, str) else None
    if key is None:
        raise unauthenticated(f"token: no key of the set is {_shown(kid)}")
    return key


def _time(claims: Claims, name: str) -> int:
    value = claims.get(name)
    if type(value) is not int or not 0 <= value <= _LATEST_TIME:  # a bool is no time
        raise unauthenticated(f"token: {name} is {_shown(value)}, not a time in whole seconds")
    return value


def _text(claims: Claims, name: str) -> str:
    value = claims.get(name)
    if not isinstance(value, str) or not value:
        raise unauthenticated(f"token: {name} is {_shown(value)}, not a text")
    return value


def _texts(claims: Claims, name: str) -> tuple[str, ...]:
    value = claims.get(name)
    if not isinstance(value, list) or not all(isinstance(one, str) for one in value):
        raise unauthenticated(f"token: {name} is {_shown(value)}, not a list of texts")
    return tuple(value)


def _shown(value: object) -> str:
    return "missing" if value is None else quoted(str(value))


def _reach(extent: Extent) -> str | list[str]:
    return "*" if extent.everything else sorted(extent.names)


def _shortened(claims: Claims) -> Claims:
    """Leave out what rule 1 leaves out."""
    left_out = [name for name in _SHED if isinstance(claims[name], list) and len(claims[name]) > LONGEST_LIST]
    shorter = _without(claims, left_out)
    for name in _SHED:
        if len(orjson.dumps(shorter)) <= _LONGEST_CLAIMS:
            break
        if name not in left_out:
            left_out.append(name)
            shorter = _without(claims, left_out)
    return shorter


def _without(claims: Claims, left_out: Sequence[str]) -> Claims:
    kept = {name: value for name, value in claims.items() if name not in left_out}
    return kept | {f"{name}_from": _ASK_AT for name in sorted(left_out)}


def _header(kid: str) -> str:
    return base64url(orjson.dumps({"typ": TOKEN_TYPE, "alg": ALGORITHM, "kid": kid}))


def _cannot_sign(reason: str) -> Refused:
    return Refused(Kind.UNAVAILABLE, "No token can be made now.", reason=reason)


_LONGEST_CLAIMS: Final = (
    (SHORTER_THAN - 1 - len(_header("k" * _KEY_ID_CHARACTERS)) - _SIGNATURE_CHARACTERS - len("..")) * 3 // 4
)
"""In bytes of JSON: what is left of a token's length for its claims."""

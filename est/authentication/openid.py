"""Tokens of an external OpenID issuer: finding its keys, and believing a token by them (RFC 8725).

The rules of a token that is taken:

1. At most 8 KB, three parts of canonical base64url; header and claims are JSON objects that name no member twice.
2. `alg` is one that the label allows, and fits the key by kind and curve. `typ` is `JWT` or `at+jwt`, or is not there.
   No `crit`, and nothing in the header that brings a key along (`jwk`, `jku`, `x5u`, `x5c`).
3. `kid` names a key of the issuer exactly; without one, the issuer must have a single key of that kind.
4. `iss` is the issuer's, exactly. `aud` is the label's audience or a list that holds it.
5. `sub`, if it is there, is 1 to 255 printable characters (OpenID Connect Core 1.0, 2): it is written into the audit.
6. Times are whole seconds: `exp` is there and has not come; `nbf` and `iat` are not in the future beyond `CLOCK_SKEW`.

The rules of its keys:

7. They come over HTTPS from `jwks_uri`, or from where the issuer's discovery document says, if that names the same
   issuer; only by the roots that the label names, if it names any.
8. They are believed for `FRESH_FOR`. A `kid` that is not among them has them read again, at most once in
   `READ_AGAIN_AFTER`: so a rotation is found at once, and nobody makes us ask at every token.
9. If the issuer does not answer, keys that are known serve until `STALE_AFTER`; after that nothing is believed.
10. Requests at once share one reading. What one label's trust has read serves no other trust.
"""

import asyncio
import binascii
import json
from base64 import urlsafe_b64decode, urlsafe_b64encode
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Final

from certs.errors import quoted
from est.authentication.json_web_keys import ALGORITHMS, PublicWebKey, read_keys
from est.authentication.outbound import Incoming, Outbound, Outgoing, Unanswered
from est.profiles import OpenIdTrust
from iam.access import Denied

LONGEST_TOKEN: Final = 8 * 1024
LONGEST_SUBJECT: Final = 255
CLOCK_SKEW: Final = timedelta(seconds=30)
FRESH_FOR: Final = timedelta(minutes=10)
READ_AGAIN_AFTER: Final = timedelta(seconds=30)
STALE_AFTER: Final = timedelta(hours=1)
DEADLINE: Final = timedelta(seconds=5)

_CAPACITY: Final = 256
_TYPES: Final = frozenset({"jwt", "at+jwt", "application/at+jwt"})
_BRINGS_A_KEY: Final = frozenset({"jwk", "jku", "x5u", "x5c", "crit"})
_OK: Final = 200
_PARTS: Final = 3
_DISCOVERY: Final = "/.well-known/openid-configuration"

Claims = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Unjudged:
    """Whether the token is good cannot be told now, and why."""

    reason: str


@dataclass(slots=True)
class _Held:
    """The keys of an issuer, when they were read, and when they were last asked for."""

    keys: tuple[PublicWebKey, ...]
    read: datetime | None
    asked: datetime | None
    lock: asyncio.Lock


class Issuers:
    """The issuers that labels trust, with their keys."""

    def __init__(self, outbound: Outbound) -> None:
        self._outbound = outbound
        self._held: OrderedDict[OpenIdTrust, _Held] = OrderedDict()

    async def claims(self, token: str, trust: OpenIdTrust, now: datetime) -> Claims | Denied | Unjudged:
        """Return what a token says if it is one of that issuer's and holds now."""
        read = _read(token)
        if isinstance(read, Denied):
            return read
        header = _check_header(read.header, trust)
        if isinstance(header, Denied):
            return header
        found = await self._key(trust, header, now)
        if isinstance(found, Denied | Unjudged):
            return found
        if not found.verifies(header.algorithm, read.signature, read.signed):
            return Denied("the token's signature does not verify")
        return _check_claims(read.claims, trust, now)

    async def _key(self, trust: OpenIdTrust, header: "_Header", now: datetime) -> PublicWebKey | Denied | Unjudged:
        held = self._of(trust)
        async with held.lock:
            if held.read is None or not timedelta(0) <= now - held.read < FRESH_FOR:
                await self._read_again(trust, held, now)
            found = _named(held.keys, header)
            if found is None and await self._read_again(trust, held, now):
                found = _named(held.keys, header)
            if held.read is None or not timedelta(0) <= now - held.read < STALE_AFTER:
                return Unjudged(f"the keys of {trust.issuer} cannot be read, or are too old")
        return found or Denied(f"{trust.issuer} has no key {quoted(header.kid or '')} for {header.algorithm}")

    def _of(self, trust: OpenIdTrust) -> _Held:
        held = self._held.setdefault(trust, _Held((), None, None, asyncio.Lock()))
        self._held.move_to_end(trust)
        while len(self._held) > _CAPACITY:
            self._held.popitem(last=False)
        return held

    async def _read_again(self, trust: OpenIdTrust, held: _Held, now: datetime) -> bool:
        """Read the issuer's keys unless that was tried just before (rule 8); tell whether they were read."""
        if held.asked is not None and timedelta(0) <= now - held.asked < READ_AGAIN_AFTER:
            return False
        held.asked = now
        keys = await self._fetch_keys(trust)
        if isinstance(keys, Unanswered):
            return False
        held.keys, held.read = keys, now
        return True

    async def _fetch_keys(self, trust: OpenIdTrust) -> tuple[PublicWebKey, ...] | Unanswered:
        address = trust.jwks_uri
        if address is None:
            document = await self._fetch(trust.issuer.rstrip("/") + _DISCOVERY, trust)
            if isinstance(document, Unanswered):
                return document
            if document.get("issuer") != trust.issuer:  # OpenID Connect Discovery 1.0, 4.3
                return Unanswered("the discovery document names another issuer")
            address = document.get("jwks_uri")
            if not isinstance(address, str):
                return Unanswered("the discovery document has no jwks_uri")
        document = await self._fetch(address, trust)
        return document if isinstance(document, Unanswered) else read_keys(document)

    async def _fetch(self, url: str, trust: OpenIdTrust) -> dict[str, Any] | Unanswered:
        answered = await self._outbound.send(
            Outgoing("GET", url, DEADLINE, {"Accept": "application/json"}, authorities=trust.authorities)
        )
        if not isinstance(answered, Incoming):
            return answered
        document = _object(answered.body) if answered.status == _OK else None
        return document if document is not None else Unanswered(f"{url} gave {answered.status} or no JSON object")


@dataclass(frozen=True, slots=True)
class _Token:
    header: dict[str, Any]
    claims: dict[str, Any]
    signed: bytes
    signature: bytes


@dataclass(frozen=True, slots=True)
class _Header:
    algorithm: str
    kid: str | None


def _read(token: str) -> _Token | Denied:
    """Take a token apart by rule 1."""
    if len(token) > LONGEST_TOKEN or not token.isascii():
        return Denied(f"the token is longer than {LONGEST_TOKEN} characters, or not ASCII")
    parts = token.split(".")
    if len(parts) != _PARTS:
        return Denied(f"the token has {len(parts)} parts")
    decoded = [_decoded(part) for part in parts]
    header, claims, signature = decoded
    if header is None or claims is None or signature is None:
        return Denied("the token is not canonical base64url")
    read_header, read_claims = _object(header), _object(claims)
    if read_header is None or read_claims is None:
        return Denied("the token's header or claims are no JSON object, or name a member twice")
    return _Token(read_header, read_claims, ".".join(parts[:2]).encode(), signature)


def _decoded(part: str) -> bytes | None:
    try:
        value = urlsafe_b64decode(part + "=" * (-len(part) % 4))
    except binascii.Error:
        return None
    return value if urlsafe_b64encode(value).rstrip(b"=").decode() == part else None


def _object(text: bytes) -> dict[str, Any] | None:
    """Read a JSON object; None for anything else, and where a member stands twice at any depth."""

    def once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        found = dict(pairs)
        if len(found) != len(pairs):
            raise ValueError("a member stands twice")
        return found

    try:
        value = json.loads(text.decode(), object_pairs_hook=once)
    except (ValueError, RecursionError):
        return None
    return value if isinstance(value, dict) else None


def _check_header(header: dict[str, Any], trust: OpenIdTrust) -> _Header | Denied:
    """Check rule 2."""
    algorithm, kind, kid = header.get("alg"), header.get("typ"), header.get("kid")
    if not isinstance(algorithm, str) or algorithm not in trust.algorithms or algorithm not in ALGORITHMS:
        return Denied(f"the token's alg {quoted(str(algorithm))} is not allowed")
    if kind is not None and (not isinstance(kind, str) or kind.lower() not in _TYPES):
        return Denied(f"the token's typ {quoted(str(kind))} is not one of an access or identity token")
    if header.keys() & _BRINGS_A_KEY:
        return Denied("the token's header brings a key along, or has crit")
    if kid is not None and not isinstance(kid, str):
        return Denied("the token's kid is not a text")
    return _Header(algorithm, kid)


def _named(keys: tuple[PublicWebKey, ...], header: _Header) -> PublicWebKey | None:
    """Return the key that a header names (rule 3)."""
    fitting = [key for key in keys if key.fits(header.algorithm)]
    if header.kid is not None:
        fitting = [key for key in fitting if key.kid == header.kid]
    return fitting[0] if len(fitting) == 1 else None


def _check_claims(claims: dict[str, Any], trust: OpenIdTrust, now: datetime) -> Claims | Denied:
    """Check rules 4 to 6."""
    if claims.get("iss") != trust.issuer:
        return Denied(f"the token's iss is {quoted(str(claims.get('iss')))}")
    audience = claims.get("aud")
    if audience != trust.audience and not (isinstance(audience, list) and trust.audience in audience):
        return Denied(f"the token's aud is {quoted(str(audience))}")
    if "sub" in claims and not _is_subject(claims["sub"]):
        return Denied(f"the token's sub is not 1 to {LONGEST_SUBJECT} printable characters")
    present = now.timestamp()
    if type(claims.get("exp")) is not int or claims["exp"] <= present:
        return Denied("the token has expired, or does not say when it does")
    for name in ("nbf", "iat"):
        if name in claims and (type(claims[name]) is not int or claims[name] > present + CLOCK_SKEW.total_seconds()):
            return Denied(f"the token's {name} is no time, or in the future")
    return claims


def _is_subject(value: object) -> bool:
    return isinstance(value, str) and 1 <= len(value) <= LONGEST_SUBJECT and value.isprintable()

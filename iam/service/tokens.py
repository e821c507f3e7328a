"""Access tokens as a service: giving them, and believing them.

The rules:

1. An access token is believed when its signature, issuer, audience and times hold, its session is not over, and its
   identity may do anything now. What it may do is read from the directory, never from the token.
2. A token that was verified once is remembered by its SHA-256 until it expires; only the signature is spared, never
   the look at how things stand.
"""

import hashlib
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta

from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePublicKey

from iam.access import Access, Authenticated, Denied
from iam.directory import Directory
from iam.errors import Refused, unauthenticated
from iam.identifiers import Clock, Random, uuid7
from iam.model import IdentityType
from iam.service.keyring import KeyRing
from iam.store.sessions import Session
from iam.store.standing import Standing
from iam.tokens import VerifiedToken, claims_for, is_issued_by, mint, verify_token

FIRST_PARTY = "doorward"
"""The `client_id` of tokens that were not asked for by a registered client."""

_VERIFIED_CAPACITY = 50_000


@dataclass(frozen=True, slots=True)
class TokenTerms:
    """What this installation's tokens say of themselves, and how long they last."""

    issuer: str
    audience: str
    person: timedelta = timedelta(minutes=15)
    machine: timedelta = timedelta(hours=24)


@dataclass(frozen=True, slots=True)
class Issued:
    """What a proof of identity came to."""

    token: str
    refresh_token: str | None
    expires: datetime
    identity: str


class TokenService:
    """Gives and believes access tokens; the prover of tokens for routes and brokers alike."""

    def __init__(self, directory: Directory, keys: KeyRing, clock: Clock, random: Random, terms: TokenTerms) -> None:
        self._directory = directory
        self._keys = keys
        self._clock = clock
        self._random = random
        self._terms = terms
        self._verified: OrderedDict[bytes, VerifiedToken] = OrderedDict()

    def lifetime_of(self, type_: IdentityType) -> timedelta:
        """Return how long a token of an identity of this type lasts."""
        return self._terms.machine if type_ in (IdentityType.GATEWAY, IdentityType.DEVICE) else self._terms.person

    def is_own(self, token: str) -> bool:
        """Tell whether a token says that it is one of ours, whatever else may be wrong with it."""
        return is_issued_by(token, self._terms.issuer)

    async def by_token(self, token: str) -> Authenticated:
        """Return whom an access token speaks for, as things are now (rule 1).

        Raises:
            Refused: (unauthenticated) It does not hold. (unavailable) Whether it holds cannot be known now.
        """
        digest = _digest(token)
        verified = self._remembered(digest) or await self._verify(token, digest)
        return _believed(verified, await self._directory.standing(verified.subject))

    def known(self, token: str) -> Authenticated | None:
        """Return the same where memory tells it, or None; raise `Refused` (unauthenticated) if it does not hold."""
        verified = self._remembered(_digest(token))
        standing = self._directory.known(verified.subject) if verified else None
        return _believed(verified, standing) if verified and standing else None

    async def issue(self, access: Access, session: Session, refresh: str | None, lasts: timedelta) -> Issued:
        """Return a new access token for a session that is stored already, beside its refresh token if there is one."""
        now = self._clock()
        claims = claims_for(
            access,
            issuer=self._terms.issuer,
            audience=self._terms.audience,
            client_id=session.client_id,
            session=session.id,
            methods=session.methods,
            authenticated=session.created,
            now=now,
            lifetime=lasts,
            jti=uuid7(now, self._random),
        )
        return Issued(mint(claims, await self._keys.signing_key()), refresh, now + lasts, access.identity.id)

    def _remembered(self, digest: bytes) -> VerifiedToken | None:
        """Return what a token says whose signature has been verified (rule 2)."""
        known = self._verified.get(digest)
        if known is None or self._clock() >= known.expires:
            return None
        self._verified.move_to_end(digest)
        return known

    async def _verify(self, token: str, digest: bytes) -> VerifiedToken:
        keys = await self._keys.verifying_keys()
        try:
            verified = self._checked(token, keys)
        except Refused:
            newer = await self._keys.verifying_keys(read_again=True)
            if newer.keys() == keys.keys():
                raise
            verified = self._checked(token, newer)
        self._verified[digest] = verified
        if len(self._verified) > _VERIFIED_CAPACITY:
            self._verified.popitem(last=False)
        return verified

    def _checked(self, token: str, keys: Mapping[str, EllipticCurvePublicKey]) -> VerifiedToken:
        return verify_token(token, keys, issuer=self._terms.issuer, audience=self._terms.audience, now=self._clock())


def _digest(token: str) -> bytes:
    return hashlib.sha256(token.encode(errors="replace")).digest()


def _believed(verified: VerifiedToken, standing: Standing) -> Authenticated:
    """Return whom a verified token speaks for, as things stand (rule 1); raise `Refused` (unauthenticated)."""
    if isinstance(standing.access, Denied):
        raise unauthenticated(standing.access.reason)
    if verified.session in standing.revoked_sessions:
        raise unauthenticated(f"session {verified.session} is over")
    return Authenticated(standing.access, verified.expires, verified.session, verified.methods)

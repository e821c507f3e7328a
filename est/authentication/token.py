"""Bearer tokens (RFC 6750): ours, or those of an OpenID issuer that the label names.

The rules:

1. Where the label names no issuer, the token is an access token of ours: whoever holds it has `create` on
   `est.enrolments` in the label's group or one above it, and speaks for the devices that his grants for it reach. What
   he may do is read now, never from the token.
2. Where it names one, only that issuer's tokens count, for the audience that the label says (`openid.py`). A token
   speaks for the one device that the label's template makes of its claims.
"""

import re
from collections.abc import Awaitable, Callable, Mapping
from typing import Final
from uuid import UUID

from certs.errors import CertificateRefused
from certs.names import device_identifier
from est.authentication.asking import Asking
from est.authentication.openid import Issuers, Unjudged
from est.profiles import OpenIdTrust, Way
from est.refusals import Refusal, Refuse
from est.rules import Entitlement
from iam.access import Authenticated, Denied, decide, visible_devices
from iam.errors import Kind, Refused
from iam.model import Extent, Tenant
from iam.permissions import Action, Resource
from iam.store.database import EVERYWHERE, Database
from iam.store.tenants import tenant_by_id

OwnTokens = Callable[[str], Awaitable[Authenticated]]
"""Returns who holds an access token of ours; raises `Refused`."""

_PLACEHOLDER: Final = re.compile(r"\$\{([A-Za-z0-9_.:/-]{1,64})\}")


class Tokens:
    """Judges bearer tokens."""

    def __init__(self, database: Database, own: OwnTokens, issuers: Issuers) -> None:
        self._database = database
        self._own = own
        self._issuers = issuers

    async def judge(self, asking: Asking) -> Entitlement | Refuse:
        """Return what the token speaks for, or why it does not count."""
        scheme, _, token = asking.evidence.authorization.partition(" ")
        if scheme.lower() != "bearer" or not token.strip():
            return Refuse(Refusal.NO_TOKEN)
        trust = asking.profile.settings.openid
        if trust is None:
            return await self._judge_own(token.strip(), asking.profile.tenant)
        claims = await self._issuers.claims(token.strip(), trust, asking.now)
        if isinstance(claims, Unjudged):
            return Refuse(Refusal.TOKEN_UNJUDGED, claims.reason)
        if isinstance(claims, Denied):
            return Refuse(Refusal.TOKEN_REFUSED, claims.reason)
        device = named_device(trust, claims)
        if device is None:
            return Refuse(Refusal.TOKEN_NOT_NAMED, f"{trust.device} makes no device identifier of its claims")
        by = f"token of {claims.get('sub', 'nobody')} by {trust.issuer}"
        return Entitlement(Way.TOKEN, by, Extent(names=frozenset({device})), Refusal.TOKEN_NOT_NAMED)

    async def _judge_own(self, token: str, where: UUID) -> Entitlement | Refuse:
        try:
            access = (await self._own(token)).access
        except Refused as refused:
            if refused.kind is Kind.UNAVAILABLE:
                return Refuse(Refusal.TOKEN_UNJUDGED, refused.reason)
            return Refuse(Refusal.TOKEN_REFUSED, refused.reason)
        tenant = await self._tenant(where)
        decision = decide(access, Action.CREATE, Resource.EST_ENROLMENTS, tenant=tenant)
        if isinstance(decision, Denied):
            return Refuse(Refusal.TOKEN_NOT_NAMED, f"{access.identity.id}: {decision.reason}")
        reached = visible_devices(access, Action.CREATE, Resource.EST_ENROLMENTS)
        return Entitlement(Way.TOKEN, f"token of {access.identity.id}", reached, Refusal.TOKEN_NOT_NAMED)

    async def _tenant(self, identifier: UUID) -> Tenant:
        async with self._database.transaction(EVERYWHERE) as transaction:  # its path is above what it may see itself
            return await tenant_by_id(transaction, identifier)


def named_device(trust: OpenIdTrust, claims: Mapping[str, object]) -> str | None:
    """Return the device identifier that the template makes of a token's claims; None if it makes none."""
    missing = False

    def value_of(found: re.Match[str]) -> str:
        nonlocal missing
        value = claims.get(found[1])
        missing = missing or not isinstance(value, str) or not value
        return str(value)

    text = _PLACEHOLDER.sub(value_of, trust.device)
    try:
        return None if missing else str(device_identifier(text))
    except CertificateRefused:
        return None


def is_template(text: str) -> bool:
    """Tell whether a text is a template of device identifiers that takes something from a token's claims."""
    rest = _PLACEHOLDER.sub("", text)
    return rest != text and re.fullmatch(r"[A-Za-z0-9_.:-]{0,64}", rest) is not None

"""The one table: which file judges which way, and in which order.

The rules:

1. A label's ways are all asked, in the order of the table: first credentials, which need no look at the request; then
   who has to be asked about it. The first refusal ends it, so nobody is asked about a stranger.
2. A way that a label does not name is not looked at, whatever was sent.
3. Where a request waits for an operator, the webhook is asked about it once: its yes is kept with the request, and
   holds for whoever comes again with just what it was told of him. A no, and no answer, are kept nowhere: they end it.
"""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from datetime import datetime
from typing import Final

from est.authentication.approval import ANYONE, Approvals, Vouched
from est.authentication.asking import Asking, Evidence, Wanted
from est.authentication.certificate import judge_certificate
from est.authentication.forwarded import headers_owned, passed_on_chain
from est.authentication.secret import Secrets
from est.authentication.token import Tokens
from est.authentication.webhook import Webhooks, entitlement_of, told_of
from est.profiles import EnrolmentProfile, Way
from est.refusals import Refuse, Wait
from est.rules import Entitlement

Judge = Callable[[Asking], Awaitable[Entitlement | Refuse]]

CREDENTIALS: Final = (Way.CERTIFICATE, Way.SECRET, Way.TOKEN)


class Authentication:
    """Asks the ways that a label names.

    Args:
        proxies: The proxies that every label trusts, as `Bootstrap.proxies`.
    """

    def __init__(
        self, secrets: Secrets, tokens: Tokens, webhooks: Webhooks, approvals: Approvals, proxies: frozenset[str]
    ) -> None:
        self._proxies = proxies
        self._judges: Mapping[Way, Judge] = {
            Way.CERTIFICATE: judge_certificate,
            Way.SECRET: secrets.judge,
            Way.TOKEN: tokens.judge,
        }
        self._webhooks = webhooks
        self._approvals = approvals

    def asking(
        self, profile: EnrolmentProfile, connection: Sequence[bytes], evidence: Evidence, now: datetime
    ) -> Asking | Refuse:
        """Return who asks: by the certificates of the connection, or by those that a trusted proxy passes on."""
        pins = self._proxies.union(profile.settings.bootstrap.proxies)
        owned = headers_owned(connection, evidence, pins, now)
        chain = passed_on_chain(evidence, owned) if owned else connection
        return chain if isinstance(chain, Refuse) else Asking(profile, now, chain, evidence, is_passed_on=bool(owned))

    async def judge(self, asking: Asking) -> tuple[Entitlement, ...] | Refuse:
        """Return what the credentials speak for that the label asks for."""
        found = []
        for way in CREDENTIALS:
            if way in asking.profile.settings.ways:
                judged = await self._judges[way](asking)
                if isinstance(judged, Refuse):
                    return judged
                found.append(judged)
        return tuple(found)

    async def consult(self, asking: Asking, wanted: Wanted) -> tuple[Entitlement, ...] | Refuse | Wait:
        """Return what those say who are asked about a request."""
        ways = asking.profile.settings.ways
        vouched = None
        if Way.WEBHOOK in ways:
            asked = await self._vouched(asking, wanted)
            if isinstance(asked, Refuse):
                return asked
            vouched = asked
        if Way.APPROVAL not in ways:
            return () if vouched is None else (vouched.entitlement,)
        said = await self._approvals.judge(asking, wanted, vouched)
        if isinstance(said, Refuse | Wait):
            return said
        return (said,) if vouched is None else (vouched.entitlement, said)

    async def _vouched(self, asking: Asking, wanted: Wanted) -> Vouched | Refuse:
        """Return what the webhook says, or said when this request began to wait (rule 3)."""
        told = told_of(asking)
        if Way.APPROVAL in asking.profile.settings.ways:
            kept = await self._approvals.vouched(asking, wanted, told)
            if kept is not None:
                return Vouched(entitlement_of(kept, wanted.device), told)
        said = await self._webhooks.judge(asking, wanted)
        return said if isinstance(said, Refuse) else Vouched(said, told)


def requester(entitlements: Sequence[Entitlement]) -> str:
    """Return what the credentials call who asks."""
    return ", ".join(one.by for one in entitlements) or ANYONE

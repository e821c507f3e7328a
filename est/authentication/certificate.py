"""A bootstrap certificate, by TLS or passed on by a trusted proxy: `est.rules.judge_bootstrap` decides."""

from est.authentication.asking import Asking
from est.refusals import Refuse
from est.rules import Entitlement, entitled_by_certificate, judge_bootstrap


async def judge_certificate(asking: Asking) -> Entitlement | Refuse:
    """Return what the certificate speaks for, or why it does not count."""
    judged = judge_bootstrap(asking.chain, asking.profile, asking.now)
    return judged if isinstance(judged, Refuse) else entitled_by_certificate(judged)

"""Proof of possession, linked to the TLS connection (RFC 7030 3.5): nobody passes on the request that another signed.

A client that links puts a value that only the two ends of this very connection know into the challengePassword of its
request, in base64, and signs it with the key to be certified. So whoever speaks here has that key now; a request that
was caught elsewhere, or is relayed by somebody in between, does not fit.

The rules:

1. A challengePassword that is there is verified, whatever the label says (RFC 7030 3.5): it is the value of this
   connection, or the request is refused.
2. A label that requires the link refuses a request without one.
3. Where TLS ends at a proxy, nobody here knows the value: a request with a challengePassword is refused, since that
   cannot be verified, and so is every request at a label that requires one.
4. The comparison takes the same time wherever the two differ.
"""

from base64 import b64encode
from hmac import compare_digest

from est.profiles import ProofOfPossession
from est.refusals import PROCEED, Proceed, Refusal, Refuse


def link_value(channel_binding: bytes) -> str:
    """Return what a challengePassword must be to link a request to the connection of that channel binding.

    RFC 7030 3.5 puts tls-unique there in base64 (RFC 4648 4), without line breaks; RFC 9148 3 does the same with the
    exporter's value of RFC 9266, which TLS 1.3 has instead.
    """
    return b64encode(channel_binding).decode("ascii")


def decide_possession(
    policy: ProofOfPossession, challenge_password: str | None, channel_binding: bytes | None
) -> Proceed | Refuse:
    """Decide whether a request is linked to its connection as far as its label wants.

    Args:
        channel_binding: The connection's value (`ServerSession.channel_binding`); None where TLS does not end here.
    """
    if channel_binding is None:
        is_wanted = policy is ProofOfPossession.REQUIRED or challenge_password is not None
        return Refuse(Refusal.NO_CONNECTION_TO_LINK) if is_wanted else PROCEED
    if challenge_password is None:
        return Refuse(Refusal.NOT_LINKED) if policy is ProofOfPossession.REQUIRED else PROCEED
    if not compare_digest(challenge_password.encode(), link_value(channel_binding).encode()):
        return Refuse(Refusal.LINKED_ELSEWHERE)
    return PROCEED

"""A broker asks "who is this, and what may he?"; a signed answer, or an empty one, which means no.

The rules, each of them here because the broker enforces none of them for us:

1. Everything is refused that is not let in by one of these two ways:
   a. a token, sent as MQTT password or as NATS password or token, over any type of connection;
   b. a client certificate that the broker verified, over MQTT, where nothing was sent as a password. Whoever sends a
      password means to be judged by it, and is.
2. A user name is never read: the broker asks about wrong passwords of its own users too.
3. An MQTT client identifier is bound to the identity: it is the identity's id, or its device identifier, or one of
   these followed by `/` and at most 32 characters. A second connection with the same client identifier evicts the
   first and inherits its session, so nobody may choose another's. One that the broker made up, for a client that sent
   none, cannot be told from one that the client chose, and is refused.
4. What is let in ends no later than the credential does, and after a year at the latest. A certificate may be valid
   until 9999 (RFC 5280 4.1.2.5); nats-server counts nanoseconds in 64 bits and would take that for the past.
5. Access is asked for anew for every connection; only what an unchanged Access comes to is remembered.
6. An answer comes in time or not at all: more requests at once than the limit, or one that takes too long, get the
   empty answer, at which the client may come again. The broker would hold him for its whole timeout otherwise. What
   memory can prove is answered at once, and takes no place among those that wait for the store.
7. Nothing that a request holds makes `answer` raise. The log has the reason of each refusal; the client has none.
"""

import asyncio
import logging
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from callout.claims import AuthorizationRequest, ConnectionType, RequestReader, response_claims, user_claims
from callout.connections import connection_name
from callout.nkeys import SealingKey, SigningKey
from callout.permissions import PreparedPermissions
from iam.access import Authenticated
from iam.errors import Kind, Refused, unauthenticated
from iam.identifiers import Clock, Random
from iam.model import Identity

Proving = Authenticated | Coroutine[Any, Any, Authenticated]
"""Who somebody is, where memory tells; else what is to be awaited for it. Either raises `Refused`."""

ProveToken = Callable[[str], Proving]
"""Tells who holds a token."""

ProveCertificate = Callable[[Sequence[bytes]], Proving]
"""Tells whose a certificate is (its chain in DER, leaf first)."""

REFUSED = b""

LONGEST_CONNECTION = timedelta(days=365)

CLIENT_SUFFIX_MAXIMUM = 32
"""Characters after the `/` of an MQTT client identifier: a session's name is stored with it."""

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class CalloutLimits:
    """How much is taken on.

    Attributes:
        at_once: Requests that wait for the store.
        seconds: For one of them; less than the broker's timeout.
        answer_bytes: Of one answer; less than the broker's largest message.
    """

    at_once: int = 512
    seconds: float = 1.5
    answer_bytes: int = 900_000


class CalloutService:
    """Answers authorization requests.

    Args:
        issuer: The seed of the account key (`SA...`) whose public key the brokers have as `issuer`.
        xkey: The seed of the curve key (`SX...`) whose public key the brokers have as `xkey`.
        account: The account that clients are put in.
    """

    def __init__(
        self,
        prove_token: ProveToken,
        prove_certificate: ProveCertificate,
        *,
        issuer: str,
        xkey: str,
        clock: Clock,
        random: Random,
        account: str = "APP",
        limits: CalloutLimits | None = None,
    ) -> None:
        self._prove_token = prove_token
        self._prove_certificate = prove_certificate
        self._issuer = SigningKey.from_seed(issuer)
        self._xkey = SealingKey.from_seed(xkey)
        self._clock = clock
        self._random = random
        self._account = account
        self._limits = limits or CalloutLimits()
        self._requests = RequestReader()
        self._prepared = PreparedPermissions()
        self._under_way = 0

    def answer(self, sealed: bytes, server_key: str) -> bytes | Coroutine[Any, Any, bytes]:
        """Return the sealed answer to a sealed request, empty to refuse; or what is to be awaited for it (rule 6).

        Neither raises (rule 7).

        Args:
            sealed: The message.
            server_key: Its header `Nats-Server-Xkey`: the broker's public curve key.
        """
        if self._under_way >= self._limits.at_once:
            _log.warning("refused: %d requests are under way", self._under_way)
            return REFUSED
        try:
            request = self._requests.read(self._xkey.open(sealed, server_key), server_key, self._clock())
            proving = self._prove(request)
            if isinstance(proving, Authenticated):
                return self._let_in(request, proving)
        except Exception as error:  # noqa: BLE001 - whatever it is, this one client is refused and the next is served
            return _refusal(error)
        return self._answer_in_time(request, proving)

    async def _answer_in_time(
        self, request: AuthorizationRequest, proving: Coroutine[Any, Any, Authenticated]
    ) -> bytes:
        self._under_way += 1
        try:
            async with asyncio.timeout(self._limits.seconds):
                proved = await proving
            return self._let_in(request, proved)
        except Exception as error:  # noqa: BLE001 - as above
            return _refusal(error)
        finally:
            self._under_way -= 1

    def _let_in(self, request: AuthorizationRequest, proved: Authenticated) -> bytes:
        """Return the answer for somebody who is proved; raise `Refused` if he may not connect so."""
        now = self._clock()
        identity = proved.access.identity
        if proved.expires <= now:
            raise unauthenticated(f"the credential of {identity.id} has expired")
        if request.type is ConnectionType.MQTT and not is_bound(request.client, identity):
            raise unauthenticated(f"{identity.id} may not use the MQTT client identifier {request.client[:128]!r}")
        prepared = self._prepared.of(proved.access)
        user = user_claims(
            request,
            issuer=self._issuer,
            name=connection_name(identity.id, prepared.acl_digest, proved.proof),
            account=self._account,
            permissions=prepared.encoded(request.type),
            now=now,
            expires=min(proved.expires, now + LONGEST_CONNECTION),
        )
        response = response_claims(request, user, issuer=self._issuer, now=now)
        answer = self._xkey.seal(response, request.server_key, self._random)
        if len(answer) > self._limits.answer_bytes:
            raise Refused(
                Kind.TOO_LARGE, "Too many topics.", reason=f"the topics of {identity.id} take {len(answer)} bytes"
            )
        _log.debug("let in %s from %s by %s", identity.id, request.host, "+".join(proved.methods))
        return answer

    def _prove(self, request: AuthorizationRequest) -> Proving:
        """Return who this is, by rule 1."""
        if request.secret:
            return self._prove_token(request.secret)
        if request.chain and request.type is ConnectionType.MQTT:
            return self._prove_certificate(request.chain)
        raise unauthenticated(f"a {request.type} client at {request.host} showed nothing that counts here")


def _refusal(error: Exception) -> bytes:
    """Write to the log why somebody is refused, and return the answer that says nothing of it."""
    match error:
        case Refused():
            level = logging.ERROR if error.kind is Kind.UNAVAILABLE else logging.INFO
            _log.log(level, "refused: %s", error.reason)
        case TimeoutError():
            _log.warning("refused: whether to let somebody in was not known in time")
        case _:
            _log.error("refused: a fault of our own", exc_info=error)
    return REFUSED


def is_bound(client: str, identity: Identity) -> bool:
    """Tell whether an MQTT client identifier belongs to an identity (rule 3)."""
    own = {name for name in (identity.id, identity.device) if name}
    name, _, suffix = client.partition("/")
    return name in own and len(suffix) <= CLIENT_SUFFIX_MAXIMUM

"""A webhook: a service of the operator's is asked about each enrolment.

The rules:

1. It is asked by one HTTPS POST of a JSON document, to the address that an operator has configured and no other: no
   redirect is followed, and no address that this node may not ask (`doorward.outbound`).
2. The request is signed as Standard Webhooks says: `webhook-id`, `webhook-timestamp`, and in `webhook-signature` the
   HMAC-SHA256 of `id.timestamp.body` under a key that only the service and we have.
3. It answers 200 with `{"authorized": true}` or `{"authorized": false, "reason": "..."}` before the deadline. Anything
   else is no answer, and no answer is no: fail closed.
4. A key that the request does not prove, as that of `serverkeygen`, is not told of: it would be believed.
5. What is sent in `Authorization` goes to the service only where it is the service that has to judge it: not where the
   label itself asks for a secret or a token, and never an access token of ours.
6. Its reason goes to the log and the audit, never to the device: a stranger learns nothing by it.
"""

import hmac
from base64 import b64encode
from collections.abc import Callable
from hashlib import sha256
from typing import Any, Final

import orjson
from cryptography.hazmat.primitives.serialization import Encoding

from certs.errors import CertificateRefused, quoted
from certs.pem import read_certificate
from est.authentication.asking import Asking, Wanted
from est.authentication.outbound import Outbound, Outgoing, Unanswered
from est.profiles import Way
from est.refusals import Refusal, Refuse
from est.rules import Entitlement
from iam.identifiers import Random, uuid7
from iam.model import Extent
from iam.sealing import MasterKey, open_sealed

SECRET_PREFIX: Final = "whsec_"  # noqa: S105 - how Standard Webhooks marks a secret
SECRET_BYTES: Final = 32

_OK: Final = 200
_JUDGED_HERE: Final = frozenset({Way.SECRET, Way.TOKEN})


class Webhooks:
    """Asks webhooks."""

    def __init__(
        self, outbound: Outbound, master_key: MasterKey, random: Random, is_own_token: Callable[[str], bool]
    ) -> None:
        self._outbound = outbound
        self._master_key = master_key
        self._random = random
        self._is_own_token = is_own_token

    async def judge(self, asking: Asking, wanted: Wanted) -> Entitlement | Refuse:
        """Return what the service answers."""
        profile, webhook = asking.profile, asking.profile.settings.webhook
        if webhook is None or not profile.webhook_secret:
            return Refuse(Refusal.WEBHOOK_SILENT, "the label has no webhook, or no secret for it")
        secret = open_sealed(self._master_key, profile.webhook_secret, context=secret_context(str(profile.id)))
        identifier = str(uuid7(asking.now, self._random))
        body = orjson.dumps(_document(identifier, asking, wanted, self._authorization(asking)))
        timestamp = str(int(asking.now.timestamp()))
        answered = await self._outbound.send(
            Outgoing(
                "POST",
                webhook.url,
                webhook.deadline,
                headers={
                    "Content-Type": "application/json",
                    "webhook-id": identifier,
                    "webhook-timestamp": timestamp,
                    "webhook-signature": sign(secret, identifier, timestamp, body),
                },
                body=body,
                authorities=webhook.authorities,
            )
        )
        if isinstance(answered, Unanswered):
            return Refuse(Refusal.WEBHOOK_SILENT, answered.reason)
        if answered.status != _OK:
            return Refuse(Refusal.WEBHOOK_SILENT, f"it answered {answered.status}")
        return _read_answer(answered.body, identifier, wanted.device)

    def _authorization(self, asking: Asking) -> str | None:
        """Return what of `Authorization` the service is told (rule 5)."""
        said = asking.evidence.authorization
        if _JUDGED_HERE.intersection(asking.profile.settings.ways) or any(map(self._is_own_token, said.split())):
            return None
        return said or None


def sign(secret: bytes, identifier: str, timestamp: str, body: bytes) -> str:
    """Return the signature of a message, as Standard Webhooks writes it."""
    signed = f"{identifier}.{timestamp}.".encode() + body
    return "v1," + b64encode(hmac.digest(secret, signed, sha256)).decode()


def told_of(asking: Asking) -> bytes:
    """Return the SHA-256 of what a webhook is told of who asks, and of which one that is.

    Not of his address, which changes while he waits; nor of the device and the key, which tell requests apart.
    """
    webhook = asking.profile.settings.webhook
    said = (
        webhook.url if webhook else "",
        asking.evidence.authorization,
        asking.chain[0].hex() if asking.chain else "",
    )
    return sha256(orjson.dumps(said)).digest()


def entitlement_of(by: str, device: str) -> Entitlement:
    """Return what a webhook's yes speaks for: the one device that it was asked about."""
    return Entitlement(Way.WEBHOOK, by, Extent(names=frozenset({device})), Refusal.NOT_NAMED)


def shown_secret(secret: bytes) -> str:
    """Return a secret as the service's library takes it."""
    return SECRET_PREFIX + b64encode(secret).decode()


def secret_context(profile: str) -> str:
    """Return what a sealed secret is bound to."""
    return f"enrolment-webhook:{profile}"


def _document(identifier: str, asking: Asking, wanted: Wanted, authorization: str | None) -> dict[str, Any]:
    brings_key = wanted.operation.brings_key
    return {
        "type": "enrolment.requested",
        "timestamp": asking.now,
        "data": {
            "id": identifier,
            "label": asking.profile.name,
            "device_identifier": wanted.device,
            "operation": wanted.operation,
            "csr": b64encode(wanted.request.der).decode() if brings_key else None,
            "public_key_sha256": wanted.request.spki_sha256.hex() if brings_key else None,
            "requester": wanted.requester,
            "client_certificate": _pem(asking),
            "authorization": authorization,
            "address": asking.evidence.address,
        },
    }


def _pem(asking: Asking) -> str | None:
    """Return the client's certificate, whoever issued it: the service judges it."""
    if not asking.chain:
        return None
    try:
        return read_certificate(asking.chain[0]).public_bytes(Encoding.PEM).decode()
    except CertificateRefused:
        return None


def _read_answer(body: bytes, identifier: str, device: str) -> Entitlement | Refuse:
    try:
        answer = orjson.loads(body)
    except orjson.JSONDecodeError:
        return Refuse(Refusal.WEBHOOK_SILENT, "its answer is not JSON")
    verdict = answer.get("authorized") if isinstance(answer, dict) else None
    if verdict is True:
        return entitlement_of(f"webhook {identifier}", device)
    if verdict is False:
        return Refuse(Refusal.WEBHOOK_DENIED, quoted(str(answer.get("reason") or "it gave no reason")))
    return Refuse(Refusal.WEBHOOK_SILENT, "its answer has no authorized, true or false")

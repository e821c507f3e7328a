"""The operations of EST over HTTP (RFC 7030)."""

from collections.abc import Awaitable, Callable, Sequence

from certs.csr import BASE64_MAXIMUM_BYTES
from est.authentication.asking import FORWARDING_HEADERS, Evidence
from est.codec import (
    CERTS_ONLY,
    CSRATTRS,
    MULTIPART,
    PKCS7,
    PKCS10,
    answer_headers,
    encode_base64,
    encode_parts,
)
from est.profiles import DEFAULT_LABEL
from est.refusals import Wait
from est.service import EstService
from iam.bodies import RawBody
from iam.errors import Kind, Refused
from iam.guard import Call, Public, Route
from iam.responses import Answer, Speech

_EST_TAG = "EST (RFC 7030)"
_PREFIXES = ("/.well-known/est", "/.well-known/est/{label}")
_BY_CERTIFICATE = Public("who enrols is judged by est.authentication, as his label says")
_BY_NOBODY = Public("RFC 7030 4.1.1, 4.5.1: a client need not authenticate for this")
_REQUEST = RawBody((PKCS10,), BASE64_MAXIMUM_BYTES)

Handler = Callable[[Call], Awaitable[Answer]]


def routes(service: EstService) -> list[Route]:
    """Return the operations of EST, with and without a label."""

    async def cacerts(call: Call) -> Answer:
        return _encoded(await service.cacerts(_label(call)), PKCS7)

    async def csrattrs(call: Call) -> Answer:
        return _encoded(await service.csr_attributes(_label(call), call.peer_chain), CSRATTRS)

    async def simpleenroll(call: Call) -> Answer:
        given = await service.enrol(_label(call), call.peer_chain, call.body, call.channel_binding, _evidence(call))
        return _pending(given) if isinstance(given, Wait) else _encoded(given, CERTS_ONLY)

    async def simplereenroll(call: Call) -> Answer:
        given = await service.reenrol(_label(call), call.peer_chain, call.body, call.channel_binding, _evidence(call))
        return _encoded(given, CERTS_ONLY)

    async def serverkeygen(call: Call) -> Answer:
        made = await service.generate(_label(call), call.peer_chain, call.body, call.channel_binding, _evidence(call))
        if isinstance(made, Wait):
            return _pending(made)
        parts = ((made.key.content_type, made.key.der), (CERTS_ONLY, made.certificate))
        return Answer(content=encode_parts(parts), headers={"Content-Type": MULTIPART})

    async def unsupported(call: Call) -> Answer:
        await service.require_label(_label(call))
        raise Refused(Kind.UNSUPPORTED, "This operation of EST is not offered here.")

    operations: Sequence[tuple[str, str, Handler, Public, RawBody | None, str, str | None]] = (
        ("GET", "cacerts", cacerts, _BY_NOBODY, None, "Fetch the authorities' certificates", PKCS7),
        ("GET", "csrattrs", csrattrs, _BY_NOBODY, None, "Fetch what a request should hold", CSRATTRS),
        ("POST", "simpleenroll", simpleenroll, _BY_CERTIFICATE, _REQUEST, "Enrol a device", CERTS_ONLY),
        ("POST", "simplereenroll", simplereenroll, _BY_CERTIFICATE, _REQUEST, "Renew or rekey", CERTS_ONLY),
        ("POST", "serverkeygen", serverkeygen, _BY_CERTIFICATE, _REQUEST, "Have a key made, and enrol", MULTIPART),
        ("POST", "fullcmc", unsupported, _BY_CERTIFICATE, None, "Not offered", None),
    )
    return [
        Route(
            method,
            f"{prefix}/{name}",
            handler,
            need,
            summary,
            _EST_TAG,
            body=body,
            answers=answers,
            speaks=Speech.PLAIN,
        )
        for prefix in _PREFIXES
        for method, name, handler, need, body, summary, answers in operations
    ]


def _label(call: Call) -> str:
    return call.path.get("label", DEFAULT_LABEL)


def _evidence(call: Call) -> Evidence:
    headers = call.request.headers
    forwarded = {name: headers.getall(name) for name in FORWARDING_HEADERS if name in headers}
    return Evidence(headers.get("Authorization", ""), call.address, forwarded)


def _pending(wait: Wait) -> Answer:
    """Say that the same request is to be sent again (RFC 7030 4.2.3): in digits, which is all that clients read."""
    text = b"An operator has to decide on this request; send it again later.\n"
    return Answer(202, text, {"Content-Type": "text/plain", "Retry-After": str(wait.retry_after)})


def _encoded(der: bytes, content_type: str) -> Answer:
    return Answer(content=encode_base64(der), headers=answer_headers(content_type))

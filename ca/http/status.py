"""OCSP over HTTP (RFC 6960 appendix A, RFC 5019 5 and 6).

The rules:

1. By POST the body is the request in DER; by GET the rest of the path is the same in base64, percent-encoded or not:
   some clients send `+`, `/` and `=` as they are. Padding that was left out is added.
2. The answer is 200 with a response, also where that is an error. It may be kept, and has the headers of RFC 5019 6.2,
   if it was asked for by GET and is the same for all who ask; any other is `no-store`.
3. Who has the answer already is told so (`ca.http.distribution.is_known`).
"""

import base64
import binascii
from datetime import datetime
from email.utils import format_datetime
from functools import lru_cache
from typing import Final

from ca.http.distribution import is_known
from ca.responding import StatusAnswer, StatusService
from iam.bodies import RawBody
from iam.guard import Call, Public, Route
from iam.identifiers import Clock
from iam.responses import Answer

REQUEST: Final = "application/ocsp-request"
RESPONSE: Final = "application/ocsp-response"
PATH: Final = "/ocsp"

_TAG = "Publication"
_RELYING_PARTIES = Public("whoever checks a certificate of ours asks this, and the answer is signed")
_REQUEST_BYTES = 16_384
_QUANTUM = 4


def routes(service: StatusService, clock: Clock) -> list[Route]:
    """Return the routes of OCSP."""

    async def get(call: Call) -> Answer:
        answer = await service.answer(decode_path(call.path["ocspRequest"]))
        if answer.fresh_until is None or answer.this_update is None or answer.next_update is None:
            return _for_one(answer)
        seconds = max(0, int((answer.fresh_until - clock()).total_seconds()))
        headers = {
            "Content-Type": RESPONSE,
            "Last-Modified": _http_date(answer.this_update),
            "ETag": f'"{answer.tag}"',
            "Expires": _http_date(answer.next_update),
            "Cache-Control": f"max-age={seconds}, public, no-transform, must-revalidate",
        }
        if is_known(call, headers["ETag"], answer.this_update):
            return Answer(304, headers=headers)
        return Answer(content=answer.der, headers=headers)

    async def post(call: Call) -> Answer:
        return _for_one(await service.answer(call.body))

    summary = "Ask how certificates stand (OCSP)"
    body = RawBody((REQUEST,), _REQUEST_BYTES)
    return [
        Route("POST", PATH, post, _RELYING_PARTIES, summary, _TAG, body=body, answers=RESPONSE),
        Route("GET", f"{PATH}/{{ocspRequest:.+}}", get, _RELYING_PARTIES, summary, _TAG, answers=RESPONSE),
    ]


def decode_path(text: str) -> bytes:
    """Return the request in a path whose percent-encoding is undone; what is not base64 comes back as no request."""
    encoded = text.lstrip("/").encode()  # a request begins with M; what is before it joined two addresses
    try:
        return base64.b64decode(encoded + b"=" * (-len(encoded) % _QUANTUM), validate=True)
    except binascii.Error:
        return b""


def _for_one(answer: StatusAnswer) -> Answer:
    return Answer(content=answer.der, headers={"Content-Type": RESPONSE})


@lru_cache(maxsize=4096)
def _http_date(moment: datetime) -> str:
    return format_datetime(moment, usegmt=True)

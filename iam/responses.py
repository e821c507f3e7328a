"""Answers and errors as responses: the one table from an error to what the caller is told.

Each error becomes one response here: `application/problem+json` (RFC 9457), or `text/plain` where the protocol asks for
it. What is not in the table is an opaque 500 whose id is in the log.
"""

import logging
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum
from http import HTTPStatus
from io import BytesIO
from typing import Any
from uuid import uuid4

import orjson
from aiohttp import web
from pydantic import BaseModel

from certs.errors import CertificateRefused, RefusalKind
from iam.bodies import JSON
from iam.errors import Kind, Refused

_log = logging.getLogger("doorward.http")

STATUS: dict[Kind, int] = {
    Kind.MALFORMED: 400,
    Kind.INVALID: 422,
    Kind.UNAUTHENTICATED: 401,
    Kind.FORBIDDEN: 403,
    Kind.NOT_FOUND: 404,
    Kind.METHOD: 405,
    Kind.CONFLICT: 409,
    Kind.TIMEOUT: 408,
    Kind.TOO_LARGE: 413,
    Kind.MEDIA_TYPE: 415,
    Kind.THROTTLED: 429,
    Kind.UNSUPPORTED: 501,
    Kind.UNAVAILABLE: 503,
}

_TITLE: dict[Kind, str] = {
    Kind.MALFORMED: "The request cannot be read",
    Kind.INVALID: "The request is not allowed by the rules",
    Kind.UNAUTHENTICATED: "Authentication is needed",
    Kind.FORBIDDEN: "Not permitted",
    Kind.NOT_FOUND: "Not found",
    Kind.METHOD: "Method not allowed",
    Kind.CONFLICT: "In conflict with the present state",
    Kind.TIMEOUT: "The request did not arrive in time",
    Kind.TOO_LARGE: "The body is too large",
    Kind.MEDIA_TYPE: "The body's type is not taken here",
    Kind.THROTTLED: "Too many attempts",
    Kind.UNSUPPORTED: "Not supported",
    Kind.UNAVAILABLE: "Not available now",
}

_OF_CERTIFICATE: dict[RefusalKind, Kind] = {
    RefusalKind.MALFORMED: Kind.MALFORMED,
    RefusalKind.SIGNATURE: Kind.MALFORMED,
    RefusalKind.POLICY: Kind.MALFORMED,
}
"""What a certificate or request is refused for; everything else about a presented certificate is 403."""

_PIECE_BYTES = 65_536


class Speech(Enum):
    """What an error looks like to the clients of a route."""

    PROBLEM = "application/problem+json"
    PLAIN = "text/plain"


@dataclass(frozen=True, slots=True)
class Answer:
    """What a handler gives back: a JSON value, raw bytes, or nothing.

    Attributes:
        content: A pydantic model, a JSON-able value, bytes (with a Content-Type in `headers`), or None for no body.
    """

    status: int = 200
    content: Any = None
    headers: Mapping[str, str] = field(default_factory=dict)


def render(answer: Answer) -> web.Response:
    """Return the response that says `answer`."""
    headers = {"Cache-Control": "no-store", **answer.headers}
    if answer.content is None:
        return web.Response(status=answer.status, headers=headers)
    if isinstance(answer.content, bytes):
        # What is long is sent in pieces, each as soon as the client has taken those before it, and never copied whole.
        body = answer.content if len(answer.content) <= _PIECE_BYTES else BytesIO(answer.content)
        return web.Response(status=answer.status, body=body, headers=headers)
    content = answer.content
    if isinstance(content, BaseModel):
        content = content.model_dump(by_alias=True, exclude_none=True, mode="json")
    return web.Response(status=answer.status, body=orjson.dumps(content), headers={"Content-Type": JSON, **headers})


def respond_to(error: Exception, request: web.Request, speech: Speech) -> web.Response:
    """Return the response for `error`, and write to the log what the caller is not told."""
    refusal = _as_refusal(error)
    incident = str(uuid4())
    where = f"{request.method} {request.rel_url.raw_path} from {request.remote}"
    if refusal is None:
        _log.error("%s failed, incident %s", where, incident, exc_info=error)
        detail = f"Something went wrong; the log has it under {incident}."
        return _problem(500, "Internal error", "internal", detail, {}, {}, speech)
    _log.info("%s refused (%s): %s", where, refusal.kind.value, refusal.reason)
    headers = {}
    if refusal.retry_after is not None:
        headers["Retry-After"] = str(refusal.retry_after)
    if refusal.kind is Kind.UNAUTHENTICATED:
        headers["WWW-Authenticate"] = _challenge(request, speech)
    title = _TITLE[refusal.kind]
    status = STATUS[refusal.kind]
    return _problem(status, title, refusal.kind.value, refusal.detail, refusal.fields, headers, speech)


def respond_to_unreadable(status: HTTPStatus, speech: Speech) -> web.Response:
    """Return the response to what is no HTTP, too much of it or too slow: it reached no route."""
    kind = Kind.TIMEOUT if status is HTTPStatus.REQUEST_TIMEOUT else Kind.MALFORMED
    return _problem(status, _TITLE[kind], kind.value, f"{status}: {status.phrase}", {}, {}, speech)


def _as_refusal(error: Exception) -> Refused | None:
    if isinstance(error, Refused):
        return error
    if isinstance(error, CertificateRefused):
        return Refused(_OF_CERTIFICATE.get(error.kind, Kind.FORBIDDEN), str(error))
    return None


def _challenge(request: web.Request, speech: Speech) -> str:
    """Return the one challenge of a 401: clients of EST read only the first (RFC 7030 3.2.3)."""
    if speech is Speech.PLAIN or request.headers.get("Authorization", "").startswith("Basic "):
        return 'Basic realm="doorward"'
    if "Authorization" in request.headers:
        return 'Bearer realm="doorward", error="invalid_token"'  # RFC 6750 3
    return 'Bearer realm="doorward"'


def _problem(
    status: int,
    title: str,
    kind: str,
    detail: str,
    fields: Mapping[str, str],
    headers: Mapping[str, str],
    speech: Speech,
) -> web.Response:
    headers = {"Cache-Control": "no-store", "Content-Type": speech.value, **headers}
    if speech is Speech.PLAIN:
        return web.Response(status=status, body=f"{detail}\n".encode(), headers=headers)
    problem: dict[str, Any] = {
        "type": f"urn:doorward:problem:{kind}",
        "title": title,
        "status": status,
        "detail": detail,
    }
    if fields:
        problem["errors"] = [{"field": name, "detail": text} for name, text in fields.items()]
    return web.Response(status=status, body=orjson.dumps(problem), headers=headers)

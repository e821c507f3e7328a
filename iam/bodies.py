"""The bodies of requests: taken within their bounds, and checked against their model.

The rules:

1. A body has a type, a size, a depth and a deadline. What is larger is refused before it is read, or as soon as it is.
2. Unknown fields and control characters are refused, each wrong field by name.
"""

import asyncio
from dataclasses import dataclass
from typing import Any, TypeVar

import orjson
from aiohttp import web
from pydantic import ValidationError
from pydantic_core import ErrorDetails

from iam.errors import Kind, Refused, malformed
from iam.schema import SnakeModel, check_plain

JSON = "application/json"
JSON_LIMIT_BYTES = 256 * 1024
BODY_DEADLINE_SECONDS = 15.0

_M = TypeVar("_M", bound=SnakeModel)


@dataclass(frozen=True, slots=True)
class RawBody:
    """A body that is not JSON: its media types (empty: any) and its largest size in bytes."""

    media_types: tuple[str, ...]
    limit: int


@dataclass(frozen=True, slots=True)
class StreamBody(RawBody):
    """The same, taken in parts as they come: the handler gets an asynchronous iterator of bytes.

    Attributes:
        deadline: Seconds until it must have come.
    """

    deadline: float


async def read_body(body: type[SnakeModel] | RawBody | None, request: web.Request) -> Any:  # noqa: ANN401 - of that model
    """Return the whole body: bytes, or a checked instance of the model; raise `Refused` by the rules above."""
    if body is None:
        return None
    raw_body = body if isinstance(body, RawBody) else RawBody((JSON,), JSON_LIMIT_BYTES)
    check_type_and_length(raw_body, request)
    content = await _read_within(request, raw_body.limit)
    if isinstance(body, RawBody):
        return content
    try:
        raw = orjson.loads(content)
    except orjson.JSONDecodeError as error:
        raise malformed("The body is not JSON.") from error
    return parsed(body, raw)


def check_type_and_length(body: RawBody, request: web.Request) -> None:
    """Raise `Refused` for a body of another type, or one that says that it is too large."""
    if body.media_types and request.content_type not in body.media_types:
        raise Refused(Kind.MEDIA_TYPE, f"Send this as {' or '.join(body.media_types)}.")
    if request.content_length is not None and request.content_length > body.limit:
        raise too_large(body.limit)


def too_large(limit: int) -> Refused:
    """Return what is raised for a body that is."""
    return Refused(Kind.TOO_LARGE, f"A body here has at most {limit} bytes.")


async def _read_within(request: web.Request, limit: int) -> bytes:
    """Read the whole body, up to `limit` bytes and `BODY_DEADLINE_SECONDS`."""
    if request.content.is_eof() and request.content.exception() is None:  # it came whole with its headers
        content = request.content.read_nowait()
        if len(content) > limit:
            raise too_large(limit)
        return content
    deadline = asyncio.get_running_loop().time() + BODY_DEADLINE_SECONDS
    parts: list[bytes] = []
    size = 0
    while part := await next_part(request, deadline, BODY_DEADLINE_SECONDS):
        size += len(part)
        if size > limit:
            raise too_large(limit)
        parts.append(part)
    return b"".join(parts)


async def next_part(request: web.Request, deadline: float, seconds: float) -> bytes:
    """Return what came of the body, empty at its end, by `deadline` on the loop's clock; `seconds` is what it was."""
    try:
        async with asyncio.timeout_at(deadline):
            return await request.content.readany()
    except TimeoutError as error:
        raise Refused(Kind.TIMEOUT, f"The body did not arrive within {seconds:.0f} s.") from error
    except web.PayloadAccessError as error:
        raise malformed("The body ended early.") from error


def parsed(model: type[_M], raw: Any) -> _M:  # noqa: ANN401 - whatever came
    """Return a body or a query as its model has it; raise `Refused` (malformed), with what is wrong of each field."""
    check_plain(raw)
    try:
        return model.model_validate(raw)
    except ValidationError as error:
        fields = {".".join(str(part) for part in one["loc"]) or "body": _said(one) for one in error.errors()}
        raise Refused(Kind.MALFORMED, "Some fields are wrong.", fields=fields) from error


def _said(error: ErrorDetails) -> str:
    """Return the sentence about a field, ours without what pydantic puts before it."""
    return error["msg"].removeprefix("Value error, ")

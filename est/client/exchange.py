"""One question and its answer over HTTP/1.1, and what the answer is worth.

1. A connection carries one question: a proof of possession is bound to it (RFC 7030 3.5).
2. An answer is at most so long, has arrived whole, and says what it is: a content type that is not the operation's is
   no answer, whatever the body looks like. The parser is the standard library's.
3. A redirection is not followed: whoever answers there has not been chosen by anybody (RFC 7030 3.2.1 lets a client
   stop here).
4. What the server says in words is shown on one line, without control characters, and cut short.
5. `Retry-After` is seconds or a date (RFC 9110 10.2.3).
"""

import http.client
import re
from dataclasses import dataclass, field
from datetime import datetime
from email.message import Message
from email.parser import BytesParser
from email.policy import compat32
from email.utils import parsedate_to_datetime
from http import HTTPStatus
from io import BufferedReader

from est.client.connection import Connection
from est.client.failure import EstFailure, Failure

ANSWER_MAXIMUM_BYTES = 512 * 1024
_SENTENCE_CHARACTERS = 500
_CONTROL = re.compile(r"[^\x20-\x7e\xa0-\u2027\u202f-\uffff]+")


@dataclass(frozen=True, slots=True)
class Question:
    """What is asked: method, path, headers and body."""

    method: str
    path: str
    headers: dict[str, str] = field(default_factory=dict, repr=False)
    body: bytes | None = None


@dataclass(frozen=True, slots=True)
class Reply:
    """What came back, whole."""

    status: int
    headers: Message
    content: bytes

    @property
    def media_type(self) -> str:
        """The content type without its parameters, in lower case; empty if none was sent."""
        return self.headers.get("Content-Type", "").partition(";")[0].strip().lower()


class _Wire:
    """A connection as `http.client` wants it: something like a socket."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    def sendall(self, data: bytes) -> None:
        self._connection.sendall(data)

    def makefile(self, _mode: str) -> BufferedReader:
        return BufferedReader(self._connection)

    def close(self) -> None:
        """Leave it open: whoever made the connection closes it."""


def exchange(connection: Connection, host: str, port: int, question: Question) -> Reply:
    """Ask and return the reply.

    Raises:
        EstFailure: (malformed) The answer is too long, or no HTTP.
        OSError: The connection broke, or the time is over.
    """
    speaker = http.client.HTTPConnection(host, port)
    speaker.auto_open = 0
    speaker.sock = _Wire(connection)
    headers = {"Accept": "*/*", "Connection": "close", **question.headers}
    try:
        speaker.request(question.method, question.path, body=question.body, headers=headers)
        response = speaker.getresponse()
        content = _content(response)
    except (http.client.RemoteDisconnected, http.client.IncompleteRead) as error:
        raise ConnectionError(f"the connection ended before the answer did: {error}") from error
    except (http.client.HTTPException, ValueError) as error:
        raise EstFailure(Failure.MALFORMED, f"the server does not speak HTTP as it should: {error!r}") from error
    return Reply(response.status, response.headers, content)


def _content(response: http.client.HTTPResponse) -> bytes:
    pieces: list[bytes] = []
    length = 0
    while piece := response.read1(ANSWER_MAXIMUM_BYTES):
        pieces.append(piece)
        length += len(piece)
        if length > ANSWER_MAXIMUM_BYTES:
            sentence = f"the answer is longer than {ANSWER_MAXIMUM_BYTES} bytes"
            raise EstFailure(Failure.MALFORMED, sentence, status=response.status)
    if response.length:
        raise ConnectionError(f"the answer ended {response.length} bytes before its end")
    return b"".join(pieces)


def good(reply: Reply, media_type: str, now: datetime) -> bytes:
    """Return the content of a reply that is a good answer of this type; raise `EstFailure` for any other."""
    if reply.status != HTTPStatus.OK:
        raise _failure(reply, now)
    if reply.media_type != media_type:
        sentence = f"the answer is {reply.media_type or 'of no type'}, not {media_type}: is this an EST server?"
        raise EstFailure(Failure.MALFORMED, _one_line(sentence), status=reply.status)
    return reply.content


def parts(reply: Reply) -> tuple[Reply, ...]:
    """Return the parts of a multipart answer, each as if it had come alone; raise `EstFailure` (malformed).

    An answer that ends before its last boundary, or has anything odd, has none.
    """
    head = f"Content-Type: {reply.headers.get('Content-Type', '')}\r\n\r\n".encode("latin-1", "replace")
    message = BytesParser(policy=compat32).parsebytes(head + reply.content)
    if message.defects or not message.is_multipart():
        raise EstFailure(Failure.MALFORMED, "the answer's parts are not whole", status=reply.status)
    found: list[Message] = [one for one in message.walk() if one is not message]
    # The body is left as it came: what it says of its encoding is not read (RFC 8951 3.1).
    return tuple(Reply(reply.status, one, str(one.get_payload()).encode("ascii", "replace")) for one in found)


def _failure(reply: Reply, now: datetime) -> EstFailure:
    status = reply.status
    after = retry_after(reply.headers.get("Retry-After", ""), now)
    said = _one_line(reply.content.decode("utf-8", "replace")) if reply.media_type == "text/plain" else ""
    said = said or f"{status} {http.client.responses.get(status, '')}".strip()
    if status == HTTPStatus.ACCEPTED:
        return EstFailure(Failure.PENDING, said, status=status, retry_after=after)
    if status == HTTPStatus.TOO_MANY_REQUESTS or (
        status >= HTTPStatus.INTERNAL_SERVER_ERROR and status != HTTPStatus.NOT_IMPLEMENTED
    ):
        return EstFailure(Failure.BUSY, said, status=status, retry_after=after)
    if HTTPStatus.MULTIPLE_CHOICES <= status < HTTPStatus.BAD_REQUEST:
        place = _one_line(reply.headers.get("Location", "")) or "nowhere"
        sentence = f"the server redirects to {place}, which is not followed; name that server if it is meant"
        return EstFailure(Failure.MALFORMED, sentence, status=status)
    if status < HTTPStatus.BAD_REQUEST:
        return EstFailure(Failure.MALFORMED, f"{said} is no answer of EST", status=status)
    return EstFailure(Failure.REFUSED, said, status=status, retry_after=after)


def retry_after(text: str, now: datetime) -> int | None:
    """Return the seconds to wait that a header says, by rule 5; None if it says nothing that can be read."""
    text = text.strip()
    if text.isascii() and text.isdigit():
        return int(text[:9])
    try:
        return max(0, int((parsedate_to_datetime(text) - now).total_seconds()))
    except (ValueError, TypeError):
        return None


def _one_line(text: str) -> str:
    return " ".join(_CONTROL.sub(" ", text).split())[:_SENTENCE_CHARACTERS]

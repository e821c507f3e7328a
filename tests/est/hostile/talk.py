"""Speaking TLS by hand: what is sent is what is given, byte for byte."""

import asyncio
import ssl
from dataclasses import dataclass
from urllib.parse import urlsplit

from tests.est.world import EstWorld, Holder

ANSWER_SECONDS, SILENCE_SECONDS = 10.0, 0.1


@dataclass(frozen=True)
class Heard:
    """All that came back.

    Attributes:
        statuses: Of each answer: a server that was led astray gives two.
    """

    statuses: tuple[int, ...]
    content: bytes


async def speak(est: EstWorld, sent: bytes, holder: Holder | None = None) -> Heard:
    """Send bytes over TLS; return what comes back until the server closes or falls silent."""
    context = ssl.create_default_context(cafile=est.root_file)
    if holder is not None:
        context.load_cert_chain(holder.certificate_file, holder.key_file)
    parts = urlsplit(est.url)
    reader, writer = await asyncio.open_connection(parts.hostname, parts.port, ssl=context)
    heard, patience = b"", ANSWER_SECONDS
    try:
        writer.write(sent)
        while part := await asyncio.wait_for(reader.read(65_536), patience):
            heard, patience = heard + part, SILENCE_SECONDS
    except (TimeoutError, ConnectionError):
        pass
    finally:
        writer.transport.abort()
    lines = (line.split() for line in heard.split(b"\r\n") if line.startswith(b"HTTP/"))
    return Heard(tuple(int(words[1]) for words in lines), heard)


async def goes_on(est: EstWorld) -> bool:
    """Tell whether the server answers somebody else."""
    heard = await speak(est, b"GET /.well-known/est/csrattrs HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
    return heard.statuses == (200,)

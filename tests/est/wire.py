"""A client that holds one TLS connection in its hands: it links requests to it, and sees every byte of an answer."""

import asyncio
import socket
from collections.abc import Callable
from dataclasses import dataclass
from urllib.parse import urlsplit

from OpenSSL import SSL

from tests.est.world import EstWorld, Holder

_PATIENCE_SECONDS = 20


@dataclass(frozen=True)
class Raw:
    """An answer as it came: its status line, its headers as they are spelt and ordered, its body."""

    status: int
    headers: list[tuple[str, str]]
    body: bytes

    def header(self, name: str) -> list[str]:
        return [value for spelt, value in self.headers if spelt == name]


class TlsClient:
    """One connection, made by OpenSSL itself, which knows both channel bindings."""

    def __init__(self, est: EstWorld, holder: Holder | None, version: int) -> None:
        context = SSL.Context(SSL.TLS_CLIENT_METHOD)
        context.set_min_proto_version(version)
        context.set_max_proto_version(version)
        context.load_verify_locations(str(est.root_file))
        context.set_verify(SSL.VERIFY_PEER)
        if holder is not None:
            context.use_certificate_chain_file(str(holder.certificate_file))
            context.use_privatekey_file(str(holder.key_file))
        address = urlsplit(est.url)
        self._socket = socket.create_connection((address.hostname, address.port), timeout=_PATIENCE_SECONDS)
        self._socket.settimeout(None)
        self.connection = SSL.Connection(context, self._socket)
        self.connection.set_connect_state()
        self.connection.do_handshake()

    @property
    def tls_unique(self) -> bytes:
        return self.connection.get_finished() or b""

    @property
    def exported(self) -> bytes:
        return self.connection.export_keying_material(b"EXPORTER-Channel-Binding", 32, b"")

    def send(self, sent: bytes) -> bytes:
        """Send bytes and return all that comes until the server closes."""
        self.connection.sendall(sent)
        came = b""
        while True:
            try:
                came += self.connection.recv(65_536)
            except (SSL.ZeroReturnError, SSL.SysCallError):
                return came

    def ask(self, method: str, path: str, body: bytes | None = None, *headers: str) -> Raw:
        lines = [f"{method} /.well-known/est{path} HTTP/1.1", "Host: localhost", "Connection: close", *headers]
        if body is not None:
            lines += ["Content-Type: application/pkcs10", f"Content-Length: {len(body)}"]
        return parsed(self.send("\r\n".join([*lines, "", ""]).encode() + (body or b"")))

    def close(self) -> None:
        self._socket.close()


def parsed(came: bytes) -> Raw:
    head, _, body = came.partition(b"\r\n\r\n")
    status, *lines = head.decode().split("\r\n")
    pairs = [line.split(": ", 1) for line in lines]
    return Raw(int(status.split()[1]), [(name, value) for name, value in pairs], body)


async def on_connection(
    est: EstWorld, holder: Holder | None, talk: Callable[[TlsClient], Raw], version: int = SSL.TLS1_3_VERSION
) -> Raw:
    """Make a connection and talk on it, in a thread, since the server is in this one."""

    def run() -> Raw:
        client = TlsClient(est, holder, version)
        try:
            return talk(client)
        finally:
            client.close()

    return await asyncio.to_thread(run)

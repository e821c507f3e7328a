"""What nats-server asks and what it is answered: JWTs of NATS' own kind, as values.

A request is believed when

1. it is sealed to us by the curve key that its header and its content both name,
2. its algorithm is `ed25519-nkey` and its signature is that of its issuer, a server. A signature that held says that
   this server has this curve key; from then on only that server can make a seal with it that opens, and the seal is
   proof enough: checking the signature of every request again would take most of the time of an answer,
3. the issuer is the server that it says it comes from, so that our answer goes there and nowhere else,
4. its audience is `nats-authorization-request`,
5. it was made now: it has not expired, and was not issued in the future.

An answer names the user key that the request made up (so it serves once, for that connection) and that server. The
user JWT inside names the account as its audience, and the identity, and what it may do, and until when. nats-server
ignores in it the connection types, source addresses and limits (so they are not here), and heeds `exp`.

Nothing in a request is ours: its user name, names and addresses were chosen by whoever connects.
"""

import base64
import binascii
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from enum import StrEnum
from functools import lru_cache
from typing import Any

import orjson

from callout.nkeys import Prefix, SigningKey, decode_public_key, verify
from iam.errors import malformed, unauthenticated

REQUEST_SUBJECT = "$SYS.REQ.USER.AUTH"
SERVER_KEY_HEADER = "Nats-Server-Xkey"

CLOCKS_MAY_DIFFER = timedelta(seconds=5)
LONGEST_REQUEST = 64 * 1024
"""Bytes. A chain of certificates takes most of it."""

_REQUEST_AUDIENCE = "nats-authorization-request"
_HEADER = base64.urlsafe_b64encode(b'{"typ":"JWT","alg":"ed25519-nkey"}').rstrip(b"=") + b"."
_USER_KEY = re.compile(r"U[A-Z2-7]{55}")
_PEM = re.compile(r"-----BEGIN CERTIFICATE-----\s([A-Za-z0-9+/=\s]+)-----END CERTIFICATE-----\s*")
_LONGEST_CHAIN = 10


class ConnectionType(StrEnum):
    """How a client speaks to the broker. MQTT over WebSocket says `mqtt`."""

    NATS = "nats"
    MQTT = "mqtt"
    WEBSOCKET = "websocket"


@dataclass(frozen=True, slots=True)
class AuthorizationRequest:
    """Somebody connects to a broker.

    Attributes:
        server: The broker's id, which is its public key.
        server_key: Its curve key; answers are sealed to it.
        user_key: Made up by the broker for this connection.
        connection: The broker's number for it.
        client: The MQTT client identifier; made up by the broker if the client sent none.
        secret: What was sent as password or token, if anything.
        chain: The client's certificate and its issuers in DER, leaf first, where the broker verified one.
    """

    server: str
    server_key: str
    user_key: str
    connection: int
    type: ConnectionType
    host: str
    client: str
    secret: str = field(repr=False)
    chain: tuple[bytes, ...] = field(repr=False)


class RequestReader:
    """Reads requests, and remembers which server has which curve key (rule 2)."""

    def __init__(self, capacity: int = 1024) -> None:
        self._capacity = capacity
        self._key_of: dict[str, str] = {}

    def read(self, token: bytes, server_key: str, now: datetime) -> AuthorizationRequest:
        """Read a request that was opened with `server_key`.

        Raises:
            Refused: Malformed or unauthenticated, with the reason for the log.
        """
        claims, check_signature = _read(token)
        server = _text(claims, "iss")
        if self._key_of.get(server) != server_key:
            check_signature()
        request = _believed(claims, server_key, now)
        if server not in self._key_of and len(self._key_of) >= self._capacity:
            self._key_of.clear()
        self._key_of[server] = server_key
        return request


def _believed(claims: dict[str, Any], server_key: str, now: datetime) -> AuthorizationRequest:
    """Return what the claims of a server ask (rules 1 and 3 to 5)."""
    nats = _member(claims, "nats")
    server = _member(nats, "server_id")
    if claims.get("aud") != _REQUEST_AUDIENCE or nats.get("type") != "authorization_request":
        raise unauthenticated("the request is for another audience or of another type")
    if claims.get("iss") != server.get("id"):
        raise unauthenticated("the request names another server than the one that signed it")
    if server.get("xkey") != server_key:
        raise unauthenticated("the request names another curve key than its header")
    issued, expires = claims.get("iat"), claims.get("exp")
    if not isinstance(issued, int) or not isinstance(expires, int):
        raise malformed("The request does not say when it was made.")
    seconds, grace = now.timestamp(), CLOCKS_MAY_DIFFER.total_seconds()
    if not issued - grace <= seconds <= expires + grace:
        raise unauthenticated(f"the request was made at {issued} for use until {expires}, and now is {int(seconds)}")
    client, options = _member(nats, "client_info"), _member(nats, "connect_opts")
    if client.get("kind") != "Client":
        raise unauthenticated(f"a connection of the kind {client.get('kind')!r} is not a client")
    try:
        connection_type = ConnectionType(client.get("type", ""))
    except ValueError as error:
        raise unauthenticated(f"a connection of the unknown type {client.get('type')!r}") from error
    user_key = _text(nats, "user_nkey")
    if not _USER_KEY.fullmatch(user_key):  # the server has just made it: its checksum tells nothing new
        raise malformed("The request names no user key.")
    return AuthorizationRequest(
        server=_text(server, "id"),
        server_key=server_key,
        user_key=user_key,
        connection=int(client.get("id", 0)),
        type=connection_type,
        host=_text(client, "host"),
        client=_text(client, "mqtt_id"),
        secret=_text(options, "pass") or _text(options, "auth_token"),
        chain=_chain(nats.get("client_tls")),
    )


def user_claims(
    request: AuthorizationRequest,
    *,
    issuer: SigningKey,
    name: str,
    account: str,
    permissions: bytes,
    now: datetime,
    expires: datetime,
) -> bytes:
    """Return the signed user JWT for a connection.

    Args:
        name: What connection lists and events call the user.
        permissions: The members `pub` and `sub`, as `callout.permissions` encodes them.
    """
    claims = {
        "iss": issuer.public,
        "sub": request.user_key,
        "aud": account,
        "name": name,
        "iat": int(now.timestamp()),
        "exp": int(expires.timestamp()),
        "nats": {"type": "user", "version": 2, "subs": -1, "data": -1, "payload": -1},
    }
    # The permissions of an identity stay the same over many connections: they are spliced in as they are.
    return _signed(orjson.dumps(claims)[:-2] + b"," + permissions[1:] + b"}", issuer)


def response_claims(request: AuthorizationRequest, user: bytes, *, issuer: SigningKey, now: datetime) -> bytes:
    """Return the signed answer that lets a connection in as `user`."""
    claims = {
        "iss": issuer.public,
        "sub": request.user_key,
        "aud": request.server,
        "iat": int(now.timestamp()),
        "nats": {"type": "authorization_response", "version": 2, "jwt": user.decode()},
    }
    return _signed(orjson.dumps(claims), issuer)


def _signed(claims: bytes, issuer: SigningKey) -> bytes:
    message = _HEADER + base64.urlsafe_b64encode(claims).rstrip(b"=")
    return message + b"." + base64.urlsafe_b64encode(issuer.sign(message)).rstrip(b"=")


def _read(token: bytes) -> tuple[dict[str, Any], Callable[[], None]]:
    """Return the claims of a JWT, and what checks that their issuer signed it (rule 2)."""
    parts = token.split(b".")
    if len(token) > LONGEST_REQUEST or len(parts) != 3:  # noqa: PLR2004 - header, claims, signature (RFC 7515 3.1)
        raise malformed("Not a JWT.")
    _check_algorithm(parts[0])
    claims = _object(_decoded(parts[1]))

    def check_signature() -> None:
        server = decode_public_key(Prefix.SERVER, _text(claims, "iss"))
        if not verify(server, parts[0] + b"." + parts[1], _decoded(parts[2])):
            raise unauthenticated("the signature of the request does not hold")

    return claims, check_signature


@lru_cache(maxsize=16)
def _check_algorithm(part: bytes) -> None:
    """Raise unless the header of a JWT is NATS' own (rule 2). A broker writes the same one every time."""
    header = _object(_decoded(part))
    if header.get("alg") != "ed25519-nkey" or str(header.get("typ")).lower() != "jwt":
        raise unauthenticated(f"the request is signed by the algorithm {header.get('alg')!r}")


def _decoded(part: bytes) -> bytes:
    try:
        return base64.b64decode(part + b"=" * (-len(part) % 4), altchars=b"-_", validate=True)
    except (ValueError, binascii.Error) as error:
        raise malformed("Not base64url.") from error


def _object(text: bytes) -> dict[str, Any]:
    try:
        value = orjson.loads(text)
    except orjson.JSONDecodeError as error:
        raise malformed("Not JSON.") from error
    if not isinstance(value, dict):
        raise malformed("Not an object.")
    return value


def _member(claims: dict[str, Any], name: str) -> dict[str, Any]:
    value = claims.get(name)
    if not isinstance(value, dict):
        raise malformed(f"The request has no {name}.")
    return value


def _text(claims: dict[str, Any], name: str) -> str:
    value = claims.get(name, "")
    if not isinstance(value, str):
        raise malformed(f"The {name} of the request is not text.")
    return value


def _chain(tls: object) -> tuple[bytes, ...]:
    """Return the first verified chain in DER, leaf first; empty if the broker verified none.

    `certs`, beside it, is what a client showed and nobody verified: it counts for nothing.
    """
    chains = tls.get("verified_chains") if isinstance(tls, dict) else None
    if not chains:
        return ()
    first = chains[0] if isinstance(chains, list) else None
    if not isinstance(first, list) or not 0 < len(first) <= _LONGEST_CHAIN:
        raise malformed("The chain of certificates cannot be read.")
    return tuple(_certificate(each) for each in first)


def _certificate(pem: object) -> bytes:
    block = _PEM.fullmatch(pem) if isinstance(pem, str) else None
    if block is None:
        raise malformed("A certificate of the request cannot be read.")
    try:
        return base64.b64decode(block[1])
    except (ValueError, binascii.Error) as error:
        raise malformed("A certificate of the request cannot be read.") from error

"""Requests as nats-server makes them, and as somebody might make them who would like to be let in."""

import base64
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import orjson
from nacl import bindings

from callout.nkeys import Prefix, SealingKey, encode_public_key, encode_seed

USER_KEY = encode_public_key(Prefix.USER, bytes(range(7, 39)))
HEADER = {"typ": "JWT", "alg": "ed25519-nkey"}


def base64url(raw: bytes) -> bytes:
    return base64.urlsafe_b64encode(raw).rstrip(b"=")


def decoded(part: bytes) -> dict[str, Any]:
    value: dict[str, Any] = orjson.loads(base64.urlsafe_b64decode(part + b"=" * (-len(part) % 4)))
    return value


def claims_of(token: bytes) -> dict[str, Any]:
    return decoded(token.split(b".")[1])


@dataclass
class Asking:
    """A server that asks."""

    number: int = 1

    def __post_init__(self) -> None:
        public, self._secret = bindings.crypto_sign_seed_keypair(bytes([self.number]) * 32)
        self.id = encode_public_key(Prefix.SERVER, public)
        self.xkey = SealingKey.from_seed(encode_seed(Prefix.CURVE, bytes([self.number + 100]) * 32))

    def claims(self, now: datetime, **nats: object) -> dict[str, Any]:
        issued = int(now.timestamp())
        client = {"host": "127.0.0.1", "id": 9, "kind": "Client", "type": "nats", "mqtt_id": ""}
        return {
            "aud": "nats-authorization-request",
            "exp": issued + 2,
            "iat": issued,
            "iss": self.id,
            "jti": "x",
            "sub": "A",
            "nats": {
                "server_id": {"name": "hub", "host": "127.0.0.1", "id": self.id, "xkey": self.xkey.public},
                "user_nkey": USER_KEY,
                "client_info": client,
                "connect_opts": {"user": "anybody", "pass": "token", "protocol": 1},
                "type": "authorization_request",
                "version": 2,
                **nats,
            },
        }

    def signed(self, claims: object, header: Mapping[str, object] = HEADER) -> bytes:
        message = base64url(orjson.dumps(header)) + b"." + base64url(orjson.dumps(claims))
        return message + b"." + base64url(bindings.crypto_sign(message, self._secret)[:64])

    def sealed(self, token: bytes, receiver: SealingKey) -> bytes:
        return self.xkey.seal(token, receiver.public, lambda count: b"n" * count)

    def opened(self, answer: bytes, sender: SealingKey) -> bytes:
        return self.xkey.open(answer, sender.public)

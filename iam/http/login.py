"""Tokens: getting one by password, exchanging a refresh token, looking at one's own, logging out; and the key set."""

import base64
import binascii
from datetime import datetime
from typing import Any, Literal

from pydantic import Field

from iam.errors import malformed, unauthenticated
from iam.guard import Call, Public, Route, SignedIn
from iam.http.shapes import Names, ShownPermission, names_of
from iam.responses import Answer
from iam.schema import Model, Shown
from iam.service.keyring import KeyRing
from iam.service.login import LoginService
from iam.service.tokens import Issued

_TAG = "Tokens"
_TOKEN = "/api/v1/iam/token"  # noqa: S105 - a path
_LONGEST_BASIC = 2048


class TokenQuery(Model):
    """Whether a refresh token is wanted as well."""

    scope: Literal["offline"] | None = None


class RefreshQuery(TokenQuery):
    """The grant that is presented in the body."""

    grant_type: Literal["refresh_token"] = Field(alias="grant_type")


class RefreshBody(Model):
    """A refresh token."""

    refresh_token: str = Field(max_length=256)


class TokenAnswer(Shown):
    """An access token, and a refresh token if one was asked for."""

    type: Literal["TOKEN"] = "TOKEN"
    token: str
    refresh_token: str | None
    expires_at: datetime


class TokenInfo(Shown):
    """What the caller may do now. Unlike the claims of his token, it is never old and never shortened."""

    identity: str
    identity_type: str
    name: str
    group: str
    roles: list[str]
    permissions: list[ShownPermission]
    devices: Names
    services: Names
    methods: list[str]
    expires_at: datetime


def routes(login: LoginService, keys: KeyRing) -> list[Route]:
    """Return the routes of tokens."""

    async def token(call: Call) -> Answer:
        name, password = read_basic(call.request.headers.get("Authorization", ""))
        query: TokenQuery = call.query
        issued = await login.by_password(name, password, call.address, offline=query.scope == "offline")
        return Answer(content=_shown(issued))

    async def refresh(call: Call) -> Answer:
        query: RefreshQuery = call.query
        return Answer(content=_shown(await login.refresh(call.body.refresh_token, offline=query.scope == "offline")))

    async def info(call: Call) -> Answer:
        access = call.caller.access
        return Answer(
            content=TokenInfo(
                identity=access.identity.id,
                identity_type=access.identity.type,
                name=access.identity.name,
                group=access.tenant.name,
                roles=[grant.role.name for grant in access.grants],
                permissions=[
                    ShownPermission(resource=resource, actions=sorted(actions))
                    for resource, actions in sorted(access.permissions.items())
                ],
                devices=names_of(access.devices) or [],
                services=names_of(access.services) or [],
                methods=list(call.caller.methods),
                expires_at=call.caller.expires,
            )
        )

    async def log_out(call: Call) -> Answer:
        await login.log_out(call.caller)
        return Answer(204)

    async def key_set(call: Call) -> Answer:  # noqa: ARG001 - every handler takes the call
        content: dict[str, Any] = await keys.jwks()
        return Answer(
            content=content,
            headers={"Content-Type": "application/jwk-set+json", "Cache-Control": "public, max-age=300"},
        )

    return [
        Route(
            "GET",
            _TOKEN,
            token,
            Public("the Basic header holds the proof"),
            "Get a token by name and password",
            _TAG,
            query=TokenQuery,
            answers=TokenAnswer,
        ),
        Route(
            "POST",
            _TOKEN,
            refresh,
            Public("the refresh token is the proof"),
            "Exchange a refresh token",
            _TAG,
            body=RefreshBody,
            query=RefreshQuery,
            answers=TokenAnswer,
        ),
        Route(
            "GET",
            _TOKEN + "/info",
            info,
            SignedIn("it is about the caller"),
            "What I may do now",
            _TAG,
            answers=TokenInfo,
        ),
        Route(
            "POST",
            "/api/v1/iam/logout",
            log_out,
            SignedIn("it ends the caller's own session"),
            "End my session",
            _TAG,
            status=204,
        ),
        Route(
            "GET",
            "/.well-known/jwks.json",
            key_set,
            Public("public keys"),
            "The keys that verify tokens",
            _TAG,
        ),
    ]


def read_basic(header: str) -> tuple[str, str]:
    """Return the name and password of a Basic Authorization header (RFC 7617 2).

    Raises:
        Refused: (unauthenticated) There is none. (malformed) It cannot be read.
    """
    scheme, _, encoded = header.partition(" ")
    if scheme.lower() != "basic":
        raise unauthenticated("no Basic Authorization header")
    if len(encoded) > _LONGEST_BASIC:
        raise malformed("The Authorization header is too long.")
    try:
        text = base64.b64decode(encoded.strip(), validate=True).decode("utf-8")
    except (binascii.Error, UnicodeDecodeError) as error:
        raise malformed("The Authorization header is not Basic: base64 of name:password in UTF-8.") from error
    name, colon, password = text.partition(":")
    if not colon or "\0" in text:
        raise malformed("The Authorization header is not Basic: base64 of name:password in UTF-8.")
    return name, password


def _shown(issued: Issued) -> TokenAnswer:
    return TokenAnswer(token=issued.token, refresh_token=issued.refresh_token, expires_at=issued.expires)

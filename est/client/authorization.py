"""What a client shows beside its certificate, or instead of one: a secret or a token, in the Authorization header.

Either is checked before anything is sent, since whatever stands in a header must not be able to begin another.
"""

import re
from base64 import b64encode
from dataclasses import dataclass, field

_TOKEN = re.compile(r"[A-Za-z0-9._~+/-]+=*")  # RFC 6750 2.1


@dataclass(frozen=True, slots=True)
class BasicSecret:
    """A user and a secret, for HTTP Basic (RFC 7030 3.2.3; RFC 7617)."""

    user: str
    secret: str = field(repr=False)

    def authorization(self) -> str:
        """Return the header's value; raise `ValueError` for what it cannot carry."""
        if ":" in self.user or not f"{self.user}{self.secret}".isprintable():
            raise ValueError("a user has no colon, and neither it nor the secret has control characters")
        return "Basic " + b64encode(f"{self.user}:{self.secret}".encode()).decode()


@dataclass(frozen=True, slots=True)
class BearerToken:
    """A token of an authorization server (RFC 6750)."""

    token: str = field(repr=False)

    def authorization(self) -> str:
        """Return the header's value; raise `ValueError` for what it cannot carry."""
        if _TOKEN.fullmatch(self.token) is None:
            raise ValueError("that is not a bearer token")
        return f"Bearer {self.token}"


Authorization = BasicSecret | BearerToken

"""Who asks, for the guard: the Authorization header, and the tenant that a request names."""

from iam.access import Authenticated
from iam.errors import unauthenticated
from iam.model import Tenant
from iam.service.tenancy import TenancyService
from iam.service.tokens import TokenService


class TokenGate:
    """The `Gate` of `iam.guard`: bearer tokens (RFC 6750 2.1) and nothing else."""

    def __init__(self, tokens: TokenService, tenancy: TenancyService) -> None:
        self._tokens = tokens
        self._tenancy = tenancy

    async def authenticate(self, authorization: str) -> Authenticated:
        """Return who presents this header; raise `Refused` (unauthenticated)."""
        scheme, _, token = authorization.partition(" ")
        if not authorization:
            raise unauthenticated("no Authorization header")
        if scheme.lower() != "bearer" or not token:
            raise unauthenticated(f"an Authorization header of the scheme {scheme[:32]!r}")
        return await self._tokens.by_token(token.strip())

    async def find_tenant(self, name: str) -> Tenant | None:
        """Return the tenant of that name."""
        return await self._tenancy.find(name)

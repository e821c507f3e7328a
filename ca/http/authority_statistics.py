"""How many authorities and certificates there are, over REST."""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from uuid import UUID

from pydantic import Field

from ca.administration import AuthorityAdministration
from ca.authorities import Authorities
from ca.http.authorities import TAG
from ca.register import AuthorityRegister
from iam.guard import Call, Needs, Route
from iam.permissions import Action, Resource
from iam.responses import Answer
from iam.schema import SnakeShown

_STATISTICS = "/api/ca/v1/stats"


class AuthorityStatistics(SnakeShown):
    """How many authorities there are."""

    total: int
    engine_distribution: dict[str, int]
    status_distribution: dict[str, int]


class CertificateStatistics(SnakeShown):
    """How many certificates there are."""

    total: int
    ca_distribution: dict[str, int]
    status_distribution: dict[str, int]


class Statistics(SnakeShown):
    """How many there are of both."""

    cas: AuthorityStatistics
    certificates: CertificateStatistics


class StatusCounts(SnakeShown):
    """How many certificates of an authority there are, by what they are good for."""

    active: int = Field(alias="ACTIVE")
    expired: int = Field(alias="EXPIRED")
    inactive: int = Field(alias="INACTIVE")
    revoked: int = Field(alias="REVOKED")


@dataclass(frozen=True, slots=True)
class _Handlers:
    """What the routes below do."""

    authorities: Authorities
    administration: AuthorityAdministration
    register: AuthorityRegister

    async def of_all(self, call: Call) -> Answer:
        cas, certificates = await self.register.count(call.tenant)
        by_line: Counter[str] = Counter()
        for one in certificates:
            by_line[self.authorities.by_id(UUID(one.by)).line] += one.number
        return Answer(
            content=Statistics(
                cas=AuthorityStatistics(
                    total=sum(one.number for one in cas),
                    engine_distribution=_summed((one.by, one.number) for one in cas),
                    status_distribution=_summed((one.standing, one.number) for one in cas),
                ),
                certificates=CertificateStatistics(
                    total=sum(one.number for one in certificates),
                    ca_distribution=dict(by_line),
                    status_distribution=_summed((one.standing, one.number) for one in certificates),
                ),
            )
        )

    async def of_one(self, call: Call) -> Answer:
        named = await self.administration.visible(call.tenant, call.path["authority"])
        counted = await self.register.count_issued(call.tenant, named)
        numbers = _summed((one.standing, one.number) for one in counted)
        return Answer(
            content=StatusCounts(
                active=numbers.get("ACTIVE", 0),
                expired=numbers.get("EXPIRED", 0),
                inactive=numbers.get("INACTIVE", 0),
                revoked=numbers.get("REVOKED", 0),
            )
        )


def routes(
    authorities: Authorities, administration: AuthorityAdministration, register: AuthorityRegister
) -> list[Route]:
    """Return the routes of statistics."""
    do = _Handlers(authorities, administration, register)
    read = Needs(Action.READ, Resource.CA_AUTHORITIES)
    of_one = f"{_STATISTICS}/{{authority}}"
    return [
        Route("GET", _STATISTICS, do.of_all, read, "Count authorities and certificates", TAG, answers=Statistics),
        Route("GET", of_one, do.of_one, read, "Count an authority's certificates", TAG, answers=StatusCounts),
    ]


def _summed(numbers: Iterable[tuple[str, int]]) -> dict[str, int]:
    counted: Counter[str] = Counter()
    for name, number in numbers:
        counted[name] += number
    return dict(counted)

"""docs/api.md lists every route, what it needs, and no route that is not there."""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from ca.http import authorities as authority_routes
from ca.http import authority_requests, authority_signatures, authority_statistics, distribution
from ca.http import bulk_revocations as bulk_routes
from ca.http import certificates as certificate_routes
from ca.http import keys as key_routes
from ca.http import profiles as issuance_routes
from ca.http import status as status_routes
from challenge.http import routes as challenge_routes
from doorward.console.http import routes as console_routes
from est.http import credentials, dms, operations
from est.http import decryption_keys as decryption_key_routes
from iam.guard import Needs, Public, Route, SignedIn
from iam.http import audit, device_groups, device_manager, devices, identities, login, tenancy
from iam.permissions import Resource

ROOT = Path(__file__).parents[2]
DOCUMENT = (ROOT / "docs" / "api.md").read_text(encoding="utf-8")
ROW = re.compile(r"^\| `(GET|POST|PUT|PATCH|DELETE) (\S+)` \| ([^|]+) \| [^|]+ \|$", re.MULTILINE)
TABLE_OF_RESOURCES = re.compile(r"^\| `([a-z.]+)` \| [^|]+ \|$", re.MULTILINE)


def _all_routes() -> Sequence[Route]:
    # Routes are values; their handlers are not called here, so nothing stands behind them.
    nothing: Any = None
    return [
        *tenancy.routes(nothing),
        *identities.routes(nothing),
        *login.routes(nothing, nothing),
        *devices.device_routes(nothing),
        *devices.pairing_routes(nothing),
        *device_manager.routes(nothing, nothing),
        *device_groups.routes(nothing),
        *challenge_routes(nothing, nothing),
        *authority_routes.routes(nothing, nothing, nothing, nothing),
        *authority_requests.routes(nothing, nothing),
        *authority_signatures.routes(nothing, nothing, nothing, nothing),
        *authority_statistics.routes(nothing, nothing, nothing),
        *issuance_routes.routes(nothing),
        *certificate_routes.routes(nothing, nothing, nothing, nothing),
        *bulk_routes.routes(nothing),
        *distribution.routes(nothing, nothing),
        *distribution.partition_routes(nothing, nothing),
        *key_routes.routes(nothing),
        *status_routes.routes(nothing, nothing),
        *dms.profile_routes(nothing, nothing),
        *dms.binding_routes(nothing),
        *dms.identity_routes(nothing, nothing),
        *decryption_key_routes.routes(nothing),
        *credentials.secret_routes(nothing),
        *credentials.approval_routes(nothing),
        *audit.routes(nothing),
        *operations.routes(nothing),
        *console_routes(nothing, nothing, list, "", ""),
    ]


def _need(route: Route) -> str:
    match route.need:
        case Needs(action, resource):
            return f"`{action}` on `{resource}`"
        case SignedIn():
            return "any token"
        case Public():
            return "no token"


def _rows() -> list[tuple[str, str, str]]:
    return [(method, path, need.strip()) for method, path, need in ROW.findall(DOCUMENT)]


def test_the_document_lists_exactly_the_routes_with_what_each_needs() -> None:
    documented = _rows()
    assert len(documented) == len(set(documented))
    assert set(documented) == {(route.method, route.path, _need(route)) for route in _all_routes()}


def test_these_are_all_functions_that_the_application_takes_routes_from() -> None:
    called = re.compile(r"\b((?:\w+\.)?\w*routes)\(")
    application = (ROOT / "doorward" / "app.py").read_text(encoding="utf-8")
    here = Path(__file__).read_text(encoding="utf-8").partition("def _all_routes")[2].partition("def _need")[0]
    assert set(called.findall(application)) == set(called.findall(here))


@pytest.mark.parametrize("resource", list(Resource))
def test_the_document_says_what_each_resource_is(resource: Resource) -> None:
    assert resource.value in TABLE_OF_RESOURCES.findall(DOCUMENT)

"""The API's description: valid OpenAPI 3.1 made from the routes, and a page that a browser shows."""

import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from iam.guard import Public
from iam.openapi import describe
from tests.api.conftest import Answer, Api, api  # noqa: F401 - the fixture of that name

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
FLAGS = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--virtual-time-budget=3000",
]


def shown(path: str) -> str:
    """Return a path without the patterns of its variables."""
    return re.sub(r":[^}]*", "", path)


async def test_the_description_has_every_route_and_every_reference_leads_somewhere(api: Api) -> None:  # noqa: F811
    document = (await api.call("GET", "/openapi.json")).body
    assert document["openapi"] == "3.1.0"
    operations = {
        (method.upper(), path): operation
        for path, methods in document["paths"].items()
        for method, operation in methods.items()
        if method != "servers"
    }
    routes = [*api.app.api_routes, *api.app.est_routes]
    assert set(operations) == {(route.method, shown(route.path)) for route in routes}
    assert len({one["operationId"] for one in operations.values()}) == len(operations)
    for path, methods in document["paths"].items():
        assert ("servers" in methods) is path.startswith("/.well-known/est")
    for reference in references(document):
        place = document
        for part in reference.removeprefix("#/").split("/"):
            place = place[part]
    for route in routes:
        operation = document["paths"][shown(route.path)][route.method.lower()]
        assert (operation["security"] == []) is isinstance(route.need, Public)


@pytest.mark.parametrize("path", ["/openapi.json", "/docs"])
async def test_what_changes_only_with_the_program_is_made_once_and_sent_once(
    api: Api,  # noqa: F811
    monkeypatch: pytest.MonkeyPatch,
    path: str,
) -> None:
    made: list[str] = []

    def counted(*arguments: Any, **options: Any) -> dict[str, Any]:
        made.append(path)
        return describe(*arguments, **options)

    monkeypatch.setattr("doorward.console.http.describe", counted)
    first = await api.call("GET", path)
    again = await api.call("GET", path)
    assert (first.status, first.body) == (200, again.body)
    assert made == [path]
    tag = entity_tag(first)
    for held in (tag, f'W/{tag}, "other"', "*"):
        answer = await api.call("GET", path, headers={"If-None-Match": held})
        assert (answer.status, answer.body, entity_tag(answer)) == (304, b"", tag)
    answer = await api.call("GET", path, headers={"If-None-Match": '"other"'})
    assert (answer.status, answer.body) == (200, first.body)


def entity_tag(answer: Answer) -> str:
    return next(value for name, value in answer.headers.items() if name.lower() == "etag")


def references(value: object) -> list[str]:
    if isinstance(value, dict):
        own = [value["$ref"]] if isinstance(value.get("$ref"), str) else []
        return own + [one for inner in value.values() for one in references(inner)]
    if isinstance(value, list):
        return [one for inner in value for one in references(inner)]
    return []


@pytest.mark.skipif(CHROMIUM is None, reason="needs a browser: apt-get install chromium")
async def test_a_browser_shows_the_page(api: Api, tmp_path: Path) -> None:  # noqa: F811
    page = (await api.call("GET", "/docs")).body
    file = tmp_path / "docs.html"
    file.write_bytes(page)
    assert CHROMIUM is not None
    shown = subprocess.run(  # noqa: ASYNC221 - the page is a file: nothing else has to run meanwhile
        [CHROMIUM, *FLAGS, f"--user-data-dir={tmp_path / 'profile'}", "--dump-dom", file.as_uri()],
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    ).stdout
    for text in ("/api/v1/iam/groups", "/auth/verify", "simplereenroll", "Needs <code>create</code> on"):
        assert text in shown
    assert "<script" not in shown

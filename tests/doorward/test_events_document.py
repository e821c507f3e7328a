"""docs/events.md lists every kind of event that the code records, and none that it does not."""

import ast
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path

ROOT = Path(__file__).parents[2]
PACKAGES = ("ca", "callout", "certs", "challenge", "doorward", "est", "iam")
ROW = re.compile(r"^\| `([a-z_]+\.[a-z_]+)` \| [^|]+ \| [^|]+ \|$", re.MULTILINE)
DOCUMENTED = frozenset(ROW.findall((ROOT / "docs" / "events.md").read_text(encoding="utf-8")))
NOUNS = frozenset(kind.partition(".")[0] for kind in DOCUMENTED)
KIND = re.compile(rf"(?:{'|'.join(sorted(NOUNS))})\.[a-z_]+")
ANY_KIND = re.compile(r"[a-z_]+\.[a-z_]+")
IN_SQL = re.compile(r"record_change\([^;]*?'([a-z_]+\.[a-z_]+)'", re.DOTALL)
NO_KINDS = {"device.csr", "device.id", "device.key", "device.pem", "device.uri"}
"""What looks like one: names of files, and of arguments."""


@cache
def nodes() -> list[ast.AST]:
    """All of the code, walked through once."""
    files = [file for package in PACKAGES for file in (ROOT / package).rglob("*.py")]
    return [node for file in files for node in ast.walk(ast.parse(file.read_text(encoding="utf-8")))]


def literals() -> set[str]:
    """Every text in the code that reads as a kind, and every kind in the migrations."""
    found = {
        node.value
        for node in nodes()
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and KIND.fullmatch(node.value)
    }
    for file in (ROOT / "doorward" / "migrations").glob("*.sql"):
        found |= set(IN_SQL.findall(file.read_text(encoding="utf-8")))
    return found - NO_KINDS


def beginnings() -> set[str]:
    """The first parts of the texts that are put together to a kind: `f"role.{what}"`."""
    return {
        node.values[0].value
        for node in nodes()
        if isinstance(node, ast.JoinedStr)
        and len(node.values) == 2
        and isinstance(node.values[0], ast.Constant)
        and str(node.values[0].value).rstrip(".") in NOUNS
    }


def recorded() -> Iterator[ast.expr]:
    """What is given to `Change(...)`, and to functions that record for their callers."""
    for node in nodes():
        if isinstance(node, ast.Call) and name_of(node.func) in {"Change", "_record", "record"}:
            yield from node.args


def name_of(function: ast.expr) -> str:
    return function.attr if isinstance(function, ast.Attribute) else getattr(function, "id", "")


def test_every_kind_that_is_recorded_is_documented() -> None:
    assert literals() - DOCUMENTED == set()
    for given in recorded():
        if isinstance(given, ast.Constant) and ANY_KIND.fullmatch(str(given.value)):
            assert given.value in DOCUMENTED
        if isinstance(given, ast.JoinedStr) and isinstance(given.values[0], ast.Constant):
            noun = str(given.values[0].value)
            assert any(one.startswith(noun) for one in DOCUMENTED), noun


def test_every_kind_that_is_documented_is_recorded_somewhere() -> None:
    put_together = tuple(beginnings())
    assert {kind for kind in DOCUMENTED - literals() if not kind.startswith(put_together)} == set()

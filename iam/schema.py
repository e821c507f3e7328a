"""What bodies and queries are made of: pydantic models that refuse what they do not know."""

import re
from typing import Any

from pydantic import BaseModel, ConfigDict
from pydantic.alias_generators import to_camel

from iam.errors import malformed

DEEPEST = 16
"""How deep a body may be nested: deeper than anything that has a meaning here."""

# Lines of PEM are text too; every other control character has no business in a body.
_CONTROL = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f\ud800-\udfff]")


def check_plain(raw: Any, depth: int = 0) -> None:  # noqa: ANN401 - any JSON
    """Raise `Refused` (malformed) for a body or query with control characters, or nested deeper than `DEEPEST`."""
    if depth > DEEPEST:
        raise malformed(f"The body is nested more than {DEEPEST} levels deep.")
    if isinstance(raw, str):
        if _CONTROL.search(raw):
            raise malformed("The body holds control characters.")
    elif isinstance(raw, dict):
        for name, value in raw.items():
            check_plain(name, depth + 1)
            check_plain(value, depth + 1)
    elif isinstance(raw, list):
        for value in raw:
            check_plain(value, depth + 1)


class SnakeModel(BaseModel):
    """A body or a query: frozen, and unknown fields are refused. The APIs in Lamassu's form take it as it is."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class Model(SnakeModel):
    """The same, camelCase outside: what all other APIs take."""

    model_config = ConfigDict(alias_generator=to_camel)


class NoQuery(Model):
    """A query string that may hold nothing but what the guard itself reads."""


class Shown(BaseModel):
    """What an answer shows: camelCase outside; what is None is left out."""

    model_config = ConfigDict(frozen=True, populate_by_name=True, alias_generator=to_camel)


class SnakeShown(BaseModel):
    """What an answer of the APIs in Lamassu's form shows: snake_case outside; what is None is left out."""

    model_config = ConfigDict(frozen=True, populate_by_name=True)

"""docs/configuration.md lists every key with its environment variable and default, and no key that is not there."""

import re
from datetime import timedelta
from pathlib import Path

from doorward.config import ENVIRONMENT_MASTER_KEY, ENVIRONMENT_PIN, ENVIRONMENT_PREFIX, Configuration, known_keys

DOCUMENT = (Path(__file__).parents[2] / "docs" / "configuration.md").read_text(encoding="utf-8")
ROW = re.compile(r"^\| `([a-z0-9]+\.[a-z_]+)` \| `([A-Z0-9_]+)` \| ([^|]*) \| [^|]+ \|$", re.MULTILINE)
MENTION = re.compile(rf"\b({'|'.join(known_keys())})\.([a-z]+(?:_[a-z]+)*)\b(?!\.)")
PROSE = re.sub(r"^```console$.*?^```$", "", DOCUMENT, flags=re.MULTILINE | re.DOTALL)
"""All but what terminals show: there a mistyped key stands on purpose."""
FILE_ENDINGS = {"pem", "key", "md", "py", "sealed", "conf"}


def _written(value: object) -> str:
    """Return a default as the document writes it."""
    match value:
        case None | ():
            return "none"
        case dict() if not value:
            return "none"
        case timedelta():
            return f"`{value.total_seconds():.0f}`"
        case tuple():
            return f"`{','.join(value)}`"
        case _:
            return f"`{value}`"


def _expected() -> dict[str, tuple[str, str]]:
    defaults = Configuration()
    return {
        f"{section}.{key}": (
            f"{ENVIRONMENT_PREFIX}{section}_{key}".upper(),
            _written(getattr(getattr(defaults, section), key)),
        )
        for section, keys in known_keys().items()
        for key in keys
    }


def test_every_key_stands_in_the_tables_with_its_variable_and_default() -> None:
    documented = {key: (variable, default.strip()) for key, variable, default in ROW.findall(DOCUMENT)}
    assert documented == _expected()
    assert len(ROW.findall(DOCUMENT)) == len(documented)


def test_no_key_is_spoken_of_that_is_not_there() -> None:
    known = known_keys()
    unknown = {
        f"{section}.{key}"
        for section, key in MENTION.findall(PROSE)
        if key not in known[section] and key not in FILE_ENDINGS
    }
    assert unknown == set()


def test_every_variable_that_is_spoken_of_is_one() -> None:
    variables = {variable for variable, _ in _expected().values()} | {ENVIRONMENT_MASTER_KEY, ENVIRONMENT_PIN}
    assert set(re.findall(rf"\b{ENVIRONMENT_PREFIX}[A-Z0-9_]+", PROSE)) <= variables

"""How commands print: a few lines for people, or one JSON object for programs."""

import sys
from typing import Any

import orjson


def print_json(value: Any) -> None:  # noqa: ANN401 - any JSON
    """Print one JSON value, indented."""
    sys.stdout.write(orjson.dumps(value, option=orjson.OPT_INDENT_2).decode() + "\n")


def print_lines(*lines: str) -> None:
    """Print lines of text."""
    sys.stdout.write("\n".join(lines) + "\n")

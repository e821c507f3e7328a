"""How commands print: a few lines for people, or one JSON object for programs."""

import sys
from collections.abc import Sequence
from typing import Any

import orjson


def print_json(value: Any) -> None:  # noqa: ANN401 - any JSON
    """Print one JSON value, indented."""
    sys.stdout.write(orjson.dumps(value, option=orjson.OPT_INDENT_2).decode() + "\n")


def print_lines(*lines: str) -> None:
    """Print lines of text."""
    sys.stdout.write("\n".join(lines) + "\n")


def to_the_second(moment: str) -> str:
    """Return a moment of the API (RFC 3339, in UTC) without its parts of a second."""
    return moment[: len("2026-01-01T00:00:00")] + "Z"


def print_table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Print rows under their heads, each column as wide as it has to be."""
    widths = [max(len(row[place]) for row in (heads, *rows)) for place in range(len(heads))]
    print_lines(
        *(
            "  ".join(f"{one:<{width}}" for one, width in zip(row, widths, strict=True)).rstrip()
            for row in (heads, *rows)
        )
    )

"""How the log is written: one line for each record, whatever those who send us something put into it.

The rules:

1. A record's own line holds no character that is not printable; what is not is written as its escape sequence. So
   nobody writes lines of his own, or sends commands to the terminal on which the log is read.
2. Only what follows from an exception has more lines, and each of them is indented.
"""

import logging
import sys
from typing import Any

_FORMAT = "%(asctime)s %(levelname)-7s %(name)s: %(message)s"
_INDENT = "    "


class PrintableFormatter(logging.Formatter):
    """Formats records by the rules above."""

    def __init__(self) -> None:
        super().__init__(_FORMAT)

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802 - the name is that of the base class
        """Return a record's own line (rule 1)."""
        return printable(super().formatMessage(record))

    def formatException(self, ei: Any) -> str:  # noqa: ANN401, N802 - as in the base class
        """Return the lines of an exception (rule 2)."""
        return _indented(super().formatException(ei))

    def formatStack(self, stack_info: str) -> str:  # noqa: N802 - the name is that of the base class
        """Return the lines of a stack (rule 2)."""
        return _indented(super().formatStack(stack_info))


def printable(text: str) -> str:
    """Return `text` with every character that is not printable written as its escape sequence."""
    if text.isprintable():
        return text
    return "".join(one if one.isprintable() else one.encode("unicode_escape").decode("ascii") for one in text)


def begin_logging(level: str) -> None:
    """Write the log to standard error."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(PrintableFormatter())
    logging.basicConfig(level=level.upper(), handlers=[handler])
    logging.getLogger("asyncio").setLevel(logging.ERROR)
    logging.getLogger("nats").setLevel(logging.WARNING)


def _indented(text: str) -> str:
    return "\n".join(_INDENT + printable(line) for line in text.split("\n"))

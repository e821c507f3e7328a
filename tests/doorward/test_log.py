"""The log: whatever a client sends, he writes no line of his own and no escape sequence."""

import logging

import pytest

from doorward.log import PrintableFormatter
from tests.api.conftest import Api, api  # noqa: F401 - the fixture of that name

SLY = "/x%0aFAKE-LINE%1b[31m"


def formatted(message: str, *arguments: object, exception: Exception | None = None) -> str:
    caught = (type(exception), exception, exception.__traceback__) if exception else None
    return PrintableFormatter().format(logging.LogRecord("n", logging.INFO, "", 0, message, arguments, caught))


def raised(text: str) -> Exception:
    try:
        raise ValueError(text)  # noqa: TRY301 - an exception that was raised has a trace
    except ValueError as error:
        return error


@pytest.mark.parametrize("sly", ["\n", "\r", "\x1b[31m", "\x00", "\x7f", "\x9b1m", "\u2028", "\u202e", "\udc80"])
def test_a_record_is_one_line_of_printable_characters(sly: str) -> None:
    for line in (formatted(f"a{sly}b"), formatted("a %s b", sly)):
        assert line.isprintable()
    assert formatted("ünïcode stays").endswith("n: ünïcode stays")


def test_only_an_exception_has_more_lines_and_each_is_indented() -> None:
    first, *others = formatted("failed", exception=raised("a\n2026 ERROR doorward: forged\x1b[31m\r")).split("\n")
    assert first.endswith("failed")
    assert any("forged\\x1b[31m\\r" in line for line in others)
    assert all(line.startswith("    ") and line.isprintable() for line in others)


async def test_a_path_reaches_neither_log_nor_answer_as_it_came(
    api: Api,  # noqa: F811
    caplog: pytest.LogCaptureFixture,
) -> None:
    with caplog.at_level(logging.INFO, "doorward.http"):
        for method, path in (("GET", SLY), ("DELETE", "/healthz"), ("GET", "/.well-known/est" + SLY)):
            answer = await api.call(method, path)
            assert answer.status in (404, 405)
            assert "FAKE" not in str(answer.body)
    assert len(caplog.records) == 3
    for record in caplog.records:
        assert record.getMessage().isprintable()

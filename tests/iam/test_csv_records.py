"""CSV as it comes: wherever it is cut, and whatever is wrong with a line."""

import csv
import io

from hypothesis import given
from hypothesis import strategies as st

from iam.csv_records import LONGEST_RECORD, Record, RecordReader, Unreadable


def read(content: bytes, *, parts: int = 1 << 20) -> list[Record | Unreadable]:
    reader = RecordReader()
    found: list[Record | Unreadable] = []
    for at in range(0, len(content), parts):
        found += reader.feed(content[at : at + parts])
    return [*found, *reader.end()]


FIELD = st.text(st.characters(codec="utf-8", exclude_characters="\r\0"), max_size=12)


@given(st.lists(st.lists(FIELD, min_size=2, max_size=4), max_size=6), st.integers(1, 64))
def test_what_was_written_is_read_wherever_it_is_cut(rows: list[list[str]], parts: int) -> None:
    text = io.StringIO()
    csv.writer(text, lineterminator="\r\n").writerows(rows)
    found = read(text.getvalue().encode(), parts=parts)
    assert [one.fields for one in found if isinstance(one, Record)] == [tuple(row) for row in rows]


@given(st.binary(max_size=300), st.integers(1, 64))
def test_whatever_comes_is_read_or_said_to_be_unreadable(content: bytes, parts: int) -> None:
    assert read(content, parts=parts) == read(content)


def test_lines_are_counted_as_an_editor_does() -> None:
    found = read(b'\xef\xbb\xbfid,note\n\na,"two\nlines"\nb,x\n')
    assert [(one.line, one.fields) for one in found if isinstance(one, Record)] == [
        (1, ("id", "note")),
        (3, ("a", "two\nlines")),
        (5, ("b", "x")),
    ]


def test_what_cannot_be_read_costs_no_other_line() -> None:
    found = read(b'a,1\nb,\xff\nc,"x"y\nd,4\n"e,5\n')
    assert found == [
        Record(1, ("a", "1")),
        Unreadable(2, "not UTF-8"),
        Unreadable(3, "not CSV: ',' expected after '\"'"),
        Record(4, ("d", "4")),
        Unreadable(5, "a quote is not closed; looked for it up to line 5"),
    ]


def test_a_line_without_end_is_dropped_whole_and_said_once() -> None:
    content = b"a,1\n" + b"x" * (5 * LONGEST_RECORD) + b",2\nb,3\n"
    expected = [Record(1, ("a", "1")), Unreadable(2, f"longer than {LONGEST_RECORD} bytes"), Record(3, ("b", "3"))]
    assert read(content, parts=10_000) == expected
    assert read(content) == expected


def test_a_quote_that_is_never_closed_takes_a_bounded_part_with_it() -> None:
    lines = 2 * LONGEST_RECORD // 8
    found = read(b'"' + b"aaaa,1\n" * lines)
    assert isinstance(found[0], Unreadable)
    assert found[0].reason.startswith("a quote is not closed")
    assert sum(isinstance(one, Record) for one in found) > lines // 4

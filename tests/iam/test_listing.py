"""What may be asked of a list, and what is refused."""

from datetime import UTC, datetime
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from iam.errors import Kind, Refused
from iam.listing import (
    LONGEST_BOOKMARK,
    LONGEST_FILTERS_BYTES,
    MOST_FILTERS,
    OPERATORS,
    Field,
    FieldKind,
    Filter,
    ListQuery,
    Operator,
    Place,
    Question,
    Sort,
    SortMode,
    bookmark_after,
    read_filters,
    read_query,
)

FIELDS = {
    "id": Field(FieldKind.TEXT),
    "status": Field(FieldKind.ENUM, values=("ACTIVE", "EXPIRED")),
    "level": Field(FieldKind.NUMBER),
    "creation_timestamp": Field(FieldKind.DATE),
    "tags": Field(FieldKind.TEXTS),
    "metadata": Field(FieldKind.JSON),
    "key_id": Field(FieldKind.UUID, is_nullable=True),
    "serial_number": Field(FieldKind.HEX),
    "subject.common_name": Field(FieldKind.TEXT, is_sortable=False),
}
JANUARY = datetime(2026, 1, 1, tzinfo=UTC)


def read(**said: object) -> Question:
    return read_query(ListQuery.model_validate(said), FIELDS, "id")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("id[eq]meter-1", Filter("id", Operator.EQUAL, "meter-1")),
        ("id[eq]=meter-1", Filter("id", Operator.EQUAL, "meter-1")),
        ("id[eq]==meter-1", Filter("id", Operator.EQUAL, "=meter-1")),
        ("id[EQ]meter-1", Filter("id", Operator.EQUAL, "meter-1")),
        ("id[equal_ignorecase]M", Filter("id", Operator.EQUAL_IGNORING_CASE, "M")),
        ("id[nc_ic]a[b]c", Filter("id", Operator.NOT_CONTAINS_IGNORING_CASE, "a[b]c")),
        ("id[ct]", Filter("id", Operator.CONTAINS, "")),
        ("subject.common_name[eq]My Root CA", Filter("subject.common_name", Operator.EQUAL, "My Root CA")),
        ("status[ne]EXPIRED", Filter("status", Operator.NOT_EQUAL, "EXPIRED")),
        ("level[ge]-3", Filter("level", Operator.GREATER_OR_EQUAL, -3)),
        ("creation_timestamp[bf]2026-01-01", Filter("creation_timestamp", Operator.BEFORE, JANUARY)),
        ("creation_timestamp[af]2026-01-01T01:00:00+01:00", Filter("creation_timestamp", Operator.AFTER, JANUARY)),
        ("creation_timestamp[eq]2026-01-01T00:00:00Z", Filter("creation_timestamp", Operator.EQUAL, JANUARY)),
        (
            "creation_timestamp[eq]2026-01-01",
            Filter("creation_timestamp", Operator.EQUAL, JANUARY, until=datetime(2026, 1, 2, tzinfo=UTC)),
        ),
        ("tags[ct]production", Filter("tags", Operator.CONTAINS, "production")),
        ('metadata[jsonpath]$.site == "berlin"', Filter("metadata", Operator.JSONPATH, '$.site == "berlin"')),
        (
            "key_id[eq]01890A5D-AC96-774B-BCCE-B302099A8057",
            Filter("key_id", Operator.EQUAL, UUID("01890a5d-ac96-774b-bcce-b302099a8057")),
        ),
        ("serial_number[eq]AB:cd-01", Filter("serial_number", Operator.EQUAL, b"\xab\xcd\x01")),
    ],
)
def test_a_filter_is_read(text: str, expected: Filter) -> None:
    assert read_filters([text], FIELDS) == (expected,)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "id",
        "id[eq",
        "id eq x",
        "[eq]x",
        "id[]x",
        "id[like]x",
        "id[eq;drop]x",
        "nothing[eq]x",
        "id; DROP TABLE device[eq]x",
        "id[lt]x",
        "id[jsonpath]$.a",
        "status[eq]active",
        "status[ct]ACT",
        "level[eq]1.5",
        "level[eq]",
        "level[eq]9223372036854775808",
        "level[eq]٣",  # a digit, and not one of ours
        "level[ct]1",
        "creation_timestamp[bf]yesterday",
        "creation_timestamp[bf]2026-13-01",
        "creation_timestamp[bf]2026-01-01T00:00:00",  # without an offset it is no moment
        "creation_timestamp[bf]0001-01-01T00:00:00+14:00",
        "creation_timestamp[eq]9999-12-31",
        "creation_timestamp[bf]2026W01",
        "tags[eq]x",
        "metadata[ct]x",
        "key_id[eq]01890a5dac96774bbcceb302099a8057",
        "key_id[eq]x",
        "serial_number[eq]abc",
        "serial_number[eq]",
        "id[eq]a\x00b",
        "id[eq]a\nb",
        "id[eq]\ud800",
    ],
)
def test_what_does_not_fit_is_refused(text: str) -> None:
    with pytest.raises(Refused) as refused:
        read_filters([text], FIELDS)
    assert refused.value.kind is Kind.MALFORMED


def test_every_kind_has_operators_and_every_operator_a_kind() -> None:
    assert set(OPERATORS) == set(FieldKind)
    assert {one for operators in OPERATORS.values() for one in operators} == set(Operator)


def test_filters_are_bounded() -> None:
    with pytest.raises(Refused):
        read_filters(["id[eq]x"] * (MOST_FILTERS + 1), FIELDS)
    with pytest.raises(Refused):
        read_filters(["id[eq]" + "x" * 1000] * 3, FIELDS)
    with pytest.raises(ValidationError):
        ListQuery(filter=["id[eq]" + "x" * 1024])
    with pytest.raises(ValidationError):
        ListQuery(page_size=1001)


@pytest.mark.parametrize(
    ("said", "expected"),
    [
        ({}, Sort("id", SortMode.ASCENDING)),
        ({"sort_by": "level", "sort_mode": "desc"}, Sort("level", SortMode.DESCENDING)),
        (
            {"sort_by": "metadata[jsonpath]$.site.floors[0]"},
            Sort("metadata", SortMode.ASCENDING, ("site", "floors", "0")),
        ),
        ({"sort_by": 'metadata[jsonpath]$."a b"'}, Sort("metadata", SortMode.ASCENDING, ("a b",))),
    ],
)
def test_a_sort_is_read(said: dict[str, str], expected: Sort) -> None:
    assert read(**said).sort == expected


@pytest.mark.parametrize(
    "sort_by",
    [
        "nothing",
        "level desc",
        "tags",
        "metadata",
        "metadata[jsonpath]$",
        "metadata[jsonpath]$.a[*]",
        "metadata[jsonpath]$.a ? (@ > 1)",
        "metadata[jsonpath]$" + ".a" * 9,
        "level[jsonpath]$.a",
        "subject.common_name",
    ],
)
def test_what_cannot_be_sorted_by_is_refused(sort_by: str) -> None:
    with pytest.raises(Refused) as refused:
        read(sort_by=sort_by)
    assert refused.value.kind is Kind.MALFORMED


def test_a_bookmark_carries_sort_filters_and_size() -> None:
    first = read(sort_by="creation_timestamp", sort_mode="desc", filter=["status[eq]ACTIVE"], page_size=7)
    bookmark = bookmark_after(first, JANUARY, "meter-7")
    following = read(bookmark=bookmark)
    assert following == Question(7, first.sort, first.filters, first.said, Place(JANUARY, "meter-7"))
    again = read(bookmark=bookmark, sort_by="creation_timestamp", sort_mode="desc", filter=["status[eq]ACTIVE"])
    assert again == following
    assert read(bookmark=bookmark, page_size=9).page_size == 9


@pytest.mark.parametrize(
    "other", [{"sort_by": "level"}, {"sort_mode": "asc"}, {"filter": ["status[eq]EXPIRED"]}, {"filter": ["id[eq]x"]}]
)
def test_a_bookmark_is_not_taken_to_another_question(other: dict[str, object]) -> None:
    first = read(sort_by="creation_timestamp", sort_mode="desc", filter=["status[eq]ACTIVE"])
    with pytest.raises(Refused) as refused:
        read(bookmark=bookmark_after(first, JANUARY, "meter-7"), **other)
    assert refused.value.kind is Kind.MALFORMED


def test_a_bookmark_is_checked_as_what_a_caller_writes() -> None:
    forged = Question(5, Sort("id", SortMode.ASCENDING), (), ("id; DROP TABLE device", "asc", ()), None)
    with pytest.raises(Refused):
        read(bookmark=bookmark_after(forged, None, "x"))
    level = Question(5, Sort("level", SortMode.ASCENDING), (), ("level", "asc", ()), None)
    for value in ("one", None, "99999999999999999999"):
        with pytest.raises(Refused):
            read(bookmark=bookmark_after(level, value, "x"))
    by_metadata = ("metadata[jsonpath]$.a", "asc", ())
    inside = Question(5, Sort("metadata", SortMode.ASCENDING, ("a",)), (), by_metadata, None)
    assert read(bookmark=bookmark_after(inside, "1.5", "x")).after == Place("1.5", "x")
    assert read(bookmark=bookmark_after(inside, None, "x")).after == Place(None, "x")
    for value in ("{}", "[1]", "null", "x", ""):
        with pytest.raises(Refused):
            read(bookmark=bookmark_after(inside, value, "x"))


@given(st.one_of(st.text(max_size=200), st.binary(max_size=200).map(lambda raw: raw.hex())))
def test_whatever_comes_as_a_bookmark_is_read_or_refused(text: str) -> None:
    try:
        read(bookmark=text)
    except Refused as refused:
        assert refused.kind is Kind.MALFORMED  # noqa: PT017 - either outcome is right; another exception is not


@given(st.text(max_size=100), st.text(max_size=100))
def test_whatever_comes_is_read_or_refused(filter_text: str, sort_by: str) -> None:
    try:
        read(filter=[filter_text], sort_by=sort_by)
    except Refused as refused:
        assert refused.kind is Kind.MALFORMED  # noqa: PT017 - either outcome is right; another exception is not


@given(st.text(st.characters(codec="utf-8", exclude_categories=["Cc"]), max_size=600), st.text(max_size=128))
def test_a_bookmark_fits_into_a_request(value: str, key: str) -> None:
    text = f"id[eq]{value}"
    if len(text.encode()) > LONGEST_FILTERS_BYTES:
        return
    question = Question(25, Sort("id", SortMode.ASCENDING), (), ("id", "asc", (text,)), None)
    assert len(bookmark_after(question, key, key)) <= LONGEST_BOOKMARK

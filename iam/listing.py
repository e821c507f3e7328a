"""Lists in Lamassu's form: what a caller may ask of a list, read strictly and without any SQL.

The rules:

1. A list is asked by `page_size`, `bookmark`, `sort_by`, `sort_mode` and any number of `filter`, which all hold. It
   answers `{next, list}`; without `next` it is at its end.
2. A filter is `field[operator]value`, also written `field[operator]=value`. Each kind of field has its operators. A
   field, an operator or a value that does not fit is refused, never passed over.
3. A bookmark is where a page ended, with the sort and the filters that it was asked by: whoever comes with it need not
   say them again, and may not say others. It grants nothing: it is read by the same rules as what a caller writes.
4. A list has a total order: the field that is sorted by, then the list's key. So rows that come and go in between make
   no other row appear twice or not at all.
5. Everything is bounded: filters by number and size, pages, bookmarks.
"""

import base64
import binascii
import re
from collections.abc import Mapping, Sequence
from dataclasses import KW_ONLY, dataclass
from datetime import UTC, datetime, timedelta
from enum import Enum, StrEnum
from typing import Annotated, Any, Generic, Literal, TypeVar
from uuid import UUID

import orjson
from pydantic import Field as Restricted

from iam.errors import Refused, malformed
from iam.list_values import is_whole_day, read_bytes, read_date, read_number, read_uuid
from iam.schema import SnakeModel, SnakeShown

DEFAULT_PAGE_SIZE = 25
LARGEST_PAGE_SIZE = 1000
MOST_FILTERS = 16
LONGEST_FILTER = 1024
LONGEST_FILTERS_BYTES = 2048
"""All filters together: a bookmark carries them, and has to fit into a line of HTTP."""

LONGEST_BOOKMARK = 7168

T = TypeVar("T")


class FieldKind(Enum):
    """What a field holds; the operators follow from it."""

    TEXT = "text"
    ENUM = "one of a set"
    NUMBER = "a whole number"
    DATE = "a date"
    TEXTS = "a list of texts"
    JSON = "JSON"
    UUID = "a UUID"
    HEX = "bytes in hexadecimal"


class Operator(StrEnum):
    """How a field is compared."""

    EQUAL = "eq"
    EQUAL_IGNORING_CASE = "eq_ic"
    NOT_EQUAL = "ne"
    NOT_EQUAL_IGNORING_CASE = "ne_ic"
    CONTAINS = "ct"
    CONTAINS_IGNORING_CASE = "ct_ic"
    NOT_CONTAINS = "nc"
    NOT_CONTAINS_IGNORING_CASE = "nc_ic"
    LESS = "lt"
    LESS_OR_EQUAL = "le"
    GREATER = "gt"
    GREATER_OR_EQUAL = "ge"
    BEFORE = "bf"
    AFTER = "af"
    JSONPATH = "jsonpath"


_LONG_NAMES: dict[str, Operator] = {
    "equal": Operator.EQUAL,
    "equal_ignorecase": Operator.EQUAL_IGNORING_CASE,
    "notequal": Operator.NOT_EQUAL,
    "notequal_ignorecase": Operator.NOT_EQUAL_IGNORING_CASE,
    "contains": Operator.CONTAINS,
    "contains_ignorecase": Operator.CONTAINS_IGNORING_CASE,
    "notcontains": Operator.NOT_CONTAINS,
    "notcontains_ignorecase": Operator.NOT_CONTAINS_IGNORING_CASE,
    "lessthan": Operator.LESS,
    "lessequal": Operator.LESS_OR_EQUAL,
    "lessorequal": Operator.LESS_OR_EQUAL,
    "greaterthan": Operator.GREATER,
    "greaterequal": Operator.GREATER_OR_EQUAL,
    "greaterorequal": Operator.GREATER_OR_EQUAL,
    "before": Operator.BEFORE,
    "after": Operator.AFTER,
}
"""Lamassu's API takes these too."""

CONTAINING = (
    Operator.CONTAINS,
    Operator.CONTAINS_IGNORING_CASE,
    Operator.NOT_CONTAINS,
    Operator.NOT_CONTAINS_IGNORING_CASE,
)
_EQUALITY = (Operator.EQUAL, Operator.NOT_EQUAL)

OPERATORS: dict[FieldKind, tuple[Operator, ...]] = {
    FieldKind.TEXT: (
        *_EQUALITY,
        Operator.EQUAL_IGNORING_CASE,
        Operator.NOT_EQUAL_IGNORING_CASE,
        *CONTAINING,
    ),
    FieldKind.ENUM: _EQUALITY,
    FieldKind.NUMBER: (
        *_EQUALITY,
        Operator.LESS,
        Operator.LESS_OR_EQUAL,
        Operator.GREATER,
        Operator.GREATER_OR_EQUAL,
    ),
    FieldKind.DATE: (Operator.EQUAL, Operator.BEFORE, Operator.AFTER),
    FieldKind.TEXTS: CONTAINING,
    FieldKind.JSON: (Operator.JSONPATH,),
    FieldKind.UUID: _EQUALITY,
    FieldKind.HEX: _EQUALITY,
}

_FILTER = re.compile(
    r"(?P<field>[A-Za-z][A-Za-z0-9_.]{0,63})\[(?P<operator>[A-Za-z_]{1,24})\]=?(?P<value>.*)", re.DOTALL
)
_SORT = re.compile(r"(?P<field>[A-Za-z][A-Za-z0-9_.]{0,63})(?:\[jsonpath\](?P<path>\$.*))?", re.DOTALL)
_PATH_STEP = re.compile(r"\.([A-Za-z0-9_-]{1,64})|\.\"([^\"\\\x00-\x1f]{1,64})\"|\[([0-9]{1,4})\]")
_DEEPEST_PATH = 8
_UNPRINTABLE = re.compile(r"[\x00-\x1f\x7f\ud800-\udfff]")
_UNSTORABLE = re.compile(r"[\x00\ud800-\udfff]")

Value = str | int | datetime | UUID | bytes
"""What a filter compares with, or a bookmark stands on, in the type that the database is given."""

_NOT_OURS = "This is not a bookmark of this list."


@dataclass(frozen=True, slots=True)
class Field:
    """A field of a list that callers may filter and sort by.

    Attributes:
        values: What it may be, for one of a set.
        is_nullable: Rows may have none.
        is_sortable: It is short enough to stand in a bookmark, and has an order that means something.
    """

    kind: FieldKind
    _: KW_ONLY
    values: tuple[str, ...] = ()
    is_nullable: bool = False
    is_sortable: bool = True


class SortMode(StrEnum):
    """Which way round."""

    ASCENDING = "asc"
    DESCENDING = "desc"


class ListQuery(SnakeModel):
    """The query of a list in Lamassu's form. What is not said is None, since a bookmark may say it."""

    page_size: int | None = Restricted(
        None, ge=1, le=LARGEST_PAGE_SIZE, description=f"{DEFAULT_PAGE_SIZE} if not said."
    )
    bookmark: str | None = Restricted(None, max_length=LONGEST_BOOKMARK, description="`next` of the page before.")
    sort_by: str | None = Restricted(
        None, max_length=512, description="A field, or `field[jsonpath]$.path` into a field of JSON."
    )
    sort_mode: Literal["asc", "desc"] | None = None
    filter: list[Annotated[str, Restricted(max_length=LONGEST_FILTER)]] = Restricted(
        default_factory=list,
        max_length=MOST_FILTERS,
        description="`field[operator]value`; several all hold.",
        examples=[["status[eq]ACTIVE", 'metadata[jsonpath]$.site == "berlin"']],
    )


class FilterQuery(SnakeModel):
    """The query of what counts the rows of a list instead of listing them."""

    filter: list[Annotated[str, Restricted(max_length=LONGEST_FILTER)]] = Restricted(
        default_factory=list, max_length=MOST_FILTERS, description="`field[operator]value`; several all hold."
    )


class Listed(SnakeShown, Generic[T]):
    """A page in Lamassu's form."""

    next: str | None
    items: Sequence[T] = Restricted(alias="list")


@dataclass(frozen=True, slots=True)
class Filter:
    """A checked filter."""

    field: str
    operator: Operator
    value: Value
    until: datetime | None = None
    """For a date that is to be equal to a whole day: the end of it."""


@dataclass(frozen=True, slots=True)
class Sort:
    """What a list is sorted by.

    Attributes:
        path: Steps into a field of JSON; empty for any other field.
    """

    field: str
    mode: SortMode
    path: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Place:
    """Where a page ended: the last row's value of what is sorted by (None where it had none), and its key."""

    value: Value | None
    key: Value


@dataclass(frozen=True, slots=True)
class Question:
    """A checked query.

    Attributes:
        said: The sort and the filters as they were written: what bookmarks carry on.
        after: Where the page before ended; None for the first.
    """

    page_size: int
    sort: Sort
    filters: tuple[Filter, ...]
    said: tuple[str, str, tuple[str, ...]]
    after: Place | None


def read_query(query: ListQuery, fields: Mapping[str, Field], key: str) -> Question:
    """Check a query against the fields of a list.

    Args:
        key: The field that tells the rows apart; what the list is sorted by if the caller does not say.

    Raises:
        Refused: (malformed) A field, operator, value or bookmark that this list does not know.
    """
    if query.bookmark is None:
        said = (query.sort_by or key, query.sort_mode or SortMode.ASCENDING.value, tuple(query.filter))
        size = query.page_size or DEFAULT_PAGE_SIZE
        sort = _read_sort(said[0], said[1], fields)
        return Question(size, sort, read_filters(said[2], fields), said, None)
    sort_by, mode, filters, size, value, key_value = _open_bookmark(query.bookmark)
    if (
        query.sort_by not in (None, sort_by)
        or query.sort_mode not in (None, mode)
        or (query.filter and query.filter != filters)
    ):
        raise malformed("This bookmark belongs to another sort or another filter: leave them out, or say the same.")
    sort = _read_sort(sort_by, mode, fields)
    last = _read_mark(key_value, fields[key])
    if last is None:
        raise malformed(_NOT_OURS)
    place = Place(_read_mark(value, fields[sort.field]), last)
    return Question(
        query.page_size or size, sort, read_filters(filters, fields), (sort_by, mode, tuple(filters)), place
    )


def bookmark_after(question: Question, value: Value | None, key: Value) -> str:
    """Return the bookmark that stands behind the row with this value of what is sorted by, and this key."""
    sort_by, mode, filters = question.said
    content = [sort_by, mode, filters, question.page_size, _mark(value), _mark(key)]
    return base64.urlsafe_b64encode(orjson.dumps(content)).rstrip(b"=").decode()


def read_filters(filters: Sequence[str], fields: Mapping[str, Field]) -> tuple[Filter, ...]:
    """Check filters; raise `Refused` (malformed) for the first that does not fit."""
    if (
        len(filters) > MOST_FILTERS
        or sum(len(one.encode("utf-8", "replace")) for one in filters) > LONGEST_FILTERS_BYTES
    ):
        raise malformed(f"A list takes {MOST_FILTERS} filters, and {LONGEST_FILTERS_BYTES} bytes of them.")
    return tuple(_read_filter(one, fields) for one in filters)


def _read_filter(text: str, fields: Mapping[str, Field]) -> Filter:
    match = _FILTER.fullmatch(text)
    if match is None or _UNPRINTABLE.search(text):
        raise malformed("A filter is `field[operator]value`.", filter=text[:64])
    name, value = match["field"], match["value"]
    field = fields.get(name)
    if field is None:
        raise malformed(f"There is no field {name} to filter by; there are {', '.join(sorted(fields))}.")
    operator = _operator(match["operator"])
    if operator not in OPERATORS[field.kind]:
        known = ", ".join(OPERATORS[field.kind])
        raise malformed(f"{name} is {field.kind.value}; its operators are {known}.", filter=text[:64])
    if field.kind is FieldKind.DATE and operator is Operator.EQUAL and is_whole_day(value):
        day = read_date(value, name)
        try:
            return Filter(name, operator, day, until=day + timedelta(days=1))
        except OverflowError as error:
            raise malformed(f"{name}: there is no day after {value}.") from error
    return Filter(name, operator, _read_value(value, field, name))


def _operator(text: str) -> Operator | None:
    lowered = text.lower()
    return _LONG_NAMES.get(lowered) or next((one for one in Operator if one.value == lowered), None)


def _read_value(text: str, field: Field, name: str) -> Value:
    """Return a value of the field's kind; refuse what is not one."""
    match field.kind:
        case FieldKind.TEXT | FieldKind.TEXTS | FieldKind.JSON:
            return text
        case FieldKind.ENUM:
            if text not in field.values:
                raise malformed(f"{name} is one of {', '.join(field.values)}.")
            return text
        case FieldKind.NUMBER:
            return read_number(text, name)
        case FieldKind.DATE:
            return read_date(text, name)
        case FieldKind.UUID:
            return read_uuid(text, name)
        case FieldKind.HEX:
            return read_bytes(text, name)


def _read_sort(text: str, mode: str, fields: Mapping[str, Field]) -> Sort:
    match = _SORT.fullmatch(text)
    field = fields.get(match["field"]) if match else None
    if match is None or field is None:
        sortable = ", ".join(sorted(name for name, one in fields.items() if one.is_sortable))
        raise malformed(f"A list is sorted by a field; there are {sortable}.", sort_by=text[:64])
    path = () if match["path"] is None else _read_path(match["path"])
    if not field.is_sortable or field.kind is FieldKind.TEXTS or (field.kind is FieldKind.JSON) is not bool(path):
        raise malformed(
            f"{match['field']} is {field.kind.value} and cannot be sorted by; of JSON say `field[jsonpath]$.path`.",
            sort_by=text[:64],
        )
    return Sort(match["field"], SortMode(mode), path)


def _read_path(text: str) -> tuple[str, ...]:
    """Return the steps of a path that names one place, such as `$.site.floors[0]`."""
    steps: list[str] = []
    at = 1
    while at < len(text):
        match = _PATH_STEP.match(text, at)
        if match is None or len(steps) == _DEEPEST_PATH:
            raise malformed(f"A path to sort by names one place, at most {_DEEPEST_PATH} deep: `$.site.floor`.")
        steps.append(match[1] or match[2] or match[3])
        at = match.end()
    if _UNPRINTABLE.search(text):
        raise malformed("A path to sort by holds no control characters.")
    return tuple(steps)


def _open_bookmark(text: str) -> tuple[str, str, list[str], int, Any, Any]:
    try:
        content = orjson.loads(base64.urlsafe_b64decode(text + "=" * (-len(text) % 4)))
        sort_by, mode, filters, size, value, key = content
        # What it says is checked by the model that checks what callers say.
        read = ListQuery(page_size=size, bookmark=None, sort_by=sort_by, sort_mode=mode, filter=filters)
    except (binascii.Error, ValueError, TypeError) as error:
        raise malformed(_NOT_OURS) from error
    if read.page_size is None or read.sort_by is None or read.sort_mode is None:
        raise malformed(_NOT_OURS)
    return read.sort_by, read.sort_mode, read.filter, read.page_size, value, key


def _mark(value: Value | None) -> str | None:
    match value:
        case None:
            return None
        case bytes():
            return value.hex()
        case datetime():
            return value.astimezone(UTC).isoformat()
        case _:
            return str(value)


def _read_mark(raw: Any, field: Field) -> Value | None:  # noqa: ANN401 - any JSON
    """Return the value of a bookmark in the field's own type; refuse what the field could not have held."""
    if raw is None:
        if not field.is_nullable and field.kind is not FieldKind.JSON:
            raise malformed(_NOT_OURS)
        return None
    if not isinstance(raw, str) or _UNSTORABLE.search(raw):
        raise malformed(_NOT_OURS)
    try:
        if field.kind is FieldKind.JSON and isinstance(orjson.loads(raw), (dict, list, type(None))):
            raise malformed(_NOT_OURS)
        # A set may have shrunk since; the place in the order is still the same.
        return raw if field.kind is FieldKind.ENUM else _read_value(raw, field, "the bookmark")
    except (Refused, ValueError) as error:
        raise malformed(_NOT_OURS) from error

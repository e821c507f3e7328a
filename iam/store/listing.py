"""Lists in Lamassu's form, in SQL: a checked question and a declared table of columns become one statement.

The rules:

1. What a caller wrote reaches PostgreSQL as a parameter and never as text: names of fields are looked up in the table,
   operators in the dispatch below, and everything else is `$n`.
2. A page starts behind the place where the one before ended (keyset), so its cost does not grow with its number. What
   is not there sorts last, as an index holds it; one index serves both directions.
3. JSONPath is PostgreSQL's own, given as a parameter. An expression that is no JSONPath, or fails on a row, is the
   caller's mistake. A predicate selects the rows where it is true; a path those where it leads to something.
4. A question has `STATEMENT_SECONDS`; what takes longer is refused, and holds nobody else up.
5. Behind row-level security no index answers LIKE, containment or JSONPath. Where a column has a `Finder`, a function
   of the schema is asked first for the few rows that contain what is wanted; where they are not few, reading on finds a
   page soon.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import datetime

import asyncpg

from iam.errors import Kind, Refused, malformed
from iam.listing import (
    CONTAINING,
    Field,
    FieldKind,
    Filter,
    ListQuery,
    Operator,
    Question,
    Sort,
    SortMode,
    Value,
    bookmark_after,
    read_query,
)
from iam.paging import Page
from iam.store.database import Row, Transaction

STATEMENT_SECONDS = 5

_LONGEST_MARK = 256
"""Characters of a text inside JSON that count when it is sorted by."""


_FEW = 2000
"""Rows that are looked at one by one, and sorted, sooner than a page of them is come across."""

_SHORTEST_PART = 3
"""Characters: what is shorter has no trigram, which is what the index knows."""


@dataclass(frozen=True, slots=True)
class Finder:
    """What finds the few rows whose text contains a part, whose list contains a word, or whose JSON a path (rule 5).

    Attributes:
        function: Of the schema: takes a LIKE pattern and whether it ignores case, or a word, or a JSONPath and whether
            it is a predicate; and how many are few. It gives the keys, or null if they are more.
        key: The SQL of the column that the keys are of.
    """

    function: str
    key: str


@dataclass(frozen=True, slots=True)
class Column(Field):
    """A field of a list and the SQL that it is: an expression of the statement's own tables, written by hand.

    Attributes:
        meaning: For one of a set that the store has no column for: the condition that says each value, since an index
            may know that and cannot know the expression.
        finder: What finds the few rows that contain something.
    """

    sql: str
    meaning: Mapping[str, str] = field(default_factory=dict)
    finder: Finder | None = None


@dataclass(frozen=True, slots=True)
class Listing:
    """A list: what is read, from where, and what callers may filter and sort by.

    Attributes:
        select: The columns of the answer.
        source: `FROM ...`, without WHERE.
        columns: By the names that callers use.
        key: The name of the column that tells the rows apart: not null, sortable, unique within `where`.
    """

    select: str
    source: str
    columns: Mapping[str, Column]
    key: str


class Parameters:
    """The values of a statement, in the order of their `$n`."""

    def __init__(self, values: Sequence[object]) -> None:
        self.values = list(values)

    def add(self, value: object) -> str:
        """Take one more value and return how the statement names it."""
        self.values.append(value)
        return f"${len(self.values)}"


async def page_of_list(
    transaction: Transaction,
    listing: Listing,
    query: ListQuery,
    where: str,
    *values: object,
    also: Sequence[Filter] = (),
) -> Page[Row]:
    """Return a page of a list.

    Args:
        where: The condition that holds whatever the caller asks: his tenant, what he reaches. Written by hand, with
            `$1` and so on for `values`.
        also: Filters that hold beside those of the query, and are not its bookmarks' to carry.

    Raises:
        Refused: (malformed) The query does not fit the list. (invalid) It takes too long.
    """
    question = read_query(query, listing.columns, listing.key)
    parameters = Parameters(values)
    await _bound(transaction)
    filters = (*also, *question.filters)
    with _explained(filters):
        wanted = await conditions(transaction, listing.columns, filters, parameters)
        key = listing.columns[listing.key]
        by = _sort_expression(listing.columns[question.sort.field], question.sort, parameters)
        way = "DESC" if question.sort.mode is SortMode.DESCENDING else "ASC"
        order = f"{key.sql} {way}" if question.sort.field == listing.key else f"{by} {way}, {key.sql} {way}"
        is_nullable = listing.columns[question.sort.field].is_nullable or bool(question.sort.path)
        behind = _behind(question, by, key, parameters, is_nullable=is_nullable)
        limit = parameters.add(question.page_size + 1)
        rows = await transaction.fetch(
            f"SELECT {listing.select}, {by} AS listing_sort, {key.sql} AS listing_key {listing.source}"
            f" WHERE {' AND '.join([where, *wanted, *behind])} ORDER BY {order} LIMIT {limit}",
            *parameters.values,
        )
    shown = rows[: question.page_size]
    if len(rows) <= question.page_size:
        return Page(tuple(shown), None)
    last = shown[-1]
    return Page(tuple(shown), bookmark_after(question, last["listing_sort"], last["listing_key"]))


async def count_of_list(
    transaction: Transaction, listing: Listing, filters: Sequence[Filter], where: str, *values: object
) -> int:
    """Return how many rows of a list pass checked filters; `where` and what is raised as in `page_of_list`."""
    parameters = Parameters(values)
    await _bound(transaction)
    with _explained(filters):
        wanted = await conditions(transaction, listing.columns, filters, parameters)
        count: int = await transaction.fetchval(
            f"SELECT count(*) {listing.source} WHERE {' AND '.join([where, *wanted])}", *parameters.values
        )
    return count


async def counts_of_list(
    transaction: Transaction, listing: Listing, field: str, filters: Sequence[Filter], where: str, *values: object
) -> dict[str, int]:
    """Return how many rows of a list pass checked filters, by the values of one text or enum field."""
    parameters = Parameters(values)
    by = listing.columns[field].sql
    await _bound(transaction)
    with _explained(filters):
        wanted = await conditions(transaction, listing.columns, filters, parameters)
        rows = await transaction.fetch(
            f"SELECT {by} AS value, count(*) AS number {listing.source}"
            f" WHERE {' AND '.join([where, *wanted])} GROUP BY 1",
            *parameters.values,
        )
    return {row["value"]: row["number"] for row in rows}


async def check_filters(transaction: Transaction, listing: Listing, filters: Sequence[Filter]) -> None:
    """Raise `Refused` (malformed) if PostgreSQL does not take one of the filters' expressions; nothing is sought."""
    columns = {name: replace(column, finder=None) for name, column in listing.columns.items()}
    with _explained(filters):
        await conditions(transaction, columns, filters, Parameters(()))


async def conditions(
    transaction: Transaction, columns: Mapping[str, Column], filters: Sequence[Filter], parameters: Parameters
) -> list[str]:
    """Return the SQL of checked filters, whose values are put into `parameters`."""
    wanted = []
    for one in filters:
        column = columns[one.field]
        if one.operator is Operator.JSONPATH:
            path = str(one.value)
            is_predicate = await _is_predicate(transaction, path)
            wanted.append(f"{column.sql} {'@@' if is_predicate else '@?'} {parameters.add(path)}::text::jsonpath")
            asked: tuple[object, ...] = (path, is_predicate)
        else:
            wanted.append(_condition(column, one, parameters))
            asked = _asked_of_finder(column.kind, one)
        if column.finder is not None and asked:
            wanted += await _found(transaction, column.finder, asked, parameters)
    return wanted


_TYPE: dict[FieldKind, str] = {
    FieldKind.TEXT: "text",
    FieldKind.TEXTS: "text",
    FieldKind.ENUM: "text",
    FieldKind.NUMBER: "bigint",
    FieldKind.DATE: "timestamptz",
    FieldKind.JSON: "text::jsonb",
    FieldKind.UUID: "uuid",
    FieldKind.HEX: "bytea",
}

_SINGLE: dict[Operator, str] = {
    Operator.EQUAL: "{column} = {value}",
    Operator.NOT_EQUAL: "{column} IS DISTINCT FROM {value}",
    Operator.EQUAL_IGNORING_CASE: "lower({column}) = lower({value})",
    Operator.NOT_EQUAL_IGNORING_CASE: "lower({column}) IS DISTINCT FROM lower({value})",
    Operator.CONTAINS: "{column} LIKE {value}",
    Operator.CONTAINS_IGNORING_CASE: "{column} ILIKE {value}",
    Operator.NOT_CONTAINS: "({column} LIKE {value}) IS NOT TRUE",
    Operator.NOT_CONTAINS_IGNORING_CASE: "({column} ILIKE {value}) IS NOT TRUE",
    Operator.LESS: "{column} < {value}",
    Operator.LESS_OR_EQUAL: "{column} <= {value}",
    Operator.GREATER: "{column} > {value}",
    Operator.GREATER_OR_EQUAL: "{column} >= {value}",
    Operator.BEFORE: "{column} < {value}",
    Operator.AFTER: "{column} > {value}",
}

_EACH = "EXISTS (SELECT FROM unnest({column}) AS element WHERE lower(element) = lower({value}))"
_LIST: dict[Operator, str] = {
    Operator.CONTAINS: "{value} = ANY ({column})",
    Operator.NOT_CONTAINS: "({value} = ANY ({column})) IS NOT TRUE",
    Operator.CONTAINS_IGNORING_CASE: _EACH,
    Operator.NOT_CONTAINS_IGNORING_CASE: f"NOT {_EACH}",
}


def _condition(column: Column, wanted: Filter, parameters: Parameters) -> str:
    if wanted.until is not None:
        day, end = parameters.add(wanted.value), parameters.add(wanted.until)
        return f"({column.sql} >= {day}::timestamptz AND {column.sql} < {end}::timestamptz)"
    if column.meaning:
        meant = f"({column.meaning[str(wanted.value)]})"
        return meant if wanted.operator is Operator.EQUAL else f"{meant} IS NOT TRUE"
    is_pattern = column.kind is FieldKind.TEXT and wanted.operator in CONTAINING
    value = _containing(str(wanted.value)) if is_pattern else wanted.value
    template = (_LIST if column.kind is FieldKind.TEXTS else _SINGLE)[wanted.operator]
    return template.format(column=column.sql, value=f"{parameters.add(value)}::{_TYPE[column.kind]}")


def _asked_of_finder(kind: FieldKind, wanted: Filter) -> tuple[object, ...]:
    """Return what a finder is asked for a filter; nothing where its index cannot know."""
    part = str(wanted.value)
    match kind, wanted.operator:
        case FieldKind.TEXT, Operator.CONTAINS | Operator.CONTAINS_IGNORING_CASE if len(part) >= _SHORTEST_PART:
            return (_containing(part), wanted.operator is Operator.CONTAINS_IGNORING_CASE)
        case FieldKind.TEXTS, Operator.CONTAINS:
            return (part,)
        case _:
            return ()


async def _found(
    transaction: Transaction, finder: Finder, asked: Sequence[object], parameters: Parameters
) -> list[str]:
    """Return the condition that names the rows which a finder finds, if they are few (rule 5)."""
    places = ", ".join(f"${place}" for place in range(1, len(asked) + 2))
    keys = await transaction.fetchval(f"SELECT {finder.function}({places})", *asked, _FEW)
    return [] if keys is None else [f"{finder.key} = ANY ({parameters.add(keys)})"]


def _containing(value: str) -> str:
    """Return the LIKE pattern of texts that contain `value`, in which nothing but the two ends is a wildcard."""
    escaped = value.replace("\\", "\\\\").replace("%", "\\%").replace("_", "\\_")
    return f"%{escaped}%"


_PROBE = "SELECT jsonb_typeof(jsonb_path_query_first('{}', $1::text::jsonpath, '{}', true))"


async def _is_predicate(transaction: Transaction, path: str) -> bool:
    """Tell whether a JSONPath is a predicate; what is none leads nowhere in an empty object."""
    return await transaction.fetchval(_PROBE, path) in ("boolean", "null")


def _sort_expression(column: Column, sort: Sort, parameters: Parameters) -> str:
    if not sort.path:
        return column.sql
    place = f"({column.sql} #> {parameters.add(list(sort.path))}::text[])"
    # Of what is no text, number or truth there is no order that means something: it counts as not there.
    return (
        f"(CASE jsonb_typeof({place}) WHEN 'string' THEN to_jsonb(left({place} #>> '{{}}', {_LONGEST_MARK}))"
        f" WHEN 'number' THEN {place} WHEN 'boolean' THEN {place} END)"
    )


def _behind(question: Question, by: str, key: Column, parameters: Parameters, *, is_nullable: bool) -> list[str]:
    """Return the condition of the rows that come after the place where the page before ended."""
    if question.after is None:
        return []
    sort, place = question.sort, question.after
    # Ascending, what is not there comes last; descending, first.
    descends = sort.mode is SortMode.DESCENDING
    sign = "<" if descends else ">"
    key_value = f"{parameters.add(place.key)}::{_TYPE[key.kind]}"
    if by == key.sql:
        return [f"{by} {sign} {key_value}"]
    if place.value is None:
        same = f"({by} IS NULL AND {key.sql} {sign} {key_value})"
        return [f"({same} OR {by} IS NOT NULL)" if descends else same]
    kind = FieldKind.JSON if sort.path else _kind_of(place.value)
    behind = f"({by}, {key.sql}) {sign} ({parameters.add(place.value)}::{_TYPE[kind]}, {key_value})"
    return [f"({behind} OR {by} IS NULL)" if is_nullable and not descends else behind]


def _kind_of(value: Value) -> FieldKind:
    match value:
        case str():
            return FieldKind.TEXT
        case int():
            return FieldKind.NUMBER
        case datetime():
            return FieldKind.DATE
        case bytes():
            return FieldKind.HEX
        case _:
            return FieldKind.UUID


async def _bound(transaction: Transaction) -> None:
    # And planned for what is asked, not for anything that could be: what is rare is looked for in another way.
    await transaction.execute(
        f"SET LOCAL statement_timeout = '{STATEMENT_SECONDS}s'; SET LOCAL plan_cache_mode = force_custom_plan"
    )


# Classes of SQLSTATE that say that an expression is wrong, or wrong for a row: data exception, syntax or unknown name,
# not supported, too complex.
_OF_EXPRESSION = ("22", "42", "0A", "54")


@contextmanager
def _explained(filters: Sequence[Filter]) -> Iterator[None]:
    """Turn what PostgreSQL says of a caller's expression into a refusal of the caller."""
    try:
        yield
    except asyncpg.QueryCanceledError as error:
        raise Refused(
            Kind.INVALID, f"This takes longer than {STATEMENT_SECONDS} s: ask for less, or by other fields."
        ) from error
    except asyncpg.PostgresError as error:
        has_expression = any(one.operator is Operator.JSONPATH for one in filters)
        if not has_expression or (error.sqlstate or "")[:2] not in _OF_EXPRESSION:
            raise
        raise malformed(f"PostgreSQL does not take this JSONPath: {error.args[0]}.") from error

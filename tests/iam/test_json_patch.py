"""JSON Patch: the examples of RFC 6902 and RFC 6901, and what is refused."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from iam.errors import Kind, Refused
from iam.json_patch import OPERATIONS_MAXIMUM, SIZE_MAXIMUM, apply_patch, are_equal, read_patch, read_pointer


def patched(document: dict[str, Any], *operations: dict[str, Any]) -> dict[str, Any]:
    return apply_patch(document, read_patch(list(operations)))


def refusal(document: dict[str, Any], *operations: Any) -> Kind:
    with pytest.raises(Refused) as refused:
        apply_patch(document, read_patch(list(operations)))
    return refused.value.kind


@pytest.mark.parametrize(
    ("document", "operation", "outcome"),
    [
        # RFC 6902, appendix A
        ({"foo": "bar"}, {"op": "add", "path": "/baz", "value": "qux"}, {"baz": "qux", "foo": "bar"}),
        ({"foo": ["bar", "baz"]}, {"op": "add", "path": "/foo/1", "value": "qux"}, {"foo": ["bar", "qux", "baz"]}),
        ({"baz": "qux", "foo": "bar"}, {"op": "remove", "path": "/baz"}, {"foo": "bar"}),
        ({"foo": ["bar", "qux", "baz"]}, {"op": "remove", "path": "/foo/1"}, {"foo": ["bar", "baz"]}),
        ({"baz": "qux"}, {"op": "replace", "path": "/baz", "value": "boo"}, {"baz": "boo"}),
        (
            {"foo": {"bar": "baz", "waldo": "fred"}, "qux": {"corge": "grault"}},
            {"op": "move", "from": "/foo/waldo", "path": "/qux/thud"},
            {"foo": {"bar": "baz"}, "qux": {"corge": "grault", "thud": "fred"}},
        ),
        (
            {"foo": ["all", "grass", "cows", "eat"]},
            {"op": "move", "from": "/foo/1", "path": "/foo/3"},
            {"foo": ["all", "cows", "eat", "grass"]},
        ),
        ({"foo": "bar"}, {"op": "add", "path": "/child", "value": {"a": {}}}, {"foo": "bar", "child": {"a": {}}}),
        ({"foo": "bar"}, {"op": "add", "path": "/baz", "value": 1, "xyz": 123}, {"foo": "bar", "baz": 1}),
        ({"foo": ["bar"]}, {"op": "add", "path": "/foo/-", "value": ["abc"]}, {"foo": ["bar", ["abc"]]}),
        # What they leave open
        ({"foo": 1}, {"op": "add", "path": "/foo", "value": None}, {"foo": None}),
        ({"foo": 1}, {"op": "add", "path": "", "value": {"bar": 2}}, {"bar": 2}),
        ({"foo": 1}, {"op": "replace", "path": "", "value": {}}, {}),
        ({"foo": [1]}, {"op": "add", "path": "/foo/1", "value": 2}, {"foo": [1, 2]}),
        ({"foo": 1}, {"op": "copy", "from": "/foo", "path": "/bar"}, {"foo": 1, "bar": 1}),
        ({"foo": 1}, {"op": "move", "from": "/foo", "path": "/foo"}, {"foo": 1}),
        ({"": 1}, {"op": "replace", "path": "/", "value": 2}, {"": 2}),
        ({"a/b": {"m~n": 1}}, {"op": "replace", "path": "/a~1b/m~0n", "value": 2}, {"a/b": {"m~n": 2}}),
        ({"~1": 1}, {"op": "remove", "path": "/~01"}, {}),
        ({"-": 1}, {"op": "remove", "path": "/-"}, {}),
    ],
)
def test_operations(document: dict[str, Any], operation: dict[str, Any], outcome: dict[str, Any]) -> None:
    assert patched(document, operation) == outcome


def test_a_copy_is_a_value_of_its_own() -> None:
    copy = {"op": "copy", "from": "/a", "path": "/b"}
    assert patched({"a": {}}, copy, {"op": "add", "path": "/b/x", "value": 1}) == {"a": {}, "b": {"x": 1}}


def test_if_one_operation_fails_none_is_applied() -> None:
    document = {"foo": ["bar"]}
    add, failing = {"op": "add", "path": "/foo/-", "value": 1}, {"op": "test", "path": "/foo/0", "value": "no"}
    assert refusal(document, add, failing) is Kind.CONFLICT
    assert document == {"foo": ["bar"]}


@pytest.mark.parametrize(
    ("document", "operation"),
    [
        ({"baz": "qux"}, {"op": "test", "path": "/baz", "value": "bar"}),
        ({"/": 9}, {"op": "test", "path": "/~1", "value": "9"}),
        ({"foo": True}, {"op": "test", "path": "/foo", "value": 1}),
        ({"foo": 0}, {"op": "test", "path": "/foo", "value": False}),
        ({"foo": None}, {"op": "test", "path": "/bar", "value": None}),
        ({"foo": "bar"}, {"op": "add", "path": "/baz/bat", "value": "qux"}),
        ({"foo": "bar"}, {"op": "add", "path": "/foo/0", "value": "qux"}),
        ({"foo": "bar"}, {"op": "remove", "path": "/baz"}),
        ({"foo": "bar"}, {"op": "remove", "path": ""}),
        ({"foo": "bar"}, {"op": "replace", "path": "/baz", "value": 1}),
        ({"foo": [1]}, {"op": "replace", "path": "/foo/1", "value": 1}),
        ({"foo": [1]}, {"op": "replace", "path": "/foo/-", "value": 1}),
        ({"foo": [1]}, {"op": "add", "path": "/foo/2", "value": 1}),
        ({"foo": [1]}, {"op": "add", "path": "/foo/00", "value": 1}),
        ({"foo": [1]}, {"op": "add", "path": "/foo/-1", "value": 1}),
        ({"foo": [1]}, {"op": "add", "path": "/foo/\u0661", "value": 1}),
        ({"foo": [1]}, {"op": "remove", "path": "/foo/1e0"}),
        ({"foo": 1}, {"op": "copy", "from": "/bar", "path": "/baz"}),
        ({"foo": 1}, {"op": "move", "from": "/bar", "path": "/baz"}),
        ({"foo": 1}, {"op": "move", "from": "/bar", "path": "/bar"}),
    ],
)
def test_what_does_not_fit_the_document_is_a_conflict(document: dict[str, Any], operation: dict[str, Any]) -> None:
    assert refusal(document, operation) is Kind.CONFLICT


@pytest.mark.parametrize(
    "operation",
    [
        1,
        {},
        {"op": "add", "path": "/a"},
        {"op": "add", "value": 1},
        {"op": "test", "path": "/a"},
        {"op": "move", "path": "/a"},
        {"op": "copy", "path": "/a", "value": 1},
        {"op": "ADD", "path": "/a", "value": 1},
        {"op": ["add"], "path": "/a", "value": 1},
        {"op": "add", "path": "a", "value": 1},
        {"op": "add", "path": None, "value": 1},
        {"op": "add", "path": "/~", "value": 1},
        {"op": "add", "path": "/~2", "value": 1},
        {"op": "add", "path": "/" + "a" * 1024, "value": 1},
        {"op": "move", "from": "/a", "path": "/a/b"},
        {"op": "move", "from": "", "path": "/a"},
    ],
)
def test_what_is_no_operation_is_malformed(operation: Any) -> None:
    assert refusal({"a": {}}, operation) is Kind.MALFORMED


@pytest.mark.parametrize("raw", [None, {}, "add", 7])
def test_what_is_no_list_is_no_patch(raw: Any) -> None:
    with pytest.raises(Refused) as refused:
        read_patch(raw)
    assert refused.value.kind is Kind.MALFORMED


def test_bounds() -> None:
    one = {"op": "add", "path": "/a", "value": 1}
    assert refusal({}, *[one] * (OPERATIONS_MAXIMUM + 1)) is Kind.MALFORMED
    assert refusal({}, {"op": "add", "path": "/a", "value": "x" * SIZE_MAXIMUM}) is Kind.INVALID
    assert refusal({}, {"op": "add", "path": "", "value": []}) is Kind.INVALID
    assert refusal({}, {"op": "add", "path": "/a", "value": "nul \0"}) is Kind.INVALID


def test_copies_of_copies_stop_at_the_bound() -> None:
    doubling = [{"op": "copy", "from": "/a", "path": "/a/-"}] * OPERATIONS_MAXIMUM
    assert refusal({"a": ["x" * 1000]}, *doubling) is Kind.INVALID
    flat = [{"op": "copy", "from": "/a/0", "path": "/a/-"}] * OPERATIONS_MAXIMUM
    assert refusal({"a": ["x" * 1000]}, *flat) is Kind.INVALID


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-9, 9) | st.floats(-9, 9) | st.text("ab~/01-", max_size=3),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text("ab~/01-", max_size=3), inner, max_size=3),
    max_leaves=12,
)


@given(JSON, JSON)
def test_equality_is_that_of_json(one: Any, other: Any) -> None:
    assert are_equal(one, one)
    assert are_equal(one, other) is are_equal(other, one)


@given(st.dictionaries(st.text("ab~/01-", max_size=3), JSON, max_size=3), JSON)
def test_any_member_can_be_reached_and_replaced(document: dict[str, Any], value: Any) -> None:
    for name in document:
        path = "/" + name.replace("~", "~0").replace("/", "~1")
        assert read_pointer(path) == (name,)
        assert are_equal(patched(document, {"op": "replace", "path": path, "value": value})[name], value)

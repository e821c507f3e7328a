"""JSON Patch (RFC 6902) on an object of metadata, with JSON Pointer (RFC 6901): bounded, and all of it or nothing.

The rules:

1. A patch is a list of at most `OPERATIONS_MAXIMUM` operations; each has the members that its `op` needs, and members
   that it does not know are ignored (RFC 6902 4). Of two operations the second sees what the first one did.
2. If one cannot be applied, none is (5): the document that was given is never touched.
3. A pointer is empty or begins with `/`; `~` stands only in `~0` and `~1`; an index has no leading zeros, and `-`, the
   place after the last one, exists for `add` alone (RFC 6901 3, 4).
4. Numbers are equal if their values are; true and false are no numbers (RFC 6902 4.6). An object has no order.
5. What comes out is an object, of at most so many bytes as JSON, and as deep as a body may be. That is looked at after
   each operation: a `copy` doubles, and a few dozen of them would fill any memory.

What cannot be read is malformed; what reads well and does not fit the document as it is now is a conflict (RFC 5789
2.2), so that whoever patches what somebody else has just changed learns that.
"""

import re
from collections.abc import Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Final

import orjson

from iam.errors import Kind, Refused, conflict, malformed
from iam.schema import check_plain

OPERATIONS_MAXIMUM: Final = 100
SIZE_MAXIMUM: Final = 64 * 1024
"""Bytes of the document as compact JSON, if nobody says otherwise."""

_POINTER_MAXIMUM = 1024
_INDEX = re.compile(r"0|[1-9][0-9]{0,8}")
_ESCAPE_OF_NOTHING = re.compile(r"~(?![01])")
_AFTER_THE_LAST = "-"

Json = Any
"""A value of JSON, as `orjson` reads it."""

Pointer = tuple[str, ...]
"""The tokens of a JSON Pointer, unescaped; the empty one is the whole document."""


class Op(StrEnum):
    """What an operation does (RFC 6902 4)."""

    ADD = "add"
    REMOVE = "remove"
    REPLACE = "replace"
    MOVE = "move"
    COPY = "copy"
    TEST = "test"


_WITH_VALUE = frozenset({Op.ADD, Op.REPLACE, Op.TEST})
_WITH_SOURCE = frozenset({Op.MOVE, Op.COPY})


@dataclass(frozen=True, slots=True)
class Operation:
    """One checked operation.

    Attributes:
        value: What `add`, `replace` and `test` speak of; None is the JSON value null.
        source: Where `move` and `copy` take from: the member `from`.
    """

    op: Op
    path: Pointer
    value: Json = None
    source: Pointer = ()


def read_patch(raw: Json) -> tuple[Operation, ...]:
    """Read a patch by rules 1 and 3; raise `Refused` (malformed) with the number of the operation at fault."""
    if not isinstance(raw, list):
        raise malformed("A patch is a list of operations.")
    if len(raw) > OPERATIONS_MAXIMUM:
        raise malformed(f"A patch has at most {OPERATIONS_MAXIMUM} operations.")
    return tuple(_read_operation(number, one) for number, one in enumerate(raw))


def apply_patch(
    document: Mapping[str, Json], patch: Sequence[Operation], *, size_maximum: int = SIZE_MAXIMUM
) -> dict[str, Json]:
    """Return the document after the patch; the one that was given stays as it is.

    Raises:
        Refused: (conflict) An operation does not fit the document, or a test fails. (invalid) The outcome is no object,
            too large or too deep.
    """
    patched: Json = deepcopy(dict(document))
    for number, operation in enumerate(patch):
        patched = _apply(patched, operation, f"operation {number} ({operation.op})")
        _check_bounds(patched, size_maximum)
    if not isinstance(patched, dict):
        raise Refused(Kind.INVALID, "The outcome of the patch is not an object.")
    return patched


def read_pointer(text: Json) -> Pointer:
    """Read a JSON Pointer (RFC 6901 3); raise `Refused` (malformed)."""
    if not isinstance(text, str) or len(text) > _POINTER_MAXIMUM:
        raise malformed(f"A JSON Pointer is a text of at most {_POINTER_MAXIMUM} characters.")
    if text and not text.startswith("/"):
        raise malformed("A JSON Pointer is empty or begins with '/'.")
    if _ESCAPE_OF_NOTHING.search(text):
        raise malformed("In a JSON Pointer, '~' stands only in '~0' and '~1'.")
    # RFC 6901 4: first ~1, then ~0, so that ~01 becomes ~1 and not /.
    return tuple(token.replace("~1", "/").replace("~0", "~") for token in text.split("/")[1:])


def are_equal(one: Json, other: Json) -> bool:
    """Tell whether two values of JSON are equal, by rule 4."""
    if isinstance(one, bool) or isinstance(other, bool):
        return one is other
    if isinstance(one, dict) and isinstance(other, dict):
        return one.keys() == other.keys() and all(are_equal(value, other[name]) for name, value in one.items())
    if isinstance(one, list) and isinstance(other, list):
        return len(one) == len(other) and all(map(are_equal, one, other))
    return bool(one == other)


def _read_operation(number: int, raw: Json) -> Operation:
    if not isinstance(raw, dict):
        raise malformed(f"Operation {number} is not an object.")
    try:
        op = Op(str(raw.get("op")))
    except ValueError as error:
        raise malformed(f"The op of operation {number} is one of {', '.join(Op)}.") from error
    needed = {"path"} | ({"value"} if op in _WITH_VALUE else set()) | ({"from"} if op in _WITH_SOURCE else set())
    if missing := needed - raw.keys():
        raise malformed(f"Operation {number} ({op}) lacks {', '.join(sorted(missing))}.")
    path = read_pointer(raw["path"])
    source = read_pointer(raw["from"]) if op in _WITH_SOURCE else ()
    if op is Op.MOVE and len(source) < len(path) and path[: len(source)] == source:
        raise malformed(f"Operation {number} moves a value into itself.")  # RFC 6902 4.4
    return Operation(op, path, raw["value"] if op in _WITH_VALUE else None, source)


def _apply(document: Json, operation: Operation, where: str) -> Json:
    match operation.op:
        case Op.ADD:
            return _add(document, operation.path, deepcopy(operation.value), where)
        case Op.REMOVE:
            return _remove(document, operation.path, where)
        case Op.REPLACE:
            return _replace(document, operation.path, deepcopy(operation.value), where)
        case Op.COPY:
            return _add(document, operation.path, deepcopy(_find(document, operation.source, where)), where)
        case Op.MOVE:
            moved = _find(document, operation.source, where)
            return _add(_remove(document, operation.source, where), operation.path, moved, where)
        case Op.TEST:
            if not are_equal(_find(document, operation.path, where), operation.value):
                raise conflict(f"The test of {where} fails: the value there is another.")
            return document


def _find(document: Json, path: Pointer, where: str) -> Json:
    found = document
    for token in path:
        found = found[_key(found, token, where)]
    return found


def _add(document: Json, path: Pointer, value: Json, where: str) -> Json:
    if not path:
        return value
    parent = _find(document, path[:-1], where)
    if isinstance(parent, list):
        parent.insert(_insertion_index(parent, path[-1], where), value)
    elif isinstance(parent, dict):
        parent[path[-1]] = value
    else:
        raise conflict(f"The parent of the path of {where} is no object and no list.")
    return document


def _remove(document: Json, path: Pointer, where: str) -> Json:
    if not path:
        raise conflict(f"The whole document cannot be removed, by {where}.")
    parent = _find(document, path[:-1], where)
    del parent[_key(parent, path[-1], where)]
    return document


def _replace(document: Json, path: Pointer, value: Json, where: str) -> Json:
    if not path:
        return value
    parent = _find(document, path[:-1], where)
    parent[_key(parent, path[-1], where)] = value
    return document


def _key(parent: Json, token: str, where: str) -> str | int:
    """Return the name or index of what is there in `parent`; raise `Refused` (conflict) if there is nothing."""
    if isinstance(parent, dict) and token in parent:
        return token
    if isinstance(parent, list) and _INDEX.fullmatch(token) and int(token) < len(parent):
        return int(token)
    raise conflict(f"There is nothing at the path of {where}.")


def _insertion_index(parent: list[Json], token: str, where: str) -> int:
    if token == _AFTER_THE_LAST:
        return len(parent)
    if _INDEX.fullmatch(token) and int(token) <= len(parent):
        return int(token)
    raise conflict(f"There is no such place in the list at the path of {where}.")


def _check_bounds(document: Json, size_maximum: int) -> None:
    try:
        check_plain(document)
        size = len(orjson.dumps(document))
    except (Refused, orjson.JSONEncodeError) as error:
        raise Refused(Kind.INVALID, "The outcome of the patch is nested too deep, or is not plain text.") from error
    if size > size_maximum:
        raise Refused(Kind.INVALID, f"The outcome of the patch has more than {size_maximum} bytes.")

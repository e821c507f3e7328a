"""Devices in CSV, as an import reads them.

The rules:

1. The first line names the columns, of which `id` is needed: `id, alias, tags, dms_id, icon, icon_color, metadata`,
   `metadata.<name>` and `label.<name>`. What it does not know, or names twice, ends the import before it begins.
2. `tags` are separated by semicolons; `metadata` is a JSON object, and `metadata.<name>` one text of it. An empty field
   says nothing.
3. A line is checked by the same model as a device that is registered alone.
"""

from collections.abc import AsyncIterator, Iterable, Sequence
from typing import Any

import orjson
from pydantic import ValidationError

from iam.csv_records import Record, RecordReader, Unreadable
from iam.errors import Refused, malformed
from iam.http.device_shapes import NewDevice
from iam.schema import check_plain
from iam.service.device_import import Line

_TEXTS = frozenset({"id", "alias", "dms_id", "icon", "icon_color"})
_METADATA = "metadata"
_TAGS = "tags"
_DOTTED = ("metadata.", "label.")
_MOST_COLUMNS = 128


async def read_lines(parts: AsyncIterator[bytes]) -> AsyncIterator[Line]:
    """Read an import; raise `Refused` (malformed) for what is no list of devices, and what `parts` raises."""
    reader = RecordReader()
    columns: Sequence[str] | None = None
    async for part in _and_end(parts):
        for record in reader.feed(part) if part else reader.end():
            if columns is None:
                columns = _columns(record)
            else:
                yield Line(record.line, _content(columns, record))
    if columns is None:
        raise malformed("The file is empty: its first line names the columns.")


async def _and_end(parts: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    async for part in parts:
        yield part
    yield b""


def _columns(record: Record | Unreadable) -> Sequence[str]:
    if isinstance(record, Unreadable):
        raise malformed(f"The first line, which names the columns, cannot be read: {record.reason}.")
    columns = [name.strip() for name in record.fields]
    for name in columns:
        is_dotted = any(name.startswith(one) and len(name) > len(one) for one in _DOTTED)
        if not is_dotted and name not in _TEXTS | {_METADATA, _TAGS}:
            raise malformed(f"There is no column {name[:64]!a}.")
    if "id" not in columns or len(set(columns)) != len(columns) or len(columns) > _MOST_COLUMNS:
        raise malformed(f"One column is `id`, none is there twice, and there are at most {_MOST_COLUMNS}.")
    return columns


def _content(columns: Sequence[str], record: Record | Unreadable) -> Any:  # noqa: ANN401 - as `Line.content`
    if isinstance(record, Unreadable):
        return record.reason
    if len(record.fields) != len(columns):
        return f"{len(record.fields)} fields, where the first line names {len(columns)} columns"
    try:
        said = _said(zip(columns, record.fields, strict=True))
        check_plain(said)
        return NewDevice.model_validate(said).registration
    except ValidationError as error:
        return "; ".join(f"{'.'.join(map(str, one['loc']))}: {one['msg']}" for one in error.errors()[:4])
    except Refused as refused:
        return refused.detail
    except orjson.JSONDecodeError:
        return "metadata: not JSON"


def _said(fields: Iterable[tuple[str, str]]) -> dict[str, Any]:
    said: dict[str, Any] = {"labels": {}}
    texts: dict[str, str] = {}
    for name, value in fields:
        if not value:
            continue
        kind, _, key = name.partition(".")
        if key and kind == _METADATA:
            texts[key] = value
        elif key:
            said["labels"][key] = value
        elif name == _TAGS:
            said[_TAGS] = [tag.strip() for tag in value.split(";") if tag.strip()]
        elif name == _METADATA:
            said[_METADATA] = orjson.loads(value)
        else:
            said[name] = value
    metadata = said.get(_METADATA, {})
    said[_METADATA] = {**metadata, **texts} if isinstance(metadata, dict) else metadata
    return said

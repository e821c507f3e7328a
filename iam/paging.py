"""Lists are read page by page: a page holds its items and an opaque cursor to the next one.

A cursor is the key of the page's last item, so that rows which come and go in between neither repeat nor hide others.
"""

import base64
import binascii
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

import orjson
from pydantic import Field

from iam.errors import malformed
from iam.schema import Model

DEFAULT_LIMIT = 100
LARGEST_LIMIT = 1000

T = TypeVar("T")


class PageQuery(Model):
    """The query of every list: how many, and after which."""

    limit: int = Field(DEFAULT_LIMIT, ge=1, le=LARGEST_LIMIT, description="How many, at the most.")
    cursor: str | None = Field(None, max_length=1024, description="The `next` of the page before.")


@dataclass(frozen=True, slots=True)
class Page(Generic[T]):
    """Some items in order, and the cursor to those after them, if there are any."""

    items: tuple[T, ...]
    next: str | None


def encode_cursor(*key: str) -> str:
    """Return the cursor that stands behind the item with this key."""
    return base64.urlsafe_b64encode(orjson.dumps(key)).rstrip(b"=").decode()


def decode_cursor(cursor: str | None, parts: int) -> tuple[str, ...] | None:
    """Return the key in a cursor of `parts` parts; None for the first page.

    Raises:
        Refused: (malformed) It is not one of ours.
    """
    if cursor is None:
        return None
    try:
        key = orjson.loads(base64.urlsafe_b64decode(cursor + "=" * (-len(cursor) % 4)))
    except (binascii.Error, ValueError) as error:
        raise malformed("This is not a cursor of this list.") from error
    if not isinstance(key, list) or len(key) != parts or not all(isinstance(part, str) for part in key):
        raise malformed("This is not a cursor of this list.")
    if any("\0" in part for part in key):
        raise malformed("This is not a cursor of this list.")
    return tuple(key)


def page_of(found: Sequence[T], limit: int, keys: Sequence[tuple[str, ...]]) -> Page[T]:
    """Make a page of at most `limit` from a query that asked for one row more, with the key of each row."""
    shown = tuple(found[:limit])
    return Page(shown, encode_cursor(*keys[limit - 1]) if len(found) > limit else None)

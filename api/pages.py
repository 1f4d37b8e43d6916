"""Lists in pages: a limit, and a cursor that says where the last page ended.

A cursor is opaque to callers: base64url of a JSON list, the name of the list first and then the sort key of the
page's last item. It needs no secret: all it can do is to say where to go on.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Annotated, Any, TypeVar, overload

import orjson
from fastapi import Depends, Query

from models.errors import FieldError, InvalidContentError
from models.schemas.fields import parse_moment
from models.schemas.pages import Pagination

DEFAULT_LIMIT = 100
MAX_LIMIT = 1000
_MAX_CURSOR = 1024
_MOST_DIGITS = 18

Row = TypeVar("Row")
First = TypeVar("First")
Second = TypeVar("Second")


@dataclass(frozen=True)
class PageRequest:
    """Which page is wanted."""

    limit: int
    cursor: str | None

    @property
    def fetch(self) -> int:
        """How many rows to read: one more than the page holds, which tells whether there is a next one."""
        return self.limit + 1

    @overload
    def after(self, name: str, first: type[First], /) -> tuple[First] | None: ...

    @overload
    def after(self, name: str, first: type[First], second: type[Second], /) -> tuple[First, Second] | None: ...

    def after(self, name: str, /, *kinds: type) -> tuple[Any, ...] | None:
        """The sort key to go on after: values of ``kinds`` (str, int, datetime); None for the first page.

        Raises :class:`InvalidContentError` (`invalid_cursor`) for a cursor that isn't one of the list ``name``.
        """
        if self.cursor is None:
            return None
        try:
            given, *values = _decode(self.cursor)
            if given != name:
                raise ValueError("another list's cursor")
            return tuple(_READERS[kind](value) for kind, value in zip(kinds, values, strict=True))
        except (ValueError, TypeError):
            error = FieldError("/query/cursor", "invalid_cursor", "is not a cursor of this list")
            raise InvalidContentError([error]) from None

    def cut(
        self, name: str, rows: Sequence[Row], sort_key: Callable[[Row], tuple[str | datetime, ...]]
    ) -> tuple[Sequence[Row], Pagination]:
        """The page out of up to :attr:`fetch` rows, and its pagination."""
        page = rows[: self.limit]
        more = len(rows) > self.limit
        cursor = _encode([name, *sort_key(page[-1])]) if more else None
        return page, Pagination(limit=self.limit, next_cursor=cursor)


async def _page_request(
    limit: Annotated[int, Query(ge=1, le=MAX_LIMIT, description="Items a page.")] = DEFAULT_LIMIT,
    cursor: Annotated[
        str | None, Query(max_length=_MAX_CURSOR, description="`next_cursor` of the page before.")
    ] = None,
) -> PageRequest:
    return PageRequest(limit, cursor)


PageQuery = Annotated[PageRequest, Depends(_page_request)]


def _whole_number(digits: str) -> int:
    if not (digits.isascii() and digits.isdecimal() and len(digits) <= _MOST_DIGITS):
        raise ValueError("not a number of ours")
    return int(digits)


_READERS: dict[type, Callable[[str], object]] = {str: str, datetime: parse_moment, int: _whole_number}


def _encode(values: list[str | datetime]) -> str:
    return base64.urlsafe_b64encode(orjson.dumps(values)).decode().rstrip("=")


def _decode(cursor: str) -> list[str]:
    """The values of a cursor; ValueError for anything that :func:`_encode` doesn't make."""
    try:
        raw = base64.b64decode(cursor + "=" * (-len(cursor) % 4), altchars=b"-_", validate=True)
    except binascii.Error:
        raise ValueError("not base64url") from None
    values = orjson.loads(raw)
    if not isinstance(values, list) or not all(isinstance(value, str) for value in values):
        raise ValueError("not a cursor")
    if _encode(list(values)) != cursor:
        raise ValueError("not as it was made")
    if any("\x00" in value for value in values):
        raise ValueError("not a text")
    return values

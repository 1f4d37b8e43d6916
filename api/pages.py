"""Pagination: a limit, and a cursor to the end of the previous page.

A cursor is opaque to callers: base64url of a JSON list with the name of the list and the sort key of the page's
last item. It isn't signed, since it only sets the position in a list that the caller may read anyway.
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
from models.schemas.common import Pagination
from models.schemas.fields import parse_timestamp

DEFAULT_LIMIT = 100
MAX_LIMIT = 1000
_MAX_CURSOR = 1024
_MOST_DIGITS = 18

Row = TypeVar("Row")
First = TypeVar("First")
Second = TypeVar("Second")


@dataclass(frozen=True)
class PageRequest:
    limit: int
    cursor: str | None

    @property
    def rows_to_fetch(self) -> int:
        """One more than the page has, so that the extra row shows whether there is a next page."""
        return self.limit + 1

    @overload
    def position(self, name: str, first: type[First], /) -> tuple[First] | None: ...

    @overload
    def position(self, name: str, first: type[First], second: type[Second], /) -> tuple[First, Second] | None: ...

    def position(self, name: str, /, *kinds: type) -> tuple[Any, ...] | None:
        """The sort key of the previous page's last row; None for the first page.

        ``kinds`` are the types of the key's values: str, int or datetime.

        Raises :class:`InvalidContentError` (`invalid_cursor`) unless the cursor is one of the list ``name``.
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

    def rows_and_pagination(
        self, name: str, rows: Sequence[Row], sort_key: Callable[[Row], tuple[str | datetime, ...]]
    ) -> tuple[Sequence[Row], Pagination]:
        """The rows of the page and its pagination. ``rows`` has up to :attr:`rows_to_fetch` rows."""
        page = rows[: self.limit]
        cursor = _encode([name, *sort_key(page[-1])]) if len(rows) > self.limit else None
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
        raise ValueError("not a whole number")
    return int(digits)


_READERS: dict[type, Callable[[str], object]] = {str: str, datetime: parse_timestamp, int: _whole_number}


def _encode(values: list[str | datetime]) -> str:
    return base64.urlsafe_b64encode(orjson.dumps(values)).decode().rstrip("=")


def _decode(cursor: str) -> list[str]:
    """The values of a cursor. Raises ValueError for anything that :func:`_encode` doesn't return."""
    try:
        raw = base64.b64decode(cursor + "=" * (-len(cursor) % 4), altchars=b"-_", validate=True)
    except binascii.Error:
        raise ValueError("not base64url") from None
    values = orjson.loads(raw)
    if not isinstance(values, list) or not all(isinstance(value, str) for value in values):
        raise ValueError("not a cursor")
    if _encode(list(values)) != cursor:
        raise ValueError("not in its canonical form")
    if any("\x00" in value for value in values):
        raise ValueError("not a text that Postgres takes")
    return values

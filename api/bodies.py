"""Reads request bodies up to a limit, and accepts only JSON that can be stored and written again."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from email.message import Message
from typing import Any

import orjson
from starlette.requests import Request

from api.parsing import (
    MOST_VALUES,
    is_suspect,
    parse,
    parse_batch,
    require_few_names,
    require_storable,
    too_many_items,
    usable,
    values_in,
)
from models.errors import BodyTooLargeError, FieldError, InvalidContentError, UnsupportedMediaTypeError
from store.pacing import Pace

_LONGEST_MEDIA_TYPE = 255
"""Python needs quadratic time for the parameters of a media type."""
_NONE: Mapping[str, int] = {}
_MERGE_PATCH = frozenset({"application/json", "application/merge-patch+json"})


class JsonRequest(Request):
    """A request whose body has been read and parsed."""

    def __init__(self, request: Request, raw: bytes, document: Any, items: str | None = None) -> None:
        super().__init__(request.scope, request.receive)
        self._raw = raw
        self._document = document
        self._items = items

    async def body(self) -> bytes:
        return self._raw

    async def json(self) -> Any:
        """The document; None if the body is empty."""
        return self._document

    async def canonical(self) -> bytes:
        """The document with its names sorted and without spaces; the body as sent if it can't be written."""
        try:
            return b"".join([part async for part in self._canonical_parts()])
        except orjson.JSONEncodeError:
            return self._raw

    async def _canonical_parts(self) -> AsyncIterator[bytes]:
        """The same bytes as of the whole document, but the items of a batch one by one."""
        listed = self._document.get(self._items) if isinstance(self._document, dict) and self._items else None
        if not isinstance(listed, list):
            yield orjson.dumps(self._document, option=orjson.OPT_SORT_KEYS)
            return
        pace, mark = Pace(), b"{"
        for name in sorted(self._document):
            yield mark + orjson.dumps(name) + b":"
            mark = b","
            if name != self._items:
                yield orjson.dumps(self._document[name], option=orjson.OPT_SORT_KEYS)
                continue
            for index, item in enumerate(listed):
                yield (b"," if index else b"[") + orjson.dumps(item, option=orjson.OPT_SORT_KEYS)
                await pace.rest()
            yield b"]" if listed else b"[]"
        yield b"}"


async def read_json(
    request: Request, limit: int, lists: Mapping[str, int] = _NONE, items: str | None = None
) -> JsonRequest:
    """Read and parse the body of a request.

    ``lists`` has the most items of the body's lists, by name. ``items`` names the one of them whose items are
    validated one by one. An item that can't be stored becomes an :class:`UnusableItem`, and the others are kept.
    Nothing is validated before it is counted. Raises:

    - :class:`BodyTooLargeError` as soon as more than ``limit`` bytes are announced or received.
    - :class:`UnsupportedMediaTypeError` and :class:`MalformedJsonError`.
    - :class:`InvalidContentError` for a body that isn't an object. Also for a text with NUL or half of a surrogate
      pair, a number outside the range of a double, or too many values, names or items.
    """
    raw, values = await _read(request, limit, most=None if items else MOST_VALUES)
    if not raw:
        return JsonRequest(request, raw, None)
    _check_media_type(request)
    if items is not None and values > MOST_VALUES:
        return JsonRequest(request, raw, await parse_batch(raw, items, lists[items]), items)
    document, lenient = parse(raw)
    if not isinstance(document, dict):
        raise InvalidContentError([FieldError("", "invalid_type", "must be an object")])
    require_few_names(document)
    _require_few_items(document, lists)
    if lenient or is_suspect(raw, document):
        pace = Pace()
        # The listed items are checked one by one, so that one bad item doesn't reject the others.
        listed = document.pop(items) if items is not None and isinstance(document.get(items), list) else None
        await require_storable(document, pace)
        if items is not None and listed is not None:
            document[items] = [await usable(item, pace) for item in listed]
    return JsonRequest(request, raw, document, items)


def _require_few_items(document: Mapping[str, Any], lists: Mapping[str, int]) -> None:
    errors = [
        too_many_items(name, most)
        for name, most in lists.items()
        if isinstance(document.get(name), list) and len(document[name]) > most
    ]
    if errors:
        raise InvalidContentError(errors)


async def _read(request: Request, limit: int, most: int | None) -> tuple[bytes, int]:
    """The body, and an upper bound of the values in it, of which there may be ``most``."""
    if any(encoding.strip().lower() != "identity" for encoding in request.headers.getlist("content-encoding")):
        raise UnsupportedMediaTypeError("Bodies are taken as they are: send no Content-Encoding.")
    announced = request.headers.get("content-length", "")
    # Python converts only some thousand digits, so the length of the number is checked first.
    if announced.isdecimal() and (len(announced) > len(str(limit)) + 20 or int(announced) > limit):
        raise BodyTooLargeError(limit)
    chunks, size, values = [], 0, 0
    async for chunk in request.stream():
        size += len(chunk)
        if size > limit:
            raise BodyTooLargeError(limit)
        values += values_in(chunk)
        if most is not None and values > most:
            raise InvalidContentError([FieldError("", "too_many_values", f"must have at most {most} values")])
        chunks.append(chunk)
    return b"".join(chunks), values


def _check_media_type(request: Request) -> None:
    given = request.headers.getlist("content-type")
    if given == ["application/json"]:
        return
    message = Message()
    readable = len(given) == 1 and len(given[0]) <= _LONGEST_MEDIA_TYPE
    message["content-type"] = given[0] if readable else "none/none"
    media_type = message.get_content_type()
    if request.method == "PATCH":
        known, wanted = media_type in _MERGE_PATCH, "application/merge-patch+json"
    else:
        known, wanted = media_type.startswith("application/"), "application/json"
        known = known and (media_type == wanted or media_type.endswith("+json"))
    if not known or _charset(message) not in {"utf-8", "utf8", "us-ascii"}:
        raise UnsupportedMediaTypeError(f"Send the body as {wanted}, in UTF-8.")


def _charset(message: Message) -> str | None:
    """The charset of a media type, UTF-8 by default; None if its parameters can't be read."""
    try:
        return message.get_content_charset("utf-8")
    except (TypeError, ValueError):  # numbered parameters (RFC 2231) in an impossible order
        return None

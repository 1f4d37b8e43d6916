"""Reads request bodies up to a limit, and accepts only JSON that can be stored and written again."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from email.message import Message
from itertools import islice
from typing import Any, NoReturn

import orjson
from starlette.requests import Request

from api.validation import MOST_LISTED_ERRORS, MOST_LISTED_ERRORS_PER_ITEM, pointer
from models.errors import (
    BodyTooLargeError,
    FieldError,
    InvalidContentError,
    MalformedJsonError,
    UnsupportedMediaTypeError,
)
from models.schemas.fields import UnusableItem

_NUL = "\x00"
_NUL_ESCAPED = b"\\u0000"
_MALFORMED = "The body must be one JSON document in UTF-8, without NaN or Infinity."
_WRITABLE_LEVELS = 250
"""orjson reads deeper documents than it writes: it writes 254 levels."""
_MOST_NAMES = 10_000
"""The most names in the body, and in each object directly in it. Each unknown name becomes an error, and half a
million errors would block other requests. A limit in bytes keeps objects with free names below this."""
_INTEGER_DIGITS = len(str(-(1 << 63)))
_MERGE_PATCH = frozenset({"application/json", "application/merge-patch+json"})


class JsonRequest(Request):
    """A request whose body has been read and parsed."""

    def __init__(self, request: Request, raw: bytes, document: Any) -> None:
        super().__init__(request.scope, request.receive)
        self._raw = raw
        self._document = document

    async def body(self) -> bytes:
        return self._raw

    async def json(self) -> Any:
        """The document; None if the body is empty."""
        return self._document

    @property
    def canonical(self) -> bytes:
        """The document with its names sorted and without spaces; the body as sent if it can't be written."""
        try:
            return orjson.dumps(self._document, option=orjson.OPT_SORT_KEYS)
        except orjson.JSONEncodeError:
            return self._raw


async def read_json(request: Request, limit: int, items: str | None = None) -> JsonRequest:
    """Read and parse the body of a request.

    ``items`` names a list whose items are validated one by one. An item that can't be stored becomes an
    :class:`UnusableItem`, and the others are kept. Raises:

    - :class:`BodyTooLargeError` as soon as more than ``limit`` bytes are announced or received.
    - :class:`UnsupportedMediaTypeError` and :class:`MalformedJsonError`.
    - :class:`InvalidContentError` for a body that isn't an object. Also for a text with NUL or half of a surrogate
      pair, or a number outside the range of a double.
    """
    raw = await _read(request, limit)
    if not raw:
        return JsonRequest(request, raw, None)
    _check_media_type(request)
    document, lenient = _parse(raw)
    if not isinstance(document, dict):
        raise InvalidContentError([FieldError("", "invalid_type", "must be an object")])
    _require_few_names(document)
    # The checks walk the whole document, so they run only if the bytes give a reason.
    deep = raw.count(b"[") + raw.count(b"{") > _WRITABLE_LEVELS
    if lenient or _NUL_ESCAPED in raw or (deep and not _writable(document)):
        # The listed items are checked one by one, so that one bad item doesn't reject the others.
        listed = document.pop(items) if items is not None and isinstance(document.get(items), list) else None
        _require_storable(document)
        if items is not None and listed is not None:
            document[items] = [_usable(item) for item in listed]
    return JsonRequest(request, raw, document)


async def _read(request: Request, limit: int) -> bytes:
    if any(encoding.strip().lower() != "identity" for encoding in request.headers.getlist("content-encoding")):
        raise UnsupportedMediaTypeError("Bodies are taken as they are: send no Content-Encoding.")
    announced = request.headers.get("content-length", "")
    # Python converts only some thousand digits, so the length of the number is checked first.
    if announced.isdecimal() and (len(announced) > len(str(limit)) + 20 or int(announced) > limit):
        raise BodyTooLargeError(limit)
    chunks, size = [], 0
    async for chunk in request.stream():
        size += len(chunk)
        if size > limit:
            raise BodyTooLargeError(limit)
        chunks.append(chunk)
    return b"".join(chunks)


def _check_media_type(request: Request) -> None:
    given = request.headers.getlist("content-type")
    if given == ["application/json"]:
        return
    message = Message()
    message["content-type"] = given[0] if len(given) == 1 else "none/none"
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


def _parse(raw: bytes) -> tuple[Any, bool]:
    """The document, and whether only Python's lenient parser reads it.

    Such a document is valid JSON, but may contain a number like 1e999, or half of a surrogate pair. A text that
    was cut inside an emoji ends with such a half.
    """
    try:
        return orjson.loads(raw), False
    except orjson.JSONDecodeError:
        pass
    try:
        return json.loads(raw.decode(), parse_constant=_not_json, parse_int=_integer), True
    except (ValueError, RecursionError):
        raise MalformedJsonError(_MALFORMED) from None


def _integer(text: str) -> int | float:
    """An integer as orjson reads it: a float if it needs more than 64 bits."""
    if len(text) > _INTEGER_DIGITS:  # int() refuses more than some thousand digits
        return float(text)
    value = int(text)
    return value if -(1 << 63) <= value < 1 << 64 else float(text)


def _not_json(_text: str) -> NoReturn:
    raise ValueError("NaN and Infinity are not JSON")


def _require_few_names(document: dict[str, Any]) -> None:
    objects = (((), document), *(((name,), value) for name, value in document.items() if isinstance(value, dict)))
    errors = [
        FieldError(pointer(place), "too_many_fields", f"must have at most {_MOST_NAMES} fields")
        for place, value in objects
        if len(value) > _MOST_NAMES
    ]
    if errors:
        raise InvalidContentError(errors)


def _require_storable(document: Any) -> None:
    if errors := list(islice(_value_errors(document), MOST_LISTED_ERRORS)):
        raise InvalidContentError(errors)
    if not _writable(document):
        raise MalformedJsonError("The body is nested too deeply.")


def _usable(item: Any) -> Any:
    """An item of a batch, or an :class:`UnusableItem` if it can't be stored."""
    errors = list(islice(_value_errors(item), MOST_LISTED_ERRORS_PER_ITEM))
    if not errors and not _writable(item):
        errors = [FieldError("", "too_deep", "is nested too deeply")]
    return UnusableItem(item, errors) if errors else item


def _writable(document: Any) -> bool:
    try:
        orjson.dumps(document)
    except orjson.JSONEncodeError:
        return False
    return True


def _value_errors(document: Any) -> Iterator[FieldError]:
    """Errors for texts and numbers that can't be stored."""
    # A list instead of recursion: the document may be deep.
    waiting: list[tuple[tuple[str | int, ...], Any]] = [((), document)]
    while waiting:
        place, value = waiting.pop()
        if isinstance(value, str) and (what := _unstorable(value)):
            yield FieldError(pointer(place), "invalid_characters", f"must not contain {what}")
        elif isinstance(value, float) and not math.isfinite(value):
            yield FieldError(
                pointer(place), "number_out_of_range", "must be a number between -1.8e308 and 1.8e308"
            )
        elif isinstance(value, list):
            waiting.extend(((*place, index), each) for index, each in enumerate(value))
        elif isinstance(value, dict):
            for name, each in value.items():
                if what := _unstorable(name):
                    yield FieldError(pointer(place), "invalid_characters", f"has a name with {what}")
                else:
                    waiting.append(((*place, name), each))


def _unstorable(text: str) -> str | None:
    """The part of a text that UTF-8 can't write or Postgres can't store."""
    if _NUL in text:
        return "the character U+0000"
    try:
        text.encode()
    except UnicodeEncodeError:
        return "half of a surrogate pair (\\uD800 to \\uDFFF)"
    return None

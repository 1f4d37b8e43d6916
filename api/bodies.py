"""Request bodies: read within a limit, and only as JSON that every later part can store."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from dataclasses import dataclass
from email.message import Message
from itertools import islice
from typing import Any, NoReturn

import orjson
from starlette.requests import Request

from api.validation import LISTED_ERRORS, LISTED_OF_ITEM, pointer
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
_WANTED = "The body must be one JSON document in UTF-8, without NaN or Infinity."
_WRITABLE_LEVELS = 250
_MOST_NAMES = 10_000
"""What a body, or an object in it, may have: each name that a model doesn't know becomes an error of its own, and
half a million of them would keep everybody else waiting. What may have any names is bounded in bytes, to fewer."""
_DIGITS = len(str(-(1 << 63)))
_MERGE_PATCH = frozenset({"application/json", "application/merge-patch+json"})


class JsonRequest(Request):
    """A request whose body has been read and parsed already."""

    def __init__(self, request: Request, raw: bytes, document: Any) -> None:
        super().__init__(request.scope, request.receive)
        self._raw = raw
        self._document = document

    async def body(self) -> bytes:
        """The bytes as they came."""
        return self._raw

    async def json(self) -> Any:
        """The parsed document; None where the body is empty."""
        return self._document

    @property
    def canonical(self) -> bytes:
        """The document in one form, whatever its spacing and the order of its names; as it came where it holds
        items that can't be written again."""
        try:
            return orjson.dumps(self._document, option=orjson.OPT_SORT_KEYS)
        except orjson.JSONEncodeError:
            return self._raw


async def read_json(request: Request, limit: int, items: str | None = None) -> JsonRequest:
    """Read and parse the body of a request.

    ``items`` names a list whose items are judged one by one: what is wrong with one of them makes it an
    :class:`UnusableItem` and costs the others nothing. Raises :class:`BodyTooLargeError` as soon as more than
    ``limit`` bytes are announced or have come, :class:`UnsupportedMediaTypeError`, :class:`MalformedJsonError`, and
    :class:`InvalidContentError` where it is no object or holds what can't be stored: a text with a NUL or half of a
    surrogate pair, or a number beyond a double's range.
    """
    raw = await _read(request, limit)
    if not raw:
        return JsonRequest(request, raw, None)
    _check_media_type(request)
    document, strange = _parsed(raw)
    if not isinstance(document, dict):
        raise InvalidContentError([FieldError("", "invalid_type", "must be an object")])
    _require_few_names(document)
    suspect = _Suspect(deep=_may_be_deep(raw), values=strange or _NUL_ESCAPED in raw)
    if items is not None and isinstance(document.get(items), list):
        rest = {name: value for name, value in document.items() if name != items}
        document = rest | {items: [suspect.judged(item) for item in document[items]]}
        suspect.require_storable(rest)
    else:
        suspect.require_storable(document)
    return JsonRequest(request, raw, document)


def _parsed(raw: bytes) -> tuple[Any, bool]:
    """A document, and whether it may hold what is JSON by its grammar, but nothing that could be written again:
    half a surrogate pair, which a text cut in the middle of an emoji leaves behind, or a number like 1e999."""
    try:
        return orjson.loads(raw), False
    except orjson.JSONDecodeError:
        pass
    try:
        return json.loads(raw.decode(), parse_constant=_refused, parse_int=_whole), True
    except (ValueError, RecursionError):
        raise MalformedJsonError(_WANTED) from None


def _whole(text: str) -> int | float:
    """An integer as orjson reads it: one of more than 64 bits is a float. By its length first, since Python reads
    none of more than some thousand digits."""
    if len(text) > _DIGITS:
        return float(text)
    value = int(text)
    return value if -(1 << 63) <= value < 1 << 64 else float(text)


def _refused(_text: str) -> NoReturn:
    raise ValueError("not a number that JSON has")


def _require_few_names(document: dict[str, Any]) -> None:
    objects = (((), document), *(((name,), value) for name, value in document.items() if isinstance(value, dict)))
    errors = [
        FieldError(pointer(place), "too_many_fields", f"must have at most {_MOST_NAMES} fields")
        for place, value in objects
        if len(value) > _MOST_NAMES
    ]
    if errors:
        raise InvalidContentError(errors)


@dataclass(frozen=True)
class _Suspect:
    """What the bytes of a body give reason to look for; looking costs a walk through the document."""

    deep: bool
    values: bool

    def require_storable(self, document: Any) -> None:
        """Raise where a document can't be stored."""
        if self.values and (errors := list(islice(_value_errors(document), LISTED_ERRORS))):
            raise InvalidContentError(errors)
        if self.deep and _too_deep(document):
            raise MalformedJsonError("The body is nested too deeply.")

    def judged(self, item: Any) -> Any:
        """An item of a batch, or what stands for it where it can't be stored."""
        if self.values and (errors := list(islice(_value_errors(item), LISTED_OF_ITEM))):
            return UnusableItem(item, errors)
        if self.deep and _too_deep(item):
            return UnusableItem(item, [FieldError("", "too_deep", "is nested too deeply")])
        return item


async def _read(request: Request, limit: int) -> bytes:
    if any(encoding.strip().lower() != "identity" for encoding in request.headers.getlist("content-encoding")):
        raise UnsupportedMediaTypeError("Bodies are taken as they are: send no Content-Encoding.")
    announced = request.headers.get("content-length", "")
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
    message = Message()
    message["content-type"] = given[0] if len(given) == 1 else "none/none"
    media_type = message.get_content_type()
    charset = _charset(message)
    if request.method == "PATCH":
        known = media_type in _MERGE_PATCH
    else:
        known = media_type == "application/json" or (
            media_type.startswith("application/") and media_type.endswith("+json")
        )
    if not known or charset not in {"utf-8", "utf8", "us-ascii"}:
        wanted = "application/merge-patch+json" if request.method == "PATCH" else "application/json"
        raise UnsupportedMediaTypeError(f"Send the body as {wanted}, in UTF-8.")


def _charset(message: Message) -> str | None:
    """The charset of a media type, UTF-8 where it names none; None where its parameters can't be read."""
    try:
        return message.get_content_charset("utf-8")
    except (TypeError, ValueError):  # numbered parameters (RFC 2231) that have no order
        return None


def _may_be_deep(raw: bytes) -> bool:
    return raw.count(b"[") + raw.count(b"{") > _WRITABLE_LEVELS


def _too_deep(document: Any) -> bool:
    """Whether a document could be read but not be written again: orjson writes 254 levels."""
    try:
        orjson.dumps(document)
    except orjson.JSONEncodeError:
        return True
    return False


def _value_errors(document: Any) -> Iterator[FieldError]:
    """Where a parsed document holds a text or a number that can't be stored; an iteration and no recursion, since
    it may be deep."""
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
    """What a text holds that UTF-8 can't write, or Postgres can't store."""
    if _NUL in text:
        return "the character U+0000"
    try:
        text.encode()
    except UnicodeEncodeError:
        return "half of a surrogate pair (\\uD800 to \\uDFFF)"
    return None

"""Request bodies: read within a limit, and only as JSON that every later part can store."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from email.message import Message
from typing import Any

import orjson
from starlette.requests import Request

from api.validation import pointer
from models.errors import BodyTooLarge, FieldError, InvalidContent, MalformedJson, UnsupportedMediaType
from models.wire.fields import UnusableItem

_NUL = "\x00"
_NUL_ESCAPED = b"\\u0000"
_WRITABLE_LEVELS = 250
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
    :class:`UnusableItem` and costs the others nothing. Raises :class:`BodyTooLarge` as soon as more than
    ``limit`` bytes are announced or have come, :class:`UnsupportedMediaType`, :class:`MalformedJson`, and
    :class:`InvalidContent` where it is no object or holds a NUL, which Postgres can't store in a text.
    """
    raw = await _read(request, limit)
    if not raw:
        return JsonRequest(request, raw, None)
    _check_media_type(request)
    try:
        document = orjson.loads(raw)
    except orjson.JSONDecodeError:
        raise MalformedJson("The body must be one JSON document in UTF-8, without NaN or Infinity.") from None
    if not isinstance(document, dict):
        raise InvalidContent([FieldError("", "invalid_type", "must be an object")])
    suspect = _Suspect(deep=_may_be_deep(raw), nul=_NUL_ESCAPED in raw)
    if items is not None and isinstance(document.get(items), list):
        rest = {name: value for name, value in document.items() if name != items}
        document = rest | {items: [suspect.judged(item) for item in document[items]]}
        suspect.require_storable(rest)
    else:
        suspect.require_storable(document)
    return JsonRequest(request, raw, document)


@dataclass(frozen=True)
class _Suspect:
    """What the bytes of a body give reason to look for; looking costs a walk through the document."""

    deep: bool
    nul: bool

    def require_storable(self, document: Any) -> None:
        """Raise where a document can't be stored."""
        if self.deep and _too_deep(document):
            raise MalformedJson("The body is nested too deeply.")
        if self.nul and (errors := list(_nul_errors(document))):
            raise InvalidContent(errors)

    def judged(self, item: Any) -> Any:
        """An item of a batch, or what stands for it where it can't be stored."""
        if self.deep and _too_deep(item):
            return UnusableItem(item, [FieldError("", "too_deep", "is nested too deeply")])
        if self.nul and (errors := list(_nul_errors(item))):
            return UnusableItem(item, errors)
        return item


async def _read(request: Request, limit: int) -> bytes:
    if any(encoding.strip().lower() != "identity" for encoding in request.headers.getlist("content-encoding")):
        raise UnsupportedMediaType("Bodies are taken as they are: send no Content-Encoding.")
    announced = request.headers.get("content-length", "")
    if announced.isdecimal() and (len(announced) > len(str(limit)) + 20 or int(announced) > limit):
        raise BodyTooLarge(limit)
    chunks, size = [], 0
    async for chunk in request.stream():
        size += len(chunk)
        if size > limit:
            raise BodyTooLarge(limit)
        chunks.append(chunk)
    return b"".join(chunks)


def _check_media_type(request: Request) -> None:
    given = request.headers.getlist("content-type")
    message = Message()
    message["content-type"] = given[0] if len(given) == 1 else "none/none"
    media_type = message.get_content_type()
    charset = message.get_content_charset("utf-8")
    if request.method == "PATCH":
        known = media_type in _MERGE_PATCH
    else:
        known = media_type == "application/json" or (
            media_type.startswith("application/") and media_type.endswith("+json")
        )
    if not known or charset not in {"utf-8", "utf8", "us-ascii"}:
        wanted = "application/merge-patch+json" if request.method == "PATCH" else "application/json"
        raise UnsupportedMediaType(f"Send the body as {wanted}, in UTF-8.")


def _may_be_deep(raw: bytes) -> bool:
    return raw.count(b"[") + raw.count(b"{") > _WRITABLE_LEVELS


def _too_deep(document: Any) -> bool:
    """Whether a document could be read but not be written again: orjson writes 254 levels."""
    try:
        orjson.dumps(document)
    except orjson.JSONEncodeError:
        return True
    return False


def _nul_errors(document: Any) -> Iterator[FieldError]:
    """Where a parsed document holds a NUL; an iteration and no recursion, since it may be deep."""
    waiting: list[tuple[tuple[str | int, ...], Any]] = [((), document)]
    while waiting:
        place, value = waiting.pop()
        if isinstance(value, str) and _NUL in value:
            yield FieldError(pointer(place), "invalid_characters", "must not contain the character U+0000")
        elif isinstance(value, list):
            waiting.extend(((*place, index), each) for index, each in enumerate(value))
        elif isinstance(value, dict):
            for name, each in value.items():
                if _NUL in name:
                    yield FieldError(pointer(place), "invalid_characters", "has a name with U+0000")
                waiting.append(((*place, name), each))

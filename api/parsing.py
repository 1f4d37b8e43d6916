"""Parses JSON, at most some thousand values at a time, and finds content that can't be stored.

orjson holds the event loop until it has read a whole document: 8 MB of empty objects take 130 ms. So a batch with
many values is divided first, and its items are parsed one by one.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Sequence
from typing import Any, NoReturn

import orjson

from models.errors import FieldError, InvalidContentError, MalformedJsonError
from models.schemas.fields import UnusableItem
from models.schemas.validation import MOST_LISTED_ERRORS, MOST_LISTED_ERRORS_PER_ITEM, pointer
from store.pacing import Pace

MOST_VALUES = 50_000
"""The most values that are parsed at once. For so many names orjson needs 6 ms, and the lenient parser 25 ms."""
MOST_NAMES = 6_000
"""The most names in an object together with the objects directly in it. Each unknown name becomes an error, and
half a million errors would block other requests. A limit in bytes keeps objects with free names below this."""
_NUL = "\x00"
_NUL_ESCAPED = b"\\u0000"
_WRITABLE_LEVELS = 250
"""orjson reads deeper documents than it writes: it writes 254 levels."""
_MALFORMED = "The body must be one JSON document in UTF-8, without NaN or Infinity."
_INTEGER_DIGITS = len(str(-(1 << 63)))
_PIECES = (4 * 1024, 32 * 1024, 256 * 1024)
"""Characters to look at for the end of one item, until one of them suffices."""
_LONGEST_LITERAL = 16
_PAUSE_AFTER = 1000
"""Values to check before a pause."""
_SPACE = re.compile(r"[ \t\n\r]*")


def values_in(data: bytes) -> int:
    """An upper bound of the values that a part of a document contains; texts may contain these bytes too."""
    return len(data) - len(data.translate(None, b",[{"))


def parse(raw: bytes) -> tuple[Any, bool]:
    """The document, and whether only Python's lenient parser reads it. Raises :class:`MalformedJsonError`.

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


# int() would refuse a long number, and the value isn't used.
_scan: Callable[[str, int], tuple[Any, int]] = json.JSONDecoder(
    parse_constant=_not_json, parse_int=float
).scan_once  # type: ignore[attr-defined]  # typeshed lacks it


async def parse_batch(raw: bytes, items: str, most: int) -> dict[str, Any]:
    """Parse an object with many values, whose list ``items`` has at most ``most`` items.

    An item that can't be stored becomes an :class:`UnusableItem`. Raises :class:`MalformedJsonError`, and
    :class:`InvalidContentError` for more items, for a value of more than 262,144 characters, or for another member
    that can't be stored.
    """
    try:
        reader = _Reader(raw.decode())
    except UnicodeDecodeError:
        raise MalformedJsonError(_MALFORMED) from None
    if reader.next != "{":
        raise InvalidContentError([FieldError("", "invalid_type", "must be an object")])
    pace, document, names = Pace(), dict[str, Any](), 0
    reader.take("{")
    more = reader.next != "}" or reader.more("}")
    while more:
        names += 1
        if names > MOST_NAMES:  # counted also if one name comes again and again
            raise InvalidContentError([_too_many_names(())])
        name, _ = parse(reader.value(()))
        if not isinstance(name, str):
            raise MalformedJsonError(_MALFORMED)
        reader.take(":")
        if name == items and reader.next == "[":
            document[name] = [item async for item in _items(reader, name, most, pace)]
        else:
            document[name], _ = parse(reader.value((name,)))
            await require_storable({name: document[name]}, pace)
        more = reader.more("}")
        await pace.rest()
    if reader.next:
        raise MalformedJsonError(_MALFORMED)
    return document


async def _items(reader: _Reader, name: str, most: int, pace: Pace) -> AsyncIterator[Any]:
    reader.take("[")
    more, index = reader.next != "]" or reader.more("]"), 0
    while more:
        if index == most:
            raise InvalidContentError([too_many_items(name, most)])
        text = reader.value((name, index))
        item, lenient = parse(text)
        yield await usable(item, pace) if lenient or is_suspect(text, item) else item
        more, index = reader.more("]"), index + 1
        await pace.rest()


def too_many_items(name: str, most: int) -> FieldError:
    return FieldError(pointer((name,)), "too_long", f"must have at most {most} items")


class _Reader:
    """A position in a JSON text. Its methods raise :class:`MalformedJsonError`."""

    def __init__(self, text: str) -> None:
        self._text = text
        self._at = 0

    @property
    def next(self) -> str:
        """The next character that isn't a space; empty at the end."""
        match = _SPACE.match(self._text, self._at)
        assert match is not None  # it may be empty
        self._at = match.end()
        return self._text[self._at : self._at + 1]

    def take(self, wanted: str) -> None:
        if self.next != wanted:
            raise MalformedJsonError(_MALFORMED)
        self._at += 1

    def more(self, end: str) -> bool:
        """Whether another value follows, after a comma; else takes the end of the list or object."""
        if self.next == ",":
            self._at += 1
            return True
        self.take(end)
        return False

    def value(self, place: Sequence[str | int]) -> bytes:
        """The text of the next value. Raises :class:`InvalidContentError` for more than 262,144 characters."""
        if not self.next:
            raise MalformedJsonError(_MALFORMED)
        begin = self._at
        for size in _PIECES:
            piece = self._text[begin : begin + size]
            last = begin + size >= len(self._text)
            end = _end_of_value(piece, last=last)
            if end is not None:
                self._at = begin + end
                return self._text[begin : self._at].encode()
        message = f"must be JSON of at most {_PIECES[-1]} characters in a body with many values"
        raise InvalidContentError([FieldError(pointer(place), "too_large", message)])


def _end_of_value(piece: str, *, last: bool) -> int | None:
    """The end of the value with which a piece begins; None if the piece is too short to know.

    Raises :class:`MalformedJsonError` for a value that isn't JSON, if that shows before the end of the piece.
    """
    try:
        _, end = _scan(piece, 0)
    except StopIteration as stopped:
        wrong = stopped.value
    except json.JSONDecodeError as error:
        wrong = error.pos
    except (ValueError, RecursionError):  # NaN, or too deep
        raise MalformedJsonError(_MALFORMED) from None
    else:
        return None if end == len(piece) and not last else end  # 12 may be the beginning of 123
    # An unfinished text is reported where it begins, and an unfinished literal at most some characters before.
    if last or (wrong < len(piece) - _LONGEST_LITERAL and piece[wrong] != '"'):
        raise MalformedJsonError(_MALFORMED)
    return None


def require_few_names(document: dict[str, Any]) -> None:
    if (place := _crowded(document)) is not None:
        raise InvalidContentError([_too_many_names(place)])


def crowd_errors(item: Any) -> list[FieldError]:
    """The error of an item with so many names that each would be an error."""
    if not isinstance(item, dict) or _crowded(item) is None:
        return []
    return [FieldError("", "too_many_errors", f"must have at most {MOST_NAMES} fields")]


def names_in(document: dict[str, Any]) -> int:
    """The names of an object and of the objects directly in it."""
    return len(document) + sum(len(value) for value in document.values() if isinstance(value, dict))


def _crowded(document: dict[str, Any]) -> tuple[str, ...] | None:
    """Where an object, together with the objects directly in it, has most of its too many names."""
    if names_in(document) <= MOST_NAMES:
        return None
    below = [name for name, value in document.items() if isinstance(value, dict)]
    largest = max(below, key=lambda name: len(document[name]), default=None)
    return () if largest is None or len(document) >= len(document[largest]) else (largest,)


def _too_many_names(place: Sequence[str]) -> FieldError:
    return FieldError(pointer(place), "too_many_fields", f"must have at most {MOST_NAMES} fields")


async def require_storable(document: Any, pace: Pace) -> None:
    """Raise :class:`InvalidContentError` or :class:`MalformedJsonError` for a document that can't be stored."""
    if errors := await _first_errors(document, MOST_LISTED_ERRORS, pace):
        raise InvalidContentError(errors)
    if not writable(document):
        raise MalformedJsonError("The body is nested too deeply.")


async def usable(item: Any, pace: Pace) -> Any:
    """An item of a batch, or an :class:`UnusableItem` if it can't be stored."""
    errors = await _first_errors(item, MOST_LISTED_ERRORS_PER_ITEM, pace)
    if not errors and not writable(item):
        errors = [FieldError("", "too_deep", "is nested too deeply")]
    return UnusableItem(item, errors) if errors else item


def is_suspect(raw: bytes, document: Any) -> bool:
    """Whether the bytes give a reason to walk a whole document that orjson has read."""
    deep = raw.count(b"[") + raw.count(b"{") > _WRITABLE_LEVELS
    return _NUL_ESCAPED in raw or (deep and not writable(document))


def writable(document: Any) -> bool:
    """Whether orjson writes a document: it reads deeper ones than it writes."""
    try:
        orjson.dumps(document)
    except orjson.JSONEncodeError:
        return False
    return True


async def _first_errors(document: Any, most: int, pace: Pace) -> list[FieldError]:
    errors: list[FieldError] = []
    for number, error in enumerate(_value_errors(document)):
        if error is not None:
            errors.append(error)
            if len(errors) == most:
                break
        if number % _PAUSE_AFTER == 0:
            await pace.rest()
    return errors


def _value_errors(document: Any) -> Iterator[FieldError | None]:
    """For each text and number an error if it can't be stored, else None."""
    # Iterators instead of recursion: the document may be deep.
    waiting: list[Iterator[tuple[tuple[str | int, ...], Any]]] = [iter([((), document)])]
    while waiting:
        found = next(waiting[-1], None)
        if found is None:
            waiting.pop()
            continue
        place, value = found
        if isinstance(value, list):
            waiting.append(_below(place, enumerate(value)))
        elif isinstance(value, dict):
            waiting.append(_below(place, value.items()))
            for name in value:
                yield _unstorable_error(place, name, "has a name with")
        elif isinstance(value, str):
            yield _unstorable_error(place, value, "must not contain")
        elif isinstance(value, float) and not math.isfinite(value):
            yield FieldError(
                pointer(place), "number_out_of_range", "must be a number between -1.8e308 and 1.8e308"
            )
        else:
            yield None


def _below(
    place: tuple[str | int, ...], members: Iterable[tuple[str | int, Any]]
) -> Iterator[tuple[tuple[str | int, ...], Any]]:
    return (((*place, name), value) for name, value in members)


def _unstorable_error(place: Sequence[str | int], text: str, fault: str) -> FieldError | None:
    what = _unstorable(text)
    return FieldError(pointer(place), "invalid_characters", f"{fault} {what}") if what else None


def _unstorable(text: str) -> str | None:
    """The part of a text that UTF-8 can't write or Postgres can't store."""
    if _NUL in text:
        return "the character U+0000"
    try:
        text.encode()
    except UnicodeEncodeError:
        return "half of a surrogate pair (\\uD800 to \\uDFFF)"
    return None

"""Bounds the work that a JSON Schema makes, without expanding it.

A reference stands for the schema at its target. 100 schemas that each name the next one twice expand to 2^100. So
the size of each schema is computed once, from the sizes of its parts and targets.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from models.errors import FieldError
from models.rules.schema_errors import pointer

MOST_SCHEMAS = 2_000
"""The most schemas after expansion. A schema without references needs 16 KB for so many."""
MOST_AT_ONE_VALUE = 64
"""The most schemas that apply to one value. An event of 16,000 values then takes at most 35 ms."""
MOST_CHOICES = 500
MOST_PATTERNS = 20

_SAME_VALUE_ONE = ("not", "if", "then", "else")
_SAME_VALUE_MANY = ("allOf", "anyOf", "oneOf")
_BELOW_ONE = (
    *("items", "contains", "additionalProperties", "unevaluatedProperties", "unevaluatedItems", "propertyNames"),
    *("additionalItems", "contentSchema"),
)
_BELOW_NAMED = ("properties", "patternProperties")
_DEFINITIONS = ("$defs", "definitions")
_LOCAL = "#"

Place = tuple[str, ...]


class _UnusableError(Exception):
    def __init__(self, place: Place, message: str) -> None:
        super().__init__(message)
        self.place = place


def size_error(schema: Mapping[str, Any]) -> FieldError | None:
    """The first reason why a schema's size isn't bounded, with a pointer below `/schema`."""
    try:
        sizes = _Sizes(schema)
        total, _ = sizes.of(schema, ())
        if total > MOST_SCHEMAS:
            raise _UnusableError((), f"must expand to at most {MOST_SCHEMAS} schemas, references included")
    except _UnusableError as error:
        return FieldError("/schema" + pointer(error.place), "invalid_schema", str(error))
    return None


class _Sizes:
    """The sizes of the schemas in a document, each computed once."""

    def __init__(self, root: Mapping[str, Any]) -> None:
        self._root = root
        self._known: dict[int, tuple[int, int] | None] = {}
        """By schema: the number of schemas in it, and of those for one value. None: not yet finished."""

    def of(self, schema: Any, place: Place) -> tuple[int, int]:
        if not isinstance(schema, Mapping):  # true and false
            return 1, 1
        if id(schema) in self._known:
            known = self._known[id(schema)]
            if known is None:
                raise _UnusableError(place, "must not contain itself through `$ref`")
            return known
        self._known[id(schema)] = None
        _require_few(schema, place)
        total, here = 1, 1
        for part, inner, same_value in self._parts(schema, place):
            size, width = self.of(part, inner)
            total += size
            here += width if same_value else 0
        for definition, inner in _definitions(schema, place):  # they count where they are used
            self.of(definition, inner)
        if here > MOST_AT_ONE_VALUE:
            raise _UnusableError(place, f"must apply at most {MOST_AT_ONE_VALUE} schemas to one value")
        self._known[id(schema)] = total, here
        return total, here

    def _parts(self, schema: Mapping[str, Any], place: Place) -> Iterator[tuple[Any, Place, bool]]:
        """The schemas that a schema applies, each with whether to the same value."""
        for name, value in schema.items():
            inner = (*place, name)
            if name in ("$dynamicRef", "$recursiveRef"):
                raise _UnusableError(inner, "must be a `$ref`: its target must not depend on the path to it")
            if name == "$ref":
                yield self._target(value), inner, True
            elif name == "$id" and place:
                raise _UnusableError(inner, "is allowed at the root alone")
            elif name in _SAME_VALUE_ONE or (name in _BELOW_ONE and not isinstance(value, list)):
                yield value, inner, name in _SAME_VALUE_ONE
            elif name in (*_SAME_VALUE_MANY, "prefixItems", *_BELOW_ONE) and isinstance(value, list):
                yield from ((each, (*inner, str(at)), name in _SAME_VALUE_MANY) for at, each in enumerate(value))
            elif name in (*_BELOW_NAMED, "dependentSchemas", "dependencies") and isinstance(value, Mapping):
                same = name not in _BELOW_NAMED
                yield from (
                    (each, (*inner, key), same) for key, each in value.items() if not isinstance(each, list)
                )

    def _target(self, reference: Any) -> Any:
        """The schema at a reference; resolves JSON pointers alone."""
        wanted = "must be a JSON Schema whose references are JSON pointers into it, such as #/$defs/address"
        if not isinstance(reference, str) or not (reference == _LOCAL or reference.startswith("#/")):
            raise _UnusableError((), wanted)
        found: Any = self._root
        for part in reference.split("/")[1:]:
            name = part.replace("~1", "/").replace("~0", "~")
            try:
                found = found[int(name)] if isinstance(found, list) else found[name]
            except (KeyError, IndexError, TypeError, ValueError):
                raise _UnusableError((), wanted) from None
        return found


def _definitions(schema: Mapping[str, Any], place: Place) -> Iterator[tuple[Any, Place]]:
    for name in _DEFINITIONS:
        held = schema.get(name)
        if isinstance(held, Mapping):
            yield from ((each, (*place, name, key)) for key, each in held.items())


def _require_few(schema: Mapping[str, Any], place: Place) -> None:
    for name, most in (("enum", MOST_CHOICES), ("patternProperties", MOST_PATTERNS)):
        if isinstance(schema.get(name), list | dict) and len(schema[name]) > most:
            raise _UnusableError((*place, name), f"must have at most {most} entries")

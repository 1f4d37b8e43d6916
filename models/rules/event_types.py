"""Event types: the schema of their properties, and which of these are personal or dimensions.

Schemas are JSON Schema (2020-12) from callers, so they are not trusted. Patterns match in linear time, the
retriever loads no other document, and :mod:`models.rules.schema_size` bounds the work.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from functools import cached_property
from typing import Any

import jsonschema_rs
import orjson

from models.errors import FieldError, InvalidContentError
from models.rules.money import is_negative
from models.rules.personal_text import MUST_BE_WORD, is_dimension, is_label
from models.rules.schema_errors import explain, pointer
from models.rules.schema_size import size_error
from models.rules.standards import is_currency

CATEGORY = re.compile(r"[a-z][a-z0-9_]*")
NAME = re.compile(r"[a-z][a-z0-9_]*\.[a-z][a-z0-9_]*")
"""`category.action`, in lower case with underscores."""
NAME_LENGTH = 128
_MAX_SCHEMA_BYTES = 16 * 1024
_MAX_SCHEMA_DEPTH = 32
MAX_ENTRIES = 50
_MAX_REPORTED = 20
_MAX_POINTER = 1024
_MONEY_PLACES = 6
_EXACT_DIGITS = 15
_POINTER = re.compile(r"(/([^~/]|~[01])*)+")
CURRENCY = "iso-4217"
_FORMATS = {CURRENCY: is_currency}
"""Formats of standard types besides those of JSON Schema."""
_PATTERNS = jsonschema_rs.RegexOptions(size_limit=1 << 20, dfa_size_limit=1 << 20)


def _no_documents(_uri: str) -> Any:
    raise ValueError("a schema must not refer to other documents")


def _compile(
    schema: Mapping[str, Any], formats: Mapping[str, Callable[[str], bool]] | None = None
) -> jsonschema_rs.Draft202012Validator:
    return jsonschema_rs.Draft202012Validator(
        dict(schema),
        pattern_options=_PATTERNS,
        retriever=_no_documents,
        validate_formats=True,
        formats=dict(formats or {}),
    )


@dataclass(frozen=True)
class EventType:
    event_type: str
    description: str
    schema: Mapping[str, Any]
    """JSON Schema of `event_properties`."""
    pii: Sequence[str] = ()
    """JSON pointers into `event_properties`, to personal values."""
    dimensions: Sequence[str] = ()
    """Names of properties that are stored unencrypted for analytics; never personal ones."""
    money: Sequence[str] = ()
    """Names of properties with amounts: strings or numbers with at most six decimal places."""
    words: Sequence[str] = ()
    """Names of properties with texts that are stored unencrypted elsewhere, so they must be words."""
    standard: bool = False

    @cached_property
    def _validator(self) -> jsonschema_rs.Draft202012Validator:
        return _compile(self.schema, _FORMATS if self.standard else None)

    @cached_property
    def declared(self) -> frozenset[str]:
        """Names of the properties that the schema describes."""
        properties = self.schema.get("properties")
        return frozenset(properties) if isinstance(properties, Mapping) else frozenset()

    def errors(self, properties: Mapping[str, Any], *, first: bool = False) -> list[FieldError]:
        """Errors in an event's properties, with pointers into them; at most 20, or with ``first`` one."""
        if self._validator.is_valid(properties):
            if not self.money and not self.words:
                return []
            return [*self._money_errors(properties), *self._word_errors(properties)]
        if first:
            try:
                self._validator.validate(properties)
            except jsonschema_rs.ValidationError as only:
                return [self._explain(only, properties)]
        found = []
        for error in self._validator.iter_errors(properties):
            found.append(self._explain(error, properties))
            if len(found) == _MAX_REPORTED:
                break
        return found

    def _explain(self, error: jsonschema_rs.ValidationError, properties: Mapping[str, Any]) -> FieldError:
        name = str(error.instance_path[0]) if error.instance_path else ""
        if name in self.money and is_negative(properties.get(name)):
            return FieldError(
                f"/{name}", "invalid_value", "must not be negative: send zero or more, such as 29.90"
            )
        return explain(error, self.schema)

    def _money_errors(self, properties: Mapping[str, Any]) -> Iterator[FieldError]:
        for name in self.money:
            value = properties.get(name)
            if isinstance(value, float) and not _few_places(value):
                yield FieldError(
                    f"/{name}",
                    "invalid_value",
                    "must have at most six decimal places; send more than 15 digits as a string",
                )

    def _word_errors(self, properties: Mapping[str, Any]) -> Iterator[FieldError]:
        for name in self.words:
            if not is_label(properties.get(name, "")):
                yield FieldError(f"/{name}", f"{name}_is_personal", MUST_BE_WORD)

    def dimensions_of(self, properties: Mapping[str, Any]) -> dict[str, Any]:
        """The properties that are stored unencrypted: declared dimensions whose value is no free text.

        Other values stay in the encrypted body alone.
        """
        return {name: properties[name] for name in self.dimensions if is_dimension(properties.get(name))}


def _few_places(value: float) -> bool:
    # a double keeps 15 decimal digits: with more, this may not be the number that was sent
    _, digits, exponent = Decimal(repr(value)).normalize().as_tuple()
    return isinstance(exponent, int) and exponent >= -_MONEY_PLACES and len(digits) <= _EXACT_DIGITS


def define(
    event_type: str, description: str, schema: Mapping[str, Any], pii: Sequence[str], dimensions: Sequence[str]
) -> EventType:
    """Check a custom event type. Raises :class:`InvalidContentError`."""
    errors = [*_schema_errors(schema), *_pii_errors(pii), *_dimension_errors(dimensions, pii)]
    if errors:
        raise InvalidContentError(errors)
    if size := size_error(schema):
        raise InvalidContentError([size])
    try:
        _compile(schema)
    except ValueError:
        message = "must be a JSON Schema (2020-12) without references to other documents"
        raise InvalidContentError([_schema_error(message)]) from None
    return EventType(event_type, description, schema, tuple(dict.fromkeys(pii)), tuple(dict.fromkeys(dimensions)))


def _schema_errors(schema: Mapping[str, Any]) -> Iterator[FieldError]:
    if len(orjson.dumps(schema)) > _MAX_SCHEMA_BYTES:
        yield FieldError("/schema", "too_large", f"must have at most {_MAX_SCHEMA_BYTES} bytes")
    elif depth_exceeds(schema, _MAX_SCHEMA_DEPTH):
        yield _schema_error(f"must have at most {_MAX_SCHEMA_DEPTH} levels of nesting")
    if schema.get("type", "object") != "object":
        yield FieldError("/schema/type", "invalid_schema", "must be 'object': it describes event_properties")


def _schema_error(message: str) -> FieldError:
    return FieldError("/schema", "invalid_schema", message)


def _pii_errors(pii: Sequence[str]) -> Iterator[FieldError]:
    for index, place in enumerate(pii):
        if len(place) > _MAX_POINTER:
            yield FieldError(f"/pii/{index}", "too_long", f"must have at most {_MAX_POINTER} characters")
        elif place and _POINTER.fullmatch(place) is None:
            yield FieldError(f"/pii/{index}", "invalid_format", "must be a JSON pointer, like /recipient/email")


def _dimension_errors(dimensions: Sequence[str], pii: Sequence[str]) -> Iterator[FieldError]:
    for index, name in enumerate(dimensions):
        place = pointer([name])
        if not name or not place:
            yield FieldError(f"/dimensions/{index}", "invalid_format", "must be the name of a property")
        elif any(personal in ("", place) or personal.startswith(place + "/") for personal in pii):
            yield FieldError(
                f"/dimensions/{index}",
                "dimension_is_personal",
                "must not be declared personal by `pii`",
            )


def depth_exceeds(document: Any, levels: int) -> bool:
    """Whether a JSON document has more than ``levels`` nested lists and objects. Does not recurse."""
    layer = [document]
    for _ in range(levels + 1):
        layer = [
            child
            for each in layer
            if isinstance(each, Mapping | list)
            for child in (each.values() if isinstance(each, Mapping) else each)
        ]
        if not layer:
            return False
    return True

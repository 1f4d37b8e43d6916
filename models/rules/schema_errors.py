"""Explains why a value doesn't match a JSON Schema: what the schema wants, never the value that was sent.

The messages contain parts of the schema, which an admin declared. The library's own messages quote the value.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jsonschema_rs
import orjson

from models.errors import FieldError

_MAX_PART = 128
_MAX_SHOWN = 200
"""Characters of a schema's description, pattern or choices in a message."""
_NOUN = re.compile(r"(?:an?|one)\s", re.IGNORECASE)
_SAID_BY_NOUN = frozenset({"pattern", "anyOf", "oneOf", "type"})
_OTHER_FORMAT = "of the format"
_ANYTHING_ELSE = ("invalid_value", "must match the event type's schema")
_FORMATS: Mapping[str, str] = {
    "date": "a date, such as 2026-01-31",
    "date-time": "a time with an offset, such as 2026-01-31T10:00:00Z",
    "time": "a time of day with an offset, such as 10:00:00Z",
    "duration": "an ISO 8601 duration, such as P3D",
    "email": "an e-mail address, such as name@example.com",
    "idn-email": "an e-mail address, such as name@example.com",
    "hostname": "a host name, such as shop.example.com",
    "idn-hostname": "a host name, such as shop.example.com",
    "ipv4": "an IPv4 address, such as 203.0.113.7",
    "ipv6": "an IPv6 address, such as 2001:db8::7",
    "uri": "a URI, such as https://shop.example.com/",
    "uri-reference": "a URI or a relative reference, such as /products/7",
    "uuid": "a UUID, such as 0f2f5c7a-3a39-4c58-9a55-2b6d3f8a4e10",
}
_TYPES = {"array": "an array", "integer": "an integer", "object": "an object"}


def _minimum(limit: Any) -> str:
    return "must not be negative" if limit == 0 else f"must be at least {_shown(limit)}"


def _count(number: Any, noun: str, plural: str = "") -> str:
    return f"1 {noun}" if number == 1 else f"{number} {plural or noun + 's'}"


_MESSAGES: Mapping[str, tuple[str, Callable[[Any], str]]] = {
    "required": ("required", lambda _: "is required"),
    "dependentRequired": ("required", lambda _: "is required with the other properties that were sent"),
    "type": ("invalid_type", lambda types: f"must be {_types(types)}"),
    "enum": ("invalid_choice", lambda choices: f"must be one of {_choices(choices)}"),
    "const": ("invalid_choice", lambda value: f"must be {_shown(value)}"),
    "maxLength": ("too_long", lambda limit: f"must have at most {_count(limit, 'character')}"),
    "minLength": ("too_short", lambda limit: f"must have at least {_count(limit, 'character')}"),
    "maxItems": ("too_long", lambda limit: f"must have at most {_count(limit, 'item')}"),
    "minItems": ("too_short", lambda limit: f"must have at least {_count(limit, 'item')}"),
    "maxProperties": ("too_long", lambda limit: f"must have at most {_count(limit, 'property', 'properties')}"),
    "minProperties": ("too_short", lambda limit: f"must have at least {_count(limit, 'property', 'properties')}"),
    "maximum": ("too_large", lambda limit: f"must be at most {_shown(limit)}"),
    "exclusiveMaximum": ("too_large", lambda limit: f"must be less than {_shown(limit)}"),
    "minimum": ("too_small", _minimum),
    "exclusiveMinimum": ("too_small", lambda limit: f"must be more than {_shown(limit)}"),
    "multipleOf": ("invalid_value", lambda step: f"must be a multiple of {_shown(step)}"),
    "pattern": ("invalid_format", lambda pattern: f"must match the pattern {_cut(str(pattern))}"),
    "format": ("invalid_format", lambda name: f"must be {_FORMATS.get(name, f'{_OTHER_FORMAT} {name}')}"),
    "uniqueItems": ("invalid_value", lambda _: "must have no item twice"),
    "contains": ("invalid_value", lambda _: "must contain an item that matches `contains` of the schema"),
    "propertyNames": ("invalid_format", lambda _: "has a property whose name the schema doesn't allow"),
}
"""By keyword: the code, and the message for the keyword's value."""
_SELF_EXPLANATORY = frozenset({"required", "dependentRequired", "uniqueItems", "contains", "propertyNames"})


def explain(error: jsonschema_rs.ValidationError, root: Mapping[str, Any]) -> FieldError:
    """The error with the code and the message of its keyword. ``root`` is the whole schema."""
    alternatives = error
    error = _closest(alternatives)
    parts = [str(part) for part in error.instance_path]
    if isinstance(error.kind, jsonschema_rs.ValidationErrorKind.Required):
        parts.append(str(error.kind.property))
    keyword = "propertyNames" if error.kind.name == "propertyNames" else str(_last(error.schema_path))
    schema, value = _at(root, error.schema_path)
    if keyword in ("additionalProperties", "unevaluatedProperties"):
        return FieldError(pointer(parts), "unknown_field", _other_properties(schema))
    code, message = _MESSAGES.get(keyword, (_ANYTHING_ELSE[0], lambda _: _ANYTHING_ELSE[1]))
    if error is not alternatives:
        code = _ANYTHING_ELSE[0]
    text = message(value)
    if keyword not in _SELF_EXPLANATORY:
        text = _with_description(text, schema, keyword)
    return FieldError(pointer(parts), code, text)


def _closest(error: jsonschema_rs.ValidationError) -> jsonschema_rs.ValidationError:
    """Of the branches of anyOf and oneOf, the error of the only one whose type is that of the value."""
    branches = getattr(error.kind, "context", None) or []
    fitting = [
        branch
        for branch in branches
        if branch and not any(_last(each.schema_path) == "type" for each in branch if _same_place(each, error))
    ]
    return _closest(fitting[0][0]) if len(fitting) == 1 else error


def _same_place(inner: jsonschema_rs.ValidationError, outer: jsonschema_rs.ValidationError) -> bool:
    # The path of a branch's error may begin at the value, or at the root.
    return len(inner.instance_path) in (0, len(outer.instance_path))


def _last(path: Sequence[str | int]) -> str | int:
    return path[-1] if path else ""


def _at(root: Any, path: Sequence[str | int]) -> tuple[Mapping[str, Any], Any]:
    """The schema with the keyword at the end of a path, and the keyword's value."""
    schema: Mapping[str, Any] = {}
    value = root
    for part in path:
        schema = value if isinstance(value, Mapping) else schema
        try:
            value = value[part]
        except (KeyError, IndexError, TypeError):
            return {}, None
    return schema, value


def _with_description(text: str, schema: Mapping[str, Any], keyword: str) -> str:
    """A message with the schema's description and first example, as far as it has them."""
    description = schema.get("description")
    if isinstance(description, str) and 0 < len(description) <= _MAX_SHOWN:
        description = description.rstrip(".")
        if _NOUN.match(description) and (keyword in _SAID_BY_NOUN or _OTHER_FORMAT in text):
            text = f"must be {description[0].lower()}{description[1:]}"
        else:
            text = f"{text}: {description}"
    examples = schema.get("examples")
    if isinstance(examples, Sequence) and examples and not isinstance(examples, str):
        text += f", such as {_shown(examples[0]) if not isinstance(examples[0], str) else _cut(examples[0])}"
    return text


def _other_properties(schema: Mapping[str, Any]) -> str:
    known = schema.get("properties")
    names = [name for name in known if len(name) <= _MAX_PART] if isinstance(known, Mapping) else []
    return f"must have no other properties than {_choices(names)}" if names else "must have no other properties"


def _types(types: Any) -> str:
    names = [types] if isinstance(types, str) else list(types or [])
    return " or ".join(_TYPES.get(name, "null" if name == "null" else f"a {name}") for name in map(str, names))


def _choices(values: Any) -> str:
    text = ""
    for value in values if isinstance(values, Sequence) else []:
        shown = _shown(value)
        if len(text) + len(shown) > _MAX_SHOWN:
            return f"{text}, ..." if text else "the values in the event type's schema"
        text = f"{text}, {shown}" if text else shown
    return text


def _shown(value: Any) -> str:
    return _cut(orjson.dumps(value).decode())


def _cut(text: str) -> str:
    return text if len(text) <= _MAX_SHOWN else f"{text[:_MAX_SHOWN]}..."


def pointer(parts: Sequence[str]) -> str:
    """A JSON pointer, which ends above a name that is too long to repeat."""
    text = ""
    for part in parts:
        if len(part) > _MAX_PART:
            break
        text += "/" + part.replace("~", "~0").replace("/", "~1")
    return text

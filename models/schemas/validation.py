"""Converts pydantic's validation errors into a stable code, a JSON pointer, and a text without the sent value.

This module replaces every message of pydantic, because some quote the value (for an enumeration, a date, a URL).
It keeps the messages of :mod:`models.schemas.fields`, which quote none.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, get_args

from pydantic import ValidationError
from pydantic_core.core_schema import ErrorType

from models.errors import FieldError

MOST_LISTED_ERRORS = 100
"""The most errors in the `errors` of one problem response."""
MOST_LISTED_ERRORS_PER_ITEM = 20
"""The most errors that are listed for one item of a batch. :func:`item_errors` replaces more errors with one that
has their number. Listing half a million unknown fields would block other requests."""
_MAX_PART = 128
_BUILT_IN = frozenset(get_args(ErrorType))

_CODES: dict[str, tuple[str, str]] = {
    "missing": ("required", "is required"),
    "extra_forbidden": ("unknown_field", "is not known here"),
    "string_too_long": ("too_long", "must have at most {max_length} characters"),
    "string_too_short": ("too_short", "must have at least {min_length} characters"),
    "too_long": ("too_long", "must have at most {max_length} items"),
    "too_short": ("too_short", "must have at least {min_length} items"),
    "greater_than_equal": ("too_small", "must be at least {ge}"),
    "greater_than": ("too_small", "must be more than {gt}"),
    "less_than_equal": ("too_large", "must be at most {le}"),
    "less_than": ("too_large", "must be less than {lt}"),
    "int_parsing_size": ("too_large", "is too large"),
    "enum": ("invalid_choice", "must be one of {expected}"),
    "literal_error": ("invalid_choice", "must be one of {expected}"),
    "string_pattern_mismatch": ("invalid_format", "doesn't have the required form"),
    "finite_number": ("invalid_value", "must be finite"),
}
_TYPES: dict[str, str] = {
    "string": "a string",
    "int": "an integer",
    "float": "a number",
    "bool": "true or false",
    "list": "a list",
    "dict": "an object",
    "model": "an object",
    "decimal": "a decimal number",
    "datetime": "a time",
    "date": "a date",
    "time_delta": "a duration",
    "url": "a URL",
    "uuid": "a UUID",
}
_TYPE_SUFFIXES = ("_type", "_parsing", "_from_float", "_attributes_type")
_PARAMETERS = frozenset({"query", "path", "header", "cookie"})


def pointer(parts: Iterable[str | int]) -> str:
    """A JSON pointer (RFC 6901). It ends before the first name that has more than :data:`_MAX_PART` characters."""
    text = ""
    for part in parts:
        name = str(part)
        if len(name) > _MAX_PART:
            break
        text += "/" + name.replace("~", "~0").replace("/", "~1")
    return text


def item_errors(error: ValidationError) -> list[FieldError]:
    """The errors of one item of a batch. Their pointers start at the item."""
    count = error.error_count()
    if count > MOST_LISTED_ERRORS_PER_ITEM:
        return [FieldError("", "too_many_errors", f"has {count} errors, too many to be listed")]
    return field_errors(error.errors(include_url=False, include_context=True))


def field_errors(errors: Sequence[Mapping[str, Any]], *, from_fastapi: bool = False) -> list[FieldError]:
    """Convert the errors of a pydantic ValidationError; with ``from_fastapi``, of a RequestValidationError.

    FastAPI's locations begin with `body`, `query`, `path`, `header` or `cookie`. The pointer omits `body`.
    """
    found = []
    for error in errors:
        parts = tuple(error["loc"])
        if from_fastapi and parts and parts[0] not in _PARAMETERS:
            parts = parts[1:]
        code, message = _explain(error)
        found.append(FieldError(pointer(parts), code, message))
    return found


def _explain(error: Mapping[str, Any]) -> tuple[str, str]:
    kind = str(error["type"])
    code, message = _code_and_message(kind, error)
    # A null in place of a value is reported like a missing value.
    if code in {"invalid_type", "invalid_choice"} and error.get("input", ...) is None:
        return _CODES["missing"]
    return code, message


def _code_and_message(kind: str, error: Mapping[str, Any]) -> tuple[str, str]:
    if kind not in _BUILT_IN:
        # models.schemas.fields raised the error, with our own code and message.
        return kind, str(error["msg"])
    if kind in _CODES:
        code, template = _CODES[kind]
        return code, template.format_map(error.get("ctx", {}))
    for suffix in _TYPE_SUFFIXES:
        wanted = _TYPES.get(kind.removesuffix(suffix)) if kind.endswith(suffix) else None
        if wanted:
            return "invalid_type", f"must be {wanted}"
    for prefix, wanted in _TYPES.items():
        # For example, `url_scheme` begins with `url`.
        if kind.startswith(prefix):
            return "invalid_format", f"must be {wanted}"
    return "invalid_value", "is not valid"

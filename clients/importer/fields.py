"""Rules in a mapping: how one attribute is made from columns."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, TypeVar

from clients.importer.options import IfRecorded
from clients.importer.templates import InvalidTemplateError, Template
from clients.importer.values import Value, ValueType, convert
from models.vocabulary import Purpose

_OPTIONS = ("from", "type", "pick", "shift", "required", "default", "map", "format", "if_recorded")
_CONSENTS = "consents"
_TIMES = (ValueType.TIMESTAMP, ValueType.DATE)


Choice = TypeVar("Choice", bound=StrEnum)


class Pick(StrEnum):
    """Selects one of the values from the rows of one item."""

    FIRST = "first"
    LAST = "last"
    MIN = "min"
    MAX = "max"


@dataclass(frozen=True, slots=True)
class FieldRule:
    path: tuple[str, ...]
    """The attribute's place in the item: `("demographics", "country")`."""
    template: Template | None
    """None for a constant, whose value is ``default``."""
    type: ValueType = ValueType.STRING
    pick: Pick = Pick.LAST
    shift: bool = False
    required: bool = False
    default: Value | None = None
    values: Mapping[str, str] | None = None
    """Replaces the rendered text before it is converted. A text that isn't listed is rejected."""
    pattern: str | None = None
    """A strptime format of dates and times; None is ISO 8601."""
    if_recorded: IfRecorded = IfRecorded.KEEP
    """For a consent."""

    @property
    def name(self) -> str:
        """As in the mapping file: `demographics.country`."""
        return ".".join(self.path)

    @property
    def kept_purpose(self) -> str | None:
        """The purpose of a consent that leaves a recorded decision as it is."""
        is_consent = len(self.path) == 2 and self.path[0] == _CONSENTS and self.path[1] in list(Purpose)
        return self.path[1] if is_consent and self.if_recorded is IfRecorded.KEEP else None

    @property
    def pointer(self) -> str:
        """RFC 6901 pointer into the item."""
        return "".join("/" + part.replace("~", "~0").replace("/", "~1") for part in self.path)


def parse_field(path: tuple[str, ...], value: object) -> FieldRule:
    """Read the rule of an attribute.

    Raises :class:`InvalidTemplateError` or :class:`clients.importer.values.InvalidValueError`. The text continues
    a sentence that starts with the attribute's name.
    """
    if isinstance(value, str):
        value = {"from": value}
    if isinstance(value, bool | int | float):
        return FieldRule(path, None, default=value)
    if not isinstance(value, dict):
        raise InvalidTemplateError(
            'must be a template, a number, a boolean or a table such as { from = "{column}" }'
        )
    _check_options(value)
    kind = _choice(value, "type", ValueType, ValueType.TIMESTAMP if value.get("shift") else ValueType.STRING)
    default = value.get("default")
    if isinstance(default, str):
        default = convert(default, kind)
    rule = FieldRule(
        path,
        Template.parse(value["from"]),
        type=kind,
        pick=_choice(value, "pick", Pick, Pick.LAST),
        shift=value.get("shift", False),
        required=value.get("required", False),
        default=default,
        values=value.get("map"),
        pattern=value.get("format"),
        if_recorded=_choice(value, "if_recorded", IfRecorded, IfRecorded.KEEP),
    )
    if "if_recorded" in value and path[0] != _CONSENTS:
        raise InvalidTemplateError("has 'if_recorded', which is for consents")
    if "%Z" in (rule.pattern or ""):
        raise InvalidTemplateError("has '%Z' in its 'format', which reads no time zone; use %z, or 'timezone'")
    for option in ("shift", "format"):
        if value.get(option) and kind not in _TIMES:
            raise InvalidTemplateError(f"has '{option}', which is for the types timestamp and date")
    return rule


def is_group(value: object) -> bool:
    """Whether a table contains attributes (`[fields.demographics]`) and is not a rule itself."""
    return isinstance(value, dict) and bool(value) and not any(option in value for option in _OPTIONS)


def _check_options(value: dict[str, Any]) -> None:
    for option in value:
        if option not in _OPTIONS:
            raise InvalidTemplateError(f"has the unknown option '{option}'; there are {', '.join(_OPTIONS)}")
    if not isinstance(value.get("from"), str):
        raise InvalidTemplateError("needs 'from', a template such as \"{column}\"")
    expected: dict[str, type | tuple[type, ...]] = {
        "shift": bool,
        "required": bool,
        "format": str,
        "default": (str, bool, int, float),
    }
    for option, types in expected.items():
        if option in value and not isinstance(value[option], types):
            raise InvalidTemplateError(f"has a '{option}' of the wrong type")
    table = value.get("map", {})
    if not isinstance(table, dict) or not all(isinstance(to, str) for to in table.values()):
        raise InvalidTemplateError("has a 'map' that isn't a table of strings, such as { M = \"male\" }")


def _choice(value: dict[str, Any], option: str, choices: type[Choice], default: Choice) -> Choice:
    try:
        return choices(value.get(option, default))
    except ValueError:
        raise InvalidTemplateError(f"has an unknown '{option}'; there are {', '.join(choices)}") from None

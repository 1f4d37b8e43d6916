"""Templates of a mapping: text with references to columns, such as `"{first} {last}"`.

``{name}`` is the column's text without surrounding spaces. ``{name?}`` may be empty. ``{{`` and ``}}`` are braces.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass

_PIECE = re.compile(r"\{\{|\}\}|\{([^{}]*)\}|[{}]")


class InvalidTemplateError(ValueError):
    """An invalid template. The text continues a sentence that starts with the field's name."""


@dataclass(frozen=True, slots=True)
class Reference:
    column: str
    optional: bool


@dataclass(frozen=True, slots=True)
class Template:
    pieces: tuple[str | Reference, ...]

    @classmethod
    def parse(cls, text: str) -> Template:
        """Raises :class:`InvalidTemplateError`."""
        return cls(tuple(_pieces(text)))

    @property
    def columns(self) -> tuple[str, ...]:
        return tuple(piece.column for piece in self.pieces if isinstance(piece, Reference))

    def render(self, value_of: Callable[[str], str]) -> str | None:
        """Replace the references. None if a required column or the result is empty.

        ``value_of`` returns a column's text, empty if there is none. Its errors are not caught.
        """
        parts: list[str] = []
        for piece in self.pieces:
            if isinstance(piece, str):
                parts.append(piece)
                continue
            value = value_of(piece.column).strip()
            if not value and not piece.optional:
                return None
            parts.append(value)
        return "".join(parts).strip() or None


def _pieces(text: str) -> Iterator[str | Reference]:
    literal = ""
    position = 0
    for match in _PIECE.finditer(text):
        literal += text[position : match.start()]
        position = match.end()
        found = match.group()
        if found in ("{{", "}}"):
            literal += found[0]
            continue
        if literal:
            yield literal
            literal = ""
        yield _reference(found, match.group(1))
    literal += text[position:]
    if literal:
        yield literal


def _reference(found: str, inside: str | None) -> Reference:
    if inside is None:
        raise InvalidTemplateError(
            f"has a '{found}' without the matching brace (write '{found}{found}' for the character)"
        )
    optional = inside.rstrip().endswith("?")
    column = inside.rstrip().removesuffix("?").strip()
    if not column:
        raise InvalidTemplateError("has '{}' without a column's name")
    return Reference(column, optional)

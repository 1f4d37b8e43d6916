"""Templates of a mapping: text with references to columns, `"{first} {last}"`.

``{name}`` is the column's text without the spaces around it; ``{name?}`` may be empty; ``{{`` and ``}}`` are
the braces themselves.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass

_PIECE = re.compile(r"\{\{|\}\}|\{([^{}]*)\}|[{}]")


class InvalidTemplateError(ValueError):
    """The template can't be read; the text says why and continues "... 'field' "."""


@dataclass(frozen=True, slots=True)
class Reference:
    """A column's place in a template."""

    column: str
    optional: bool


@dataclass(frozen=True, slots=True)
class Template:
    """Text and references, in order."""

    pieces: tuple[str | Reference, ...]

    @classmethod
    def parse(cls, text: str) -> Template:
        """Read a template. Raises :class:`InvalidTemplateError`."""
        return cls(tuple(_pieces(text)))

    @property
    def columns(self) -> tuple[str, ...]:
        """The columns that it refers to, in order."""
        return tuple(piece.column for piece in self.pieces if isinstance(piece, Reference))

    def render(self, value_of: Callable[[str], str]) -> str | None:
        """Fill the columns in. None where one that isn't optional is empty, or where nothing is left.

        ``value_of`` gives a column's text, empty where there is none; it may raise, which passes through.
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
        raise InvalidTemplateError(f"has a '{found}' without its partner (write '{found}{found}' for a brace)")
    optional = inside.rstrip().endswith("?")
    column = inside.rstrip().removesuffix("?").strip()
    if not column:
        raise InvalidTemplateError("has '{}' without a column's name in it")
    return Reference(column, optional)

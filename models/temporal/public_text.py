"""Unencrypted text for Temporal's Web UI."""

from __future__ import annotations

from typing import ClassVar


class PublicText(str):
    """Text without personal data. The payload codec doesn't encrypt it, so it stays readable in the history."""

    __slots__ = ()

    stays_readable: ClassVar[bool] = True
    """Read by :class:`runtime.temporal.MarkingPayloadConverter`, which imports no models."""


def in_words(name: str) -> str:
    """``send_welcome`` becomes "Send welcome"."""
    return name.replace("_", " ").capitalize()

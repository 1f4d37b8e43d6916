"""Text for people who look at Temporal's Web UI."""

from __future__ import annotations

from typing import ClassVar


class PublicText(str):
    """Text that holds nothing personal, and so stays readable in history: the payload codec passes it."""

    __slots__ = ()

    stays_readable: ClassVar[bool] = True
    """What the payload converter looks for."""


def in_words(name: str) -> str:
    """A name of ours as people write it: ``send_welcome`` is "Send welcome"."""
    return name.replace("_", " ").capitalize()

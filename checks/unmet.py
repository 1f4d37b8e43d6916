"""An unmet need: a stable code, and a sentence that says what is there and what is needed."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from runtime.settings import ConfigurationError


class Unmet(NamedTuple):
    code: str
    sentence: str


class UnmetError(ConfigurationError):
    """A process must not start. The text has a sentence for each unmet need."""

    def __init__(self, unmet: Sequence[Unmet]) -> None:
        super().__init__(" ".join(each.sentence for each in unmet))
        self.unmet = tuple(unmet)


def named(names: Sequence[str], most: int = 5) -> str:
    """The names as a list in a sentence, of which it shows the first few."""
    shown = ", ".join(names[:most])
    return f"{shown} and {len(names) - most} more" if len(names) > most else shown

"""What can go wrong with the embedded stack, each as one sentence for the person at the terminal."""

from __future__ import annotations

from pathlib import Path


class StackError(Exception):
    """The stack can't start or go on; the text is one sentence that says what to do about it."""


class PartFailedError(StackError):
    """A part (Postgres, Temporal, the API, ...) ended or stayed silent before it served.

    ``log_file`` holds what the part itself said about it.
    """

    def __init__(self, sentence: str, log_file: Path) -> None:
        super().__init__(sentence)
        self.log_file = log_file

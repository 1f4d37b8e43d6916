"""The interface of the supervisor's child processes, and the errors of the embedded stack."""

from __future__ import annotations

from pathlib import Path
from typing import Protocol


class StackError(Exception):
    """The stack can't start or continue. The text is one sentence that names the remedy."""


class PartFailedError(StackError):
    """A part (Postgres, Temporal, the API, ...) ended or timed out before it served.

    ``log_file`` holds the part's output.
    """

    def __init__(self, sentence: str, log_file: Path) -> None:
        super().__init__(sentence)
        self.log_file = log_file


class Part(Protocol):
    """Postgres, Temporal, the API or a worker: a child process that can be started many times."""

    @property
    def name(self) -> str:
        """A word for messages and file names."""
        ...

    @property
    def log_file(self) -> Path:
        """The file with the child's output."""
        ...

    @property
    def pid(self) -> int | None:
        """The child's process id; None if it isn't running."""
        ...

    async def start(self) -> None:
        """Start the child and wait until it serves. Raises :class:`PartFailedError`; then no process is left."""
        ...

    async def wait(self) -> int:
        """Wait until the child has ended and return its exit code."""
        ...

    async def stop(self, grace: float) -> None:
        """Signal the child to end; kill it after ``grace`` seconds."""
        ...

    def kill(self) -> None:
        """Kill the child at once."""
        ...

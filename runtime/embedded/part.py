"""What the supervisor asks of a part of the stack."""

from __future__ import annotations

from pathlib import Path
from typing import Protocol


class Part(Protocol):
    """Postgres, Temporal, the API or a worker: a child process that can be started again and again."""

    @property
    def name(self) -> str:
        """A word for messages and file names."""
        ...

    @property
    def log_file(self) -> Path:
        """Where the child's output goes."""
        ...

    @property
    def pid(self) -> int | None:
        """The child's process id while it runs."""
        ...

    async def start(self) -> None:
        """Start it and wait until it serves; raises :class:`PartFailedError`, leaving no process behind."""
        ...

    async def wait(self) -> int:
        """Wait until it has ended; gives the exit code."""
        ...

    async def stop(self, grace: float) -> None:
        """Stop it within ``grace`` seconds, or kill it then."""
        ...

    def kill(self) -> None:
        """End it this instant."""
        ...

"""What `perennial dev` is asked for."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class StackOptions:
    """The command line of `perennial dev`; a port of 0 picks a free one."""

    home: Path
    api_port: int = 8080
    temporal_port: int = 7233
    ui_port: int = 8233
    tls: bool = False
    workers: int = 1

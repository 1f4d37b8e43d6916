"""How a process tells whoever started it that it serves."""

from __future__ import annotations

import os
from pathlib import Path


def announce_ready(path: Path | None) -> None:
    """Write this process's id to ``path``, whole at once; nothing where nobody asked (None)."""
    if path is None:
        return
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    temporary.write_text(f"{os.getpid()}\n", encoding="ascii")
    temporary.replace(path)

"""Small duties of an API or worker process: report that it serves, and collect garbage less often."""

from __future__ import annotations

import gc
import os
from pathlib import Path


def announce_ready(path: Path | None) -> None:
    """Write this process's id to ``path``, all at once; do nothing for None."""
    if path is None:
        return
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    temporary.write_text(f"{os.getpid()}\n", encoding="ascii")
    temporary.replace(path)


def collect_rarely(middle: int = 20, oldest: int = 50) -> None:
    """Make the cyclic garbage collector run less often. Call it once the process has started.

    A batch of events makes tens of thousands of objects and no cycle; scanning them took a third of the time.
    ``middle`` and ``oldest`` are the collector's thresholds, in collections of the generation before.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(50_000, middle, oldest)

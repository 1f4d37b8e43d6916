"""Python's collector of reference cycles, tuned for processes that parse and fold many small objects."""

from __future__ import annotations

import gc


def collect_rarely(middle: int = 20, oldest: int = 50) -> None:
    """Let the collector look at what is new only, and seldom. To be called once a process has started up.

    A batch of events makes ten thousands of objects and no cycle; looking at them took a third of the time.
    ``middle`` and ``oldest`` are its thresholds for what has survived, in looks at the generation before.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(50_000, middle, oldest)

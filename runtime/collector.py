"""Python's collector of reference cycles, tuned for processes that parse and fold many small objects."""

from __future__ import annotations

import gc


def collect_rarely() -> None:
    """Let the collector look at what is new only, and seldom. To be called once a process has started up.

    A batch of events makes ten thousands of objects and no cycle; looking at them took a third of the time.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(50_000, 20, 50)

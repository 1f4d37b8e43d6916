"""Differences between the clocks of this process, Postgres and Temporal.

Postgres' clock dates events and consents, Temporal's fires timers, and this process' judges timestamps of callers.
"""

from __future__ import annotations

import logging

from checks.unmet import Unmet

logger = logging.getLogger("perennial.checks")

MOST_SKEW_SECONDS = 60.0
"""Clocks that differ by more than this stop a start."""
NOTED_SKEW_SECONDS = 5.0
"""Clocks that differ by more than this are logged at a start, and make a running process degraded."""


def too_far_apart(seconds: float, server: str, most: float = MOST_SKEW_SECONDS) -> list[Unmet]:
    """Judge the difference to a server's clock; logs one that is only noted."""
    if seconds > most:
        text = f"The clocks of this process and {server} differ by {seconds:.0f} s"
        return [Unmet("clock_skew", f"{text}; Perennial needs {most:.0f} s or less.")]
    if seconds > NOTED_SKEW_SECONDS:
        logger.warning("the clocks of this process and %s differ", server, extra={"seconds": seconds})
    return []

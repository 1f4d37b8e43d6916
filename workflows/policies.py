"""The named retry policies and time-outs; a step picks one by name.

No policy limits the number of attempts. The interceptor around activities counts them, so that an attempt which an
absent Postgres or a killed process cut short doesn't use up `max_attempts` (ADR 0006).
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta

from temporalio.common import RetryPolicy


@dataclass(frozen=True)
class StepPolicy:
    """Time-outs and retries of a step."""

    attempt_timeout: timedelta
    heartbeat_timeout: timedelta | None
    """How soon Temporal notices a dead worker. The interceptor sends heartbeats three times as often."""
    retry: RetryPolicy


OUTSIDE = StepPolicy(
    attempt_timeout=timedelta(seconds=60),
    heartbeat_timeout=timedelta(seconds=6),
    retry=RetryPolicy(
        initial_interval=timedelta(seconds=2), backoff_coefficient=3.0, maximum_interval=timedelta(minutes=10)
    ),
)
"""For steps that call other systems."""

LONG = StepPolicy(
    attempt_timeout=timedelta(minutes=30),
    heartbeat_timeout=timedelta(seconds=6),
    retry=OUTSIDE.retry,
)
"""For steps that call other systems and may take minutes, such as an export."""

STORE = StepPolicy(
    attempt_timeout=timedelta(seconds=10),
    heartbeat_timeout=None,
    retry=RetryPolicy(
        initial_interval=timedelta(milliseconds=200),
        backoff_coefficient=2.0,
        maximum_interval=timedelta(seconds=10),
    ),
)
"""For short steps and recordings that touch Postgres alone; these run as local activities."""

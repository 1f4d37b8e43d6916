"""The named retry policies and time-outs; a step picks one by name.

No policy bounds the number of attempts: the interceptor around activities counts them, since an attempt that
Postgres' absence or a killed process cut short must not use up what `max_attempts` promises (ADR 0006).
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta

from temporalio.common import RetryPolicy


@dataclass(frozen=True)
class StepPolicy:
    """How a step is tried."""

    attempt_timeout: timedelta
    heartbeat_timeout: timedelta | None
    """How soon a dead worker is noticed; the interceptor beats three times as often."""
    retry: RetryPolicy


OUTSIDE = StepPolicy(
    attempt_timeout=timedelta(seconds=60),
    heartbeat_timeout=timedelta(seconds=6),
    retry=RetryPolicy(
        initial_interval=timedelta(seconds=2), backoff_coefficient=3.0, maximum_interval=timedelta(minutes=10)
    ),
)
"""For steps that call the world outside."""

LONG = StepPolicy(
    attempt_timeout=timedelta(minutes=30),
    heartbeat_timeout=timedelta(seconds=6),
    retry=OUTSIDE.retry,
)
"""For steps that call the world outside and may take minutes, such as making an export."""

STORE = StepPolicy(
    attempt_timeout=timedelta(seconds=10),
    heartbeat_timeout=None,
    retry=RetryPolicy(
        initial_interval=timedelta(milliseconds=200),
        backoff_coefficient=2.0,
        maximum_interval=timedelta(seconds=10),
    ),
)
"""For short steps and recordings that touch Postgres alone; run as local activities."""

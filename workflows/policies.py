"""Retry policies and time-outs of steps.

No policy limits the number of attempts: the activity interceptor counts them. So attempts that an outage of
Postgres or a killed process interrupts don't count against `max_attempts` (ADR 0006).
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta

from temporalio.common import RetryPolicy


@dataclass(frozen=True)
class StepPolicy:
    attempt_timeout: timedelta
    heartbeat_timeout: timedelta | None
    """Temporal retries after this time without a heartbeat. The interceptor sends three in that time."""
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
"""For short steps and recordings that only use Postgres; these run as local activities."""

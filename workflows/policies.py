"""Retry policies and time-outs of steps.

No policy limits the number of attempts in Temporal: the activity interceptor counts them. So attempts that an
outage of Postgres or a killed process interrupts don't count against `max_attempts` (ADR 0006). The interceptor
also computes the pauses, from the policy and from its own count (ADR 0038).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import timedelta

from temporalio.common import RetryPolicy

MOST_ATTEMPTS = 100


def _for_a_day() -> RetryPolicy:
    """Pauses of 2, 6, 18, 54 s and so on, at most an hour: thirty attempts take about 22 hours."""
    return RetryPolicy(
        initial_interval=timedelta(seconds=2), backoff_coefficient=3.0, maximum_interval=timedelta(hours=1)
    )


@dataclass(frozen=True)
class StepPolicy:
    """Time-outs and retries of a step. The defaults are those of :data:`OUTSIDE`."""

    attempt_timeout: timedelta = timedelta(seconds=60)
    heartbeat_timeout: timedelta | None = timedelta(seconds=6)
    """Temporal retries after this time without a heartbeat. The interceptor sends three in that time."""
    retry: RetryPolicy = field(default_factory=_for_a_day)
    """The pauses between attempts."""
    max_attempts: int | None = None
    """None: the workflow's number. A number of a request or an admin limits this one."""
    non_retryable: tuple[type[Exception] | str, ...] = ()
    """Errors with which the step fails at once, by class or by the ``type`` of an ``ApplicationError``."""
    local: bool = False
    """Whether it runs as a local activity: for short steps that use Postgres alone."""

    def __post_init__(self) -> None:
        if self.max_attempts is not None and not 1 <= self.max_attempts <= MOST_ATTEMPTS:
            raise TypeError(f"max_attempts of a step must be 1 to {MOST_ATTEMPTS}")
        if self.retry.maximum_attempts:
            raise TypeError("set max_attempts of the StepPolicy: Temporal's maximum_attempts counts outages too")

    @property
    def non_retryable_types(self) -> list[str]:
        """The names of the declared errors, also of those that are declared to Temporal."""
        declared = [each if isinstance(each, str) else each.__name__ for each in self.non_retryable]
        return [*declared, *(self.retry.non_retryable_error_types or ())]

    def attempts(self, of_workflow: int, *, limited: bool) -> int:
        """The attempts at the step, for an instance with that number; ``limited``: no step may have more."""
        if self.max_attempts is None:
            return of_workflow
        return min(self.max_attempts, of_workflow) if limited else self.max_attempts


OUTSIDE = StepPolicy()
"""For steps that call other systems."""

LONG = StepPolicy(attempt_timeout=timedelta(minutes=30))
"""For steps that call other systems and may take minutes, such as an export."""

STORE = StepPolicy(
    attempt_timeout=timedelta(seconds=10),
    heartbeat_timeout=None,
    retry=RetryPolicy(
        initial_interval=timedelta(milliseconds=200),
        backoff_coefficient=2.0,
        maximum_interval=timedelta(seconds=10),
    ),
    local=True,
)
"""For short steps and recordings that only use Postgres; these run as local activities."""

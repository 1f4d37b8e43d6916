"""Whether a step's failure is worth a retry, and when the retry comes (ADR 0038).

Each failure has its own pause, computed from the stored count of failures. Temporal's count would also grow with
killed workers and outages of Postgres: after ten minutes without Postgres the next failure would wait for an hour.
"""

from __future__ import annotations

import random
from collections.abc import Collection
from datetime import timedelta

import httpx
from temporalio.common import RetryPolicy
from temporalio.exceptions import ApplicationError

from delivery.http import is_refusal

HTTP_STATUS = "HttpStatusError"
"""The type of an HTTP step's error. Its pause is that of `Retry-After`, which never shortens the policy's."""
_JITTER = 0.1
"""The share by which a pause is shortened at random, so that instances don't retry all at once after an outage."""
_LONGEST_BY_DEFAULT = 100
"""Temporal's default for the longest pause, in multiples of the first."""


def type_of(error: BaseException) -> str:
    return error.type if isinstance(error, ApplicationError) and error.type else type(error).__name__


def is_permanent(error: BaseException, declared: Collection[str]) -> bool:
    """Whether no retry mends the error: its type is declared, its activity says so, or it is an HTTP refusal.

    ``declared`` has type names. A name of a base class covers its subclasses.
    """
    if isinstance(error, ApplicationError) and error.non_retryable:
        return True
    if isinstance(error, httpx.HTTPStatusError) and is_refusal(error.response.status_code):
        return True
    names = {type_of(error), *(each.__name__ for each in type(error).__mro__)}
    return not names.isdisjoint(declared)


def pause_after(error: BaseException, failures: int, policy: RetryPolicy | None) -> timedelta | None:
    """The pause after so many failures of the step, from 1. None leaves it to Temporal.

    An activity may set another one as the error's ``next_retry_delay``. That of :data:`HTTP_STATUS` is the least.
    """
    asked = error.next_retry_delay if isinstance(error, ApplicationError) else None
    if policy is None or (asked is not None and type_of(error) != HTTP_STATUS):
        return asked
    first = policy.initial_interval.total_seconds()
    longest = policy.maximum_interval.total_seconds() if policy.maximum_interval else first * _LONGEST_BY_DEFAULT
    pause = min(first * policy.backoff_coefficient ** (failures - 1), longest)
    own = timedelta(seconds=pause * random.uniform(1 - _JITTER, 1))  # noqa: S311 - spreads load
    return max(own, asked or own)

"""The data types that have a retention period, and what each period means."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta

MARGIN = timedelta(minutes=5)
"""Data is kept this much longer than its period: a request in flight may have accepted an event as unexpired by
the clock of another process, and still needs its partition."""
MAX_DAYS = 3650


@dataclass(frozen=True)
class DataType:
    """A data type with its own period."""

    name: str
    default_days: int | None
    """None: as long as the account exists."""
    description: str
    """What is deleted when the period is over, and when the period begins."""
    unlimited: bool = False
    """Whether the period may be removed: then the data is deleted with the account."""


PROFILES = "profiles"
CLOSED_ACCOUNTS = "closed_accounts"
EVENTS = "events"
TRANSACTIONS = "transactions"
EXECUTION_LOGS = "execution_logs"
MESSAGES = "messages"
WEBHOOK_DELIVERIES = "webhook_deliveries"
IDEMPOTENCY_ANSWERS = "idempotency_answers"
AUDIT = "audit"

DATA_TYPES: Mapping[str, DataType] = {
    each.name: each
    for each in (
        DataType(
            EVENTS,
            365,
            "Events by their timestamp, with their ids, sessions and poison events. Totals of profiles stay.",
        ),
        DataType(
            TRANSACTIONS,
            None,
            "Purchases and refunds by the time at which they occurred: part of the profile, kept as long as the "
            "account exists unless a period is set. Totals of profiles stay.",
            unlimited=True,
        ),
        DataType(
            EXECUTION_LOGS,
            90,
            "Workflow instances by their end, with steps, attempts, dead letters, callbacks and Temporal's "
            "histories.",
        ),
        DataType(MESSAGES, 365, "Messages to customers by their creation, except those of running instances."),
        DataType(
            WEBHOOK_DELIVERIES,
            90,
            "Callbacks of ended instances by their last attempt, once no attempt is left. At the latest they are "
            "deleted with their instances.",
        ),
        DataType(
            IDEMPOTENCY_ANSWERS, 1, "Answers to requests with an Idempotency-Key. They are repeated for a day."
        ),
        DataType(
            PROFILES,
            None,
            "Profiles, kept as long as the account exists. With a period, a profile is due for erasure this many "
            "days after its last change or activity.",
            unlimited=True,
        ),
        DataType(
            CLOSED_ACCOUNTS, 30, "Profiles of closed accounts, due for erasure this many days after the closure."
        ),
        DataType(
            AUDIT,
            730,
            "Whole hours of the audit log that have a checkpoint, after at least 30 days. Checkpoints stay.",
        ),
    )
}
"""In the order of a run. A new data type also needs its statements in :mod:`store.retention.expired`."""


def cutoff(now: datetime, days: int) -> datetime:
    """The time before which data has expired."""
    return now - timedelta(days=days) - MARGIN

"""The data types that have a retention period."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta

MARGIN = timedelta(minutes=5)
"""Data is kept this much longer than its period. An API process whose clock is behind may still accept an event,
and then needs the event's partition."""
MAX_DAYS = 3650


@dataclass(frozen=True)
class DataType:
    name: str
    default_days: int | None
    """None: as long as the account exists."""
    description: str
    """The data that is deleted, and the time from which its period counts."""
    unlimited: bool = False
    """Whether an admin may remove the period. Without one, the data is deleted with the account."""


PROFILES = "profiles"
CLOSED_ACCOUNTS = "closed_accounts"
EVENTS = "events"
TRANSACTIONS = "transactions"
EXECUTION_LOGS = "execution_logs"
DECISIONS = "decisions"
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
            "Events by their timestamp, with their ids, sessions, poison events and entries of the Temporal "
            "outbox. Totals of profiles stay.",
        ),
        DataType(
            TRANSACTIONS,
            None,
            "Purchases and refunds by their time. Without a period they are kept as long as the account exists. "
            "Totals of profiles stay.",
            unlimited=True,
        ),
        DataType(
            EXECUTION_LOGS,
            90,
            "Workflow instances by their end, with steps, attempts, dead letters, callbacks and Temporal's "
            "histories.",
        ),
        DataType(DECISIONS, 90, "Triggers that were not followed, by the hour in which they were refused."),
        DataType(MESSAGES, 365, "Messages to customers by their creation, except those of running instances."),
        DataType(
            WEBHOOK_DELIVERIES,
            90,
            "Callbacks of ended instances by their last attempt, if no attempt is left. Others are deleted with "
            "their instances.",
        ),
        DataType(
            IDEMPOTENCY_ANSWERS, 1, "Responses to requests with an Idempotency-Key. They are repeated for a day."
        ),
        DataType(
            PROFILES,
            None,
            "Profiles by their last change or activity: then they are due for erasure. Without a period they are "
            "kept as long as the account exists.",
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
    """Data from before this time has expired."""
    return now - timedelta(days=days) - MARGIN

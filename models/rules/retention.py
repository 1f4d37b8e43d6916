"""Which types of data have a period of retention, and what each period means."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta

MARGIN = timedelta(minutes=5)
"""How much longer than its period data stays: what a request in flight was just told is inside the period must
not go under it, whichever process' clock it was judged by."""
MAX_DAYS = 3650


@dataclass(frozen=True)
class DataType:
    """A type of data with a period of its own."""

    name: str
    default_days: int | None
    """None: as long as the account lives."""
    what: str
    """What goes when the period is over, and when it begins."""
    unlimited: bool = False
    """Whether there may be no period: then it goes with the person."""


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
            "Events by their timestamp, with their ids, the sessions they made and those that were set aside. "
            "Totals on profiles stay.",
        ),
        DataType(
            TRANSACTIONS,
            None,
            "Purchases and refunds by the time at which they occurred: part of the profile, kept as long as the "
            "account lives unless a period is set. Totals on profiles stay.",
            unlimited=True,
        ),
        DataType(
            EXECUTION_LOGS,
            90,
            "Workflow instances by their end, with steps, attempts, dead letters and callbacks, and Temporal's "
            "histories of them.",
        ),
        DataType(MESSAGES, 365, "Messages to customers, by their creation; not those of running instances."),
        DataType(
            WEBHOOK_DELIVERIES,
            90,
            "Callbacks of ended instances by their last attempt, once nothing of them is to be tried any more; "
            "not those of running instances. They go with their instances at the latest.",
        ),
        DataType(IDEMPOTENCY_ANSWERS, 1, "Answers kept for an Idempotency-Key; they count for a day."),
        DataType(
            PROFILES,
            None,
            "Profiles: as long as the account lives. With a period, a profile is due so many days after it last "
            "changed or was last active.",
            unlimited=True,
        ),
        DataType(CLOSED_ACCOUNTS, 30, "Closed accounts: a profile is due so many days after its account closed."),
        DataType(AUDIT, 730, "Whole encrypted hours of the audit log, never before 30 days; their encrypts stay."),
    )
}
"""In the order in which a run takes them. A new type of data is declared here, with its statements in
:mod:`store.retention.purge`; one that has no table yet isn't declared."""


def cutoff(now: datetime, days: int) -> datetime:
    """What is older than this goes."""
    return now - timedelta(days=days) - MARGIN

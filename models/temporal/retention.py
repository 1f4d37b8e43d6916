"""Payloads of the retention workflow and its activities."""

from __future__ import annotations

from models.temporal.execution import TemporalPayload

RETENTION = "retention"
RETENTION_SCHEDULE_ID = "system/retention"
SYSTEM_ACTOR = "system:retention"


def retention_workflow_id(run_id: str) -> str:
    """The Temporal workflow id of a run that an admin requests."""
    return f"{RETENTION_SCHEDULE_ID}/{run_id}"


class RetentionRun(TemporalPayload):
    """A retention run."""

    run_id: str = ""
    """Empty for a run of the schedule: it takes the id of Temporal's run."""
    requested_by: str = SYSTEM_ACTOR
    """The id of an API key, or :data:`SYSTEM_ACTOR`."""
    data_types: list[str] | None = None
    """None: all of them."""


class RetentionPlan(TemporalPayload):
    """The data types of a run, in its order."""

    data_types: list[str]


class PurgeRequest(TemporalPayload):
    """One data type of a run."""

    run_id: str
    data_type: str


class RetentionOutcome(TemporalPayload):
    """The end of a run."""

    run_id: str
    failed: list[str]
    """The data types whose purge failed."""

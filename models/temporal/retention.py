"""What travels between the retention's workflow and its activities."""

from __future__ import annotations

from models.temporal.execution import TemporalPayload

RETENTION = "retention"
RETENTION_SCHEDULE_ID = "system/retention"
SYSTEM_ACTOR = "system:retention"


def retention_workflow_id(run_id: str) -> str:
    """The one builder of Temporal workflow ids for runs that an admin asks for."""
    return f"{RETENTION_SCHEDULE_ID}/{run_id}"


class RetentionRun(TemporalPayload):
    """A run: which, of what, and who wants it."""

    run_id: str = ""
    """Empty for one of the schedule's: it is called after Temporal's run."""
    requested_by: str = SYSTEM_ACTOR
    """The id of an API key, or who else."""
    data_types: list[str] | None = None
    """None: all of them."""


class RetentionPlan(TemporalPayload):
    """What a run takes, in its order."""

    data_types: list[str]


class Sweep(TemporalPayload):
    """One type of data in a run."""

    run_id: str
    data_type: str


class RetentionOutcome(TemporalPayload):
    """How a run ended."""

    run_id: str
    failed: list[str]
    """The types of data of which not all could be done."""

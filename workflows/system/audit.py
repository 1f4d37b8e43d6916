"""The checkpoints on the audit log, made by a schedule."""

from __future__ import annotations

from datetime import timedelta

from temporalio import workflow
from temporalio.common import RetryPolicy

with workflow.unsafe.imports_passed_through():
    from activities.audit import AuditCheckpoints
    from models.temporal.audit import AUDIT_CHECKPOINT, AuditCheckpointResult, AuditHead
    from models.temporal.public_text import PublicText

_RETRY = RetryPolicy(
    initial_interval=timedelta(seconds=1), backoff_coefficient=2.0, maximum_interval=timedelta(minutes=1)
)


@workflow.defn(name=AUDIT_CHECKPOINT)
class AuditCheckpointWorkflow:
    """Checkpoints the hours that are over; carries the chain's head from run to run, out of Postgres' reach."""

    @workflow.run
    async def run(self) -> AuditCheckpointResult:
        """One look; the schedule calls again in an hour."""
        return await workflow.execute_activity_method(
            AuditCheckpoints.checkpoint,
            _told_before(),
            start_to_close_timeout=timedelta(minutes=30),
            schedule_to_close_timeout=timedelta(hours=2),
            heartbeat_timeout=timedelta(minutes=5),
            retry_policy=_RETRY,
            summary=PublicText("Checkpoint the audit log's hours"),
        )


def _told_before() -> AuditHead | None:
    if not workflow.has_last_completion_result():
        return None
    told = workflow.get_last_completion_result(AuditCheckpointResult)
    return told.newest if told is not None else None

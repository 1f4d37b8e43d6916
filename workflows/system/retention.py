"""A retention run, which removes one type of data after another."""

from __future__ import annotations

from datetime import timedelta

from temporalio import workflow
from temporalio.common import RetryPolicy
from temporalio.exceptions import ActivityError, is_cancelled_exception

with workflow.unsafe.imports_passed_through():
    from activities.retention import Retention
    from models.temporal.public_text import PublicText, in_words
    from models.temporal.system import RETENTION, PurgeRequest, RetentionOutcome, RetentionRun

_SHORT = timedelta(seconds=30)
_PURGE = timedelta(hours=12)
_HEARTBEAT = timedelta(seconds=5)
_UNLIMITED = RetryPolicy(initial_interval=timedelta(seconds=1), maximum_interval=timedelta(minutes=1))
_LIMITED = RetryPolicy(
    initial_interval=timedelta(seconds=1), maximum_interval=timedelta(minutes=1), maximum_attempts=30
)
"""About half an hour. A type of data that still fails is left for the next run, and this run continues."""


@workflow.defn(name=RETENTION)
class RetentionWorkflow:
    """Enforces the retention of some types of data, or of all."""

    @workflow.run
    async def run(self, run: RetentionRun) -> RetentionOutcome:
        run_id = run.run_id or workflow.info().run_id.replace("-", "")
        plan = await workflow.execute_activity_method(
            Retention.begin,
            run.model_copy(update={"run_id": run_id}),
            start_to_close_timeout=_SHORT,
            retry_policy=_UNLIMITED,
        )
        failed = [data_type for data_type in plan.data_types if not await _purge(run_id, data_type)]
        outcome = RetentionOutcome(run_id=run_id, failed=failed)
        await workflow.execute_activity_method(
            Retention.finish, outcome, start_to_close_timeout=_SHORT, retry_policy=_UNLIMITED
        )
        return outcome


async def _purge(run_id: str, data_type: str) -> bool:
    """Remove the expired data of one type; False if all attempts failed."""
    try:
        await workflow.execute_activity_method(
            Retention.purge,
            PurgeRequest(run_id=run_id, data_type=data_type),
            start_to_close_timeout=_PURGE,
            heartbeat_timeout=_HEARTBEAT,
            retry_policy=_LIMITED,
            summary=PublicText(in_words(data_type)),
        )
    except ActivityError as error:
        if is_cancelled_exception(error):
            raise
        return False
    return True

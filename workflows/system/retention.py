"""A run of the retention: one type of data after the other, each as far as it can be done."""

from __future__ import annotations

from datetime import timedelta

from temporalio import workflow
from temporalio.common import RetryPolicy
from temporalio.exceptions import ActivityError, is_cancelled_exception

with workflow.unsafe.imports_passed_through():
    from activities.retention import Retention
    from models.temporal.public_text import PublicText, in_words
    from models.temporal.retention import RETENTION, PurgeRequest, RetentionOutcome, RetentionRun
    from workflows.system.turns import HEARTBEAT

_SHORT = timedelta(seconds=30)
_SWEEP = timedelta(hours=12)
_PATIENT = RetryPolicy(initial_interval=timedelta(seconds=1), maximum_interval=timedelta(minutes=1))
_SOME = RetryPolicy(
    initial_interval=timedelta(seconds=1), maximum_interval=timedelta(minutes=1), maximum_attempts=30
)
"""About half an hour: what still fails then fails for this day, and doesn't keep the others from their turn."""


@workflow.defn(name=RETENTION)
class RetentionWorkflow:
    """Enforces the retention of some types of data, or of all."""

    @workflow.run
    async def run(self, run: RetentionRun) -> RetentionOutcome:
        """Sweep each; one that fails is named in the outcome, and the others go on."""
        run_id = run.run_id or workflow.info().run_id.replace("-", "")
        plan = await workflow.execute_activity_method(
            Retention.begin,
            run.model_copy(update={"run_id": run_id}),
            start_to_close_timeout=_SHORT,
            retry_policy=_PATIENT,
        )
        failed = []
        for data_type in plan.data_types:
            try:
                await workflow.execute_activity_method(
                    Retention.purge,
                    PurgeRequest(run_id=run_id, data_type=data_type),
                    start_to_close_timeout=_SWEEP,
                    heartbeat_timeout=HEARTBEAT,
                    retry_policy=_SOME,
                    summary=PublicText(in_words(data_type)),
                )
            except ActivityError as error:
                if is_cancelled_exception(error):
                    raise
                failed.append(data_type)
        outcome = RetentionOutcome(run_id=run_id, failed=failed)
        await workflow.execute_activity_method(
            Retention.finish, outcome, start_to_close_timeout=_SHORT, retry_policy=_PATIENT
        )
        return outcome

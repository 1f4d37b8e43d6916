"""The reconciler: a look, every so many seconds by a schedule, at what ended without saying so."""

from __future__ import annotations

from datetime import timedelta

from temporalio import workflow

with workflow.unsafe.imports_passed_through():
    from activities.reconciler import Reconciler
    from models.temporal.public_text import PublicText
    from models.temporal.reconciler import RECONCILER, ReconcileRequest, ReconcileResult


@workflow.defn(name=RECONCILER)
class ReconcilerWorkflow:
    """One look, from where the last one that came to its end had looked up to."""

    @workflow.run
    async def run(self) -> ReconcileResult:
        """Look once; what it gives is what the schedule's next run begins with."""
        last = workflow.get_last_completion_result(ReconcileResult)
        return await workflow.execute_activity_method(
            Reconciler.look,
            ReconcileRequest(since=last.until, watching_since=last.watching_since, after=last.after)
            if last
            else ReconcileRequest(),
            start_to_close_timeout=timedelta(minutes=5),
            heartbeat_timeout=timedelta(seconds=30),
            summary=PublicText("Compare Temporal's closed runs with the stored context"),
        )

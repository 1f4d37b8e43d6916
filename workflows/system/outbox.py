"""The outbox's workflow: one long activity that tells Temporal what is due, on whichever worker lives."""

from __future__ import annotations

from temporalio import workflow

with workflow.unsafe.imports_passed_through():
    from activities.outbox import Outbox
    from models.temporal.outbox import OUTBOX
    from models.temporal.public_text import PublicText
    from workflows.system.turns import HEARTBEAT, RETRY, TURN


@workflow.defn(name=OUTBOX)
class OutboxWorkflow:
    """Keeps the outbox empty, for ever: each run is one turn."""

    @workflow.run
    async def run(self) -> None:
        """Deliver for a turn, on whatever worker, and begin anew."""
        await workflow.execute_activity_method(
            Outbox.deliver,
            start_to_close_timeout=TURN,
            heartbeat_timeout=HEARTBEAT,
            retry_policy=RETRY,
            summary=PublicText("Tell Temporal what is due"),
        )
        workflow.continue_as_new()

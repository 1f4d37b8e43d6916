"""The refusals' workflow: one long activity that takes refused attributes out of stored events."""

from __future__ import annotations

from temporalio import workflow

with workflow.unsafe.imports_passed_through():
    from activities.redaction import Redactions
    from models.temporal.public_text import PublicText
    from models.temporal.redaction import REDACTION
    from workflows.system.turns import HEARTBEAT, RETRY, TURN


@workflow.defn(name=REDACTION)
class RedactionWorkflow:
    """Keeps the list of refusals empty, for ever: each run is one turn."""

    @workflow.run
    async def run(self) -> None:
        """Carry out refusals for a turn, on whatever worker, and begin anew."""
        await workflow.execute_activity_method(
            Redactions.apply,
            start_to_close_timeout=TURN,
            heartbeat_timeout=HEARTBEAT,
            retry_policy=RETRY,
            summary=PublicText("Take refused attributes out of stored events"),
        )
        workflow.continue_as_new()

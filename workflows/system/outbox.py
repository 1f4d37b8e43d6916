"""The outbox's workflow: one long activity that tells Temporal what is due, on whichever worker lives."""

from __future__ import annotations

from datetime import timedelta

from temporalio import workflow
from temporalio.common import RetryPolicy

with workflow.unsafe.imports_passed_through():
    from activities.outbox import Outbox
    from models.messages.outbox import OUTBOX
    from models.messages.public_text import PublicText

_HEARTBEAT = timedelta(seconds=5)
"""How soon delivery moves from a dead worker to a living one."""
_TURN = timedelta(hours=1)
"""Far above what the activity takes by itself before it returns."""
_RETRY = RetryPolicy(
    initial_interval=timedelta(milliseconds=200), backoff_coefficient=2.0, maximum_interval=timedelta(seconds=2)
)


@workflow.defn(name=OUTBOX)
class OutboxWorkflow:
    """Keeps the outbox empty, for ever: each run is one turn."""

    @workflow.run
    async def run(self) -> None:
        """Deliver for a turn, on whatever worker, and begin anew."""
        await workflow.execute_activity_method(
            Outbox.deliver,
            start_to_close_timeout=_TURN,
            heartbeat_timeout=_HEARTBEAT,
            retry_policy=_RETRY,
            summary=PublicText("Tell Temporal what is due"),
        )
        workflow.continue_as_new()

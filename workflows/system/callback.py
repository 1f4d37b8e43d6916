"""A callback: the finished instance, told to whoever executed it, until it has been taken or a day is over."""

from __future__ import annotations

from datetime import timedelta

from temporalio import workflow
from temporalio.common import RetryPolicy
from temporalio.exceptions import ActivityError

with workflow.unsafe.imports_passed_through():
    from activities.callbacks import Callbacks
    from models.temporal.callbacks import CALLBACK, CallbackDue
    from models.temporal.public_text import PublicText


@workflow.defn(name=CALLBACK)
class CallbackWorkflow:
    """One callback for one end of one instance."""

    @workflow.run
    async def run(self, due: CallbackDue) -> None:
        """Send it; the activity says when to try again, and when no more."""
        try:
            await workflow.execute_activity_method(
                Callbacks.send,
                due,
                start_to_close_timeout=timedelta(minutes=1),
                schedule_to_close_timeout=timedelta(hours=26),
                retry_policy=RetryPolicy(initial_interval=timedelta(seconds=5)),
                summary=PublicText("Tell of the finished instance"),
            )
        except ActivityError:
            await workflow.execute_activity_method(
                Callbacks.give_up,
                due,
                start_to_close_timeout=timedelta(seconds=10),
                summary=PublicText("Give the callback up"),
            )

"""Sends the callback of a finished instance."""

from __future__ import annotations

from datetime import timedelta

from temporalio import workflow
from temporalio.common import RetryPolicy
from temporalio.exceptions import ActivityError

with workflow.unsafe.imports_passed_through():
    from activities.callbacks import Callbacks
    from models.temporal.public_text import PublicText
    from models.temporal.system import CALLBACK, CallbackDue

_SEND_WITHIN = timedelta(hours=26)
"""A day of attempts (:data:`activities.callbacks.PAUSES`), and about two hours for outages of Postgres."""


@workflow.defn(name=CALLBACK)
class CallbackWorkflow:
    """Sends one callback for one end of one instance."""

    @workflow.run
    async def run(self, due: CallbackDue) -> None:
        try:
            await workflow.execute_activity_method(
                Callbacks.send,
                due,
                start_to_close_timeout=timedelta(minutes=1),
                schedule_to_close_timeout=_SEND_WITHIN,
                # The activity's errors carry the pause before the next attempt.
                retry_policy=RetryPolicy(initial_interval=timedelta(seconds=5)),
                summary=PublicText("Send the callback"),
            )
        except ActivityError:
            await workflow.execute_activity_method(
                Callbacks.give_up,
                due,
                start_to_close_timeout=timedelta(seconds=10),
                summary=PublicText("Give the callback up"),
            )

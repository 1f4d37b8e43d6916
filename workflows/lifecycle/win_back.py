"""Win-back: three messages to a dormant customer."""

from __future__ import annotations

from datetime import time

from workflows.authoring import (
    WEEKDAYS,
    Duration,
    LifecycleStage,
    LifecycleWorkflow,
    Parameters,
    RecordedEvent,
    days,
    lifecycle,
    on,
    when,
)


class WinBackParameters(Parameters):
    """Times between the messages."""

    news_after: Duration = days(14)
    """From the start to the first message."""
    offer_after: Duration = days(21)
    """From the first message to the second."""
    goodbye_after: Duration = days(30)
    """From the second message to the last."""
    answer_within: Duration = days(14)
    """How long to wait for an answer to the last."""
    good_hour_within: Duration = days(4)
    """Longest wait for the hour of a message; P0D: send at any hour."""


@lifecycle(
    "win_back",
    purpose="marketing",
    trigger=on("lifecycle.stage_changed", to="dormant", max_age=days(1)),
    once_per=days(180),
    exit_on=(
        when("user.login", reason="returned"),
        when("engagement.*", reason="returned"),
        when("transaction.purchase_complete", reason="purchased"),
    ),
)
class WinBack(LifecycleWorkflow[WinBackParameters]):
    """Sends a dormant customer three messages in three months: news, an offer, a goodbye.

    It begins when the lifecycle stage becomes `dormant`. The time between messages grows, since unread messages
    hurt the delivery of all others. The last message says that it is the last. Any activity ends the series. The
    rules of the lifecycle stages then make the customer `reactivated`, and `churned` without one. A customer gets
    at most one series in half a year.
    """

    async def journey(self, parameters: WinBackParameters) -> None:
        for template, after in (
            ("whats_new", parameters.news_after),
            ("comeback_offer", parameters.offer_after),
            ("goodbye", parameters.goodbye_after),
        ):
            await self.sleep(after, name=f"wait_before_{template}")
            await self.sleep_until_local(
                time(10),
                weekdays=WEEKDAYS,
                within=parameters.good_hour_within,
                name=f"wait_for_ten_before_{template}",
            )
            await self.send(template)
        await self.sleep(parameters.answer_within, name="wait_for_answer")
        if not self.patched("stages-by-rule"):
            await self.set_stage(LifecycleStage.CHURNED)
        self.complete(reason="lost")

    async def at_exit(self, parameters: WinBackParameters, event: RecordedEvent) -> None:
        if event.event_type != "user.account_deletion":  # an exit of instances that an earlier version started
            if not self.patched("stages-by-rule"):
                await self.set_stage(LifecycleStage.REACTIVATED)
            await self.emit("lifecycle.won_back")

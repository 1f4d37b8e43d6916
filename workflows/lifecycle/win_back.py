"""Win-back: a last attempt to be of interest again, and then an honest goodbye."""

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
    """How much room there is between the messages."""

    news_after: Duration = days(14)
    """How long to leave a dormant customer in peace before the first message."""
    offer_after: Duration = days(21)
    """How long after the first message the second comes."""
    goodbye_after: Duration = days(30)
    """How long after the second message the last comes."""
    answer_within: Duration = days(14)
    """How long to wait after the last before the customer counts as lost."""
    good_hour_within: Duration = days(4)
    """How long at most to wait for the hour at which the customer is written to; P0D: at any hour."""


@lifecycle(
    "win_back",
    purpose="marketing",
    trigger=on("lifecycle.dormant"),
    once_per=days(180),
    exit_on=(
        when("user.account_deletion", reason="account_closed"),
        when("user.login", reason="returned"),
        when("engagement.*", reason="returned"),
        when("transaction.purchase_complete", reason="purchased"),
    ),
)
class WinBack(LifecycleWorkflow[WinBackParameters]):
    """Writes to a dormant customer three times in three months: what is new, an offer, a goodbye.

    Churn prevention begins it with `lifecycle.dormant`. The pauses grow, since every unread message makes the next
    one less welcome and hurts delivery to everybody else. The last one says that it is the last and asks for a
    word: many a customer answers that one. Any sign of life ends it and makes the customer `reactivated`; without
    one the customer is `churned`, and nothing more is sent. At most once in half a year.
    """

    async def journey(self, parameters: WinBackParameters) -> None:
        """News, an offer, a goodbye; each on a weekday at ten, where the customer lives."""
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
        await self.set_stage(LifecycleStage.CHURNED)
        self.complete(reason="lost")

    async def at_exit(self, parameters: WinBackParameters, event: RecordedEvent) -> None:
        """A sign of life: the customer is back, and analytics learns which."""
        if event.event_type != "user.account_deletion":
            await self.set_stage(LifecycleStage.REACTIVATED)
            await self.emit("lifecycle.won_back")

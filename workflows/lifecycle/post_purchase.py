"""After a purchase: thanks, help with the order, and one question."""

from __future__ import annotations

from datetime import time

from workflows.authoring import (
    WEEKDAYS,
    Duration,
    LifecycleWorkflow,
    Parameters,
    days,
    from_trigger,
    hours,
    lifecycle,
    on,
    parameter,
    when,
)


class PostPurchaseParameters(Parameters):
    """The order, and times of the messages."""

    order_id: str | int | None = from_trigger("order_id")
    """The order whose refund ends the series."""
    thanks_after: Duration = hours(1)
    """From the purchase to the thanks: the receipt comes first."""
    help_after: Duration = days(5)
    """From the thanks to the help: the order has arrived by then."""
    review_after: Duration = days(9)
    """From the help to the question: the goods have been used by then."""
    second_purchase_within: Duration = days(30)
    """How long after the question a further purchase counts as a second one."""
    good_hour_within: Duration = days(4)
    """Longest wait for the hour of a message; P0D: send at any hour."""


@lifecycle(
    "post_purchase",
    purpose=None,
    trigger=on("transaction.purchase_complete"),
    once_per=days(30),
    exit_on=when("transaction.refund", reason="refunded", order_id=parameter("order_id", optional=True)),
)
class PostPurchase(LifecycleWorkflow[PostPurchaseParameters]):
    """Thanks for a purchase, helps with the order, asks for a review, and waits for a second purchase.

    A service workflow: its messages belong to the order, so it needs no consent. A customer gets at most one
    series in a month. A refund of the same order ends it, a refund of another order doesn't. A request gives the
    order itself; without one no refund ends the series. The question is sent on a weekday at ten, local time, when
    most people answer. A second purchase is recorded as an event, which measures the effect of the series.
    """

    async def journey(self, parameters: PostPurchaseParameters) -> None:
        await self.sleep(parameters.thanks_after, name="wait_before_thanks")
        await self.sleep_until_local(within=parameters.good_hour_within, name="wait_for_morning")
        await self.send("order_thanks")
        await self.sleep(parameters.help_after, name="wait_for_delivery")
        await self.sleep_until_local(time(10), within=parameters.good_hour_within, name="wait_for_ten")
        await self.send("order_help")
        await self.sleep(parameters.review_after, name="wait_for_use")
        await self.sleep_until_local(
            time(10), weekdays=WEEKDAYS, within=parameters.good_hour_within, name="wait_for_a_weekday_at_ten"
        )
        await self.send("review_request")
        second = await self.wait_for_event(
            "transaction.purchase_complete",
            within=parameters.second_purchase_within,
            name="wait_for_second_purchase",
        )
        self.variables["bought_again"] = second is not None
        if second is not None:
            await self.emit("lifecycle.second_purchase")
        self.complete(reason="bought_again" if second else "asked")

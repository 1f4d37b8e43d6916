"""After a purchase: thanks, help with what was bought, and one question."""

from __future__ import annotations

from datetime import time

from workflows.authoring import WEEKDAYS, Duration, LifecycleWorkflow, Parameters, days, hours, lifecycle, on, when


class PostPurchaseParameters(Parameters):
    """When the customer hears from us."""

    thanks_after: Duration = hours(1)
    """How long after the purchase to say thanks: the receipt comes first."""
    help_after: Duration = days(5)
    """How long after the thanks to help with what was bought: it has arrived by then."""
    review_after: Duration = days(9)
    """How long after that to ask how it went: it has been used by then."""
    second_purchase_within: Duration = days(30)
    """How long after that a further purchase is still taken for this one's fruit."""
    good_hour_within: Duration = days(4)
    """How long at most to wait for the hour at which the customer is written to; P0D: at any hour."""


@lifecycle(
    "post_purchase",
    purpose=None,
    trigger=on("transaction.purchase_complete"),
    once_per=days(30),
    exit_on=(
        when("transaction.refund", reason="refunded", same_as_trigger=["order_id"]),
        when("user.account_deletion", reason="account_closed"),
    ),
)
class PostPurchase(LifecycleWorkflow[PostPurchaseParameters]):
    """Thanks for a purchase, helps with it once it has arrived, asks how it went, and looks for a second one.

    A service workflow: it speaks of the order and of nothing else, so it needs no consent. Who buys often is
    thanked once a month. A refund of the order ends it at once: nobody wants to be asked how they like what they
    sent back; that of another order doesn't. Executed by a request it knows no order, and any refund ends it.
    The question comes on a weekday at ten, where the customer lives: that is when most people answer. Whether a
    second purchase follows is the figure that tells whether all this was worth it, so it is kept as an event.
    """

    async def journey(self, parameters: PostPurchaseParameters) -> None:
        """Thank, help, ask, and wait for the second purchase."""
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

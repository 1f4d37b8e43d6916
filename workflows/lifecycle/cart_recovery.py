"""Cart recovery: reminders of a cart that wasn't bought."""

from __future__ import annotations

from workflows.authoring import (
    Duration,
    LifecycleWorkflow,
    Parameters,
    WaitCondition,
    days,
    hours,
    lifecycle,
    on,
    when,
)


class CartRecoveryParameters(Parameters):
    """Times of the reminders."""

    abandoned_after: Duration = hours(1)
    """How long no item is added before the cart counts as abandoned."""
    shopping_within: Duration = days(1)
    """How long to wait for the shopping to end."""
    second_reminder_after: Duration = days(1)
    """From the first reminder to the second."""
    last_reminder_after: Duration = days(2)
    """From the second reminder to the last."""
    purchase_within: Duration = days(4)
    """How long to wait for a purchase after the last reminder."""
    good_hour_within: Duration = days(4)
    """Longest wait for the hour of a message; P0D: send at any hour."""


@lifecycle(
    "cart_recovery",
    purpose="marketing",
    trigger=on("transaction.cart_add"),
    once_per=days(7),
    exit_on=(
        when("transaction.purchase_complete", reason="purchased"),
        when("transaction.cart_remove", reason="emptied", condition=WaitCondition.CART_EMPTY),
    ),
)
class CartRecovery(LifecycleWorkflow[CartRecoveryParameters]):
    """Reminds a customer of an abandoned cart, three times at most, and stops when it is bought or emptied.

    A cart is abandoned after an hour without a further item. The first reminder is sent then. The second offers
    help a day later, because an open question is the most common reason. The last is sent after two more days and
    says that it is the last. No reminder is sent at night. A customer gets at most one series in a week. A cart
    that is bought or emptied before the first reminder doesn't count: the next one begins a series at once.

    A cart is empty once each item was removed in the quantity in which it was added in the last thirty days, or
    since the last purchase. If an item or a quantity doesn't fit, the reminders go on (:mod:`models.rules.carts`).
    """

    async def journey(self, parameters: CartRecoveryParameters) -> None:
        self.variables["reminders"] = 0
        await self.wait_for_inactivity(
            "transaction.cart_add",
            lasting=parameters.abandoned_after,
            within=parameters.shopping_within,
            name="wait_for_end_of_shopping",
        )
        await self._remind(parameters, "cart_reminder")
        await self.sleep(parameters.second_reminder_after, name="wait_before_second_reminder")
        await self._remind(parameters, "cart_help")
        await self.sleep(parameters.last_reminder_after, name="wait_before_last_reminder")
        await self._remind(parameters, "cart_last_call")
        await self.sleep(parameters.purchase_within, name="wait_for_purchase")
        self.complete(reason="not_purchased")

    async def _remind(self, parameters: CartRecoveryParameters, template: str) -> None:
        await self.sleep_until_local(
            within=parameters.good_hour_within, name=f"wait_for_morning_before_{template}"
        )
        delivery = await self.send(template)
        self.variables["reminders"] += delivery.reason is None

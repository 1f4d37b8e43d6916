"""Cart recovery: the cart that was left behind."""

from __future__ import annotations

from workflows.authoring import Duration, LifecycleWorkflow, Parameters, days, hours, lifecycle, on, when


class CartRecoveryParameters(Parameters):
    """How soon and how often the customer is reminded."""

    abandoned_after: Duration = hours(1)
    """How long nothing may be put into the cart before it counts as left behind."""
    shopping_within: Duration = days(1)
    """How long to watch somebody who goes on shopping."""
    second_reminder_after: Duration = days(1)
    """How long after the first reminder the second comes."""
    last_reminder_after: Duration = days(2)
    """How long after the second reminder the last comes."""
    purchase_within: Duration = days(4)
    """How long after the last reminder a purchase is still waited for."""
    good_hour_within: Duration = days(4)
    """How long at most to wait for the hour at which the customer is written to; P0D: at any hour."""


@lifecycle(
    "cart_recovery",
    purpose="marketing",
    trigger=on("transaction.cart_add"),
    once_per=days(7),
    exit_on=(
        when("transaction.purchase_complete", reason="purchased"),
        when("user.account_deletion", reason="account_closed"),
    ),
)
class CartRecovery(LifecycleWorkflow[CartRecoveryParameters]):
    """Reminds a customer of a cart left behind, three times at most, and stops the moment it is bought.

    An hour without a further item is what makes a cart abandoned: before that the customer is still shopping. The
    first reminder comes then, while the wish is fresh; the second a day later offers help, since most carts are
    left over a question; the last, two days on, says that it is the last. None comes at night. At most one such
    series in a week, however often the cart is filled.
    """

    async def journey(self, parameters: CartRecoveryParameters) -> None:
        """Wait until the shopping ends, then remind three times; a purchase ends it anywhere."""
        self.variables["reminders"] = 0
        await self.wait_for_silence(
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

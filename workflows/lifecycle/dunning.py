"""Dunning: reminders of an invoice that wasn't paid, and the end of the subscription."""

from __future__ import annotations

from datetime import time

from workflows.authoring import (
    WEEKDAYS,
    Duration,
    LifecycleWorkflow,
    MessageTemplate,
    Parameters,
    days,
    from_trigger,
    lifecycle,
    on,
    parameter,
    when,
)


class DunningParameters(Parameters):
    """The invoice, and times of the reminders."""

    invoice_id: str | int | None = from_trigger("invoice_id")
    """The invoice that wasn't paid. A number and its text are the same invoice."""
    first_reminder_after: Duration = days(1)
    """From the failed payment to the first reminder."""
    second_reminder_after: Duration = days(3)
    """From the failed payment to the second reminder."""
    last_reminder_after: Duration = days(7)
    """From the failed payment to the last reminder."""
    cancel_after: Duration = days(14)
    """From the failed payment to the end of the subscription."""
    good_hour_within: Duration = days(4)
    """Longest wait for nine o'clock on a weekday; P0D: remind at any hour."""


@lifecycle(
    "dunning",
    purpose=None,
    trigger=on("billing.payment_failed"),
    key=["invoice_id"],
    exit_on=when("billing.payment_succeeded", reason="paid", invoice_id=parameter("invoice_id")),
    messages={
        "payment_failed": MessageTemplate(
            subject="$name, your payment didn't go through",
            body=(
                "Hello $name,\n\n"
                "we could not collect the payment for your subscription. Please check your card or account.\n"
                "We try again by ourselves; if you have just paid, do nothing.\n"
            ),
        ),
        "payment_still_failing": MessageTemplate(
            subject="$name, your invoice is still open",
            body=(
                "Hello $name,\n\n"
                "the payment for your subscription still fails. If you need more time or another way to pay,\n"
                "reply to this message.\n"
            ),
        ),
        "subscription_ends_soon": MessageTemplate(
            subject="$name, your subscription ends soon",
            body=(
                "Hello $name,\n\n"
                "your invoice is still open. Without a payment we have to end your subscription soon.\n"
                "This is our last reminder.\n"
            ),
        ),
    },
)
class Dunning(LifecycleWorkflow[DunningParameters]):
    """Reminds a customer of an unpaid invoice three times, and cancels the subscription after two weeks.

    A service workflow: its messages belong to the contract, so it needs no consent. An invoice has one instance at
    a time, since payment providers report the failure of each attempt. The payment of that invoice ends it. The
    reminders are sent at nine on weekdays, local time. The billing service then cancels the subscription; without
    the setting `PERENNIAL_BILLING_URL` that step is skipped, and the variable `cancelled` is false.
    """

    async def journey(self, parameters: DunningParameters) -> None:
        failed_at = self.started_at
        for template, after in (
            ("payment_failed", parameters.first_reminder_after),
            ("payment_still_failing", parameters.second_reminder_after),
            ("subscription_ends_soon", parameters.last_reminder_after),
        ):
            await self.sleep(failed_at + after - self.now(), name=f"wait_before_{template}")
            await self.sleep_until_local(
                time(9),
                weekdays=WEEKDAYS,
                within=parameters.good_hour_within,
                name=f"wait_for_nine_before_{template}",
            )
            await self.send(template)
        await self.sleep(failed_at + parameters.cancel_after - self.now(), name="wait_before_cancellation")
        answer = await self.http_step(
            "cancel_subscription",
            "POST",
            "/subscriptions/cancel",
            base="billing_url",
            body={"user_id": self.user_id, "invoice_id": parameters.invoice_id},
        )
        self.variables["cancelled"] = not answer.skipped
        self.complete(reason="unpaid" if answer.skipped else "cancelled")

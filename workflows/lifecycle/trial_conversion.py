"""Trial conversion: from the first day of a trial to a subscription, or to a good parting."""

from __future__ import annotations

from datetime import time

from workflows.authoring import (
    Duration,
    LifecycleStage,
    LifecycleWorkflow,
    Parameters,
    RecordedEvent,
    days,
    hours,
    lifecycle,
    on,
    when,
)


class TrialConversionParameters(Parameters):
    """How long the trial is, and when to speak."""

    trial: Duration = days(14)
    """How long the trial lasts, from its start."""
    first_use_within: Duration = days(2)
    """How long to wait for a first use before the tip."""
    halfway_after: Duration = days(7)
    """When to show what else there is, from the trial's start."""
    reminder_before_end: Duration = days(3)
    """How long before the end to say that it is near."""
    last_call_before_end: Duration = hours(24)
    """How long before the end to say it for the last time."""
    grace: Duration = days(3)
    """How long after the end a subscription is still taken for the trial's; the extension is offered then."""
    good_hour_within: Duration = days(4)
    """How long at most to wait for the hour at which the customer is written to; P0D: at any hour."""


@lifecycle(
    "trial_conversion",
    purpose="marketing",
    trigger=on("subscription.trial_start"),
    once_per=days(365),
    exit_on=(
        when("transaction.purchase_complete", reason="converted"),
        when("subscription.trial_cancel", reason="cancelled_trial"),
        when("user.account_deletion", reason="account_closed"),
    ),
)
class TrialConversion(LifecycleWorkflow[TrialConversionParameters]):
    """Accompanies a trial: help with the first use, what else there is, two words before the end, an extension.

    Who has used the product is shown more of it, who hasn't gets a hand: the same reminder would be wrong for one
    of them. The end is told three days and one day ahead, since nobody likes to be surprised by it; after it comes
    one offer to extend, and no more. A purchase ends it at once and makes the customer `active`; whoever doesn't
    buy is `at_risk`. One series a year, however many trials.
    """

    async def journey(self, parameters: TrialConversionParameters) -> None:
        """Help, show, remind twice, offer an extension; a purchase ends it anywhere."""
        ends = self.now() + parameters.trial
        halfway = self.now() + parameters.halfway_after
        used = await self.wait_for_event(
            "engagement.*", within=parameters.first_use_within, name="wait_for_first_use"
        )
        self.variables["used"] = used is not None
        if used is None:
            await self.sleep_until_local(within=parameters.good_hour_within, name="wait_for_morning")
            await self.send("trial_first_steps")
        await self.sleep(halfway - self.now(), name="wait_for_halfway")
        await self.sleep_until_local(time(10), within=parameters.good_hour_within, name="wait_for_ten")
        await self.send("trial_more" if used else "trial_help")
        await self.sleep(ends - parameters.reminder_before_end - self.now(), name="wait_before_reminder")
        await self.send("trial_ends_soon")
        await self.sleep(ends - parameters.last_call_before_end - self.now(), name="wait_before_last_call")
        await self.send("trial_last_call")
        await self.sleep(ends - self.now(), name="wait_for_end")
        await self.sleep_until_local(within=parameters.good_hour_within, name="wait_for_morning_after")
        await self.send("trial_extension")
        await self.sleep(parameters.grace, name="wait_for_late_decision")
        await self.set_stage(LifecycleStage.AT_RISK)
        self.complete(reason="not_converted")

    async def at_exit(self, parameters: TrialConversionParameters, event: RecordedEvent) -> None:
        """A subscription makes an active customer."""
        if event.event_type == "transaction.purchase_complete":
            await self.set_stage(LifecycleStage.ACTIVE)

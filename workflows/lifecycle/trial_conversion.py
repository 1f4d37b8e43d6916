"""Trial conversion: from the first day of a trial to a subscription or to its end."""

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
    """Length of the trial, and times of the messages."""

    trial: Duration = days(14)
    """Length of the trial, from its start."""
    first_use_within: Duration = days(2)
    """How long to wait for a first use before the tip."""
    halfway_after: Duration = days(7)
    """From the start of the trial to the message about further features."""
    reminder_before_end: Duration = days(3)
    """From the first reminder to the end of the trial."""
    last_call_before_end: Duration = hours(24)
    """From the last reminder to the end of the trial."""
    grace: Duration = days(3)
    """How long to wait for a subscription after the end, with an offer to extend."""
    good_hour_within: Duration = days(4)
    """Longest wait for the hour of a message; P0D: send at any hour."""


@lifecycle(
    "trial_conversion",
    purpose="marketing",
    trigger=on("subscription.trial_start"),
    once_per=days(365),
    exit_on=(
        when("transaction.purchase_complete", reason="converted"),
        when("subscription.trial_cancel", reason="cancelled_trial"),
    ),
)
class TrialConversion(LifecycleWorkflow[TrialConversionParameters]):
    """Accompanies a trial: help with the first use, further features, two reminders of the end, an extension.

    A customer who used the product gets a message about further features, any other customer gets help. The
    reminders are sent three days and one day before the end. An offer to extend is sent after the end. A purchase
    ends the series. Purchases and inactivity move the lifecycle stage by rule. A customer gets at most one series
    in a year. No message is sent at night. A reminder whose morning comes after the next reminder,
    or after the end of the trial, is left out.
    """

    async def journey(self, parameters: TrialConversionParameters) -> None:
        ends = self.started_at + parameters.trial
        halfway = self.started_at + parameters.halfway_after
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
        last_call = ends - parameters.last_call_before_end
        if await self.wait_for_good_hour(before=last_call, name="wait_for_morning_before_reminder"):
            await self.send("trial_ends_soon")
        await self.sleep(last_call - self.now(), name="wait_before_last_call")
        if await self.wait_for_good_hour(before=ends, name="wait_for_morning_before_last_call"):
            await self.send("trial_last_call")
        await self.sleep(ends - self.now(), name="wait_for_end")
        await self.sleep_until_local(within=parameters.good_hour_within, name="wait_for_morning_after")
        await self.send("trial_extension")
        await self.sleep(parameters.grace, name="wait_for_late_decision")
        if not self.patched("stages-by-rule"):
            await self.set_stage(LifecycleStage.AT_RISK)
        self.complete(reason="not_converted")

    async def at_exit(self, parameters: TrialConversionParameters, event: RecordedEvent) -> None:
        if event.event_type == "transaction.purchase_complete" and not self.patched("stages-by-rule"):
            await self.set_stage(LifecycleStage.ACTIVE)

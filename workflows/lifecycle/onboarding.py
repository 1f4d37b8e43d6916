"""Onboarding: a customer's first days."""

from __future__ import annotations

from workflows.authoring import Duration, LifecycleStage, LifecycleWorkflow, Parameters, days, lifecycle, on


class OnboardingParameters(Parameters):
    """Times of the waits."""

    first_activity_within: Duration = days(3)
    """How long to wait for a first activity before the nudge."""
    nudge_within: Duration = days(4)
    """How long to wait for an activity after the nudge."""


@lifecycle(
    "onboarding",
    purpose=None,
    trigger=on("user.signup"),
    once=True,
)
class Onboarding(LifecycleWorkflow[OnboardingParameters]):
    """Welcomes a new customer, waits for a first activity, nudges once, and sets the lifecycle stage.

    A service workflow: its messages belong to the account, so it needs no consent. An account has one onboarding,
    whether a sign-up or a request starts it, unless a request asks for it `again`. A customer with an activity
    gets the stage `active`; one without, also after the nudge, gets `at_risk`.
    """

    async def journey(self, parameters: OnboardingParameters) -> None:
        await self.send("welcome")
        activity = await self.wait_for_event(
            "engagement.*", within=parameters.first_activity_within, name="wait_for_first_activity"
        )
        self.variables["nudged"] = activity is None
        if activity is None:
            await self.send("onboarding_nudge", name="send_nudge")
            activity = await self.wait_for_event(
                "engagement.*", within=parameters.nudge_within, name="wait_after_nudge"
            )
        await self.set_stage(LifecycleStage.ACTIVE if activity else LifecycleStage.AT_RISK)
        self.complete(reason="activated" if activity else "no_activity")

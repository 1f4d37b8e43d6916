"""Churn prevention: noticing that somebody falls silent, while it still helps."""

from __future__ import annotations

from datetime import datetime, time, timedelta

from workflows.authoring import Duration, LifecycleStage, LifecycleWorkflow, Parameters, days, lifecycle, on, when


class ChurnPreventionParameters(Parameters):
    """What counts as silence, and how long to try."""

    silent_for: Duration = days(14)
    """How long nothing may be heard of a customer who is well."""
    watch_for: Duration = days(60)
    """How long to watch; the next login after that begins a new watch."""
    return_within: Duration = days(7)
    """How long to wait for the customer after the first message."""
    answer_within: Duration = days(14)
    """How long to wait after the second."""
    good_hour_within: Duration = days(4)
    """How long at most to wait for the hour at which the customer is written to; P0D: at any hour."""


@lifecycle(
    "churn_prevention",
    purpose="marketing",
    trigger=on("user.login"),
    once_per=days(60),
    exit_on=when("user.account_deletion", reason="account_closed"),
)
class ChurnPrevention(LifecycleWorkflow[ChurnPreventionParameters]):
    """Watches over an active customer; after two weeks of silence writes twice, and tells when it was in vain.

    A login begins a watch of sixty days. Most customers never notice it: no event wakes it, it looks into the log
    once in a fortnight. Who falls silent is `at_risk` and gets a message at ten in the morning where they live,
    and a week later a question what is missing. Whoever comes back is `active` again; whoever doesn't is
    `dormant`, which is said by an event, so that win-back takes over.
    """

    async def journey(self, parameters: ChurnPreventionParameters) -> None:
        """Watch; on silence write, wait, ask, wait; then say how it ended."""
        silent = await self.wait_for_silence(
            "*", lasting=parameters.silent_for, within=parameters.watch_for, name="watch"
        )
        if not silent:
            return self.complete(reason="stayed_active")
        at_risk_since = self.now()
        await self.set_stage(LifecycleStage.AT_RISK)
        for message, within in (
            ("we_miss_you", parameters.return_within),
            ("what_is_missing", parameters.answer_within),
        ):
            await self.sleep_until_local(
                time(10), within=parameters.good_hour_within, name=f"wait_for_ten_before_{message}"
            )
            if await self._back(at_risk_since, days(0), name=f"look_before_{message}"):
                return await self._retained()
            await self.send(message)
            if await self._back(at_risk_since, within, name=f"wait_after_{message}"):
                return await self._retained()
        await self.set_stage(LifecycleStage.DORMANT)
        await self.emit("lifecycle.dormant")
        return self.complete(reason="dormant")

    async def _back(self, since: datetime, within: timedelta, *, name: str) -> bool:
        return await self.wait_for_event("engagement.*", within=within, since=since, name=name) is not None

    async def _retained(self) -> None:
        await self.set_stage(LifecycleStage.ACTIVE)
        self.complete(reason="retained")

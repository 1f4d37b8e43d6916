"""Churn prevention: messages to a customer who becomes inactive."""

from __future__ import annotations

from datetime import datetime, time, timedelta

from workflows.authoring import Duration, LifecycleStage, LifecycleWorkflow, Parameters, days, lifecycle, on


class ChurnPreventionParameters(Parameters):
    """Times of inactivity and of the messages."""

    inactive_for: Duration = days(14)
    """How long a customer has no event before they count as inactive."""
    watch_for: Duration = days(60)
    """How long to watch; the next login after that begins a new watch."""
    return_within: Duration = days(7)
    """How long to wait for activity after the first message."""
    answer_within: Duration = days(14)
    """How long to wait for activity after the second."""
    good_hour_within: Duration = days(4)
    """Longest wait for the hour of a message; P0D: send at any hour."""


@lifecycle(
    "churn_prevention",
    purpose="marketing",
    trigger=on("user.login"),
    once_per=days(60),
)
class ChurnPrevention(LifecycleWorkflow[ChurnPreventionParameters]):
    """Watches an active customer, and sends two messages after two weeks of inactivity.

    A login begins a watch of sixty days. It reads the log once in two weeks, and no event wakes it. An inactive
    customer becomes `at_risk` and gets a message at ten in the morning, local time, and another one a week later.
    A customer who returns becomes `active` again. Otherwise the customer becomes `dormant`, and the event
    `lifecycle.dormant` starts win-back.
    """

    async def journey(self, parameters: ChurnPreventionParameters) -> None:
        inactive = await self.wait_for_inactivity(
            "*", lasting=parameters.inactive_for, within=parameters.watch_for, name="watch"
        )
        if not inactive:
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
            if await self._returned(at_risk_since, days(0), name=f"check_before_{message}"):
                return await self._retained()
            await self.send(message)
            if await self._returned(at_risk_since, within, name=f"wait_after_{message}"):
                return await self._retained()
        await self.set_stage(LifecycleStage.DORMANT)
        await self.emit("lifecycle.dormant")
        return self.complete(reason="dormant")

    async def _returned(self, since: datetime, within: timedelta, *, name: str) -> bool:
        return await self.wait_for_event("engagement.*", within=within, since=since, name=name) is not None

    async def _retained(self) -> None:
        await self.set_stage(LifecycleStage.ACTIVE)
        self.complete(reason="retained")

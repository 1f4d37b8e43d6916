"""Churn prevention: messages to a customer who becomes inactive."""

from __future__ import annotations

from datetime import datetime, time, timedelta

from workflows.authoring import (
    Duration,
    LifecycleStage,
    LifecycleWorkflow,
    Parameters,
    days,
    lifecycle,
    on,
    when,
)


class ChurnPreventionParameters(Parameters):
    """Times of the messages."""

    inactive_for: Duration = days(14)
    """Without effect on new instances: the lifecycle stages have the periods of inactivity."""
    watch_for: Duration = days(60)
    """Without effect on new instances, as `inactive_for`."""
    return_within: Duration = days(7)
    """How long to wait for activity after the first message."""
    answer_within: Duration = days(14)
    """How long to wait for activity after the second."""
    good_hour_within: Duration = days(4)
    """Longest wait for the hour of a message; P0D: send at any hour."""


@lifecycle(
    "churn_prevention",
    purpose="marketing",
    trigger=on("lifecycle.stage_changed", to="at_risk", max_age=days(1)),
    once_per=days(60),
    exit_on=(
        when("user.login", reason="retained"),
        when("engagement.*", reason="retained"),
        when("transaction.purchase_complete", reason="retained"),
        when("lifecycle.stage_changed", reason="retained", to="active"),
        when("lifecycle.stage_changed", reason="dormant", to="dormant"),
    ),
)
class ChurnPrevention(LifecycleWorkflow[ChurnPreventionParameters]):
    """Sends two messages to a customer who has become `at_risk`.

    The first is sent at ten in the morning, local time, and the second a week later. A customer who returns gets
    no more: any activity ends the series, and the rules of the lifecycle stages make the customer `active`. They
    also make an inactive customer `dormant`, which ends the series and starts win-back. This workflow sets no
    stage. A customer gets at most one series in sixty days.
    """

    async def journey(self, parameters: ChurnPreventionParameters) -> None:
        by_login = self.trigger is not None and self.trigger.event_type == "user.login"
        if by_login or not self.patched("begins-at-risk"):
            return await self._watch(parameters)
        for message, within in (
            ("we_miss_you", parameters.return_within),
            ("what_is_missing", parameters.answer_within),
        ):
            await self.sleep_until_local(
                time(10), within=parameters.good_hour_within, name=f"wait_for_ten_before_{message}"
            )
            await self.send(message)
            await self.sleep(within, name=f"wait_after_{message}")
        return self.complete(reason="not_returned")

    async def _watch(self, parameters: ChurnPreventionParameters) -> None:
        """The journey of instances that a login started, or a request before the stages had rules."""
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

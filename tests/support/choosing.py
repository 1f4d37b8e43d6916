"""Lifecycle workflows for tests that decide; without pytest, as the sandbox imports this module for each run."""

from __future__ import annotations

from typing import Any

from workflows.authoring import (
    Duration,
    KnownProfile,
    LifecycleWorkflow,
    Parameters,
    RecordedEvent,
    days,
    lifecycle,
    parameter,
    when,
)


class Choice(Parameters):
    """How long to wait."""

    patience: Duration = days(1)
    """For the events."""
    plan: str = "pro"
    """The plan that counts."""


class _Reads(LifecycleWorkflow[Choice]):
    async def journey(self, parameters: Choice) -> None:
        self._show_profile("before", await self.profile())
        if await self.wait_for_event("profile.again", within=parameters.patience, name="wait"):
            self._show_profile("after", await self.profile())

    def _show_profile(self, name: str, profile: KnownProfile) -> None:
        self.variables[name] = profile.model_dump(mode="json", exclude={"signup_date"})


@lifecycle("reader", purpose="marketing")
class Reader(_Reads):
    """Shows what a marketing workflow knows."""


@lifecycle("account_reader", purpose=None)
class AccountReader(_Reads):
    """Shows what a service knows."""


@lifecycle("chooser", purpose=None)
class Chooser(LifecycleWorkflow[Choice]):
    """Goes the way that the first of three events shows."""

    async def journey(self, parameters: Choice) -> None:
        event = await self.wait_for_any_event(
            [when("billing.paid", plan=parameter("plan")), "billing.cancelled", "account.*"],
            within=parameters.patience,
            name="wait_for_the_end",
        )
        if self.condition("is_over", event):
            await self.send("welcome")
        self.condition("is_late", value=False)
        self.complete(reason=_reason(event))


class Opening(Parameters):
    """What the other workflow gets."""

    patience: str = "PT1H"


@lifecycle("opener", purpose=None)
class Opener(LifecycleWorkflow[Opening]):
    """Starts a marketing workflow for its customer."""

    async def journey(self, parameters: Opening) -> None:
        started = await self.start_workflow("reader", {"patience": parameters.patience})
        self.complete(reason="started" if started.started else started.reason or "unknown")


def _reason(event: RecordedEvent | None) -> str:
    return event.event_type if event else "nothing"


CHOOSING: list[type[LifecycleWorkflow[Any]]] = [Reader, AccountReader, Chooser, Opener]

"""Journeys whose steps can be made to fail."""

from __future__ import annotations

import asyncio
from collections import Counter
from datetime import timedelta

from temporalio import activity, workflow
from temporalio.common import RetryPolicy
from temporalio.exceptions import ActivityError

with workflow.unsafe.imports_passed_through():
    from models.rules.durations import Duration
    from models.temporal.execution import RecordedEvent, StepInput, TemporalPayload
    from workflows.base import LifecycleWorkflow
    from workflows.catalog import Parameters, lifecycle
    from workflows.policies import STORE, StepPolicy


class Done(TemporalPayload):
    """The result of a step."""

    step: str


class Effects:
    """Counts the effects of steps. Steps in ``failing`` and ``missing`` raise, steps in ``slow`` take seconds."""

    def __init__(self) -> None:
        self.counts: Counter[str] = Counter()
        self.failing: set[str] = set()
        self.missing: set[str] = set()
        self.slow: dict[str, float] = {}

    @activity.defn(name="test.act")
    async def act(self, message: StepInput) -> Done:
        step = message.step_context.step
        if step in self.slow:
            await asyncio.sleep(self.slow[step])
        if step in self.missing:
            raise KeyError(step)
        if step in self.failing:
            raise ValueError(f"{step} does not work for ada@example.com")
        self.counts[step] += 1
        return Done(step=step)


IMPATIENT = StepPolicy(
    retry=RetryPolicy(initial_interval=timedelta(milliseconds=100)), max_attempts=9, non_retryable=(LookupError,)
)
HOURLY = StepPolicy(retry=RetryPolicy(initial_interval=timedelta(hours=1)))


class Waits(Parameters):
    """How long the journey sleeps."""

    rest: Duration = timedelta(0)


@lifecycle("in_a_row", purpose=None, exit_on="shop.leave")
class InARow(LifecycleWorkflow[Waits]):
    """Three steps, the second as a local activity."""

    async def journey(self, parameters: Waits) -> None:
        await self.step("first", Effects.act, StepInput())
        self.variables["first"] = True
        await self.step("local", Effects.act, StepInput(), policy=STORE)
        await self.step("outside", Effects.act, StepInput())
        self.variables["all"] = True

    async def at_exit(self, parameters: Waits, event: RecordedEvent) -> None:
        await self.step("farewell", Effects.act, StepInput())


@lifecycle("side_by_side", purpose=None, exit_on="shop.leave")
class SideBySide(LifecycleWorkflow[Waits]):
    """Parallel steps, and one after them."""

    async def journey(self, parameters: Waits) -> None:
        await self.step("before", Effects.act, StepInput())
        await asyncio.gather(*(self.step(name, Effects.act, StepInput()) for name in ("one", "two", "three")))
        await self.step("after", Effects.act, StepInput())


@lifecycle("with_a_wait", purpose=None, exit_on="shop.leave")
class WithAWait(LifecycleWorkflow[Waits]):
    """A wait for an event, parallel to a step."""

    async def journey(self, parameters: Waits) -> None:
        event, _ = await asyncio.gather(
            self.wait_for_event("shop.visit", within=timedelta(days=1)),
            self.step("beside", Effects.act, StepInput()),
        )
        self.variables["visited"] = event is not None


class Rounds(Waits):
    """How often the journey sleeps."""

    rounds: int = 1


@lifecycle("catches_failures", purpose=None)
class CatchesFailures(LifecycleWorkflow[Rounds]):
    """Catches the failure of a step, runs other steps, and raises the failure then."""

    async def journey(self, parameters: Rounds) -> None:
        await self.step("before", Effects.act, StepInput())
        tried = (self.step(name, Effects.act, StepInput()) for name in ("one", "two", "three"))
        failures = [each for each in await asyncio.gather(*tried, return_exceptions=True) if each is not None]
        for _ in range(parameters.rounds):
            await self.step("round", Effects.act, StepInput(), policy=STORE)
            await self.sleep(parameters.rest)
        for failure in failures:
            if isinstance(failure, ActivityError):
                raise failure
        await self.step("after", Effects.act, StepInput())


@lifecycle("patient", purpose=None, exit_on="shop.leave")
class Patient(LifecycleWorkflow[Waits]):
    """A step that is tried again after an hour, after one with a number of attempts and an error of its own."""

    async def journey(self, parameters: Waits) -> None:
        await self.step("twice", Effects.act, StepInput(), policy=IMPATIENT, max_attempts=2)
        await self.step("hourly", Effects.act, StepInput(), policy=HOURLY)


def _bug() -> None:
    raise KeyError("the journey has a bug")


@lifecycle("fixed", purpose=None)
class Buggy(LifecycleWorkflow[Waits]):
    """Raises in its own code."""

    async def journey(self, parameters: Waits) -> None:
        await self.step("first", Effects.act, StepInput())
        _bug()


@lifecycle("fixed", purpose=None)
class Fixed(LifecycleWorkflow[Waits]):
    """The same workflow without the bug."""

    async def journey(self, parameters: Waits) -> None:
        await self.step("first", Effects.act, StepInput())
        await self.step("second", Effects.act, StepInput())


@lifecycle("fixed", purpose=None)
class FixedWithAWait(LifecycleWorkflow[Waits]):
    """The same workflow without the bug, with a wait in its place."""

    async def journey(self, parameters: Waits) -> None:
        await self.step("first", Effects.act, StepInput())
        await self.wait_for_event("shop.visit", within=timedelta(days=1))

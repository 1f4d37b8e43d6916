"""Journeys whose steps fail on demand."""

from __future__ import annotations

import asyncio
from collections import Counter
from datetime import timedelta

from temporalio import activity, workflow
from temporalio.exceptions import ActivityError

with workflow.unsafe.imports_passed_through():
    from models.rules.durations import Duration
    from models.temporal.execution import StepInput, TemporalPayload
    from workflows.base import LifecycleWorkflow
    from workflows.catalog import Parameters, lifecycle
    from workflows.policies import STORE


class Done(TemporalPayload):
    """The result of an act."""

    step: str


class Acts:
    """Counts its effects, and fails at the steps in ``failing``."""

    def __init__(self) -> None:
        self.effects: Counter[str] = Counter()
        self.failing: set[str] = set()
        self.slow: dict[str, float] = {}

    @activity.defn(name="test.act")
    async def act(self, message: StepInput) -> Done:
        """The effect."""
        step = message.step_context.step
        if step in self.slow:
            await asyncio.sleep(self.slow[step])
        if step in self.failing:
            raise ValueError(f"{step} does not work for ada@example.com")
        self.effects[step] += 1
        return Done(step=step)


class Waits(Parameters):
    """How long the journey sleeps."""

    rest: Duration = timedelta(0)


@lifecycle("in_a_row", purpose=None)
class InARow(LifecycleWorkflow[Waits]):
    """Three steps, of which the second may be a local one."""

    async def journey(self, parameters: Waits) -> None:
        await self.step("first", Acts.act, StepInput())
        self.variables["first"] = True
        await self.step("local", Acts.act, StepInput(), policy=STORE)
        await self.step("outside", Acts.act, StepInput())
        self.variables["all"] = True


@lifecycle("side_by_side", purpose=None)
class SideBySide(LifecycleWorkflow[Waits]):
    """Steps at the same time, with one before and one after them."""

    async def journey(self, parameters: Waits) -> None:
        await self.step("before", Acts.act, StepInput())
        await asyncio.gather(*(self.step(name, Acts.act, StepInput()) for name in ("one", "two", "three")))
        await self.step("after", Acts.act, StepInput())


@lifecycle("with_a_wait", purpose=None, exit_on="shop.leave")
class WithAWait(LifecycleWorkflow[Waits]):
    """Waits for an event beside a step that may fail."""

    async def journey(self, parameters: Waits) -> None:
        event, _ = await asyncio.gather(
            self.wait_for_event("shop.visit", within=timedelta(days=1)),
            self.step("beside", Acts.act, StepInput()),
        )
        self.variables["visited"] = event is not None


@lifecycle("raises_later", purpose=None)
class RaisesLater(LifecycleWorkflow[Waits]):
    """Catches the failure of a step, does further steps, and raises it then."""

    async def journey(self, parameters: Waits) -> None:
        await self.step("before", Acts.act, StepInput())
        tried = (self.step(name, Acts.act, StepInput()) for name in ("one", "two", "three"))
        failures = [each for each in await asyncio.gather(*tried, return_exceptions=True) if each is not None]
        for _ in range(3):
            await self.step("round", Acts.act, StepInput(), policy=STORE)
            await self.sleep(parameters.rest)
        for failure in failures:
            if isinstance(failure, ActivityError):
                raise failure
        await self.step("after", Acts.act, StepInput())


def _bug() -> None:
    raise KeyError("the journey has a bug")


@lifecycle("mended", purpose=None)
class Buggy(LifecycleWorkflow[Waits]):
    """Has a bug."""

    async def journey(self, parameters: Waits) -> None:
        await self.step("first", Acts.act, StepInput())
        _bug()


@lifecycle("mended", purpose=None)
class Mended(LifecycleWorkflow[Waits]):
    """The same without the bug."""

    async def journey(self, parameters: Waits) -> None:
        await self.step("first", Acts.act, StepInput())
        await self.step("second", Acts.act, StepInput())


@lifecycle("mended", purpose=None)
class Patient(LifecycleWorkflow[Waits]):
    """The same without the bug, with a wait in its place."""

    async def journey(self, parameters: Waits) -> None:
        await self.step("first", Acts.act, StepInput())
        await self.wait_for_event("shop.visit", within=timedelta(days=1))

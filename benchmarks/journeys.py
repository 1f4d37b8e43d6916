"""The benchmarks' own lifecycle workflows, which :mod:`benchmarks.program` adds to the shipped ones."""

from __future__ import annotations

from activities.profiles import Profiles
from models.temporal.execution import StageChange
from workflows.authoring import (
    OUTSIDE,
    STORE,
    Duration,
    LifecycleStage,
    LifecycleWorkflow,
    Parameters,
    days,
    lifecycle,
)

STAGES = (LifecycleStage.ACTIVE, LifecycleStage.AT_RISK, LifecycleStage.ONBOARDING)
"""The stages of the three steps; all users of the benchmarks begin in the last."""


class Stepping(Parameters):
    """Parameters of :class:`ThreeSteps`."""

    apart: bool = False
    """Run the steps as ordinary activities, as calls to other systems are; else as local ones."""


@lifecycle("three_steps", purpose=None)
class ThreeSteps(LifecycleWorkflow[Stepping]):
    """Three short steps that change a row each."""

    async def journey(self, parameters: Stepping) -> None:
        policy = OUTSIDE if parameters.apart else STORE
        for number, stage in enumerate(STAGES, start=1):
            await self.step(f"move_{number}", Profiles.set_stage, StageChange(stage=stage), policy=policy)
        self.complete(reason="moved")


class Patience(Parameters):
    """Parameters of :class:`Patient`."""

    patience: Duration = days(180)
    """How long to wait for an event that is never sent."""


@lifecycle("patient", purpose=None)
class Patient(LifecycleWorkflow[Patience]):
    """Waits for months."""

    async def journey(self, parameters: Patience) -> None:
        found = await self.wait_for_event("bench.never", within=parameters.patience, name="wait_for_months")
        self.complete(reason="found" if found else "nothing")

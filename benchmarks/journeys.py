"""Lifecycle workflows of the benchmarks' own, beside the shipped ones; see :mod:`benchmarks.program`."""

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
"""Where the three steps move the customer; the last is where all of the benchmarks' customers begin."""


class Stepping(Parameters):
    """How the steps are carried out."""

    apart: bool = False
    """As ordinary activities, which is how a step calls the outside; else as local ones, as short steps are."""


@lifecycle("three_steps", purpose=None)
class ThreeSteps(LifecycleWorkflow[Stepping]):
    """Three short steps, each of which changes a row."""

    async def journey(self, parameters: Stepping) -> None:
        """Move the customer to three stages."""
        policy = OUTSIDE if parameters.apart else STORE
        for number, stage in enumerate(STAGES, start=1):
            await self.step(f"move_{number}", Profiles.set_stage, StageChange(stage=stage), policy=policy)
        self.complete(reason="moved")


class Patience(Parameters):
    """How long it waits."""

    patience: Duration = days(180)
    """How long to wait for what doesn't come."""


@lifecycle("patient", purpose=None)
class Patient(LifecycleWorkflow[Patience]):
    """Waits for months."""

    async def journey(self, parameters: Patience) -> None:
        """Wait."""
        found = await self.wait_for_event("bench.never", within=parameters.patience, name="wait_for_months")
        self.complete(reason="found" if found else "nothing")

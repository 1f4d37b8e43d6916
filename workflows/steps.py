"""Calling activities: as steps, which have an effect, and as questions, which have none."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, TypeVar

from temporalio import workflow
from temporalio.exceptions import ActivityError, ApplicationError
from temporalio.exceptions import TimeoutError as TemporalTimeout

with workflow.unsafe.imports_passed_through():
    from activities.instances import INSTANCE_UNKNOWN, Instances
    from models.temporal.execution import InstanceQuestion, LifecycleOutcome, StepInput, TemporalPayload
    from models.temporal.public_text import PublicText, in_words
    from models.vocabulary import InstanceStatus
    from workflows.memory import step_failure
    from workflows.policies import STORE, StepPolicy

A = TypeVar("A", bound=StepInput)
Q = TypeVar("Q", bound=TemporalPayload)
R = TypeVar("R")


@dataclass(eq=False)
class _Trial:
    handle: workflow.ActivityHandle[Any]
    patience: timedelta
    """How long an attempt may take."""


class Trials:
    """Steps that call the world outside, while they are tried; an exit waits for an attempt, not for all. And the
    branches of a journey that do steps and wait."""

    def __init__(self) -> None:
        self.over = False
        """Whether the journey has ended, so that no branch of it goes on."""
        self._doing = 0
        self._branches: dict[asyncio.Task[Any], None] = {}
        self._under_way: dict[str, _Trial] = {}
        self._let_be: set[_Trial] = set()
        self._broken_off: set[str] = set()

    async def follow(self, step: str, handle: workflow.ActivityHandle[R], policy: StepPolicy) -> R:
        """Wait for a step."""
        self._under_way[step] = _Trial(handle, policy.attempt_timeout)
        try:
            return await handle
        finally:
            del self._under_way[step]

    def branch(self) -> None:
        """The present task is about to do a step, or to wait."""
        if (task := asyncio.current_task()) is not None:
            self._branches[task] = None

    @contextlib.contextmanager
    def doing(self) -> Iterator[None]:
        """A step is done meanwhile."""
        self._doing += 1
        try:
            yield
        finally:
            self._doing -= 1

    async def end_beside(self, journey: asyncio.Task[None]) -> None:
        """The journey has ended, and with it the branches that it had beside: a step under way ends first, as with
        an exit; what waits is cancelled."""
        beside = [task for task in self._branches if task is not journey and not task.done()]
        if not beside or not workflow.patched("branches-end-with-the-journey"):
            return
        self.over = True
        try:
            while self._doing:
                await workflow.wait_condition(lambda: not self._doing or self.hold_up())
                if self.hold_up():
                    await self.break_off(lambda: True)
        finally:
            for task in beside:
                task.cancel()
        await workflow.wait(beside)

    def hold_up(self) -> bool:
        """Whether a step is under way that an exit has not met yet."""
        return any(trial not in self._let_be for trial in self._under_way.values())

    def broke_off(self, step: str) -> bool:
        """Whether it was an exit that ended a step."""
        return step in self._broken_off

    async def break_off(self, may: Callable[[], bool]) -> None:
        """An exit has come: let the attempts that are under way end, then give those steps up that go on failing,
        as soon as that ``may`` be."""
        met = dict(self._under_way)
        self._let_be.update(met.values())
        if not workflow.patched("exits-end-retries"):
            return

        def going_on() -> dict[str, _Trial]:
            return {step: trial for step, trial in met.items() if self._under_way.get(step) is trial}

        with contextlib.suppress(TimeoutError):
            await workflow.wait_condition(
                lambda: not going_on(),
                timeout=max(trial.patience for trial in met.values()),
                timeout_summary=PublicText("Wait for the attempt under way"),
            )
        await workflow.wait_condition(lambda: may() or not going_on())
        for step, trial in going_on().items():
            self._broken_off.add(step)
            trial.handle.cancel()


async def perform(
    activity: Callable[[Any, A], Awaitable[R]], message: A, step: str, policy: StepPolicy, trials: Trials
) -> R:
    """Carry a step out: one that touches Postgres alone as a local activity, any other as an ordinary one."""
    if policy is STORE:
        try:
            return await workflow.execute_local_activity_method(
                activity,
                message,
                activity_id=step,
                start_to_close_timeout=policy.attempt_timeout,
                retry_policy=policy.retry,
                summary=PublicText(in_words(step)),
            )
        except (ApplicationError, TemporalTimeout) as error:  # the SDK tells of these without the step
            raise step_failure(step, error) from error
    handle = workflow.start_activity_method(
        activity,
        message,
        activity_id=step,
        start_to_close_timeout=policy.attempt_timeout,
        heartbeat_timeout=policy.heartbeat_timeout,
        retry_policy=policy.retry,
        summary=PublicText(in_words(step)),
    )
    return await trials.follow(step, handle, policy)


async def stored_end(error: BaseException, instance_id: str) -> LifecycleOutcome | None:
    """How an instance has been completed before, where that is why a step was refused; None for any other failure.

    Its end is recorded in the workflow task that completes it. If Temporal refuses that task, since a signal came
    meanwhile, it is done again with the signal, and may take another course; what was recorded stays.
    """
    cause = error.cause if isinstance(error, ActivityError) else None
    if not isinstance(cause, ApplicationError) or cause.type != INSTANCE_UNKNOWN:
        return None
    question = InstanceQuestion(instance_id=instance_id)
    outcome = (await ask(Instances.end, question, "Look how the instance has ended")).outcome
    return outcome if outcome is not None and outcome.status is InstanceStatus.COMPLETED else None


async def ask(activity: Callable[[Any, Q], Awaitable[R]], question: Q, summary: str) -> R:
    """Look something up in Postgres. The answer isn't recorded as a step; a repeated one may be newer."""
    return await workflow.execute_local_activity_method(
        activity,
        question,
        start_to_close_timeout=STORE.attempt_timeout,
        retry_policy=STORE.retry,
        summary=PublicText(summary),
    )

"""What every lifecycle workflow is made of: steps, waits, pause, cancel, outcome.

An author writes :meth:`LifecycleWorkflow.journey` and nothing else. Everything here is deterministic; what is
recorded in Postgres is recorded by activities, around steps by the interceptor of :mod:`activities.recording`.

What a crash does: Temporal replays the journey up to where it stood. A step whose result was recorded is not
done again; a wait goes on until its original deadline, since the timer lives in Temporal.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Mapping
from datetime import datetime, timedelta
from typing import Any, ClassVar, Generic, TypeVar

from temporalio import workflow
from temporalio.exceptions import ApplicationError, FailureError

with workflow.unsafe.imports_passed_through():
    from activities.instances import Instances
    from activities.messages import Messages
    from activities.profiles import Profiles
    from models.messages.execution import (
        CleanUp,
        LifecycleInput,
        LifecycleOutcome,
        Progress,
        Recorded,
        RecordedEvent,
        StageChange,
        StepContext,
        StepFailure,
        StepMessage,
        WaitRequest,
        WaitResult,
    )
    from models.messages.identity import STATUS, STEP
    from models.messages.public_text import PublicText, in_words
    from models.rules.triggers import type_matches
    from models.vocabulary import InstanceStatus, LifecycleStage
    from workflows.catalog import Definition, Parameters
    from workflows.policies import OUTSIDE, STORE, StepPolicy

P = TypeVar("P", bound=Parameters)
A = TypeVar("A", bound=StepMessage)
R = TypeVar("R")


class LifecycleWorkflow(Generic[P]):
    """Base of the lifecycle workflows; declare them with :func:`workflows.catalog.lifecycle`."""

    definition: ClassVar[Definition]

    def __init__(self, start: LifecycleInput) -> None:
        """The start is here from the first moment: a command may be handled before the journey begins."""
        self._start = start
        self.variables: dict[str, Any] = {}
        """What the journey wants to remember and show; JSON values. Written with the next recording."""
        self._recorded_variables: dict[str, Any] = {}
        self._waits: dict[str, WaitResult] = {}
        self._position = 0
        self._events: list[RecordedEvent] = []
        self._told: set[tuple[str, str | None]] = set()
        self._taken: set[str] = set()
        self._names: dict[str, int] = {}
        self._writing = asyncio.Lock()
        self._paused = False
        self._ended = False
        self._current_step: str | None = None
        self._reason: str | None = None

    # What an author writes and calls

    async def journey(self, parameters: P) -> None:
        """What happens to the customer. Returning completes the instance."""
        raise TypeError(f"{type(self).__name__} has no journey")

    async def clean_up(self) -> None:
        """Runs after a cancellation, before the instance ends; withdraws messages that haven't left."""
        await self.step("clean_up", Messages.withdraw, CleanUp(), policy=STORE)

    async def step(
        self,
        name: str,
        activity: Callable[[Any, A], Awaitable[R]],
        message: A,
        *,
        policy: StepPolicy = OUTSIDE,
    ) -> R:
        """Do one step, as an activity: recorded, retried up to the instance's `max_attempts`, done once.

        A name used again gets a number (``remind``, ``remind_2``), since (instance, step) is what makes the
        step's effect happen once. Raises ``ActivityError`` when it has failed for good.
        """
        await self._while_paused()
        step = self._enter(name)
        self._show(InstanceStatus.RUNNING)
        bound = message.model_copy(update={"context": self._context(step)})
        if policy is STORE:
            return await workflow.execute_local_activity_method(
                activity,
                bound,
                activity_id=step,
                start_to_close_timeout=policy.attempt_timeout,
                retry_policy=policy.retry,
                summary=PublicText(in_words(step)),
            )
        return await workflow.execute_activity_method(
            activity,
            bound,
            activity_id=step,
            start_to_close_timeout=policy.attempt_timeout,
            heartbeat_timeout=policy.heartbeat_timeout,
            retry_policy=policy.retry,
            summary=PublicText(in_words(step)),
        )

    async def wait_for_event(
        self,
        event_type: str,
        *,
        within: timedelta,
        where: Mapping[str, Any] | None = None,
        name: str | None = None,
    ) -> RecordedEvent | None:
        """Wait for an event of this user, durably; None when none came ``within`` that time.

        ``event_type`` is a type or a whole category (``engagement.*``), or ``*``; ``where`` names properties
        and the values they must have. Events that were received since the instance began and weren't taken by
        another wait count, also those from before this wait. Pausing doesn't stop the clock: what fell due
        meanwhile happens on resume.
        """
        deadline = workflow.now() + within
        step = self._enter(name or f"wait_for_{event_type.replace('.', '_').replace('*', 'any')}")
        position = self._position
        request = WaitRequest(event_type=event_type, where=dict(where or {}))
        event = await self._first_event(step, request, deadline)
        self._waits[step] = WaitResult(
            position=position,
            event_type=event.event_type if event else None,
            event_id=event.event_id if event else None,
            timed_out=event is None,
        )
        await self._while_paused()
        return event

    async def set_stage(self, stage: LifecycleStage) -> None:
        """Move the customer to a lifecycle stage, unless it is pinned."""
        await self.step("set_stage", Profiles.set_stage, StageChange(stage=stage), policy=STORE)

    def complete(self, *, reason: str) -> None:
        """Say why the journey ends here; then return from it."""
        self._reason = reason

    # What Temporal calls

    async def execute(self) -> LifecycleOutcome:
        """Run the journey. A bug in it becomes an application failure, so that it fails this instance
        visibly instead of blocking the workflow task for ever."""
        try:
            parameters = self.definition.parameters.model_validate(self._start.parameters)
            await self.journey(parameters)  # type: ignore[arg-type]  # the definition's own model
        except (FailureError, asyncio.CancelledError):
            raise
        except Exception as error:
            raise ApplicationError(
                str(error) or type(error).__name__, type=type(error).__name__, non_retryable=True
            ) from error
        return LifecycleOutcome(status=InstanceStatus.COMPLETED, reason=self._reason)

    @workflow.signal
    def event_recorded(self, event: RecordedEvent) -> None:
        """The fact that an event of this user was recorded; the same event again changes nothing."""
        told = (event.event_id, event.step)
        if told not in self._told:
            self._told.add(told)
            self._events.append(event)

    @workflow.update
    async def pause(self) -> None:
        """Hold the instance before its next step. Acknowledged once it shows as paused."""
        self._paused = True
        await self.record()

    @workflow.update
    async def resume(self) -> None:
        """Let a paused instance go on; what fell due meanwhile happens now."""
        self._paused = False
        await self.record()

    @pause.validator
    def _may_pause(self) -> None:
        self._require_running()

    @resume.validator
    def _may_resume(self) -> None:
        self._require_running()

    # What the outcome interceptor calls

    async def record(self) -> None:
        """Write where the instance stands now."""
        await self._write(self._status())

    async def end(self, status: InstanceStatus, error: StepFailure | None = None) -> None:
        """Clean up after a cancellation, then write the end; from here on commands are refused."""
        self._paused = False
        self._ended = True
        if status is InstanceStatus.CANCELLED:
            with contextlib.suppress(FailureError):  # its attempts tell why; the end is recorded all the same
                await self.clean_up()
        await self._write(status, error)
        await workflow.wait_condition(workflow.all_handlers_finished)

    # Parts

    def _status(self) -> InstanceStatus:
        return InstanceStatus.PAUSED if self._paused else InstanceStatus.RUNNING

    async def _first_event(self, step: str, request: WaitRequest, deadline: datetime) -> RecordedEvent | None:
        """Register a wait, take what the log held already, and wait for the first that matches.

        Property filters are checked where the events' bodies can be opened: by whoever tells of them.
        """
        found = await self._write(self._status(), waiting_for=request)
        for earlier in found.events if found else ():
            self.event_recorded(earlier)
        try:
            await workflow.wait_condition(
                lambda: self._matching(step, request.event_type) is not None,
                timeout=max(deadline - workflow.now(), timedelta()),
                timeout_summary=PublicText(in_words(step)),
            )
        except TimeoutError:
            return None
        event = self._matching(step, request.event_type)
        if event is not None:
            self._taken.add(event.event_id)
        return event

    async def _write(
        self,
        status: InstanceStatus,
        error: StepFailure | None = None,
        waiting_for: WaitRequest | None = None,
    ) -> Recorded | None:
        """One writing at a time, so that a pause and a step never overtake each other.

        None where a history from before waits were registered is replayed.
        """
        async with self._writing:
            self._show(status)
            changed = self.variables != self._recorded_variables
            progress = Progress(
                workflow_id=self.definition.workflow_id,
                instance_id=self._start.instance_id,
                user_id=self._start.user_id,
                status=status,
                current_step=self._current_step,
                variables=dict(self.variables) if changed else None,
                waits=dict(self._waits),
                error=error,
                waiting_for=waiting_for,
            )
            self._waits.clear()
            self._recorded_variables = dict(self.variables)
            return await workflow.execute_local_activity_method(
                Instances.record,
                progress,
                start_to_close_timeout=STORE.attempt_timeout,
                retry_policy=STORE.retry,
                summary=PublicText(f"{in_words(status.value)}: {in_words(self._current_step or 'start')}"),
            )

    def _show(self, status: InstanceStatus) -> None:
        workflow.upsert_search_attributes(
            [STATUS.value_set(status.value), STEP.value_set(self._current_step or "")]
        )

    def _require_running(self) -> None:
        if self._ended:
            raise ApplicationError("the instance has ended", type="AlreadyFinished", non_retryable=True)

    async def _while_paused(self) -> None:
        await workflow.wait_condition(lambda: not self._paused)

    def _enter(self, name: str) -> str:
        self._position += 1
        count = self._names[name] = self._names.get(name, 0) + 1
        self._current_step = name if count == 1 else f"{name}_{count}"
        workflow.set_current_details(f"{self.definition.description}\n\nNow: `{self._current_step}`")
        return self._current_step

    def _context(self, step: str) -> StepContext:
        return StepContext(
            workflow_id=self.definition.workflow_id,
            instance_id=self._start.instance_id,
            user_id=self._start.user_id,
            step=step,
            position=self._position,
            max_attempts=self._start.max_attempts,
        )

    def _matching(self, step: str, event_type: str) -> RecordedEvent | None:
        """The first event told for this wait, or for any, that no other wait has taken."""
        for event in self._events:
            free = event.step in (None, step) and event.event_id not in self._taken
            if free and type_matches(event_type, event.event_type):
                return event
        return None

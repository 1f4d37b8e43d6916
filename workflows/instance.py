"""An instance of a lifecycle workflow: how its journey runs, pauses, exits and ends.

Authors derive from :class:`workflows.base.LifecycleWorkflow`, which adds the steps and waits. Activities record
the state in Postgres: :meth:`Instance.record` at each wait and pause, and the interceptor in
:mod:`activities.recording` at each step.

After a crash Temporal replays the journey. A step whose result is in the history is not executed again. A wait
keeps its deadline, because the timer is in the history too.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable, Iterator, Mapping
from copy import deepcopy
from dataclasses import replace
from datetime import datetime, timedelta
from functools import partial
from random import Random
from typing import Any, ClassVar, Generic, TypeVar

from temporalio import workflow
from temporalio.exceptions import ActivityError, ApplicationError, FailureError, is_cancelled_exception
from temporalio.exceptions import TimeoutError as TemporalTimeout

with workflow.unsafe.imports_passed_through():
    from activities.instances import Instances
    from activities.messages import Messages
    from models.temporal.execution import (
        CleanUp,
        ConditionResult,
        ExitRequest,
        LifecycleInput,
        LifecycleOutcome,
        Progress,
        RecordedEvent,
        SleepResult,
        StepContext,
        StepFailure,
        WaitRequest,
        WaitResult,
    )
    from models.temporal.public_text import PublicText, in_words
    from models.vocabulary import InstanceStatus
    from workflows.catalog import Definition, Parameters
    from workflows.inbox import Inbox
    from workflows.naming import LONG_HISTORY, Names, show_details, show_status
    from workflows.policies import OUTSIDE, STORE, StepPolicy
    from workflows.steps import (
        A,
        R,
        failure_of,
        finish,
        is_exit_due,
        start_local,
        start_step,
        step_failure,
        stored_end,
        until_between_attempts,
    )
    from workflows.tasks import cancel, first_failure, raise_if_cancelled, uncancellable

P = TypeVar("P", bound=Parameters)

logger = workflow.LoggerAdapter(logging.getLogger("perennial.workflows"), None)
logger.workflow_info_on_message = False  # it is among the extras


class Instance(Generic[P]):
    definition: ClassVar[Definition]

    def __init__(self, start: LifecycleInput) -> None:
        # The SDK calls this before it handles the first signal or update (`workflow.init`).
        self._start = start
        self._began = workflow.now()
        self.variables: dict[str, Any] = {}
        """JSON values that the API shows with the instance; written by the next recording."""
        self._recorded_variables: dict[str, Any] = {}
        self._wait_results: dict[str, WaitResult | SleepResult | ConditionResult] = {}
        self._inbox = Inbox(start.exits)
        self._exits_registered = False
        # Tasks that have done a step or wait. Not a set: its order may differ in a replay.
        self._branches: dict[asyncio.Task[Any], None] = {}
        self._names = Names()
        self._deadlines: dict[str, datetime] = {}
        self._writing = asyncio.Lock()
        self._paused = False
        """What recordings say. It is False as soon as a resume begins."""
        self._held = False
        """Whether steps, waits and exits are held. A resume lets go once it has read the log."""
        self._in_journey = False
        self._ended = False
        self._current_step: str | None = None
        self._reason: str | None = None

    async def journey(self, parameters: P) -> None:
        """The steps and waits of the workflow. Returning completes the instance."""
        raise TypeError(f"{type(self).__name__} has no journey")

    async def at_exit(self, parameters: P, event: RecordedEvent) -> None:
        """Called after an event of ``exit_on`` has ended the journey, before the instance completes."""

    async def clean_up(self) -> None:
        """Called after Temporal's cancellation, before the instance ends. Withdraws unsent messages."""
        await self.step("clean_up", Messages.withdraw, CleanUp(), policy=STORE)

    def now(self) -> datetime:
        """The current time in UTC. A replay returns the same value."""
        return workflow.now()

    @property
    def random(self) -> Random:
        """Random numbers. A replay gets the same ones."""
        return workflow.random()

    @property
    def user_id(self) -> str:
        return self._start.user_id

    @property
    def trigger(self) -> RecordedEvent | None:
        """The event that started the instance; None for a request. :meth:`properties_of` reads its properties."""
        return self._start.trigger

    async def step(
        self,
        name: str,
        activity: Callable[[Any, A], Awaitable[R]],
        message: A,
        *,
        policy: StepPolicy = OUTSIDE,
        max_attempts: int | None = None,
    ) -> R:
        """Execute a step as an activity, with up to `max_attempts` attempts, and record its result.

        The policy, or ``max_attempts`` in its place, may set another number than the workflow's, within a number
        of the request or an admin.

        (instance, step) is the idempotency key. So a repeated name gets a number (``remind``, ``remind_2``), and
        concurrent branches need different step names: otherwise a replay could swap their numbers. Raises
        ``ActivityError`` when the last attempt has failed.
        """
        await self._while_paused()
        step = self._enter(name)
        show_status(InstanceStatus.RUNNING, step)
        if any(isinstance(each, ConditionResult) for each in self._wait_results.values()):
            await self.record()  # the step may be retried for long
        if max_attempts is not None:
            policy = replace(policy, max_attempts=max_attempts)
        bound = message.model_copy(update={"context": self._context(step, policy)})
        while True:
            try:
                handle = start_step(activity, bound, step, policy)
                # An exit doesn't cancel a step that only uses Postgres: it completes once Postgres is back.
                give_up = None if policy.local else partial(self._give_up, handle, step, policy)
                return await finish(handle, give_up)
            except (ApplicationError, TemporalTimeout, ActivityError) as error:
                if is_exit_due(error):
                    await self._take_due_exit()
                elif isinstance(error, ActivityError):
                    raise
                else:  # a local activity's error doesn't name the step
                    raise step_failure(step, error) from error

    def complete(self, *, reason: str) -> None:
        """Set the reason with which the instance completes; then return from the journey."""
        self._reason = reason

    # Called by Temporal.

    async def execute(self) -> LifecycleOutcome:
        """Run the journey and record how it ended.

        A terminated or timed-out run executes no more code; the reconciler reads those ends from Temporal.
        """
        try:
            outcome = await self._outcome()
        except (asyncio.CancelledError, FailureError) as error:
            # As in the SDK: a CancelledError without a cancellation request closes the run as failed.
            if workflow.cancellation_reason() is not None and is_cancelled_exception(error):
                await uncancellable(self._end(InstanceStatus.CANCELLED))
            else:
                await uncancellable(self._end(InstanceStatus.FAILED, failure_of(error)))
            raise
        await uncancellable(self._end(InstanceStatus.COMPLETED))
        return outcome

    async def _outcome(self) -> LifecycleOutcome:
        """Run the journey. A bug in it becomes an ApplicationError, which fails the instance.

        Temporal would retry the workflow task without limit on any other exception.
        """
        try:
            parameters = self.definition.parameters_from(self._start.parameters)
            await self._run_journey(parameters)  # type: ignore[arg-type]  # the definition's own model
        except (FailureError, asyncio.CancelledError) as error:
            if earlier := await stored_end(error, self._start.instance_id):
                return earlier
            raise
        except Exception as error:
            raise ApplicationError(
                str(error) or type(error).__name__, type=type(error).__name__, non_retryable=True
            ) from error
        return LifecycleOutcome(status=InstanceStatus.COMPLETED, reason=self._reason)

    async def _end(self, status: InstanceStatus, error: StepFailure | None = None) -> None:
        """Clean up after a cancellation, then record the end. Rejects pause and resume from here on."""
        self._paused = self._held = self._in_journey = False
        self._ended = True
        if status is InstanceStatus.CANCELLED:
            with contextlib.suppress(FailureError):  # the attempts of the step show the failure
                await self.clean_up()
        await self._write(status, error=error)
        # Otherwise a pause or resume that is still being recorded would fail.
        await workflow.wait_condition(workflow.all_handlers_finished)

    @workflow.signal
    def event_recorded(self, event: RecordedEvent) -> None:
        """An event of this user was recorded. A repeated signal changes nothing."""
        self._inbox.add(event)

    @workflow.update
    async def pause(self) -> None:
        """Hold the instance before its next step and attempt. Returns once Postgres has the status."""
        self._paused = self._held = True
        await self.record()

    @workflow.update
    async def resume(self) -> None:
        """Continue a paused instance. Waits and exits that became due meanwhile take effect now.

        The signal of an exit may still be under way, so the log is read before any step begins.
        """
        self._paused = False
        if not workflow.patched("exits-before-resume"):
            self._held = False
            await self.record()
            return
        try:
            await self.record(self._inbox.exits)
        finally:
            self._held = self._paused  # True after another pause meanwhile

    @pause.validator
    def _may_pause(self) -> None:
        self._require_running()

    @resume.validator
    def _may_resume(self) -> None:
        self._require_running()

    def _require_running(self) -> None:
        if self._ended:
            raise ApplicationError("the instance has ended", type="AlreadyFinishedError", non_retryable=True)

    # The journey and its exits (ADR 0021).

    async def _run_journey(self, parameters: P) -> None:
        """Run the journey until it returns, fails, exits or is cancelled. Then cancel all of its branches."""
        journey = asyncio.create_task(self.journey(parameters))
        self._branches[journey] = None
        self._in_journey = True
        due = None
        try:
            await workflow.wait_condition(lambda: journey.done() or self._due_exit() is not None)
            due = self._due_exit()
            await cancel(self._branches)
            if due:
                await self._while_paused()
        except asyncio.CancelledError:  # from Temporal: an exit cancels the branches, not this task
            await cancel([journey])  # before its branches: its `finally` may need them
            await cancel(self._branches)
            if due or journey.cancelled():
                raise
        error = None if due and journey.cancelled() else journey.exception()
        if error is not None:
            raise first_failure(error)
        if due:
            exit_request, event = due
            self._reason = exit_request.reason
            self._in_journey = False
            await self.at_exit(parameters, event)

    def _due_exit(self) -> tuple[ExitRequest, RecordedEvent] | None:
        return None if self._held else self._inbox.exit

    async def _take_due_exit(self) -> None:
        """Wait for the exit that the log holds; return if it is no longer due.

        An activity found it before an attempt at a step. The exit then cancels this task, after a pause.
        """
        await self.record(self._inbox.exits)
        raise_if_cancelled()
        if self._inbox.exit is not None:
            await workflow.wait_condition(lambda: False)

    async def _give_up(self, handle: workflow.ActivityHandle[Any], step: str, policy: StepPolicy) -> None:
        """Cancel a step for an exit once no attempt is under way. A pause holds the exit, and so this too."""
        await until_between_attempts(handle, self._start.instance_id, step, policy.attempt_timeout)
        await workflow.wait_condition(lambda: handle.done() or not self._held)
        handle.cancel()

    # Building blocks of steps and waits.

    def _enter(self, name: str) -> str:
        """Begin a step or wait; return its name, made unique in the instance."""
        task = asyncio.current_task()
        assert task is not None  # workflow code runs in tasks
        self._branches[task] = None
        raise_if_cancelled()
        step = self._current_step = self._names.unique(name)
        long = workflow.info().is_continue_as_new_suggested()
        if long and "long_history" not in self.variables:
            self.variables["long_history"] = LONG_HISTORY
            logger.warning(LONG_HISTORY)
        show_details(self.definition.description, step, long=long)
        return step

    def _context(self, step: str, policy: StepPolicy) -> StepContext:
        return StepContext(
            workflow_id=self.definition.workflow_id,
            instance_id=self._start.instance_id,
            user_id=self._start.user_id,
            step=step,
            position=self._names.positions[step],
            max_attempts=policy.attempts(self._start.max_attempts, limited=self._start.limits_attempts),
            non_retryable=policy.non_retryable_types,
            holdable=self._in_journey and workflow.cancellation_reason() is None,
            waits_until=dict(self._deadlines),
        )

    @contextlib.contextmanager
    def _waiting(self, step: str, deadline: datetime) -> Iterator[None]:
        """Recordings inside show the wait's deadline."""
        self._deadlines[step] = deadline
        try:
            yield
        finally:
            del self._deadlines[step]

    async def _until(self, step: str, deadline: datetime, met: Callable[[], bool] = lambda: False) -> None:
        """Wait until the condition is met or the deadline has passed."""
        raise_if_cancelled()
        with contextlib.suppress(TimeoutError):
            await workflow.wait_condition(
                met,
                timeout=max(deadline - workflow.now(), timedelta()),
                timeout_summary=PublicText(in_words(step)),
            )
        # Python 3.11's `wait_for` loses a cancellation that arrives together with the result.
        raise_if_cancelled()

    async def _wait_ended(self, step: str, result: WaitResult | SleepResult) -> None:
        """Keep the result for the next recording; if paused, hold the journey here."""
        self._wait_results[step] = result
        await self._while_paused()

    async def _while_paused(self) -> None:
        await workflow.wait_condition(lambda: not self._held)

    async def record(self, registers: Mapping[str, WaitRequest] | None = None) -> None:
        """Record the current state, and register the events that the instance waits for."""
        await self._write(InstanceStatus.PAUSED if self._paused else InstanceStatus.RUNNING, registers)

    async def _write(
        self,
        status: InstanceStatus,
        registers: Mapping[str, WaitRequest] | None = None,
        error: StepFailure | None = None,
    ) -> None:
        async with self._writing:  # recordings must reach Postgres in order
            show_status(status, self._current_step)
            # Copies, because other branches may change both while the activity runs.
            variables, wait_results = deepcopy(self.variables), dict(self._wait_results)
            progress = Progress(
                workflow_id=self.definition.workflow_id,
                instance_id=self._start.instance_id,
                user_id=self._start.user_id,
                status=status,
                current_step=self._current_step,
                variables=variables if variables != self._recorded_variables else None,
                waits=wait_results,
                error=error,
                registers={**({} if self._exits_registered else self._inbox.exits), **(registers or {})},
                reason=self._reason if status.finished else None,
                waits_until=dict(self._deadlines),
                once=self.definition.once,
            )
            summary = f"{in_words(status.value)}: {in_words(self._current_step or 'start')}"
            recorded = await finish(start_local(Instances.record, progress, summary))
            # Only now, and only the written results: if the activity is cancelled, the next recording writes them.
            for step in wait_results:
                self._wait_results.pop(step, None)
            self._exits_registered = True
            self._recorded_variables = variables
        for event in recorded.events:
            self._inbox.add(event)

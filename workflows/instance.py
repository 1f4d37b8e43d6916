"""An instance of a lifecycle workflow: how its journey runs, waits, pauses, leaves, and ends.

Authors use :class:`workflows.base.LifecycleWorkflow`, which says with these parts what they want to say.
Everything here is deterministic; what is recorded in Postgres is recorded by activities, around steps by the
interceptor of :mod:`activities.recording`.

What a crash does: Temporal replays the journey up to where it stood. A step whose result was recorded is not
done again; a wait goes on until its original deadline, since the timer lives in Temporal. When history has
grown long, the journey goes on in a new run (:mod:`workflows.memory`).
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Iterator
from contextvars import ContextVar
from copy import deepcopy
from datetime import datetime, timedelta
from random import Random
from typing import Any, ClassVar, Generic, TypeVar

from temporalio import workflow
from temporalio.exceptions import ActivityError, ApplicationError, FailureError

with workflow.unsafe.imports_passed_through():
    from activities.instances import Instances
    from activities.messages import Messages
    from models.temporal.execution import (
        CleanUp,
        DoneWait,
        LifecycleInput,
        LifecycleOutcome,
        Progress,
        Recorded,
        RecordedEvent,
        RestResult,
        StepContext,
        StepFailure,
        WaitRequest,
        WaitResult,
    )
    from models.temporal.identity import STATUS, STEP
    from models.temporal.public_text import PublicText, in_words
    from models.vocabulary import InstanceStatus
    from workflows.catalog import Definition, Parameters
    from workflows.memory import Inbox, Memory
    from workflows.policies import OUTSIDE, STORE, StepPolicy
    from workflows.steps import A, R, Trials, perform, stored_end

P = TypeVar("P", bound=Parameters)

_ON_JOURNEY: ContextVar[bool] = ContextVar("on_journey", default=False)
"""Whether this is the journey, which an exit ends, or what comes after it."""


class _Left(BaseException):
    """An exit has ended the journey; no author's `except Exception` is to stop it."""


class Instance(Generic[P]):
    """An instance of a lifecycle workflow as Temporal runs it."""

    definition: ClassVar[Definition]

    def __init__(self, start: LifecycleInput) -> None:
        """The start is here from the first moment: a command may be handled before the journey begins."""
        self._start = start
        self.variables: dict[str, Any] = {}
        """What the journey wants to remember and show; JSON values. Written with the next recording."""
        self._recorded_variables: dict[str, Any] = {}
        self._waits: dict[str, WaitResult | RestResult] = {}
        self._position = 0
        self._memory = Memory(start.carried, workflow.now())
        self._inbox = Inbox(start.exits, start.carried)
        self._trials = Trials()
        self._names: dict[str, int] = {}
        self._writing = asyncio.Lock()
        self._under_way = 0
        self._exits_registered = start.carried is not None
        self._waking: list[Callable[[], bool]] = []
        self._paused = False
        self._ended = False
        self._current_step: str | None = None
        self._reason: str | None = None
        self.random = Random(start.instance_id)  # noqa: S311 - chance, not secrets
        """Chance that comes to the same in every run of the instance."""
        if start.carried:
            self._current_step = start.carried.current_step
            self._waits.update(start.carried.unwritten)

    async def journey(self, parameters: P) -> None:
        """What happens to the customer. Returning completes the instance."""
        raise TypeError(f"{type(self).__name__} has no journey")

    async def at_exit(self, parameters: P, event: RecordedEvent) -> None:
        """Runs when an event of ``exit_on`` has ended the journey, before the instance completes."""

    async def clean_up(self) -> None:
        """Runs after a cancellation, before the instance ends; withdraws messages that haven't left."""
        await self.step("clean_up", Messages.withdraw, CleanUp(), policy=STORE)

    def now(self) -> datetime:
        """The time, in UTC: the same for every retelling of the journey."""
        return self._memory.moment or workflow.now()

    @property
    def user_id(self) -> str:
        """Whom the instance is about."""
        return self._start.user_id

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
        step's effect happen once; steps of branches that run side by side need names of their own. Raises
        ``ActivityError`` when it has failed for good.
        """
        if self._memory.holds(self._next(name)):
            retold: R = self._memory.retell(self._enter(name), activity)
            return retold
        await self._while_paused()
        self._memory.moment = None
        step = self._enter(name)
        self._show(InstanceStatus.RUNNING)
        bound = message.model_copy(update={"context": self._context(step)})
        with self._busy(), self._trials.doing():
            try:
                result = await perform(activity, bound, step, policy, self._trials)
            except ActivityError as error:
                if self._trials.broke_off(step):
                    raise _Left from error
                self._memory.failed(step, error, workflow.now())
                raise
        self._memory.did(step, result, workflow.now())
        return result

    def complete(self, *, reason: str) -> None:
        """Say why the journey ends here; then return from it."""
        self._reason = reason

    # What Temporal calls

    async def execute(self) -> LifecycleOutcome:
        """Run the journey. A bug in it becomes an application failure, so that it fails this instance
        visibly instead of blocking the workflow task for ever."""
        try:
            parameters = self.definition.parameters_from(self._start.parameters)
            await self._travel(parameters)  # type: ignore[arg-type]  # the definition's own model
        except (FailureError, asyncio.CancelledError) as error:
            if earlier := await stored_end(error, self._start.instance_id):
                return earlier
            raise
        except Exception as error:
            raise ApplicationError(
                str(error) or type(error).__name__, type=type(error).__name__, non_retryable=True
            ) from error
        return LifecycleOutcome(status=InstanceStatus.COMPLETED, reason=self._reason)

    @workflow.signal
    def event_recorded(self, event: RecordedEvent) -> None:
        """The fact that an event of this user was recorded; the same event again changes nothing."""
        self._inbox.tell(event)

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

    def _status(self) -> InstanceStatus:
        return InstanceStatus.PAUSED if self._paused else InstanceStatus.RUNNING

    async def _travel(self, parameters: P) -> None:
        """The journey until it ends, or an exit ends it; or on to a new run, when history has grown long."""
        if not self._start.carried:
            self._memory.began_at = workflow.now()
        journey = asyncio.create_task(self._on_journey(parameters))
        try:
            while not journey.done():
                await workflow.wait_condition(
                    lambda: journey.done() or self._may_continue() or self._exit_is_held_up()
                )
                if not journey.done() and self._may_continue():
                    carried = self._memory.carried(self._inbox, self._current_step, self._waits)
                    workflow.continue_as_new(self._start.model_copy(update={"carried": carried}))
                if not journey.done() and self._exit_is_held_up():
                    await self._trials.break_off(lambda: not self._paused)
        except asyncio.CancelledError:
            journey.cancel()
            await workflow.wait([journey])
            if journey.cancelled():
                raise
        await self._trials.end_beside(journey)
        try:
            journey.result()
        except _Left:
            assert self._inbox.leaving is not None  # the reason for leaving
            way_out, event = self._inbox.leaving
            self._reason = way_out.reason
            await self.at_exit(parameters, event)

    async def _on_journey(self, parameters: P) -> None:
        _ON_JOURNEY.set(True)
        await self.journey(parameters)

    def _leave_if_due(self) -> None:
        if _ON_JOURNEY.get() and (self._inbox.leaving is not None or self._trials.over):
            raise _Left

    def _exit_is_held_up(self) -> bool:
        return self._inbox.leaving is not None and not self._paused and self._trials.hold_up()

    def _may_continue(self) -> bool:
        """Whether to go on in a new run now: the journey only waits, and nothing is about to wake it."""
        return (
            workflow.info().is_continue_as_new_suggested()
            and bool(self._memory.deadlines)
            and not self._under_way
            and not self._paused
            and self._inbox.leaving is None
            and not any(met() for met in self._waking)
            and workflow.all_handlers_finished()
        )

    async def _until(self, step: str, deadline: datetime, met: Callable[[], bool] = lambda: False) -> None:
        """Wait until a condition is met, a moment has come, or an exit ends the journey: that is raised."""
        on_journey = _ON_JOURNEY.get()
        with contextlib.suppress(TimeoutError), self._waking_when(met):
            await workflow.wait_condition(
                lambda: met() or (on_journey and self._inbox.leaving is not None and not self._paused),
                timeout=max(deadline - workflow.now(), timedelta()),
                timeout_summary=PublicText(in_words(step)),
            )
        if not self._paused:
            self._leave_if_due()

    async def _first_event(self, step: str, request: WaitRequest, deadline: datetime) -> RecordedEvent | None:
        """Register a wait, take what the log held already, and wait for the first that matches.

        Property filters are checked where the events' bodies can be opened: by whoever tells of them.
        """
        await self._write(self._status(), waiting_for=request.model_copy(update={"step": step}))

        def first() -> RecordedEvent | None:
            return self._inbox.first(step, request.event_type, request.since)

        await self._until(step, deadline, lambda: first() is not None)
        event = first()
        if event is not None:
            self._inbox.take(event)
        return event

    @contextlib.contextmanager
    def _waking_when(self, met: Callable[[], bool]) -> Iterator[None]:
        self._waking.append(met)
        try:
            yield
        finally:
            self._waking.remove(met)

    async def _wait_ended(self, step: str, result: WaitResult | RestResult, done: DoneWait) -> None:
        """Remember how a wait has ended, and wait while the instance is paused: the moment that is told again is
        that at which the journey goes on."""
        self._waits[step] = result
        self._memory.ended(step, done)
        await self._while_paused()
        self._memory.ended(step, done.model_copy(update={"at": workflow.now()}))

    @contextlib.contextmanager
    def _busy(self) -> Iterator[None]:
        """Something is under way that a new run could not take over."""
        self._under_way += 1
        try:
            yield
        finally:
            self._under_way -= 1

    async def _write(
        self,
        status: InstanceStatus,
        error: StepFailure | None = None,
        waiting_for: WaitRequest | None = None,
    ) -> Recorded | None:
        """One writing at a time, so that a pause and a step never overtake each other.

        None where a history from before waits were registered is replayed.
        """
        with self._busy():
            found = await self._write_in_turn(status, error, waiting_for)
        for earlier in found.events if found else ():
            self.event_recorded(earlier)
        return found

    async def _write_in_turn(
        self, status: InstanceStatus, error: StepFailure | None, waiting_for: WaitRequest | None
    ) -> Recorded | None:
        async with self._writing:
            self._show(status)
            variables, waits = deepcopy(self.variables), dict(self._waits)
            progress = Progress(
                workflow_id=self.definition.workflow_id,
                instance_id=self._start.instance_id,
                user_id=self._start.user_id,
                status=status,
                current_step=self._current_step,
                variables=variables if variables != self._recorded_variables else None,
                waits=waits,
                error=error,
                waiting_for=waiting_for,
                exits={} if self._exits_registered else self._inbox.exits,
                reason=self._reason if status.finished else None,
            )
            found = await workflow.execute_local_activity_method(
                Instances.record,
                progress,
                start_to_close_timeout=STORE.attempt_timeout,
                retry_policy=STORE.retry,
                summary=PublicText(f"{in_words(status.value)}: {in_words(self._current_step or 'start')}"),
            )
            # Only now, and only what was written: a writing that is cancelled leaves it to the next.
            for step in waits:
                self._waits.pop(step, None)
            self._exits_registered = True
            self._recorded_variables = variables
            return found

    def _show(self, status: InstanceStatus) -> None:
        workflow.upsert_search_attributes(
            [STATUS.value_set(status.value), STEP.value_set(self._current_step or "")]
        )

    def _require_running(self) -> None:
        if self._ended:
            raise ApplicationError("the instance has ended", type="AlreadyFinishedError", non_retryable=True)

    async def _while_paused(self) -> None:
        await workflow.wait_condition(lambda: not self._paused)
        self._leave_if_due()

    def _next(self, name: str) -> str:
        """What a step of that name is called if it is entered now."""
        count = self._names.get(name, 0) + 1
        return name if count == 1 else f"{name}_{count}"

    def _enter(self, name: str) -> str:
        self._trials.branch()
        self._current_step = self._next(name)
        self._position = self._memory.position_of(self._current_step)
        self._names[name] = self._names.get(name, 0) + 1
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

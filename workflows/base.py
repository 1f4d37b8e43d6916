"""The base class of lifecycle workflows, with all steps and waits of a journey.

Steps and waits are durable. A pause holds them, and an event of ``exit_on`` ends them. Activities do all I/O.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from datetime import UTC, datetime, time, timedelta
from typing import Any

from temporalio import workflow

with workflow.unsafe.imports_passed_through():
    from activities.events import Events
    from activities.http import HttpRequests
    from activities.messages import Messages
    from activities.profiles import Clocks, Profiles
    from activities.starts import Starts
    from models.rules.triggers import Exit, resolved, when
    from models.temporal.execution import (
        ConditionResult,
        Delivery,
        Emission,
        EventQuestion,
        HttpAnswer,
        HttpMethod,
        HttpRequest,
        LastSeen,
        LocalTime,
        Message,
        NewEvent,
        NewStart,
        Quiet,
        RecordedEvent,
        SleepResult,
        StageChange,
        Started,
        WaitRequest,
        WaitResult,
    )
    from models.temporal.profiles import KnownProfile, ProfileQuestion
    from models.temporal.starting import names_of_waits
    from models.vocabulary import Channel, LifecycleStage, Purpose
    from workflows.instance import Instance, P
    from workflows.policies import OUTSIDE, STORE, StepPolicy
    from workflows.steps import Q, R, finish, start_local

NIGHT = Quiet()
"""From nine in the evening to eight in the morning."""
NEVER = Quiet(begins=time(0), ends=time(0))
"""No quiet hours."""
WEEKDAYS = (1, 2, 3, 4, 5)
EVERY_DAY = (1, 2, 3, 4, 5, 6, 7)
_GOOD_HOUR_WITHIN = timedelta(days=1)
"""The limit for workflows without the parameter `good_hour_within`; quiet hours are shorter than a day."""
_JUST_NOW = timedelta(minutes=1)


class LifecycleWorkflow(Instance[P]):
    """Base of the lifecycle workflows; declare them with :func:`workflows.catalog.lifecycle`.

    Authors write :meth:`journey`, and :meth:`at_exit` for steps after an exit. A journey must be deterministic: it
    depends only on its parameters, on steps and waits, :meth:`now` and :attr:`random`.
    """

    _hour_due = datetime.min.replace(tzinfo=UTC)
    """When the last wait for an hour of a message was due."""

    @property
    def started_at(self) -> datetime:
        """The instance's start in UTC. Deadlines that count from it hold also if Temporal loses the history."""
        lost = self._start.lost_run
        return self._began if lost is None else lost.started_at or self._began

    async def send(
        self,
        template: str,
        *,
        by: Channel = Channel.EMAIL,
        name: str | None = None,
        policy: StepPolicy = OUTSIDE,
        max_attempts: int | None = None,
        at_any_hour: bool = False,
    ) -> Delivery:
        """Send the customer a message, once.

        A message of a marketing workflow waits until the customer's quiet hours are over, unless ``at_any_hour``
        or a `sleep_until_local` that has just ended (:meth:`wait_for_good_hour`).

        Before it sends, the activity checks the frequency cap and the consent to the workflow's purpose. If they
        forbid the message, its status is ``suppressed`` with a reason, and the journey continues. Raises
        ``ActivityError`` if the transport rejects the message or all attempts fail.
        """
        if self.definition.purpose is Purpose.MARKETING and not at_any_hour:
            await self.wait_for_good_hour(name=f"wait_for_good_hour_before_{template}")
        message = Message(template=template, channel=by)
        step = name or f"send_{template}"
        return await self.step(step, Messages.send, message, policy=policy, max_attempts=max_attempts)

    async def emit(
        self, event_type: str, properties: Mapping[str, Any] | None = None, *, name: str | None = None
    ) -> Emission:
        """Record an event of this customer. Profiles, triggers and waits treat it like any other event.

        A retry records it only once, because its id is derived from instance and step. Without the consent
        `data_collection` it is ``rejected`` with a reason, and the journey continues. Raises ``ActivityError`` if
        the properties don't match the event type's schema.
        """
        event = NewEvent(event_type=event_type, properties=dict(properties or {}))
        return await self.step(name or f"emit_{_as_name(event_type)}", Events.emit, event, policy=STORE)

    async def http_step(
        self,
        name: str,
        method: HttpMethod,
        path: str,
        *,
        base: str,
        values: Mapping[str, str] | None = None,
        query: Mapping[str, str] | None = None,
        body: Any = None,
        accept: Collection[int] = (),
        policy: StepPolicy = OUTSIDE,
    ) -> HttpAnswer:
        """Send JSON to a service of the operator, and return the JSON of its answer.

        ``base`` is the worker's setting with the service's URL, such as `billing_url`. Without that setting the
        step is skipped, and the result says so. ``values`` fill the braces of ``path``
        (`/invoices/{invoice_id}/void`). The header `Idempotency-Key` is the same at every attempt.

        Raises ``ActivityError`` at once for an answer 4xx other than 408, 425 and 429, unless its status is among
        ``accept``; for these three, 5xx and no answer after the last attempt.
        """
        request = HttpRequest(
            method=method,
            base=base,
            path=path,
            values=dict(values or {}),
            query=dict(query or {}),
            body=body,
            accept=sorted(accept),
        )
        return await self.step(name, HttpRequests.request, request, policy=policy)

    async def start_workflow(
        self, workflow_id: str, parameters: Mapping[str, Any] | None = None, *, name: str | None = None
    ) -> Started:
        """Start another workflow for the same customer, once; the journey continues without waiting for its end.

        The start is that of a request: the other workflow's consent, the account, a window of ``once`` and
        `enabled` decide. A refused start is a result with a reason. ``parameters`` are JSON values.
        Raises ``ActivityError`` at once for an unknown workflow or invalid parameters.
        """
        start = NewStart(workflow_id=workflow_id, parameters=dict(parameters or {}))
        return await self.step(name or f"start_{workflow_id}", Starts.start, start)

    async def set_stage(self, stage: LifecycleStage) -> None:
        """Move the customer to a lifecycle stage, unless it is pinned."""
        await self.step("set_stage", Profiles.set_stage, StageChange(stage=stage), policy=STORE)

    async def wait_for_event(
        self,
        event_type: str,
        *,
        within: timedelta,
        where: Mapping[str, Any] | None = None,
        since: datetime | None = None,
        name: str | None = None,
    ) -> RecordedEvent | None:
        """Wait for an event of this user; None if none arrived ``within`` that time.

        ``event_type`` is a type, a category (``engagement.*``) or ``*``. ``where`` names properties and their
        required values. An event counts if it happened after the instance's trigger, or was received after its
        start, even before this wait. It must not belong to another wait, and its timestamp must not be before
        ``since``. A pause doesn't stop the clock: if the deadline passed meanwhile, the wait ends on resume.
        """
        step = self._enter(name or f"wait_for_{_as_name(event_type)}")
        wait = WaitRequest(event_type=event_type, where=dict(where or {}), since=since)
        return await self._first_of(step, {step: wait}, within)

    async def wait_for_any_event(
        self,
        events: Sequence[str | Exit],
        *,
        within: timedelta,
        since: datetime | None = None,
        name: str = "wait_for_any_event",
    ) -> RecordedEvent | None:
        """Wait for the first of several events; None if none arrived ``within`` that time.

        Each is a type, a category or `*`, or ``when("category.action", plan="pro")`` with required properties, as
        for exits. Of events that are already recorded, the one with the earliest timestamp counts. Otherwise as
        :meth:`wait_for_event`.
        """
        step = self._enter(name)
        declared = [when(each) if isinstance(each, str) else each for each in events]
        parameters = self.definition.parameters_from(self._start.parameters).model_dump(mode="json")
        waits = [
            WaitRequest(event_type=each.event_type, where=each.where, condition=each.condition, since=since)
            for each in resolved(declared, parameters)
        ]
        return await self._first_of(step, dict(zip(names_of_waits(step, len(waits)), waits, strict=True)), within)

    def condition(self, name: str, value: object) -> bool:
        """Return whether the value is true, and show it with the instance's results as ``{"met": ...}``.

        ``if self.condition("is_yearly", parameters.plan == "yearly"):`` The next recording writes it, at the
        latest before the next step.
        """
        step = self._names.unique(name)
        if ended := self._start.ended_in_lost_run(step, ConditionResult):
            return ended.met
        self._wait_results[step] = ConditionResult(position=self._names.positions[step], met=bool(value))
        return bool(value)

    async def profile(self) -> KnownProfile:
        """The customer's attributes that the consents of this moment cover, read now.

        A service knows the core attributes of the account. Demographics, behavior and transactions need the
        consent to the workflow's purpose, and `data_collection`. The answer has no e-mail address, name or date of
        birth. Temporal's history keeps it, encrypted.
        """
        query = ProfileQuestion(user_id=self.user_id, workflow_id=self.definition.workflow_id)
        return await self._ask(Profiles.known, query, "Read the profile")

    async def properties_of(self, event: RecordedEvent) -> Mapping[str, Any]:
        """The properties of the trigger or of an awaited event; empty if the event is no longer stored.

        An activity reads them now, and the history has them encrypted. A copy in ``variables`` is stored, and
        shown by the API.
        """
        query = EventQuestion(user_id=self.user_id, event_id=event.event_id, timestamp=event.timestamp)
        return (await self._ask(Events.properties, query, "Read the properties of an event")).properties

    def _taken_in_lost_run(self, ended: WaitResult) -> RecordedEvent | None:
        """The event that ended a wait. No other wait of this run gets it."""
        if ended.event_id is None or ended.event_type is None:
            return None
        event = RecordedEvent(
            event_id=ended.event_id, event_type=ended.event_type, timestamp=ended.event_at or workflow.now()
        )
        self._inbox.take(event)
        return event

    async def wait_for_inactivity(
        self, event_type: str, *, lasting: timedelta, within: timedelta, name: str | None = None
    ) -> bool:
        """Wait until no event of ``event_type`` has happened for ``lasting``; False if ``within`` passes first.

        ``event_type`` is a type, a category (``engagement.*``) or ``*``. The instance reads the log about once per
        ``lasting``. It receives no signals, so the cost doesn't grow with the number of events.
        """
        step = self._enter(name or f"wait_for_inactivity_of_{_as_name(event_type)}")
        if ended := self._start.ended_in_lost_run(step, SleepResult):
            await self._while_paused()
            return bool(ended.inactive)
        last = workflow.now()
        deadline = self._start.deadline(step, last + within)
        with self._waiting(step, deadline):
            await self.record()
            while workflow.now() < min(last + lasting, deadline):
                await self._until(step, min(last + lasting, deadline))
                last = max(last, await self._last_seen(event_type) or last)
        inactive = last + lasting <= workflow.now()
        await self._sleep_ended(step, workflow.now(), inactive)
        return inactive

    async def sleep(self, duration: timedelta, *, name: str = "sleep") -> None:
        """Sleep. A pause doesn't stop the clock."""
        step = self._enter(name)
        if self._start.ended_in_lost_run(step, SleepResult):
            await self._while_paused()
            return
        await self._sleep_until(step, self._start.deadline(step, workflow.now() + duration))

    async def sleep_until_local(
        self,
        at: time | None = None,
        *,
        weekdays: Collection[int] = EVERY_DAY,
        quiet: Quiet = NIGHT,
        within: timedelta | None = None,
        name: str = "sleep_until_local",
    ) -> None:
        """Sleep until the time ``at`` in the customer's time zone, for at most ``within``.

        The time is on one of the weekdays (1 is Monday) and outside the quiet hours. Without ``at``: until the
        quiet hours are over, which may be now. :mod:`models.rules.local_time` handles changes of the clocks. UTC
        applies to a customer without a known time zone.
        """
        step = self._enter(name)
        if ended := self._start.ended_in_lost_run(step, SleepResult):
            self._hour_due = ended.until
            await self._while_paused()
            return
        now = workflow.now()
        latest = datetime.max.replace(tzinfo=UTC) if within is None else now + within
        query = LocalTime(user_id=self.user_id, after=now, at=at, weekdays=sorted(weekdays), quiet=quiet)
        answer = await self._ask(Clocks.next_local, query, "Ask for the local time")
        self._hour_due = self._start.deadline(step, max(min(answer.at, latest), now))
        await self._sleep_until(step, self._hour_due)

    async def wait_for_good_hour(
        self, *, before: datetime | None = None, name: str = "wait_for_good_hour"
    ) -> bool:
        """Wait until the customer's quiet hours are over, for at most the parameter `good_hour_within`.

        False, without a wait, if they are not over ``before`` that time. If a wait for an hour has just ended, it
        returns at once. After a long pause or outage it waits again. UTC applies to a customer without a known
        time zone.
        """
        await self._while_paused()
        if timedelta() <= workflow.now() - self._hour_due < _JUST_NOW or not self.patched("good-hour"):
            return True
        parameters = self.definition.parameters_from(self._start.parameters)
        latest = workflow.now() + getattr(parameters, "good_hour_within", _GOOD_HOUR_WITHIN)
        while True:
            now = workflow.now()
            query = LocalTime(user_id=self.user_id, after=now, at=None, weekdays=sorted(EVERY_DAY), quiet=NIGHT)
            answer = await self._ask(Clocks.next_local, query, "Ask for the local time")
            due = max(min(answer.at, latest), now)
            if due > now and before is not None and due >= before:
                return False
            self._hour_due = due
            if due == now:
                return True
            await self._sleep_until(self._enter(name), due)

    def patched(self, change: str) -> bool:
        """Whether this instance runs the changed code; False if it passed this line before the deployment
        (docs/changing-a-workflow.md)."""
        return workflow.patched(change)

    def deprecate_patch(self, change: str) -> None:
        """Call it in place of :meth:`patched` once all instances from before the change have ended."""
        workflow.deprecate_patch(change)

    async def _first_of(
        self, step: str, waits: Mapping[str, WaitRequest], within: timedelta
    ) -> RecordedEvent | None:
        """Register waits by their names, and wait for the first event for one of them."""
        if ended := self._start.ended_in_lost_run(step, WaitResult):
            await self._while_paused()
            return self._taken_in_lost_run(ended)
        deadline = self._start.deadline(step, workflow.now() + within)
        with self._waiting(step, deadline):
            await self.record(waits)
            await self._until(step, deadline, lambda: self._inbox.earliest(waits) is not None)
        event = self._inbox.earliest(waits)
        if event is not None:
            self._inbox.take(event)
        result = WaitResult(
            position=self._names.positions[step],
            event_type=event.event_type if event else None,
            event_id=event.event_id if event else None,
            timed_out=event is None,
            event_at=event.timestamp if event else None,
        )
        await self._wait_ended(step, result)
        return event

    async def _sleep_until(self, step: str, until: datetime) -> None:
        if until > workflow.now():
            with self._waiting(step, until):
                await self.record()
                await self._until(step, until)
        await self._sleep_ended(step, until)

    async def _sleep_ended(self, step: str, until: datetime, inactive: bool | None = None) -> None:
        result = SleepResult(position=self._names.positions[step], until=until, inactive=inactive)
        await self._wait_ended(step, result)

    async def _last_seen(self, event_type: str) -> datetime | None:
        query = LastSeen(user_id=self.user_id, event_type=event_type)
        return (await self._ask(Events.last_seen, query, "Look for the latest event")).at

    async def _ask(self, activity: Callable[[Any, Q], Awaitable[R]], query: Q, summary: str) -> R:
        """Read from Postgres. The result is not recorded as a step."""
        return await finish(start_local(activity, query, summary))


def _as_name(event_type: str) -> str:
    return event_type.replace(".", "_").replace("*", "any")

"""What an author of a lifecycle workflow writes against: :class:`LifecycleWorkflow`.

The words of a journey (send, wait, sleep, emit ...), each said with the parts of :mod:`workflows.instance`. All of
them are durable, wait while the instance is paused, and end when an exit does; none does any I/O by itself.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from datetime import UTC, datetime, time, timedelta
from typing import Any

from temporalio import workflow

with workflow.unsafe.imports_passed_through():
    from activities.clocks import Clocks
    from activities.events import Events
    from activities.messages import Messages
    from activities.profiles import Profiles
    from models.temporal.execution import (
        Delivery,
        DoneWait,
        Emission,
        LastSeen,
        LocalTime,
        Message,
        NewEvent,
        Quiet,
        RecordedEvent,
        RestResult,
        StageChange,
        WaitRequest,
        WaitResult,
    )
    from models.vocabulary import Channel, LifecycleStage
    from workflows.instance import Instance, P
    from workflows.policies import OUTSIDE, STORE, StepPolicy
    from workflows.steps import ask

NIGHT = Quiet()
"""From nine in the evening to eight in the morning."""
NEVER = Quiet(begins=time(0), ends=time(0))
"""No quiet hours."""
WEEKDAYS = (1, 2, 3, 4, 5)
EVERY_DAY = (1, 2, 3, 4, 5, 6, 7)


class LifecycleWorkflow(Instance[P]):
    """Base of the lifecycle workflows; declare them with :func:`workflows.catalog.lifecycle`.

    An author writes :meth:`journey`, and :meth:`at_exit` where something is to be done when an event of
    ``exit_on`` ends it. A journey may ask for nothing of the world but what its steps and waits give it,
    :meth:`now` and :attr:`random`: so it comes to the same each time it is told again.
    """

    async def send(
        self, template: str, *, by: Channel = Channel.EMAIL, name: str | None = None, policy: StepPolicy = OUTSIDE
    ) -> Delivery:
        """Send the customer a message, once.

        Whether it may go is decided at the moment of sending: the consent for the workflow's purpose and the
        frequency cap. A message that may not go has the status ``suppressed`` and a reason, and the journey goes
        on. Raises ``ActivityError`` where it was refused, or couldn't be delivered within `max_attempts`.
        """
        message = Message(template=template, channel=by)
        return await self.step(name or f"send_{template}", Messages.send, message, policy=policy)

    async def emit(
        self, event_type: str, properties: Mapping[str, Any] | None = None, *, name: str | None = None
    ) -> Emission:
        """Record an event of this customer: it reaches profiles, triggers, webhooks and waits as any other does.

        Counted once: its id follows from the instance and the step. Without the customer's consent to the
        collection of data it is ``rejected`` with a reason, and the journey goes on. Content that the event
        type's schema refuses is a bug of the workflow: that raises ``ActivityError``.
        """
        event = NewEvent(event_type=event_type, properties=dict(properties or {}))
        return await self.step(name or f"emit_{_as_name(event_type)}", Events.emit, event, policy=STORE)

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
        """Wait for an event of this user, durably; None when none came ``within`` that time.

        ``event_type`` is a type or a whole category (``engagement.*``), or ``*``; ``where`` names properties
        and the values they must have. Events that were received since the instance began (or since the event
        that triggered it) and weren't taken by another wait count, also those from before this wait; with
        ``since`` only those that happened from then on. Pausing doesn't stop the clock: what fell due meanwhile
        happens on resume.
        """
        step = self._enter(name or f"wait_for_{_as_name(event_type)}")
        position = self._position
        if self._memory.holds(step):
            return self._memory.retell_wait(step).event
        deadline = self._memory.begin_wait(step, workflow.now() + within)
        request = WaitRequest(event_type=event_type, where=dict(where or {}), since=since)
        event = await self._first_event(step, request, deadline)
        result = WaitResult(
            position=position,
            event_type=event.event_type if event else None,
            event_id=event.event_id if event else None,
            timed_out=event is None,
        )
        await self._wait_ended(step, result, DoneWait(event=event, at=workflow.now()))
        return event

    async def wait_for_silence(
        self, event_type: str, *, lasting: timedelta, within: timedelta, name: str | None = None
    ) -> bool:
        """Wait until no event of a type, a category or any (``*``) has come for so long; False when that doesn't
        happen ``within`` the time.

        A customer who does a lot costs nothing: the log is looked at once in a ``lasting``, and no event wakes
        the instance.
        """
        step = self._enter(name or f"wait_for_silence_of_{_as_name(event_type)}")
        position = self._position
        if self._memory.holds(step):
            return bool(self._memory.retell_wait(step).silent)
        deadline = self._memory.begin_wait(step, workflow.now() + within)
        last = deadline - within
        await self._write(self._status())
        while last + lasting > workflow.now() and workflow.now() < deadline:
            await self._until(step, min(last + lasting, deadline))
            last = max(last, await self._last_seen(event_type) or last)
        silent = last + lasting <= workflow.now()
        result = RestResult(position=position, until=workflow.now(), silent=silent)
        await self._wait_ended(step, result, DoneWait(silent=silent, at=workflow.now()))
        return silent

    async def sleep(self, duration: timedelta, *, name: str = "sleep") -> None:
        """Let some time pass, durably. Pausing doesn't stop the clock."""
        step = self._enter(name)
        position = self._position
        if self._memory.holds(step):
            self._memory.retell_wait(step)
        else:
            await self._rest(step, position, self._memory.begin_wait(step, workflow.now() + duration))

    async def sleep_until_local(
        self,
        at: time | None = None,
        *,
        weekdays: Collection[int] = EVERY_DAY,
        quiet: Quiet = NIGHT,
        within: timedelta | None = None,
        name: str = "sleep_until_local",
    ) -> None:
        """Sleep until the next time that it is ``at`` o'clock where the customer lives, on one of some weekdays
        (1 is Monday), outside the quiet hours. Without ``at``: until it is no longer quiet, which may be now.
        No longer than ``within``, whatever time it is then: with no time at all, the hour doesn't matter.

        A time that summer time skips comes as much later as the clocks were put forward; of one that there is
        twice the first counts. A customer whose time zone isn't known lives in UTC.
        """
        step = self._enter(name)
        position = self._position
        if self._memory.holds(step):
            self._memory.retell_wait(step)
            return
        if step not in self._memory.deadlines:
            latest = datetime.max.replace(tzinfo=UTC) if within is None else workflow.now() + within
            self._memory.begin_wait(step, min(await self._local(at, weekdays, quiet), latest))
        await self._rest(step, position, self._memory.begin_wait(step, workflow.now()))

    def patched(self, change: str) -> bool:
        """Whether a change of the journey holds for this instance: True unless it has passed here before the
        change was deployed (docs/changing-a-workflow.md)."""
        known = self._memory.patches.get(change)
        if known is None:
            retelling = self._memory.moment is not None
            known = self._memory.patches[change] = not retelling and workflow.patched(change)
        return known

    def deprecate_patch(self, change: str) -> None:
        """Stands where :meth:`patched` stood, once no instance from before the change is left."""
        workflow.deprecate_patch(change)

    async def _rest(self, step: str, position: int, until: datetime) -> None:
        if until > workflow.now():
            await self._write(self._status())
            await self._until(step, until)
        await self._wait_ended(step, RestResult(position=position, until=until), DoneWait(at=workflow.now()))

    async def _local(self, at: time | None, weekdays: Collection[int], quiet: Quiet) -> datetime:
        question = LocalTime(
            user_id=self.user_id, after=workflow.now(), at=at, weekdays=sorted(weekdays), quiet=quiet
        )
        with self._busy():
            return (await ask(Clocks.next_local, question, "Ask for the local time")).at

    async def _last_seen(self, event_type: str) -> datetime | None:
        question = LastSeen(user_id=self.user_id, event_type=event_type)
        with self._busy():
            return (await ask(Events.last_seen, question, "Look for the latest event")).at


def _as_name(event_type: str) -> str:
    return event_type.replace(".", "_").replace("*", "any")

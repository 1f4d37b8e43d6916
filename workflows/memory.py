"""What an instance has done, told and been told: what its journey needs to come to where it stood in a new run.

A journey is straight-line code, so a new run can't begin in its middle. It begins at its start, and every step and
wait that an earlier run has ended is answered from memory, at once and without a command, until the journey gets
to the wait in which it was left: that goes on until its original deadline (ADR 0020). What the journey reads of
the world must come from here too: results, events, :attr:`Memory.moment`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from typing import Any, get_type_hints

from pydantic import TypeAdapter
from pydantic_core import to_jsonable_python
from temporalio.exceptions import ActivityError, ApplicationError

from models.rules.triggers import type_matches
from models.temporal.execution import (
    Carried,
    DoneStep,
    DoneWait,
    ExitRequest,
    RecordedEvent,
    RestResult,
    WaitResult,
)
from models.temporal.starting import named_exits


class Memory:
    """Steps and waits that are done, by name; and the deadlines of waits that have begun."""

    def __init__(self, carried: Carried | None, now: datetime) -> None:
        self.began_at = carried.began_at if carried else now
        self.steps: dict[str, DoneStep] = dict(carried.steps) if carried else {}
        self.waits: dict[str, DoneWait] = dict(carried.waits) if carried else {}
        self.deadlines: dict[str, datetime] = dict(carried.deadlines) if carried else {}
        self.positions: dict[str, int] = dict(carried.positions) if carried else {}
        self.patches: dict[str, bool] = dict(carried.patches) if carried else {}
        self.moment: datetime | None = self.began_at if carried else None
        """Which time it is for a journey that is being retold; None: the present, once anything has happened in
        it, in whichever branch."""

    def holds(self, name: str) -> bool:
        """Whether a step or wait of that name is done."""
        return name in self.steps or name in self.waits

    def position_of(self, name: str) -> int:
        """The how-manyth step or wait of the instance it is, from 1; the same in every run."""
        return self.positions.setdefault(name, len(self.positions) + 1)

    def retell(self, name: str, activity: Callable[..., Any]) -> Any:
        """A step's result, as the activity's annotation has it; or its failure again."""
        done = self.steps[name]
        self.moment = done.at
        if done.error_type is not None:
            cause = ApplicationError(done.error_message or "", type=done.error_type, non_retryable=True)
            raise step_failure(name, cause)
        return TypeAdapter(get_type_hints(activity)["return"]).validate_python(done.result)

    def retell_wait(self, name: str) -> DoneWait:
        """How a wait ended."""
        done = self.waits[name]
        self.moment = done.at
        return done

    def did(self, name: str, result: Any, now: datetime) -> None:
        """A step is done."""
        self.moment = None
        self.steps[name] = DoneStep(result=to_jsonable_python(result), at=now)

    def failed(self, name: str, error: ActivityError, now: datetime) -> None:
        """A step has failed for good; the journey may live with it."""
        self.moment = None
        cause = error.cause
        kind = cause.type if isinstance(cause, ApplicationError) and cause.type else type(cause).__name__
        text = cause.message if isinstance(cause, ApplicationError) else str(cause)
        self.steps[name] = DoneStep(error_type=kind, error_message=text, at=now)

    def begin_wait(self, name: str, deadline: datetime) -> datetime:
        """The deadline of a wait that begins, or that an earlier run has begun: then that one's."""
        self.moment = None
        return self.deadlines.setdefault(name, deadline)

    def ended(self, name: str, done: DoneWait) -> None:
        """A wait has ended."""
        self.moment = None
        self.waits[name] = done
        self.deadlines.pop(name, None)

    def carried(
        self, inbox: Inbox, current_step: str | None, unwritten: Mapping[str, WaitResult | RestResult]
    ) -> Carried:
        """What the next run gets."""
        return Carried(
            began_at=self.began_at,
            current_step=current_step,
            steps=self.steps,
            waits=self.waits,
            deadlines=self.deadlines,
            positions=self.positions,
            patches=self.patches,
            told=inbox.untaken(list(self.deadlines)),
            taken=sorted(inbox.taken),
            unwritten=dict(unwritten),
        )


def step_failure(name: str, cause: BaseException) -> ActivityError:
    """The failure of a step, as Temporal tells that of an ordinary activity."""
    error = ActivityError(
        "Activity task failed",
        scheduled_event_id=0,
        started_event_id=0,
        identity="",
        activity_type="",
        activity_id=name,
        retry_state=None,
    )
    error.__cause__ = cause
    return error


class Inbox:
    """Events that the instance was told of."""

    def __init__(self, exits: Sequence[ExitRequest], carried: Carried | None) -> None:
        self.exits = named_exits(exits)
        self.told: list[RecordedEvent] = []
        self.taken: set[str] = set(carried.taken) if carried else set()
        self._known: set[tuple[str, str | None]] = set()
        self.leaving: tuple[ExitRequest, RecordedEvent] | None = None
        """The first event that ends the instance."""
        for event in carried.told if carried else ():
            self.tell(event)

    def tell(self, event: RecordedEvent) -> None:
        """An event was recorded; the same again changes nothing."""
        known = (event.event_id, event.step)
        if known in self._known:
            return
        self._known.add(known)
        way_out = self._exit(event)
        if way_out is not None:
            self.leaving = self.leaving or (way_out, event)
        if event.step is None or event.step not in self.exits:
            self.told.append(event)

    def _exit(self, event: RecordedEvent) -> ExitRequest | None:
        """Property filters are checked by whoever tells for an exit by its name."""
        if event.step is not None:
            return self.exits.get(event.step)
        return next(
            (
                each
                for each in self.exits.values()
                if not each.where and not each.same and type_matches(each.event_type, event.event_type)
            ),
            None,
        )

    def first(self, step: str, event_type: str, since: datetime | None = None) -> RecordedEvent | None:
        """The first event told for this wait, or for any, that no other wait has taken."""
        for event in self.told:
            free = event.step in (None, step) and event.event_id not in self.taken
            late_enough = since is None or event.timestamp >= since
            if free and late_enough and type_matches(event_type, event.event_type):
                return event
        return None

    def take(self, event: RecordedEvent) -> None:
        """A wait takes an event; no other one gets it."""
        self.taken.add(event.event_id)

    def untaken(self, open_waits: Sequence[str]) -> list[RecordedEvent]:
        """What a wait may still want."""
        return [
            event
            for event in self.told
            if event.event_id not in self.taken and (event.step is None or event.step in open_waits)
        ]

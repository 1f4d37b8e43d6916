"""The events that an instance received as signals."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime

from models.rules.triggers import type_matches
from models.temporal.execution import ExitRequest, RecordedEvent, WaitRequest
from models.temporal.starting import named_exits


class Inbox:
    """Events for the waits and exits of an instance, in the order of their signals."""

    def __init__(self, exits: Sequence[ExitRequest]) -> None:
        self.exits = named_exits(exits)
        self.exit: tuple[ExitRequest, RecordedEvent] | None = None
        """The first event that matched an exit."""
        # The same event may be matched for several waits, and each match may be signalled twice.
        self._events: dict[tuple[str, str | None], RecordedEvent] = {}
        self._taken: set[str] = set()

    def add(self, event: RecordedEvent) -> None:
        """Keep an event. Adding it again changes nothing."""
        key = (event.event_id, event.step)
        if key in self._events:
            return
        self._events[key] = event
        matched = self._matching_exit(event)
        if matched is not None and self.exit is None:
            self.exit = (matched, event)

    def _matching_exit(self, event: RecordedEvent) -> ExitRequest | None:
        """The exit that an event matches. The event has no properties here, so only the sender can check filters
        and conditions.

        If the sender names the exit in ``step``, it has checked them.
        """
        if event.step is not None:
            return self.exits.get(event.step)
        for each in self.exits.values():
            unconditional = not (each.where or each.same or each.condition)
            if unconditional and type_matches(each.event_type, event.event_type):
                return each
        return None

    def first(self, step: str, event_type: str, since: datetime | None = None) -> RecordedEvent | None:
        """The first event for this wait, or for any wait, that no other wait has taken."""
        for event in self._events.values():
            free = event.step in (None, step) and event.event_id not in self._taken
            late_enough = since is None or event.timestamp >= since
            if free and late_enough and type_matches(event_type, event.event_type):
                return event
        return None

    def earliest(self, waits: Mapping[str, WaitRequest]) -> RecordedEvent | None:
        """The event with the earliest timestamp that is the first for one of these waits."""
        found = (self.first(step, wait.event_type, wait.since) for step, wait in waits.items())
        return min(filter(None, found), key=lambda event: (event.timestamp, event.event_id), default=None)

    def take(self, event: RecordedEvent) -> None:
        """Reserve an event for one wait; no other wait gets it."""
        self._taken.add(event.event_id)

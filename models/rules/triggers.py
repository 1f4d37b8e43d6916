"""Triggers and exits of workflows, and how they match events."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

from models.temporal.execution import ExitRequest

DEFAULT_MAX_AGE = timedelta(hours=1)
"""Older events start nothing: a mobile client may deliver an event days later, when a message about it would only
confuse."""


@dataclass(frozen=True)
class Trigger:
    """An event that starts a workflow."""

    event_type: str
    """A type, a category (`engagement.*`) or `*`."""
    where: Mapping[str, Any] = field(default_factory=dict)
    """Property names of the event and the values they must have."""
    max_age: timedelta = DEFAULT_MAX_AGE


@dataclass(frozen=True)
class WorkflowTrigger:
    """A trigger, and the workflow that it starts."""

    workflow_id: str
    trigger: Trigger
    once_per: timedelta | None = None
    """Within which time it starts at most once for a user."""


def on(event_type: str, *, max_age: timedelta = DEFAULT_MAX_AGE, **where: Any) -> Trigger:
    """A trigger, as a workflow's declaration reads: ``trigger=on("transaction.cart_add")``."""
    return Trigger(event_type, where, max_age)


def when(
    event_type: str, *, reason: str | None = None, same_as_trigger: Sequence[str] = (), **where: Any
) -> ExitRequest:
    """An exit, as a declaration reads: ``exit_on=when("transaction.purchase_complete", reason="purchased")``.

    ``same_as_trigger`` names properties whose values must equal those of the event that started the instance. A
    property that this event lacks is not compared, and none is where a request started the instance.
    """
    return ExitRequest(event_type=event_type, reason=reason or event_type, where=where, same=list(same_as_trigger))


def type_matches(pattern: str, event_type: str) -> bool:
    """Whether an event type is the one meant, or in the category meant."""
    if pattern == "*" or pattern == event_type:
        return True
    return pattern.endswith(".*") and event_type.startswith(pattern[:-1])


def properties_match(where: Mapping[str, Any] | None, properties: Mapping[str, Any] | None) -> bool:
    """Whether an event's properties have all the values asked for."""
    held = properties or {}
    return all(name in held and held[name] == value for name, value in (where or {}).items())

"""Triggers and exits of workflows, and how they match events."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

from models.temporal.execution import ExitRequest
from models.vocabulary import WaitCondition

DEFAULT_MAX_AGE = timedelta(hours=1)
"""Older events start nothing. A mobile client may deliver an event days later, when a message would confuse."""

FOREVER = timedelta(days=365_000)
"""The window of a workflow that runs once for a user."""


@dataclass(frozen=True)
class Trigger:
    """An event that starts a workflow."""

    event_type: str
    """A type, a category (`engagement.*`) or `*`."""
    where: Mapping[str, Any] = field(default_factory=dict)
    """Property names of the event and their required values."""
    max_age: timedelta = DEFAULT_MAX_AGE


@dataclass(frozen=True)
class WorkflowTrigger:
    """A trigger, and the workflow that it starts."""

    workflow_id: str
    trigger: Trigger
    once_per: timedelta | None = None
    """Within this time it starts at most one instance per user."""


def on(event_type: str, *, max_age: timedelta = DEFAULT_MAX_AGE, **where: Any) -> Trigger:
    """A trigger, for declarations: ``trigger=on("transaction.cart_add")``."""
    return Trigger(event_type, where, max_age)


def when(
    event_type: str,
    *,
    reason: str | None = None,
    same_as_trigger: Sequence[str] = (),
    condition: WaitCondition | None = None,
    **where: Any,
) -> ExitRequest:
    """An exit, for declarations: ``exit_on=when("transaction.purchase_complete", reason="purchased")``.

    ``same_as_trigger`` names properties whose values must equal those of the event that started the instance. A
    property that this event lacks is not compared. If a request started the instance, none is compared.
    ``condition`` must hold as well, such as that the cart is empty.
    """
    return ExitRequest(
        event_type=event_type,
        reason=reason or event_type,
        where=where,
        same=list(same_as_trigger),
        condition=condition,
    )


def type_matches(pattern: str, event_type: str) -> bool:
    """Whether a type, a category (`engagement.*`) or `*` includes an event type."""
    if pattern == "*" or pattern == event_type:
        return True
    return pattern.endswith(".*") and event_type.startswith(pattern[:-1])


def properties_match(where: Mapping[str, Any] | None, properties: Mapping[str, Any] | None) -> bool:
    """Whether an event's properties have all the required values."""
    held = properties or {}
    return all(name in held and held[name] == value for name, value in (where or {}).items())

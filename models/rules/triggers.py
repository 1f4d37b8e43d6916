"""Triggers and exits of workflows, as they are declared, and how they match events."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

from models.errors import ParameterMissingError
from models.temporal.execution import ExitRequest, WaitRequest
from models.vocabulary import Purpose, WaitCondition

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
    purpose: Purpose | None = None
    """The consent that the workflow needs; None for a service."""


@dataclass(frozen=True)
class ParameterReference:
    """The value of a parameter, which an event's property must equal."""

    name: str
    optional: bool = False
    """Whether an instance without the value starts, without the exit."""


@dataclass(frozen=True)
class Exit:
    """An event that ends an instance, as a workflow declares it."""

    event_type: str
    """A type, a category (`engagement.*`) or `*`."""
    reason: str
    where: Mapping[str, Any] = field(default_factory=dict)
    """Property names of the event and their required values."""
    compared: Mapping[str, ParameterReference] = field(default_factory=dict)
    """Property names of the event and the parameters whose values they must equal."""
    condition: WaitCondition | None = None


def on(event_type: str, *, max_age: timedelta = DEFAULT_MAX_AGE, **where: Any) -> Trigger:
    """A trigger, for declarations: ``trigger=on("transaction.cart_add")``."""
    if any(isinstance(value, ParameterReference) for value in where.values()):
        raise TypeError(f"a trigger has no parameters yet, so on('{event_type}') can't compare with one")
    return Trigger(event_type, where, max_age)


def parameter(name: str, *, optional: bool = False) -> Any:
    """A parameter's value, for exits: ``when("transaction.refund", order_id=parameter("order_id"))``.

    A start without the value is refused. With ``optional`` it is not, and that instance has no such exit.
    """
    return ParameterReference(name, optional)


def when(
    event_type: str, *, reason: str | None = None, condition: WaitCondition | None = None, **where: Any
) -> Exit:
    """An exit, for declarations: ``exit_on=when("transaction.purchase_complete", reason="purchased")``.

    ``where`` names properties with their values, or with the parameters whose values they must equal
    (:func:`parameter`). ``condition`` must hold as well, such as that the cart is empty.
    """
    compared = {name: value for name, value in where.items() if isinstance(value, ParameterReference)}
    fixed = {name: value for name, value in where.items() if name not in compared}
    return Exit(event_type, reason or event_type, fixed, compared, condition)


def resolved(exits: Sequence[Exit], parameters: Mapping[str, Any]) -> list[ExitRequest]:
    """The exits of one instance, with the values of its parameters (JSON values).

    Raises :class:`ParameterMissingError` if a parameter that isn't optional has no value.
    """
    references = [each for exit_ in exits for each in exit_.compared.values()]
    missing = {each.name for each in references if parameters.get(each.name) is None and not each.optional}
    if missing:
        raise ParameterMissingError(sorted(missing), "an exit of this workflow compares events with it")
    return [
        ExitRequest(
            event_type=each.event_type,
            reason=each.reason,
            where={**each.where, **{name: parameters[held.name] for name, held in each.compared.items()}},
            condition=each.condition,
        )
        for each in exits
        if all(parameters.get(held.name) is not None for held in each.compared.values())
    ]


@dataclass(frozen=True)
class Waiting:
    """A registered wait of an instance, and the events that it counts."""

    workflow_id: str
    instance_id: str
    step: str
    request: WaitRequest
    since: datetime
    """Events received at or after this time count."""
    happened_from: datetime
    """Only events timestamped at or after this time count."""
    triggered_at: datetime | None
    """Events timestamped after this time count, whenever they were received; None without a trigger."""
    trigger_event_id: str | None
    """The event that started the instance, which doesn't count."""
    of_service: bool
    """Whether the instance has no purpose, so that events without consent count too."""

    def counts(self, event_id: str, event_type: str, timestamp: datetime, received_at: datetime) -> bool:
        """Whether an event may end the wait, apart from its properties and its basis."""
        after_trigger = self.triggered_at is not None and timestamp > self.triggered_at
        return (
            (received_at >= self.since or after_trigger)
            and timestamp >= self.happened_from
            and event_id != self.trigger_event_id
            and type_matches(self.request.event_type, event_type)
        )


def type_matches(pattern: str, event_type: str) -> bool:
    """Whether a type, a category (`engagement.*`) or `*` includes an event type."""
    if pattern == "*" or pattern == event_type:
        return True
    return pattern.endswith(".*") and event_type.startswith(pattern[:-1])


def properties_match(where: Mapping[str, Any] | None, properties: Mapping[str, Any] | None) -> bool:
    """Whether an event's properties have all the required values."""
    held = properties or {}
    return all(name in held and _equal(held[name], value) for name, value in (where or {}).items())


def _equal(held: Any, wanted: Any) -> bool:
    """Whether JSON values are equal. 100 and "100" are: senders give the same id as a number or as a text."""
    return held == wanted or ({type(held), type(wanted)} == {int, str} and str(held) == str(wanted))

"""Starts an instance in Temporal, from a request or a trigger. A repeated start has no effect."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, TypedDict

from temporalio.common import (
    SearchAttributePair,
    TypedSearchAttributes,
    WorkflowIDConflictPolicy,
    WorkflowIDReusePolicy,
)

from models.instances import NewInstance
from models.rules.triggers import Exit
from models.temporal.execution import ExitRequest, LifecycleInput, LifecycleOutcome, LostRun
from models.temporal.identity import STATUS, USER, WORKFLOW, temporal_workflow_id
from models.temporal.public_text import PublicText, in_words
from models.vocabulary import InstanceStatus, Purpose


@dataclass(frozen=True)
class Startable:
    """The part of a workflow's definition that a start needs."""

    workflow_id: str
    description: str
    purpose: Purpose | None
    """The consent that an instance needs; None for a service."""
    max_attempts: int
    default_parameters: Mapping[str, Any]
    """JSON values."""
    exits: Sequence[Exit] = ()
    once_per: timedelta | None = None
    """Within this time a trigger starts at most one instance per user."""
    once: bool = False
    """Whether that also holds for a request, unless it asks for another instance."""
    key: Sequence[str] = ()
    """Parameters for whose values at most one instance per user runs."""
    triggered_parameters: Callable[[Mapping[str, Any]], dict[str, Any]] | None = None
    """The parameters of an instance that an event with these properties starts; None: the default ones. Raises
    :class:`ParameterMissingError`."""


class StartOptions(TypedDict):
    """Keyword arguments of ``Client.start_workflow``."""

    id: str
    result_type: type[LifecycleOutcome]
    id_conflict_policy: WorkflowIDConflictPolicy
    id_reuse_policy: WorkflowIDReusePolicy
    search_attributes: TypedSearchAttributes
    static_summary: str
    static_details: str


EXIT = "~exit_"
"""The names of registered exits begin with this."""
SEVERAL = "~"
"""Follows the step in the names of its waits, if it waits for several events."""


def named_exits(exits: Sequence[ExitRequest]) -> dict[str, ExitRequest]:
    """Exits by the names of their registered waits. No step has such a name."""
    return {f"{EXIT}{number}": each for number, each in enumerate(exits, start=1)}


def is_exit(name: str | None) -> bool:
    return name is not None and name.startswith(EXIT)


def names_of_waits(step: str, number: int) -> list[str]:
    """The names of a step's waits for several events. :func:`store.instances.waits.end` drops them together."""
    return [f"{step}{SEVERAL}{place}" for place in range(1, number + 1)]


def start_input(new: NewInstance, lost_run: LostRun | None = None) -> LifecycleInput:
    return LifecycleInput(
        lost_run=lost_run,
        instance_id=new.instance_id,
        user_id=new.user_id,
        max_attempts=new.max_attempts,
        limits_attempts=new.limits_attempts,
        parameters=new.parameters,
        exits=list(new.exits),
        trigger=new.trigger,
    )


def start_options(new: NewInstance, description: str) -> StartOptions:
    """Options for a single run: a repeated start uses the open run, and fails after the run has closed."""
    return StartOptions(
        id=temporal_workflow_id(new.workflow_id, new.instance_id),
        result_type=LifecycleOutcome,
        id_conflict_policy=WorkflowIDConflictPolicy.USE_EXISTING,
        id_reuse_policy=WorkflowIDReusePolicy.REJECT_DUPLICATE,
        search_attributes=TypedSearchAttributes(
            [
                SearchAttributePair(USER, new.user_id),
                SearchAttributePair(WORKFLOW, new.workflow_id),
                SearchAttributePair(STATUS, InstanceStatus.RUNNING.value),
            ]
        ),
        static_summary=PublicText(f"{in_words(new.workflow_id)} for user {new.user_id}"),
        static_details=PublicText(description),
    )

"""How an instance is started in Temporal: the same from a request and from a trigger, and any number of times."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypedDict

from temporalio.common import TypedSearchAttributes, WorkflowIDConflictPolicy, WorkflowIDReusePolicy

from models.rules.triggers import Exit
from models.temporal.execution import ExitRequest, LifecycleInput, LifecycleOutcome
from models.temporal.identity import initial_search_attributes, temporal_workflow_id
from models.temporal.public_text import PublicText, in_words


class StartOptions(TypedDict):
    """Keyword arguments of ``Client.start_workflow``."""

    id: str
    result_type: type[LifecycleOutcome]
    id_conflict_policy: WorkflowIDConflictPolicy
    id_reuse_policy: WorkflowIDReusePolicy
    search_attributes: TypedSearchAttributes
    static_summary: str
    static_details: str


def named_exits(exits: Sequence[ExitRequest]) -> dict[str, ExitRequest]:
    """Exits by the names under which they are registered and told; no step is called so."""
    return {f"~exit_{number}": each for number, each in enumerate(exits, start=1)}


def exit_requests(exits: Sequence[Exit]) -> list[ExitRequest]:
    """Exits as an instance is given them."""
    return [
        ExitRequest(event_type=each.event_type, where=dict(each.where), same=list(each.same), reason=each.reason)
        for each in exits
    ]


def start_message(
    instance_id: str, user_id: str, max_attempts: int, parameters: dict[str, Any], exits: Sequence[Exit] = ()
) -> LifecycleInput:
    """What the workflow is given."""
    return LifecycleInput(
        instance_id=instance_id,
        user_id=user_id,
        max_attempts=max_attempts,
        parameters=parameters,
        exits=exit_requests(exits),
    )


def start_options(workflow_id: str, message: LifecycleInput, description: str) -> StartOptions:
    """Everything else. An instance has one run: one that runs is left alone, one that has ended stays ended."""
    return StartOptions(
        id=temporal_workflow_id(workflow_id, message.instance_id),
        result_type=LifecycleOutcome,
        id_conflict_policy=WorkflowIDConflictPolicy.USE_EXISTING,
        id_reuse_policy=WorkflowIDReusePolicy.REJECT_DUPLICATE,
        search_attributes=initial_search_attributes(workflow_id, message.user_id),
        static_summary=PublicText(f"{in_words(workflow_id)} for user {message.user_id}"),
        static_details=PublicText(description),
    )

"""Masks instances for a role, in API responses and callbacks."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

from sqlmodel import SQLModel

from models.instances import StoredAttempt, StoredInstance
from models.schemas.workflows import (
    AttemptView,
    CallbackView,
    ErrorView,
    InstanceView,
    ProblemView,
    RetryingView,
    TemporalView,
    TriggeredByView,
)
from models.tables.execution import Attempt, Instance, Step
from models.temporal.identity import temporal_workflow_id
from models.vocabulary import Role
from privacy.masking import value_for

_ERROR_TEXTS = ("error_message", "stack_trace")


@dataclass(frozen=True)
class UiLinks:
    """The address of Temporal's Web UI; without a URL there are no links."""

    ui_url: str | None
    namespace: str


def instance_view(
    role: Role,
    stored: StoredInstance,
    links: UiLinks,
    known: Collection[str],
    key: Sequence[str] = (),
    *,
    stale: bool = False,
) -> InstanceView:
    """An instance, masked for a role. Only admins see error texts, which may contain any data.

    ``known`` are values from the workflow's own schema, which are not masked. ``key`` has the names of its key.
    """
    parameters = value_for(role, Instance, "parameters", stored.parameters, known=known)
    return InstanceView(
        workflow_id=stored.workflow_id,
        instance_id=stored.instance_id,
        user_id=stored.user_id,
        current_step=stored.current_step,
        status=stored.status,
        start_time=stored.start_time,
        end_time=stored.end_time,
        parameters=parameters,
        variables=value_for(role, Instance, "variables", stored.variables, known=known),
        results={
            step: value_for(role, Step, "result", each, known=known) for step, each in stored.results.items()
        },
        error=error_view(role, Instance, stored.error) if stored.error else None,
        retries=[_attempt(role, attempt) for attempt in stored.attempts],
        retrying=_retrying(stored.retrying),
        max_attempts=stored.max_attempts,
        temporal=_temporal(stored, links),
        stale=stale,
        reason=stored.reason,
        waiting_until=stored.waiting_until,
        problem=ProblemView(**vars(stored.problem)) if stored.problem else None,
        bulk_id=stored.bulk_id,
        callback=CallbackView(**vars(stored.callback)) if stored.callback else None,
        trigger=(
            TriggeredByView(event_id=stored.trigger.event_id, event_type=stored.trigger.event_type)
            if stored.trigger
            else None
        ),
        key={name: parameters.get(name) for name in key} if key else None,
    )


def error_view(role: Role, table: type[SQLModel], error: Mapping[str, Any] | None) -> ErrorView | None:
    """A decrypted value of a table's column ``error``, masked for a role."""
    if error is None:
        return None
    texts = {name: value_for(role, table, "error", error[name]) for name in _ERROR_TEXTS}
    return ErrorView(**{**error, **texts})


def _attempt(role: Role, attempt: StoredAttempt) -> AttemptView:
    return AttemptView(
        step=attempt.step,
        attempt=attempt.attempt,
        started_at=attempt.started_at,
        ended_at=attempt.ended_at,
        error_type=attempt.error_type,
        error_message=value_for(role, Attempt, "error_message", attempt.error_message),
        interrupted=attempt.interrupted,
    )


def _retrying(attempt: StoredAttempt | None) -> RetryingView | None:
    if attempt is None or attempt.next_attempt_at is None:
        return None
    return RetryingView(
        step=attempt.step,
        attempt=attempt.attempt,
        next_attempt_at=attempt.next_attempt_at,
        error_type=attempt.error_type,
    )


def _temporal(stored: StoredInstance, links: UiLinks) -> TemporalView:
    workflow_id = temporal_workflow_id(stored.workflow_id, stored.instance_id)
    ui = None
    if links.ui_url:
        namespace = f"{links.ui_url.rstrip('/')}/namespaces/{quote(links.namespace)}"
        ui = f"{namespace}/workflows/{quote(workflow_id, safe='')}"
        if stored.run_id:
            ui = f"{ui}/{stored.run_id}/history"
    return TemporalView(workflow_id=workflow_id, run_id=stored.run_id, ui=ui)

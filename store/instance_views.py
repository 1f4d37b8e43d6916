"""Instances as each role sees them: what the edge answers, and what a callback tells."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

from models.messages.identity import temporal_workflow_id
from models.vocabulary import Role
from models.wire.workflows import AttemptView, CallbackView, ErrorView, InstanceView, TemporalView
from privacy.masking import HIDDEN, sees_people
from store.instances import StoredAttempt, StoredInstance


@dataclass(frozen=True)
class TemporalPlace:
    """Where Temporal's Web UI shows instances; without a URL nowhere."""

    ui_url: str | None
    namespace: str


def instance_view(
    role: Role, stored: StoredInstance, place: TemporalPlace, *, stale: bool = False
) -> InstanceView:
    """An instance as a role reads it. Error texts may quote anything, so only admins see them."""
    return InstanceView(
        workflow_id=stored.workflow_id,
        instance_id=stored.instance_id,
        user_id=stored.user_id,
        current_step=stored.current_step,
        status=stored.status,
        start_time=stored.start_time,
        end_time=stored.end_time,
        parameters=stored.parameters,
        variables=stored.variables,
        results=stored.results,
        error=error_view(role, stored.error),
        retries=[_attempt(role, attempt) for attempt in stored.attempts],
        max_attempts=stored.max_attempts,
        temporal=_temporal(stored, place),
        stale=stale,
        reason=stored.reason,
        callback=CallbackView(**vars(stored.callback)) if stored.callback else None,
    )


def error_view(role: Role, error: Mapping[str, Any] | None) -> ErrorView | None:
    """An error as a role reads it."""
    if error is None:
        return None
    shown = ErrorView(**error)
    if sees_people(role):
        return shown
    return shown.model_copy(update={"error_message": HIDDEN, "stack_trace": HIDDEN})


def _attempt(role: Role, attempt: StoredAttempt) -> AttemptView:
    hidden = attempt.error_message is not None and not sees_people(role)
    return AttemptView(
        step=attempt.step,
        attempt=attempt.attempt,
        started_at=attempt.started_at,
        ended_at=attempt.ended_at,
        error_type=attempt.error_type,
        error_message=HIDDEN if hidden else attempt.error_message,
        interrupted=attempt.interrupted,
    )


def _temporal(stored: StoredInstance, place: TemporalPlace) -> TemporalView:
    workflow_id = temporal_workflow_id(stored.workflow_id, stored.instance_id)
    ui = None
    if place.ui_url:
        namespace = f"{place.ui_url.rstrip('/')}/namespaces/{quote(place.namespace)}"
        ui = f"{namespace}/workflows/{quote(workflow_id, safe='')}"
        if stored.run_id:
            ui = f"{ui}/{stored.run_id}/history"
    return TemporalView(workflow_id=workflow_id, run_id=stored.run_id, ui=ui)

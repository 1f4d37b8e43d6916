"""Instances as each role sees them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any
from urllib.parse import quote

from api.executions import Sight
from api.masking import sees_people
from models.messages.identity import temporal_workflow_id
from models.vocabulary import Role
from models.wire.workflows import AttemptView, ErrorView, InstanceView, TemporalView
from privacy.masking import HIDDEN
from runtime.settings import Settings
from store.instances import StoredAttempt, StoredInstance


def instance_view(role: Role, sight: Sight, settings: Settings) -> InstanceView:
    """An instance as a role reads it. Error texts may quote anything, so only admins see them."""
    stored = sight.stored
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
        temporal=_temporal(stored, settings),
        stale=sight.stale,
        reason=stored.reason,
    )


def location(workflow_id: str, instance_id: str) -> str:
    """The path of an instance."""
    return f"/workflows/{workflow_id}/instances/{instance_id}"


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


def _temporal(stored: StoredInstance, settings: Settings) -> TemporalView:
    workflow_id = temporal_workflow_id(stored.workflow_id, stored.instance_id)
    ui = None
    if settings.temporal_ui_url:
        place = f"{settings.temporal_ui_url.rstrip('/')}/namespaces/{quote(settings.temporal_namespace)}"
        ui = f"{place}/workflows/{quote(workflow_id, safe='')}"
        if stored.run_id:
            ui = f"{ui}/{stored.run_id}/history"
    return TemporalView(workflow_id=workflow_id, run_id=stored.run_id, ui=ui)

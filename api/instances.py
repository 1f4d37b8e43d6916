"""Instances as each role sees them."""

from __future__ import annotations

from functools import cache
from urllib.parse import quote

from api.executions import Sight
from api.masking import closed_words, value_for
from models.messages.identity import temporal_workflow_id
from models.tables.execution import Attempt, Instance, Step
from models.vocabulary import Role
from models.wire.workflows import AttemptView, ErrorView, InstanceView, TemporalView
from runtime.settings import Settings
from store.instances import StoredAttempt, StoredInstance
from workflows.catalog import catalog

_ERROR_TEXTS = ("error_message", "stack_trace")


@cache
def _known_words(workflow_id: str) -> frozenset[str]:
    """What the workflow's own schema names as choices: no person's words."""
    definition = catalog().get(workflow_id)
    return closed_words(definition.parameter_schema()) if definition else frozenset()


def instance_view(role: Role, sight: Sight, settings: Settings) -> InstanceView:
    """An instance as a role reads it. Error texts may quote anything, so only admins see them."""
    stored = sight.stored
    known = _known_words(stored.workflow_id)
    return InstanceView(
        workflow_id=stored.workflow_id,
        instance_id=stored.instance_id,
        user_id=stored.user_id,
        current_step=stored.current_step,
        status=stored.status,
        reason=stored.reason,
        start_time=stored.start_time,
        end_time=stored.end_time,
        parameters=value_for(role, Instance, "parameters", stored.parameters, known=known),
        variables=value_for(role, Instance, "variables", stored.variables, known=known),
        results={
            step: value_for(role, Step, "result", each, known=known) for step, each in stored.results.items()
        },
        error=_error(role, stored),
        retries=[_attempt(role, attempt) for attempt in stored.attempts],
        max_attempts=stored.max_attempts,
        temporal=_temporal(stored, settings),
        stale=sight.stale,
    )


def location(workflow_id: str, instance_id: str) -> str:
    """The path of an instance."""
    return f"/workflows/{workflow_id}/instances/{instance_id}"


def _error(role: Role, stored: StoredInstance) -> ErrorView | None:
    if stored.error is None:
        return None
    texts = {name: value_for(role, Instance, "error", stored.error[name]) for name in _ERROR_TEXTS}
    return ErrorView(**{**stored.error, **texts})


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


def _temporal(stored: StoredInstance, settings: Settings) -> TemporalView:
    workflow_id = temporal_workflow_id(stored.workflow_id, stored.instance_id)
    ui = None
    if settings.temporal_ui_url:
        place = f"{settings.temporal_ui_url.rstrip('/')}/namespaces/{quote(settings.temporal_namespace)}"
        ui = f"{place}/workflows/{quote(workflow_id, safe='')}"
        if stored.run_id:
            ui = f"{ui}/{stored.run_id}/history"
    return TemporalView(workflow_id=workflow_id, run_id=stored.run_id, ui=ui)

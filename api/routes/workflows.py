"""`/workflows`: lists lifecycle workflows, changes their settings, and starts them for users."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter
from starlette.responses import Response

from api import callbacks
from api.dependencies import AuditOf, Caller, InTransaction, ResourcesOf
from api.execute import Execution, PreferencesOf, execute
from api.guard import GuardedRoute, allow, audited, not_audited
from api.idempotency import IdempotencyOf
from api.openapi import LOCATION, problems
from api.pages import PageQuery
from api.responses import json_response
from models.audit import Detail
from models.errors import (
    AccountClosedError,
    AccountSuspendedError,
    AlreadyRunError,
    AlreadyRunningError,
    ConsentRequiredError,
    IdempotencyKeyReusedError,
    InvalidContentError,
    InvalidIdempotencyKeyError,
    TemporalUnavailableError,
    UserErasedError,
    UserUnknownError,
    WorkflowDisabledError,
    WorkflowNotFoundError,
)
from models.schemas.common import Page
from models.schemas.workflows import (
    ExecutedView,
    ExecuteRequest,
    ExitView,
    TriggerView,
    WorkflowPatch,
    WorkflowView,
)
from models.vocabulary import Role
from store import workflow_settings
from store.workflow_settings import WorkflowSettings
from workflows.catalog import Definition, catalog, find

router = APIRouter(route_class=GuardedRoute, tags=["workflows"])

_LIST = "workflows"
_FINISHED_OR_EXISTING: dict[int | str, dict[str, Any]] = {
    200: {
        "model": ExecutedView,
        "description": "With `Prefer`: the finished instance, or the one that prevents the start.",
        "headers": LOCATION,
    }
}


@router.get("/workflows", response_model=Page[WorkflowView])
@allow(*Role)
@not_audited
async def list_workflows(connection: InTransaction, page: PageQuery) -> Response:
    """List the lifecycle workflows, in alphabetical order."""
    after = page.position(_LIST, str)
    changed = await workflow_settings.all_settings(connection)
    rows = [definition for name, definition in catalog().items() if after is None or name > after[0]]
    data, pagination = page.rows_and_pagination(_LIST, rows, lambda definition: (definition.workflow_id,))
    views = [_view(definition, changed.get(definition.workflow_id)) for definition in data]
    return json_response(Page[WorkflowView](data=views, pagination=pagination))


@router.get("/workflows/{workflow_id}", response_model=WorkflowView, responses=problems(WorkflowNotFoundError))
@allow(*Role)
@not_audited
async def read_workflow(workflow_id: str, connection: InTransaction) -> Response:
    """Get a lifecycle workflow, with the schema of its parameters."""
    definition = find(workflow_id)
    changed = await workflow_settings.all_settings(connection)
    return json_response(_view(definition, changed.get(workflow_id)))


@router.patch("/workflows/{workflow_id}", response_model=WorkflowView, responses=problems(WorkflowNotFoundError))
@allow(Role.ADMIN)
@audited("workflows.change")
async def change_workflow(
    workflow_id: str, body: WorkflowPatch, connection: InTransaction, audit: AuditOf
) -> Response:
    """Set the attempts at a step, or enable or disable the workflow. Running instances are unaffected."""
    definition = find(workflow_id)
    before = await workflow_settings.locked(connection, workflow_id)
    changed = await workflow_settings.change(
        connection,
        workflow_id,
        max_attempts=body.max_attempts,
        enabled=body.enabled,
        as_defined="max_attempts" in body.model_fields_set and body.max_attempts is None,
    )
    details: dict[str, Detail] = {"workflow_id": workflow_id}
    for name in sorted(body.model_fields_set):
        details |= {f"{name}_before": getattr(before, name), name: getattr(changed, name)}
    audit.note(fields=body.model_fields_set, details=details)
    return json_response(_view(definition, changed))


@router.post(
    "/workflows/{workflow_id}/execute",
    status_code=202,
    response_model=ExecutedView,
    callbacks=callbacks.router.routes,
    responses=_FINISHED_OR_EXISTING
    | problems(
        ConsentRequiredError,
        WorkflowNotFoundError,
        WorkflowDisabledError,
        AccountClosedError,
        AccountSuspendedError,
        AlreadyRunningError,
        AlreadyRunError,
        UserErasedError,
        UserUnknownError,
        InvalidContentError,
        IdempotencyKeyReusedError,
        InvalidIdempotencyKeyError,
        TemporalUnavailableError,
        located=True,
    ),
)
@allow(Role.OPERATOR)
@audited("workflows.execute")
async def execute_workflow(
    workflow_id: str,
    body: ExecuteRequest,
    caller: Caller,
    resources: ResourcesOf,
    idempotency: IdempotencyOf,
    preferences: PreferencesOf,
    audit: AuditOf,
) -> Response:
    """Start a workflow for a user.

    202 means that the instance is stored and Temporal has it. With `Prefer: wait=N` the API waits up to N seconds
    (at most 60) for the end. It then answers 200 with the finished instance.

    A workflow that runs `once` for a user is refused with 409 once it runs or has run, unless the request says
    `again`. One with a `key` is refused with 409 while an instance with the same key runs, which `Location` names.
    With `Prefer: return=existing` the answer is 200 with the instance that there is.
    """
    return await execute(Execution(find(workflow_id), body, caller, resources, audit, idempotency, preferences))


def _view(definition: Definition, changed: WorkflowSettings | None) -> WorkflowView:
    settings = changed or WorkflowSettings()
    return WorkflowView(
        workflow_id=definition.workflow_id,
        description=definition.description,
        parameters=definition.parameter_schema,
        trigger=_trigger(definition),
        exit_on=[
            ExitView(
                event_type=each.event_type,
                where=dict(each.where),
                parameters={name: reference.name for name, reference in each.compared.items()},
                condition=each.condition,
                reason=each.reason,
            )
            for each in definition.exits
        ],
        once=definition.once,
        key=list(definition.key),
        purpose=definition.purpose,
        max_attempts=settings.max_attempts or definition.max_attempts,
        enabled=settings.enabled,
    )


def _trigger(definition: Definition) -> TriggerView | None:
    trigger = definition.trigger
    if trigger is None:
        return None
    return TriggerView(
        event_type=trigger.event_type,
        where=dict(trigger.where),
        max_age=trigger.max_age,
        once_per=definition.once_per,
    )

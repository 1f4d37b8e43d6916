"""`/workflows/{workflow_id}/instances`: lists, reads, cancels, pauses and resumes instances."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated

from fastapi import APIRouter, Query
from pydantic import ValidationError
from starlette.responses import Response

from api.audit import Audit
from api.dependencies import AuditOf, Caller, InTransaction, ResourcesOf, UserIdInPath
from api.guard import GuardedRoute, allow, audited
from api.instances import Instances, InstanceState, instance_view, location, unserved
from api.openapi import problems
from api.pages import PageQuery, PageRequest
from api.resources import Resources
from api.responses import json_response
from models.errors import (
    AlreadyFinishedError,
    FieldError,
    InstanceNotFoundError,
    InvalidContentError,
    TemporalUnavailableError,
    UserErasedError,
    UserNotFoundError,
    WorkerUnavailableError,
    WorkflowNotFoundError,
)
from models.schemas.common import Page
from models.schemas.fields import UserId
from models.schemas.workflows import InstanceView
from models.vocabulary import InstanceStatus, ProblemKind, Role
from store.api_keys import AuthenticatedKey
from store.connection import Connection
from store.instances import instances
from store.users import users
from workflows.catalog import Definition, find

router = APIRouter(route_class=GuardedRoute, tags=["workflows"])

Statuses = Annotated[list[InstanceStatus] | None, Query(description="Only instances with one of these statuses.")]

Problems = Annotated[ProblemKind | None, Query(description="Only instances with this problem.")]
Keys = Annotated[
    list[str] | None,
    Query(
        description="Only instances with this key; needs `user_id`. A value for each parameter of the workflow's "
        "`key`, in its order."
    ),
]

_LIST = "instances"
_INSTANCE = "/workflows/{workflow_id}/instances/{instance_id}"
_MISSING = (WorkflowNotFoundError, InstanceNotFoundError)
_AUDITED_FIELDS = ("parameters", "variables", "results", "error", "retries")


@router.get(
    "/workflows/{workflow_id}/instances",
    response_model=Page[InstanceView],
    responses=problems(WorkflowNotFoundError),
)
@allow(Role.OPERATOR, Role.ANALYST)
@audited("instances.list")
async def list_instances(
    workflow_id: str,
    connection: InTransaction,
    caller: Caller,
    resources: ResourcesOf,
    page: PageQuery,
    audit: AuditOf,
    user_id: Annotated[UserId | None, Query(description="Only instances of this user.")] = None,
    key: Keys = None,
    status: Statuses = None,
    problem: Problems = None,
    bulk_id: Annotated[str | None, Query(description="Only instances of this bulk.")] = None,
) -> Response:
    """List a workflow's instances, newest first. Status and problem are the last recorded ones."""
    definition = find(workflow_id)
    digest = None if key is None else _key_digest(resources, definition, user_id, key)
    of_workflow = (workflow_id, user_id, status, problem, digest, bulk_id)
    return await _list(connection, caller, resources, page, audit, *of_workflow)


@router.get(
    "/users/{user_id}/instances",
    tags=["users"],
    response_model=Page[InstanceView],
    responses=problems(UserNotFoundError, UserErasedError),
)
@allow(Role.OPERATOR, Role.ANALYST)
@audited("instances.list")
async def list_instances_of_user(
    user_id: UserIdInPath,
    connection: InTransaction,
    caller: Caller,
    resources: ResourcesOf,
    page: PageQuery,
    audit: AuditOf,
    status: Statuses = None,
    problem: Problems = None,
) -> Response:
    """List a user's instances of all workflows, newest first. Status and problem are the last recorded ones."""
    page.position(_LIST, datetime, str)  # a bad cursor is refused before the user is looked up, and not audited
    await users.require_present(connection, user_id)
    return await _list(connection, caller, resources, page, audit, None, user_id, status, problem)


async def _list(
    connection: Connection,
    caller: AuthenticatedKey,
    resources: Resources,
    page: PageRequest,
    audit: Audit,
    workflow_id: str | None,
    user_id: str | None,
    statuses: list[InstanceStatus] | None,
    problem: ProblemKind | None,
    key_digest: bytes | None = None,
    bulk_id: str | None = None,
) -> Response:
    silent_since = await resources.workers.silent_since()
    rows = await instances.page(
        connection,
        resources.cipher,
        workflow_id,
        user_id=user_id,
        key_digest=key_digest,
        statuses=statuses,
        problem=problem,
        unserved=problem is ProblemKind.NO_WORKER and silent_since is not None,
        bulk_id=bulk_id,
        before=page.position(_LIST, datetime, str),
        limit=page.rows_to_fetch,
    )
    data, pagination = page.rows_and_pagination(_LIST, rows, lambda row: (row.start_time, row.instance_id))
    audit.note(
        user_id,
        subjects=[row.user_id for row in data],
        fields=_AUDITED_FIELDS,
        details={"workflow_id": workflow_id, "shown": len(data)},
    )
    states = [InstanceState(unserved(row, silent_since)) for row in data]
    views = [instance_view(caller.role, state, resources.settings) for state in states]
    return json_response(Page[InstanceView](data=views, pagination=pagination))


def _key_digest(resources: Resources, definition: Definition, user_id: str | None, values: list[str]) -> bytes:
    """Raises :class:`InvalidContentError`."""
    if not definition.key or len(values) != len(definition.key):
        wanted = f"Send {len(definition.key)} values." if definition.key else "This workflow has no key."
        raise InvalidContentError([FieldError("/query/key", "invalid_value", wanted)])
    if user_id is None:
        raise InvalidContentError(
            [FieldError("/query/user_id", "required", "A key belongs to a user: send the id.")]
        )
    try:
        given = definition.parameters.model_validate(dict(zip(definition.key, values, strict=True)))
    except ValidationError:
        wanted = "The value doesn't fit the parameter of the workflow's key."
        raise InvalidContentError([FieldError("/query/key", "invalid_value", wanted)]) from None
    parameters = given.model_dump(mode="json")
    held = {name: parameters[name] for name in definition.key}
    return resources.cipher.instance_key(definition.workflow_id, user_id, held)


@router.get(_INSTANCE, response_model=InstanceView, responses=problems(*_MISSING))
@allow(Role.OPERATOR, Role.ANALYST)
@audited("instances.read")
async def read_instance(
    workflow_id: str, instance_id: str, caller: Caller, resources: ResourcesOf, audit: AuditOf
) -> Response:
    """Get an instance with its status, the results of its steps and every attempt.

    If no end is recorded, Temporal gives status, current step and end time. If Temporal doesn't respond, the
    response has the last recorded values, and `stale` is true.
    """
    find(workflow_id)
    state = await Instances.of(resources).get(workflow_id, instance_id)
    return _answer(audit, caller, resources, state)


@router.delete(
    _INSTANCE,
    status_code=202,
    response_model=InstanceView,
    responses=problems(*_MISSING, AlreadyFinishedError, TemporalUnavailableError),
)
@allow(Role.OPERATOR)
@audited("instances.cancel")
async def cancel_instance(
    workflow_id: str, instance_id: str, caller: Caller, resources: ResourcesOf, audit: AuditOf
) -> Response:
    """Request the cancellation of an instance. The workflow cleans up, then its status becomes `cancelled`."""
    find(workflow_id)
    state = await Instances.of(resources).cancel(workflow_id, instance_id)
    return _answer(audit, caller, resources, state, 202)


_COMMAND_PROBLEMS = problems(*_MISSING, AlreadyFinishedError, TemporalUnavailableError, WorkerUnavailableError)


@router.post(f"{_INSTANCE}/pause", response_model=InstanceView, responses=_COMMAND_PROBLEMS)
@allow(Role.OPERATOR)
@audited("instances.pause")
async def pause_instance(
    workflow_id: str, instance_id: str, caller: Caller, resources: ResourcesOf, audit: AuditOf
) -> Response:
    """Pause an instance before its next step. Waits continue during the pause.

    If a wait is over, the next step starts only after the resume.
    """
    find(workflow_id)
    state = await Instances.of(resources).command(workflow_id, instance_id, "pause")
    return _answer(audit, caller, resources, state)


@router.post(f"{_INSTANCE}/resume", response_model=InstanceView, responses=_COMMAND_PROBLEMS)
@allow(Role.OPERATOR)
@audited("instances.resume")
async def resume_instance(
    workflow_id: str, instance_id: str, caller: Caller, resources: ResourcesOf, audit: AuditOf
) -> Response:
    """Resume a paused instance. If the instance isn't paused, nothing changes."""
    find(workflow_id)
    state = await Instances.of(resources).command(workflow_id, instance_id, "resume")
    return _answer(audit, caller, resources, state)


def _answer(
    audit: Audit, caller: AuthenticatedKey, resources: Resources, state: InstanceState, status: int = 200
) -> Response:
    stored = state.stored
    details = {"workflow_id": stored.workflow_id, "instance_id": stored.instance_id}
    audit.note(stored.user_id, fields=_AUDITED_FIELDS, details=details)
    view = instance_view(caller.role, state, resources.settings)
    headers = {"Location": location(view.workflow_id, view.instance_id)} if status == 202 else None
    return json_response(view, status, headers)
